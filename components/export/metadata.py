"""What a served model says of itself, in metadata.json."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.export.config import Precision
from components.export.engines import FILES, Engine, versions
from components.export.profiles import Profile
from components.export.verdict import Verdict
from mira.pairs import PairIndex
from mira.storage import hash_file
from mira.tasks import TASKS, Modality

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.restorer import Restorer

INTENDED_USE = "research use only; not for diagnosis or treatment"


def describe(
    checkpoint: "Checkpoint",
    restorer: "Restorer",
    registered: dict[str, Any],
    index: PairIndex,
    weights: Path,
    files: Path,
    parity: dict[str, Any],
    engines: list[dict[str, Any]],
    profiles: list[Profile],
) -> dict[str, Any]:
    """The content of metadata.json.

    Args:
        checkpoint: what the network is.
        restorer: the network.
        registered: version.json of the register step.
        index: the pairs that it was compared on.
        weights: the checkpoint's folder.
        files: the folder of the exported files.
        parity: the parity report of the f32 graph.
        engines: what `engine_entry` gives of each engine that may be served.
        profiles: the sizes that TensorRT is tuned for.
    """
    from model import units
    from model.export import OPSET

    full = {
        Modality.CT: [-units.CT_OFFSET, units.CT_RANGE - units.CT_OFFSET, "HU"],
        Modality.PET: [0.0, units.PET_RANGE, "SUVbw"],
        Modality.MR: [0.0, units.HIGH[Modality.MR.number], "multiples of mr_scale"],
    }
    modalities = [modality for modality in Modality if modality in {TASKS[task].modality for task in checkpoint.tasks}]
    return {
        "name": files.name,
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
        "inputs": list(restorer.INPUTS),
        "outputs": list(restorer.outputs),
        "data_version": index.data_version,
        "code_version": str(registered.get("code_version", "")),
        "software_version": checkpoint.version,
        "training_run": registered["networks"][checkpoint.network].get("run_id", ""),
        "lineage_sha256": str(registered.get("lineage_sha256", "")),
        "weights_sha256": hash_file(weights / "model.safetensors"),
        "onnx_sha256": hash_file(files / "model.onnx"),
        "opset": OPSET,
        "tested_engines": versions({entry["engine"] for entry in engines}),
        "tested_sizes": sorted({tuple(probe["shape"]) for probe in parity["probes"]}),
        "parity": {key: parity[key] for key in ("largest_difference", "largest_difference_indicators", "by_unit")},
        "engines": engines,
        "profiles": [profile.model_dump(mode="json") for profile in profiles],
    }


def engine_entry(verdict: Verdict, folder: Path, **facts: Any) -> dict[str, Any]:
    """An engine that may be served: its file with hash, what was measured, and the canary's tolerance."""
    file = verdict.engine.file
    return {
        "engine": verdict.engine.name,
        "precision": verdict.engine.precision.value,
        "file": file,
        "sha256": hash_file(folder / file),
        "canary_tolerance": verdict.shares_of_range(),
        **verdict.figures(),
        **facts,
    }


def without(folder: Path, engine: Engine) -> None:
    """Remove the file of an engine that may not be served, so that it is not signed; f32 and bf16 share theirs."""
    if engine.file != FILES[Precision.F32]:
        (folder / engine.file).unlink(missing_ok=True)
