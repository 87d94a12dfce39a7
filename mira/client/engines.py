"""What runs the network for a client: a Triton server over gRPC, or the ONNX file in this process (`local`)."""

import copy
import time
from typing import Any, Self

import numpy as np

from mira.client import wire
from mira.client.batches import ERROR_MAP, ESTIMATES, OUTPUTS, Answer, Batch, Engine, Floats, no_error_map, together
from mira.client.local import LocalEngine
from mira.client.retries import DEADLINE_S, Retries
from mira.client.share import candidate_of, described
from mira.client.tls import Tls, trouble
from mira.errors import ConfigurationError, ServerAway, ServingFailed

__all__ = ["Answer", "Batch", "Engine", "Floats", "LocalEngine", "MessageTooLarge", "TritonEngine", "together"]


class TritonProtocol:
    """Requests and answers of one served model, whether a thread or a coroutine waits for them.

    Args:
        url: HOST:PORT of the gRPC front end.
        model: name of the served model.
        version: version to ask for, "" for the one that serves.
        deadline_s: longest time for one request, all its retries included.
        tls: certificates; those of the environment (`mira.client.tls`) when left out.
    """

    _once = False  # whether a failure is final
    error_map = False  # whether it can be asked for `ERROR_MAP` as well; `learn` finds out
    slices = 1  # that the network sees at a time: a request carries no neighbours

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
        found = {name: reply.arrays[name] for name in self.outputs(batch) if name in reply.arrays}
        images = [array for name, array in found.items() if name not in ESTIMATES]
        if len(found) < len(self.outputs(batch)) or any(image.shape != batch.image.shape for image in images):
            raise ServingFailed(f"{self.name} at {self.url} gave no answer of the image's shape. Look at its log.")
        probability, degradation, instruction = (found[name] for name in ESTIMATES)
        restored, *error = images or [np.empty((len(batch.image), 1, 0, 0), np.float32)]
        return Answer(restored, probability, degradation.reshape(-1), instruction, reply.version, *error)

    def outputs(self, batch: Batch) -> tuple[str, ...]:
        """Outputs that are asked for."""
        if batch.only_estimates:
            return ESTIMATES
        return (*OUTPUTS, ERROR_MAP) if batch.want_error else OUTPUTS

    def pause(self, error: Any, retries: Retries) -> float:
        """Seconds to wait before a request is sent again.

        Args:
            error: tritonclient's exception.
            retries: of this request.

        Raises:
            MessageTooLarge: when the request has to be sent in parts.
            ServingFailed: when asking again is of no use, or the time is over.
        """
        status, message = str(error.status()), error.message() or ""
        if too_large(status, message):
            raise MessageTooLarge(self.explain(status, message)) from error
        wait = retries.pause(status, message)
        if wait is None:
            raise self.explain(status, message) from error
        return wait

    def explain(self, status: str, message: str) -> ServingFailed:
        """The error that a caller gets when asking again is of no use."""
        text = message.strip().splitlines()
        if "UNAVAILABLE" in status:
            closed = " It closes connections: does it want TLS (--tls-ca), or our certificate (--tls-certificate)?"
            return ServerAway(
                trouble(self.url, message)
                or f"No Triton answers at {self.url}. Start one with `mira serve`, or correct the address."
                + (closed if "closed" in message or "reset" in message else "")
            )
        if "DEADLINE" in status:
            return ServerAway(
                f"Triton at {self.url} did not answer within {self._deadline:g} s. Look at its log, "
                "or give it more time (--deadline, deadline_s)."
            )
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
        deadline_s: float = DEADLINE_S,
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
                wait = self.pause(error, retries)
            time.sleep(wait)


class MessageTooLarge(ServingFailed):
    """Something between client and server limits the size of messages."""


def too_large(status: str, message: str) -> bool:
    """Whether a message was refused for its size: by gRPC itself, or by a proxy on the way."""
    return "RESOURCE_EXHAUSTED" in status and "larger than max" in message
