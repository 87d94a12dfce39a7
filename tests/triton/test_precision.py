"""Serving another precision than f32: only what stood the export's test, and proved by canaries with its tolerance."""

import numpy as np
import pytest

from components.promote import audit, canary, config_files, registry, repository, status
from components.promote.exported import read_release
from components.promote.step import promote
from mira.errors import ServingFailed
from mira.storage import read_json
from tests.triton.own_server import with_server
from tests.triton.station import Station
from tests.triton.tiny_network import make_release, with_engines


def staged(station, files, **parameters):
    release = read_release(*files)
    return repository.stage(station.config, release.models[0], 1, {"engine": "openvino", "threads": "1", **parameters})


def test_only_what_stood_the_exports_test_can_be_chosen(tmp_path):
    station, files = Station(tmp_path), with_engines(tmp_path / "release")
    with pytest.raises(ServingFailed, match=r"openvino bf16 may not be served.*These did: openvino int8"):
        staged(station, files, precision="bf16")
    with pytest.raises(ServingFailed, match="onnxruntime int8 may not be served"):
        staged(station, files, engine="onnxruntime", precision="int8")
    with pytest.raises(ServingFailed, match="tensorrt plan may not be served"):
        staged(station, files, gpu="plan")
    (files[0] / "mira_net" / "model.int8.onnx").write_bytes(b"changed")
    with pytest.raises(ServingFailed, match=r"signed for something else|changed after its export"):
        staged(station, files, precision="int8")


def test_the_chosen_file_is_staged_with_the_canaries_tolerance(tmp_path):
    station = Station(tmp_path)
    folder = staged(station, with_engines(tmp_path / "release"), precision="int8")
    parameters = config_files.parse(folder / config_files.CPU_CONFIG).parameters
    assert (parameters["precision"].string_value, parameters["file"].string_value) == ("int8", "model.int8.onnx")
    assert config_files.engine_of(config_files.parse(folder / config_files.CPU_CONFIG)) == "openvino int8"
    assert "gpu" not in parameters
    assert (folder / "1" / "model.int8.onnx").is_file()
    questions = canary.load(folder / "1" / canary.FILE)
    assert [one.slack for one in questions] == [pytest.approx(0.05)] * len(questions)
    plain = staged(station, with_engines(tmp_path / "plain"))
    assert not (plain / "1" / "model.int8.onnx").exists()
    assert {one.slack for one in canary.load(plain / "1" / canary.FILE)} == {0.0}
    assert config_files.parse(plain / config_files.CPU_CONFIG).parameters["file"].string_value == "model.onnx"


def test_a_gpu_serves_a_graph_or_an_engine_with_the_sites_profiles(tmp_path):
    station = Station(tmp_path)
    others = [("onnxruntime", "fp16", "model.fp16.onnx"), ("tensorrt", "fp16", "model.plan")]
    files = with_engines(tmp_path / "release", others=others)
    folder = staged(station, files, gpu="fp16")
    config = config_files.parse(folder / config_files.CONFIG)
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.fp16.onnx")
    shapes = config.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters
    assert "image:8x1x1024x1024," in shapes["trt_profile_max_shapes"]
    assert "image:8x1x256x320," in shapes["trt_profile_opt_shapes"]
    assert "instruction:1x4" in shapes["trt_profile_min_shapes"]
    folder = staged(station, files, gpu="plan")
    config = config_files.parse(folder / config_files.CONFIG)
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert config_files.engine_of(config) == "tensorrt model.plan"
    assert config.default_model_filename == "model.plan"
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert not config.HasField("optimization")
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine"
    cpu = config_files.parse(folder / config_files.CPU_CONFIG)
    assert cpu.parameters["file"].string_value == "model.onnx"


@pytest.mark.triton
@pytest.mark.slow
@with_server
def test_int8_serves_after_f32_and_one_that_is_too_far_off_does_not(tmp_path):
    files = with_engines(tmp_path / "release")
    with Station(tmp_path) as station:
        config = station.config.model_copy(update={"engine": "openvino"})
        promote(*files, tmp_path / "out", config)
        before = station.answer()[1]
        assert status.read(config, registry.OFF).engines == {"mira_net": "openvino f32"}
        summary = promote(*files, tmp_path / "out", config.model_copy(update={"precision": "int8"}))
        assert summary.changed  # the same version, but another precision
        after = station.answer()[1]
        assert np.abs(after - before).max() > 1
        assert "mira_net version 1, openvino int8" in status.describe(status.read(config, registry.OFF))
        assert not promote(*files, tmp_path / "out", config.model_copy(update={"precision": "int8"})).changed
        assert not promote(*files, tmp_path / "out", config).changed  # what is not named stays
        far = with_engines(tmp_path / "far", version=2, share=1e-3)
        with pytest.raises(ServingFailed, match="answers a CT canary wrongly"):
            promote(*far, tmp_path / "out", config.model_copy(update={"precision": "int8"}))
        assert np.array_equal(station.answer()[1], after)
        third = promote(*with_engines(tmp_path / "third", version=3), tmp_path / "out", config)
        assert (third.version, third.fell_back) == (3, "")
        assert status.read(config, registry.OFF).engines == {"mira_net": "openvino int8"}
        fourth = promote(*make_release(tmp_path / "fourth", 4), tmp_path / "out", config)
        assert fourth.fell_back.startswith("openvino int8 on a CPU serves, but mira_net of version 4 did not stand")
        assert read_json(tmp_path / "out" / "promotion.json")["fell_back"] == fourth.fell_back
        assert audit.read(config.audit)[-1].why == fourth.fell_back
        found = status.read(config, registry.OFF)
        assert (found.engines, found.disagreements) == ({"mira_net": "openvino f32"}, [])
