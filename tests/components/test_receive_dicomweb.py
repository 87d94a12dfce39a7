"""DICOMweb against an archive of the test's own: pages, retries, resuming, limits, tokens, and no UID in any word."""

import json
import logging
import shutil
import ssl
import subprocess
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.uid import RLELossless

from components.receive.dicomweb import Query, pull
from components.receive.dicomweb_session import Archive
from components.receive.inbox import Inbox
from components.receive.objects import examine
from mira.dicom.headers import tolerant
from mira.errors import ConfigurationError, DataRejected, RetryableError
from tests.components.receive_helpers import as_bytes, objects, slices, verb
from tests.mira.dicom_synthetic import ROOT, make_header, structure_set

KEYS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}


class Pacs(ThreadingHTTPServer):
    """A small DICOMweb service.

    `trouble` is called with (path, how often it was asked for); it returns a status to answer instead, "cut" to break
    off the answer in its middle, or None.
    """

    daemon_threads = True

    def __init__(self, *datasets, trouble=lambda path, times: None, token=None, page=1000, offsets=True):
        super().__init__(("127.0.0.1", 0), Requests)
        self.datasets, self.trouble, self.token, self.page, self.offsets = datasets, trouble, token, page, offsets
        self.asked = []
        self.accepted = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/dicom-web"

    def retrieved(self):
        return [path for path in self.asked if path.count("/") == 7]


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        pacs = self.server
        address = urllib.parse.urlsplit(self.path)
        pacs.asked.append(address.path)
        trouble = pacs.trouble(address.path, pacs.asked.count(address.path))
        if pacs.token and self.headers.get("Authorization") != f"Bearer {pacs.token}":
            return self.answer(401, b"", "text/plain")
        if isinstance(trouble, int):
            return self.answer(trouble, b"Zyxwvut", "text/plain", {"Retry-After": "0", "Location": "/elsewhere"})
        parts = address.path.split("/")[2:]
        named = dict(zip(parts[::2], parts[1::2], strict=False))
        fitting = [ds for ds in pacs.datasets if all(str(ds[KEYS[k]].value) == v for k, v in named.items())]
        if len(parts) % 2:
            return self.search(parts[-1], fitting, dict(urllib.parse.parse_qsl(address.query)))
        pacs.accepted.add(self.headers["Accept"])
        body = b"".join(b"\r\n--limit\r\nContent-Type: application/dicom\r\n\r\n" + as_bytes(ds) for ds in fitting)
        return self.answer(
            200 if fitting else 404, body + b"\r\n--limit--", 'multipart/related; boundary="limit"', cut=trouble
        )

    def search(self, level, fitting, query):
        key = KEYS[level]
        if "StudyDate" in query:
            first, _, last = query["StudyDate"].partition("-")
            last = last if "-" in query["StudyDate"] else first
            fitting = [ds for ds in fitting if first <= ds.get("StudyDate", "20200102") <= (last or "9")]
        found = {str(ds[key].value): ds for ds in fitting}
        start = int(query.get("offset", 0)) if self.server.offsets else 0
        rows = [
            {"0020000D": {"Value": [ds.StudyInstanceUID]}, "0020000E": {"Value": [ds.SeriesInstanceUID]}}
            | {"00080018": {"Value": [ds.SOPInstanceUID]}, "00080060": {"Value": [ds.Modality]}}
            for ds in list(found.values())[start : start + min(int(query["limit"]), self.server.page)]
        ]
        return self.answer(200, json.dumps(rows).encode(), "application/dicom+json")

    def answer(self, status, body, kind, headers=None, cut=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


@contextmanager
def serving(*datasets, **options):
    with Pacs(*datasets, **options) as pacs:
        thread = threading.Thread(target=pacs.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield pacs
        finally:
            pacs.shutdown()
            thread.join()


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path / "inbox")


def fetch(pacs, inbox, query=None, **options):
    return pull(Archive(pacs.url, **{"first_pause": 0.01, "timeout": 5, **options}), query or Query(), inbox, "alpha")


def hospital():
    return [
        *slices(4),
        *slices(3, "MR"),
        *slices(2, "PT", StudyInstanceUID="1.2.9", StudyDate="20240301"),
        structure_set({}),
    ]


def test_search_and_retrieve_and_nothing_twice(inbox):
    sent = hospital()
    sent[0].compress(RLELossless, generate_instance_uid=False)
    with serving(*sent) as pacs:
        first = fetch(pacs, inbox)
        assert (first.series, first.stored, first.skipped, first.failed) == (4, 10, 0, 0)
        assert any("transfer-syntax=*" in accept for accept in pacs.accepted)
        asked = len(pacs.retrieved())
        again = fetch(pacs, inbox)
        assert (again.stored, again.known, again.skipped) == (0, 0, 10)
        assert len(pacs.retrieved()) == asked
        whole = fetch(pacs, inbox, Query(again=True))
        assert (whole.stored, whole.known) == (0, 10)
    with tolerant():
        assert {examine(as_bytes(ds)).name for ds in sent} == {path.name for path in objects(inbox.root)}
    names = "\n".join(map(str, inbox.root.rglob("*"))) + "".join(p.read_text() for p in inbox.root.glob(".pulled/*/*"))
    assert ROOT not in names
    assert inbox.release(0) == {"alpha": 4}


def test_the_query_narrows_what_is_brought(inbox):
    with serving(*hospital()) as pacs:
        assert fetch(pacs, inbox, Query(modalities=("MR",))).stored == 3
        assert fetch(pacs, inbox, Query(study_date="20240101-")).stored == 2
        assert fetch(pacs, inbox, Query(study_date="20250101-")).series == 0
        assert fetch(pacs, inbox, Query(limit=1)).stored == 4
        assert fetch(pacs, inbox, Query(limit=1)).stored == 1  # CT, MR and PT are here: the structure set comes


@pytest.mark.parametrize("answer", [{}, ["Zyxwvut"], [{"0020000D": "Zyxwvut"}], [{"0020000D": {"Value": {}}}]])
def test_json_that_is_no_dicom_is_refused_or_holds_nothing(inbox, monkeypatch, answer):
    monkeypatch.setattr(DICOMwebClient, "search_for_studies", lambda *_, **__: answer)
    with serving() as pacs:
        if isinstance(answer, list) and isinstance(answer[0], dict):
            assert fetch(pacs, inbox).series == 0
        else:
            with pytest.raises(DataRejected, match="no DICOM JSON"):
                fetch(pacs, inbox)


@pytest.mark.parametrize("options", [{"page": 7}, {"offsets": False}])
def test_pages_that_the_archive_caps_and_an_archive_that_knows_no_offset(inbox, options):
    with serving(*slices(20), **options) as pacs:
        assert fetch(pacs, inbox).stored == 20


def test_busy_services_and_lost_connections_are_waited_for(inbox, caplog):
    caplog.set_level(logging.DEBUG)
    troubles = {
        ("/studies", 1): 503,
        ("/studies", 2): 429,
        ("/instances", 1): 502,
        (".3.3", 1): "cut",
        (".3.3", 2): 500,
    }

    def trouble(path, times):
        return next((what for (end, at), what in troubles.items() if path.endswith(end) and times == at), None)

    with serving(*slices(4), trouble=trouble) as pacs:
        assert fetch(pacs, inbox).stored == 4
        searches = 4 + 4 + 1  # studies and series of each modality, instances
        assert len(pacs.asked) == 2 * searches + 4 + len(troubles)  # each search once more for a further page
    assert ROOT not in caplog.text
    assert {len(dcmread(path).PixelData) for path in objects(inbox.root)} == {960}


def test_a_pull_that_was_cut_off_goes_on_where_it_stopped(inbox):
    away = [True]
    with serving(*slices(6), trouble=lambda path, times: 503 if away[0] and path.endswith(".3.4") else None) as pacs:
        with pytest.raises(RetryableError, match="HTTP 503, 2 attempts") as error:
            fetch(pacs, inbox, attempts=2, connections=1)
        assert ROOT not in str(error.value)
        assert error.value.__cause__ is None
        here = len(objects(inbox.root))
        assert 3 <= here <= 5  # the fourth failed; one that was under way may still have come
        away.clear()
        away.append(False)
        ledger = next(inbox.root.glob(".pulled/alpha/*.txt"))
        noted = len(ledger.read_text().split())
        ledger.write_text(ledger.read_text()[:-5])  # cut off in the middle of its last line
        rest = fetch(pacs, inbox)
        assert (rest.stored, rest.known, rest.skipped) == (6 - here, here - noted + 1, noted - 1)
        assert len(objects(inbox.root)) == 6
        assert fetch(pacs, inbox).skipped == 6


def test_one_object_that_the_archive_cannot_give_does_not_stop_the_others(inbox):
    def trouble(path, times):
        return {"1": 500, "2": 404}.get(path.rpartition(".")[2]) if "/instances/" in path else None

    broken = make_header(number=4)
    broken.PixelData = b""
    del broken.PixelData
    with serving(*slices(4), broken, trouble=trouble) as pacs:
        pulled = fetch(pacs, inbox, attempts=2)
    assert (pulled.stored, pulled.failed) == (2, 2)
    assert pulled.refused == {"the file holds no pixels": 1}


def test_a_service_that_is_gone_is_a_matter_for_later(inbox):
    with serving(*slices(1)) as pacs:
        gone = pacs.url
    with pytest.raises(RetryableError, match="away or busy"):
        pull(Archive(gone, attempts=2, first_pause=0.01), Query(), inbox, "alpha")


def test_answers_beyond_the_limit_and_answers_that_are_no_dicom(inbox):
    big = make_header(number=1)
    big.PixelData = b"\0" * 100_000
    with serving(make_header(), big) as pacs:
        pulled = fetch(pacs, inbox, max_object_bytes=50_000)
        assert (pulled.stored, pulled.failed) == (1, 1)
    with serving(trouble=lambda path, times: 400) as pacs, pytest.raises(DataRejected, match="HTTP 400") as error:
        fetch(pacs, inbox)
    assert "Zyxwvut" not in str(error.value)
    with serving(trouble=lambda path, times: 200) as pacs, pytest.raises(DataRejected, match="DICOM JSON"):
        fetch(pacs, inbox)


def test_the_token_is_sent_to_the_service_and_shown_to_nobody(inbox, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(*slices(2), token="geheim-4711") as pacs:
        with pytest.raises(ConfigurationError, match="MIRA_DICOMWEB_TOKEN"):
            fetch(pacs, inbox)
        monkeypatch.setenv("MIRA_DICOMWEB_TOKEN", "wrong-0815")
        with pytest.raises(ConfigurationError, match="denies access") as error:
            fetch(pacs, inbox)
        assert "0815" not in str(error.value)
        monkeypatch.setenv("MIRA_DICOMWEB_TOKEN", "geheim-4711")
        assert fetch(pacs, inbox).stored == 2
    assert "geheim" not in caplog.text
    assert ROOT not in caplog.text


def test_only_safe_addresses(inbox, monkeypatch):
    with serving(trouble=lambda path, times: 302) as pacs, pytest.raises(ConfigurationError, match="final address"):
        fetch(pacs, inbox)
    with serving(*slices(1)) as pacs, monkeypatch.context() as patch:
        patch.setenv("MIRA_DICOMWEB_TOKEN", "geheim\n4711")
        with pytest.raises(ConfigurationError, match="no token has") as error:
            fetch(pacs, inbox)
        assert "4711" not in str(error.value)
    for url in (
        "http://pacs.example.org/dicom-web",
        "ftp://pacs",
        "pacs",
        "https://user:word@pacs/x",
        "https://pacs/x?t=1",
    ):
        with pytest.raises(ConfigurationError, match="https"):
            pull(Archive(url), Query(), inbox, "alpha")


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate of this test")
def test_a_certificate_of_nobody_known_is_not_trusted(inbox, tmp_path):
    request = "req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 2 -subj /CN=localhost -addext"
    command = ["openssl", *request.split(), "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with serving(*slices(2)) as pacs:
        pacs.socket = context.wrap_socket(pacs.socket, server_side=True)
        archive = Archive(pacs.url.replace("http:", "https:"), first_pause=0.01)
        with pytest.raises(ConfigurationError, match="--ca"):
            pull(archive, Query(), inbox, "alpha")
        trusted = Archive(archive.url, authorities=tmp_path / "c.pem", first_pause=0.01)
        assert pull(trusted, Query(), inbox, "alpha").stored == 2


def test_the_verb(tmp_path, capsys):
    with serving(*hospital()) as pacs:
        options = [
            "pull",
            "--url",
            pacs.url,
            "--inbox",
            str(tmp_path / "inbox"),
            "--site",
            "alpha",
            "--reserve-mb",
            "0",
        ]
        assert verb([*options, "--modality", "PT", "--since", "2024-01-01", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["stored"] == 2
        assert verb([*options, "--study-date", "20200102"]) == 0
        assert "alpha: 3 series, 8 objects stored" in capsys.readouterr().err
        for wrong in (["--since", "yesterday"], ["--study-date", "2024"]):
            with pytest.raises(ConfigurationError, match="such as"):
                verb([*options, *wrong])
    assert len(objects(tmp_path / "inbox")) == 10
