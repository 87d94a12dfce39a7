"""Export: registered networks to files that do what torch does, in each precision that stands the test."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.command import announce
from components.export.config import UNITS, ExportConfig, Precision, check_served
from components.export.engines import ENGINES, FILES, Engine, open_session, versions
from components.export.metadata import describe, engine_entry, without
from components.export.parity import SIZES, Expected, expect, held_out, resized
from components.export.profiles import profiles_of
from components.export.quantise import calibration, quantise
from components.export.verdict import Verdict, judge
from components.promote.signing import sign_export
from mira.cases import Record
from mira.errors import DataRejected, ServingFailed
from mira.pairs import PairIndex, read_index
from mira.storage import atomic_folder, hash_file, read_json, write_json

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.restorer import Restorer


class ExportSummary(Record):
    """What was exported.

    Attributes:
        version: number of the registered version.
        models: served name -> SHA-256 of its f32 ONNX file.
        largest_difference: served name -> largest difference between torch and ONNX in f32, in normalised units.
        engines: served name -> engines that may be served, e.g. `openvino bf16`.
        refused: served name -> engine -> why it may not.
    """

    version: int
    models: dict[str, str]
    largest_difference: dict[str, float]
    engines: dict[str, list[str]]
    refused: dict[str, dict[str, str]]


def export(networks: list[Path], version: Path, pairs: Path, out: Path, config: ExportConfig) -> ExportSummary:
    """Export the networks of a registered version, and compare each engine with torch in its native units.

    Single-task networks that the gate left out are not exported.

    Args:
        networks: checkpoint folders.
        version: version.json that register wrote, or the folder that holds it.
        pairs: root of the pair store; its held-out slices are the test.
        out: gets a folder per served model with the files of each precision and `metadata.json`, and `parity.json`.
        config: parameters.

    Raises:
        ConfigurationError: when a network sees several slices.
        DataRejected: when a checkpoint is not the registered one, or the version or pairs are missing.
        ServingFailed: when an export fails, or f32 or another required precision is outside tolerance; the message
            names the worst slice. Nothing is written then.
    """
    from components.train.step import threads_of_torch
    from model.checkpoint import load_restorer

    registered = _read_version(version)
    index = read_index(pairs)
    parity: dict[str, Any] = {}
    with atomic_folder(out) as new, threads_of_torch(config.threads):
        for number, folder in enumerate(networks):
            restorer, checkpoint = load_restorer(folder)
            check_served(checkpoint.model.slices)
            check_registered(folder, checkpoint, registered)
            if broken := registered.get("left_out", {}).get(checkpoint.network):
                announce(f"export: {checkpoint.network} is left out, since alone it breaks {', '.join(broken)}")
                continue
            name = checkpoint.served_name
            announce(f"export {name}, {number + 1} of {len(networks)}")
            parity[name] = _export_one(restorer, checkpoint, registered, pairs, index, folder, new / name, config)
        if not parity:
            raise DataRejected("There are no networks to export. Give the checkpoint folders that train wrote.")
        tested = {engine["engine"] for model in parity.values() for engine in model["engines"]}
        write_json(
            new / "parity.json", {"version": int(registered["version"]), "engines": versions(tested), "models": parity}
        )
        hashes = {name: hash_file(new / name / "model.onnx") for name in parity}
    return ExportSummary(
        version=int(registered["version"]),
        models=hashes,
        largest_difference={name: result["largest_difference"] for name, result in parity.items()},
        engines={name: [_label(engine) for engine in result["engines"] if not engine["reason"]]
                 for name, result in parity.items()},
        refused={name: {_label(engine): engine["reason"] for engine in result["engines"] if engine["reason"]}
                 for name, result in parity.items()},
    )  # fmt: skip


def _export_one(
    restorer: "Restorer",
    checkpoint: "Checkpoint",
    registered: dict[str, Any],
    pairs: Path,
    index: PairIndex,
    weights: Path,
    folder: Path,
    config: ExportConfig,
) -> dict[str, Any]:
    """Write a network's files, those that stand the test, with metadata and signature; returns its parity report."""
    expected = expectations(restorer, checkpoint, pairs, index, config)
    report: dict[str, Any] = {}
    entries, tried = [], []
    for precision in sorted(config.precisions, key=list(Precision).index):
        if precision is not Precision.F32:
            announce(f"export {folder.name}: {precision}")
        for engine in ENGINES[precision]:
            try:
                _write(precision, restorer, checkpoint, pairs, index, folder, config)
                session = open_session(engine, folder, config.threads)
                verdict = judge(engine, session, expected, config.tolerances.of(precision))
            except (ServingFailed, DataRejected) as error:
                if precision in config.required_precisions or precision is Precision.F32:
                    raise
                tried.append({**_named(engine), "reason": str(error)})
                without(folder, engine)
                continue
            tried.append({**_named(engine), "reason": verdict.reason, **verdict.figures()})
            if not verdict.reason:
                entries.append(engine_entry(verdict, folder))
            elif precision in config.required_precisions or precision is Precision.F32:
                raise ServingFailed(
                    f"{folder.name}: {engine} {verdict.reason}. Do not serve it; what served before still serves."
                )
            else:
                without(folder, engine)
            report = report or _report(verdict)
    report["engines"] = tried
    document = describe(
        checkpoint, restorer, registered, index, weights, folder, report, entries, profiles_of(index.pairs)
    )
    write_json(folder / "metadata.json", document)
    sign_export(folder, registered)
    return report


def _write(
    precision: Precision,
    restorer: "Restorer",
    checkpoint: "Checkpoint",
    pairs: Path,
    index: PairIndex,
    folder: Path,
    config: ExportConfig,
) -> None:
    """Write the file of a precision, where it is not there yet."""
    from model.export import export_half, export_onnx

    path = folder / FILES[precision]
    if path.exists():
        return
    if precision is Precision.FP16:
        export_half(restorer, path)
    elif precision is Precision.INT8:
        dimension = checkpoint.model.instruction_dim
        inputs = calibration(pairs, index, checkpoint.tasks, config.calibration_slices, dimension)
        quantise(folder / FILES[Precision.F32], path, inputs)
    else:
        export_onnx(restorer, path)


def expectations(
    restorer: "Restorer", checkpoint: "Checkpoint", pairs: Path, index: PairIndex, config: ExportConfig
) -> list[Expected]:
    """What torch gives on held-out slices of each task, and on awkward sizes.

    Raises:
        DataRejected: when there are no pairs of a task, or no slice of any of them shows anything.
    """
    expected = []
    for task in checkpoint.tasks:
        probes = held_out(pairs, index, task, config.slices_per_task)
        if not probes:
            blank = any(pair.task is task for pair in index.pairs)
            shown = " with a slice that shows anything" if blank else ""
            raise DataRejected(
                f"The pair store has no pairs of {task}{shown}, which {checkpoint.served_name} was trained on."
            )
        sizes = [resized(probes[0], *size) for size in SIZES]
        expected += [expect(restorer, probe) for probe in (*probes, *sizes)]
    return expected


def _read_version(version: Path) -> dict[str, Any]:
    path = version / "version.json" if version.is_dir() else version
    if not path.is_file():
        raise DataRejected(f"{version} holds no version.json. Run the register step first.")
    document: dict[str, Any] = read_json(path)
    return document


def check_registered(folder: Path, checkpoint: "Checkpoint", registered: dict[str, Any]) -> None:
    """The weights must be those that were registered, or the lineage would not hold for what is served.

    Raises:
        DataRejected: when they are not.
    """
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


def _named(engine: Engine) -> dict[str, str]:
    return {"engine": engine.name, "precision": engine.precision.value}


def _label(entry: dict[str, Any]) -> str:
    return f"{entry['engine']} {entry['precision']}"


def _report(verdict: Verdict) -> dict[str, Any]:
    """The parity report of the f32 graph, probe by probe."""
    differences = verdict.differences
    worst = max(differences, key=lambda d: d.image / verdict.tolerance.largest(d.modality))
    return {
        "within_tolerance": not verdict.reason,
        "largest_difference": max(d.normalised for d in differences),
        "largest_difference_indicators": max(d.indicators for d in differences),
        "by_unit": verdict.figures()["by_unit"],
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
