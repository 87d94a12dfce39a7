"""Ingest again: what is unchanged costs nothing, what is new is taken in, and what was cut off goes on."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from components.ingest import known as known_files
from components.ingest.publish import exclusive
from components.ingest.step import IngestConfig, ingest
from components.ingest.workers import Workers
from mira.cases import iterate_cases
from mira.errors import RetryableError
from mira.storage import hash_tree
from tests.components.test_ingest import ONE, WORDS, hospital, sites_file, stuffed
from tests.mira.dicom_synthetic import make_header, make_series, write


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", -1.0)  # files of this very moment count as settled


@pytest.fixture
def reads(monkeypatch):
    """Counts the files that ingest reads whole."""
    from components.ingest import series

    seen: list[Path] = []
    real = series.fetch
    monkeypatch.setattr(series, "fetch", lambda path: seen.append(path) or real(path))
    return seen


def test_what_nothing_touched_is_not_read_again(tmp_path, reads):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    assert len(reads) == 13
    before = hash_tree(tmp_path / "out" / "alpha")
    reads.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 3
    assert reads == []
    assert ingest(path, tmp_path / "out", IngestConfig(workers=1, verify=True)).sites["alpha"].unchanged == 3
    assert len(reads) == 13  # and with `verify` every byte is
    assert hash_tree(tmp_path / "out" / "alpha") == before


def test_content_decides_and_not_name_place_or_time(tmp_path, reads):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    before = hash_tree(tmp_path / "out" / "alpha")
    (tmp_path / "alpha" / "ct").rename(tmp_path / "alpha" / "a new place")
    for number, file in enumerate(sorted((tmp_path / "alpha" / "a new place").iterdir())):
        file.rename(file.with_name(f"{9 - number}.ima"))
    for file in (tmp_path / "alpha" / "mr").iterdir():
        os.utime(file, (1, 1))
    reads.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 3
    assert len(reads) == 9  # moved and touched files were read, to find that they are the same
    assert hash_tree(tmp_path / "out" / "alpha") == before


def test_a_change_that_keeps_size_and_time_of_writing_is_found(tmp_path):
    path = sites_file(tmp_path, alpha={})
    file = make_series(tmp_path / "alpha")[2]
    ingest(path, tmp_path / "out", ONE)
    before = next(record.source_sha256 for _, record in iterate_cases(tmp_path / "out"))
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 0
    assert next(record.source_sha256 for _, record in iterate_cases(tmp_path / "out")) != before


def test_a_file_that_may_still_change_is_not_trusted(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(known_files, "SETTLED_SECONDS", 3600.0)
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    reads.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 1
    assert len(reads) == 4


def test_a_damaged_memory_is_no_memory(tmp_path, reads):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    (memory,) = (tmp_path / "out" / ".ingest" / ".seen").iterdir()
    memory.write_text(memory.read_text()[:-20])
    reads.clear()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 1
    assert len(reads) == 4


def test_a_late_slice_that_is_withdrawn_gives_the_first_case_again(tmp_path, monkeypatch):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    first = hash_tree(tmp_path / "out" / "alpha")
    (late,) = write(tmp_path / "alpha" / "late", [make_header("CT", 4)])
    with monkeypatch.context() as patch:  # cut off before the first series' entry is cleared away
        patch.setattr("components.ingest.step._remove_stale", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(path, tmp_path / "out", ONE)
    assert next(record for _, record in iterate_cases(tmp_path / "out")).shape[0] == 5
    late.unlink()
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 0
    assert hash_tree(tmp_path / "out" / "alpha") == first


def _killed_at(moment: int, path: Path, out: Path) -> int:
    """Run ingest in a process that is killed as it is about to give its `moment`th file its name; its exit code."""

    def run() -> None:
        count, real = 0, os.replace

        def replace(source, target):
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = replace
        ingest(path, out, ONE)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path):
    path = sites_file(tmp_path, alpha={})
    for number in range(5):
        make_series(tmp_path / "alpha" / str(number), SeriesInstanceUID=f"1.2.{number}")
    ingest(path, tmp_path / "whole", ONE)
    choice = random.Random(5)
    for round_ in range(4):  # an undisturbed ingest gives 19 files their names, one that goes on fewer
        out = tmp_path / f"out{round_}"
        moments = [choice.randint(1, 12), choice.randint(1, 6), choice.randint(1, 3)]
        assert [_killed_at(moment, path, out) for moment in moments] == [-signal.SIGKILL] * 3
        assert not (out / "cases.parquet").exists()
        assert list(out.rglob(".partial-*"))
        ingest(path, out, ONE)
        for name in ("alpha", "cases.parquet", "quarantine.json"):
            assert hash_tree(out / name) == hash_tree(tmp_path / "whole" / name)
        assert not list(out.rglob(".partial-*"))


def test_a_store_outlives_runs_and_each_run_keeps_what_it_got(tmp_path, reads):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    config = IngestConfig(workers=1, store=str(tmp_path / "store"))
    ingest(path, tmp_path / "run1", config)
    first = hash_tree(tmp_path / "run1")
    ingest(path, tmp_path / "plain", ONE)
    assert hash_tree(tmp_path / "plain" / "alpha") == hash_tree(tmp_path / "run1" / "alpha")
    assert not list((tmp_path / "run1").glob(".*"))
    reads.clear()
    assert ingest(path, tmp_path / "run2", config).sites["alpha"].unchanged == 3
    assert reads == []
    assert hash_tree(tmp_path / "run2" / "alpha") == hash_tree(tmp_path / "run1" / "alpha")
    write(tmp_path / "alpha" / "late", [make_header("CT", 4)])
    shutil.rmtree(tmp_path / "alpha" / "mr")
    ingest(path, tmp_path / "run2", config)  # the folder of an earlier attempt
    shapes = {record.modality.value: record.shape[0] for _, record in iterate_cases(tmp_path / "run2")}
    assert shapes == {"CT": 5, "PET": 4}
    assert hash_tree(tmp_path / "run1") == first
    image = next((tmp_path / "store").glob("alpha/*/image.nii"))
    assert image.stat().st_nlink >= 2
    with exclusive(tmp_path / "store" / ".ingest"), pytest.raises(RetryableError, match="Another ingest"):
        ingest(path, tmp_path / "run3", config)


def test_a_store_on_another_file_system_is_copied(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(18, "cross-device")

    monkeypatch.setattr("components.ingest.publish.os.link", no_links)
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha")
    ingest(path, tmp_path / "run", IngestConfig(workers=1, store=str(tmp_path / "store")))
    assert hash_tree(tmp_path / "run" / "alpha") == hash_tree(tmp_path / "store" / "alpha")


def test_what_is_remembered_names_nobody(tmp_path):
    path = sites_file(tmp_path, alpha={})
    write(tmp_path / "alpha" / "Zyxwvut^Quirina", [stuffed("CT", number) for number in range(4)], "PID7391846")
    (tmp_path / "alpha" / "Zyxwvut.jpg").write_bytes(b"\xff\xd8\xff")
    ingest(path, tmp_path / "out", ONE)
    (memory,) = (tmp_path / "out" / ".ingest" / ".seen").iterdir()
    text = memory.read_text()
    assert len(json.loads(text)["files"]) == 5
    assert [word for word in WORDS if word.lower() in text.lower()] == []
    assert str(next((tmp_path / "alpha").rglob("*.dcm")).stat().st_mtime_ns) not in text


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_workers_that_die_lose_nothing_but_what_killed_them():
    workers = Workers(2)
    found = dict(workers.each(_die, list(range(6))))
    workers.close()
    assert found == {0: 0, 1: 1, 2: 4, 3: None, 4: 16, 5: 25}


def _tell_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def _start_workers(folder: Path) -> None:
    list(Workers(2).each(_tell_and_wait, [folder, folder]))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    parent = multiprocessing.get_context("fork").Process(target=_start_workers, args=(tmp_path,))
    parent.start()
    _wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _wait_until(lambda: not any(_is_running(int(path.name)) for path in tmp_path.iterdir()))


def _wait_until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
