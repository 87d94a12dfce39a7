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
        for uid in sorted(uids):
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CLASSES["CT"], uid
            if uid.endswith(service.refuses):
                item.FailureReason = 0x0122
                answer.FailedSOPSequence.append(item)
            else:
                answer.ReferencedSOPSequence.append(item)
        service.stored |= uids if code == 200 else set()
        content = service.form.format(answer.to_json()).encode() if code == 200 else b""
        self.send_response(code)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def service(codes=(), refuses="none", form="{}"):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.codes, server.refuses, server.stored, server.headers = list(codes), refuses, set(), []
    server.form = form
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
