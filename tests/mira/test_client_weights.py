"""Restoring by trained weights in this process: the same as by a server in all but where the network runs."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from pydicom import dcmread

from mira.cli import main
from mira.client import Restorer, weights
from mira.client.batches import Batch
from mira.client.plan import probe_slices
from mira.client.series import restore_all
from mira.client.weights import weights_engine
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.tasks import Modality
from mira.volume import Volume, nifti_description, read_nifti, write_nifti
from model import released
from model.checkpoint import load_restorer
from model.engine import TorchEngine
from model.inference import graph_inputs, restore_volume, shared_instruction
from model.released import find_weights
from tests.components.made_up import make_network
from tests.mira.test_client_series import series
from tests.model.made_up import release


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release(tmp_path_factory.mktemp("released") / "tiny", seed=3)


@pytest.fixture(autouse=True)
def in_the_tree(folder, monkeypatch):
    monkeypatch.setattr(released, "ROOT", folder.parent)


def volume(slices=3, side=40):
    rng = np.random.default_rng(0)
    return (40 + 20 * rng.standard_normal((slices, side, side))).astype(np.float32)


def test_arrays_share_one_instruction_and_come_out_as_the_network_gives_them(folder):
    given = volume()
    with Restorer(weights_engine("released"), in_flight=1) as restorer:
        restored = restorer.restore_slices(given, "CT", want_error=True)
    assert (restored.model, restored.version) == ("made_up_tiny", "2")
    assert np.abs(restored.voxels - given).max() > 0.1
    graph, _ = load_restorer(folder)
    image, modality, scale, _, _ = graph_inputs(given, Modality.CT, None, 32)
    with torch.inference_mode():
        own = graph(image, modality, scale, torch.zeros(3, 32), torch.zeros(3, 1)).instruction_used
        shared = own.mean(dim=0, keepdim=True).expand(3, -1)
        wanted = graph(image, modality, scale, shared, torch.ones(3, 1))
    assert np.allclose(restored.instruction, shared[0].numpy(), atol=1e-5)
    assert np.allclose(restored.voxels, wanted.restored[:, 0].numpy(), atol=1e-3)
    assert np.allclose(restored.predicted_error, wanted.predicted_error[:, 0].numpy(), rtol=1e-3)


def test_estimates_alone_are_those_of_the_whole_answer_and_restore_nothing(monkeypatch):
    batch = Batch(volume()[:, None], Modality.CT.number, 1.0, np.full(32, 0.3, np.float32), 0.5)
    engine = weights_engine("released")
    whole = engine.infer(batch)
    monkeypatch.setattr(engine._restorer.network, "restore_with_error", None)  # it may not be called
    seen = engine.infer(replace(batch, only_estimates=True))
    assert seen.restored.size == 0
    for name in ("instruction", "modality_probability", "degradation"):
        np.testing.assert_allclose(getattr(seen, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_a_folder_of_series_says_by_what_it_was_restored_and_names_the_rest(tmp_path, capsys):
    series(tmp_path / "in" / "a", "CT")
    series(tmp_path / "in" / "b", "MR")
    series(tmp_path / "in" / "c", "CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.3.4")
    words = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--weights", "released", "--json"]
    assert main([*words, "--confidence"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [item["model"] for item in told["restored"]] == ["made_up_tiny 2"] * 2
    assert told["refused"]["a localiser (scout, topogram, survey), not a volume"] == 5
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["001-ct", "001-ct-error", "002-mr", "002-mr-error"]
    header = dcmread(next((tmp_path / "out" / "001-ct").glob("*.dcm")))
    equipment = header.ContributingEquipmentSequence[-1]
    assert "(made_up_tiny 2)" in header.DerivationDescription
    assert (equipment.ManufacturerModelName, equipment.SoftwareVersions[0]) == ("made_up_tiny", "2")
    with Restorer(weights_engine("released"), in_flight=1) as restorer, pytest.raises(DataRejected, match="already"):
        restore_all(restorer, tmp_path / "out" / "001-ct", tmp_path / "again")


def test_a_nifti_file_by_a_checkpoint_folder(tmp_path, folder, capsys):
    write_nifti(tmp_path / "scan.nii.gz", Volume(volume(), np.eye(4)))
    words = ["restore", str(tmp_path / "scan.nii.gz"), "--modality", "CT", "--out", str(tmp_path / "out")]
    assert main([*words, "--weights", str(folder)]) == 0
    written = tmp_path / "out" / "scan-restored.nii.gz"
    assert read_nifti(written).voxels.shape == (3, 40, 40)
    assert "made_up_tiny 2" in nifti_description(written)
    assert "by made_up_tiny 2" in capsys.readouterr().out


def test_a_single_task_network_restores_its_own_modality_only(tmp_path):
    own = release(tmp_path / "pet", network="pet-synthesis", error_map=False)
    (own / released.CARD).unlink()
    series(tmp_path / "in" / "a", "CT")
    series(tmp_path / "in" / "b", "PT")
    with Restorer(weights_engine(str(own)), in_flight=1) as restorer:
        delivered, refused = restore_all(restorer, tmp_path / "in", tmp_path / "out")
        with pytest.raises(ServingFailed, match="gives no expected error"):
            restorer.restore_slices(volume(), "PET", want_error=True)
    assert [item.modality for item in delivered] == [Modality.PET]
    assert delivered[0].model.startswith("mira_net_pet ")
    (reason,) = refused
    assert "was not trained on CT. Give weights that were." in reason


def test_large_slices_travel_as_tiles_of_one_instruction(monkeypatch):
    given = volume(1, 256)
    with Restorer(weights_engine("released"), in_flight=1, tile_side=192) as restorer:
        with monkeypatch.context() as patch:
            patch.setattr("mira.client.plan.LARGEST_SIDE", 200)
            tiled = restorer.restore_slices(given, "CT")
        whole = restorer.restore_slices(given, "CT", instruction=tiled.instruction)
    assert np.abs(tiled.voxels - whole.voxels)[:, 1:-1].max() < 0.1 * np.abs(whole.voxels - given).max()


@pytest.fixture
def three(tmp_path):
    """Weights of a network that sees a slice's neighbours."""
    return make_network(tmp_path / "three", "unified", seed=3, strength=0.3, error_map=True, slices=3)


def test_a_network_that_sees_neighbours_gets_those_of_each_slice(three, monkeypatch):
    given, large = volume(10), volume(2, 256)  # more slices than a batch has, and larger ones
    graph, _ = load_restorer(three)
    with Restorer(weights_engine(str(three)), in_flight=1, tile_side=192) as restorer:
        whole = restorer.restore_slices(given, "CT", want_error=True)
        monkeypatch.setattr("mira.client.plan.LARGEST_SIDE", 200)
        tiled = restorer.restore_slices(large, "CT", instruction=whole.instruction).voxels
        with pytest.raises(ConfigurationError, match="sees 3 slices at a time, and a stream gives them one by one"):
            next(iter(restorer.stream(given, "CT")))
    wanted = restore_volume(graph, given, Modality.CT, instruction=whole.instruction)
    change = np.abs(wanted.voxels - given).max()
    assert change > 1
    np.testing.assert_allclose(whole.voxels, wanted.voxels, atol=1e-3 * change)
    np.testing.assert_allclose(whole.predicted_error, wanted.predicted_error, rtol=1e-3)
    amid = restore_volume(graph, large, Modality.CT, instruction=whole.instruction).voxels
    np.testing.assert_allclose(tiled, amid, atol=0.01 * change)
    shared = shared_instruction(graph, given[probe_slices(10)], Modality.CT)
    np.testing.assert_allclose(whole.instruction, shared, atol=1e-5)


def test_series_are_restored_by_a_network_that_sees_neighbours(three, tmp_path, capsys):
    series(tmp_path / "in", "CT")
    words = ["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--weights", str(three)]
    assert main([*words, "--confidence"]) == 0
    assert "by mira_net " in capsys.readouterr().out
    assert list((tmp_path / "out").rglob("*.dcm"))


@pytest.mark.parametrize("which", ["released", "elsewhere"])
def test_without_weights_the_error_says_what_to_give(tmp_path, monkeypatch, capsys, which):
    monkeypatch.setattr(released, "ROOT", tmp_path)
    series(tmp_path / "in", "CT", slices=3)
    which = which if which == "released" else str(tmp_path / which)
    assert main(["restore", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--weights", which]) == 2
    told = capsys.readouterr().err
    assert "no released weights" in told or "is not a folder. Give `released`" in told
    assert not (tmp_path / "out").exists()


def test_without_torch_the_error_names_the_extra(monkeypatch):
    class Unloadable:
        def load(self):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(weights, "entry_points", lambda **_: [Unloadable()])
    with pytest.raises(ConfigurationError, match=r"needs torch: pip install 'mira-net\[weights\]'"):
        weights_engine("released")
    monkeypatch.setattr(weights, "entry_points", lambda **_: [])
    with pytest.raises(ConfigurationError, match="Install it again"):
        weights_engine("released")


def test_a_device_that_is_not_here_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigurationError, match="cannot use the device 'cuda' here"):
        TorchEngine(find_weights("released"), "cuda")


def test_the_engine_is_found_by_its_entry_point_and_the_client_does_not_bring_torch():
    code = "import sys, mira.client.verb, mira.client.weights; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    found = metadata.entry_points(group=weights.GROUP, name=weights.NAME)
    assert [entry.value for entry in found] == ["model.engine:weights_engine"]
