"""Restoring a volume: its slices in batches, several in flight, one instruction for the whole volume."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mira.client.engines import LARGEST_BATCH, Answer, Batch, Engine, Floats, LocalEngine, TritonEngine
from mira.errors import ConfigurationError, DataRejected
from mira.progress import track
from mira.tasks import Modality

SERVED_SIDE = 32  # the smallest that the network takes; smaller slices are padded and cropped again
SMALLEST_SIDE = 16
IN_FLIGHT = 4
LARGEST_REQUEST = 64 * 2**20  # bytes of one image tensor; a batch of eight 1024 x 1024 slices is 32 MiB


@dataclass(frozen=True)
class Restored:
    """A restored volume and what the network saw in it.

    Attributes:
        voxels: float32 [slices, rows, columns], in the unit of the input.
        modality_probability: float32 [slices, 3], the network's own estimate, in the order of `Modality`.
        degradation: float32 [slices], its estimate of how degraded each slice was, 0 to 1.
        instruction: float32 [D], the instruction that all slices shared; the mean one where they did not share.
        model: name of the network.
        version: its version, "" when it has none.
        warnings: what a user should know, in words free of patient data.
    """

    voxels: Floats
    modality_probability: Floats
    degradation: Floats
    instruction: Floats
    model: str
    version: str
    warnings: list[str]


class Restorer:
    """Restores volumes by an engine; use it in a `with` block, or close it.

    Args:
        engine: what runs the network.
        in_flight: batches that are under way at the same time.
    """

    def __init__(self, engine: Engine, in_flight: int = IN_FLIGHT) -> None:
        self.engine = engine
        self._in_flight = in_flight

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def restore_slices(
        self,
        voxels: NDArray[np.floating] | NDArray[np.integer],
        modality: Modality | str,
        *,
        mr_scale: float | None = None,
        instruction: Floats | None = None,
        share_instruction: bool = True,
        progress: bool = False,
    ) -> Restored:
        """Restore the slices of one volume.

        By default all slices share one instruction: up to eight slices, evenly spread over the volume, go through
        the network first, and the mean of what it estimated for them is given to every slice. So neighbouring
        slices are treated alike and nothing flickers along the third axis, at the price of one more batch.

        Args:
            voxels: [slices, rows, columns] (or one slice) in HU, SUVbw or MR a.u.
            modality: CT, PET or MR.
            mr_scale: robust intensity scale of an MR volume (`mira.dicom` gives it); estimated when left out.
            instruction: an instruction to use instead of the estimated one, [D].
            share_instruction: False lets each slice use its own.
            progress: whether to show a progress bar on a terminal.

        Raises:
            DataRejected: for empty, too small or non-finite volumes.
            ServingFailed: when the network refuses or cannot be reached.
        """
        volume = np.asarray(voxels, dtype=np.float32)
        volume = volume[None] if volume.ndim == 2 else volume
        kind = _modality(modality)
        check_volume(volume)
        scale = _scale(volume, kind, mr_scale)
        given = None if instruction is None else np.asarray(instruction, dtype=np.float32)
        if given is None and share_instruction and len(volume) > 1:
            probes = self._run(volume[probe_slices(len(volume))], kind, scale, None)
            given = np.concatenate([answer.instruction for answer in probes]).mean(axis=0)
        answers = self._run(volume, kind, scale, given, label=f"restoring {kind}" if progress else "")
        rows, columns = volume.shape[1:]
        used = np.concatenate([answer.instruction for answer in answers])
        probability = np.concatenate([answer.modality_probability for answer in answers])
        versions = sorted({answer.version for answer in answers})
        return Restored(
            voxels=np.concatenate([answer.restored[:, 0, :rows, :columns] for answer in answers]),
            modality_probability=probability,
            degradation=np.concatenate([answer.degradation for answer in answers]),
            instruction=used.mean(axis=0) if given is None else given,
            model=self.engine.name,
            version=versions[-1],
            warnings=_warnings(probability, kind, versions),
        )

    def _run(
        self, volume: Floats, modality: Modality, scale: float, instruction: Floats | None, label: str = ""
    ) -> list[Answer]:
        """Answers of all batches in slice order; a progress bar where there is a label."""
        step = batch_size(volume)
        weight = 0.0 if instruction is None else 1.0
        batches = [
            Batch(padded(volume[start : start + step])[:, None], modality.number, scale, instruction, weight)
            for start in range(0, len(volume), step)
        ]
        with ThreadPoolExecutor(max_workers=self._in_flight) as pool:
            futures = [pool.submit(self.engine.infer, batch) for batch in batches]
            try:
                waited = track(futures, label, unit="batch") if label else futures
                return [future.result() for future in waited]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise


class RestorationClient(Restorer):
    """Restores volumes by a Triton server.

    Args:
        url: HOST:PORT of its gRPC front end.
        model: `mira_net`, or a single-task network: `mira_net_ct`, `mira_net_pet`, `mira_net_mri`.
        version: version to ask for, "" for the one that serves.
        deadline_s: longest time for one request.
        in_flight: requests that are under way at the same time.

    Example:
        >>> with RestorationClient("localhost:8001") as client:  # doctest: +SKIP
        ...     restored = client.restore_slices(volume_in_hu, "CT")
    """

    def __init__(
        self,
        url: str,
        model: str = "mira_net",
        version: str = "",
        deadline_s: float = 120.0,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        super().__init__(TritonEngine(url, model, version, deadline_s), in_flight)


class LocalRestorer(Restorer):
    """Restores volumes by an ONNX file in this process, without a server.

    Args:
        path: model.onnx of an exported network.
        threads: threads of one execution; 0 leaves the choice to ONNX Runtime.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__(LocalEngine(path, threads), in_flight=1)


def check_volume(volume: Floats) -> None:
    """Raise DataRejected unless a volume can be restored faithfully."""
    if volume.ndim != 3 or 0 in volume.shape:
        raise DataRejected(f"A volume has the shape [slices, rows, columns], but this one has {list(volume.shape)}.")
    if min(volume.shape[1:]) < SMALLEST_SIDE:
        raise DataRejected(
            f"Slices of {volume.shape[1]} by {volume.shape[2]} pixels are too small; at least "
            f"{SMALLEST_SIDE} by {SMALLEST_SIDE} are needed."
        )
    if not np.isfinite(volume).all():
        raise DataRejected("The volume holds NaN or infinite voxels; replace them before restoring.")


def padded(volume: Floats) -> Floats:
    """Slices grown to the smallest size that the network takes, by repeating their last row and column."""
    missing = [max(0, SERVED_SIDE - side) for side in volume.shape[1:]]
    return np.pad(volume, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else volume


def probe_slices(count: int) -> NDArray[np.intp]:
    """Indices of the slices that decide the shared instruction: up to eight, spread over the inner 80 %."""
    edge = count // 10
    return np.unique(np.linspace(edge, count - 1 - edge, min(LARGEST_BATCH, count)).round().astype(np.intp))


def batch_size(volume: Floats) -> int:
    """Slices in one request: eight, fewer when they are very large."""
    return int(np.clip(LARGEST_REQUEST // (volume.shape[1] * volume.shape[2] * 4), 1, LARGEST_BATCH))


def _modality(value: Modality | str) -> Modality:
    try:
        return Modality.from_dicom(str(value).upper())
    except ValueError as error:
        raise ConfigurationError(f"Modality {value!r} is not known; give CT, PET or MR.") from error


def _scale(volume: Floats, modality: Modality, given: float | None) -> float:
    if modality is not Modality.MR:
        return 1.0
    from mira.dicom.units import mr_scale  # brings pydicom, which arrays of other modalities do not need

    scale = mr_scale(volume) if given is None else float(given)
    if not (np.isfinite(scale) and scale > 0):
        raise DataRejected("mr_scale must be a positive number: the robust maximum of the MR volume.")
    return scale


def _warnings(probability: Floats, modality: Modality, versions: list[str]) -> list[str]:
    """Warnings about the network's own view of the volume."""
    found = []
    seen = probability.argmax(axis=1)
    wrong = Counter(list(Modality)[index] for index in seen if index != modality.number)
    if wrong:
        other, count = wrong.most_common(1)[0]
        found.append(
            f"modality-disagreement: declared {modality}, but {sum(wrong.values())} of {len(seen)} slices look to the "
            f"network like another modality ({count} like {other})"
        )
    if len(versions) > 1:
        found.append(f"mixed-versions: slices were restored by versions {', '.join(versions)}; restore again")
    return found
