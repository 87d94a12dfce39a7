"""Cases: de-identified volumes with their records, as stored by ingest and read by every later step.

On disk: `<root>/<site>/<case>/image.nii`, `case.json`, optionally `structures.nii` (uint8-valued labels of
contoured structures, 0 is background), and one `<root>/cases.parquet` with a row per case.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mira.errors import DataRejected
from mira.storage import atomic_file, read_json, write_json
from mira.tasks import Modality, Task, Unit
from mira.volume import Volume, read_nifti, write_nifti

Role = Literal["train", "local"]


class Record(BaseModel):
    """Base of stored records: unknown fields are errors, so that a typo or an old file is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scanner(Record):
    """The device, in the DICOM's own coded words."""

    manufacturer: str = ""
    model: str = ""
    software: str = ""
    field_strength_t: float | None = None


class Protocol(Record):
    """Acquisition facts; None where the DICOM does not say."""

    slice_thickness_mm: float | None = None
    kernel: str = ""
    kvp: float | None = None
    tube_current_ma: float | None = None
    exposure_mas: float | None = None
    ctdi_vol_mgy: float | None = None
    scanning_sequence: str = ""
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    reconstruction: str = ""
    frame_duration_ms: float | None = None
    acquired_rows: int | None = None  # MR: size of the matrix before the scanner's interpolation, along the rows' axis
    acquired_columns: int | None = None


class PetDose(Record):
    """Inputs and result of the SUVbw conversion: SUVbw = BQML * weight_g / decayed_dose_bq."""

    weight_kg: float
    injected_dose_bq: float
    half_life_s: float
    decay_correction: str
    seconds_injection_to_reference: float
    decayed_dose_bq: float
    factor: float
    formula: str


class Conversion(Record):
    """How stored values became voxels: the formula and the numbers in it; no moment in time, no word of the header.

    Attributes:
        source_unit: the DICOM unit of stored * slope + intercept: HU, BQML, GML, CNTS, ...; a.u. for MR.
        factor: voxel value per unit of that.
        formula: how, with the names of `inputs`.
        inputs: slope and intercept (lowest and highest of the slices), weight, dose, half-life, seconds between.
    """

    source_unit: str
    factor: float
    formula: str
    inputs: dict[str, float]


class CaseRecord(Record):
    """All that is known of a case, free of PHI and free text.

    Attributes:
        case_id: unique name of the case, pseudonymous, fit for a folder name.
        site: site id.
        role: role of the site.
        patient: keyed pseudonym of the patient, stable per project.
        study: keyed pseudonym of the study.
        series: keyed pseudonym of the series.
        frame_of_reference: keyed pseudonym of the frame of reference; cases that share it share patient coordinates,
            as a PET and its CT do. "" when the DICOM names none.
        modality: CT, PET or MR.
        unit: unit of the voxels.
        shape: (slices, rows, columns).
        spacing_mm: distances between (slices, rows, columns).
        conversion: how the stored values became the voxels; None in records of older versions.
        pet_dose: for the physics of a PET in SUVbw, what its dose was; None where the header does not hold it all.
        mr_scale: robust intensity scale of an MR volume (99.5th percentile of its foreground); None otherwise.
        tasks: tasks for which the case can be used.
        task_refusals: for every other task of its modality, why not.
        source_sha256: hash of the decoded source pixels.
        source_files: number of DICOM files that made the volume.
        warnings: codes of what was odd but could be handled, e.g. `duplicate-sop-instance-uid`.
        structures: number of contoured structures in `structures.nii`; 0 when there is no such file.
        software: name and version of the software that made the case.
    """

    case_id: str
    site: str
    role: Role
    patient: str
    study: str
    series: str
    frame_of_reference: str = ""
    modality: Modality
    unit: Unit
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    scanner: Scanner = Scanner()
    protocol: Protocol = Protocol()
    conversion: Conversion | None = None
    pet_dose: PetDose | None = None
    mr_scale: float | None = None
    tasks: list[Task] = Field(default_factory=list)
    task_refusals: dict[str, str] = Field(default_factory=dict)
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""
    source_sha256: str
    source_files: int
    warnings: list[str] = Field(default_factory=list)
    structures: int = 0
    software: str

    def folder(self, root: Path) -> Path:
        """Where the case lies below the root of all cases."""
        return root / self.site / self.case_id


def write_case(root: Path, record: CaseRecord, volume: Volume, structures: Volume | None = None) -> Path:
    """Store a case and return its folder; `case.json` is written last, so a folder with it is complete."""
    folder = record.folder(root)
    write_nifti(folder / "image.nii", volume, compact=True)
    if structures is not None:
        write_nifti(folder / "structures.nii", structures, compact=True)
    write_json(folder / "case.json", record.model_dump(mode="json"))
    return folder


def read_record(folder: Path) -> CaseRecord:
    """Read a case's record.

    Raises:
        DataRejected: when the folder holds no complete case.
    """
    path = folder / "case.json"
    if not path.is_file():
        raise DataRejected(f"{folder} holds no case.json: it is not a case, or its ingest was cut off. Ingest again.")
    return CaseRecord.model_validate(read_json(path))


def read_volume(folder: Path) -> Volume:
    """Read a case's voxels (memory-mapped) and geometry."""
    return read_nifti(folder / "image.nii")


def iterate_cases(root: Path) -> Iterator[tuple[Path, CaseRecord]]:
    """All complete cases below a root, in a stable order."""
    for path in sorted(root.glob("*/*/case.json")):
        yield path.parent, read_record(path.parent)


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a record with its dotted name."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write_case_table(root: Path, records: list[CaseRecord]) -> Path:
    """Write `cases.parquet`: one row per case, nested records flattened with dots."""
    from pyarrow import Table, parquet  # heavy, and an application's client does not need it

    rows = [dict(_flat(record.model_dump(mode="json"))) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = root / "cases.parquet"
    with atomic_file(path) as temporary:
        parquet.write_table(Table.from_pydict({name: [row.get(name) for row in rows] for name in columns}), temporary)
    return path
