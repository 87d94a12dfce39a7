"""The C-STORE receiver against pynetdicom and dcmtk senders: stored, refused, limited, cut off, killed."""

import errno
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from pynetdicom import AE

from components.receive.inbox import Inbox
from components.receive.senders import parse_senders, site_of
from components.receive.storescp import Receiver, check_exposure, receiving, server_tls
from mira.errors import ConfigurationError
from tests.components.receive_helpers import STORESCU, objects, parse, slices, verb
from tests.mira.dicom_synthetic import CLASSES, make_header, make_series, write

ECHO = "1.2.840.10008.1.1"


class Station:
    """A receiver on a free port and what it said."""

    def __init__(self, folder, rules=("*",), **changes):
        self.inbox = Inbox(folder / "inbox", changes.pop("reserve_bytes", 0))
        self.receiver = Receiver("127.0.0.1", 0, "MIRA", parse_senders(rules, "alpha"), **changes)
        self.lines = []

    def __enter__(self):
        self.context = receiving(self.receiver, self.inbox, self.lines.append)
        self.port = self.context.__enter__()
        return self

    def __exit__(self, *failure):
        self.context.__exit__(*failure)

    def connect(self, title="CT01", called="MIRA", kinds=None, syntaxes=None, **options):
        sender = AE(ae_title=title)
        sender.acse_timeout = sender.dimse_timeout = sender.network_timeout = 10
        for kind in kinds or (ECHO, *CLASSES.values()):
            sender.add_requested_context(kind, syntaxes)
        return sender.associate("127.0.0.1", self.port, ae_title=called, **options)

    def send(self, *datasets, **options):
        """Statuses of a whole sending; None for an object without an answer."""
        association = self.connect(**options)
        assert association.is_established
        statuses = [association.send_c_store(dataset).get("Status") for dataset in datasets]
        association.release()
        self.settle()
        return statuses

    def wait_for_room(self):
        """Wait until associations that have ended no longer count."""
        for _ in range(100):
            association = self.connect()
            if association.is_established:
                association.release()
                return
            time.sleep(0.05)

    def settle(self, lines=1):
        """Wait until the receiver has closed its associations, and so said what they brought."""
        for _ in range(1000):
            if len(self.lines) >= lines:
                return
            time.sleep(0.01)


def test_echo_store_and_the_same_again(tmp_path):
    with Station(tmp_path) as station:
        association = station.connect()
        assert association.send_c_echo().Status == 0
        association.release()
        sent = [*slices(3), make_header("MR", 0), make_header("PT", 0)]
        assert station.send(*sent) == [0] * 5
        assert station.lines == ["alpha: 5 objects stored, 0 there before"]
        files = objects(station.inbox.root)
        assert station.send(*sent) == [0] * 5
        assert objects(station.inbox.root) == files
    stored = [dcmread(path) for path in files]
    assert sorted(ds.PixelData for ds in stored) == sorted(ds.PixelData for ds in sent)
    assert all(ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID for ds in stored)


def test_compressed_objects_are_kept_as_they_were_sent(tmp_path):
    rle = make_header()
    rle.compress(RLELossless)
    jpegls = make_header(number=1)
    jpegls.PixelData = encapsulate([b"\xff\xd8 not looked at here \xff\xd9"])
    jpegls.file_meta.TransferSyntaxUID = JPEGLSLossless
    paths = write(tmp_path / "export", [rle, jpegls])
    with Station(tmp_path) as station:
        for path, source in zip(paths, (rle, jpegls), strict=True):
            assert station.send(path, syntaxes=[source.file_meta.TransferSyntaxUID]) == [0]
        stored = {ds.file_meta.TransferSyntaxUID: ds for ds in map(dcmread, objects(station.inbox.root))}
    assert {syntax: ds.PixelData for syntax, ds in stored.items()} == {
        RLELossless: rle.PixelData,
        JPEGLSLossless: jpegls.PixelData,
    }


def test_kinds_that_are_of_no_use_are_not_negotiated(tmp_path):
    with Station(tmp_path) as station:
        association = station.connect(
            kinds=[CLASSES["CT"], "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.11"]
        )
        assert [context.abstract_syntax for context in association.accepted_contexts] == [CLASSES["CT"]]
        association.release()


def test_senders_that_are_not_listed_are_rejected_and_not_named(tmp_path):
    rules = ["CT01@127.0.0.1=hospital-a", "MR01@10.9.8.7=hospital-b"]
    with Station(tmp_path, rules) as station:
        for title, called in (("ZYXWVUT", "MIRA"), ("MR01", "MIRA"), ("CT01", "OTHER")):
            assert station.connect(title, called).is_rejected
        assert station.send(*slices(2)) == [0, 0]
        assert {path.parents[1].name for path in objects(station.inbox.root)} == {"hospital-a"}
        said = "\n".join(station.lines)
    assert said.count("rejected an association from 127.0.0.1") == 2
    assert "ZYXWVUT" not in said


def test_everybody_on_the_network_is_refused_at_the_start():
    anybody = parse_senders(["*"], "alpha")
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(ConfigurationError, match="--allow"):
            check_exposure(Receiver(host, 0, "MIRA", anybody))
        check_exposure(Receiver(host, 0, "MIRA", parse_senders(["CT01"], "alpha")))
    check_exposure(Receiver("127.0.0.1", 0, "MIRA", anybody))


def test_damaged_and_mismatched_objects_are_refused_with_a_status_and_no_word_of_them(tmp_path, monkeypatch, caplog):
    cut = make_header(PatientName="Zyxwvut^Quirina")
    no_pixels = make_header(PatientID="PID7391846")
    del no_pixels.PixelData
    other = make_header(SOPInstanceUID="1.2.3.77001")
    with Station(tmp_path) as station:
        association = station.connect()
        assert association.send_c_store(no_pixels).Status == 0xC000
        monkeypatch.setattr("pynetdicom.association.encode", lambda ds, *rest: encoded(ds)[:-50])
        assert association.send_c_store(cut).Status == 0xC000
        monkeypatch.setattr("pynetdicom.association.encode", lambda ds, *rest: encoded(make_header()))
        assert association.send_c_store(other).Status == 0xA900
        monkeypatch.setattr("pynetdicom.association.encode", lambda ds, *rest: b"\x08\x00" + b"Zyxwvut" * 40)
        assert association.send_c_store(cut).Status == 0xC000
        association.release()
        station.settle()
        assert objects(station.inbox.root) == []
        assert station.lines[0].startswith("alpha: 0 objects stored, 0 there before; refused ")
        said = "\n".join([*station.lines, caplog.text])
    assert not any(word in said for word in ("Zyxwvut", "Quirina", "7391846", "77001"))


def encoded(dataset) -> bytes:
    from pynetdicom.dsutils import encode

    result = encode(dataset, True, True)
    assert result is not None
    return result


def test_a_full_disk_is_answered_with_out_of_resources_and_sending_may_go_on_later(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full_at_the_third(handle):
        calls.append(handle)
        if 3 <= len(calls) <= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with Station(tmp_path) as station:
        monkeypatch.setattr(os, "fsync", full_at_the_third)
        assert station.send(*slices(3)) == [0, 0xA700, 0xA700]
        assert station.lines == ["alpha: 1 objects stored, 0 there before; refused 2: no space left"]
        root = station.inbox.root
        assert [path for path in root.rglob("*") if path.is_file()] == objects(root)
        monkeypatch.setattr(os, "fsync", real)
        assert station.send(*slices(3)) == [0, 0, 0]
        assert len(objects(root)) == 3
    with Station(tmp_path / "small", reserve_bytes=2**62) as station:
        assert station.send(make_header()) == [0xA700]


def test_limits_on_associations_objects_and_pdus(tmp_path):
    with Station(tmp_path, max_associations=2, max_object_bytes=200_000, idle_seconds=2.0) as station:
        held = [station.connect() for _ in range(2)]
        assert all(association.is_established for association in held)
        third = station.connect()
        assert third.is_rejected
        held[0].release()
        huge = make_header()
        huge.PixelData = b"\0" * 2_000_000
        assert held[1].send_c_store(huge).get("Status") is None
        station.settle()
        assert station.lines == ["alpha: 0 objects stored, 0 there before; refused 1: larger than allowed"]
        for bomb in (b"\x01\x00\xff\xff\xff\xff" + b"\0" * 64, b"\x04\x00\x7f\xff\xff\xff"):
            with socket.create_connection(("127.0.0.1", station.port), 5) as stranger:
                stranger.sendall(bomb)
                assert stranger.recv(64) in (b"", b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00")
        station.wait_for_room()
        assert station.send(*slices(1)) == [0]
        assert len(objects(station.inbox.root)) == 1


def test_a_silent_peer_is_let_go_and_holds_up_nobody(tmp_path):
    with Station(tmp_path, idle_seconds=0.5) as station, ExitStack() as stack:
        address = ("127.0.0.1", station.port)
        silent, halting = (stack.enter_context(socket.create_connection(address, 5)) for _ in range(2))
        halting.sendall(b"\x01\x00\x00\x00\x10")
        assert station.send(*slices(1)) == [0]
        assert silent.recv(64) == b""


def certificates(folder):
    """A CA, and a certificate of it for 127.0.0.1 and one for a sender."""
    folder.mkdir()
    steps = [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
        "req -newkey rsa:2048 -nodes -keyout sender.key -out sender.csr -subj /CN=sender",
        "x509 -req -in sender.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out sender.pem -days 2",
    ]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for step in steps:
        subprocess.run(["openssl", *step.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates of this test")
def test_tls_with_certificates_on_both_sides(tmp_path):
    files = certificates(tmp_path / "tls")
    tls = server_tls(files / "server.pem", files / "server.key", files / "ca.pem")
    with Station(tmp_path, tls=tls, idle_seconds=3.0) as station:
        trusting = ssl.create_default_context(cafile=files / "ca.pem")
        trusting.load_cert_chain(files / "sender.pem", files / "sender.key")
        with socket.create_connection(("127.0.0.1", station.port)):  # says nothing, and must hold up nobody
            assert station.send(*slices(2), tls_args=(trusting, "localhost")) == [0, 0]
        nameless = ssl.create_default_context(cafile=files / "ca.pem")
        refused = station.connect(tls_args=(nameless, "localhost"))
        assert not refused.is_established
        assert not station.connect().is_established
    with pytest.raises(ConfigurationError, match="PEM"):
        server_tls(files / "names", files / "server.key", None)


@pytest.mark.skipif(not STORESCU, reason="dcmtk's storescu is not here")
def test_an_independent_sender(tmp_path):
    for modality in CLASSES:
        make_series(tmp_path / "export" / modality, modality)
    with Station(tmp_path, ["DCMTK=hospital-a"]) as station:
        command = [STORESCU, "-aet", "DCMTK", "-aec", "MIRA", "+sd", "+r", "-R", "127.0.0.1", str(station.port)]
        for _ in range(2):
            subprocess.run([*command, tmp_path / "export"], check=True, timeout=60)
        assert len(objects(station.inbox.root)) == 12
        wrong = subprocess.run(
            [*command[:2], "WRONG", *command[3:], tmp_path / "export"], capture_output=True, timeout=60
        )
        assert wrong.returncode != 0
        station.settle(3)
    assert station.lines[:2] == [
        "hospital-a: 12 objects stored, 0 there before",
        "hospital-a: 0 objects stored, 12 there before",
    ]


RECEIVE = """
import sys
from tests.components.receive_helpers import verb
sys.exit(verb(["receive", "--inbox", sys.argv[1], "--port", "0", "--site", "alpha", "--reserve-mb", "0"]))
"""


def start(inbox):
    """A receiver process and its port."""
    process = subprocess.Popen([sys.executable, "-c", RECEIVE, str(inbox)], stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    assert "listening on 127.0.0.1, port " in line
    return process, int(line.split("port ")[1].split(",")[0])


def test_a_killed_receiver_has_every_object_that_it_acknowledged(tmp_path):
    inbox = tmp_path / "inbox"
    datasets = slices(60)
    acknowledged = 0
    process, port = start(inbox)
    sender = AE(ae_title="CT01")
    sender.add_requested_context(CLASSES["CT"])
    association = sender.associate("127.0.0.1", port, ae_title="MIRA")
    for number, dataset in enumerate(datasets):
        if number == 30:
            process.send_signal(signal.SIGKILL)
        if association.send_c_store(dataset).get("Status") != 0:
            break
        acknowledged += 1
    association.abort()
    process.wait(10)
    process.stderr.close()
    assert 30 <= acknowledged < 60
    whole = [dcmread(path) for path in objects(inbox)]
    assert len(whole) in (acknowledged, acknowledged + 1)  # the last one may be stored and its answer lost
    assert all(len(ds.PixelData) == 960 for ds in whole)
    process, port = start(inbox)
    association = sender.associate("127.0.0.1", port, ae_title="MIRA")
    assert {association.send_c_store(dataset).Status for dataset in datasets} == {0}
    association.release()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert f"{60 - len(whole)} objects stored, {len(whole)} there before" in process.stderr.read()
    process.stderr.close()
    assert len(objects(inbox)) == 60


def test_the_verb_says_what_is_wrong(tmp_path):
    inbox = ["receive", "--inbox", str(tmp_path / "inbox")]
    for more, words in (
        ([], "--site"),
        (["--site", "alpha", "--host", "0.0.0.0"], "--allow"),
        (["--site", "alpha", "--cert", "x.pem"], "--key"),
        (["--site", "Bad Name"], "site"),
        (["--site", "alpha", "--host", "192.0.2.1", "--allow", "CT01"], "Cannot listen"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            verb([*inbox, *more])


def test_a_thread_that_dies_quotes_nothing(tmp_path, capfd):
    def die():
        raise ValueError("Zyxwvut")

    with Station(tmp_path) as station:
        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
        assert station.lines == ["an association was lost to ValueError"]
    assert "Zyxwvut" not in capfd.readouterr().err


def test_loggers_of_the_network_library_are_silent(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with Station(tmp_path) as station:
        station.send(*slices(1, PatientName="Zyxwvut^Quirina"), title="HINTERCT1")
    assert not [record for record in caplog.records if record.name.startswith("pynetdicom")]
    assert "HINTERCT1" not in "\n".join(station.lines)


def test_values_that_break_parsers_are_kept(tmp_path):
    odd = make_header(PatientID=None, SOPInstanceUID="1.2.3")
    stream = io.BytesIO()
    odd.save_as(stream)
    content = stream.getvalue().replace(b"DA\x08\x0020200102", b"DA\x08\x00********")
    source = tmp_path / "odd.dcm"
    source.write_bytes(content)
    with Station(tmp_path) as station:
        assert station.send(source, syntaxes=[ImplicitVRLittleEndian, "1.2.840.10008.1.2.1"]) == [0]
        assert b"********" in objects(station.inbox.root)[0].read_bytes()


def test_the_manifest_calls_the_verbs_as_they_are():
    documents = list(yaml.safe_load_all((Path(__file__).parents[2] / "deploy" / "receiver.yaml").read_text()))
    containers = {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]["containers"][0]
        for document in documents
        if document["kind"] == "Deployment"
    }
    receive = parse([containers["mira-receiver"]["command"][1], *containers["mira-receiver"]["args"]])
    watch = parse([containers["mira-watch"]["command"][1], *containers["mira-watch"]["args"]])
    assert receive.inbox == watch.inbox
    assert receive.port == containers["mira-receiver"]["ports"][0]["containerPort"]
    assert (receive.cert, receive.key, receive.ca) != (None, None, None)
    senders = parse_senders(receive.allow, receive.site)
    check_exposure(Receiver(receive.host, receive.port, receive.ae_title, senders))
    assert site_of(senders, "CT01", "10.1.2.3") == "hospital-a"
    claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
    assert "mira-inbox" in claims
