"""Find known values in bytes, in whatever form and container they hide."""

import base64
import binascii
import bz2
import gzip
import html
import io
import json
import lzma
import re
import struct
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

DEEPEST = 6
ENCODINGS = ("utf-8", "latin-1", "cp1252", "utf-16-le", "utf-16-be", "iso2022_jp", "shift_jis", "euc_jp", "gb18030")
DATE_FORMS = ("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d%m%Y",
              "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y", "%d.%m.%y", "%m/%d/%y")  # fmt: skip
BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")
SHORTEST = 5


@dataclass(frozen=True)
class Secret:
    """A value of the input that must not turn up.

    Attributes:
        place: where the input has it.
        value: the value; a date as YYYYMMDD.
        kind: `text`, `name` (components joined by ^ or =) or `date`.
    """

    place: str
    value: str
    kind: str = "text"


@dataclass
class Report:
    """What a scan looked at and what it found.

    Attributes:
        values: secrets looked for.
        forms: byte patterns that they were turned into.
        files: files looked at, their names too.
        parts: pieces looked at, with what was unpacked.
        size: bytes of all pieces.
        hits: (place in the input, form, where it was found).
    """

    values: int = 0
    forms: int = 0
    files: int = 0
    parts: int = 0
    size: int = 0
    hits: list[tuple[str, str, str]] = field(default_factory=list)


class Scanner:
    """Looks for secrets in files, names and streams."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        """Turn every secret into all the bytes by which it could be written."""
        listed = sorted(set(secrets), key=lambda secret: (secret.value, secret.place))
        self.folded: dict[bytes, tuple[str, str]] = {}  # compared without regard to case
        self.exact: dict[bytes, tuple[str, str]] = {}
        for secret in listed:
            for form, text in texts(secret):
                for encoding, pattern in encoded(text):
                    self.folded.setdefault(pattern.lower(), (secret.place, f"{form}, {encoding}"))
                for pattern in in_base64(text):
                    self.exact.setdefault(pattern, (secret.place, f"{form}, base64"))
        self.report = Report(values=len({secret.value for secret in listed}), forms=len(self.folded) + len(self.exact))

    def tree(self, root: Path) -> None:
        """Look at every file below a folder, and at all names."""
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            self.data(name.encode("utf-8", "surrogateescape"), f"the name of {path.suffix or 'a folder'}")
            if path.is_file():
                self.report.files += 1
                self.data(path.read_bytes(), name)

    def data(self, content: bytes, where: str) -> None:
        """Look at bytes and at everything that is packed in them."""
        for part, inside in unpacked(content, where):
            self.report.parts += 1
            self.report.size += len(part)
            folded = part.lower()
            for pattern, (place, form) in self.folded.items():
                if pattern in folded:
                    self.report.hits.append((place, form, inside))
            for pattern, (place, form) in self.exact.items():
                if pattern in part:
                    self.report.hits.append((place, form, inside))


def texts(secret: Secret) -> Iterator[tuple[str, str]]:
    """(form, text): the value, its components, and without separators; a date in all usual renderings."""
    if secret.kind == "date":
        day = datetime.strptime(secret.value, "%Y%m%d")
        for form in DATE_FORMS:
            yield form, day.strftime(form)
        yield "JSON list", f"{day.year}, {day.month}, {day.day}"
        return
    yield "as it is", secret.value
    parts = [part for part in re.split(r"[\^=]", secret.value) if part]
    if secret.kind == "name":
        yield from (("component", part) for part in parts if len(part.encode()) >= SHORTEST)
        yield "joined", "".join(parts)
        yield "spaced", " ".join(parts)
        yield "turned", " ".join(reversed(parts[:2]))
        yield "as a file name", "_".join(parts)


def encoded(text: str) -> Iterator[tuple[str, bytes]]:
    """(encoding, bytes) of a text, also as JSON, HTML, a URL and hexadecimal write it."""
    for encoding in ENCODINGS:
        try:
            yield encoding, text.encode(encoding)
        except UnicodeEncodeError:
            continue
    yield "JSON", json.dumps(text)[1:-1].encode()
    yield "HTML", html.escape(text).encode()
    yield "HTML references", text.encode("ascii", "xmlcharrefreplace")
    yield "URL", urllib.parse.quote(text).encode()
    yield "Python", repr(text)[1:-1].encode()
    yield "Python bytes", repr(text.encode())[2:-1].encode()
    yield "hexadecimal", binascii.hexlify(text.encode())


def in_base64(text: str) -> Iterator[bytes]:
    """The characters that a text surely leaves in base64, at each of three offsets, in UTF-8 and UTF-16."""
    for content in (text.encode(), text.encode("utf-16-le")):
        if len(content) < 2 * SHORTEST:  # too short: its few characters would turn up by chance
            continue
        for offset in range(3):
            coded = base64.b64encode(b"\0" * offset + content).rstrip(b"=")
            yield coded[(0, 2, 3)[offset] : len(coded) - 1]


def unpacked(content: bytes, where: str, depth: int = 0) -> Iterator[tuple[bytes, str]]:
    """The bytes themselves and, again and again, what they hold in a compressed or coded form."""
    yield content, where
    if depth == DEEPEST or len(content) < 8:
        return
    for kind, part in _members(content):
        yield from unpacked(part, f"{where} > {kind}", depth + 1)


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    start = content[:8]
    if start.startswith(b"\x1f\x8b"):
        yield from _tried("gzip", gzip.decompress, content)
    elif start.startswith(b"BZh"):
        yield from _tried("bzip2", bz2.decompress, content)
    elif start.startswith(b"\xfd7zXZ"):
        yield from _tried("xz", lzma.decompress, content)
    elif start[0] == 0x78 and start[1] in (0x01, 0x5E, 0x9C, 0xDA):
        yield from _tried("zlib", zlib.decompress, content)
    elif start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield "zip comment", archive.comment
            for member in archive.infolist():
                yield "zip name", member.filename.encode() + b"\0" + member.comment + b"\0" + member.extra
                yield "zip member", archive.read(member)
    elif start.startswith(b"PAR1"):
        yield "parquet", _parquet(content)
    elif start.startswith(b"\x89PNG"):
        yield from _png(content)
    elif content[128:132] == b"DICM":
        yield from _dicom(content)
    for run in BASE64_RUN.findall(content) if len(content) < 2**22 else []:
        yield from _tried("base64", base64.b64decode, run[: len(run) // 4 * 4])


def _tried(kind: str, unpack, content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        yield kind, unpack(content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return  # it only looked like one


def _parquet(content: bytes) -> bytes:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(content))
    metadata = file.schema_arrow.metadata or {}
    return b"\n".join(
        [json.dumps(file.read().to_pylist(), ensure_ascii=False, default=str).encode(), *metadata.values()]
    )


def _png(content: bytes) -> Iterator[tuple[str, bytes]]:
    position, pixels = 8, b""
    while position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        data = content[position + 8 : position + 8 + length]
        if kind == b"IDAT":
            pixels += data
        elif kind in (b"tEXt", b"iTXt", b"zTXt", b"iCCP", b"eXIf"):
            packed = data.split(b"\0", 1)[-1]
            for start in range(min(len(packed), 80)):  # the stream follows flags and language words
                if packed[start : start + 1] == b"\x78":
                    yield from _tried(f"png {kind.decode()}", zlib.decompress, packed[start:])
        position += 12 + length
    yield from _tried("png pixels", zlib.decompress, pixels)


def _dicom(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A deflated data set, and the texts of all elements as pydicom decodes them."""
    import pydicom

    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        if dataset.file_meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
            start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
            yield from _tried("deflated", lambda data: zlib.decompress(data, -15), content[start:])
        texts_of = [str(element.value) for element in dataset.iterall() if element.VR not in ("OB", "OW", "SQ")]
        yield "dicom texts", "\n".join(texts_of).encode("utf-8", "surrogateescape")
    except Exception:  # a damaged file: its raw bytes were looked at
        return
