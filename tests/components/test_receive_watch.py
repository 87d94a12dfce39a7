"""The watch: complete series become cases, late slices open them again, and being killed costs nothing."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest
import yaml

from components.ingest.step import IngestConfig
from components.receive import drop
from components.receive.inbox import Inbox
from components.receive.senders import parse_senders
from components.receive.storescp import Receiver, receiving
from components.receive.watch import Watch, watching
from mira.cases import iterate_cases
from mira.dicom.headers import tolerant
from mira.errors import ConfigurationError
from mira.storage import hash_tree, read_json
from tests.bench_sites import BENCH, LOCAL
from tests.components.receive_helpers import STORESCU, objects, put, slices, verb
from tests.mira.dicom_synthetic import make_header, make_series, structure_set

ONE = IngestConfig(workers=1)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")


def sites_file(folder, *names):
    listed = [{"id": name, "role": "train", "path": f"inbox/{name}"} for name in names or ("alpha",)]
    path = folder / "sites.yaml"
    path.write_text(yaml.safe_dump({"sites": listed}))
    return path


class Place:
    """An inbox with its watch."""

    def __init__(self, folder, quiet=0.0, **changes):
        self.lines = []
        self.out = folder / "out"
        self.inbox = Inbox(folder / "inbox")
        sites = sites_file(folder, "alpha", "beta")
        self.watch = Watch(sites, self.out, changes.pop("config", ONE), quiet_seconds=quiet, **changes)

    def look(self):
        self.lines.clear()
        with watching(self.watch, self.inbox, self.lines.append) as watcher:
            return watcher.look()

    def shapes(self):
        return sorted((record.site, record.modality.value, record.shape[0]) for _, record in iterate_cases(self.out))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def age(inbox, seconds):
    for folder in (inbox.root / ".arriving").glob("*/*"):
        os.utime(folder, (time.time() - seconds,) * 2)


def test_complete_series_become_cases_and_nothing_new_costs_nothing(place):
    put(place.inbox, "alpha", *slices(4), structure_set({1: [[(-5, -10, 4), (-1, -10, 4), (-1, 0, 4), (-5, 0, 4)]]}))
    put(place.inbox, "beta", *slices(5, "MR"))
    assert place.look() == 0
    assert place.lines[0] == "complete: 2 series of alpha, 1 series of beta"
    assert place.shapes() == [("alpha", "CT", 4), ("beta", "MR", 5)]
    assert next(record for _, record in iterate_cases(place.out) if record.site == "alpha").structures == 1
    before = {path: path.stat().st_mtime_ns for path in place.out.rglob("*")}
    put(place.inbox, "alpha", *slices(4))
    assert place.look() == 0
    assert place.lines == []
    assert {path: path.stat().st_mtime_ns for path in place.out.rglob("*")} == before


def test_a_series_that_still_arrives_is_not_seen_and_holds_up_no_other(tmp_path):
    place = Place(tmp_path, quiet=60)
    put(place.inbox, "alpha", *slices(4))
    age(place.inbox, 61)
    put(place.inbox, "alpha", *slices(2, "MR"))
    assert place.look() == 0
    assert place.shapes() == [("alpha", "CT", 4)]
    assert place.inbox.waiting() == 1
    put(place.inbox, "alpha", *slices(3, "MR", first=2))
    age(place.inbox, 61)
    assert place.look() == 0
    assert place.shapes() == [("alpha", "CT", 4), ("alpha", "MR", 5)]


def test_a_late_slice_opens_its_series_again_and_its_case_stays_until_then(tmp_path):
    place = Place(tmp_path, quiet=60)
    put(place.inbox, "alpha", *slices(4))
    put(place.inbox, "beta", *slices(3, "MR"))
    age(place.inbox, 61)
    place.look()
    put(place.inbox, "alpha", *slices(5))
    place.look()
    assert place.shapes() == [("alpha", "CT", 4), ("beta", "MR", 3)]
    age(place.inbox, 61)
    place.look()
    assert place.shapes() == [("alpha", "CT", 5), ("beta", "MR", 3)]
    assert "ingest: 2 series, 1 of them unchanged, 2 cases" in place.lines[1]


def test_an_ingest_that_was_cut_off_is_done_again(place, monkeypatch):
    put(place.inbox, "alpha", *slices(4))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("components.ingest.step.ingest_series", killed)
        with pytest.raises(KeyboardInterrupt):
            place.look()
    assert place.look() == 0
    assert place.shapes() == [("alpha", "CT", 4)]
    shutil.rmtree(place.out)
    assert place.look() == 0
    assert place.shapes() == [("alpha", "CT", 4)]


def test_the_command_runs_on_what_is_new_only_and_its_failure_is_told(tmp_path):
    log = tmp_path / "log"
    script = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.open('a').write('x'); "
    script += "sys.exit(4 * (p.read_text() == 'xx'))"
    place = Place(tmp_path, command=(sys.executable, "-c", script, str(log)))
    put(place.inbox, "alpha", *slices(3))
    assert [place.look(), place.look()] == [0, 0]
    assert log.read_text() == "x"
    put(place.inbox, "alpha", *slices(4))
    assert place.look() == 4
    assert "ended with exit code 4" in place.lines[-1]
    assert place.look() == 0  # a new watch: the command that failed is tried again
    assert log.read_text() == "xxx"
    place.look()
    assert log.read_text() == "xxx"


def test_no_usable_case_is_said_once_and_more_data_mends_it(place):
    put(place.inbox, "alpha", *slices(2))
    assert place.look() == 3
    assert "fewer than 3 slices" in "\n".join(place.lines)
    assert place.look() == 3
    assert place.lines == []
    put(place.inbox, "alpha", *slices(3))
    assert place.look() == 0
    assert place.shapes() == [("alpha", "CT", 3)]


def test_files_of_any_name_are_taken_from_the_drop_folder(tmp_path):
    drop = tmp_path / "drop"
    make_series(drop / "alpha" / "Zyxwvut_Quirina" / "deep", "CT")
    make_series(tmp_path / "media", "MR", slices=3)
    with zipfile.ZipFile(drop / "alpha" / "Zyxwvut.zip", "w") as archive:
        for path in (tmp_path / "media").iterdir():
            archive.write(path, f"Quirina/{path.name}")
    (drop / "alpha" / "Zyxwvut report.pdf").write_bytes(b"%PDF Zyxwvut")
    (drop / "alpha" / "DICOMDIR").write_bytes(b"an index")
    cut = make_header(number=9, PatientName="Zyxwvut")
    cut.save_as(drop / "alpha" / "cut.dcm", enforce_file_format=False)
    os.truncate(drop / "alpha" / "cut.dcm", 1200)
    place = Place(tmp_path, drop=drop)
    assert place.look() == 0
    assert place.shapes() == [("alpha", "CT", 4), ("alpha", "MR", 3)]
    assert sorted(path.name for path in drop.rglob("*") if path.is_file()) == [
        "DICOMDIR",
        "Zyxwvut report.pdf",
        "cut.dcm",
    ]
    said = "\n".join(place.lines)
    assert "7 objects, 0 were there before" in said
    assert "1 files: not a DICOM file" in said
    assert "1 files: the DICOM header is damaged or cut off" in said
    assert "Zyxwvut" not in said
    names = "\n".join(map(str, place.inbox.root.rglob("*")))
    assert "Zyxwvut" not in names
    assert "Quirina" not in names


def test_a_file_that_is_being_copied_is_left_alone(tmp_path):
    make_series(tmp_path / "drop" / "alpha")
    place = Place(tmp_path, quiet=60, drop=tmp_path / "drop")
    place.look()
    assert objects(place.inbox.root) == []
    assert len(objects(tmp_path / "drop")) == 4


def test_it_goes_on_after_a_failure_that_may_pass(tmp_path, monkeypatch):
    place = Place(tmp_path, quiet=0.1)
    put(place.inbox, "alpha", *slices(3))
    real, failures = Inbox.release, []

    def full_once(inbox, quiet):
        if not failures:
            failures.append(1)
            raise OSError(28, "No space left on device")
        return real(inbox, quiet)

    monkeypatch.setattr(Inbox, "release", full_once)
    monkeypatch.setattr("components.receive.watch.RETRY_SECONDS", 0.1)
    stop = threading.Event()
    with watching(place.watch, place.inbox, place.lines.append) as watcher:
        thread = threading.Thread(target=watcher.run, args=(stop,))
        thread.start()
        for _ in range(200):
            if any(line.startswith("ingest: ") for line in place.lines):
                break
            time.sleep(0.05)
        stop.set()
        thread.join()
    assert "No space left on device; trying again" in place.lines[0]
    assert place.shapes() == [("alpha", "CT", 3)]


def test_only_one_watch_at_a_time_and_a_site_that_the_inbox_feeds(tmp_path, place):
    with watching(place.watch, place.inbox, print), pytest.raises(ConfigurationError, match="Another mira watch"):
        place.look()
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump({"sites": [{"id": "alpha", "role": "train", "path": str(tmp_path)}]}))
    with pytest.raises(ConfigurationError, match="fed by this inbox"):
        verb(
            [
                "watch",
                "--inbox",
                str(tmp_path / "inbox"),
                "--sites",
                str(elsewhere),
                "--out",
                str(tmp_path / "o"),
                "--once",
            ]
        )
    elsewhere.write_text("sites: [{id: alpha, role: trian, path: inbox/alpha}]")
    with pytest.raises(ConfigurationError, match="'train' or 'local'"):
        verb(
            [
                "watch",
                "--inbox",
                str(tmp_path / "inbox"),
                "--sites",
                str(elsewhere),
                "--out",
                str(tmp_path / "o"),
                "--once",
            ]
        )


WATCH = """
import sys
from tests.components.receive_helpers import verb
sys.exit(verb(["watch", *sys.argv[1:]]))
"""


def test_the_verb_killed_and_started_again_gives_what_an_undisturbed_run_gives(tmp_path):
    sites, inbox = sites_file(tmp_path), Inbox(tmp_path / "inbox")
    for number in range(12):
        put(inbox, "alpha", *slices(3, SeriesInstanceUID=f"1.2.{number}", PatientID=f"P-{number}"))
    options = ["--inbox", str(inbox.root), "--sites", str(sites), "--quiet", "0"]
    config = tmp_path / "config.yaml"
    config.write_text("ingest: {workers: 1}")
    out = tmp_path / "out"
    command = [sys.executable, "-c", WATCH, *options, "--config", str(config), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(out.glob("alpha/*/case.json")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    marker = tmp_path / "marker"
    touch = [sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(marker)]
    assert verb(["watch", *options, "--config", str(config), "--out", str(out), "--once", "--", *touch]) == 0
    assert marker.is_file()
    assert verb(["watch", *options, "--config", str(config), "--out", str(tmp_path / "whole"), "--once"]) == 0
    assert read_json(out / "ingest.json")["cases"] == 12
    assert hash_tree(out / "alpha") == hash_tree(tmp_path / "whole" / "alpha")


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
@pytest.mark.skipif(not STORESCU, reason="dcmtk's storescu is not here")
def test_real_scans_sent_by_an_independent_sender_end_in_cases(tmp_path):
    """Sends the local clinical set twice; the same path as `mira receive` and `mira watch --once`."""
    inbox, said = Inbox(tmp_path / "inbox"), []
    rules = [f"AE{number}=" + site for number, site in enumerate(LOCAL)]
    receiver = Receiver("127.0.0.1", 0, "MIRA", parse_senders(rules, None))
    with receiving(receiver, inbox, said.append) as port:
        for _ in range(2):
            for number, site in enumerate(LOCAL):
                call = [STORESCU, "-aet", f"AE{number}", "-aec", "MIRA", "+sd", "+r", "-R", "127.0.0.1", str(port)]
                subprocess.run([*call, BENCH / "local" / site], check=True, timeout=120)
    sent = {site: len(objects(BENCH / "local" / site)) for site in LOCAL}
    assert len(objects(inbox.root)) == sum(sent.values())
    watch = Watch(sites_file(tmp_path, *LOCAL), tmp_path / "out", IngestConfig(), quiet_seconds=0)
    with watching(watch, inbox, said.append) as watcher:
        assert watcher.look() == 0
    summary = read_json(tmp_path / "out" / "ingest.json")["sites"]
    assert {site: summary[site]["cases"] for site in LOCAL} == dict(zip(LOCAL, (6, 1, 1), strict=True))
    assert all(site["voxels_in"] == site["voxels_out"] > 0 for site in summary.values())
    assert set(said) >= {f"{site}: {count} objects stored, 0 there before" for site, count in sent.items()}
    assert set(said) >= {f"{site}: 0 objects stored, {count} there before" for site, count in sent.items()}


def test_a_file_that_is_written_again_while_it_is_taken_stays(tmp_path, monkeypatch):
    first = make_series(tmp_path / "drop" / "alpha", slices=1)[0]
    other = make_series(tmp_path / "other", slices=1, SliceThickness=7)[0].read_bytes()
    real = drop.examine

    def examine(content):
        first.write_bytes(other)
        return real(content)

    inbox = Inbox(tmp_path / "inbox")
    with tolerant():
        with monkeypatch.context() as busy:
            busy.setattr(drop, "examine", examine)
            assert drop.Drop(tmp_path / "drop", inbox, -1).take(["alpha"]).stored == 1
        assert first.read_bytes() == other
        assert drop.Drop(tmp_path / "drop", inbox, -1).take(["alpha"]).stored == 1
    assert not first.exists()
