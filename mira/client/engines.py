"""What runs the network for a client: a Triton server over gRPC, or the ONNX file in this process."""

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mira.client import wire
from mira.client.retries import Retries
from mira.client.share import candidate_of, described
from mira.client.tls import Tls, trouble
from mira.errors import ConfigurationError, ServingFailed
from mira.storage import read_json

LARGEST_BATCH = 8
ERROR_MAP = "predicted_error"  # output that not every network has, and that travels only when it is asked for
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
        want_error: whether the error that the network expects is asked for as well.
    """

    image: Floats
    modality: int
    mr_scale: float
    instruction: Floats | None = None
    instruction_weight: float = 0.0
    want_error: bool = False

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
        predicted_error: float32 [slices, 1, rows, columns], one standard deviation in native units, where asked for.
    """

    restored: Floats
    modality_probability: Floats
    degradation: Floats
    instruction: Floats
    version: str
    predicted_error: Floats | None = None


class Engine(Protocol):
    """Anything that runs the network; called by several threads at once."""

    name: str
    instruction_size: int
    error_map: bool

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
        tls: certificates; those of the environment (`mira.client.tls`) when left out.
    """

    OUTPUTS = ("restored", "modality_probability", "degradation", "instruction_used")
    _once = False  # whether a failure is final
    error_map = False  # whether it can be asked for `ERROR_MAP` as well; `learn` finds out

    def __init__(self, url: str, model: str, version: str, deadline_s: float, tls: Tls | None = None) -> None:
        try:
            import tritonclient.grpc as grpc_client
        except ModuleNotFoundError as error:
            raise ConfigurationError("The gRPC client is not installed: pip install 'mira-net[client]'.") from error
        self.name, self.url, self.version = model, url, version
        self.instruction_size = 0
        self._deadline = deadline_s
        self.tls = Tls.from_environment() if tls is None else tls
        self._grpc = grpc_client

    def learn(self, metadata: Any) -> None:
        """Take the length of the instruction, and whether there is an error map, from the model's metadata.

        Raises:
            ServingFailed: when it is not a MIRA-Net.
        """
        shapes = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
        if "instruction" not in shapes:
            raise ServingFailed(
                f"{self.name} at {self.url} is not a MIRA-Net: it has no input `instruction`. Check the name."
            )
        self.instruction_size = int(shapes["instruction"][-1])
        self.error_map = any(tensor.name == ERROR_MAP for tensor in metadata.outputs)

    def toward(self, config: Any, series: str) -> Self:
        """This connection to the candidate, when a series falls to it; otherwise itself.

        The candidate is asked once: the version that serves takes over at the first thing that goes wrong.

        Args:
            config: ModelConfig message of the candidate.
            series: name of the series.
        """
        candidate = described(config)
        if candidate is None or not candidate.restores(series):
            return self
        other = copy.copy(self)
        other.name, other.version, other._once = candidate.name, candidate.version, True
        other.instruction_size = candidate.instruction_size
        other.error_map = any(tensor.name == ERROR_MAP for tensor in config.output)
        return other

    def request(self, batch: Batch) -> bytes:
        """The message that asks for a batch.

        Raises:
            ServingFailed: when an error map is asked for that the network does not have.
        """
        if batch.want_error and not self.error_map:
            raise no_error_map(f"{self.name} at {self.url}")
        return wire.request(self.name, self.version, batch.arrays(self.instruction_size), self.outputs(batch))

    def answer(self, batch: Batch, message: bytes) -> Answer:
        """What the server's answer says.

        Raises:
            ServingFailed: when it does not fit the batch.
        """
        reply = wire.reply(message)
        arrays = [reply.arrays[name] for name in self.outputs(batch) if name in reply.arrays]
        images = [arrays[0], *arrays[4:]] if len(arrays) == len(self.outputs(batch)) else []
        if not images or any(image.shape != batch.image.shape for image in images):
            raise ServingFailed(f"{self.name} at {self.url} gave no answer of the image's shape. Look at its log.")
        restored, probability, degradation, instruction, *error = arrays
        return Answer(restored, probability, degradation.reshape(-1), instruction, reply.version, *error)

    def outputs(self, batch: Batch) -> tuple[str, ...]:
        """Outputs that are asked for."""
        return (*self.OUTPUTS, ERROR_MAP) if batch.want_error else self.OUTPUTS

    def explain(self, status: str, message: str) -> ServingFailed:
        """The error that a caller gets when asking again is of no use."""
        text = message.strip().splitlines()
        if "UNAVAILABLE" in status:
            closed = " It closes connections: does it want TLS (--tls-ca), or our certificate (--tls-certificate)?"
            return ServingFailed(
                trouble(self.url, message)
                or f"No Triton answers at {self.url}. Start one with `mira serve`, or correct the address."
                + (closed if "closed" in message or "reset" in message else "")
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
        tls: certificates; those of the environment when left out.

    Raises:
        ConfigurationError: when certificates are missing.
        ServingFailed: when the server does not answer or does not serve the model.
    """

    def __init__(
        self,
        url: str,
        model: str = "mira_net",
        version: str = "",
        deadline_s: float = 120.0,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(url, model, version, deadline_s, tls)
        # tritonclient lifts gRPC's 4 MB message limit to 2 GB by itself
        self._client = self._grpc.InferenceServerClient(url, **self.tls.arguments())
        self._infer = wire.inference(self._client)
        self.learn(self._patiently(lambda left: self._client.get_model_metadata(model, version, client_timeout=left)))

    def for_series(self, series: str) -> "TritonEngine":
        """The engine that restores a series: itself, or the candidate that has a share of them.

        Args:
            series: name of the series, e.g. its UID, which does not leave this process; "" for none.
        """
        from tritonclient.utils import InferenceServerException

        if not series or self.version:
            return self
        try:
            answer = self._client.get_model_config(candidate_of(self.name), client_timeout=min(5.0, self._deadline))
        except InferenceServerException:  # there is no candidate, or no server: what serves says so itself
            return self
        return self.toward(answer.config, series)

    def infer(self, batch: Batch) -> Answer:
        """Restore one batch; where something on the way limits messages, by halves.

        Raises:
            ServingFailed: when the server refuses it, or does not answer before the deadline.
        """
        request = self.request(batch)
        try:
            return self.answer(batch, self._patiently(lambda left: self._infer(request, client_timeout=left)))
        except MessageTooLarge:
            return together([self.infer(half) for half in batch.halves()])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _patiently(self, call: Any) -> Any:
        """Call with the time that is left, again with growing pauses while the server is away."""
        from tritonclient.utils import InferenceServerException

        retries = Retries(self._deadline, self._once)
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


def no_error_map(network: str) -> ServingFailed:
    """The error that a caller gets who asks for an error map of a network without one."""
    return ServingFailed(
        f"{network} gives no expected error. Leave it out, or ask for a version that was trained for it."
    )


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
    errors = [answer.predicted_error for answer in answers if answer.predicted_error is not None]
    return Answer(
        restored=np.concatenate([answer.restored for answer in answers]),
        modality_probability=np.concatenate([answer.modality_probability for answer in answers]),
        degradation=np.concatenate([answer.degradation for answer in answers]),
        instruction=np.concatenate([answer.instruction for answer in answers]),
        version=versions.pop(),
        predicted_error=np.concatenate(errors) if errors else None,
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
        names = [*self.OUTPUTS, *([ERROR_MAP] if batch.want_error else [])]
        arrays = batch.arrays(self.instruction_size)
        restored, probability, degradation, instruction, *error = self._session.run(names, arrays)
        return Answer(restored, probability, degradation.reshape(-1), instruction, self.version, *error)

    def close(self) -> None:
        """Nothing to let go of."""
