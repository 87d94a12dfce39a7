"""What a promotion asks of a Triton server over gRPC: load, unload, which versions serve."""

import time
from collections.abc import Iterable
from typing import Any

from components.promote.config_files import engine_of
from components.promote.transport import PLAIN, Transport
from mira.errors import ServingFailed

KEY_HEADER = "triton-grpc-protocol-admin-key"


class TritonAdmin:
    """Administration of one server.

    Args:
        url: HOST:PORT of its gRPC front end.
        key: key of the restricted protocols, "" when there is none.
        timeout_s: longest wait for one load.
        transport: certificates, where the server has TLS.
    """

    def __init__(self, url: str, key: str = "", timeout_s: float = 120.0, transport: Transport = PLAIN) -> None:
        self.url = url
        self._client = transport.connect(url)
        self._headers = {KEY_HEADER: key} if key else None
        self._timeout = timeout_s

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def live(self) -> bool:
        """Whether the server answers at all."""
        from tritonclient.utils import InferenceServerException

        try:
            return bool(self._client.is_server_live(client_timeout=5))
        except InferenceServerException:
            return False

    def load(self, models: Iterable[str]) -> None:
        """Load models one by one, with the configuration that is on disk; loaded ones are swapped when ready.

        Raises:
            ServingFailed: with Triton's reason, when one of them cannot be loaded in time.
        """
        for model in models:
            error = self._load(model)
            if error:
                raise ServingFailed(error)

    def _load(self, model: str) -> str:
        from tritonclient.utils import InferenceServerException

        try:
            self._client.load_model(model, headers=self._headers, client_timeout=self._timeout)
        except InferenceServerException as error:
            if "DEADLINE" in str(error.status()):
                return f"{model} did not load within {self._timeout:.0f} s."
            if "UNAVAILABLE" in str(error.status()):
                return f"{model} did not load: Triton at {self.url} went away."
            return f"{model} did not load: {_reason(error)}"
        return ""

    def unload(self, models: Iterable[str], patience_s: float = 20.0) -> None:
        """Unload models and wait until they are gone; models that are not loaded are left alone.

        Raises:
            ServingFailed: when a model does not go.
        """
        from tritonclient.utils import InferenceServerException

        names = set(models)
        for model in sorted(names):
            try:
                self._client.unload_model(model, headers=self._headers, client_timeout=self._timeout)
            except InferenceServerException as error:
                raise ServingFailed(f"{model} did not unload: {_reason(error)}") from error
        end = time.monotonic() + patience_s
        while loaded := names & self.index(states=("READY", "LOADING", "UNLOADING")).keys():
            if time.monotonic() > end:
                raise ServingFailed(f"{', '.join(sorted(loaded))} did not unload within {patience_s:.0f} s.")
            time.sleep(0.05)

    def settle(self, models: Iterable[str], patience_s: float = 2.0) -> list[str]:
        """Wait until none of the models is loading; returns those that still are: their load hangs."""
        names, end = set(models), time.monotonic() + patience_s
        while (loading := sorted(names & self.index(states=("LOADING",)).keys())) and time.monotonic() < end:
            time.sleep(0.05)
        return loading

    def failures(self, models: Iterable[str]) -> dict[str, str]:
        """Models that are not ready, with Triton's reason.

        Raises:
            ServingFailed: when the server does not answer.
        """
        entries = {entry.name: entry for entry in self._entries()}
        ready = self.index()
        reasons = {model: getattr(entries.get(model), "reason", "") for model in models if model not in ready}
        return {model: _first(reason) or "no reason given; see the server's log" for model, reason in reasons.items()}

    def index(self, states: tuple[str, ...] = ("READY",)) -> dict[str, list[int]]:
        """Versions of each model that are in one of the given states.

        Raises:
            ServingFailed: when the server does not answer.
        """
        found: dict[str, list[int]] = {}
        for entry in self._entries():
            if entry.state in states and entry.version:
                found.setdefault(entry.name, []).append(int(entry.version))
        return found

    def engine(self, model: str) -> str:
        """What runs a loaded model (`config_files.engine_of`); "" when it has gone in the meantime."""
        from tritonclient.utils import InferenceServerException

        try:
            return engine_of(self._client.get_model_config(model, client_timeout=10).config)
        except InferenceServerException:
            return ""

    def _entries(self) -> list[Any]:
        from tritonclient.utils import InferenceServerException

        try:
            return list(self._client.get_model_repository_index(headers=self._headers, client_timeout=10).models)
        except InferenceServerException as error:
            raise ServingFailed(f"Triton at {self.url} does not answer: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    message = getattr(error, "message", lambda: "")() or str(error)
    return _first(str(message))


def _first(message: str) -> str:
    """First line of Triton's message, with the last one of a stub's traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    kept = [*lines[:1], *lines[-1:]] if "Traceback" in message else lines[:2]
    return " ".join(dict.fromkeys(kept))[:600].rstrip("; ")
