"""Which folder is a series' own: told by the images that its files were made of."""

import pytest
from pydicom import dcmread

from mira.client import LocalRestorer
from mira.client.series import RestorationIncomplete, restore_all, restore_series
from mira.errors import DataRejected, ServerAway
from tests.mira.dicom_enhanced import enhanced
from tests.mira.dicom_synthetic import make_header, pixels, write
from tests.mira.test_client_series import SIZE, failing, series
from tests.triton.tiny_network import describe, tiny_network


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tiny_network(tmp_path_factory.mktemp("network") / "model.onnx", gain=0.0)
    describe(path, version=5)
    return path


@pytest.fixture
def identity(network):
    with LocalRestorer(network, threads=1) as restorer:
        yield restorer


def named(folder, uid, slices=5):
    """A CT series whose images have UIDs of their own."""
    stored = [pixels(number, SIZE) for number in range(slices)]
    own = [{"SeriesInstanceUID": uid, "SOPInstanceUID": f"{uid}.{n + 1}"} for n in range(slices)]
    return write(folder, [make_header("CT", n, stored[n], **own[n]) for n in range(slices)], "ct")


def sources(folder):
    """UIDs of the images that a restored series names as its source."""
    return [dcmread(path).SourceImageSequence[0].ReferencedSOPInstanceUID for path in sorted(folder.glob("*.dcm"))]


def test_the_same_command_restores_what_arrived_since_and_nothing_twice(tmp_path, identity):
    source, out = tmp_path / "in", tmp_path / "out"
    old = named(source / "b", "1.2.98")
    restore_all(identity, source, out)
    new = named(source / "a", "1.2.97")  # it is found before the other one
    delivered, refused = restore_all(identity, source, out)
    assert [item.files[0].parent.name for item in delivered] == ["002-ct"]
    assert refused == {f"{out / '001-ct'} exists already. Give another folder, or remove it first.": 5}
    for files, name in ((old, "001-ct"), (new, "002-ct")):
        assert sources(out / name) == [dcmread(path).SOPInstanceUID for path in files]
    with pytest.raises(DataRejected, match=r"(?=.*001-ct exists already)(?=.*002-ct exists already)"):
        restore_all(identity, source, out)
    assert sorted(path.name for path in out.iterdir()) == ["001-ct", "002-ct"]


def test_what_a_failed_run_did_not_come_to_is_counted(tmp_path, identity, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    named(source / "c", "1.2.99")
    restore_all(identity, source, out)
    named(source / "a", "1.2.97")
    series(source / "b", "MR", SeriesInstanceUID="1.2.98")
    failing(identity, monkeypatch, ServerAway("Triton is away."))
    with pytest.raises(RestorationIncomplete, match=r"away\. 2 of 3 series are complete") as caught:
        restore_all(identity, source, out)
    assert [item.files[0].parent.name for item in caught.value.delivered] == ["002-ct"]
    assert caught.value.outcome.present == [out / "001-ct"]


def test_a_series_that_has_grown_is_restored_as_a_whole(tmp_path, identity):
    source, out = tmp_path / "in", tmp_path / "out"
    named(source, "1.2.98", slices=4)
    restore_all(identity, source, out)
    whole = named(source, "1.2.98", slices=6)
    delivered, _ = restore_all(identity, source, out)
    assert [item.files[0].parent.name for item in delivered] == ["002-ct"]
    assert sources(out / "002-ct") == [dcmread(path).SOPInstanceUID for path in whole]


def test_a_folder_that_is_not_of_this_series_is_passed_over(tmp_path, identity):
    source, out = tmp_path / "in", tmp_path / "out"
    named(source, "1.2.98")
    (out / "001-ct").mkdir(parents=True)
    (out / "001-ct" / "0001.dcm").write_text("no DICOM")
    (out / "002-ct-error").mkdir()
    delivered, _ = restore_all(identity, source, out)
    assert [item.files[0].parent.name for item in delivered] == ["003-ct"]
    with pytest.raises(DataRejected, match="003-ct exists already"):
        restore_all(identity, source, out)


def test_frames_of_one_enhanced_image_are_recognised_again(tmp_path, identity):
    (tmp_path / "in").mkdir()
    enhanced("MR", 4).save_as(tmp_path / "in" / "all.dcm", enforce_file_format=False)
    restore_all(identity, tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataRejected, match="001-mr exists already"):
        restore_all(identity, tmp_path / "in", tmp_path / "out")


def test_of_two_commands_at_once_the_second_leaves_what_the_first_wrote(tmp_path, identity, network, monkeypatch):
    series(tmp_path / "in")
    answers, written = identity.restore_slices, []

    def slowly(*arguments, **options):
        restored = answers(*arguments, **options)
        with LocalRestorer(network, threads=1) as other:
            written.extend(restore_series(other, tmp_path / "in", tmp_path / "out").files)
        return restored

    monkeypatch.setattr(identity, "restore_slices", slowly)
    with pytest.raises(DataRejected, match="out exists already"):
        restore_series(identity, tmp_path / "in", tmp_path / "out")
    assert len(written) == 5
    assert sorted((tmp_path / "out").iterdir()) == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
