"""A production Triton that this workspace did not start: the levers reach it, and start no other beside it."""

import shutil

import pytest

from components.promote import rollback, server, status
from components.promote.step import promote
from mira.client import RestorationClient
from mira.errors import ServingFailed
from tests.triton.own_server import with_server
from tests.triton.station import IMAGE, Station

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]
MODELS = ("mira_net",)


def test_rollback_and_status_reach_the_server_of_the_last_promotion(tmp_path):
    station = Station(tmp_path)
    production = station.config.model_copy(update={"workspace": tmp_path / "production"})
    try:
        url = server.start(production, [], threads=1).url
        station.config.state.mkdir(parents=True)
        shutil.copy(production.key, station.config.key)
        elsewhere = station.config.model_copy(update={"url": url})

        def answers():
            with RestorationClient(url, deadline_s=10) as client:
                return client.restore_slices(IMAGE, "CT").version

        for version in (1, 2):
            promote(*station.release(version, MODELS), tmp_path / "out", elsewhere)
        assert answers() == "2"
        assert rollback.rollback(station.config, tracking_uri="off").url == url
        assert answers() == "1"
        assert server.running(station.config) is None
        seen = status.read(station.config, "off")
        assert (seen.url, seen.elsewhere, seen.answers, seen.disagreements) == (url, True, True, [])
        typo = elsewhere.model_copy(update={"repository": tmp_path / "typo"})
        with pytest.raises(ServingFailed):
            promote(*station.release(3, MODELS), tmp_path / "out", typo)
        assert answers() == "1"
        assert status.read(station.config, "off").disagreements == []
    finally:
        server.stop(production)
        server.stop(station.config)
