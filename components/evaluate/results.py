"""The contract of `metrics.json`: what evaluate writes and what gate, register and report read."""

from pathlib import Path

from pydantic import Field, ValidationError

from components.command import explain
from mira.cases import Record
from mira.errors import DataRejected
from mira.pairs import Split
from mira.storage import read_json
from mira.tasks import Task

INPUT = "input"
UNIFIED = "unified"
CHAMPION = "champion"
RELIABILITY = "reliability.png"  # below `pictures/`


class Network(Record):
    """A network that was measured.

    Attributes:
        tasks: what it was trained for.
        size: name of its size.
        weights_sha256: hash of its weights.
        run_id: MLflow run that trained it; empty when unknown.
        data_version: data that it was trained on; empty when unknown.
        patients_unknown: names of the weights behind it, itself among them, whose patients nobody wrote down, so that
            nothing shows that the test and local patients are new to it; None in evaluations from before this was told.
    """

    tasks: list[Task]
    size: str = ""
    weights_sha256: str
    run_id: str = ""
    data_version: str = ""
    patients_unknown: list[str] | None = None


class Row(Record):
    """Mean figures of one network in one stratum: task x split x site x scanner vendor x level.

    Attributes:
        network: `input` for the degraded input, `unified`, a task's name for its single-task network, `champion`.
        vendor: manufacturer of the scanner, as the DICOM says.
        level: dose fraction, count fraction or resolution factor.
        profile: metric profile of psnr, ssim and rmse.
        patients: patients in the stratum.
        slices: slices measured; blank ones are left out.
        psnr: dB, mean over slices.
        ssim: mean over slices.
        rmse: in the unit of the task, mean over slices.
        gain_db: psnr above that of the input, mean over slices; None for the input itself.
        clinical: clinical figures by name, mean over patients; only those that could be measured.
        clinical_worst: the biases among them of the patient who has the largest, by size, with its sign.
    """

    network: str
    task: Task
    split: Split
    site: str
    vendor: str
    level: float
    profile: str
    patients: int
    slices: int
    psnr: float
    ssim: float
    rmse: float
    gain_db: float | None = None
    clinical: dict[str, float] = Field(default_factory=dict)
    clinical_worst: dict[str, float] = Field(default_factory=dict)


class Comparison(Record):
    """Paired difference in PSNR between two networks on the same slices, bootstrapped over patients.

    Attributes:
        network: the one under test.
        other: the one it is compared with.
        patients: independent units of the bootstrap.
        difference_db: mean over patients of (network - other).
        lower_db: lower bound of the one-sided 95 % interval; equal to the mean of a single patient.
        upper_db: upper bound of the same; None in evaluations from before there was one.
        draws: bootstrap draws.
    """

    network: str
    other: str
    task: Task
    split: Split
    profile: str
    patients: int
    difference_db: float
    lower_db: float
    upper_db: float | None = None
    draws: int


class Indicator(Record):
    """How far the network's own estimates can be trusted.

    Attributes:
        modality_accuracy: share of slices whose likeliest modality is the true one.
        severity_correlation: Spearman correlation of estimated and true severity over slices; None where all
            slices have the same severity.
        severity_correlation_within: the same over the levels of one case, averaged over the cases that have several.
            A patient at half the dose of one scanner may look like another at a tenth of another's: what an image
            shows is its noise, so that only levels of the same case can be told in their order.
        error_correlation: Spearman correlation, over cases and levels, of the mean estimate with the error of the
            degraded input (root mean square in the foreground, of MR in multiples of its scale): whether the estimate
            ranks images by how far they really are from their references. None with fewer than two.
        severity_error: mean absolute error of the severity.
    """

    task: Task
    split: Split
    slices: int
    modality_accuracy: float
    severity_correlation: float | None
    severity_correlation_within: float | None = None
    error_correlation: float | None = None
    severity_error: float


class ReliabilityBin(Record):
    """Pixels of about the same predicted deviation; both figures are root mean squares in native units."""

    pixels: int
    predicted: float
    observed: float


class Reliability(Record):
    """How the unified network's predicted error compares with the error that it made, on pixels of the patient.

    Attributes:
        pixels: pixels compared.
        within_one: share of pixels whose error is at most the predicted standard deviation.
        within_two: at most twice that.
        mean_square: mean of (error / predicted deviation)^2; 1 is calibrated.
        correlation: Spearman correlation of the bins' predicted deviation and mean absolute error; None with too few.
        ence: mean over bins of |predicted - observed| / predicted (Levi et al., Sensors 2022); 0 is calibrated.
        bins: ten, of about equally many pixels, by rising predicted deviation.
    """

    task: Task
    split: Split
    pixels: int
    within_one: float
    within_two: float
    mean_square: float
    correlation: float | None
    ence: float
    bins: list[ReliabilityBin]


class Picture(Record):
    """A picture of one slice: degraded, restored, reference and difference side by side.

    Attributes:
        file: name below `pictures/`.
        caption: what it shows, with window and figures.
    """

    file: str
    task: Task
    split: Split
    site: str
    level: float
    caption: str


class Evaluation(Record):
    """All of `metrics.json`.

    Attributes:
        profile: the profile that the summary, the comparisons and the gate use.
        profiles: name -> definition in words of every profile in the rows.
        networks: name -> what was measured.
        summary: task -> split -> compact figures, for `dvc metrics show` and the Kubeflow UI.
        reliability: of the predicted error; empty of a network without one.
        skipped_slices: blank slices left out.
        data_version: hash of cases and pairing parameters.
        clinical: name -> definition and unit of each clinical figure.
    """

    profile: str
    profiles: dict[str, str]
    networks: dict[str, Network]
    rows: list[Row]
    comparisons: list[Comparison]
    indicators: list[Indicator]
    pictures: list[Picture]
    summary: dict[str, dict[str, dict[str, float | None]]]
    skipped_slices: int
    data_version: str
    clinical: dict[str, str]
    reliability: list[Reliability] = Field(default_factory=list)


def read_evaluation(folder: Path) -> Evaluation:
    """Read the `metrics.json` of an evaluation.

    Raises:
        DataRejected: when it is missing, or was written by another version of the step.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise DataRejected(f"{folder} holds no metrics.json. Run the evaluate step first.")
    try:
        return Evaluation.model_validate(read_json(path))
    except ValidationError as error:
        raise DataRejected(f"{explain(error, str(path))}\nRun the evaluate step again.") from error
