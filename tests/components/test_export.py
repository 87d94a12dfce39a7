import numpy as np
import pytest

from components.export.parity import Probe, held_out, resized
from components.export.step import ExportConfig, export
from mira.errors import DataRejected, ServingFailed
from mira.pairs import read_index
from mira.storage import hash_file, read_json, write_json
from mira.tasks import Modality, Task
from model.checkpoint import Checkpoint, save_checkpoint
from model.export import random_restorer
from tests.components.made_up import make_pairs


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
    make_pairs(root / "pairs", patients=1)
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
    summary = export(networks, root / "version", root / "pairs", root / "out", ExportConfig())
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
    config = ExportConfig(tolerance_hu=1e-9)
    with pytest.raises(ServingFailed, match=r"mira_net: .* HU on .*slice|HU on \d+x1x"):
        export(networks, root / "version", root / "pairs", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


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


def test_probes_are_held_out_and_of_any_size(made):
    root, _, _ = made
    index = read_index(root / "pairs")
    probes = held_out(root / "pairs", index, Task.MRI_SUPER_RESOLUTION, 5)
    assert len(probes) == 2  # one test patient at two levels
    assert all("alpha" in probe.name for probe in probes)
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert resized(Probe("p", Modality.CT, 1.0, image), 2, 2, 7).images.shape == (2, 2, 7)
