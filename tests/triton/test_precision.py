"""Serving another precision than f32: only what stood the export's test, and proved by canaries with its tolerance."""

import numpy as np
import pytest

from components.promote import canary, config_files, registry, repository, status
from components.promote.exported import read_release
from components.promote.step import promote
from mira.errors import ServingFailed
from mira.storage import hash_file, read_json, write_json
from mira.tasks import Modality
from tests.triton.own_server import with_server
from tests.triton.station import Station
from tests.triton.tiny_network import make_release, sign, tiny_network

INT8 = ("openvino", "int8", "model.int8.onnx")
PROFILES = [
    {"min": [1, 32, 48], "opt": [8, 256, 320], "max": [8, 512, 320]},
    {"min": [1, 32, 32], "opt": [8, 256, 320], "max": [8, 1024, 1024]},
]


def with_engines(root, version=1, share=0.05, gain=0.12, others=()):
    """A release with an int8 file of its own, whose network is a little off, and its entry in metadata.json."""
    files = make_release(root, version)
    network = files[0] / "mira_net"
    entries = []
    for engine, precision, file in (INT8, *others):
        if file.endswith(".plan"):
            (network / file).write_bytes(b"an engine")
        else:
            tiny_network(network / file, gain)
        tolerances = {modality.value: share for modality in Modality}
        facts = {"engine": engine, "precision": precision, "file": file, "sha256": hash_file(network / file)}
        entries.append({**facts, "canary_tolerance": tolerances})
    metadata = read_json(network / "metadata.json")
    write_json(network / "metadata.json", {**metadata, "engines": entries, "profiles": PROFILES})
    sign(root, "mira_net")
    return files


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
        far = with_engines(tmp_path / "far", version=2, share=1e-3)
        with pytest.raises(ServingFailed, match="answers a CT canary wrongly"):
            promote(*far, tmp_path / "out", config.model_copy(update={"precision": "int8"}))
        assert np.array_equal(station.answer()[1], after)
