"""What runs the network for a client: a Triton server over gRPC, or the ONNX file in this process."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mira.client.retries import Retries
from mira.errors import ConfigurationError, ServingFailed
from mira.storage import read_json

LARGEST_BATCH = 8
LARGEST_REQUEST = 2**23  # pixels, 32 MiB: eight slices of 1024 x 1024; the server refuses more
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Slices of one size with what the network must know about them.

    Attributes:
        image: float32 [slices, 1, rows, columns] in native units.
        modality: index of the modality, the same for all slices.
        mr_scale: robust intensity scale of the MR volume; any positive number otherwise.
        instruction: float32 [D], or None to let the network estimate its own.
        instruction_weight: share of the given instruction, 0 to 1.
    """

    image: Floats
    modality: int
    mr_scale: float
    instruction: Floats | None = None
    instruction_weight: float = 0.0

    def halves(self) -> list["Batch"]:
        """Two batches of half the slices each.

        Raises:
            ServingFailed: for a single slice.
        """
        middle = len(self.image) // 2
        if middle == 0:
            raise ServingFailed(
                "Something on the way to the server limits messages to less than one slice. Lift the proxy's limit, "
                "or send smaller tiles (tile_side)."
            )
        return [replace(self, image=part) for part in (self.image[:middle], self.image[middle:])]

    def arrays(self, instruction_size: int) -> dict[str, NDArray[Any]]:
        """The five inputs of the served network by name."""
        count = len(self.image)
        given = np.zeros(instruction_size, np.float32) if self.instruction is None else self.instruction
        if given.shape != (instruction_size,):
            raise ConfigurationError(
                f"instruction has shape {given.shape}; this network takes {instruction_size} numbers."
            )
        weight = 0.0 if self.instruction is None else self.instruction_weight
        return {
            "image": np.ascontiguousarray(self.image, dtype=np.float32),
            "modality": np.full((count, 1), self.modality, np.int64),
            "mr_scale": np.full((count, 1), self.mr_scale, np.float32),
            "instruction": np.tile(given.astype(np.float32), (count, 1)),
            "instruction_weight": np.full((count, 1), weight, np.float32),
        }


@dataclass(frozen=True)
class Answer:
    """What the network gave for a batch.

    Attributes:
        restored: float32 [slices, 1, rows, columns] in native units.
        modality_probability: float32 [slices, 3], in the order of `Modality`.
        degradation: float32 [slices], 0 (untouched) to 1 (the worst that was trained on).
        instruction: float32 [slices, D], the instruction that was used.
        version: version of the model that answered, "" when it has none.
    """

    restored: Floats
    modality_probability: Floats
    degradation: Floats
    instruction: Floats
    version: str


class Engine(Protocol):
    """Anything that runs the network; called by several threads at once."""

    name: str
    instruction_size: int

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch."""

    def close(self) -> None:
        """Let go of connections and memory."""


class TritonProtocol:
    """Requests and answers of one served model, whether a thread or a coroutine waits for them.

    Args:
        url: HOST:PORT of the gRPC front end.
        model: name of the served model.
        version: version to ask for, "" for the one that serves.
        deadline_s: longest time for one request, all its retries included.
    """

    OUTPUTS = ("restored", "modality_probability", "degradation", "instruction_used")

    def __init__(self, url: str, model: str, version: str, deadline_s: float) -> None:
        try:
            import tritonclient.grpc as grpc_client
        except ModuleNotFoundError as error:
            raise ConfigurationError("The gRPC client is not installed: pip install 'mira-net[client]'.") from error
        self.name, self.url, self.version = model, url, version
        self.instruction_size = 0
        self._deadline = deadline_s
        self._grpc = grpc_client

    def learn(self, metadata: Any) -> None:
        """Take the length of the instruction from the model's metadata.

        Raises:
            ServingFailed: when it is not a MIRA-Net.
        """
        shapes = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
        if "instruction" not in shapes:
            raise ServingFailed(
                f"{self.name} at {self.url} is not a MIRA-Net: it has no input `instruction`. Check the name."
            )
        self.instruction_size = int(shapes["instruction"][-1])

    def request(self, batch: Batch) -> dict[str, Any]:
        """Arguments of `infer` for a batch."""
        types = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
        inputs = []
        for name, array in batch.arrays(self.instruction_size).items():
            tensor = self._grpc.InferInput(name, list(array.shape), types[array.dtype])
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = [self._grpc.InferRequestedOutput(name) for name in self.OUTPUTS]
        return {"model_name": self.name, "inputs": inputs, "model_version": self.version, "outputs": outputs}

    def answer(self, batch: Batch, result: Any) -> Answer:
        """What the server's result says.

        Raises:
            ServingFailed: when it does not fit the batch.
        """
        arrays = [result.as_numpy(name) for name in self.OUTPUTS]
        if any(array is None for array in arrays) or arrays[0].shape != batch.image.shape:
            raise ServingFailed(f"{self.name} at {self.url} gave no answer of the image's shape. Look at its log.")
        restored, probability, degradation, instruction = arrays
        version = str(result.get_response().model_version)
        return Answer(restored, probability, degradation.reshape(-1), instruction, version)

    def explain(self, status: str, message: str) -> ServingFailed:
        """The error that a caller gets when asking again is of no use."""
        text = message.strip().splitlines()
        if "UNAVAILABLE" in status:
            return ServingFailed(
                f"No Triton answers at {self.url}. Start one with `mira serve`, or correct the address."
            )
        if "DEADLINE" in status:
            return ServingFailed(f"Triton at {self.url} did not answer within {self._deadline:.0f} s. Look at its log.")
        return ServingFailed(f"{self.name} at {self.url} refused: {text[0][:400] if text else status}")


class TritonEngine(TritonProtocol):
    """The network behind Triton, with retries while the server is away and a deadline for each request.

    Args:
        url: HOST:PORT of the gRPC front end.
        model: name of the served model.
        version: version to ask for, "" for the one that serves.
        deadline_s: longest time for one request, all its retries included.

    Raises:
        ServingFailed: when the server does not answer or does not serve the model.
    """

    def __init__(self, url: str, model: str = "mira_net", version: str = "", deadline_s: float = 120.0) -> None:
        super().__init__(url, model, version, deadline_s)
        # tritonclient lifts gRPC's 4 MB message limit to 2 GB by itself
        self._client = self._grpc.InferenceServerClient(url)
        self.learn(self._patiently(lambda left: self._client.get_model_metadata(model, version, client_timeout=left)))

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch; where something on the way limits messages, by halves.

        Raises:
            ServingFailed: when the server refuses it, or does not answer before the deadline.
        """
        request = self.request(batch)
        try:
            return self.answer(batch, self._patiently(lambda left: self._client.infer(**request, client_timeout=left)))
        except MessageTooLarge:
            return together([self.infer(half) for half in batch.halves()])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _patiently(self, call: Any) -> Any:
        """Call with the time that is left, again with growing pauses while the server is away."""
        from tritonclient.utils import InferenceServerException

        retries = Retries(self._deadline)
        while True:
            try:
                return call(retries.timeout())
            except InferenceServerException as error:
                status, message = str(error.status()), error.message() or ""
                if too_large(status, message):
                    raise MessageTooLarge(self.explain(status, message)) from error
                wait = retries.pause(status, message)
                if wait is None:
                    raise self.explain(status, message) from error
                time.sleep(wait)


class MessageTooLarge(ServingFailed):
    """Something between client and server limits the size of messages."""


def too_large(status: str, message: str) -> bool:
    """Whether a message was refused for its size: by gRPC itself, or by a proxy on the way."""
    return "RESOURCE_EXHAUSTED" in status and "larger than max" in message


def together(answers: list[Answer]) -> Answer:
    """One answer of the answers to the parts of a batch.

    Raises:
        ServingFailed: when different versions gave them.
    """
    versions = {answer.version for answer in answers}
    if len(versions) > 1:
        raise ServingFailed("The served version changed while one batch was restored in parts. Restore again.")
    return Answer(
        restored=np.concatenate([answer.restored for answer in answers]),
        modality_probability=np.concatenate([answer.modality_probability for answer in answers]),
        degradation=np.concatenate([answer.degradation for answer in answers]),
        instruction=np.concatenate([answer.instruction for answer in answers]),
        version=versions.pop(),
    )


class LocalEngine:
    """The ONNX file in this process, by ONNX Runtime.

    Args:
        path: model.onnx; a `metadata.json` beside it gives name and version.
        threads: threads of one execution; 0 leaves the choice to ONNX Runtime.

    Raises:
        ConfigurationError: when the file is missing or ONNX Runtime is not installed.
        ServingFailed: when it is not a MIRA-Net that ONNX Runtime can load.
    """

    OUTPUTS = TritonProtocol.OUTPUTS

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
        described = path.with_name("metadata.json")
        facts = read_json(described) if described.is_file() else {}
        self.name = str(facts.get("name", "mira_net"))
        self.version = str(facts.get("version", ""))

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch."""
        arrays = batch.arrays(self.instruction_size)
        restored, probability, degradation, instruction = self._session.run(list(self.OUTPUTS), arrays)
        return Answer(restored, probability, degradation.reshape(-1), instruction, self.version)

    def close(self) -> None:
        """Nothing to let go of."""
