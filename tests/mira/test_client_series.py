"""Files through the client: DICOM series to derived series, NIfTI to NIfTI, the verb."""

import json

import numpy as np
import pytest
from pydicom import dcmread

from mira.cli import main
from mira.client import LocalRestorer
from mira.client.series import restore_all, restore_nifti, restore_series
from mira.errors import DataRejected
from mira.tasks import Modality
from mira.volume import Volume, read_nifti, write_nifti
from tests.mira.dicom_synthetic import make_header, pixels, write
from tests.triton.tiny_network import describe, tiny_network

SIZE = (40, 36)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tiny_network(tmp_path_factory.mktemp("network") / "model.onnx", gain=0.0)
    describe(path, version=5)
    return path


@pytest.fixture
def identity(network):
    with LocalRestorer(network, threads=1) as restorer:
        yield restorer


def series(folder, modality="CT", slices=5, **changes):
    stored = [pixels(number, SIZE) for number in range(slices)]
    return write(folder, [make_header(modality, n, stored[n], **changes) for n in range(slices)], modality.lower())


@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
def test_an_identity_network_gives_the_same_values_and_places_back(tmp_path, identity, modality):
    files = series(tmp_path / "in", modality)
    delivered = restore_series(identity, tmp_path / "in", tmp_path / "out")
    assert delivered.model == "mira_net 5"
    assert len(delivered.files) == len(files)
    for before, after in zip(files, delivered.files, strict=True):
        a, b = dcmread(before), dcmread(after)
        scale = [(float(d.get("RescaleSlope", 1)), float(d.get("RescaleIntercept", 0))) for d in (a, b)]
        values = [d.pixel_array * slope + intercept for d, (slope, intercept) in zip((a, b), scale, strict=True)]
        assert np.abs(values[0] - values[1]).max() <= 0.5 * scale[1][0] + 1e-4
        assert a.ImagePositionPatient == b.ImagePositionPatient
        assert a.StudyInstanceUID == b.StudyInstanceUID
        assert a.SeriesInstanceUID != b.SeriesInstanceUID
    with pytest.raises(DataRejected, match="already restored"):
        restore_series(identity, tmp_path / "out", tmp_path / "again")


def test_every_series_of_a_folder_is_restored_and_the_rest_is_named(tmp_path, identity):
    series(tmp_path / "in" / "a", "CT")
    series(tmp_path / "in" / "b", "MR")
    series(tmp_path / "in" / "c", "CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.3.4")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    delivered, refused = restore_all(identity, tmp_path / "in", tmp_path / "out")
    assert [item.modality for item in delivered] == [Modality.CT, Modality.MR]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["001-ct", "002-mr"]
    assert refused["not a DICOM file"] == 1
    assert refused["a localiser (scout, topogram, survey), not a volume"] == 5


def test_a_pet_without_suv_is_refused_with_the_reason(tmp_path, identity):
    series(tmp_path / "in", "PT", PatientWeight=None)
    with pytest.raises(DataRejected, match="not in SUVbw"):
        restore_series(identity, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_usable_is_an_error_without_patient_data(tmp_path, identity):
    folder = tmp_path / "in"
    series(folder, "CT", SamplesPerPixel=3, PhotometricInterpretation="RGB", PatientName="Secret^Name")
    with pytest.raises(DataRejected) as caught:
        restore_all(identity, folder, tmp_path / "out")
    assert "colour" in str(caught.value)
    assert "Secret" not in str(caught.value)


def test_nifti_keeps_geometry(tmp_path, identity):
    affine = np.array([[0.7, 0.1, 0, -30], [-0.1, 0.7, 0, 12], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).normal(0, 100, (6, 40, 50)).astype(np.float32)
    write_nifti(tmp_path / "in.nii", Volume(voxels, affine))
    restore_nifti(identity, tmp_path / "in.nii", tmp_path / "out.nii", Modality.CT)
    after = read_nifti(tmp_path / "out.nii")
    np.testing.assert_allclose(after.voxels, voxels, atol=1e-4)
    np.testing.assert_allclose(after.affine, affine, atol=1e-5)


def test_verb_restores_and_prints_one_json_object(tmp_path, network, capsys):
    series(tmp_path / "in", "CT", slices=3)
    out = tmp_path / "out"
    assert main(["restore", str(tmp_path / "in"), "--out", str(out), "--model", str(network), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["restored"][0]["slices"] == 3
    assert "Doe" not in json.dumps(document)
    assert len(list((out / "001-ct").glob("*.dcm"))) == 3


def test_verb_exit_codes(tmp_path, network, capsys):
    (tmp_path / "empty").mkdir()
    volume = Volume(np.zeros((2, 40, 40), np.float32), np.eye(4))
    write_nifti(tmp_path / "x.nii", volume)
    model = ["--model", str(network), "--out", str(tmp_path / "out")]
    assert main(["restore", str(tmp_path / "nowhere"), *model]) == 2
    assert main(["restore", str(tmp_path / "x.nii"), *model]) == 2
    assert "--modality" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "empty"), *model]) == 3
