import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from components.export import step
from components.export.config import DEFAULTS, ExportConfig, Precision
from components.export.engines import FILES, OpenVinoSession
from components.export.parity import Difference, Probe, held_out, resized
from components.export.step import expectations, export
from components.export.verdict import Verdict
from components.promote import signing
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.pairs import read_index
from mira.storage import hash_file, read_json, write_json
from mira.tasks import Modality, Task
from mira.volume import read_nifti, write_nifti
from model.checkpoint import Checkpoint, save_checkpoint
from model.export import OnnxSession, random_restorer
from model.restorer import Restorer
from tests.components.made_up import make_network as little_network
from tests.components.made_up import make_pairs

pytestmark = pytest.mark.timeout(1800)  # a network is traced twice, which takes minutes on a busy machine

# int8 of random weights is far from f32; what it is on trained ones is in docs/reference/engines.md
LOOSE = dict.fromkeys(DEFAULTS[Precision.INT8], 1000000.0)
EVERYTHING = ExportConfig(precisions=list(Precision), calibration_slices=6, tolerances={"int8": LOOSE})


def make_network(folder, network, seed=0):
    """A checkpoint of size tiny with random weights: the export traces a size once for all tests of a process."""
    folder.mkdir(parents=True)
    tasks = tuple(Task) if network == "unified" else (Task(network),)
    restorer = random_restorer("tiny", seed)
    shape = restorer.network.config
    save_checkpoint(folder, restorer.network, Checkpoint(network, "tiny", tasks, shape, "0.1.0", "0123456789abcdef"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def signing_key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRA_SIGNING_KEY", "a signing key for tests only, long enough")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    make_pairs(root / "pairs", patients=1, sites=(("alpha", "test"), ("beta", "train")))
    names = ("unified", "pet-synthesis")
    networks = [make_network(root / name, name, seed=seed) for seed, name in enumerate(names)]
    write_json(
        root / "version" / "version.json",
        {
            "name": "mira_net",
            "version": 7,
            "code_version": "abc",
            "lineage_sha256": "f" * 64,
            "networks": {
                name: {"weights_sha256": hash_file(folder / "model.safetensors"), "run_id": f"run-{name}"}
                for name, folder in zip(names, networks, strict=True)
            },
        },
    )
    summary = export(networks, root / "version", root / "pairs", root / "out", EVERYTHING)
    return root, networks, summary


def test_each_network_becomes_a_served_model(made):
    root, _, summary = made
    assert set(summary.models) == {"mira_net", "mira_net_pet"}
    assert summary.version == 7
    for name, digest in summary.models.items():
        metadata = read_json(root / "out" / name / "metadata.json")
        assert metadata["onnx_sha256"] == digest == hash_file(root / "out" / name / "model.onnx")
        assert metadata["version"] == 7
        assert metadata["instruction_dim"] == 32
        assert "research use only" in metadata["intended_use"]
        assert [1, 33, 47] in metadata["tested_sizes"]
    assert read_json(root / "out" / "mira_net_pet" / "metadata.json")["tasks"] == ["pet-synthesis"]
    assert read_json(root / "out" / "mira_net_pet" / "metadata.json")["training_run"] == "run-pet-synthesis"


def test_a_network_that_the_gate_left_out_is_not_exported(made, tmp_path):
    root, networks, _ = made
    version = read_json(root / "version" / "version.json") | {"left_out": {"pet-synthesis": ["gain-test"]}}
    write_json(tmp_path / "version.json", version)
    summary = export(networks, tmp_path / "version.json", root / "pairs", tmp_path / "out", ExportConfig())
    assert list(summary.models) == ["mira_net"]
    assert not (tmp_path / "out" / "mira_net_pet").exists()


def test_a_network_that_sees_neighbours_is_refused_before_any_work(tmp_path):
    make_pairs(tmp_path / "pairs", patients=1, sites=(("alpha", "test"),), tasks=(Task.CT_DENOISING,))
    folder = little_network(tmp_path / "three", "unified", slices=3)
    write_json(tmp_path / "version.json", {"version": 7, "networks": {}})
    with pytest.raises(ConfigurationError, match=r"sees 3 slices .*server takes single slices.*mira restore --weights"):
        export([folder], tmp_path / "version.json", tmp_path / "pairs", tmp_path / "out", ExportConfig())
    assert not (tmp_path / "out").exists()


def test_parity_is_told_in_native_units(made):
    root, _, summary = made
    report = read_json(root / "out" / "parity.json")
    assert set(report["models"]["mira_net"]["by_unit"]) == {"HU", "SUVbw", "mr_scale"}
    assert set(report["models"]["mira_net_pet"]["by_unit"]) == {"SUVbw"}
    for name, model in report["models"].items():
        assert model["largest_difference"] == summary.largest_difference[name] < 1e-5
        for values in model["by_unit"].values():
            assert values["largest"] <= values["tolerance"]


def test_outside_tolerance_nothing_is_written_and_the_worst_slice_is_named(made, tmp_path):
    root, networks, _ = made
    config = ExportConfig(precisions=["f32"], tolerances={"f32": {"hu": 1e-9}})
    with pytest.raises(ServingFailed, match=r"mira_net: onnxruntime f32 .* HU on (.*slice \d+|\d+x1x\d+x\d+); allowed"):
        export(networks, root / "version", root / "pairs", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_each_precision_that_passed_is_listed_with_its_file_and_figures(made):
    root, _, summary = made
    for name in ("mira_net", "mira_net_pet"):
        folder = root / "out" / name
        engines = read_json(folder / "metadata.json")["engines"]
        labels = [f"{entry['engine']} {entry['precision']}" for entry in engines]
        assert labels == summary.engines[name]
        assert {"onnxruntime f32", "openvino f32", "onnxruntime fp16", "openvino int8"} <= set(labels)
        for entry in engines:
            assert entry["sha256"] == hash_file(folder / entry["file"])
            assert entry["psnr_loss_db"] is not None
            assert entry["by_unit"]["SUVbw"]["rms"] <= entry["by_unit"]["SUVbw"]["largest"]
            assert "suv_mean_bias" in entry["changes"]
    # a processor without bf16 cannot check it, so it may not be served from there
    bf16 = summary.refused["mira_net"].get("openvino bf16", "")
    assert "has no bf16" in bf16 or "openvino bf16" in summary.engines["mira_net"]
    halves = {tensor.data_type for tensor in onnx.load(root / "out" / "mira_net" / "model.fp16.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in halves
    graph = onnx.load(root / "out" / "mira_net" / "model.int8.onnx").graph
    quantised = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert len(quantised) > 10
    assert {tensor.type.tensor_type.elem_type for tensor in graph.output} == {onnx.TensorProto.FLOAT}


def test_signature_covers_every_precision(made, tmp_path):
    root, _, _ = made
    shutil.copytree(root / "out" / "mira_net", tmp_path / "mira_net")
    registered = read_json(root / "version" / "version.json")
    signing.check_export(tmp_path / "mira_net", registered)
    with (tmp_path / "mira_net" / "model.int8.onnx").open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ServingFailed, match="files differ"):
        signing.check_export(tmp_path / "mira_net", registered)


def test_a_reduced_precision_outside_tolerance_is_left_out_with_its_reason(made, tmp_path):
    root, networks, _ = made
    tight = {"precisions": ["f32", "fp16"], "tolerances": {"fp16": {"suv": 1e-9}}}
    summary = export(networks[1:], root / "version", root / "pairs", tmp_path / "out", ExportConfig(**tight))
    why = summary.refused["mira_net_pet"]["onnxruntime fp16"]
    assert "SUVbw on " in why
    assert "allowed are 1e-09" in why
    assert not (tmp_path / "out" / "mira_net_pet" / "model.fp16.onnx").exists()
    metadata = read_json(tmp_path / "out" / "mira_net_pet" / "metadata.json")
    assert {entry["precision"] for entry in metadata["engines"]} == {"f32"}
    tried = read_json(tmp_path / "out" / "parity.json")["models"]["mira_net_pet"]["engines"]
    assert [entry["reason"] for entry in tried if entry["precision"] == "fp16"] == [why]
    with pytest.raises(ServingFailed, match="mira_net_pet: onnxruntime fp16 differs"):
        required = ExportConfig(**tight, required_precisions=["f32", "fp16"])
        export(networks[1:], root / "version", root / "pairs", tmp_path / "again", required)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("fails", ["open_session", "judge"])
def test_a_reduced_precision_whose_runtime_fails_is_left_out_unsigned(tmp_path, monkeypatch, fails):
    difference = Difference("pair", Modality.CT, (1, 32, 32), 0.0, 0.0, 0.0)

    def judged(engine, session, expected, tolerance):
        return Verdict(engine, tolerance, [difference], [], "")

    def failing(engine, *_):
        if engine.precision is Precision.FP16:
            raise ServingFailed("the runtime gave up")
        return judged(engine, *_) if fails == "judge" else None

    monkeypatch.setattr(step, "expectations", lambda *_: [])
    monkeypatch.setattr(step, "describe", lambda *_: {})
    monkeypatch.setattr(step, "_write", lambda precision, *given: (given[-2] / FILES[precision]).write_text(precision))
    monkeypatch.setattr(step, "open_session", lambda *_: None)
    monkeypatch.setattr(step, "judge", judged)
    monkeypatch.setattr(step, fails, failing)

    def run(folder, required):
        folder.mkdir()
        config = ExportConfig(precisions=["f32", "fp16"], required_precisions=required)
        index = SimpleNamespace(pairs=[SimpleNamespace(shape=(2, 32, 32))])
        return step._export_one(None, None, {"version": 7}, tmp_path, index, tmp_path, folder, config)

    report = run(tmp_path / "mira_net", ["f32"])
    assert [engine["reason"] for engine in report["engines"]] == ["", "", "the runtime gave up"]
    assert not (tmp_path / "mira_net" / "model.fp16.onnx").exists()
    assert set(read_json(tmp_path / "mira_net" / signing.SIGNATURE)["statement"]["files"]) == {"model.onnx"}
    with pytest.raises(ServingFailed, match="gave up"):
        run(tmp_path / "again", ["f32", "fp16"])


@pytest.mark.parametrize("kind", [OnnxSession, OpenVinoSession])
def test_a_runtime_that_fails_is_a_failure_of_serving(kind):
    def fail(*_):
        raise RuntimeError("not enough memory")

    session = kind.__new__(kind)
    session._session = session._request = SimpleNamespace(get_outputs=list, run=fail, infer=fail)
    with pytest.raises(ServingFailed, match="not enough memory"):
        session.run((torch.zeros(1),) * len(Restorer.INPUTS))


def test_configuration_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="must hold f32"):
        ExportConfig(precisions=["fp16"])
    with pytest.raises(ValueError, match="names int8"):
        ExportConfig(required_precisions=["f32", "int8"])
    assert ExportConfig(tolerances={"bf16": {"hu": 7.0}}).tolerances.bf16.hu == 7.0
    assert ExportConfig(tolerances={"bf16": {"hu": 7.0}}).tolerances.bf16.suv == DEFAULTS[Precision.BF16]["suv"]


def test_other_weights_than_the_registered_ones_are_refused(made, tmp_path):
    root, _, _ = made
    other = make_network(tmp_path / "unified", "unified", seed=9)
    with pytest.raises(DataRejected, match="not those registered as version 7"):
        export([other], root / "version", root / "pairs", tmp_path / "out", ExportConfig())
    foreign = make_network(tmp_path / "ct", "ct-denoising")
    with pytest.raises(DataRejected, match="has no network ct-denoising"):
        export([foreign], root / "version", root / "pairs", tmp_path / "out", ExportConfig())


def test_missing_parts_are_named(made, tmp_path):
    root, networks, _ = made
    with pytest.raises(DataRejected, match="Run the register step first"):
        export(networks, tmp_path, root / "pairs", tmp_path / "out", ExportConfig())
    with pytest.raises(DataRejected, match="no networks"):
        export([], root / "version", root / "pairs", tmp_path / "out", ExportConfig())


def test_probes_are_of_several_levels_also_where_they_are_as_many_as_patients(tmp_path):
    make_pairs(tmp_path, patients=3, sites=(("alpha", "test"),))
    index = read_index(tmp_path)
    for count in (2, 3):
        pairs = [probe.slices.pair for probe in held_out(tmp_path, index, Task.CT_DENOISING, count)]
        assert len({pair.case_id for pair in pairs}) == count
        assert len({pair.physics.level for pair in pairs}) == 2


def test_probes_are_held_out_and_of_any_size(made):
    root, _, _ = made
    index = read_index(root / "pairs")
    probes = held_out(root / "pairs", index, Task.MRI_SUPER_RESOLUTION, 5)
    assert len(probes) == 2  # one test patient at two levels
    assert all("alpha" in probe.name for probe in probes)
    assert all("slice" in probe.place(0) for probe in probes)
    assert all(len(probe.images) == len(probe.slices.reference) == len(probe.slices.index) for probe in probes)
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert resized(Probe("p", Modality.CT, 1.0, image), 2, 2, 7).images.shape == (2, 2, 7)


def test_pairs_without_a_slice_that_shows_anything_are_left_out_and_counted(tmp_path, capsys):
    task = Task.CT_DENOISING
    index = make_pairs(tmp_path, patients=3, sites=(("alpha", "test"), ("beta", "validation")), tasks=(task,))

    def empty(*patients):
        for pair in index.pairs:
            if pair.patient in patients:
                volume = read_nifti(tmp_path / pair.reference)
                write_nifti(tmp_path / pair.reference, replace(volume, voxels=np.full_like(volume.voxels, -1024)))

    empty("patient-alpha-0")
    probes = held_out(tmp_path, index, task, 3)
    assert len(probes) == 3  # others in their place
    assert not [probe.name for probe in probes if "alpha-ct-0" in probe.name]
    assert f"pairs of {task} left out of the test because no slice shows anything: 2\n" in capsys.readouterr().out
    empty("patient-alpha-1", "patient-alpha-2")
    assert {probe.slices.pair.split for probe in held_out(tmp_path, index, task, 3)} == {"validation"}
    empty("patient-beta-0", "patient-beta-1", "patient-beta-2")
    assert held_out(tmp_path, index, task, 3) == []
    described = Checkpoint("ct-denoising", "tiny", (task,), random_restorer("tiny", 0).network.config, "0", "0")
    with pytest.raises(DataRejected, match="no pairs of ct-denoising with a slice that shows anything"):
        expectations(random_restorer("tiny", 0), described, tmp_path, index, ExportConfig())
