"""The client against the real Triton: threads, asyncio and streams give the same, also when the server restarts."""

import asyncio
import threading
import time

import numpy as np
import pytest

from components.promote import server
from mira.client import AsyncRestorationClient, LocalRestorer, RestorationClient
from mira.client.engines import Batch, TritonEngine
from mira.errors import ServingFailed
from tests.triton import round_trip
from tests.triton.abuse import random_network
from tests.triton.own_server import serving, with_server

pytestmark = [pytest.mark.triton, with_server]
VOLUME = np.random.default_rng(8).normal(0, 100, (60, 48, 56)).astype(np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as (paths, url):
        yield paths, url


@pytest.fixture(scope="module")
def expected(served):
    with LocalRestorer(served[0].models / "mira_net" / "1" / "model.onnx", threads=1) as local:
        return local.restore_slices(VOLUME, "CT")


async def many(url, volumes):
    async with AsyncRestorationClient(url, in_flight=3) as client:
        return await asyncio.gather(*(client.restore_slices(volume, kind) for volume, kind in volumes))


def test_threads_asyncio_and_streams_agree_with_the_network_in_process(served, expected):
    url = served[1]
    with RestorationClient(url) as client:
        restored = client.restore_slices(VOLUME, "CT")
        streamed = list(client.stream(iter(VOLUME), "CT", instruction=expected.instruction))
    np.testing.assert_allclose(restored.voxels, expected.voxels, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(np.stack([one.voxels for one in streamed]), restored.voxels, rtol=1e-6)
    assert [one.index for one in streamed] == list(range(60))
    assert restored.version == "1"

    async def both():
        async def source():
            for one in VOLUME:
                yield one

        async with AsyncRestorationClient(url) as client:
            whole = await client.restore_slices(VOLUME, "CT")
            parts = [one async for one in client.stream(source(), "CT", instruction=expected.instruction)]
        return whole, parts

    whole, parts = asyncio.run(both())
    np.testing.assert_array_equal(whole.voxels, restored.voxels)
    np.testing.assert_array_equal(np.stack([one.voxels for one in parts]), restored.voxels)


def test_several_volumes_at_a_time_do_not_mix(served):
    url = served[1]
    volumes = [(VOLUME[:20], "CT"), (np.abs(VOLUME[20:45, :40]) / 30, "PET"), (np.abs(VOLUME[45:]) + 50, "MR")]
    together = asyncio.run(many(url, volumes))
    with RestorationClient(url) as client:
        for (volume, kind), restored in zip(volumes, together, strict=True):
            np.testing.assert_array_equal(restored.voxels, client.restore_slices(volume, kind).voxels)


def test_refusals_reach_an_asyncio_application_in_words(served):
    url = served[1]
    with pytest.raises(ServingFailed, match="unknown model"):
        asyncio.run(AsyncRestorationClient(url, "no_such_model", deadline_s=5).__aenter__())
    with pytest.raises(ServingFailed, match="No Triton answers"):
        asyncio.run(AsyncRestorationClient("127.0.0.1:9", deadline_s=0.5).__aenter__())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["threads", "asyncio"])
def test_a_restart_in_the_middle_loses_and_repeats_nothing(served, expected, way):
    """The server is killed with requests under way, and comes up again on its port a moment later."""
    paths, url = served
    port = int(url.rpartition(":")[2])

    def restart():
        server.stop(paths, patience_s=0.1)
        time.sleep(0.3)
        server.start(paths, ["mira_net"], port=port, threads=1)

    worker = threading.Thread(target=restart)

    def source():
        for index, one in enumerate(VOLUME):
            if index == 24:
                worker.start()
                while server_up(port):  # the next requests meet a server that is gone
                    time.sleep(0.01)
            yield one

    async def restore():
        async def slowly():
            for one in source():
                yield one
                await asyncio.sleep(0)

        async with AsyncRestorationClient(url, deadline_s=60) as client:
            return [one async for one in client.stream(slowly(), "CT", instruction=expected.instruction)]

    if way == "threads":
        with RestorationClient(url, deadline_s=60) as client:
            found = list(client.stream(source(), "CT", instruction=expected.instruction))
    else:
        found = asyncio.run(restore())
    worker.join()
    assert [one.index for one in found] == list(range(60))
    np.testing.assert_allclose(np.stack([one.voxels for one in found]), expected.voxels, rtol=1e-5, atol=1e-3)


def server_up(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
def test_a_series_through_the_served_identity_comes_back(tmp_path, modality):
    with serving(tmp_path / "server", gain=0.0) as (_, url), RestorationClient(url) as client:
        folder = round_trip.made_up(tmp_path / "in", modality, 20, 64)
        (trip,) = round_trip.trips(client, folder, tmp_path / "out", "made up")
    assert trip.geometry
    assert trip.right
    assert (trip.padding > 0) == (modality == "CT")


def test_openvino_gives_the_estimates_alone_as_with_the_image_in_a_fraction_of_the_time(tmp_path):
    network, size = random_network(tmp_path)
    image = VOLUME[:4, None].repeat(6, axis=2).repeat(5, axis=3)
    spent = {}
    with serving(tmp_path / "served", network, engine="openvino", instruction=size) as (_, url):
        engine = TritonEngine(url)
        for alone in (False, True):
            batch = Batch(image, 0, 1.0, np.full(size, 0.3, np.float32), 0.5, only_estimates=alone)
            for _ in range(3):
                begin = time.perf_counter()
                answer = engine.infer(batch)
                spent.setdefault(alone, []).append(time.perf_counter() - begin)
            if not alone:
                whole = answer
        engine.close()
    assert answer.restored.size == 0
    np.testing.assert_allclose(answer.instruction, whole.instruction, atol=1e-5)
    np.testing.assert_allclose(answer.modality_probability, whole.modality_probability, atol=1e-5)
    np.testing.assert_allclose(answer.degradation, whole.degradation, atol=1e-5)
    assert min(spent[True]) < min(spent[False]) / 2  # it is a tenth, on a machine that does nothing else
