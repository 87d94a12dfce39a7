"""The asyncio client without a server: what waits for its turn costs neither memory nor the time of its request."""

import asyncio

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from mira.client import AsyncRestorationClient
from mira.errors import ConfigurationError, ServingFailed
from tests.mira.test_client_arrays import Recorder, volume
from tests.triton.tiny_network import D


class Slow:
    """A server that takes a moment for each batch, and gives up as gRPC does when there is less time than that."""

    def __init__(self, in_flight: int, deadline_s: float, seconds: float = 0.05) -> None:
        self.client = AsyncRestorationClient("nowhere:1", in_flight=in_flight, deadline_s=deadline_s)
        self.client._slots, self.client._ask, self.client.instruction_size = asyncio.Semaphore(in_flight), self.ask, D
        self.client.request, self.client.answer = self.request, lambda batch, _: Recorder().infer(batch)
        self.seconds, self.made, self.answered, self.waiting = seconds, 0, 0, 0

    def request(self, batch):
        self.made += 1
        self.waiting = max(self.waiting, self.made - self.answered)
        return b""

    async def ask(self, body, client_timeout):
        await asyncio.sleep(min(self.seconds, client_timeout))
        self.answered += 1
        if client_timeout < self.seconds:
            raise InferenceServerException("Deadline Exceeded", status="StatusCode.DEADLINE_EXCEEDED")
        return b""


def test_a_long_series_takes_longer_than_the_deadline_of_one_request():
    async def restore():
        server = Slow(in_flight=2, deadline_s=0.3)
        return server, await server.client.restore_slices(volume(160), "CT")

    server, restored = asyncio.run(restore())
    np.testing.assert_array_equal(restored.voxels, volume(160) + 1)
    assert server.answered == 21
    assert server.waiting <= 2  # messages that are made: a copy of their slices each


def test_a_request_that_gets_no_answer_still_ends_at_its_deadline():
    async def restore():
        await Slow(in_flight=2, deadline_s=0.3, seconds=9).client.restore_slices(volume(40), "CT")

    with pytest.raises(ServingFailed, match="give it more time"):
        asyncio.run(restore())


def test_a_stream_of_mr_slices_needs_their_scale():
    async def restore():
        async def source():
            yield volume(1)[0]

        return [one async for one in Slow(2, 1.0).client.stream(source(), "MR")]

    with pytest.raises(ConfigurationError, match="needs mr_scale"):
        asyncio.run(restore())
