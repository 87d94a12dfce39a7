"""Files that change while they are taken in: what is in a case is what was read, and the next ingest has the new."""

from pathlib import Path

import pytest

from components.ingest import known as known_files
from components.ingest import series as series_work
from components.ingest.step import ingest
from mira.cases import iterate_cases, read_volume
from mira.errors import DataRejected
from tests.components.test_ingest import ONE, sites_file
from tests.mira.dicom_synthetic import make_header, make_series, pixels, write


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def site(tmp_path):
    """(sites.yaml, the second of four CT slices)."""
    return sites_file(tmp_path, alpha={}), make_series(tmp_path / "alpha")[1]


def rewrite(file: Path, number: int) -> None:
    """Other pixels in the same slice, in place: the same inode, name and size."""
    size = file.stat().st_size
    (fresh,) = write(file.parent.parent.parent / "new", [make_header("CT", 1, stored=pixels(number))])
    file.write_bytes(fresh.read_bytes())
    assert file.stat().st_size == size


def shown(out: Path) -> list[int]:
    """Which `pixels(number)` the slices of the only case hold."""
    ((folder, _),) = iterate_cases(out)
    known = {(pixels(number) - 1024.0).tobytes(): number for number in (0, 1, 2, 3, 50, 51)}
    return [known[plane.astype(float).tobytes()] for plane in read_volume(folder).voxels]


def on_reading(monkeypatch, file: Path, change, after: bool) -> None:
    """Change a file once, right before or right after ingest reads it whole."""
    real, done = series_work.fetch, []

    def fetch(path):
        if path == file and not after and not done:
            done.append(change())
        fetched = real(path)
        if path == file and after and not done:
            done.append(change())
        return fetched

    monkeypatch.setattr(series_work, "fetch", fetch)


@pytest.mark.parametrize(("after", "first"), [(False, 50), (True, 1)])
def test_a_file_that_changes_during_the_ingest_is_not_trusted(site, tmp_path, monkeypatch, after, first):
    path, file = site
    with monkeypatch.context() as patch:
        on_reading(patch, file, lambda: rewrite(file, 50), after)
        ingest(path, tmp_path / "out", ONE)
    assert shown(tmp_path / "out") == [0, first, 2, 3]
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == (not after)
    assert shown(tmp_path / "out") == [0, 50, 2, 3]


def test_a_slice_that_is_cut_off_between_scan_and_read_is_refused_and_comes_back(site, tmp_path, monkeypatch):
    path, file = site
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        on_reading(patch, file, lambda: file.write_bytes(whole[:-100]), after=False)
        with pytest.raises(DataRejected, match="1 files: the pixels cannot be decoded: cut off"):
            ingest(path, tmp_path / "out", ONE)
    file.write_bytes(whole)
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].refused == {}
    assert shown(tmp_path / "out") == [0, 1, 2, 3]


@pytest.mark.parametrize(("settled", "second"), [(2.0, 51), (-1.0, 1)])
def test_a_change_within_the_tick_of_the_clock_is_found_the_next_time(site, tmp_path, monkeypatch, settled, second):
    """On a file system whose clock stands still: without the wait the change would never be seen."""
    path, file = site
    real = known_files._state_now
    still = real(file)
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", settled)
    monkeypatch.setattr(known_files, "_state_now", lambda place: still if place == file else real(place))
    ingest(path, tmp_path / "out", ONE)
    rewrite(file, 51)
    ingest(path, tmp_path / "out", ONE)
    assert shown(tmp_path / "out") == [0, second, 2, 3]
