"""Finding DICOM in what hospitals send, and listing the rest with a reason."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from mira.dicom.archive import opened
from mira.dicom.reasons import TEXTS, Reason
from mira.dicom.scan import scan
from mira.dicom.verbs import as_text, inspect
from tests.mira.dicom_synthetic import make_header, make_series, structure_set, write


def look(path: Path):
    with opened(path) as source:
        return scan(source)


def test_every_reason_is_explained():
    assert set(TEXTS) == set(Reason)
    assert all(text[0].islower() or text.startswith(("DICOM", "CT", "MR", "PET")) for text in TEXTS.values())


def test_folders_of_any_depth_group_by_series(tmp_path):
    make_series(tmp_path / "a" / "b" / "c", "CT")
    make_series(tmp_path / "d", "MR", slices=3)
    write(tmp_path / "e", [make_header("CT", 9)])
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 not dicom")
    (tmp_path / "empty.dcm").write_bytes(b"")
    found = look(tmp_path)
    assert sorted(len(series.files) for series in found.series) == [3, 5]
    assert [item.reason for item in found.rejected] == [Reason.NOT_DICOM, Reason.NOT_DICOM]
    assert found.files == 10


def test_a_single_file(tmp_path):
    assert len(look(make_series(tmp_path)[0]).series) == 1


def test_structure_sets_are_kept_apart(tmp_path):
    write(tmp_path, [structure_set({1: []})])
    found = look(tmp_path)
    assert len(found.structure_sets) == 1
    assert not found.rejected


def test_file_without_preamble_is_read(tmp_path):
    for path in make_series(tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[132:])
    found = look(tmp_path)
    assert len(found.series) == 1
    assert len(found.series[0].files) == 4


def test_without_series_uid_files_of_one_folder_belong_together(tmp_path):
    make_series(tmp_path / "a", SeriesInstanceUID="", StudyInstanceUID="")
    make_series(tmp_path / "b", SeriesInstanceUID="", StudyInstanceUID="", slices=3)
    assert sorted(len(series.files) for series in look(tmp_path).series) == [3, 4]


def test_zip_is_unpacked_under_numbers_and_deleted(tmp_path):
    files = make_series(tmp_path / "in")
    archive = tmp_path / "send" / "export.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as content:
        content.write(files[0], "../../../escaped.dcm")
        content.write(files[1], "/absolute.dcm")
        content.write(files[2], "Doe^Jane/plain.dcm")
    before = set(tmp_path.rglob("*"))
    with opened(archive) as source:
        assert len(scan(source).series[0].files) == 3
        assert [path.name for path in source.files] == ["0000000", "0000001", "0000002"]
        folder = source.files[0].parent
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
    assert set(tmp_path.rglob("*")) == before
    assert len(look(archive.parent).series[0].files) == 3


def test_bomb_and_damaged_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("zeros", bytes(30_000_000))
    (tmp_path / "damaged.zip").write_bytes(b"PK\x03\x04 nothing")
    assert [item.reason for item in look(tmp_path).rejected] == [Reason.UNSAFE_ARCHIVE] * 2


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_of_a_zip_that_is_damaged_in_its_middle_nothing_is_taken(tmp_path, method):
    files = make_series(tmp_path / "in", slices=8)
    (tmp_path / "send").mkdir()
    archive = tmp_path / "send" / "export.zip"
    with zipfile.ZipFile(archive, "w", method) as content:
        for file in files:
            content.write(file, file.name)
        place = content.infolist()[5].header_offset
    damaged = bytearray(archive.read_bytes())
    damaged[place + 400] ^= 0xFF
    archive.write_bytes(damaged)
    found = look(archive.parent)
    assert [item.reason for item in found.rejected] == [Reason.UNSAFE_ARCHIVE]
    assert found.series == []  # five of eight slices would have looked like a series


def test_a_full_disk_is_no_damage_of_a_zip(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as content:
        content.write(make_series(tmp_path / "in")[0], "a")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mira.dicom.archive._copy", full)
    with pytest.raises(OSError, match="No space"):
        look(tmp_path / "export.zip")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    make_series(tmp_path / "open")
    make_series(tmp_path / "closed")
    (tmp_path / "link").symlink_to(tmp_path / "open")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = look(tmp_path)
    assert (found.files, [item.reason for item in found.rejected]) == (4, [Reason.UNREADABLE_FOLDER] * 2)


def test_dicomdir_gives_its_files_and_names_missing_ones(tmp_path):
    fileset = FileSet()
    for path in make_series(tmp_path / "in"):
        fileset.add(path)
    fileset.write(tmp_path / "media")
    found = look(tmp_path / "media" / "DICOMDIR")
    assert len(found.series[0].files) == 4
    next(path for path in (tmp_path / "media").rglob("*") if path.is_file() and path.name != "DICOMDIR").unlink()
    assert [item.reason for item in look(tmp_path / "media" / "DICOMDIR").rejected] == [Reason.MISSING_FILE]
    assert [item.reason for item in look(tmp_path / "media").rejected] == [Reason.DIRECTORY]


def test_dicomdir_cannot_lead_out_of_its_folder(tmp_path):
    fileset = FileSet()
    fileset.add(make_series(tmp_path / "in")[0])
    fileset.write(tmp_path / "media")
    index = tmp_path / "media" / "DICOMDIR"
    name = next(path for path in (tmp_path / "media").rglob("*") if path.is_file() and path.name != "DICOMDIR")
    relative = "\\".join(name.relative_to(tmp_path / "media").parts)
    escaped = "..\\in\\ct000.dcm".ljust(len(relative) + len(relative) % 2)
    content = index.read_bytes()
    assert relative.encode() in content
    assert len(escaped) == len(relative) + len(relative) % 2
    index.write_bytes(content.replace(relative.encode().ljust(len(escaped)), escaped.encode()))
    found = look(index)
    assert not found.series
    assert Reason.MISSING_FILE in [item.reason for item in found.rejected]


def test_dicomdir_may_name_what_no_file_can_be_called(tmp_path):
    entry = Dataset()
    entry.ReferencedFileID = ["DOE" * 100]
    index = make_header("CT", 0, DirectoryRecordSequence=[entry])
    del index.PixelData
    write(tmp_path, [index])[0].rename(tmp_path / "DICOMDIR")
    assert [item.reason for item in look(tmp_path / "DICOMDIR").rejected] == [Reason.MISSING_FILE]


@pytest.mark.parametrize(
    ("changes", "usable"), [({}, True), ({"RescaleSlope": None}, False), ({"PatientName": "Roe^Richard"}, True)]
)
def test_inspect_says_what_is_usable_and_names_nobody(tmp_path, changes, usable):
    make_series(tmp_path / "Doe^Jane", **changes)
    found = inspect(tmp_path)
    assert found["series"][0]["usable"] is usable
    assert ("ct-denoising" in as_text(found)) is usable
    text = str(found) + as_text(found)
    for word in ("Doe", "Jane", "Roe", "P-1", "20200102", "9999"):
        assert word not in text
    assert "Doe" in str(inspect(tmp_path, with_files=True))


def test_an_empty_directory_is_listed_and_one_of_another_name_is_followed(tmp_path):
    files = make_series(tmp_path / "IMAGES")
    for name, records in (("DICOMDIR", []), ("DICOMDIR.2", files)):
        index = Dataset()
        index.file_meta = FileMetaDataset()
        index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        index.DirectoryRecordSequence = [Dataset() for _ in records]
        for record, file in zip(index.DirectoryRecordSequence, records, strict=True):
            record.ReferencedFileID = ["IMAGES", file.name.upper().removesuffix(".DCM")]
            file.rename(file.with_name(file.name.upper().removesuffix(".DCM")))
        index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        index.save_as(tmp_path / name, enforce_file_format=True)
    with opened(tmp_path / "DICOMDIR") as source:
        assert [item.reason for item in scan(source).rejected] == [Reason.DIRECTORY]
    with opened(tmp_path / "DICOMDIR.2") as source:
        assert [len(series.files) for series in scan(source).series] == [4]
