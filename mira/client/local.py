"""The network in this process, without a server."""

from pathlib import Path

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
        ServingFailed: when it is not a MIRA-Net that ONNX Runtime can load.
    """

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
            raise ServingFailed(f"{path} cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from error
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        if "instruction" not in shapes:
            raise ServingFailed(f"{path} is not a MIRA-Net: it has no input `instruction`.")
        self.instruction_size = int(shapes["instruction"][-1])
        self.error_map = any(tensor.name == ERROR_MAP for tensor in self._session.get_outputs())
        described = path.with_name("metadata.json")
        facts = read_json(described) if described.is_file() else {}
        self.name = str(facts.get("name", "mira_net"))
        self.version = str(facts.get("version", ""))

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch.

        Raises:
            ServingFailed: when an error map is asked for that the network does not have.
        """
        if batch.want_error and not self.error_map:
            raise no_error_map(self.name)
        names = [*OUTPUTS, *([ERROR_MAP] if batch.want_error else [])]
        arrays = batch.arrays(self.instruction_size)
        restored, probability, degradation, instruction, *error = self._session.run(names, arrays)
        return Answer(restored, probability, degradation.reshape(-1), instruction, self.version, *error)

    def close(self) -> None:
        """Nothing to let go of."""
