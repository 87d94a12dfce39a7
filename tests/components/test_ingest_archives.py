"""Archives again: one that nothing touched stays packed, one that changed is read whole, and none loses a member."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from components.ingest import known as known_files
from components.ingest import series as series_work
from components.ingest.step import IngestConfig, ingest
from mira.cases import iterate_cases
from mira.dicom import archive
from mira.errors import RetryableError
from mira.storage import hash_tree
from tests.components.test_ingest import ONE, WORDS, hospital, sites_file, stuffed
from tests.mira.dicom_synthetic import make_header, make_series, write

RULES = [{"task": "ct-denoising", "match": {"Modality": "CT"}}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", -1.0)  # files of this very moment count as settled


@pytest.fixture
def unpacked(monkeypatch):
    """Names of the members that were unpacked."""
    seen: list[str] = []
    real = archive._copy
    monkeypatch.setattr(
        archive, "_copy", lambda content, entry, target: seen.append(entry.filename) or real(content, entry, target)
    )
    return seen


@pytest.fixture
def reads(monkeypatch):
    """Counts the files that ingest reads whole."""
    seen: list[Path] = []
    real = series_work.fetch
    monkeypatch.setattr(series_work, "fetch", lambda path: seen.append(path) or real(path))
    return seen


def pack(folder: Path, target: Path) -> None:
    """One zip of a folder, under a patient's name as people send them; put in the place of one that is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name("fresh")
    with zipfile.ZipFile(fresh, "w") as content:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            content.write(file, file.relative_to(folder))
    os.replace(fresh, target)


@pytest.fixture
def sent(tmp_path):
    """(sites.yaml, what is in the zip, the zip)."""
    hospital(tmp_path / "export")
    path, zipped = sites_file(tmp_path, alpha={}), tmp_path / "alpha" / "DOE^JANE.zip"
    pack(tmp_path / "export", zipped)
    return path, tmp_path / "export", zipped


def slices(out: Path) -> dict[str, int]:
    return {record.modality.value: record.shape[0] for _, record in iterate_cases(out)}


def test_the_same_zip_again_stays_packed(sent, tmp_path, unpacked, reads):
    path, _, _ = sent
    first = ingest(path, tmp_path / "out", ONE).sites["alpha"]
    assert (len(unpacked), len(reads), first.cases, first.structure_sets) == (16, 13, 3, 1)
    before = {name: hash_tree(tmp_path / "out" / name) for name in ("alpha", "quarantine.json", "cases.parquet")}
    unpacked.clear()
    reads.clear()
    second = ingest(path, tmp_path / "out", ONE).sites["alpha"]
    assert reads == []
    assert sorted(unpacked) == ["ct/ct000.dcm", "mr/mr000.dcm", "pet/pt000.dcm", "rt/f000.dcm"]  # headers and contours
    assert second == first.model_copy(update={"unchanged": 3})
    assert {name: hash_tree(tmp_path / "out" / name) for name in before} == before
    unpacked.clear()
    third = ingest(path, tmp_path / "out", IngestConfig(workers=1, verify=True)).sites["alpha"]
    assert (len(unpacked), len(reads), third) == (16, 13, second)  # and with `verify` every byte is read


def test_two_processes_and_a_zip_beside_a_folder_do_the_same(sent, tmp_path, unpacked):
    path, _, zipped = sent
    make_series(zipped.parent / "plain", SeriesInstanceUID="1.2.3")
    two = IngestConfig(workers=2)
    assert ingest(path, tmp_path / "out", two).sites["alpha"].cases == 4
    unpacked.clear()
    assert ingest(path, tmp_path / "out", two).sites["alpha"].unchanged == 4
    assert len(unpacked) == 4


def test_a_late_slice_in_the_zip_is_taken_in(sent, tmp_path, reads):
    path, export, zipped = sent
    ingest(path, tmp_path / "out", ONE)
    write(export / "late", [make_header("CT", 4)])
    pack(export, zipped)
    reads.clear()
    summary = ingest(path, tmp_path / "out", ONE).sites["alpha"]
    assert slices(tmp_path / "out") == {"CT": 5, "PET": 4, "MR": 5}
    assert (summary.unchanged, summary.files, len(reads)) == (2, 17, 14)


def test_a_zip_that_changed_without_another_size_or_time_is_read(sent, tmp_path):
    path, export, zipped = sent
    ingest(path, tmp_path / "out", ONE)
    before = {record.case_id: record.source_sha256 for _, record in iterate_cases(tmp_path / "out")}
    status, slice_ = zipped.stat(), export / "ct" / "ct002.dcm"
    changed = bytearray(slice_.read_bytes())
    changed[-1] ^= 1
    slice_.write_bytes(changed)
    pack(export, tmp_path / "new.zip")
    zipped.write_bytes((tmp_path / "new.zip").read_bytes())  # in place
    os.utime(zipped, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (zipped.stat().st_ino, zipped.stat().st_size) == (status.st_ino, status.st_size)
    summary = ingest(path, tmp_path / "out", ONE).sites["alpha"]
    after = {record.case_id: record.source_sha256 for _, record in iterate_cases(tmp_path / "out")}
    assert summary.unchanged == 2
    assert len(set(before.items()) - set(after.items())) == 1


def test_a_zip_that_may_still_change_is_not_trusted(sent, tmp_path, unpacked, monkeypatch):
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", 3600.0)
    path, _, _ = sent
    ingest(path, tmp_path / "out", ONE)
    unpacked.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 3
    assert len(unpacked) == 16


def test_a_zip_with_one_unknown_member_is_unpacked_as_a_whole(sent, tmp_path, unpacked):
    path, _, _ = sent
    ingest(path, tmp_path / "out", ONE)
    (memory,) = (tmp_path / "out" / ".ingest" / ".seen").iterdir()
    document = json.loads(memory.read_text())
    document["files"].popitem()
    memory.write_text(json.dumps(document))
    unpacked.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 3
    assert len(unpacked) == 16


def test_what_is_needed_again_is_unpacked_again_and_no_more(sent, tmp_path, unpacked):
    path, _, _ = sent
    ingest(path, tmp_path / "out", ONE)
    whole = hash_tree(tmp_path / "out" / "alpha")
    lost = next(folder for folder, record in iterate_cases(tmp_path / "out") if record.modality.value == "MR")
    (lost / "image.nii").unlink()
    unpacked.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 2
    assert sorted(unpacked) == ["ct/ct000.dcm", *(f"mr/mr00{n}.dcm" for n in range(5)), "pet/pt000.dcm", "rt/f000.dcm"]
    assert hash_tree(tmp_path / "out" / "alpha") == whole
    other = IngestConfig(workers=1, minimum_size=17)  # another rule: every series is judged anew
    unpacked.clear()
    assert ingest(path, tmp_path / "out", other).sites["alpha"].cases == 3
    assert len(unpacked) == 14  # all but the scout and the picture


def test_series_that_a_site_does_not_offer_do_not_have_its_zip_unpacked(sent, tmp_path, unpacked):
    path = sites_file(tmp_path, alpha={"series": RULES})
    first = ingest(path, tmp_path / "out", ONE).sites["alpha"]
    assert (first.cases, first.refused["not-offered"]) == (1, 9)
    unpacked.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"] == first.model_copy(update={"unchanged": 1})
    assert len(unpacked) == 4
    path = sites_file(tmp_path, alpha={})  # and when it does, they are there
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].cases == 3
    assert slices(tmp_path / "out") == {"CT": 4, "PET": 4, "MR": 5}


def test_a_zip_that_is_replaced_while_it_is_worked_on_is_told_and_read_the_next_time(sent, tmp_path, monkeypatch):
    path, export, zipped = sent
    ingest(path, tmp_path / "out", ONE)
    real = archive.Opened.unpack

    def replaced(self, files):
        (export / "ct" / "ct000.dcm").unlink()
        write(export / "ct", [make_header("CT", 7)], "a")
        pack(export, zipped)
        return real(self, files)

    with monkeypatch.context() as patch, pytest.raises(RetryableError, match="run again") as failure:
        patch.setattr(archive.Opened, "unpack", replaced)
        ingest(path, tmp_path / "out", ONE)
    assert "DOE" not in str(failure.value)
    assert slices(tmp_path / "out") == {"CT": 4, "PET": 4, "MR": 5}
    ingest(path, tmp_path / "out", ONE)
    positions = slices(tmp_path / "out")
    assert (positions["PET"], positions["MR"]) == (4, 5)
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].files == 16


def test_what_is_remembered_of_a_zip_names_nobody(tmp_path):
    path = sites_file(tmp_path, alpha={})
    write(tmp_path / "export" / "Zyxwvut^Quirina", [stuffed("CT", number) for number in range(4)], "PID7391846")
    pack(tmp_path / "export", tmp_path / "alpha" / "Zyxwvut.zip")
    ingest(path, tmp_path / "out", ONE)
    (memory,) = (tmp_path / "out" / ".ingest" / ".seen").iterdir()
    text = memory.read_text()
    assert text.count('"image"') == 4
    assert [word for word in WORDS if word.lower() in text.lower()] == []
