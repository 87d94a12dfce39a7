"""A share of the series without a server: what of a candidate is checked on disk, and what `finish` promotes."""

import argparse
import json
from dataclasses import replace

import pytest

from components.promote import audit, candidate, registry, repository, share, share_verb, step
from components.promote import exported as exported_files
from components.promote import switch as switching
from components.promote.exported import Exported, read_release
from components.promote.repository import CandidateRecord, ReleaseRecord, Served
from components.promote.step import PromoteConfig
from mira.client.share import candidate_of
from mira.errors import GateFailed, ServingFailed
from mira.storage import write_json
from tests.triton.tiny_network import make_release, sign

NAME = candidate_of("mira_net")


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


@pytest.fixture
def files(tmp_path, config):
    """Version 1 serves with onnxruntime, version 2 has a share and runs with openvino: the files of version 2."""
    first = read_release(*make_release(tmp_path / "1", 1))
    repository.stage(config, first.models[0], 1, {"engine": "onnxruntime", "precision": "f32", "threads": "1"})
    switch = switching.Switch(config)
    switch.move_in("mira_net", 1)
    switch.point("mira_net", 1)
    switch.finish()
    given = make_release(tmp_path / "2", 2, gain=0.2)
    second = read_release(*given)
    model = replace(second.models[0], name=NAME)
    folder = repository.stage(config, model, 2, {"engine": "openvino", "precision": "f32", "threads": "1"})
    folder.rename(config.models / NAME)
    repository.remove_candidates(config)
    record = CandidateRecord(
        version=2,
        share=0.1,
        since="now",
        artifacts={NAME: second.artifacts["mira_net"]},
        files=(str(given[0]), *given[1:]),
    )
    release = ReleaseRecord(artifacts=first.artifacts, decision_sha256=first.decision_sha256, promoted="now", by="me")
    repository.write_served(config, Served(version=1, since="now", releases={1: release}, candidate=record))
    return given


@pytest.fixture
def promoted(monkeypatch):
    """Parameters of the promotions that `finish` asks for."""
    asked = []
    monkeypatch.setattr(share, "promote_release", lambda *given: asked.append(given[-1]))
    return asked


def forge(path):
    path.write_text(path.read_text() + 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/x" } }')


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: forge(folder / "config.pbtxt"),
        lambda folder: forge(folder / "configs" / "cpu.pbtxt"),
        lambda folder: (folder / "triton_python_backend_stub").write_bytes(b"code"),
        lambda folder: (folder / "2" / "model.py").write_text("print('other code')"),
    ],
    ids=["configuration", "configuration of the CPU", "stub", "code"],
)
def test_a_candidate_that_was_changed_on_disk_is_neither_started_nor_promoted(config, files, promoted, change):
    assert candidate.unsound(config, repository.read_served(config)) == ""
    change(config.models / NAME)
    assert NAME in candidate.unsound(config, repository.read_served(config))
    assert set(candidate.ill(config, "127.0.0.1:1", repository.read_served(config))) == {NAME}
    with pytest.raises(ServingFailed):
        share.finish(config)
    assert promoted == []


def test_finish_keeps_what_the_share_ran_with(config, files, promoted):
    share.finish(config.model_copy(update={"engine": "onnxruntime", "precision": "bf16", "gpu": "fp16"}))
    assert [(one.engine, one.precision, one.gpu) for one in promoted] == [("openvino", "f32", "f32")]


def test_finish_refuses_another_version_and_records_it(tmp_path, config, files, promoted):
    make_release(tmp_path / "2", 3, gain=0.3)  # the export step ran again, and signed another version
    with pytest.raises(ServingFailed, match="holds version 3, not those of version 2"):
        share.finish(config)
    last = audit.read(config.audit)[-1]
    assert (last.what, last.outcome, last.version, last.before) == ("promote", "failed", 2, 1)
    assert promoted == []


def test_finish_refuses_another_network_under_the_same_version(tmp_path, config, files, promoted):
    make_release(tmp_path / "2", 2, gain=0.3)
    with pytest.raises(ServingFailed, match=f"other files of {NAME}"):
        share.finish(config)
    assert promoted == []


def test_finish_refuses_another_file_of_a_reduced_precision(config, files, tmp_path):
    found = repository.read_served(config).candidate
    (config.models / NAME / "2" / "model.int8.onnx").write_bytes(b"what has the share")
    (files[0] / "mira_net" / "model.int8.onnx").write_bytes(b"another quantisation")
    sign(tmp_path / "2", "mira_net")
    with pytest.raises(ServingFailed, match=f"other files of {NAME}"):
        share._check_same(config, found, read_release(*files))


def test_a_refused_start_leaves_a_record(tmp_path, config):
    exported, version, decision = make_release(tmp_path / "2", 2)
    signature = exported / "mira_net" / "signature.json"
    document = json.loads(signature.read_text())
    write_json(signature, document | {"hmac_sha256": "0" * 64})
    with pytest.raises(ServingFailed, match="changed after it was signed"):
        share.start(exported, version, decision, 0.1, config.model_copy(update={"by": "A. Person"}))
    (last,) = audit.read(config.audit)
    assert (last.what, last.outcome, last.who) == ("canary-start", "failed", "A. Person")
    assert "changed after it was signed" in last.why
    write_json(decision / "decision.json", {"approved": False})
    with pytest.raises(GateFailed):
        share.start(exported, version, decision, 0.1, config)
    assert len(audit.read(config.audit)) == 2


def test_finish_reads_the_export_once(config, files, monkeypatch):
    read, real = [], exported_files._read

    def stop_here(*_):
        raise ServingFailed("far enough")

    monkeypatch.setattr(exported_files, "_read", lambda *given: read.append(given) or real(*given))
    monkeypatch.setattr(step.release, "serve_for_change", stop_here)
    with pytest.raises(ServingFailed, match="far enough"):
        share.finish(config)
    assert len(read) == 1
    assert [record.outcome for record in audit.read(config.audit)] == ["begun", "failed"]


def test_a_share_starts_with_what_serves_unless_told_otherwise(config, files, monkeypatch):
    record = repository.read_served(config)
    repository.write_served(config, record.model_copy(update={"candidate": None}))
    monkeypatch.setattr(share.release, "serve", lambda *_: argparse.Namespace(url="127.0.0.1:1"))
    seen = []

    def stop_here(config, *_):
        seen.append((config.engine, config.precision, config.gpu))
        raise ServingFailed("far enough")

    monkeypatch.setattr(share, "_stage", stop_here)
    for more in ({}, {"engine": "openvino"}):
        given = PromoteConfig(workspace=config.workspace, repository=config.repository, tracking_uri="off", **more)
        with pytest.raises(ServingFailed, match="far enough"):
            share.start(*files, 0.1, given)
    assert seen == [("onnxruntime", "f32", "f32"), ("openvino", "f32", "f32")]


def test_the_verb_gives_only_what_was_chosen(config, files, monkeypatch):
    parser = argparse.ArgumentParser()
    share_verb.add_canary(parser.add_subparsers())
    seen = []

    def start(*given):
        seen.append(given[-1])
        raise ServingFailed("far enough")

    monkeypatch.setattr(share, "start", start)
    config.workspace.mkdir(parents=True, exist_ok=True)
    places = ["--version", str(files[1]), "--decision", str(files[2]), "--workspace", str(config.workspace)]
    for more in ([], ["--precision", "bf16", "--gpu", "plan"]):
        arguments = parser.parse_args(["canary", "start", str(files[0]), *places, *more])
        with pytest.raises(ServingFailed, match="far enough"):
            arguments.run(arguments)
    chosen = {"engine", "precision", "gpu"}
    assert [one.model_fields_set & chosen for one in seen] == [set(), {"precision", "gpu"}]


@pytest.mark.parametrize("gpu", ["f32", "fp16", "plan"])
def test_what_serves_is_read_as_the_promotion_was_told(tmp_path, config, gpu, monkeypatch):
    model = read_release(*make_release(tmp_path, 1)).models[0]
    file = {"f32": "model.onnx", "plan": "model.plan"}.get(gpu, f"model.{gpu}.onnx")
    (model.folder / file).touch()
    monkeypatch.setattr(
        Exported, "file_of", lambda self, engine, _: (file if engine != "openvino" else "model.onnx", {})
    )
    parameters = {"engine": "openvino", "precision": "bf16", "threads": "1", "gpu": gpu}
    repository.stage(config, model, 1, parameters).rename(config.models / "mira_net")
    assert repository.served_as(config, "mira_net") == {"engine": "openvino", "precision": "bf16", "gpu": gpu}
    assert repository.serves_with(config, "mira_net", parameters)
    assert not repository.serves_with(config, "mira_net", parameters | {"gpu": "int8"})
    assert repository.serves_with(config, "mira_net", {"precision": "bf16"}) == (gpu == "f32")
