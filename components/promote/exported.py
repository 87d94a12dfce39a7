"""What a promotion is given: exported networks, the registered version and the gate's decision, all checked."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.export.profiles import Profile
from components.promote.signing import check_export
from mira.client.batches import ERROR_MAP
from mira.errors import GateFailed, ServingFailed
from mira.storage import hash_file
from mira.tasks import TASKS, Modality, Task

MAIN_MODEL = "mira_net"
# names under which a version's networks are served, by what training calls them
SERVED_NAMES = {"unified": MAIN_MODEL} | {task.value: f"{MAIN_MODEL}_{spec.short}" for task, spec in TASKS.items()}
ALTERNATIVE = "Run the export step again."


@dataclass(frozen=True)
class Exported:
    """One exported network.

    Attributes:
        name: name of the served model.
        folder: holds model.onnx and metadata.json.
        sha256: hash of model.onnx.
        metadata_sha256: hash of metadata.json.
        modalities: what it was trained on, in the order of `Modality`.
        instruction_size: length D of its instruction.
        error_map: whether it gives the error that it expects as well.
        engines: runtimes and precisions that stood the export's test, as in metadata.json; empty in old exports.
        profiles: sizes that TensorRT is tuned for; empty in old exports.
    """

    name: str
    folder: Path
    sha256: str
    metadata_sha256: str
    modalities: list[Modality]
    instruction_size: int
    error_map: bool = False
    engines: list[dict[str, Any]] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)

    def file_of(self, runtime: str, precision: str) -> tuple[str, dict[Modality, float]]:
        """The file that a runtime serves in a precision.

        Args:
            runtime: `openvino`, `onnxruntime` or `tensorrt`.
            precision: `f32`, `fp16`, `bf16` or `int8`.

        Returns:
            Its name, and by modality how far its answers may be from f32, as a share of the range; none for f32.

        Raises:
            ServingFailed: when the export did not find it good, or the file was changed since.
        """
        if precision == "f32" and runtime != "tensorrt":
            return "model.onnx", {}
        entry = self._passed.get((runtime, precision))
        if entry is None:
            known = ", ".join(f"{one} {other}" for one, other in sorted(self._passed)) or "f32 alone"
            raise ServingFailed(
                f"{self.name}: {runtime} {precision} may not be served: it did not stand the export's test, or was not "
                f"tried (parity.json says which). These did: {known}. Choose one, or export with other `precisions`."
            )
        file = self.folder / entry["file"]
        if not file.is_file() or hash_file(file) != entry["sha256"]:
            raise ServingFailed(
                f"{self.name}: {file.name} is missing or was changed after its export; its hash is not that of "
                f"metadata.json. {ALTERNATIVE}"
            )
        return file.name, {Modality(key): value for key, value in entry["canary_tolerance"].items()}

    def stood(self, runtime: str, precision: str) -> bool:
        """Whether the export found a precision good for a runtime (`file_of`), whatever became of its file since."""
        return (precision == "f32" and runtime != "tensorrt") or (runtime, precision) in self._passed

    def gpu_engine(self, choice: str) -> tuple[str, str]:
        """Runtime and precision of what a Triton with a GPU serves.

        Args:
            choice: precision of a graph, which ONNX Runtime hands to TensorRT; or `plan`, TensorRT's own engine.
        """
        if choice != "plan":
            return "openvino" if choice == "int8" else "onnxruntime", choice
        built = [str(entry["precision"]) for entry in self.engines if entry["engine"] == "tensorrt"]
        return "tensorrt", built[0] if built else "plan"

    @property
    def _passed(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(entry["engine"], entry["precision"]): entry for entry in self.engines}


@dataclass(frozen=True)
class Release:
    """The networks of one registered version, which are promoted together or not at all.

    Attributes:
        version: number of the registered version.
        decision_sha256: hash of the decision that approved it.
        models: the networks.
    """

    version: int
    decision_sha256: str
    models: list[Exported]

    @property
    def artifacts(self) -> dict[str, str]:
        """Hash of each network."""
        return {model.name: model.sha256 for model in self.models}


def read_release(exported: Path, version: Path, decision: Path) -> Release:
    """Read and check everything that a promotion is based on.

    Args:
        exported: folder with one folder per network.
        version: version.json, or the folder that holds it.
        decision: decision.json, or the folder that holds it.

    Raises:
        GateFailed: when the decision is not an approval, or not the one that the version was registered under.
        ServingFailed: when a network is missing, changed after its export, not the version's, or not signed as such.
    """
    registered = _document(version, "version.json", "register")
    judged = _file(decision, "decision.json", "gate")
    content = judged.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if registered.get("decision_sha256") != digest:
        raise GateFailed(
            "The decision is not the one that the version was registered under: its hash differs. "
            "Give the decision.json of the same run."
        )
    if _parsed(content, judged, "gate").get("approved") is not True:
        raise GateFailed("The gate did not approve this candidate; read decision.md. Nothing was promoted.")
    if not str(registered.get("version", "")).isdecimal():
        raise ServingFailed(f"{version} names no version. Run the register step again.")
    number = int(registered["version"])
    found = [name for name in SERVED_NAMES.values() if (exported / name).is_dir()]
    if MAIN_MODEL not in found:
        raise ServingFailed(f"{exported} holds no exported {MAIN_MODEL}. {ALTERNATIVE}")
    if missing := sorted(_networks_of(registered) - set(found)):
        raise ServingFailed(
            f"{exported} lacks {', '.join(missing)} of version {number}, whose service would end with this promotion. "
            f"Bring it back, or: {ALTERNATIVE}"
        )
    models = [_read(exported / name, name, registered) for name in found]
    return Release(number, digest, models)


def _networks_of(registered: dict[str, Any]) -> set[str]:
    """Served names of a version's networks, without those that the gate left out."""
    known, left_out = registered.get("networks") or {}, registered.get("left_out") or {}
    return {SERVED_NAMES[network] for network in known if network in SERVED_NAMES and network not in left_out}


def _read(folder: Path, name: str, registered: dict[str, Any]) -> Exported:
    """One exported network; nothing of it is read before its signature, and nothing else than what was signed."""
    described = _file(folder, "metadata.json", "export")
    if not (folder / "model.onnx").is_file():
        raise ServingFailed(f"{folder} holds no model.onnx. {ALTERNATIVE}")
    signed, content = check_export(folder, registered), described.read_bytes()
    if hashlib.sha256(content).hexdigest() != signed["metadata_sha256"]:
        raise ServingFailed(f"{described} was changed while it was read. {ALTERNATIVE}")
    metadata, digest, version = _parsed(content, described, "export"), signed["onnx_sha256"], signed["version"]
    if (metadata.get("onnx_sha256"), metadata.get("version")) != (digest, version):
        raise ServingFailed(
            f"{name}: metadata.json was signed with version {version}, but says version {metadata.get('version')} or "
            f"another model.onnx. {ALTERNATIVE}"
        )
    modalities = {TASKS[Task(task)].modality for task in metadata["tasks"]}
    return Exported(
        name=name,
        folder=folder,
        sha256=digest,
        metadata_sha256=signed["metadata_sha256"],
        modalities=[modality for modality in Modality if modality in modalities],
        instruction_size=int(metadata["instruction_dim"]),
        error_map=ERROR_MAP in metadata.get("outputs", []),
        engines=list(metadata.get("engines", [])),
        profiles=[Profile.model_validate(profile) for profile in metadata.get("profiles", [])],
    )


def _file(path: Path, name: str, step: str) -> Path:
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise ServingFailed(f"{found} does not exist. Run the {step} step first.")
    return found


def _document(path: Path, name: str, step: str) -> dict[str, Any]:
    found = _file(path, name, step)
    return _parsed(found.read_bytes(), found, step)


def _parsed(content: bytes, path: Path, step: str) -> dict[str, Any]:
    """The JSON object of a file's content.

    Raises:
        ServingFailed: when it is none.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ServingFailed(f"{path} cannot be read as JSON. Run the {step} step again.") from error
    if not isinstance(document, dict):
        raise ServingFailed(f"{path} holds no JSON object. Run the {step} step again.")
    return document
