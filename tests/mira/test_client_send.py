"""Sending back: every file arrives once, what is refused is said, and the files stay."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from pydicom import Dataset
from pynetdicom import AE, evt

from mira.client import send as sending
from mira.client.send import Peer, c_store, send, stow
from mira.errors import ConfigurationError, RetryableError
from tests.mira.dicom_synthetic import CLASSES, make_series

KINDS = tuple(CLASSES.values())


@contextmanager
def archive(answer, kinds=KINDS):
    """A C-STORE archive whose answer to the n-th object `answer(n)` gives; None aborts the association."""
    got = []

    def handle(event):
        got.append(str(event.request.AffectedSOPInstanceUID))
        status = answer(len(got))
        if status is None:
            event.assoc.abort()
            return 0xC000
        return status

    entity = AE(ae_title="ARCHIVE")
    entity.require_called_aet = True
    for kind in kinds:
        entity.add_supported_context(kind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    try:
        yield Peer("ARCHIVE", "127.0.0.1", server.server_address[1]), got
    finally:
        server.shutdown()


def unique(got):
    return len(set(got))


def test_every_file_arrives_and_stays(tmp_path):
    files = make_series(tmp_path, "CT", 5) + make_series(tmp_path, "PT", 3, StudyInstanceUID="1.2.9")
    content = [path.read_bytes() for path in files]
    with archive(lambda number: 0x0000) as (peer, got):
        sent = send(files, f"ARCHIVE@127.0.0.1:{peer.port}")
    assert sorted(sent.taken) == sorted(files)
    assert len(got) == 8
    assert [path.read_bytes() for path in files] == content


def test_an_association_that_breaks_is_followed_by_another(tmp_path):
    files = make_series(tmp_path, "CT", 6)
    with archive(lambda number: None if number == 3 else 0x0000) as (peer, got):
        sent = c_store(files, peer, pause=0.01)
    assert sent.taken == files
    assert not sent.waiting
    assert unique(got) == 6


def test_a_full_archive_is_asked_again_and_a_refusal_is_not(tmp_path):
    files = make_series(tmp_path, "CT", 4)
    answers = {2: 0xA700, 3: 0xC001, 4: 0xB000}
    with archive(lambda number: answers.get(number, 0x0000)) as (peer, got):
        sent = c_store(files, peer, pause=0.01)
    assert len(sent.taken) == 3
    assert {reason: len(paths) for reason, paths in sent.refused.items()} == {"status 0xC001": 1}
    assert len(got) == 5
    with pytest.raises(RetryableError, match=r"ARCHIVE has 3 of 4 files: 1 refused \(status 0xC001\).*on the disk"):
        sent.check("ARCHIVE")


def test_an_archive_that_does_not_take_the_kind_or_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)
    files = make_series(tmp_path, "MR", 2)
    with archive(lambda number: 0x0000, kinds=[CLASSES["CT"]]) as (peer, got):
        sent = c_store(files, peer, pause=0.01)
        assert len(sent.waiting) + sum(map(len, sent.refused.values())) == 2
        assert got == []
        port = peer.port
    sent = c_store(files, Peer("ARCHIVE", "127.0.0.1", port), pause=0.01)
    assert sent.waiting == files
    with pytest.raises(RetryableError, match="0 of 2 files: 2 not sent"):
        sent.check("ARCHIVE")
    assert all(path.is_file() for path in files)


@pytest.mark.parametrize("text", ["ARCHIVE", "ARCHIVE@host", "@host:1", "ARCHIVE@host:0", "A" * 17 + "@host:104"])
def test_addresses_that_are_none(text):
    with pytest.raises(ConfigurationError, match="AET@HOST:PORT"):
        Peer.parse(text)


def test_tokens_go_over_https_only(monkeypatch):
    for url in ("http://pacs.example.org/rs", "https://user:word@pacs.example.org", "ftp://pacs.example.org"):
        with pytest.raises(ConfigurationError):
            sending.check_where(url)
    assert Peer.parse("ARCHIVE@[::1]:104") == Peer("ARCHIVE", "::1", 104)


class Service(BaseHTTPRequestHandler):
    """A STOW-RS service: codes[n] is what the n-th request is answered with; 200 stores all but the refused UID."""

    def log_message(self, *words):
        pass

    def do_POST(self):
        service = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        service.headers.append(dict(self.headers))
        code = service.codes.pop(0) if service.codes else 200
        uids = {uid.decode() for uid in re.findall(rb"1\.2\.826\.0\.1\.3680043\.10\.9999\.3\.\d+", body)}
        answer = Dataset()
        answer.ReferencedSOPSequence, answer.FailedSOPSequence = [], []
        if service.moved:
            self.send_response(service.moved[0])
            self.send_header("Location", service.moved[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        for uid in sorted(uids):
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CLASSES["CT"], uid
            if uid.endswith(service.refuses):
                item.FailureReason = 0x0122
                answer.FailedSOPSequence.append(item)
            else:
                answer.ReferencedSOPSequence.append(item)
        service.stored |= uids if code == 200 else set()
        content = service.form.format(answer.to_json()).encode() if 200 <= code < 300 else b""
        self.send_response(code)
        if service.kind:
            self.send_header("Content-Type", service.kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.server.headers.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def service(codes=(), refuses="none", form="{}", kind="application/dicom+json", moved=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.codes, server.refuses, server.stored, server.headers = list(codes), refuses, set(), []
    server.form, server.kind, server.moved = form, kind, moved
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_stow_stores_everything_with_the_token_and_asks_a_busy_service_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MIRA_DICOMWEB_TOKEN", "secret")
    files = make_series(tmp_path, "CT", 20)
    with service(codes=[503]) as (server, url):
        sent = stow(files, url, pause=0.01)
    assert sorted(sent.taken) == files
    assert len(server.stored) == 20
    assert all(headers["Authorization"] == "Bearer secret" for headers in server.headers)


XML = """<NativeDicomModel><DicomAttribute keyword="ReferencedSOPSequence" tag="00081199" vr="SQ">
<Item number="1"><DicomAttribute keyword="ReferencedSOPInstanceUID" tag="00081155" vr="UI">
<Value number="1">UID</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>"""


@pytest.mark.parametrize(
    ("code", "kind", "form"),
    [
        (200, "text/html", "<html>Please sign in</html>"),
        (200, "", "Please sign in"),
        (200, "application/dicom+json", "{{}}"),
        (200, "application/dicom+json", '{{"00081199":{{"vr":"SQ","Value":[]}}}}'),
        (200, "application/dicom+json", '{{"00081199":{{"vr":"SQ","Value":[{{}}]}}}}'),
        (200, "application/dicom+xml", XML.replace("UID<", "1.2.3<")),
        (202, "application/dicom+json", ""),
        (204, "", ""),
    ],
)
def test_a_file_that_the_service_does_not_confirm_is_not_taken(tmp_path, code, kind, form):
    files = make_series(tmp_path, "CT", 2)
    with service(codes=[code], kind=kind, form=form) as (_, url):
        sent = stow(files, url, pause=0.01)
    assert dict(sent.refused) == {"the service did not confirm it": files}
    assert not sent.taken
    with pytest.raises(RetryableError, match=r"0 of 2 files: 2 refused \(the service did not confirm it\)"):
        sent.check("the service")


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("application/dicom+json; charset=utf-8", "{}"),
        ("Application/JSON", "{}"),
        ("application/dicom+xml;charset=utf-8", XML.replace("UID<", "1.2.826.0.1.3680043.10.9999.3.1<")),
    ],
)
def test_stow_asks_for_json_and_reads_what_confirms_in_json_or_xml(tmp_path, kind, form):
    files = make_series(tmp_path, "CT", 1)
    with service(kind=kind, form=form) as (server, url):
        assert stow(files, url, pause=0.01).taken == files
    assert [headers["Accept"] for headers in server.headers] == ["application/dicom+json"]


def test_an_xml_answer_that_is_none_cannot_be_read(tmp_path):
    files = make_series(tmp_path, "CT", 1)
    with service(kind="application/dicom+xml", form="<a><b>") as (_, url):
        assert dict(stow(files, url, pause=0.01).refused) == {"an answer that cannot be read": files}


@pytest.mark.parametrize("code", [302, 307, 308])
def test_patients_data_follow_no_redirect(tmp_path, monkeypatch, code):
    monkeypatch.setenv("MIRA_DICOMWEB_TOKEN", "secret")
    files = make_series(tmp_path, "CT", 2)
    with service() as (other, elsewhere):
        moved = code, elsewhere.replace("127.0.0.1", "localhost") + "?patient=Doe"
        with service(moved=moved) as (_, url), pytest.raises(ConfigurationError) as caught:
            stow(files, url, pause=0.01)
    assert other.headers == []
    assert str(caught.value).startswith("The address redirects to localhost; give that address")
    assert "patient=" not in str(caught.value)


def test_files_that_are_gone_or_no_dicom_are_counted_and_the_others_sent(tmp_path):
    files = make_series(tmp_path, "CT", 3)
    (tmp_path / "junk.dcm").write_text("Doe^Jane")
    files[1].write_bytes(files[1].read_bytes()[:200])
    several = [*files, tmp_path / "junk.dcm", tmp_path / "gone.dcm"]
    with archive(lambda number: 0x0000) as (peer, got):
        by_store = c_store(several, peer, pause=0.01)
        nothing = c_store(several[3:], peer, pause=0.01)
    with service() as (server, url):
        by_stow = stow(several, url, pause=0.01)
    for sent in (by_store, by_stow):
        assert sent.taken == [files[0], files[2]]
        assert dict(sent.refused) == {"not a readable DICOM file": [files[1], *several[3:]]}
        assert not sent.waiting
    assert (len(got), len(server.stored)) == (2, 2)
    assert dict(nothing.refused) == {"not a readable DICOM file": several[3:]}
    with pytest.raises(RetryableError, match="2 of 5 files: 3 refused") as caught:
        by_store.check("ARCHIVE")
    assert "Doe" not in str(caught.value)


def test_a_file_that_vanishes_while_the_others_are_sent_is_counted(tmp_path):
    files = make_series(tmp_path, "CT", 3)

    def answer(number):
        files[2].unlink(missing_ok=True)
        return 0x0000

    with archive(answer) as (peer, _):
        sent = c_store(files, peer, pause=0.01)
    assert sent.taken == files[:2]
    assert dict(sent.refused) == {"not a readable DICOM file": [files[2]]}


def test_stow_says_what_was_refused(tmp_path):
    files = make_series(tmp_path, "CT", 4)
    with service(refuses=".3") as (_, url):
        sent = stow(files, url, pause=0.01)
    assert {reason: len(paths) for reason, paths in sent.refused.items()} == {"reason 0x0122": 1}
    assert len(sent.taken) == 3
    with service(codes=[401]) as (_, url):
        assert list(stow(files, url, pause=0.01).refused) == ["HTTP 401"]
    with service(codes=[500] * 4) as (_, url):
        assert stow(files, url, pause=0.01).waiting == files
    with service(form="<xml/>") as (_, url):
        assert list(stow(files, url, pause=0.01).refused) == ["an answer that cannot be read"]
    assert np.all([path.is_file() for path in files])
