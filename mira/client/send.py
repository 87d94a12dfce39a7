"""Sending a restored series back: by C-STORE to an archive, or by STOW-RS to a DICOMweb service.

The files stay where they are, whatever happens; sending them again is safe, since an object keeps its UID. A file
counts as taken when the archive says so of this very object. What was not taken is named by the archive's status,
never by anything of the patient.
"""

import logging
import re
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mira.client.where import TOKEN, Peer, check_where, web_headers
from mira.dicom import headers as h
from mira.dicom.headers import tolerant
from mira.errors import ConfigurationError, RetryableError

__all__ = ["Peer", "Sent", "c_store", "check_where", "send", "stow"]
ATTEMPTS = 4
FIRST_PAUSE = 1.0
OBJECTS_PER_REQUEST = 16
INSTALL = "pip install 'mira-net[receive]'"
OUT_OF_RESOURCES = 0xA700
UNREADABLE = "not a readable DICOM file"
UID = "ReferencedSOPInstanceUID"
NOT_CONFIRMED = "the service did not confirm it"
ACCEPT = "application/dicom+json"  # an XML answer of a service that knows no other is read, too


@dataclass
class Sent:
    """What became of the files.

    Attributes:
        taken: files that the archive has.
        refused: files that it refused or did not confirm, and files that cannot be read, by the reason.
        waiting: files that it could not be asked about.
    """

    taken: list[Path] = field(default_factory=list)
    refused: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    waiting: list[Path] = field(default_factory=list)

    def check(self, where: str) -> None:
        """Raise RetryableError unless the archive has every file."""
        if not self.refused and not self.waiting:
            return
        reasons = [f"{len(paths)} refused ({reason})" for reason, paths in self.refused.items()]
        reasons += [f"{len(self.waiting)} not sent"] if self.waiting else []
        total = len(self.taken) + len(self.waiting) + sum(map(len, self.refused.values()))
        raise RetryableError(
            f"{where} has {len(self.taken)} of {total} files: {', '.join(reasons)}. The restored files are on the "
            "disk; send them again with `mira send`."
        )


def send(files: Sequence[Path], where: str, our_title: str = "MIRA") -> Sent:
    """Send files to an archive, `AET@HOST:PORT` or the address of a DICOMweb service.

    Args:
        files: DICOM files.
        where: the archive.
        our_title: our AE title.

    Raises:
        ConfigurationError: for an address that cannot be used, or a missing package.
        RetryableError: when the archive has not taken every file; which and why is said, and the files are untouched.
    """
    is_web = "://" in where
    sent = stow(files, where) if is_web else c_store(files, Peer.parse(where), our_title)
    sent.check(urllib.parse.urlsplit(where).hostname or "the service" if is_web else Peer.parse(where).title)
    return sent


def c_store(files: Sequence[Path], peer: Peer, our_title: str = "MIRA", pause: float = FIRST_PAUSE) -> Sent:
    """Send files by C-STORE; what an association did not get through goes through another one.

    Raises:
        ConfigurationError: when pynetdicom is not installed.
    """
    try:
        from pynetdicom import AE, _config
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"Sending needs pynetdicom: {INSTALL}.") from error
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its loggers print data sets
    _config.LOG_HANDLER_LEVEL = "none"
    sent = Sent(waiting=list(files))
    with tolerant():
        for attempt in range(ATTEMPTS):
            entity = AE(ae_title=our_title)
            kinds = _kinds(sent)
            if not sent.waiting:
                break
            for kind in kinds:
                entity.add_requested_context(kind, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
            association = entity.associate(peer.host, peer.port, ae_title=peer.title)
            if association.is_established:
                _through(association, sent)
            if not sent.waiting:
                break
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause * 2**attempt)
    return sent


def _dataset(path: Path, tags: list[str] | None = None) -> Any:
    """What a file holds, all of it or some attributes; None when it is gone, damaged or no DICOM object."""
    from pydicom import dcmread

    try:
        found = dcmread(path, specific_tags=tags)
        return found if found.SOPClassUID and found.SOPInstanceUID and found.file_meta.TransferSyntaxUID else None
    except Exception:  # damaged bytes raise many types, and what they say may quote the file
        return None


def _kinds(sent: Sent) -> list[str]:
    """SOP classes of the files that wait; what cannot be read is refused."""
    kinds = set()
    for path in list(sent.waiting):
        header = _dataset(path, ["SOPClassUID", "SOPInstanceUID"])
        if header is None:
            sent.waiting.remove(path)
            sent.refused[UNREADABLE].append(path)
        else:
            kinds.add(str(header.SOPClassUID))
    return sorted(kinds)


def _through(association: Any, sent: Sent) -> None:
    """Send what waits through one association, as far as it goes."""
    later = []
    for path in list(sent.waiting):
        if not association.is_established:
            break
        dataset = _dataset(path)
        if dataset is None:
            sent.waiting.remove(path)
            sent.refused[UNREADABLE].append(path)
            continue
        try:
            status = association.send_c_store(dataset).get("Status")
        except ValueError:  # no presentation context was accepted for this kind of object
            status = 0x0122
        if status is None:  # no answer: the association is gone
            break
        sent.waiting.remove(path)
        if status == 0x0000 or status & 0xF000 == 0xB000:  # success, or stored with a warning
            sent.taken.append(path)
        elif status & 0xFF00 == OUT_OF_RESOURCES:
            later.append(path)
        else:
            sent.refused[f"status 0x{status:04X}"].append(path)
    sent.waiting += later
    if association.is_established:
        association.release()


def stow(files: Sequence[Path], url: str, pause: float = FIRST_PAUSE) -> Sent:
    """Send files by STOW-RS; a token is read from the environment variable MIRA_DICOMWEB_TOKEN.

    Raises:
        ConfigurationError: for an address or a token that cannot be used, an address that redirects, or a missing
            package.
    """
    try:
        import requests  # type: ignore[import-untyped]
        from dicomweb_client.api import DICOMwebClient
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"Sending to a DICOMweb service needs dicomweb-client: {INSTALL}.") from error
    headers = web_headers(url)
    session = requests.Session()
    session.trust_env = False  # neither ~/.netrc nor a proxy of the environment may redirect patients' data
    session.max_redirects = 0  # nor may the service: a redirect ends in TooManyRedirects before anything is sent on
    session.hooks["response"].append(_bare_type)
    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)
    client = DICOMwebClient(url.rstrip("/"), session=session, headers=headers | {"Accept": ACCEPT}, timeout=60)
    client.set_http_retry_params(retry=False)
    sent = Sent()
    with session, tolerant():
        for start in range(0, len(files), OBJECTS_PER_REQUEST):
            part = list(files[start : start + OBJECTS_PER_REQUEST])
            _store(client.store_instances, part, sent, requests, pause)
    return sent


def _bare_type(response: Any, **_: Any) -> None:
    """Take the parameters from an answer's type: the client reads no `application/dicom+json; charset=utf-8`."""
    response.headers["Content-Type"] = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _redirected(response: Any) -> ConfigurationError:
    """What to do about an address that redirects; of the other address only the host is said."""
    try:
        host = urllib.parse.urlsplit(urllib.parse.urljoin(response.url, response.headers["Location"])).hostname or ""
    except ValueError:
        host = ""
    shown = host if re.fullmatch(r"[\w.:-]{1,253}", host, re.ASCII) else "another place"
    return ConfigurationError(
        f"The address redirects to {shown}; give that address, or a valid token in {TOKEN} where it asks to sign in. "
        "Patients' data follow no redirect."
    )


def _store(call: Callable[..., Any], part: list[Path], sent: Sent, requests: Any, pause: float) -> None:
    """Store some files in one request, and sort them by what the service says of each."""
    datasets = {path: dataset for path in part if (dataset := _dataset(path)) is not None}
    if len(datasets) < len(part):
        sent.refused[UNREADABLE] += [path for path in part if path not in datasets]
    for attempt in range(ATTEMPTS if datasets else 0):
        try:
            answer = call(list(datasets.values()))
        except requests.HTTPError as error:
            code = error.response.status_code
            if code not in (408, 429) and code < 500:  # 409: none was stored; the body would say why
                sent.refused[f"HTTP {code}"] += datasets
                return
        except requests.TooManyRedirects as error:
            raise _redirected(error.response) from None
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError):  # what it stored is not known
            sent.refused["an answer that cannot be read"] += datasets
            return
        except requests.RequestException:
            pass  # the service is away: it is asked again below
        else:
            _sort(datasets, answer, sent)
            return
        if attempt + 1 < ATTEMPTS:
            time.sleep(pause * 2**attempt)
    sent.waiting += datasets


def _sort(datasets: dict[Path, Any], answer: Any, sent: Sent) -> None:
    """Sort files by the answer, which names every object that was stored or failed (PS3.18, Store Instances)."""
    stored = {h.text(item, UID) for item in h.items(answer, "ReferencedSOPSequence")}
    failed = {
        h.text(item, UID): int(h.number(item, "FailureReason") or 0) for item in h.items(answer, "FailedSOPSequence")
    }
    for path, dataset in datasets.items():
        uid = h.text(dataset, "SOPInstanceUID")
        if uid in failed:
            sent.refused[f"reason 0x{failed[uid]:04X}"].append(path)
        elif uid in stored:
            sent.taken.append(path)
        else:  # a page to sign in, an empty answer, one that is neither JSON nor XML: it may not be there
            sent.refused[NOT_CONFIRMED].append(path)
