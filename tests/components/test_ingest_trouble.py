"""Ingest while disk, network, keys and people do what they do: nothing is lost for good, nothing is told."""

import errno
import os
import traceback
from pathlib import Path

import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGLSLossless

from components.ingest import known as known_files
from components.ingest import series as series_work
from components.ingest.known import KnownFiles
from components.ingest.step import IngestConfig, ingest, ingest_sites
from mira.cases import iterate_cases
from mira.dicom.archive import opened
from mira.dicom.deidentify import Pseudonyms
from mira.dicom.reasons import Reason
from mira.errors import ConfigurationError, DataRejected, RetryableError
from mira.sites import Site
from mira.storage import read_json
from tests.components.test_ingest import ONE, sites_file
from tests.mira.dicom_synthetic import make_header, make_series, write


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", -1.0)


def shapes(out: Path) -> list[tuple[int, ...]]:
    return [record.shape for _, record in iterate_cases(out)]


def test_a_moment_without_the_disk_costs_no_slice_for_good(tmp_path, monkeypatch):
    path = sites_file(tmp_path, alpha={})
    last = make_series(tmp_path / "alpha" / "DOE^JANE", slices=6)[-1]
    real, times = Path.open, []

    def fail_once(self, *args, **kwargs):
        if self == last and not times:
            times.append(1)
            raise OSError(errno.EIO, "Input/output error", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail_once)
    with pytest.raises(RetryableError) as failure:
        ingest(path, tmp_path / "out", ONE)
    assert "DOE" not in "".join(traceback.format_exception(failure.value))
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].refused == {}
    assert [shape[0] for shape in shapes(tmp_path / "out")] == [6]


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_keeps_what_was_finished(tmp_path, monkeypatch, why):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha" / "DOE^JANE", slices=6)
    make_series(tmp_path / "alpha" / "mr", "MR")
    real, asked = os.posix_fallocate, []

    def fallocate(handle, begin, length):
        asked.append(length)
        if len(asked) == 2:
            raise OSError(why, os.strerror(why))
        real(handle, begin, length)

    with monkeypatch.context() as full, pytest.raises(RetryableError, match="finished series are kept") as failure:
        full.setattr(os, "posix_fallocate", fallocate)
        ingest(path, tmp_path / "out", ONE)
    assert os.strerror(why) in str(failure.value)
    assert "DOE" not in "".join(traceback.format_exception(failure.value))
    (image,) = (tmp_path / "out").rglob("*.nii")
    assert image.stat().st_size == asked[0]
    assert not list((tmp_path / "out").rglob(".partial-*"))
    assert not (tmp_path / "out" / "cases.parquet").exists()
    site = ingest(path, tmp_path / "out", ONE).sites["alpha"]
    assert (site.cases, site.unchanged, site.voxels_in) == (2, 1, site.voxels_out)


def test_a_file_that_vanishes_is_named_nowhere(tmp_path, monkeypatch):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha" / "DOE^JANE")
    real = series_work.fetch
    monkeypatch.setattr(series_work, "fetch", lambda file: file.unlink() or real(file))
    with pytest.raises(RetryableError) as failure:
        ingest(path, tmp_path / "out", ONE)
    assert "DOE" not in "".join(traceback.format_exception(failure.value))


def test_a_series_that_found_no_memory_is_tried_again(tmp_path, monkeypatch):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")

    def none_left(*_, **__):
        raise MemoryError

    with monkeypatch.context() as busy, pytest.raises(DataRejected):
        busy.setattr(series_work, "read_volumes", none_left)
        ingest(path, tmp_path / "out", ONE)
    assert ingest(path, tmp_path / "out", ONE).cases == 1


def test_a_series_without_a_codec_is_tried_again(tmp_path, monkeypatch):
    path = sites_file(tmp_path, alpha={})
    headers = [make_header("CT", number) for number in range(4)]
    for header in headers:
        header.compress(JPEGLSLossless, generate_instance_uid=False)
    write(tmp_path / "alpha", headers)
    with monkeypatch.context() as bare, pytest.raises(DataRejected, match=r"pip install 'mira-net\[codecs\]'"):
        bare.setattr(get_decoder(JPEGLSLossless), "_available", {})
        ingest(path, tmp_path / "out", ONE)
    assert ingest(path, tmp_path / "out", ONE).cases == 1


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-8])])
def test_a_case_that_lost_voxels_is_made_again(tmp_path, harm):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    image = next((tmp_path / "out").glob("*/*/image.nii"))
    whole = image.read_bytes()
    harm(image)
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 0
    assert image.read_bytes() == whole
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 1


def test_a_damaged_ledger_is_none(tmp_path):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    for damage in ('{"cases": [', '{"cases": 7}'):
        next((tmp_path / "out" / ".ingest" / "alpha").glob("*.json")).write_text(damage)
        assert ingest(path, tmp_path / "out", ONE).cases == 1


def test_two_keys_never_name_one_set_of_cases(tmp_path, monkeypatch):
    sites = [Site(id=name, role="train", path=tmp_path / name) for name in ("alpha", "beta")]
    for site in sites:
        make_series(site.path)
    keep = IngestConfig(workers=1, keep_other_sites=True)
    ingest_sites(sites[:1], tmp_path / "out", keep)
    ingest_sites(sites[1:], tmp_path / "out", keep)
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "another key for tests")
    with pytest.raises(ConfigurationError, match="another pseudonym key"):
        ingest_sites(sites[1:], tmp_path / "out", keep)
    assert ingest_sites(sites, tmp_path / "out", keep).cases == 2  # all of them anew: one key again
    assert len({record.patient for _, record in iterate_cases(tmp_path / "out")}) == 1


def test_a_share_that_is_not_mounted_loses_no_case(tmp_path):
    path = sites_file(tmp_path, alpha={}, beta={})
    make_series(tmp_path / "alpha")
    make_series(tmp_path / "beta", PatientID="P-2")
    ingest(path, tmp_path / "out", ONE)
    (tmp_path / "alpha").rename(tmp_path / "elsewhere")
    (tmp_path / "alpha").mkdir()
    with pytest.raises(RetryableError, match="alpha holds no file now, but 1 cases"):
        ingest(path, tmp_path / "out", ONE)
    assert {record.site for _, record in iterate_cases(tmp_path / "out")} == {"alpha", "beta"}


def test_what_is_no_case_is_never_removed(tmp_path):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    other = tmp_path / "out" / "sub-01" / "anat"
    other.mkdir(parents=True)
    for name in ("image.nii", "notes.txt"):
        (other / name).write_text("somebody's work")
    ingest(path, tmp_path / "out", ONE)
    assert {file.name for file in other.iterdir()} == {"image.nii", "notes.txt"}


@pytest.mark.parametrize("out", ["store", "store/run", "."])
def test_a_store_and_an_output_are_two_folders(tmp_path, out):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    with pytest.raises(ConfigurationError, match="beside each other"):
        ingest(path, tmp_path / out, IngestConfig(workers=1, store=str(tmp_path / "store")))


def test_what_a_run_got_is_read_only_since_the_store_has_it_too(tmp_path):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "run", IngestConfig(workers=1, store=str(tmp_path / "store")))
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) == 5
    assert not any(file.stat().st_mode & 0o222 for file in files)


def test_no_word_passes_as_a_modality_unless_the_standard_has_it(tmp_path):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    for name in ("DOEJANE", "US"):
        page = make_header("CT", 9, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality=name)
        write(tmp_path / "alpha", [page], name)
    ingest(path, tmp_path / "out", ONE)
    rejected = read_json(tmp_path / "out" / "quarantine.json")["rejected"]
    assert sorted(item["modality"] for item in rejected) == ["", "US"]


def test_a_file_that_ends_the_process_that_scans_it_is_looked_at_in_no_other(tmp_path):
    files = make_series(tmp_path / "in")

    class Crashing:
        """Workers whose process ends on the second file."""

        def each(self, function, items):
            for index, item in reversed(list(enumerate(items))):
                yield index, None if any(file == files[1] for file, _ in item) else function(item)

    known = KnownFiles(tmp_path / "seen.json", "test", Pseudonyms(b"a key for tests only"), verify=True)
    with opened(tmp_path / "in") as source:
        found = dict(known.look_at_all(source, Crashing(), "scan"))
    assert [found[file].reason for file in files] == [None, Reason.CRASHED, None, None]
