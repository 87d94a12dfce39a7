"""Files through the client: DICOM series to derived series, NIfTI to NIfTI, the verb."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
from pydicom import dcmread

from mira.cli import main
from mira.client import LocalRestorer
from mira.client.series import RestorationIncomplete, restore_all, restore_nifti, restore_series
from mira.dicom.volume import read_series, read_volumes
from mira.errors import DataRejected, ServerAway, ServingFailed
from mira.tasks import Modality
from mira.volume import Volume, read_nifti, write_nifti
from tests.dicom_checks import dciodvfy_messages
from tests.mira.dicom_enhanced import enhanced
from tests.mira.dicom_synthetic import CLASSES, make_header, pixels, write
from tests.mira.test_client_send import archive
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


@pytest.fixture
def folder(tmp_path):
    for name, modality in (("a", "CT"), ("b", "MR"), ("c", "CT")):
        series(tmp_path / "in" / name, modality, SeriesInstanceUID=f"1.2.{ord(name)}")
    return tmp_path / "in"


def failing(restorer, monkeypatch, error):
    """A network that fails for MR."""
    answers = restorer.restore_slices

    def restore_slices(voxels, modality, **options):
        if modality is Modality.MR:
            raise error
        return answers(voxels, modality, **options)

    monkeypatch.setattr(restorer, "restore_slices", restore_slices)


def test_a_server_that_goes_away_leaves_whole_series_and_the_same_call_goes_on(tmp_path, folder, identity, monkeypatch):
    with monkeypatch.context() as away:
        failing(identity, away, ServerAway("Triton is away."))
        with pytest.raises(RestorationIncomplete, match=r"away\. 1 of 3 series are complete") as caught:
            restore_all(identity, folder, tmp_path / "out")
    assert [item.modality for item in caught.value.delivered] == [Modality.CT]  # the third was not tried
    assert len(list((tmp_path / "out" / "001-ct").glob("*.dcm"))) == 5
    delivered, refused = restore_all(identity, folder, tmp_path / "out")
    assert [item.modality for item in delivered] == [Modality.MR, Modality.CT]
    assert ["exists already" in reason for reason in refused] == [True]


def test_a_series_is_let_go_of_before_the_next_one_is_read(tmp_path, folder, identity, monkeypatch):
    read, alive = [], []

    def watched(files):
        gc.collect()
        alive.append(sum(one() is not None for one in read))
        result = read_volumes(files)
        read.extend(weakref.ref(volume.volume.voxels) for volume in result.volumes)
        return result

    monkeypatch.setattr("mira.client.series.read_volumes", watched)
    restore_all(identity, folder, tmp_path / "out")
    with pytest.raises(DataRejected):  # all of them are there
        restore_all(identity, folder, tmp_path / "out")
    assert alive == [0] * 6


def test_a_series_that_always_fails_is_in_nobodys_way(tmp_path, folder, identity, monkeypatch):
    failing(identity, monkeypatch, ServingFailed("NaN, which is no image."))
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(RestorationIncomplete, match=r"NaN, which is no image\. 2 of 3 series are complete") as caught:
        restore_all(identity, folder, tmp_path / "out")
    assert caught.value.refusals == {"not a DICOM file": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["001-ct", "003-ct"]
    with pytest.raises(RestorationIncomplete, match="2 of 3 series are complete"):
        restore_all(identity, folder, tmp_path / "out")


def test_what_was_restored_before_a_failure_is_told_and_sent(tmp_path, folder, network, monkeypatch, capsys):
    with LocalRestorer(network, threads=1) as restorer, archive(lambda _: 0x0000) as (peer, got):
        failing(restorer, monkeypatch, ServerAway("Triton is away."))
        monkeypatch.setattr("mira.client.verb._restorer", lambda _: restorer)
        where = f"ARCHIVE@127.0.0.1:{peer.port}"
        assert main(["restore", str(folder), "--out", str(tmp_path / "out"), "--send", where]) == 5
    said = capsys.readouterr()
    assert "CT, 5 slices" in said.out
    assert "5 files sent" in said.out
    assert len(got) == 5
    assert "1 of 3 series are complete" in said.err


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


def test_a_restored_nifti_is_never_written_over(tmp_path, network, capsys):
    write_nifti(tmp_path / "x.nii.gz", Volume(np.zeros((2, 40, 40), np.float32), np.eye(4)))
    verb = ["restore", str(tmp_path / "x.nii.gz"), "--modality", "CT", "--model", str(network)]
    assert main([*verb, "--out", str(tmp_path / "out")]) == 0
    written = tmp_path / "out" / "x-restored.nii.gz"
    written.write_bytes(b"what is there")
    capsys.readouterr()
    assert main([*verb, "--out", str(tmp_path / "out")]) == 3
    assert "x-restored.nii.gz exists already. Give another folder, or remove it first" in capsys.readouterr().err
    assert written.read_bytes() == b"what is there"
    assert list((tmp_path / "out").iterdir()) == [written]


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path, network, capsys):
    write_nifti(tmp_path / "x.nii", Volume(np.zeros((2, 40, 40), np.float32), np.eye(4)))
    series(tmp_path / "in")
    (tmp_path / "taken").write_text("a file")
    for source in ("x.nii", "in"):
        for out in ("taken", "taken/below"):
            verb = ["restore", str(tmp_path / source), "--modality", "CT", "--model", str(network)]
            assert main([*verb, "--out", str(tmp_path / out)]) == 2
            assert f"{tmp_path / 'taken'} is a file. Give a folder as --out" in capsys.readouterr().err


def test_a_failure_to_send_does_not_hide_that_series_are_missing(tmp_path, folder, network, monkeypatch, capsys):
    with LocalRestorer(network, threads=1) as restorer, archive(lambda _: 0xC001) as (peer, _):
        failing(restorer, monkeypatch, ServerAway("Triton is away."))
        monkeypatch.setattr("mira.client.verb._restorer", lambda _: restorer)
        where = f"ARCHIVE@127.0.0.1:{peer.port}"
        assert main(["restore", str(folder), "--out", str(tmp_path / "out"), "--send", where]) == 5
    said = capsys.readouterr().err
    assert "1 of 3 series are complete" in said
    assert "Sending failed, too: ARCHIVE has 0 of 5 files: 5 refused (status 0xC001)" in said


def test_half_written_series_and_folders_are_not_sent(tmp_path, capsys):
    out = tmp_path / ".hidden" / "out"  # only what is hidden below the folder counts
    series(out / "001-ct", slices=3)
    series(out / ".partial-0123" / "002-ct", slices=2, StudyInstanceUID="1.2.9")
    series(out / ".old-4567" / "001-ct", slices=2, StudyInstanceUID="1.2.9")
    (out / "folder.dcm").mkdir()
    with archive(lambda _: 0x0000) as (peer, got):
        assert main(["send", str(out), "--to", f"ARCHIVE@127.0.0.1:{peer.port}"]) == 0
    assert "3 files sent" in capsys.readouterr().out
    assert len(got) == 3
    shutil.rmtree(out / "001-ct")
    assert main(["send", str(out), "--to", "ARCHIVE@127.0.0.1:104"]) == 2
    assert "holds no .dcm file" in capsys.readouterr().err


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
    for option in ("--deadline", "--network", "--tls-ca"):
        assert main(["restore", str(tmp_path / "empty"), *model, option, "9"]) == 2
        assert f"{option} is about a server, and --model needs none" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), "--deadline", "0"]) == 2
    assert "--deadline is a number of seconds above 0" in capsys.readouterr().err
    away = ["--server", "127.0.0.1:9", "--deadline", "0.5", "--out", str(tmp_path / "out")]
    assert main(["restore", str(tmp_path / "empty"), *away]) == 5
    assert "No Triton answers at 127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_of_an_enhanced_image_become_classic_images_that_name_their_frame(tmp_path, identity, modality):
    (tmp_path / "in").mkdir()
    source = enhanced(modality, 4)
    source.save_as(tmp_path / "in" / "all.dcm", enforce_file_format=False)
    delivered = restore_series(identity, tmp_path / "in", tmp_path / "out")
    assert len(delivered.files) == 4
    for number, path in enumerate(delivered.files, start=1):
        written = dcmread(path)
        assert written.SOPClassUID == CLASSES[modality]
        reference = written.SourceImageSequence[0]
        assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == (source.SOPInstanceUID, number)
        assert written.ImagePositionPatient == [0, 0, 3.0 * (number - 1)]
        slope, intercept = float(written.get("RescaleSlope", 1)), float(written.get("RescaleIntercept", 0))
        values = source.pixel_array[number - 1] * float(number) + (-1000 if modality == "CT" else 0)
        assert np.abs(written.pixel_array * slope + intercept - values).max() <= slope / 2
        assert "NumberOfFrames" not in written
        assert "SharedFunctionalGroupsSequence" not in written
    if shutil.which("dciodvfy"):
        assert [line for line in dciodvfy_messages(delivered.files[2]) if line.startswith("Error")] == []


def test_an_enhanced_pet_is_refused_with_the_reason(tmp_path, identity):
    (tmp_path / "in").mkdir()
    enhanced("PT", 4).save_as(tmp_path / "in" / "all.dcm", enforce_file_format=False)
    with pytest.raises(DataRejected, match="enhanced PET"):
        restore_series(identity, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("padding", "declared", "written"),
    [(-2000, True, -3024.0), (-2000, False, -3024.0), (-32768, True, None), (0, True, -1024.0)],
)
def test_padding_of_a_ct_is_padding_again(tmp_path, padding, declared, written):
    """Stored -2000 is -3024 HU; -32768 would cost the measured pixels their precision and takes the lowest value."""
    corner = np.zeros(SIZE, bool)
    corner[:9, :7] = True
    stored = [np.where(corner, padding, pixels(number, SIZE)).astype(np.int16) for number in range(4)]
    changes = {"PixelPaddingValue": padding} if declared else {}
    write(tmp_path / "in", [make_header("CT", n, stored[n], **changes) for n in range(4)])
    with LocalRestorer(tiny_network(tmp_path / "model.onnx", gain=0.2), threads=1) as restorer:  # changes every value
        files = restore_series(restorer, tmp_path / "in", tmp_path / "out").files
    for path in files:
        after = dcmread(path)
        values = after.pixel_array * float(after.RescaleSlope) + float(after.RescaleIntercept)
        assert float(after.RescaleSlope) == 0.125
        if written is not None:
            assert (values[corner] == written).all()
        assert ("PixelPaddingValue" in after) == declared
        if declared:
            assert (after.pixel_array[corner] == after.PixelPaddingValue).all()
        if padding:  # a scanner that pads with air does not tell the two apart
            assert values[~corner].min() > values[corner].max()


@pytest.mark.parametrize("modality", ["PT", "MR"])
def test_padding_below_zero_is_padding_again_in_pet_and_mr(tmp_path, identity, modality):
    corner = np.zeros(SIZE, bool)
    corner[:, -5:] = True
    stored = [np.where(corner, -32768, pixels(number, SIZE)).astype(np.int16) for number in range(4)]
    source = [make_header(modality, n, stored[n], PixelPaddingValue=-32768) for n in range(4)]
    files = restore_series(identity, write(tmp_path / "in", source)[0].parent, tmp_path / "out").files
    for before, path in zip(source, files, strict=True):
        after = dcmread(path)
        assert (after.pixel_array[corner] == after.PixelPaddingValue).all()
        assert (after.pixel_array[~corner] != after.PixelPaddingValue).all()
        slopes = [float(ds.get("RescaleSlope", 1)) for ds in (before, after)]
        difference = np.abs(after.pixel_array * slopes[1] - before.pixel_array * slopes[0])[~corner]
        assert difference.max() <= slopes[1] / 2 * 1.001


def test_a_source_that_is_gone_before_its_padding_was_kept_is_an_error(tmp_path, identity):
    stored = np.full(SIZE, -2000, np.int16)
    stored[5:] = 100
    files = write(tmp_path / "in", [make_header("CT", n, stored, PixelPaddingValue=-2000) for n in range(4)])
    source = read_series(files)
    files[1].unlink()
    with pytest.raises(DataRejected, match="padding would be lost"):
        restore_series(identity, source, tmp_path / "out")


def test_descriptions_keep_whole_words(tmp_path, identity):
    long = "CT Thorax Abdomen Pelvis portal venous phase 5.0 Br38f"
    series(tmp_path / "in", "CT", SeriesDescription=long)
    text = dcmread(restore_series(identity, tmp_path / "in", tmp_path / "out").files[0]).SeriesDescription
    assert text == "CT Thorax Abdomen Pelvis portal... (MIRA-Net, research use)"


def test_the_verb_sends_what_it_restored(tmp_path, network, capsys):
    series(tmp_path / "in", "CT", slices=3)
    common = ["restore", str(tmp_path / "in"), "--model", str(network)]
    with archive(lambda number: 0x0000) as (peer, got):
        where = f"ARCHIVE@127.0.0.1:{peer.port}"
        assert main([*common, "--out", str(tmp_path / "out"), "--send", where]) == 0
    assert "3 files sent" in capsys.readouterr().out
    assert len(set(got)) == 3
    assert main([*common, "--out", str(tmp_path / "none"), "--send", "nowhere"]) == 2
    assert not (tmp_path / "none").exists()
