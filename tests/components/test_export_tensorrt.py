import sys
from types import SimpleNamespace

import pytest
import torch

from components.export import builder, tensorrt
from components.export.config import ExportConfig, Precision
from components.export.engines import OpenVinoSession
from components.export.profiles import Profile, profiles_of
from components.promote import signing
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.storage import hash_file, read_json, write_json
from model.checkpoint import load_restorer
from tests.components.made_up import make_pairs
from tests.components.test_export import make_network
from tests.triton.tiny_network import D, tiny_network


def shaped(*shape):
    return SimpleNamespace(shape=shape)


# profiles


def test_profiles_are_those_of_the_slices_that_sites_send():
    cases = [shaped(300, 512, 512), shaped(267, 200, 168), shaped(8, 640, 320), shaped(5, 20, 40)]
    sent, promised = profiles_of(cases)
    assert sent == Profile(min=(1, 32, 40), opt=(8, 512, 512), max=(8, 640, 512))
    assert promised == Profile(min=(1, 32, 32), opt=(8, 512, 512), max=(8, 1024, 1024))
    # 500 slices of the smaller size outweigh 300 of the larger
    assert profiles_of([*cases, shaped(233, 200, 168)])[0].opt == (8, 200, 168)
    assert profiles_of([shaped(1, 2000, 64)])[1].max == (8, 2000, 1024)
    with pytest.raises(DataRejected, match="no cases"):
        profiles_of([])


def test_a_profile_has_the_shapes_of_every_input():
    shapes = Profile(min=(1, 32, 40), opt=(8, 512, 512), max=(8, 640, 512)).shapes(16)
    assert shapes["image"] == ((1, 1, 32, 40), (8, 1, 512, 512), (8, 1, 640, 512))
    assert shapes["instruction"] == ((1, 16), (8, 16), (8, 16))
    assert shapes["modality"] == ((1, 1), (8, 1), (8, 1))


# the builder, really exercised where a TensorRT that needs no GPU is installed


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="pip install 'mira-net[rtx]' to build engines without a GPU")


def test_an_engine_is_built_with_its_profiles(rtx, tmp_path):
    onnx = tiny_network(tmp_path / "model.onnx")
    profiles = profiles_of([shaped(10, 64, 96)])
    built = builder.build(rtx, onnx, profiles, D, targets=("SM89",))
    assert len(built.plan) > 1000
    assert built.version == rtx.__version__
    assert built.layers > 10


def test_what_tensorrt_does_not_take_is_told_in_its_words(rtx, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ServingFailed, match=r"does not take model\.onnx: \S+"):
        builder.build(rtx, tmp_path / "model.onnx", profiles_of([shaped(1, 64, 64)]), D)
    onnx = tiny_network(tmp_path / "other.onnx")
    with pytest.raises(ServingFailed, match="tensorrt_rtx"):  # an instruction of another length than the graph's
        builder.build(rtx, onnx, profiles_of([shaped(1, 64, 64)]), D + 1)


def test_missing_modules_are_said_with_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigurationError, match="PyTorch image"):
        builder.load_module("tensorrt")
    paths = ["--checkpoint", str(tmp_path), "--pairs", str(tmp_path)]
    assert tensorrt.main(["--network", str(tmp_path), *paths]) == 2
    assert "tensorrt is missing here" in capsys.readouterr().err


# the command; the engine's runtime needs a GPU, so here torch answers in its place


class Answering:
    """Stands in for a loaded engine: answers as the network does, or shifted."""

    def __init__(self, checkpoint, shift=0.0):
        self._restorer, self._shift = load_restorer(checkpoint)[0], shift

    def run(self, inputs):
        with torch.inference_mode():
            answer = self._restorer(*inputs)._asdict()
        answer["restored"] = answer["restored"] + self._shift
        return {name: answer[name].numpy() for name in self._restorer.outputs}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setenv("MIRA_SIGNING_KEY", "a signing key for tests only, long enough")
    make_pairs(tmp_path / "pairs", patients=1)
    checkpoint = make_network(tmp_path / "pet-synthesis", "pet-synthesis")
    network = tmp_path / "out" / "mira_net_pet"
    facts = {
        "weights_sha256": hash_file(checkpoint / "model.safetensors"),
        "instruction_dim": 32,
        "engines": [{"engine": "onnxruntime", "precision": "f32", "file": "model.onnx"}],
        "profiles": [profile.model_dump(mode="json") for profile in profiles_of([shaped(5, 48, 48)])],
    }
    write_json(network / "metadata.json", facts)
    (network / "model.onnx").write_bytes(b"a graph")
    write_json(tmp_path / "version.json", {"name": "mira_net", "version": 3, "decision_sha256": "d"})
    signing.sign_export(network, read_json(tmp_path / "version.json"))
    monkeypatch.setattr(tensorrt, "build", lambda *_: builder.Built(b"a plan", 1.5, 7, "11.4.0"))
    monkeypatch.setattr(tensorrt, "gpu", lambda: {"gpu": "H200", "compute_capability": "9.0"})
    return tmp_path, network, checkpoint


def test_an_engine_that_passed_is_added_and_signed(exported, monkeypatch):
    root, network, checkpoint = exported
    monkeypatch.setattr(tensorrt, "PlanSession", lambda *_: Answering(checkpoint))
    for _ in range(2):  # building again replaces the engine
        entry = tensorrt.build_engine(network, checkpoint, root / "pairs", Precision.F32, ExportConfig(), None)
    metadata = read_json(network / "metadata.json")
    assert [e["engine"] for e in metadata["engines"]] == ["onnxruntime", "tensorrt"]
    assert metadata["engines"][1] == entry
    assert entry["sha256"] == hash_file(network / "model.plan")
    assert (entry["gpu"], entry["compute_capability"], entry["version"]) == ("H200", "9.0", "11.4.0")
    signing.check_export(network, read_json(root / "version.json"))


def test_an_engine_outside_tolerance_changes_nothing(exported, monkeypatch):
    root, network, checkpoint = exported
    before = {path.name: hash_file(path) for path in network.iterdir()}
    monkeypatch.setattr(tensorrt, "PlanSession", lambda *_: Answering(checkpoint, shift=0.01))
    with pytest.raises(ServingFailed, match=r"tensorrt f32 differs .* SUVbw .* on .+; allowed are"):
        tensorrt.build_engine(network, checkpoint, root / "pairs", Precision.F32, ExportConfig(), None)
    assert before == {path.name: hash_file(path) for path in network.iterdir()}
    with pytest.raises(ServingFailed, match="holds no graph in fp16"):
        tensorrt.build_engine(network, checkpoint, root / "pairs", Precision.FP16, ExportConfig(), None)
    (network / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ServingFailed, match="signed for something else"):
        tensorrt.build_engine(network, checkpoint, root / "pairs", Precision.F32, ExportConfig(), None)


def test_openvino_refuses_what_is_no_network(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(ServingFailed, match="OpenVINO cannot load"):
        OpenVinoSession(tmp_path / "model.onnx", 1, Precision.F32)
