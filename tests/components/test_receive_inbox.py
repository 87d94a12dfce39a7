"""The inbox: names that say nothing, the same content once, complete series in one step, nothing half-written."""

import errno
import io
import os
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from components.receive.inbox import Inbox
from components.receive.objects import examine
from components.receive.senders import parse_senders, site_of
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason, Refused
from mira.errors import ConfigurationError
from tests.components.receive_helpers import as_bytes, objects, put, slices
from tests.mira.dicom_synthetic import make_header, structure_set


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path / "inbox")


def complete(inbox):
    return [path for path in objects(inbox.root) if ".arriving" not in path.parts]


def test_names_are_hashes_and_only_this_user_can_read(inbox):
    ct = slices(3, PatientID="Zyxwvut-7391846")
    assert put(inbox, "alpha", *ct, make_header("MR", 0)) == [True] * 4
    found = objects(inbox.root)
    assert {len(path.parent.name) for path in found} == {32}
    assert len({path.parent for path in found}) == 2
    for path in found:
        assert re.fullmatch(r"[0-9a-f]{64}\.dcm", path.name)
        assert path.stat().st_mode & 0o077 == 0
    assert inbox.root.stat().st_mode & 0o077 == 0
    names = "\n".join(map(str, inbox.root.rglob("*")))
    assert not any(str(value) in names for value in (ct[0].PatientID, ct[0].SOPInstanceUID, ct[0].SeriesInstanceUID))
    assert [path.read_bytes() for path in found if path.read_bytes() in map(as_bytes, ct)]


def test_the_same_content_is_kept_once_whatever_its_file_meta_says(inbox):
    first, again = make_header(), make_header()
    again.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    again.file_meta.ImplementationVersionName = "OTHER"
    other = make_header(number=0, PatientWeight=71)
    assert put(inbox, "alpha", first, first, again, other) == [True, False, False, True]
    inbox.release(0)
    assert put(inbox, "alpha", again, other) == [False, False]
    assert put(inbox, "beta", first) == [True]
    assert inbox.release(0) == {"beta": 1}
    assert len(complete(inbox)) == 3


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_is_checked_and_kept_as_it_is(inbox, syntax):
    source = make_header()
    stream = io.BytesIO()
    source.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax.is_little_endian, syntax.is_implicit_VR
    dcmwrite(stream, source, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
    content = stream.getvalue()
    with tolerant():
        assert inbox.store("alpha", content, examine(content))
        for cut in (1, 100, len(content) // 2):
            with pytest.raises(Refused):
                examine(content[:-cut])
    assert objects(inbox.root)[0].read_bytes() == content


def test_what_is_no_whole_image_of_ours_is_refused_with_its_reason():
    content = as_bytes(make_header())
    no_pixels = make_header()
    del no_pixels.PixelData
    capture = make_header(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    cases = {
        content[:-1]: Reason.UNREADABLE,
        content[:-500]: Reason.UNREADABLE,
        content[:132] + b"\xff" * 400: Reason.UNREADABLE,
        b"%PDF-1.4 Zyxwvut": Reason.NOT_DICOM,
        b"": Reason.NOT_DICOM,
        as_bytes(no_pixels): Reason.NO_PIXELS,
        as_bytes(capture): Reason.OTHER_MODALITY,
    }
    with tolerant():
        for broken, reason in cases.items():
            with pytest.raises(Refused) as refusal:
                examine(broken)
            assert refusal.value.reason is reason
            assert "Zyxwvut" not in str(refusal.value)
        assert examine(as_bytes(structure_set({1: []}))).header.Modality == "RTSTRUCT"


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr("mira.dicom.limits.MOST_INFLATED_BYTES", 10_000_000)
    bomb = make_header()
    bomb.PixelData = b"\0" * 20_000_000
    stream = io.BytesIO()
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb.save_as(stream, enforce_file_format=True)
    read = []
    monkeypatch.setattr("components.receive.objects.dcmread", lambda *arguments, **options: read.append(arguments))
    with tolerant(), pytest.raises(Refused):
        examine(stream.getvalue())
    assert read == []
    assert len(stream.getvalue()) < 100_000


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([as_bytes(make_header("PT")), as_bytes(structure_set({1: [[(0, 0, 0), (1, 0, 0), (1, 1, 0)]]}))]),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6)), min_size=1, max_size=6),
)
def test_damage_of_any_kind_is_a_refusal_at_worst(content, damages):
    broken = bytearray(content)
    for at, piece in damages:
        broken[at : at + len(piece)] = piece
    name, detail = "0" * 64 + ".dcm", ""
    with tolerant():
        try:
            name = examine(bytes(broken)).name
        except Refused as refusal:
            detail = refusal.detail
    assert re.fullmatch(r"[0-9a-f]{64}\.dcm", name)
    assert detail in ("", *(UID(kind).name for kind in UID_dictionary), "unknown object")


def test_a_series_without_a_uid_is_told_apart_by_what_its_files_share(inbox):
    one = slices(2, SeriesInstanceUID=None, SeriesNumber=1)
    two = slices(2, SeriesInstanceUID=None, SeriesNumber=2, first=5)
    put(inbox, "alpha", *one, *two)
    assert inbox.waiting() == 2


def test_a_series_is_complete_when_it_is_quiet_and_not_before(inbox):
    put(inbox, "alpha", *slices(3))
    assert inbox.release(60) == {}
    assert complete(inbox) == []
    folder = next((inbox.root / ".arriving").glob("*/*"))
    os.utime(folder, (time.time() - 61,) * 2)
    put(inbox, "alpha", *slices(1))  # the same again: its sender is still at it
    assert inbox.release(60) == {}
    os.utime(folder, (time.time() - 61,) * 2)
    assert inbox.release(60) == {"alpha": 1}
    assert len(complete(inbox)) == 3
    assert inbox.waiting() == 0


def test_a_clock_that_was_set_back_delays_a_series_but_does_not_lose_it(inbox):
    put(inbox, "alpha", *slices(3))
    folder = next((inbox.root / ".arriving").glob("*/*"))
    os.utime(folder, (time.time() + 10_000,) * 2)
    assert inbox.release(0.0) == {}
    assert inbox.release(0.0) == {"alpha": 1}


def test_a_late_slice_opens_its_series_again(inbox):
    put(inbox, "alpha", *slices(3))
    inbox.release(0)
    before, version = complete(inbox), inbox.version()
    put(inbox, "alpha", *slices(4))
    assert inbox.version() == version  # what is arriving is not yet there
    assert inbox.release(0) == {"alpha": 1}
    assert set(before) < set(complete(inbox))
    assert len(complete(inbox)) == 4
    assert len({path.parent.parent for path in complete(inbox)}) == 1
    assert inbox.version() != version


def test_copies_that_met_at_release_are_kept_once(inbox):
    put(inbox, "alpha", *slices(3))
    arriving = next((inbox.root / ".arriving").glob("*/*"))
    held = {path.name: path.read_bytes() for path in arriving.iterdir()}
    inbox.release(0)
    version = inbox.version()
    arriving.mkdir()
    for name, content in held.items():  # as if another association had stored them at the very moment of release
        (arriving / name).write_bytes(content)
    assert inbox.release(0) == {}
    assert len(complete(inbox)) == 3
    assert inbox.version() == version
    assert inbox.waiting() == 0


def test_storing_while_everything_is_released_all_the_time_loses_nothing(inbox):
    stop = threading.Event()

    def release_all_the_time():
        while not stop.is_set():
            Inbox(inbox.root).release(0)

    thread = threading.Thread(target=release_all_the_time)
    thread.start()
    try:
        put(inbox, "alpha", *slices(60))
    finally:
        stop.set()
        thread.join()
    inbox.release(0)
    assert sorted(dcmread(path).InstanceNumber for path in complete(inbox)) == list(range(1, 61))


def test_a_full_disk_is_an_error_and_leaves_nothing(inbox, monkeypatch):
    put(inbox, "alpha", make_header(number=0))
    real = os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space") as error:
        put(inbox, "alpha", make_header(number=1))
    assert error.value.errno == errno.ENOSPC
    monkeypatch.setattr(os, "fsync", real)
    assert [path for path in inbox.root.rglob("*") if path.is_file()] == objects(inbox.root)
    assert len(objects(inbox.root)) == 1
    assert put(inbox, "alpha", make_header(number=1)) == [True]


def test_space_is_left_free(tmp_path):
    inbox = Inbox(tmp_path / "inbox", reserve_bytes=2**62)
    with pytest.raises(OSError, match="space"):
        put(inbox, "alpha", make_header())
    assert objects(inbox.root) == []


def test_leftovers_of_a_killed_process_are_removed_and_a_living_one_is_left_alone(inbox):
    dead, living = inbox.root / ".partial" / "a", inbox.root / ".partial" / "b"
    for path in (dead, living):
        path.write_bytes(b"half")
    os.utime(dead, (time.time() - 7200,) * 2)
    Inbox(inbox.root)
    assert not dead.exists()
    assert living.exists()


def test_a_site_is_a_name_and_never_a_path(inbox):
    assert inbox.add_site("hospital-a").is_dir()
    for bad in ("../elsewhere", "A", "", ".arriving", "a/b"):
        with pytest.raises(ConfigurationError, match="site"):
            inbox.add_site(bad)


def test_senders_by_title_address_network_and_site():
    senders = parse_senders(
        ["CT01@10.1.2.3=hospital-a", "PACS@10.2.0.0/16", "MR@localhost=hospital-c", "*@::1"], "rest"
    )
    assert site_of(senders, "CT01", "10.1.2.3") == "hospital-a"
    assert site_of(senders, "CT01", "::ffff:10.1.2.3") == "hospital-a"
    assert site_of(senders, "CT01", "10.1.2.4") is None
    assert site_of(senders, "ct01", "10.1.2.3") is None
    assert site_of(senders, "PACS", "10.2.200.1") == "rest"
    assert site_of(senders, "MR", "127.0.0.1") == "hospital-c"
    assert site_of(senders, "ANY", "::1") == "rest"
    for rules, site in (
        (["CT01"], None),
        (["CT01@10.1.2.3@x"], "a"),
        (["A" * 17], "a"),
        (["CT01@no.such.host.invalid"], "a"),
    ):
        with pytest.raises(ConfigurationError, match=r"--allow|--site"):
            parse_senders(rules, site)
