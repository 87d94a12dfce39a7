"""Restoring a volume: its slices in batches, several in flight, one instruction for the whole volume."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mira.client.batches import Answer, Batch, Engine, Floats
from mira.client.engines import TritonEngine
from mira.client.local import LocalEngine
from mira.client.plan import TILE_SIDE, Restored, as_modality, check_volume, intensity_scale, restoration
from mira.client.retries import DEADLINE_S
from mira.client.stream import RestoredSlice, Stream
from mira.client.tls import Tls
from mira.errors import ConfigurationError, ServingFailed
from mira.progress import track
from mira.tasks import Modality

IN_FLIGHT = 4
LOG = logging.getLogger("mira.client")


class Restorer:
    """Restores volumes by an engine; use it in a `with` block, or close it.

    Args:
        engine: what runs the network.
        in_flight: batches that are under way at the same time.
        tile_side: side of the tiles of slices that are too large for one request; a multiple of 8 from 192 up.
    """

    def __init__(self, engine: Engine, in_flight: int = IN_FLIGHT, tile_side: int = TILE_SIDE) -> None:
        self.engine = engine
        self._in_flight = in_flight
        self._tile_side = tile_side

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
        series: str = "",
        want_error: bool = False,
    ) -> Restored:
        """Restore the slices of one volume.

        By default all slices share one instruction: up to eight slices, evenly spread over the volume, go through
        the network first, and the mean of what it estimated for them is given to every slice. So neighbouring
        slices are treated alike and nothing flickers along the third axis, at the price of one more batch. Slices too
        large for one request travel as overlapping tiles, which always share one instruction.

        Args:
            voxels: [slices, rows, columns] (or one slice) in HU, SUVbw or MR a.u.
            modality: CT, PET or MR.
            mr_scale: robust intensity scale of an MR volume (`mira.dicom` gives it); estimated when left out.
            instruction: an instruction to use instead of the estimated one, [D].
            share_instruction: False lets each slice use its own.
            progress: whether to show a progress bar on a terminal.
            series: stable name of the series, e.g. its UID; by it a candidate that has a share of the series may be the
                one that restores it (`Restored.version` says), unless an instruction is given. It does not leave this
                process.
            want_error: whether to ask for the error that the network expects as well (`Restored.predicted_error`); it
                doubles what the server sends back.

        Raises:
            DataRejected: for empty, too small or non-finite volumes.
            ServingFailed: when the network refuses or cannot be reached, or its version changes again and again.
        """
        volume = np.asarray(voxels, dtype=np.float32)
        volume = volume[None] if volume.ndim == 2 else volume
        kind = as_modality(modality)
        check_volume(volume)
        given = None if instruction is None else np.asarray(instruction, dtype=np.float32)
        scale = intensity_scale(volume, kind, mr_scale)

        def through(engine: Engine) -> Restored:
            name, side = self.engine.name, self._tile_side
            steps = restoration(volume, kind, scale, given, share_instruction, name, side, want_error, engine.slices)
            batches = next(steps)
            while True:
                try:
                    batches = steps.send(self._run(engine, batches, f"restoring {kind}" if progress else ""))
                except StopIteration as finished:
                    return finished.value  # type: ignore[no-any-return]

        # an instruction is the language of the version that gave it: what serves, not a candidate
        chosen = self._engine_for("" if given is not None else series)
        if chosen is not self.engine:
            try:
                return through(chosen)
            except ServingFailed as error:
                LOG.warning("%s did not restore a series, the version that serves does: %s", chosen.name, error)
        return through(self.engine)

    def _engine_for(self, series: str) -> Engine:
        """What restores a series; an engine in this process knows one version only."""
        return self.engine

    def stream(
        self,
        slices: Iterable[NDArray[np.floating] | NDArray[np.integer]],
        modality: Modality | str,
        *,
        mr_scale: float | None = None,
        instruction: Floats | None = None,
    ) -> Iterator[RestoredSlice]:
        """Restore slices as they come, and give them back in their order; memory holds a few batches only.

        The first eight slices decide the instruction of all, unless one is given. A stream always goes to the version
        that serves, never to a candidate: what was given back already cannot be restored again when that is withdrawn.

        Args:
            slices: arrays [rows, columns] of one size, in HU, SUVbw or MR a.u.
            modality: CT, PET or MR.
            mr_scale: robust intensity scale of an MR series, which must be given: a stream cannot estimate it.
            instruction: an instruction to use instead of the estimated one, [D].

        Raises:
            ConfigurationError: for an MR series without its scale, or a network that sees a slice's neighbours.
            DataRejected: for a slice that cannot be restored, or has another size than the first.
            ServingFailed: when the network refuses or cannot be reached, or its version changes on the way.
        """
        if self.engine.slices > 1:
            raise ConfigurationError(
                f"{self.engine.name} sees {self.engine.slices} slices at a time, and a stream gives them one by one. "
                "Give the whole volume to restore_slices."
            )
        plan = Stream(as_modality(modality), mr_scale, instruction, self._tile_side)
        waiting: deque[tuple[int, list[Future[Answer]]]] = deque()
        with ThreadPoolExecutor(max_workers=self._in_flight) as pool:
            try:
                for block in plan.blocks(slices):
                    if plan.needs_instruction:
                        plan.take_instruction(self._run(self.engine, plan.probes(block)))
                    number, batches = plan.batches(block)
                    waiting.append((number, [pool.submit(self.engine.infer, batch) for batch in batches]))
                    if len(waiting) > self._in_flight:
                        yield from plan.finish(*_results(waiting.popleft()))
                while waiting:
                    yield from plan.finish(*_results(waiting.popleft()))
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _run(self, engine: Engine, batches: list[Batch], label: str = "") -> list[Answer]:
        """Answers of all batches in their order; a progress bar where there is a label."""
        with ThreadPoolExecutor(max_workers=self._in_flight) as pool:
            futures = [pool.submit(engine.infer, batch) for batch in batches]
            try:
                waited = track(futures, label, unit="batch") if label else futures
                return [future.result() for future in waited]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise


def _results(waited: tuple[int, list[Future[Answer]]]) -> tuple[int, list[Answer]]:
    number, futures = waited
    return number, [future.result() for future in futures]


class RestorationClient(Restorer):
    """Restores volumes by a Triton server.

    Args:
        url: HOST:PORT of its gRPC front end.
        model: `mira_net`, or a single-task network: `mira_net_ct`, `mira_net_pet`, `mira_net_mri`.
        version: version to ask for, "" for the one that serves.
        deadline_s: longest time for one request, all its retries included.
        in_flight: requests that are under way at the same time.
        tile_side: side of the tiles of slices that are too large for one request.
        tls: certificates; those of the environment when left out.

    Example:
        >>> with RestorationClient("localhost:8001") as client:  # doctest: +SKIP
        ...     restored = client.restore_slices(volume_in_hu, "CT")
    """

    def __init__(
        self,
        url: str,
        model: str = "mira_net",
        version: str = "",
        deadline_s: float = DEADLINE_S,
        in_flight: int = IN_FLIGHT,
        tile_side: int = TILE_SIDE,
        tls: Tls | None = None,
    ) -> None:
        self._triton = TritonEngine(url, model, version, deadline_s, tls)
        super().__init__(self._triton, in_flight, tile_side)

    def _engine_for(self, series: str) -> Engine:
        return self._triton.for_series(series)


class LocalRestorer(Restorer):
    """Restores volumes by an ONNX file in this process, without a server.

    Args:
        path: model.onnx of an exported network.
        threads: threads of one execution; 0 leaves the choice to ONNX Runtime.
        tile_side: side of the tiles of slices that are too large for memory.
    """

    def __init__(self, path: Path, threads: int = 0, tile_side: int = TILE_SIDE) -> None:
        super().__init__(LocalEngine(path, threads), in_flight=1, tile_side=tile_side)
