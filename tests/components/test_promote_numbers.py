"""The number of a version is that of its networks, and what served before it is on record, whatever the numbers say."""

import pytest

from components.promote import audit, registry, repository, share
from components.promote.exported import read_release
from components.promote.step import PromoteConfig, check_number, promote
from mira.errors import ServingFailed
from mira.storage import read_json, write_json
from tests.components.test_promote import first_serves, staged, tree
from tests.triton.tiny_network import make_release


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


@pytest.mark.parametrize("serving", [True, False])
def test_another_network_under_a_number_on_record_is_refused_and_nothing_changes(tmp_path, config, serving):
    first_serves(config, tmp_path / "1")
    if not serving:  # it is there to be rolled back to
        repository.write_served(config, staged(config, tmp_path / "2", 2))
    repository.remove_candidates(config)
    before = tree(config.models)
    files = make_release(tmp_path / "anew", 1, gain=0.9)
    with pytest.raises(ServingFailed, match=r"Version 1 on record in .* has another mira_net than this export"):
        promote(*files, tmp_path / "out", config)
    if not serving:
        with pytest.raises(ServingFailed, match="Version 1 on record"):
            share.start(*files, 0.1, config)
    assert tree(config.models) == before
    assert [record.outcome for record in audit.read(config.audit)][:2] == ["begun", "failed"]


def test_the_same_networks_and_other_numbers_are_allowed_and_fewer_networks_are_not(tmp_path, config):
    served = first_serves(config, tmp_path / "1")
    check_number(config, served, read_release(*make_release(tmp_path / "same", 1)))
    check_number(config, served, read_release(*make_release(tmp_path / "next", 2, gain=0.9)))
    with pytest.raises(ServingFailed, match="has another mira_net_ct than this export"):
        check_number(
            config, served, read_release(*make_release(tmp_path / "more", 1, models=("mira_net", "mira_net_ct")))
        )


def test_the_version_before_is_what_served_before_and_not_the_next_lower_number(config):
    record = repository.ReleaseRecord(artifacts={}, decision_sha256="", promoted="", by="")
    served = repository.Served()

    def serve(version, going_back=False):
        nonlocal served
        before = served.before_when(version, going_back=going_back)
        served = repository.Served(version=version, releases={**served.releases, version: record}, predecessors=before)
        repository.write_served(config, served)
        return repository.read_served(config).previous

    assert [serve(version) for version in (5, 3, 4)] == [None, 5, 3]
    assert serve(5) == 4  # promoted again
    assert serve(5) == 4
    assert serve(4, going_back=True) == 3  # each rollback goes one further back, never to what was left for it
    assert serve(3, going_back=True) == 5
    assert serve(5, going_back=True) is None
    assert serve(4, going_back=True) == 5  # forward again
    assert serve(3, going_back=True) == 4
    assert serve(5, going_back=True) is None


def test_a_record_of_before_there_were_predecessors_is_read_by_its_numbers(config):
    record = repository.ReleaseRecord(artifacts={}, decision_sha256="", promoted="", by="")
    repository.write_served(config, repository.Served(version=3, releases={1: record, 3: record, 4: record}))
    document = read_json(config.served)
    del document["predecessors"]
    write_json(config.served, document)
    served = repository.read_served(config)
    assert (served.before, served.previous) == ([1], 1)
    assert served.before_when(4, going_back=False) == [1, 3]
