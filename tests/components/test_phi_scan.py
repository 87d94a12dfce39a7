"""No identifying value of a stuffed export in anything that is produced; and the scanner finds what is planted."""

import base64
import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
import zlib

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.mira.dicom_synthetic import make_header
from tests.phi_scan.inputs import SLICES, make_export
from tests.phi_scan.run import run_all
from tests.phi_scan.scanner import DATE_FORMS, Scanner, Secret

NAME, DAY = "Quillfeather^Zoë", "19470713"
SECRETS = [Secret("name", NAME, "name"), Secret("day", DAY, "date"), Secret("kanji", "山田^太郎", "name")]


@pytest.mark.slow
def test_nothing_identifying_leaves_ingest_validation_pairs_or_dicom(tmp_path, monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for the scan only")
    report, written, _ = run_all(tmp_path)
    assert report.hits == []
    assert report.values > 120
    assert report.files > 150
    pairs = json.loads((tmp_path / "out" / "pairs" / "pairs.json").read_text())
    assert {pair["modality"] for pair in pairs["pairs"]} == {"CT", "PET", "MR"}
    assert json.loads((tmp_path / "out" / "validated" / "validation.json").read_text())["accepted"]
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cases" / "alpha").glob("*/case.json")]
    assert sum("suspected-burned-in-text" in record["warnings"] for record in records) == 1
    for outcome in written.values():
        assert outcome.written > 40
        assert outcome.reasons["burned-in-text"] == SLICES
        assert outcome.written + len(outcome.refused) == outcome.files


def test_the_scanner_finds_every_value_of_the_export_in_the_export_itself(tmp_path):
    export = make_export(tmp_path / "in")
    scanner = Scanner(export.secrets)
    scanner.tree(export.root)
    assert {secret.value for secret in export.secrets} <= {
        secret.value for secret in export.secrets if secret.place in {place for place, _, _ in scanner.report.hits}
    }


def found(content: bytes) -> set[str]:
    scanner = Scanner(SECRETS)
    scanner.data(content, "here")
    return {place for place, _, _ in scanner.report.hits}


def png(kind: bytes, data: bytes) -> bytes:
    chunk = struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk


def zipped(name: str = "a", content: bytes = b"", comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.comment = comment
    return stream.getvalue()


def parquet(metadata: bool) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"words": ["nothing" if metadata else "of Quillfeather"] * 500})
    stream = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({"note": "Quillfeather"} if metadata else {}), stream, compression="zstd"
    )
    return stream.getvalue()


def dicom(syntax: str | None = None, **changes) -> bytes:
    ds, stream = make_header(**changes), io.BytesIO()
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


PLANTED = {
    "plain": b"... quillFEATHER ...",
    "gzip": gzip.compress(b"of Quillfeather"),
    "gzip in gzip": gzip.compress(gzip.compress(b"of Quillfeather")),
    "bzip2": bz2.compress(b"of Quillfeather"),
    "xz": lzma.compress(b"of Quillfeather"),
    "zlib": zlib.compress(b"of Quillfeather"),
    "zip member": zipped(content=b"of Quillfeather" * 9),
    "zip name": zipped(name="dir/Quillfeather.txt"),
    "zip comment": zipped(comment=b"Quillfeather"),
    "parquet column": parquet(False),
    "parquet metadata": parquet(True),
    "png text": png(b"tEXt", b"Author\0Quillfeather"),
    "png packed text": png(b"zTXt", b"Author\0\0" + zlib.compress(b"Quillfeather")),
    "png international text": png(b"iTXt", b"Author\0\1\0en\0Author\0" + zlib.compress(b"Quillfeather")),
    "png pixels": png(b"IDAT", zlib.compress(b"\0Quillfeather")),
    "deflated dicom": dicom(DeflatedExplicitVRLittleEndian, PatientName="Quillfeather^A"),
    "utf-16": "Quillfeather".encode("utf-16"),
    "base64": base64.b64encode(b"xQuillfeather"),
    "base64 of gzip": b'{"picture": "' + base64.b64encode(gzip.compress(b"by Quillfeather")) + b'"}',
    "hexadecimal": b"Quillfeather".hex().upper().encode(),
}


@pytest.mark.parametrize("container", PLANTED)
def test_a_planted_name_is_found_in_every_container(container):
    assert found(PLANTED[container]) == {"name"}


@pytest.mark.parametrize("form", DATE_FORMS)
def test_a_planted_date_is_found_in_every_rendering(form):
    from datetime import datetime

    assert "day" in found(datetime.strptime(DAY, "%Y%m%d").strftime(f"on {form}, at noon").encode())


@pytest.mark.parametrize("encoding", ["utf-8", "iso2022_jp", "shift_jis", "euc_jp", "gb18030", "utf-16-le"])
def test_a_planted_kanji_name_is_found_in_every_character_set(encoding):
    assert found("for 山田 太郎, today".encode(encoding)) == {"kanji"}


def test_escaped_text_is_found_and_innocent_text_is_not():
    secret = [Secret("place", "Müßiggänger")]
    for content in (json.dumps("Müßiggänger"), "M%C3%BC%C3%9Figg%C3%A4nger", "M&#252;&#223;igg&#228;nger"):
        scanner = Scanner(secret)
        scanner.data(content.encode(), "here")
        assert scanner.report.hits, content
    assert found(b"feather quill, 1947, 0713" + bytes(range(256)) * 40) == set()


def test_names_of_files_are_looked_at(tmp_path):
    (tmp_path / "a" / "chart_quillfeather").mkdir(parents=True)
    scanner = Scanner(SECRETS)
    scanner.tree(tmp_path)
    assert {place for place, _, _ in scanner.report.hits} == {"name"}
