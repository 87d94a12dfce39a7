"""The expected error through the client: arrays, a second DICOM series, NIfTI; and restored NIfTI that says so."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from pydicom import dcmread

from mira.cli import main
from mira.client import LocalRestorer
from mira.client.engines import Batch, LocalEngine, TritonEngine, together
from mira.client.series import StorageFailed, restore_all, restore_nifti, restore_series
from mira.dicom.volume import read_series
from mira.errors import DataRejected, ServingFailed
from mira.tasks import Modality
from mira.volume import Volume, read_nifti, write_nifti
from tests.dicom_checks import dciodvfy_messages
from tests.mira.dicom_enhanced import enhanced
from tests.mira.dicom_synthetic import make_header, pixels, write
from tests.mira.test_client_series import series
from tests.triton.tiny_network import describe, tiny_network


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The identity, whose expected error is half the absolute value of the image."""
    path = tiny_network(tmp_path_factory.mktemp("network") / "model.onnx", gain=0.0, error_map=True)
    describe(path, version=5)
    return path


@pytest.fixture
def restorer(network):
    with LocalRestorer(network, threads=1) as opened:
        yield opened


def errors_of(path):
    """What dciodvfy objects to; nothing where it is not installed."""
    found = dciodvfy_messages(path) if shutil.which("dciodvfy") else []
    return [line for line in found if line.startswith("Error")]


def volume(slices=5, rows=40, columns=48):
    return np.random.default_rng(0).normal(0, 100, (slices, rows, columns)).astype(np.float32)


def test_arrays_get_it_when_they_ask(restorer):
    voxels = volume(20)
    restored = restorer.restore_slices(voxels, "CT", want_error=True)
    np.testing.assert_allclose(restored.predicted_error, np.abs(restored.voxels) / 2, atol=1e-4)
    assert restorer.restore_slices(voxels, "CT").predicted_error is None


def test_tiles_and_padding_are_treated_as_in_the_image(network, monkeypatch):
    monkeypatch.setattr("mira.client.plan.LARGEST_SIDE", 100)
    with LocalRestorer(network, threads=1, tile_side=192) as restorer:
        large = restorer.restore_slices(volume(2, 300, 260), "CT", want_error=True)
        small = restorer.restore_slices(volume(2, 20, 24), "CT", want_error=True)
    for restored in (large, small):
        assert restored.predicted_error.shape == restored.voxels.shape
        np.testing.assert_allclose(restored.predicted_error, np.abs(restored.voxels) / 2, atol=0.5)


def test_only_batches_that_want_it_ask_for_it():
    engine = TritonEngine.__new__(TritonEngine)
    batch = Batch(np.zeros((1, 1, 32, 32), np.float32), 0, 1.0)
    assert "predicted_error" not in engine.outputs(batch)
    assert engine.outputs(Batch(batch.image, 0, 1.0, want_error=True))[-1] == "predicted_error"


def test_parts_of_a_batch_are_put_together(network):
    engine = LocalEngine(network, threads=1)
    batch = Batch(volume(4)[:, None], 0, 1.0, want_error=True)
    whole = engine.infer(batch)
    parts = together([engine.infer(half) for half in batch.halves()])
    np.testing.assert_allclose(parts.predicted_error, whole.predicted_error, atol=1e-4)


def test_a_network_without_it_says_so(tmp_path):
    path = tiny_network(tmp_path / "model.onnx")
    with LocalRestorer(path) as restorer, pytest.raises(ServingFailed, match="gives no expected error"):
        restorer.restore_slices(volume(), "CT", want_error=True)


@pytest.mark.parametrize(("modality", "unit"), [("CT", "HU"), ("PT", "SUV"), ("MR", "a.u.")])
def test_a_second_series_holds_it_in_declared_units(tmp_path, restorer, modality, unit):
    files = series(tmp_path / "in", modality)
    source = read_series(files)
    delivered = restore_series(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    known = set(errors_of(delivered.files[0]))  # the made-up source lacks attributes
    assert set(errors_of(delivered.error_files[0])) <= known
    assert [path.parent.name for path in (delivered.files[0], delivered.error_files[0])] == ["out", "out-error"]
    assert len({dcmread(path).SeriesInstanceUID for path in (*delivered.error_files, *delivered.files, *files)}) == 3
    for number, path in enumerate(delivered.error_files):
        error, image, before = dcmread(path), dcmread(delivered.files[number]), dcmread(files[number])
        assert f"expected error (1 SD), {unit}" in error.SeriesDescription
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "SOPClassUID"):
            assert error[keyword].value == image[keyword].value, keyword
        assert error.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
        assert error.ReferencedImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
        mapping = error.RealWorldValueMappingSequence[0]
        found = error.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
        np.testing.assert_allclose(found, np.abs(source.volume.voxels[number]) / 2, atol=mapping.RealWorldValueSlope)
        rescaled = error.pixel_array * float(error.RescaleSlope) + float(error.RescaleIntercept)
        np.testing.assert_allclose(rescaled * source.suv_factor, found, rtol=1e-5, atol=1e-6)
        assert float(error.WindowCenter) * 2 == pytest.approx(float(error.WindowWidth), rel=1e-4)
        assert error.ImageType[0] == "DERIVED"
        assert error.ImageType[-1] == "EXPECTED_ERROR"
    with pytest.raises(DataRejected, match="already restored"):
        restore_series(restorer, tmp_path / "out-error", tmp_path / "again")


@pytest.mark.parametrize("uid", [None, "hello"])
def test_both_series_of_a_source_without_study_are_in_one_study(tmp_path, restorer, uid):
    series(tmp_path / "in", StudyInstanceUID=uid)
    delivered = restore_series(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    files = [*delivered.files, *delivered.error_files]
    assert len({dcmread(path).StudyInstanceUID for path in files}) == 1
    assert len({dcmread(path).SeriesInstanceUID for path in files}) == 2


def test_neither_series_is_written_when_one_of_the_folders_is_there(tmp_path, restorer, monkeypatch):
    series(tmp_path / "in")
    (tmp_path / "out-error").mkdir()
    with monkeypatch.context() as patch, pytest.raises(DataRejected, match="out-error exists already"):
        patch.setattr(restorer, "restore_slices", lambda *_, **__: pytest.fail("restored for nothing"))
        restore_series(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    assert not (tmp_path / "out").exists()
    assert restore_series(restorer, tmp_path / "in", tmp_path / "out").files


def test_what_failed_at_the_expected_error_is_written_by_the_next_run(tmp_path, restorer, monkeypatch):
    series(tmp_path / "in")
    with monkeypatch.context() as patch, pytest.raises(StorageFailed, match="No space left"):
        patch.setattr("mira.client.series.write_expected_error", full_disk)
        restore_all(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    assert list((tmp_path / "out").iterdir()) == []
    (delivered,), _ = restore_all(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["001-ct", "001-ct-error"]
    assert sorted((tmp_path / "out").rglob("*.dcm")) == sorted([*delivered.error_files, *delivered.files])


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_kill_between_the_two_series_is_made_good_by_the_next_run(tmp_path, restorer, monkeypatch):
    series(tmp_path / "in")
    replace = os.replace

    def killed(source, target):
        if target == tmp_path / "out" / "001-ct":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        restore_all(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    (delivered,), _ = restore_all(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    assert [files[0].parent.name for files in (delivered.files, delivered.error_files)] == ["002-ct", "002-ct-error"]


def test_a_series_that_lacks_its_expected_error_is_told_of(tmp_path, restorer):
    series(tmp_path / "in")
    restore_all(restorer, tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataRejected, match=r"001-ct exists already, without the expected error\. Remove it"):
        restore_all(restorer, tmp_path / "in", tmp_path / "out", confidence=True)


def test_padding_has_no_error(tmp_path, restorer):
    stored = [pixels(number, (40, 36)) for number in range(4)]
    padded = np.hypot(*(np.mgrid[:40, :36] - 18)) > 20
    for plane in stored:
        plane[padded] = -2000
    headers = [make_header("CT", n, plane, PixelPaddingValue=-2000) for n, plane in enumerate(stored)]
    write(tmp_path / "in", headers, "ct")
    delivered = restore_series(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    error = dcmread(delivered.error_files[0])
    assert error.pixel_array.any()
    assert not error.pixel_array[padded].any()
    assert "PixelPaddingValue" not in error


def test_frames_of_an_enhanced_series_get_it(tmp_path, restorer):
    (tmp_path / "in").mkdir()
    enhanced("MR", 4).save_as(tmp_path / "in" / "all.dcm", enforce_file_format=False)
    delivered = restore_series(restorer, tmp_path / "in", tmp_path / "out", confidence=True)
    assert errors_of(delivered.error_files[0]) == []
    assert dcmread(delivered.error_files[0]).SourceImageSequence[0].ReferencedFrameNumber == 1


@pytest.mark.parametrize("kind", [".nii", ".nii.gz"])
def test_nifti_beside_the_restored_one_and_marked(tmp_path, restorer, kind):
    source = tmp_path / f"in{kind}"
    write_nifti(source, Volume(volume(), np.diag([1.0, 1, 2, 1])))
    delivered = restore_nifti(restorer, source, tmp_path / f"out{kind}", Modality.CT, confidence=True)
    assert [path.name for path in delivered.error_files] == [f"out_error{kind}"]
    restored, error = read_nifti(delivered.files[0]), read_nifti(delivered.error_files[0])
    np.testing.assert_allclose(error.voxels, np.abs(restored.voxels) / 2, atol=1e-4)
    np.testing.assert_array_equal(error.affine, restored.affine)
    for path in (*delivered.files, *delivered.error_files):
        with pytest.raises(DataRejected, match="already restored by this software"):
            restore_nifti(restorer, path, tmp_path / "again.nii", Modality.CT)
    assert restore_nifti(restorer, delivered.files[0], tmp_path / "again.nii", Modality.CT, again=True).slices == 5


def test_neither_nifti_is_written_over_or_without_the_other(tmp_path, restorer, monkeypatch):
    write_nifti(tmp_path / "in.nii", Volume(volume(), np.eye(4)))
    (tmp_path / "out_error.nii").write_text("what is there")
    with pytest.raises(DataRejected, match=r"out_error\.nii exists already"):
        restore_nifti(restorer, tmp_path / "in.nii", tmp_path / "out.nii", Modality.CT, confidence=True)
    (tmp_path / "out_error.nii").unlink()

    def full(path, *_, **__):
        if "error" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_nifti(path, *_, **__)

    with monkeypatch.context() as patch, pytest.raises(StorageFailed, match="No space left"):
        patch.setattr("mira.client.nifti.write_nifti", full)
        restore_nifti(restorer, tmp_path / "in.nii", tmp_path / "out.nii", Modality.CT, confidence=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in.nii"]
    restore_nifti(restorer, tmp_path / "in.nii", tmp_path / "out.nii", Modality.CT, confidence=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii", "out.nii", "out_error.nii"]


def test_the_verb_writes_it_and_says_where(tmp_path, network, capsys):
    series(tmp_path / "in", "CT", slices=3)
    options = ["--model", str(network), "--confidence", "--out", str(tmp_path / "out")]
    assert main(["restore", str(tmp_path / "in"), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["restored"][0]["error_files"] == 3
    assert len(list((tmp_path / "out" / "001-ct-error").glob("*.dcm"))) == 3
    write_nifti(tmp_path / "x.nii.gz", Volume(volume(), np.eye(4)))
    nifti = ["restore", str(tmp_path / "x.nii.gz"), "--modality", "CT", *options]
    assert main(nifti) == 0
    assert "x-restored_error.nii.gz" in capsys.readouterr().out
    again = ["restore", str(tmp_path / "out" / "x-restored.nii.gz"), "--modality", "CT", *options]
    assert main(again) == 3
    assert "--again" in capsys.readouterr().err
    assert main([*again, "--again"]) == 0


def test_a_network_without_it_is_a_serving_failure_of_the_verb(tmp_path, capsys):
    series(tmp_path / "in", "CT", slices=3)
    path = tiny_network(tmp_path / "model.onnx")
    verb = ["restore", str(tmp_path / "in"), "--model", str(path), "--confidence", "--out", str(tmp_path / "out")]
    assert main(verb) == 5
    assert "gives no expected error" in capsys.readouterr().err
    assert not (tmp_path / "out" / "001-ct").exists()
