"""Promotion, failure and recovery against the real Triton server, on this machine."""

import contextlib
import os
import shutil
import signal
import time

import numpy as np
import pytest

from components.promote import audit, processes, registry, release, repository, rollback, server, status, supervisor
from components.promote.exported import read_release
from components.promote.repository import read_served
from components.promote.step import promote
from components.promote.switch import Switch
from mira.client import RestorationClient
from mira.errors import GateFailed, MiraError, ServingFailed
from mira.storage import hash_file, read_json
from tests.triton.own_server import with_server
from tests.triton.station import IMAGE, MODELS, Station
from tests.triton.tiny_network import describe, make_release, sign, tiny_network

pytestmark = [pytest.mark.triton, pytest.mark.slow, with_server]


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    with Station(tmp_path_factory.mktemp("station")) as station:
        yield station


@pytest.fixture
def two(station):
    """Version 2 serves, version 1 is on disk and served before it."""
    served = read_served(station.config)
    if 1 not in served.releases:
        station.promote(1)
    if read_served(station.config).version != 2:
        station.promote(2)
    if read_served(station.config).previous != 1:
        for version in (1, 2):
            rollback.rollback(station.config, to=version, tracking_uri=registry.OFF)
    release.serve(station.config)
    return station


def test_promotion_serves_then_changes_nothing_when_repeated(station):
    first = station.promote(1)
    assert first.changed
    assert first.models == list(MODELS)
    assert first.largest_difference < 1e-5
    version, one = station.answer()
    assert version == "1"
    again = station.promote(1)
    assert not again.changed
    assert audit.read(station.config.audit)[-1].outcome == "unchanged"
    assert station.promote(2).before == 1
    version, other = station.answer()
    assert version == "2"
    assert np.abs(one - other).max() > 0.1
    assert read_json(station.root / "out2" / "promotion.json")["version"] == 2
    assert (station.config.key.stat().st_mode & 0o777) == 0o600
    assert not list(station.config.models.glob(".candidates"))


def test_admin_protocol_needs_the_key(two):
    from components.promote.triton import TritonAdmin

    stranger = TritonAdmin(server.running(two.config).url)
    with pytest.raises(ServingFailed, match="restricted"):
        stranger.unload(["mira_net"])
    stranger.close()
    assert two.answer()[0] == "2"


def _broken_onnx(exported):
    network = exported / "mira_net_ct" / "model.onnx"
    network.write_bytes(network.read_bytes()[:200])
    describe(network, "mira_net_ct", 3)
    sign(exported.parent, "mira_net_ct")


def _changed_weights(exported):
    tiny_network(exported / "mira_net" / "model.onnx", gain=7.0)


def _other_instruction(exported):
    network = tiny_network(exported / "mira_net" / "model.onnx", size=6)
    describe(network, "mira_net", 3, size=4)
    sign(exported.parent, "mira_net")


def _nothing(exported):
    (exported / "mira_net" / "model.onnx").unlink()


def _not_a_number(exported):
    describe(tiny_network(exported / "mira_net_ct" / "model.onnx", gain=np.nan), "mira_net_ct", 3)
    sign(exported.parent, "mira_net_ct")


@pytest.mark.parametrize(
    "spoil", [_broken_onnx, _changed_weights, _other_instruction, _nothing, _not_a_number], ids=lambda f: f.__name__
)
def test_a_bad_candidate_changes_nothing(two, spoil):
    before = two.answer()[1]
    served = two.config.served.read_bytes()
    files = two.release(3)
    spoil(files[0])
    with pytest.raises(ServingFailed):
        two.promote_files(files)
    assert two.answer()[0] == "2"
    np.testing.assert_array_equal(two.answer()[1], before)
    assert two.config.served.read_bytes() == served
    assert not list(two.config.models.glob("*/3"))
    assert not (two.config.models / ".candidates").exists()
    assert audit.read(two.config.audit)[-1].outcome == "failed"


def test_a_candidate_that_triton_answers_wrongly_is_never_served(two, monkeypatch):
    """The serving engine's answer differs from ONNX Runtime's: found in the rehearsal."""
    templates = two.root / "templates"
    shutil.copytree(two.config.templates, templates)
    model = templates / "model.py"
    text = model.read_text()
    spoilt = text.replace("            start = 0\n", "            start = 0\n            results['restored'] += 3\n")
    assert spoilt != text
    model.write_text(spoilt)
    monkeypatch.setattr(repository, "OWN_CODE", model)
    with pytest.raises(ServingFailed, match="wrongly"):
        promote(*two.release(3), two.root / "out", two.config.model_copy(update={"templates": templates}))
    assert two.answer()[0] == "2"


def test_backend_code_that_is_not_the_projects_own_is_refused(two):
    templates = two.root / "templates-of-a-stranger"
    shutil.copytree(two.config.templates, templates)
    with (templates / "model.py").open("a") as stream:
        stream.write("\n")
    with pytest.raises(ServingFailed, match="not the project's own backend code"):
        promote(*two.release(3), two.root / "out", two.config.model_copy(update={"templates": templates}))
    assert two.answer()[0] == "2"


def test_a_candidate_that_does_not_load_is_named_with_its_reason(two, monkeypatch):
    templates = two.root / "templates-that-fail"
    shutil.copytree(two.config.templates, templates)
    (templates / "model.py").write_text("raise ImportError('no such engine')")
    monkeypatch.setattr(repository, "OWN_CODE", templates / "model.py")
    with pytest.raises(ServingFailed, match=r"mira_net did not load.*no such engine"):
        promote(*two.release(3), two.root / "out", two.config.model_copy(update={"templates": templates}))
    assert two.answer()[0] == "2"


def test_failure_after_the_switch_puts_everything_back_also_after_a_restart(two, monkeypatch):
    """The registry is gone at the very last step."""
    before = two.answer()[1]

    def gone(uri, version):
        raise ServingFailed("MLflow is gone")

    monkeypatch.setattr(registry, "champion", lambda uri: 2)
    monkeypatch.setattr(registry, "move_champion", gone)
    with pytest.raises(ServingFailed, match="MLflow is gone"):
        two.promote(3)
    assert read_served(two.config).version == 2
    np.testing.assert_array_equal(two.answer()[1], before)
    assert not list(two.config.models.glob("*/3"))
    assert server.stop(two.config)
    release.serve(two.config)
    np.testing.assert_array_equal(two.answer()[1], before)


def test_rollback_and_forward_again(two):
    assert rollback.rollback(two.config, tracking_uri=registry.OFF, why="test").version == 1
    assert two.answer()[0] == "1"
    with pytest.raises(MiraError, match="no version before"):
        rollback.rollback(two.config, tracking_uri=registry.OFF)
    assert rollback.rollback(two.config, to=2, tracking_uri=registry.OFF).before == 1
    assert two.answer()[0] == "2"
    assert audit.verify(two.config.audit) == ""


def test_rollback_goes_to_what_served_before_whatever_its_number(two):
    rollback.rollback(two.config, to=1, tracking_uri=registry.OFF)
    two.promote(3)
    assert rollback.rollback(two.config, tracking_uri=registry.OFF).version == 1  # not 2
    assert rollback.rollback(two.config, to=2, tracking_uri=registry.OFF).before == 1


def test_a_network_changed_on_disk_is_not_served_again(two):
    network = two.config.models / "mira_net" / "1" / "model.onnx"
    good = network.read_bytes()
    network.write_bytes(good + b"\0")
    with pytest.raises(ServingFailed, match="changed on disk"):
        rollback.rollback(two.config, to=1, tracking_uri=registry.OFF)
    network.write_bytes(good)
    assert two.answer()[0] == "2"


@pytest.mark.parametrize("way", ["rollback", "the same version", "the next version"])
def test_a_damaged_version_that_cannot_be_started_does_not_stand_in_the_way(two, way):
    server.stop(two.config)
    (two.config.models / "mira_net" / "2" / "model.onnx").write_bytes(b"a bad sector")
    with pytest.raises(ServingFailed, match="was changed on disk"):
        release.serve(two.config)
    if way == "rollback":
        rollback.rollback(two.config, tracking_uri=registry.OFF)
        assert two.answer()[0] == "1"
    else:
        number = 2 if way == "the same version" else 3
        assert two.promote(number).changed
        assert two.answer()[0] == str(number)
    server.stop(two.config)
    release.serve(two.config)
    two.promote(2)
    assert status.read(two.config, registry.OFF).disagreements == []


def test_damaged_warm_up_data_are_told_and_put_right_by_the_next_start(two):
    image = two.config.models / "mira_net" / "warmup" / "image_256x256"
    image.write_bytes(image.read_bytes()[:1000])
    assert "the configuration on disk is not that of version 2" in "".join(
        status.read(two.config, registry.OFF).disagreements
    )
    server.stop(two.config)
    release.serve(two.config)
    assert two.answer()[0] == "2"
    assert status.read(two.config, registry.OFF).disagreements == []


def test_dead_stub_is_noticed_and_recovered(two):
    state = server.running(two.config)
    stubs = [pid for pid in processes.session_members(state.pid) if pid != state.pid]
    assert len(stubs) >= len(MODELS)  # those of the version before may still be on their way out
    for pid in stubs:
        os.kill(pid, signal.SIGKILL)
    found = status.read(two.config, registry.OFF)
    assert not found.answers
    assert found.disagreements
    release.serve(two.config)
    assert two.answer()[0] == "2"


def test_killed_server_leaves_nothing_and_comes_up_with_the_same_version(two):
    state = server.running(two.config)
    assert list(processes.SHARED_MEMORY.glob(f"{state.shared_memory}*"))
    os.kill(state.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while processes.start_ticks(state.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert server.running(two.config) is None
    assert not list(processes.SHARED_MEMORY.glob(f"{state.shared_memory}*"))
    assert not processes.session_members(state.pid)
    release.serve(two.config)
    assert two.answer()[0] == "2"
    assert status.read(two.config, registry.OFF).disagreements == []


def test_promotion_killed_in_the_middle_is_repaired_at_the_next_start(two):
    """Configuration already points at a version that never came to serve, and a candidate lies about."""
    server.stop(two.config)
    folder = two.config.models / "mira_net"
    (folder / "config.pbtxt").unlink()
    (folder / "configs" / "cpu.pbtxt").write_text('name: "mira_net"\nversion_policy { specific { versions: [ 9 ] } }')
    (folder / "9").mkdir()
    (two.config.models / ".candidates" / "mira_net" / "9").mkdir(parents=True)
    release.serve(two.config)
    assert two.answer()[0] == "2"
    assert not (two.config.models / ".candidates").exists()
    assert not (folder / "9").exists()


def test_a_damaged_canary_file_is_told_and_leaves_every_lever(two):
    (two.config.models / "mira_net" / "2" / "canary.npz").write_bytes(b"a bad sector")
    watching = supervisor.Supervisor(two.config)
    watching.step()
    assert (watching.counters.healthy, watching.counters.failed_recoveries) == (False, 1)
    assert two.answer()[0] == "2"  # what answers is left alone
    found = status.read(two.config, registry.OFF)
    assert not found.answers
    assert "canary.npz is damaged" in "".join(found.disagreements)
    assert rollback.rollback(two.config, tracking_uri=registry.OFF).version == 1
    assert two.answer()[0] == "1"
    assert two.promote(2).changed
    assert status.read(two.config, registry.OFF).disagreements == []


def test_a_killed_promotion_is_undone_on_a_triton_elsewhere_before_the_next(two, monkeypatch):
    killed = read_release(*two.release(11))
    switch = Switch(two.config)
    for model in killed.models:
        repository.stage(two.config, model, 11, two.config.backend_parameters())
        switch.move_in(model.name, 11)
        switch.point(model.name, 11)
    with contextlib.closing(server.administer(two.config, two.url)) as admin:
        admin.load(MODELS)
    assert two.answer()[0] == "11"  # and here it was killed
    elsewhere = two.config.model_copy(update={"url": two.url})

    def gone(uri):
        raise ServingFailed("MLflow is gone")

    with monkeypatch.context() as patch, pytest.raises(ServingFailed, match="MLflow is gone"):
        patch.setattr(registry, "champion", gone)
        promote(*two.release(12), two.root / "out", elsewhere)
    assert two.answer()[0] == "2"
    assert not [*two.config.models.glob("*/11"), *two.config.models.glob(".undo-*")]
    assert promote(*two.release(12), two.root / "out", elsewhere).before == 2
    assert two.answer()[0] == "12"


def test_a_release_without_one_of_the_networks_unloads_it(two):
    assert two.promote(4, ("mira_net",)).models == ["mira_net"]
    assert status.read(two.config, registry.OFF).models == {"mira_net": [4]}
    rollback.rollback(two.config, to=2, tracking_uri=registry.OFF)
    assert sorted(status.read(two.config, registry.OFF).models) == list(MODELS)


def test_manual_approval_comes_before_anything_changes(two):
    manual = two.config.model_copy(update={"approval": "manual"})
    files = two.release(5)
    with pytest.raises(GateFailed, match="mira approve 5"):
        promote(*files, two.root / "out", manual)
    digest = hash_file(files[2] / "decision.json")
    audit.append(two.config.audit, "approve", "done", who="A. Reader", version=5, decision_sha256="0" * 64)
    with pytest.raises(GateFailed):
        promote(*files, two.root / "out", manual)
    audit.append(two.config.audit, "approve", "done", who="A. Reader", version=5, decision_sha256=digest)
    assert promote(*files, two.root / "out", manual).version == 5
    rollback.rollback(two.config, to=2, tracking_uri=registry.OFF)


def test_a_version_of_another_registry_does_not_take_the_place_of_its_number(two):
    """Someone began anew with an empty registry: version 2 is another network there."""
    old = two.answer()[1]
    before = two.config.served.read_bytes()
    files = make_release(two.root / "anew", 2, gain=0.9, models=MODELS)
    with pytest.raises(ServingFailed, match="Version 2 on record"):
        promote(*files, two.root / "out", two.config)
    assert two.config.served.read_bytes() == before
    np.testing.assert_array_equal(two.answer()[1], old)
    assert not two.promote(2).changed  # the same networks under their number change nothing


def test_client_reports_what_the_server_refuses(two):
    url = server.running(two.config).url
    with RestorationClient(url, "mira_net_ct") as client, pytest.raises(ServingFailed, match=r"send 0 \(CT\)"):
        client.restore_slices(IMAGE, "PET")
    with pytest.raises(ServingFailed, match="unknown model"):
        RestorationClient(url, "no_such_model", deadline_s=5)
