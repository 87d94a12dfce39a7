"""The station's own files: flushed before they count, and damaged ones named in words instead of ending everything."""

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from components.promote import (
    account,
    audit,
    canary,
    paths,
    processes,
    registry,
    release,
    repository,
    server,
    status,
    supervisor,
    transport,
    verbs,
)
from components.promote.paths import Damaged, station
from components.promote.step import PromoteConfig
from mira.cli import main
from mira.errors import GateFailed, ServingFailed
from mira.storage import write_json
from tests.components.test_promote import first_serves


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


@pytest.fixture
def serving(config):
    """A station whose server is a process that only waits, with a release that has no model to ask."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    ticks = processes.start_ticks(process.pid)
    state = server.ServerState(
        pid=process.pid, ticks=ticks, url="127.0.0.1:1", repository=config.models, started="", shared_memory=""
    )
    write_json(config.server, state.model_dump(mode="json"))
    record = repository.ReleaseRecord(artifacts={}, decision_sha256="", promoted="", by="")
    repository.write_served(config, repository.Served(version=3, releases={3: record}))
    yield config
    process.kill()
    process.wait()


def test_what_is_served_is_on_the_disk_before_it_takes_the_old_record_s_place(config, monkeypatch):
    events = []
    flush, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("flushed") or flush(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("replaced") or replace(*paths))
    repository.write_served(config, repository.Served())
    assert events == ["flushed", "replaced", "flushed"]
    assert repository.read_served(config) == repository.Served()


DEEP = pytest.param(b"[" * 200_000, id="deep")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"version": "three"}', DEEP])
def test_a_damaged_record_of_what_is_served_is_named_and_what_to_do(config, content, capsys):
    config.models.mkdir(parents=True)
    config.served.write_bytes(content)
    with pytest.raises(ServingFailed, match=r"served\.json is damaged.*backup"):
        repository.read_served(config)
    where = ["--workspace", str(config.workspace), "--repository", str(config.repository)]
    assert main(["status", *where, "--tracking-uri", "off"]) == 5
    assert "mira status: " in capsys.readouterr().err


def test_a_damaged_state_of_the_server_is_not_taken_for_no_server(config):
    config.state.mkdir(parents=True)
    config.server.write_text("")
    with pytest.raises(ServingFailed, match=r"server\.json is damaged.*end tritonserver"):
        server.running(config)
    with pytest.raises(ServingFailed, match=r"server\.json is damaged"):
        status.read(config, "off")


def test_a_supervisor_outlives_damaged_files(config):
    config.models.mkdir(parents=True)
    config.state.mkdir(parents=True)
    for path in (config.served, config.server):
        path.write_text("{")
        watching = supervisor.Supervisor(config)
        watching.step()
        assert watching.counters.restarts == watching.counters.failed_recoveries == 0
        path.unlink()
    config.supervisor.write_text("{")
    with pytest.raises(ServingFailed, match="is damaged"):
        supervisor.running(config)


@pytest.mark.parametrize("content", [b"{", DEEP])
@pytest.mark.parametrize("name", ["served", "server"])
def test_while_a_file_is_damaged_the_figures_say_unhealthy_and_the_log_has_an_error(serving, name, content, caplog):
    watching = supervisor.Supervisor(serving, interval_s=0)
    watching.step()
    assert "mira_serving_healthy 1\n" in serving.metrics.read_text()
    path = getattr(serving, name)
    whole = path.read_bytes()
    path.write_bytes(content)
    watching.step()
    assert "mira_serving_healthy 0\n" in serving.metrics.read_text()
    assert "mira_serving_version 3\n" in serving.metrics.read_text()  # the one that was read last
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"{path} is damaged" in caplog.text
    path.write_bytes(whole)
    watching.step()
    assert "mira_serving_healthy 1\n" in serving.metrics.read_text()


def test_a_damaged_file_is_named_once_a_round_and_not_at_every_look(serving, caplog):
    serving.server.write_text("{")
    watching = supervisor.Supervisor(serving)
    watching.step()
    watching.step()
    assert len(caplog.records) == 1


def test_a_repository_that_is_held_is_no_damage(serving):
    watching = supervisor.Supervisor(serving, interval_s=0)
    watching.step()
    with repository.locked(serving):
        watching.step()
    assert watching.counters.healthy


def test_a_supervisor_outlives_a_damaged_file_on_a_full_disk(serving, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(supervisor, "write_text", full)
    serving.served.write_text("{")
    watching = supervisor.Supervisor(serving)
    watching.step()
    assert not watching.counters.healthy


def test_a_supervisor_outlives_a_file_that_is_damaged_right_after_the_check(serving, monkeypatch):
    watching = supervisor.Supervisor(serving)
    monkeypatch.setattr(watching, "_check", lambda lost: serving.server.write_text("{"))
    watching.step()
    assert "mira_serving_healthy 0\n" in serving.metrics.read_text()


def not_allowed(*_arguments):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_record_that_may_not_be_read_is_named_and_the_figures_say_unhealthy(serving, monkeypatch, caplog, capsys):
    watching = supervisor.Supervisor(serving, interval_s=0)
    watching.step()
    assert "mira_serving_healthy 1\n" in serving.metrics.read_text()
    with monkeypatch.context() as patch:  # as root, no file is unreadable
        patch.setattr(paths, "read_json", not_allowed)
        watching.step()
        where = ["--workspace", str(serving.workspace), "--repository", str(serving.repository)]
        assert main(["status", *where, "--tracking-uri", "off"]) == 5
    assert "cannot be read by this account" in caplog.text
    assert "cannot be read by this account" in capsys.readouterr().err
    assert "mira_serving_healthy 0\n" in serving.metrics.read_text()


def test_other_trouble_with_the_disk_leaves_no_stale_figures(serving, monkeypatch):
    watching = supervisor.Supervisor(serving, interval_s=0)
    watching.step()
    with monkeypatch.context() as patch:
        patch.setattr(repository, "locked", not_allowed)
        watching.step()
    assert "mira_serving_healthy 0\n" in serving.metrics.read_text()


def test_the_log_says_when_the_server_is_down_and_stays_so_while_a_file_is_damaged(serving, caplog):
    serving.served.write_text("{")
    watching = supervisor.Supervisor(serving, interval_s=0)
    watching.step()
    assert "is not started" not in caplog.text
    os.kill(server.running(serving).pid, signal.SIGKILL)
    ends = time.monotonic() + 30
    while server.running(serving) is not None and time.monotonic() < ends:  # a busy machine takes its time to end it
        time.sleep(0.05)
    watching.step()
    assert "Until then nothing is supervised, and the server, which is not running, is not started." in caplog.text


def test_a_supervisor_outlives_an_error_that_nobody_foresaw(serving, monkeypatch, caplog):
    watching = supervisor.Supervisor(serving, interval_s=0)
    watching.step()
    with monkeypatch.context() as patch:
        patch.setattr(release, "unhealthy", lambda *_: {}["Doe^Jane"])
        watching.step()
    assert "unexpected: KeyError at " in caplog.text
    assert "Doe" not in caplog.text
    assert "mira_serving_healthy 0\n" in serving.metrics.read_text()
    watching.step()
    assert "mira_serving_healthy 1\n" in serving.metrics.read_text()


def damaged(whole, way):
    """A canary file with some damage."""
    if way == "compression":  # the archive says that its first array is packed in a way that nobody knows
        place = whole.index(b"PK\1\2") + 10
        return whole[:place] + b"\x63" + whole[place + 1 :]
    if way == "array":
        stream = io.BytesIO()
        np.save(stream, np.zeros(3))
        return stream.getvalue()
    return {"cut": whole[:1000], "empty": b"", "rubbish": b"rubbish", "none": b"PK\5\6" + bytes(18)}[way]


@pytest.mark.parametrize("way", ["cut", "empty", "rubbish", "none", "array", "compression", "gone"])
def test_damaged_canaries_are_an_ill_model_and_stop_neither_the_supervisor_nor_a_change(tmp_path, serving, way, caplog):
    served = first_serves(serving, tmp_path / "1")
    path = serving.models / "mira_net" / "1" / canary.FILE
    whole = path.read_bytes()
    path.unlink()
    if way != "gone":
        path.write_bytes(damaged(whole, way))
    with pytest.raises(ServingFailed, match=r"canary\.npz is damaged.*[Pp]romote.*roll back"):
        canary.load(path)
    assert list(release.unhealthy(serving, "127.0.0.1:1", served)) == ["mira_net"]
    state = server.running(serving)
    watching = supervisor.Supervisor(serving)
    watching.step()
    assert (watching.counters.healthy, watching.counters.failed_recoveries) == (False, 1)
    assert "canary.npz is damaged" in caplog.text
    assert release.serve_for_change(serving) == state  # the server was left alone, and the next version can come


@pytest.mark.parametrize("content", [b"{", DEEP])
def test_a_server_can_be_stopped_while_the_record_of_what_it_serves_is_damaged(serving, content):
    serving.served.write_bytes(content)
    assert main(["serve", "--stop", "--workspace", str(serving.workspace), "--repository", str(serving.models)]) == 0
    assert server.running(serving) is None
    (line,) = audit.read(serving.audit)
    assert (line.what, line.outcome, line.before) == ("stop", "done", None)
    assert "served.json is damaged" in line.why
    assert audit.verify(serving.audit) == ""


@pytest.mark.parametrize("what", ["promote", "rollback", "serve", "approve"])
def test_nothing_else_is_done_while_it_is_damaged(serving, what):
    serving.served.write_text("{")
    with pytest.raises(ServingFailed, match="is damaged"), account.audited(serving, what, ""):
        pytest.fail("it was begun")
    assert audit.read(serving.audit) == []


def test_a_refusal_is_told_and_recorded_while_it_is_damaged(serving):
    serving.served.write_text("{")
    with pytest.raises(GateFailed, match="gains nothing"), account.refusals_recorded(serving, "promote", "me"):
        raise GateFailed("The network gains nothing.")
    (line,) = audit.read(serving.audit)
    assert (line.outcome, line.before, line.why) == ("failed", None, "The network gains nothing.")


def test_a_damaged_choice_of_repository_or_connection_is_named_and_what_to_do(config):
    for path in (config.remembered, config.transport):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    with pytest.raises(Damaged, match="--repository DIR"):
        station(config.workspace)
    with pytest.raises(Damaged, match="mira serve --help"):
        transport.chosen(config)


@pytest.mark.parametrize("foreground", [False, True])
def test_a_change_that_was_cut_off_while_mlflow_is_away_leaves_the_server_supervised(
    serving, monkeypatch, capsys, foreground
):
    state = server.running(serving)
    monkeypatch.setattr(verbs, "serve", lambda *_: state)
    supervised = []
    monkeypatch.setattr(supervisor, "start", supervised.append)
    monkeypatch.setattr(supervisor, "supervise_here", supervised.append)
    audit.append(serving.audit, "promote", "begun", version=4, before=3)
    where = ["--workspace", str(serving.workspace), "--repository", str(serving.models)]
    more = ["--foreground"] if foreground else []
    assert main(["serve", *where, *more, "--tracking-uri", "http://127.0.0.1:9"]) == 0
    assert len(supervised) == 1
    assert "is not settled in MLflow yet" in capsys.readouterr().out
    assert [record.what for record in audit.read(serving.audit)] == ["promote", "serve"]
    assert "not settled" in audit.read(serving.audit)[-1].why
    monkeypatch.setattr(registry, "move_champion", lambda *_: None)  # it is back
    assert main(["serve", *where, *more, "--tracking-uri", "http://127.0.0.1:9"]) == 0
    assert [record.outcome for record in audit.read(serving.audit) if record.what == "promote"] == ["begun", "failed"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Make room at"),
        (errno.EDQUOT, "Make room at"),
        (errno.EACCES, "Let this account write to"),
        (errno.EROFS, "Let this account write to"),
        (errno.EIO, "Look at the disks of"),
    ],
)
def test_a_disk_that_refuses_is_told_with_what_helps(config, number, words):
    expected = f"what served before serves on. {words} {config.models}"
    with pytest.raises(ServingFailed, match=expected), account.disk_has_room(config):
        raise OSError(number, os.strerror(number), "/somewhere")


def test_the_command_for_production_loads_every_network_that_serves(tmp_path):
    (line,) = [
        one for one in (paths.ROOT / "triton_repo" / "README.md").read_text().splitlines() if "python3 -c" in one
    ]
    command = line.strip().removeprefix("models=$(").removesuffix(")").replace("/models", str(tmp_path))
    records = {
        number: repository.ReleaseRecord(artifacts=dict.fromkeys(names, "0"), decision_sha256="", promoted="", by="")
        for number, names in ((1, ["mira_net", "mira_net_mri"]), (2, ["mira_net", "mira_net_ct"]))
    }
    where = paths.ServingPaths(workspace=tmp_path, repository=tmp_path)
    repository.write_served(where, repository.Served(version=2, releases=records))
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["--load-model=mira_net", "--load-model=mira_net_ct"]
