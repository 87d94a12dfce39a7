"""The network in this process, without a server."""

from pathlib import Path
from typing import Any

from mira.client.batches import ERROR_MAP, OUTPUTS, Answer, Batch, no_error_map
from mira.errors import ConfigurationError, ServingFailed
from mira.storage import read_json


class LocalEngine:
    """The ONNX file in this process, by ONNX Runtime.

    Args:
        path: model.onnx; a `metadata.json` beside it gives name and version.
        threads: threads of one execution; 0 leaves the choice to ONNX Runtime.

    Raises:
        ConfigurationError: when the file is missing or ONNX Runtime is not installed.
        ServingFailed: when it is not a MIRA-Net that ONNX Runtime can load, or its metadata.json is damaged.
    """

    slices = 1  # that the network sees at a time; no other is exported

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "Restoring in process needs ONNX Runtime: pip install onnxruntime. Or give a server."
            ) from error
        if not path.is_file():
            raise ConfigurationError(f"{path} does not exist. Give the path of a model.onnx.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no public base class
            raise ServingFailed(f"{path} cannot be loaded by ONNX Runtime: {_first_line(error)}") from error
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        size = shapes["instruction"][-1] if shapes.get("instruction") else None
        if not isinstance(size, int):
            raise ServingFailed(f"{path} is not a MIRA-Net: it has no input `instruction` of a fixed length.")
        self.instruction_size = size
        self.error_map = any(tensor.name == ERROR_MAP for tensor in self._session.get_outputs())
        facts = _facts(path.with_name("metadata.json"))
        self.name = str(facts.get("name", "mira_net"))
        self.version = str(facts.get("version", ""))

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch.

        Raises:
            ServingFailed: when an error map is asked for that the network does not have, or ONNX Runtime cannot run it.
        """
        if batch.want_error and not self.error_map:
            raise no_error_map(self.name)
        names = [*OUTPUTS, *([ERROR_MAP] if batch.want_error else [])]
        arrays = batch.arrays(self.instruction_size)
        try:
            restored, probability, degradation, instruction, *expected = self._session.run(names, arrays)
        except Exception as error:  # onnxruntime's errors have no public base class
            count, _, rows, columns = batch.image.shape
            raise ServingFailed(
                f"ONNX Runtime cannot run {self.name} on {count} slices of {rows} x {columns} pixels: "
                f"{_first_line(error)}. Where memory is short, give a smaller tile_side; otherwise export "
                "the network again."
            ) from error
        return Answer(restored, probability, degradation.reshape(-1), instruction, self.version, *expected)

    def close(self) -> None:
        """Nothing to let go of."""


def _facts(described: Path) -> dict[str, Any]:
    """What the `metadata.json` beside a network says, {} without one."""
    if not described.is_file():
        return {}
    try:
        facts = read_json(described)
    except (OSError, ValueError) as error:
        raise ServingFailed(
            f"{described} cannot be read as JSON ({type(error).__name__}). Copy it again from where the network came, "
            "or remove it: then results name no version."
        ) from error
    if not isinstance(facts, dict):
        raise ServingFailed(f"{described} is not the description of a network. Copy it again, or remove it.")
    return facts


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
