"""Which engine, precision and GPU file a promotion takes that does not name them."""

import shutil

import pytest

from components.promote import registry, repository, verbs
from components.promote import switch as switching
from components.promote.choice import keep_what_serves
from components.promote.exported import read_release
from components.promote.step import PromoteConfig
from mira.cli import main
from mira.errors import ServingFailed
from tests.triton.tiny_network import make_release, with_engines

PLAN = ("tensorrt", "fp16", "model.plan")


def configured(tmp_path, **given):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF, **given)


def choice(config):
    return config.engine, config.precision, config.gpu


@pytest.fixture
def serve(tmp_path):
    """Puts version 1 on disk as served, with the given parameters."""

    def put(**parameters):
        config = configured(tmp_path)
        first = read_release(*with_engines(tmp_path / "1", others=[PLAN]))
        repository.stage(config, first.models[0], 1, {"engine": "openvino", "threads": "1", **parameters})
        switch = switching.Switch(config)
        switch.move_in("mira_net", 1)
        switch.point("mira_net", 1)
        switch.finish()
        release = repository.ReleaseRecord(artifacts=first.artifacts, decision_sha256="", promoted="now", by="me")
        repository.write_served(config, repository.Served(version=1, since="now", releases={1: release}))

    return put


def test_the_first_promotion_has_the_defaults(tmp_path):
    config, words = keep_what_serves(configured(tmp_path), read_release(*with_engines(tmp_path / "1")))
    assert (choice(config), words) == (("openvino", "f32", "f32"), "")


def test_what_serves_is_kept_where_the_new_version_stood_it(tmp_path, serve):
    serve(precision="int8", gpu="plan")
    second = read_release(*with_engines(tmp_path / "2", 2, others=[PLAN]))
    config, words = keep_what_serves(configured(tmp_path), second)
    assert (choice(config), words) == (("openvino", "int8", "plan"), "")


def test_otherwise_it_is_f32_and_said_in_one_line(tmp_path, serve):
    serve(precision="int8", gpu="plan")
    second = read_release(*make_release(tmp_path / "2", 2, models=("mira_net", "mira_net_ct")))
    config, words = keep_what_serves(configured(tmp_path), second)
    assert choice(config) == ("openvino", "f32", "f32")
    assert "openvino int8 on a CPU serves, but mira_net, mira_net_ct of version 2 did not stand" in words
    assert "plan on a GPU serves" in words
    assert "\n" not in words
    half, words = keep_what_serves(configured(tmp_path), read_release(*with_engines(tmp_path / "3", 3)))
    assert choice(half) == ("openvino", "int8", "f32")
    assert "on a CPU" not in words


@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_not_as_it_was_sealed_decides_nothing_and_stops_nothing(tmp_path, serve, sealed):
    serve(precision="int8")
    folder = tmp_path / "models" / "mira_net"
    changed = folder / ("1/release" if sealed else ".") / "configs" / "cpu.pbtxt"
    changed.write_text("{{{")
    config, words = keep_what_serves(configured(tmp_path), read_release(*with_engines(tmp_path / "2", 2)))
    assert config.precision == ("f32" if sealed else "int8")
    assert ("not as it was promoted" in words) == sealed


def test_what_is_named_is_taken_or_refused(tmp_path, serve):
    serve(precision="int8")
    second = read_release(*make_release(tmp_path / "2", 2))
    config, words = keep_what_serves(configured(tmp_path, precision="int8"), second)
    assert (config.precision, words) == ("int8", "")
    with pytest.raises(ServingFailed, match="openvino int8 may not be served"):
        repository.stage(config, second.models[0], 2, config.backend_parameters())
    config, words = keep_what_serves(configured(tmp_path, precision="f32", gpu="f32"), second)
    assert (choice(config), words) == (("openvino", "f32", "f32"), "")


def test_an_engine_that_serves_gives_way_to_a_precision_that_is_named(tmp_path, serve):
    serve(engine="onnxruntime")
    second = read_release(*with_engines(tmp_path / "2", 2))
    assert choice(keep_what_serves(configured(tmp_path), second)[0]) == ("onnxruntime", "f32", "f32")
    config, words = keep_what_serves(configured(tmp_path, precision="int8"), second)
    assert choice(config) == ("openvino", "int8", "f32")
    assert "onnxruntime int8 on a CPU" in words


def test_a_file_that_was_swapped_after_its_check_is_not_staged(tmp_path, monkeypatch):
    release = read_release(*with_engines(tmp_path / "1"))
    real = shutil.copyfile

    def swapped(source, target):
        real(source, target)
        if target.name == "model.int8.onnx":
            target.write_bytes(b"another network")

    monkeypatch.setattr(repository.shutil, "copyfile", swapped)
    with pytest.raises(ServingFailed, match=r"model\.int8\.onnx is missing or was changed"):
        repository.stage(configured(tmp_path), release.models[0], 1, {"precision": "int8", "threads": "1"})


@pytest.mark.parametrize("name", ["metadata.json", "signature.json"])
def test_metadata_that_were_exchanged_while_they_were_copied_are_not_staged(tmp_path, monkeypatch, name):
    release = read_release(*make_release(tmp_path / "1", 1))
    other = make_release(tmp_path / "2", 2)[0] / "mira_net" / name  # signed, too, as another version
    real = shutil.copyfile
    monkeypatch.setattr(
        repository.shutil, "copyfile", lambda source, target: real(other if target.name == name else source, target)
    )
    with pytest.raises(ServingFailed, match=r"metadata\.json or its signature was exchanged"):
        repository.stage(configured(tmp_path), release.models[0], 1, {"threads": "1"})


def test_the_verb_gives_only_what_was_chosen(tmp_path, monkeypatch):
    exported, version, decision = make_release(tmp_path / "1", 1)
    seen = []

    def stop_here(*given):
        seen.append(given[-1])
        raise ServingFailed("far enough")

    monkeypatch.setattr(verbs, "promote", stop_here)
    where = ["--version", str(version), "--decision", str(decision), "--workspace", str(tmp_path / "ws")]
    for more in ([], ["--engine", "onnxruntime", "--gpu", "plan"]):
        assert main(["promote", str(exported), *where, *more]) == 5
    chosen = {"engine", "precision", "gpu"}
    assert [one.model_fields_set & chosen for one in seen] == [set(), {"engine", "gpu"}]
