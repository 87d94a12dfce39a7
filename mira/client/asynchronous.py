"""The same restoration for applications on asyncio: several series at a time in one thread."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mira.client import wire
from mira.client.batches import LARGEST_BATCH, Answer, Batch, Floats, together
from mira.client.engines import MessageTooLarge, TritonProtocol
from mira.client.plan import TILE_SIDE, Restored, as_modality, check_volume, intensity_scale, restoration
from mira.client.retries import DEADLINE_S, Retries
from mira.client.share import candidate_of
from mira.client.stream import RestoredSlice, Stream
from mira.client.tls import Tls
from mira.errors import ServingFailed
from mira.tasks import Modality

IN_FLIGHT = 4
LOG = logging.getLogger("mira.client")


class AsyncRestorationClient(TritonProtocol):
    """Restores volumes by a Triton server, for `async with`.

    Args:
        url: HOST:PORT of its gRPC front end.
        model: `mira_net`, or a single-task network: `mira_net_ct`, `mira_net_pet`, `mira_net_mri`.
        version: version to ask for, "" for the one that serves.
        deadline_s: longest time for one request, all its retries included.
        in_flight: requests that are under way at the same time, of all calls together.
        tile_side: side of the tiles of slices that are too large for one request.
        tls: certificates; those of the environment when left out.

    Example:
        >>> async with AsyncRestorationClient("localhost:8001") as client:  # doctest: +SKIP
        ...     first, second = await asyncio.gather(
        ...         client.restore_slices(ct, "CT"), client.restore_slices(pet, "PET"))
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
        super().__init__(url, model, version, deadline_s, tls)
        self._tile_side, self._in_flight = tile_side, in_flight
        self._client: Any = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConfigurationError: when certificates are missing.
            ServingFailed: when the server does not answer or does not serve the model.
        """
        import tritonclient.grpc.aio as aio_client

        self._slots = asyncio.Semaphore(self._in_flight)
        self._client = aio_client.InferenceServerClient(self.url, **self.tls.arguments())
        self._ask = wire.async_inference(self._client)
        try:
            self.learn(
                await self._patiently(self._client.get_model_metadata, model_name=self.name, model_version=self.version)
            )
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def restore_slices(
        self,
        voxels: NDArray[np.floating] | NDArray[np.integer],
        modality: Modality | str,
        *,
        mr_scale: float | None = None,
        instruction: Floats | None = None,
        share_instruction: bool = True,
        series: str = "",
        want_error: bool = False,
    ) -> Restored:
        """Restore the slices of one volume; arguments, result and errors as of `Restorer.restore_slices`."""
        volume = np.asarray(voxels, dtype=np.float32)
        volume = volume[None] if volume.ndim == 2 else volume
        kind = as_modality(modality)
        check_volume(volume)
        given = None if instruction is None else np.asarray(instruction, dtype=np.float32)
        scale = intensity_scale(volume, kind, mr_scale)

        async def through(engine: AsyncRestorationClient) -> Restored:
            side = self._tile_side
            steps = restoration(volume, kind, scale, given, share_instruction, self.name, side, want_error)
            batches = next(steps)
            while True:
                try:
                    batches = steps.send(await engine._run(batches))
                except StopIteration as finished:
                    return finished.value  # type: ignore[no-any-return]

        # an instruction is the language of the version that gave it: what serves, not a candidate
        chosen = await self._for_series("" if given is not None else series)
        if chosen is not self:
            try:
                return await through(chosen)
            except ServingFailed as error:
                LOG.warning("%s did not restore a series, the version that serves does: %s", chosen.name, error)
        return await through(self)

    async def _for_series(self, series: str) -> "AsyncRestorationClient":
        """The client that restores a series: itself, or one of the candidate that has a share of them."""
        from tritonclient.utils import InferenceServerException

        if not series or self.version:
            return self
        try:
            answer = await self._client.get_model_config(
                candidate_of(self.name), client_timeout=min(5.0, self._deadline)
            )
        except InferenceServerException:  # there is no candidate, or no server: what serves says so itself
            return self
        return self.toward(answer.config, series)

    async def stream(
        self,
        slices: AsyncIterable[NDArray[Any]],
        modality: Modality | str,
        *,
        mr_scale: float | None = None,
        instruction: Floats | None = None,
    ) -> AsyncIterator[RestoredSlice]:
        """Restore slices as they come; arguments, order and errors as of `Restorer.stream`."""
        plan = Stream(as_modality(modality), mr_scale, instruction, self._tile_side)
        waiting: deque[tuple[int, asyncio.Task[list[Answer]]]] = deque()
        try:
            async for block in _blocks(slices, plan):
                if plan.needs_instruction:
                    plan.take_instruction(await self._run(plan.probes(block)))
                number, batches = plan.batches(block)
                waiting.append((number, asyncio.create_task(self._run(batches))))
                if len(waiting) > self._in_flight:
                    number, task = waiting.popleft()
                    for one in plan.finish(number, await task):
                        yield one
            while waiting:
                number, task = waiting.popleft()
                for one in plan.finish(number, await task):
                    yield one
        finally:
            for _, task in waiting:
                task.cancel()

    async def _run(self, batches: list[Batch]) -> list[Answer]:
        """Answers of all batches in their order; the first failure ends the others."""
        tasks = [asyncio.create_task(self._infer(batch)) for batch in batches]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def _infer(self, batch: Batch) -> Answer:
        try:
            async with self._slots:  # its message is made and its time begins when it is its turn, not while it waits
                return self.answer(batch, await self._patiently(self._ask, body=self.request(batch)))
        except MessageTooLarge:
            return together([await self._infer(half) for half in batch.halves()])

    async def _patiently(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Call with the time that is left, again with growing pauses while the server is away."""
        from tritonclient.utils import InferenceServerException

        retries = Retries(self._deadline, self._once)
        while True:
            try:
                return await call(**arguments, client_timeout=retries.timeout())
            except InferenceServerException as error:
                wait = self.pause(error, retries)
            await asyncio.sleep(wait)


async def _blocks(slices: AsyncIterable[NDArray[Any]], plan: Stream) -> AsyncIterator[Floats]:
    block: list[Floats] = []
    async for one in slices:
        block.append(plan.checked(one))
        if len(block) == LARGEST_BATCH:
            yield np.stack(block)
            block = []
    if block:
        yield np.stack(block)
