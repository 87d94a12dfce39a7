"""Export: registered networks to ONNX files that do what torch does, each with its metadata."""

from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.command import announce
from components.export.parity import SIZES, Difference, compare, held_out, resized
from components.promote.signing import sign_export
from mira.cases import Record
from mira.errors import DataRejected, ServingFailed
from mira.pairs import PairIndex, read_index
from mira.storage import atomic_folder, hash_file, read_json, write_json
from mira.tasks import TASKS, Modality

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.restorer import Restorer

INTENDED_USE = "research use only; not for diagnosis or treatment"
UNITS = {Modality.CT: "HU", Modality.PET: "SUVbw", Modality.MR: "mr_scale"}  # of differences and tolerances


class ExportConfig(Record):
    """Parameters of the export step."""

    slices_per_task: int = Field(3, ge=1, description="held-out slices per task on which torch and ONNX are compared")
    tolerance_hu: float = Field(0.05, gt=0, description="largest allowed difference of a CT pixel, HU")
    tolerance_suv: float = Field(0.0005, gt=0, description="largest allowed difference of a PET pixel, SUVbw")
    tolerance_mr: float = Field(
        0.0001, gt=0, description="largest allowed difference of an MR pixel, as a share of the MR scale"
    )
    tolerance_indicators: float = Field(
        0.001, gt=0, description="largest allowed difference of modality probabilities, degradation and instruction"
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves it to the runtimes")

    def tolerance(self, modality: Modality) -> float:
        """The tolerance of a modality's pixels, in the unit of `UNITS`."""
        return {
            Modality.CT: self.tolerance_hu,
            Modality.PET: self.tolerance_suv,
            Modality.MR: self.tolerance_mr,
        }[modality]


class ExportSummary(Record):
    """What was exported.

    Attributes:
        version: number of the registered version.
        models: served name -> SHA-256 of its ONNX file.
        largest_difference: served name -> largest difference between torch and ONNX, in normalised units.
    """

    version: int
    models: dict[str, str]
    largest_difference: dict[str, float]


def export(networks: list[Path], version: Path, pairs: Path, out: Path, config: ExportConfig) -> ExportSummary:
    """Export the networks of a registered version, and compare each with torch in its native units.

    Args:
        networks: checkpoint folders.
        version: version.json that register wrote, or the folder that holds it.
        pairs: root of the pair store; its held-out slices are the test.
        out: gets a folder per served model with `model.onnx` and `metadata.json`, and `parity.json`.
        config: parameters.

    Raises:
        DataRejected: when a checkpoint is not the registered one, or the version or pairs are missing.
        ServingFailed: when an export fails or is outside tolerance; the message names the worst slice. Nothing is
            written then.
    """
    from components.train.step import threads_of_torch
    from model.checkpoint import load_restorer
    from model.export import OnnxSession, export_onnx

    registered = _read_version(version)
    index = read_index(pairs)
    hashes: dict[str, str] = {}
    parity: dict[str, Any] = {}
    with atomic_folder(out) as new, threads_of_torch(config.threads):
        for number, folder in enumerate(networks):
            restorer, checkpoint = load_restorer(folder)
            _check_registered(folder, checkpoint, registered)
            name = checkpoint.served_name
            announce(f"export {name}, {number + 1} of {len(networks)}")
            path = export_onnx(restorer, new / name / "model.onnx")
            differences = _measure(restorer, OnnxSession(path, config.threads), checkpoint, pairs, index, config)
            parity[name] = _judge(name, differences, config)
            hashes[name] = hash_file(path)
            document = _metadata(name, checkpoint, registered, index, hashes[name], folder, parity[name])
            write_json(new / name / "metadata.json", document)
            sign_export(new / name, registered)
        if not hashes:
            raise DataRejected("There are no networks to export. Give the checkpoint folders that train wrote.")
        write_json(
            new / "parity.json", {"version": int(registered["version"]), "engines": _engines(), "models": parity}
        )
    return ExportSummary(
        version=int(registered["version"]),
        models=hashes,
        largest_difference={name: result["largest_difference"] for name, result in parity.items()},
    )


def _read_version(version: Path) -> dict[str, Any]:
    path = version / "version.json" if version.is_dir() else version
    if not path.is_file():
        raise DataRejected(f"{version} holds no version.json. Run the register step first.")
    document: dict[str, Any] = read_json(path)
    return document


def _check_registered(folder: Path, checkpoint: "Checkpoint", registered: dict[str, Any]) -> None:
    """The weights must be those that were registered, or the lineage would not hold for what is served."""
    known = registered.get("networks", {}).get(checkpoint.network)
    if known is None:
        raise DataRejected(
            f"{folder}: version {registered['version']} has no network {checkpoint.network}. "
            "Export the networks of that version."
        )
    if known["weights_sha256"] != hash_file(folder / "model.safetensors"):
        raise DataRejected(
            f"{folder}: its weights are not those registered as version {registered['version']}. "
            "Give the checkpoint of that version, or register this one."
        )


def _measure(
    restorer: "Restorer",
    session: Any,
    checkpoint: "Checkpoint",
    pairs: Path,
    index: PairIndex,
    config: ExportConfig,
) -> list[Difference]:
    """Differences on held-out slices of each task, and on awkward sizes."""
    differences = []
    for task in checkpoint.tasks:
        probes = held_out(pairs, index, task, config.slices_per_task)
        if not probes:
            raise DataRejected(f"The pair store has no pairs of {task}, which {checkpoint.served_name} was trained on.")
        sizes = [resized(probes[0], *size) for size in SIZES]
        differences += [compare(restorer, session, probe) for probe in (*probes, *sizes)]
    return differences


def _judge(name: str, differences: list[Difference], config: ExportConfig) -> dict[str, Any]:
    """The parity report of a network.

    Raises:
        ServingFailed: when it is outside tolerance.
    """
    worst = max(differences, key=lambda d: d.image / config.tolerance(d.modality))
    if worst.image > config.tolerance(worst.modality):
        raise ServingFailed(
            f"{name}: ONNX and torch differ by up to {worst.image:.3g} {UNITS[worst.modality]} on {worst.probe}; "
            f"allowed are {config.tolerance(worst.modality):g}. Do not serve it; what served before still serves."
        )
    unsure = max(differences, key=lambda d: d.indicators)
    if unsure.indicators > config.tolerance_indicators:
        raise ServingFailed(
            f"{name}: the indicators of ONNX and torch differ by up to {unsure.indicators:.3g} on {unsure.probe}; "
            f"allowed are {config.tolerance_indicators:g}. Do not serve it; what served before still serves."
        )
    modalities = [modality for modality in Modality if any(d.modality is modality for d in differences)]
    return {
        "within_tolerance": True,
        "largest_difference": max(d.normalised for d in differences),
        "largest_difference_indicators": unsure.indicators,
        "by_unit": {
            UNITS[modality]: {
                "largest": max(d.image for d in differences if d.modality is modality),
                "tolerance": config.tolerance(modality),
            }
            for modality in modalities
        },
        "worst_probe": worst.probe,
        "probes": [
            {
                "probe": d.probe,
                "modality": d.modality.value,
                "shape": list(d.shape),
                "unit": UNITS[d.modality],
                "difference": d.image,
                "indicators": d.indicators,
            }
            for d in differences
        ],
    }


def _metadata(
    name: str,
    checkpoint: "Checkpoint",
    registered: dict[str, Any],
    index: PairIndex,
    onnx_sha256: str,
    folder: Path,
    parity: dict[str, Any],
) -> dict[str, Any]:
    """What a served model says of itself."""
    from model import units
    from model.export import OPSET
    from model.restorer import Restoration, Restorer

    full = {
        Modality.CT: [-units.CT_OFFSET, units.CT_RANGE - units.CT_OFFSET, "HU"],
        Modality.PET: [0.0, units.PET_RANGE, "SUVbw"],
        Modality.MR: [0.0, units.HIGH[Modality.MR.number], "multiples of mr_scale"],
    }
    modalities = [modality for modality in Modality if modality in {TASKS[task].modality for task in checkpoint.tasks}]
    return {
        "name": name,
        "version": int(registered["version"]),
        "network": checkpoint.network,
        "size": checkpoint.size,
        "intended_use": INTENDED_USE,
        "tasks": [task.value for task in checkpoint.tasks],
        "modalities": [modality.value for modality in modalities],
        "modality_index": {modality.value: modality.number for modality in Modality},
        "value_ranges": {m.value: dict(zip(("low", "high", "unit"), full[m], strict=True)) for m in modalities},
        "outside_range": "passes through, fading over 10 % of the range beyond it",
        "minimum_side": 32,
        "instruction_dim": checkpoint.model.instruction_dim,
        "inputs": list(Restorer.INPUTS),
        "outputs": list(Restoration._fields),
        "data_version": index.data_version,
        "code_version": str(registered.get("code_version", "")),
        "software_version": checkpoint.version,
        "training_run": registered["networks"][checkpoint.network].get("run_id", ""),
        "lineage_sha256": str(registered.get("lineage_sha256", "")),
        "weights_sha256": hash_file(folder / "model.safetensors"),
        "onnx_sha256": onnx_sha256,
        "opset": OPSET,
        "tested_engines": _engines(),
        "tested_sizes": sorted({tuple(probe["shape"]) for probe in parity["probes"]}),
        "parity": {key: parity[key] for key in ("largest_difference", "largest_difference_indicators", "by_unit")},
    }


def _engines() -> dict[str, str]:
    """The two runtimes that were compared."""
    return {"onnxruntime CPU": packages.version("onnxruntime"), "torch CPU": packages.version("torch")}
