"""Clients that never pause, and what becomes of each of their requests.

The clients use Triton's own gRPC client without any retry, so that nothing is smoothed over; `patient` ones behave as
the project's client does and ask again while the server is away.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from mira.client.batches import OUTPUTS, Answer, Batch
from mira.client.engines import LocalEngine, TritonEngine
from mira.errors import MiraError
from mira.tasks import Modality
from tests.triton.tiny_network import D

SIZES = ((1, 40, 56), (3, 33, 70), (2, 64, 48))
TOLERANCE = 1e-5  # of the largest pixel; networks of different versions differ by far more


def questions(seed: int) -> list[Batch]:
    """Requests of several sizes whose pixels all differ; every second one gives an instruction."""
    generator = np.random.default_rng(seed)
    batches = []
    for index, (slices, rows, columns) in enumerate(SIZES):
        image = generator.normal(100, 300, (slices, 1, rows, columns)).astype(np.float32)
        given = generator.uniform(-1, 1, D).astype(np.float32) if index % 2 else None
        batches.append(Batch(image, Modality.CT.number, 800.0, given, 0.5))
    return batches


@dataclass
class Request:
    """One request: when it was sent and answered, by which version, and what was wrong with it ("" for nothing)."""

    sent: float
    answered: float
    version: str = ""
    error: str = ""
    difference: float = 0.0


@dataclass
class Change:
    """A promotion or rollback: from `begin` to `end` either version may answer, later only `after`."""

    begin: float
    end: float
    before: str
    after: str


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        answers: requests that were answered.
        failed: what refused requests were told, counted.
        wrong: answers that are not those of the version that they name, or of a version that was not in play.
        longest_gap_s: longest time in which no client got an answer.
        by_version: answers by version.
        largest_difference: of an answer from ONNX Runtime's, as a share of the largest pixel.
    """

    answers: int
    failed: Counter[str]
    wrong: list[str]
    longest_gap_s: float
    by_version: Counter[str]
    largest_difference: float


class Impatient:
    """Triton's own client on a connection of its own, which tries once: whatever is no answer is a failure.

    Args:
        url: HOST:PORT.
        model: name of the served model.
    """

    def __init__(self, url: str, model: str) -> None:
        apart = [("grpc.use_local_subchannel_pool", 1)]
        self._client, self._model = grpc.InferenceServerClient(url, channel_args=apart), model

    def infer(self, batch: Batch) -> Answer:
        """One request."""
        inputs = []
        for name, array in batch.arrays(D).items():
            tensor = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        result = self._client.infer(self._model, inputs, client_timeout=20)
        restored, probability, degradation, instruction = (result.as_numpy(name) for name in OUTPUTS)
        version = str(result.get_response().model_version)
        return Answer(restored, probability, degradation.reshape(-1), instruction, version)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@dataclass
class Clients:
    """Clients of one server, each in a thread with a connection of its own.

    Attributes:
        url: HOST:PORT.
        networks: model.onnx of each version of the model.
        count: how many.
        model: name of the served model.
        patient: how long a client asks again while the server is away; 0 for not at all.
    """

    url: str
    networks: dict[str, Path]
    count: int = 8
    model: str = "mira_net"
    patient: float = 0.0
    requests: list[list[Request]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._expected: dict[tuple[str, int, int], Answer] = {}
        self._questions = [questions(seed) for seed in range(self.count)]
        self.requests = [[] for _ in range(self.count)]
        self._threads = [threading.Thread(target=self._run, args=(index,), daemon=True) for index in range(self.count)]
        for version, network in self.networks.items():
            self.expect(version, network)

    def expect(self, version: str, network: Path) -> None:
        """Work out what a version must answer to every question, by ONNX Runtime in this process."""
        engine = LocalEngine(network, threads=1)
        for client, batches in enumerate(self._questions):
            for index, batch in enumerate(batches):
                self._expected[version, client, index] = engine.infer(batch)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        self.wait_for(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, more: int, seconds: float = 60.0) -> None:
        """Wait until every client has got so many more answers."""
        goal = [len(done) + more for done in self.requests]
        end = time.monotonic() + seconds
        while any(len(done) < wanted for done, wanted in zip(self.requests, goal, strict=True)):
            if time.monotonic() > end:
                raise AssertionError(f"The clients got {[len(d) for d in self.requests]} answers, not {goal}.")
            time.sleep(0.01)

    def tally(self) -> Tally:
        """What became of all requests; the clients must have stopped."""
        every = sorted((one for done in self.requests for one in done), key=lambda request: request.answered)
        good = [one for one in every if not one.error]
        moments = [one.answered for one in good]
        return Tally(
            answers=len(good),
            failed=Counter(one.error for one in every if one.error),
            wrong=[text for one in good if (text := self._fault(one))],
            longest_gap_s=float(np.diff(moments).max()) if len(moments) > 1 else float("inf"),
            by_version=Counter(one.version for one in good),
            largest_difference=max((one.difference for one in good), default=0.0),
        )

    def _fault(self, one: Request) -> str:
        if not one.difference <= TOLERANCE:
            return f"version {one.version} is said to have answered, but the answer is {one.difference:.2g} off"
        playing: set[str] = set()
        for change in self.changes:
            if one.answered >= change.begin and one.sent <= change.end:
                playing |= {change.before, change.after}
            elif change.end < one.sent:
                playing = {change.after}
        if playing and one.version not in playing:
            return f"version {one.version} answered while {sorted(playing)} were in play"
        return ""

    @contextmanager
    def change(self, before: str, after: str) -> Iterator[None]:
        """Note that versions are changed in this block."""
        begin = time.monotonic()
        self.changes.append(Change(begin, float("inf"), before, after))
        try:
            yield
        finally:
            self.changes[-1].end = time.monotonic()

    def _run(self, index: int) -> None:
        ask: Callable[[Batch], Answer]
        if self.patient:
            engine = TritonEngine(self.url, self.model, deadline_s=self.patient)
            ask, close = engine.infer, engine.close
        else:
            impatient = Impatient(self.url, self.model)
            ask, close = impatient.infer, impatient.close
        while not self._stop.is_set():
            for number, batch in enumerate(self._questions[index]):
                sent = time.monotonic()
                try:
                    answer = ask(batch)
                except (MiraError, InferenceServerException) as error:
                    one = Request(sent, time.monotonic(), error=str(error)[:200])
                    time.sleep(0.05)
                else:
                    one = Request(sent, time.monotonic(), answer.version, "", self._difference(answer, index, number))
                self.requests[index].append(one)
        close()

    def _difference(self, answer: Answer, client: int, number: int) -> float:
        expected = self._expected.get((answer.version, client, number))
        if expected is None or expected.restored.shape != answer.restored.shape:
            return float("inf")
        largest = float(np.abs(expected.restored).max())
        image = float(np.abs(answer.restored - expected.restored).max()) / largest
        return max(image, float(np.abs(answer.instruction - expected.instruction).max()))
