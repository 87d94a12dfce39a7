"""What a workspace remembers of its promotions, and how the verbs go by it."""

import pytest

from components.promote import audit, registry, release, repository, rollback, server, share, status, where
from components.promote.paths import Remembered, station
from components.promote.step import PromoteConfig, promote, promote_of_run
from components.promote.triton import TritonAdmin
from mira.cli import main
from mira.errors import ConfigurationError, GateFailed, ServingFailed
from mira.storage import write_json
from tests.components.test_promote import first_serves
from tests.triton.tiny_network import make_release

PRODUCTION = "127.0.0.1:1"


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


@pytest.fixture
def verb(config):
    where_ = ["--workspace", str(config.workspace), "--repository", str(config.repository), "--tracking-uri", "off"]
    return lambda *words: main([*words, *where_])


def test_the_server_elsewhere_is_remembered_with_its_repository_and_old_records_are_read(tmp_path, config):
    assert config.elsewhere() == ""
    write_json(config.remembered, {"repository": str(config.models)})  # as was written before
    assert (config.elsewhere(), station(config.workspace).repository) == ("", config.models)
    where.remember(config, PRODUCTION)
    assert config.elsewhere() == PRODUCTION
    config.remember()  # what is not given stays
    assert config.recall() == Remembered(repository=config.models, url=PRODUCTION)
    assert config.model_copy(update={"repository": tmp_path / "other"}).elsewhere() == ""  # it serves another one
    assert [where.chosen(config, given) for given in (None, "embedded", "a:1")] == [PRODUCTION, "", "a:1"]
    where.remember(config, "")
    assert config.elsewhere() == ""


def test_a_promotion_that_succeeded_is_what_is_remembered(tmp_path, config, monkeypatch):
    first_serves(config, tmp_path / "1")
    production = config.model_copy(update={"url": PRODUCTION, "load_timeout_s": 5})
    with pytest.raises(ServingFailed):
        promote(*make_release(tmp_path / "2", 2), tmp_path / "out", production)
    assert config.elsewhere() == ""
    monkeypatch.setattr(release, "unhealthy", lambda *_: {})
    assert not promote(
        *make_release(tmp_path / "1", 1),
        tmp_path / "out",
        production.model_copy(update={"engine": "openvino", "threads": 1}),
    ).changed
    assert config.elsewhere() == PRODUCTION


def test_levers_for_the_embedded_server_refuse_where_production_is_elsewhere(tmp_path, config, verb, capsys):
    first_serves(config, tmp_path / "1")
    where.remember(config, PRODUCTION)
    assert verb("serve") == 2
    assert f"was promoted to that at {PRODUCTION}" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="A share is for the server that"):
        share.start(*make_release(tmp_path / "2", 2), 0.1, config)
    assert server.running(config) is None
    assert audit.read(config.audit) == []
    assert verb("serve", "--stop") == 0


def test_a_rollback_goes_where_the_promotion_went_or_refuses(tmp_path, config, verb, capsys, monkeypatch):
    first_serves(config, tmp_path / "1")
    where.remember(config, PRODUCTION)
    assert verb("rollback", "--to", "1") == 5
    assert f"No Triton answers at {PRODUCTION}" in capsys.readouterr().err
    assert server.running(config) is None
    monkeypatch.setattr(TritonAdmin, "live", lambda self: True)
    asked = []

    def switch(admin, *_, embedded, **__):
        asked.append((admin.url, embedded))
        return repository.read_served(config)

    monkeypatch.setattr(release, "switch_to", switch)
    assert rollback.rollback(config, 1, "off").url == PRODUCTION
    assert verb("rollback", "--to", "1", "--url", "127.0.0.1:2") == 0
    assert asked == [(PRODUCTION, False), ("127.0.0.1:2", False)]
    assert config.elsewhere() == "127.0.0.1:2"


def test_status_asks_the_server_elsewhere(tmp_path, config):
    first_serves(config, tmp_path / "1")
    where.remember(config, PRODUCTION)
    seen = status.read(config, "off")
    assert (seen.url, seen.elsewhere, seen.running, seen.answers) == (PRODUCTION, True, False, False)
    assert f"Triton at {PRODUCTION} does not answer" in "".join(seen.disagreements)
    assert f"server       {PRODUCTION}, not started here, does NOT answer" in status.describe(seen)


def test_the_verbs_ask_for_a_person_where_the_runs_do(tmp_path, config, verb, capsys):
    exported, version, decision = make_release(tmp_path / "1", 1)
    by_run = PromoteConfig(**config.model_dump(include={"workspace", "repository", "tracking_uri"}), approval="manual")
    with pytest.raises(GateFailed):
        promote_of_run(exported, version, decision, tmp_path / "out", by_run)
    assert config.approval_of_runs() == "manual"
    given = [str(exported), "--version", str(version), "--decision", str(decision)]
    assert verb("promote", *given) == 4
    assert "waits for a person" in capsys.readouterr().err
    first_serves(config, tmp_path / "0")
    second, version, decision = make_release(tmp_path / "2", 2, gain=0.3)
    given = [str(second), "--version", str(version), "--decision", str(decision)]
    assert verb("canary", "start", *given) == 4
    assert "waits for a person" in capsys.readouterr().err
    unnamed = PromoteConfig(workspace=config.workspace, repository=tmp_path / "other", tracking_uri=registry.OFF)
    with pytest.raises(GateFailed):
        promote_of_run(*make_release(tmp_path / "3", 3, approved=False), tmp_path / "out", unnamed)
    assert config.approval_of_runs() == "manual"  # a run that does not name it changes nothing
    assert config.recall().repository == config.models
    with pytest.raises(GateFailed):
        named = unnamed.model_copy(update={"approval": "automatic"})
        promote_of_run(*make_release(tmp_path / "3", 3, approved=False), tmp_path / "out", named)
    assert config.approval_of_runs() == "automatic"


def test_an_automatic_approval_by_hand_is_taken_and_stands_in_the_trail(tmp_path, config, verb, monkeypatch):
    def stop_here(*_):
        raise ServingFailed("far enough")

    monkeypatch.setattr(release, "serve_for_change", stop_here)
    exported, version, decision = make_release(tmp_path / "1", 1)
    given = [str(exported), "--version", str(version), "--decision", str(decision), "--why", "night shift"]
    for policy, more, code, says in (
        ("automatic", [], 5, False),
        ("manual", [], 4, False),
        ("manual", ["--approval", "automatic"], 5, True),
    ):
        config.remember_approval(policy)
        assert verb("promote", *given, *more) == code
        begun, failed = audit.read(config.audit)[-2:]
        assert ("this workspace's runs ask for a person's" in begun.why) is says
        assert begun.why.startswith("night shift")
        assert failed.outcome == "failed"
