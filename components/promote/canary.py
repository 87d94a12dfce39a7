"""Canary requests: images that are not constant, with answers known from ONNX Runtime in this process.

A server that is `ready` may still answer nothing, or rubbish (a dead stub, numpy 2 in the stub, a wrong engine). So
readiness is proved by asking, and by comparing every output.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.promote.transport import PLAIN, Transport
from mira.client import wire
from mira.client.batches import ERROR_MAP, Answer, Batch, Engine
from mira.client.engines import TritonProtocol
from mira.client.local import LocalEngine
from mira.errors import ServingFailed
from mira.storage import atomic_file
from mira.tasks import Modality

FILE = "canary.npz"
SIZES = ((1, 64, 64), (3, 72, 100))
MR_SCALE = 800.0
# value of a canary's background, of its brightest disc and of its noise, in native units
LEVELS = {Modality.CT: (-1000.0, 300.0, 40.0), Modality.PET: (0.0, 8.0, 0.5), Modality.MR: (20.0, 700.0, 30.0)}
RANGE = {Modality.CT: 4095.0, Modality.PET: 20.0, Modality.MR: MR_SCALE}


@dataclass(frozen=True)
class Canary:
    """A request with its answer.

    Attributes:
        modality: modality of the image.
        batch: the request.
        restored: the expected image, [slices, 1, rows, columns].
        estimates: the other expected outputs, [slices, 3 + 1 + D].
        predicted_error: the expected error map, like `restored`, of a network that has one.
        slack: how far the served precision may be from these answers, which are those of f32; 0 for f32 itself.
    """

    modality: Modality
    batch: Batch
    restored: NDArray[np.float32]
    estimates: NDArray[np.float32]
    predicted_error: NDArray[np.float32] | None = None
    slack: float = 0.0


def make(onnx: Path, modalities: list[Modality], instruction_size: int) -> list[Canary]:
    """Canaries of a network: two sizes per modality, the second with an instruction given at half weight.

    Raises:
        ServingFailed: when ONNX Runtime cannot load or run the network, its instruction has another length, or it
            answers with NaN.
    """
    engine = LocalEngine(onnx, threads=1)
    if engine.instruction_size != instruction_size:
        raise ServingFailed(
            f"model.onnx takes an instruction of {engine.instruction_size} numbers, its metadata.json says "
            f"{instruction_size}. Export it again."
        )
    return [_expect(engine, modality, batch) for modality in modalities for batch in _batches(engine, modality)]


def check(
    canaries: list[Canary],
    url: str,
    model: str,
    version: int,
    tolerance: float,
    deadline_s: float = 60.0,
    transport: Transport = PLAIN,
) -> float:
    """Send canaries to a server and compare every answer.

    Args:
        canaries: what `make` gave for the network that should serve; each is sent twice, for everything and for its
            estimates alone.
        url: HOST:PORT.
        model: name of the served model.
        version: version that must answer.
        tolerance: largest difference of an image as a share of its modality's range (4095 HU, 20 SUV, the MR scale);
            for the other outputs ten times that. A canary of a reduced precision has its own `slack` where that is
            more.
        deadline_s: longest wait for one answer.
        transport: certificates, where the server has TLS.

    Returns:
        The largest difference that was found, as a share of the range.

    Raises:
        ServingFailed: when an answer is missing, from another version, or different.
    """
    with contextlib.closing(_Once(url, model, deadline_s, transport)) as server:
        return max(
            _compare(canary, server.infer(replace(canary.batch, only_estimates=alone)), model, version, tolerance)
            for canary in canaries
            for alone in (False, True)  # estimates alone may come by a way of their own
        )


class _Once(TritonProtocol):
    """Asks once: the retries of the client would hide for a while what a canary is to find."""

    def __init__(self, url: str, model: str, deadline_s: float, transport: Transport) -> None:
        super().__init__(url, model, "", deadline_s)
        self._deadline_s = deadline_s
        self._client = transport.connect(url)
        self.learn(self._ask(self._client.get_model_metadata, model_name=model))

    def infer(self, batch: Batch) -> Answer:
        return self.answer(batch, self._ask(wire.inference(self._client), body=self.request(batch)))

    def close(self) -> None:
        self._client.close()

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return call(client_timeout=self._deadline_s, **arguments)
        except InferenceServerException as error:
            raise self.explain(str(error.status()), error.message() or "") from error


def save(path: Path, canaries: list[Canary]) -> None:
    """Store canaries beside the network, so that its server can be checked where there is no ONNX Runtime."""
    arrays: dict[str, NDArray[np.float32]] = {}
    for index, canary in enumerate(canaries):
        given = canary.batch.instruction
        arrays[f"{index}.{canary.modality}.image"] = canary.batch.image
        arrays[f"{index}.{canary.modality}.instruction"] = np.zeros(0, np.float32) if given is None else given
        arrays[f"{index}.{canary.modality}.restored"] = canary.restored
        arrays[f"{index}.{canary.modality}.estimates"] = canary.estimates
        if canary.predicted_error is not None:
            arrays[f"{index}.{canary.modality}.{ERROR_MAP}"] = canary.predicted_error
        if canary.slack:
            arrays[f"{index}.{canary.modality}.slack"] = np.array([canary.slack], np.float32)
    with atomic_file(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def of(repository: Path, model: str, version: int) -> list[Canary]:
    """The stored canaries of a version in a model repository, as `load`."""
    return load(repository / model / str(version) / FILE)


def load(path: Path) -> list[Canary]:
    """Read stored canaries.

    Raises:
        ServingFailed: when the file is damaged or missing, or holds none.
    """
    try:
        canaries = _read(path)
    except Exception as error:  # numpy and zipfile answer damage with a dozen types, tokenize's among them
        raise ServingFailed(
            f"{path} is damaged: it cannot be read as canary requests ({type(error).__name__}). "
            "Promote the version again, or roll back: mira rollback"
        ) from error
    if not canaries:
        raise ServingFailed(f"{path} is damaged: it holds no canary request. Promote the version again, or roll back.")
    return canaries


def _read(path: Path) -> list[Canary]:
    with np.load(path) as stored:
        arrays: dict[str, dict[str, NDArray[np.float32]]] = {}
        for name in sorted(stored.files):
            key, part = name.rsplit(".", 1)
            arrays.setdefault(key, {})[part] = stored[name]
    canaries = []
    for key, parts in arrays.items():
        modality = Modality(key.split(".")[1])
        batch = replace(_batch(modality, parts["image"], parts["instruction"]), want_error=ERROR_MAP in parts)
        slack = float(parts["slack"][0]) if "slack" in parts else 0.0
        canaries.append(Canary(modality, batch, parts["restored"], parts["estimates"], parts.get(ERROR_MAP), slack))
    return canaries


def _batches(engine: Engine, modality: Modality) -> list[Batch]:
    generator = np.random.default_rng(7 + modality.number)
    batches = []
    for index, shape in enumerate(SIZES):
        image = _image(generator, modality, shape)
        given = generator.uniform(-1, 1, engine.instruction_size if index else 0).astype(np.float32)
        batches.append(replace(_batch(modality, image, given), want_error=engine.error_map))
    return batches


def _batch(modality: Modality, image: NDArray[np.float32], instruction: NDArray[np.float32]) -> Batch:
    return Batch(image, modality.number, MR_SCALE, instruction if instruction.size else None, 0.5)


def _image(generator: np.random.Generator, modality: Modality, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Discs on a background with noise; every slice and every pixel differs."""
    low, high, noise = LEVELS[modality]
    rows, columns = np.mgrid[: shape[1], : shape[2]].astype(np.float32)
    image = np.full(shape, low, np.float32)
    for index in range(shape[0]):
        for radius, value in ((0.45, 0.5), (0.2, 0.8), (0.08, 1.0)):
            centre = np.array(shape[1:]) * (0.5 + 0.05 * index)
            inside = np.hypot(rows - centre[0], columns - centre[1]) < radius * min(shape[1:])
            image[index][inside] = low + value * (high - low)
    image += generator.normal(0, noise, shape).astype(np.float32)
    if modality is not Modality.CT:
        image = np.abs(image)
    return image[:, None]


def _estimates(answer: Answer) -> NDArray[np.float32]:
    return np.concatenate([answer.modality_probability, answer.degradation[:, None], answer.instruction], axis=1)


def _expect(engine: Engine, modality: Modality, batch: Batch) -> Canary:
    answer = engine.infer(batch)
    images = [image for image in (answer.restored, answer.predicted_error) if image is not None]
    if not all(np.isfinite(values).all() for values in (*images, _estimates(answer))):
        raise ServingFailed(f"The network answers a {modality} canary with NaN or infinite values; export it again.")
    return Canary(modality, batch, answer.restored, _estimates(answer), answer.predicted_error)


def _compare(canary: Canary, answer: Answer, model: str, version: int, tolerance: float) -> float:
    if answer.version != str(version):
        raise ServingFailed(f"{model}: version {answer.version} answered instead of {version}.")
    pairs = [(answer.restored, canary.restored), (answer.predicted_error, canary.predicted_error)]
    apart = [np.abs(got - known).max() for got, known in pairs if got is not None and known is not None and got.size]
    difference = float(np.max([0.0, *apart])) / RANGE[canary.modality]
    estimates = float(np.abs(_estimates(answer) - canary.estimates).max())
    tolerance = max(tolerance, canary.slack)
    # not (a <= b) is also true for NaN
    if not difference <= tolerance or not estimates <= 10 * tolerance:
        raise ServingFailed(
            f"{model} version {version} answers a {canary.modality} canary wrongly: {difference:.2g} of the range off "
            f"in the image, {estimates:.2g} in the estimates; {tolerance:g} is allowed."
        )
    return max(difference, estimates / 10)
