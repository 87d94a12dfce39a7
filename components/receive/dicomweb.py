"""DICOMweb: search an archive (QIDO-RS) and retrieve what is not here yet (WADO-RS), into the inbox."""

import hashlib
import logging
import random
import re
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from dicomweb_client import DICOMwebClient
from pydantic import Field
from requests import HTTPError, Session, exceptions  # type: ignore[import-untyped]

from components.receive.dicomweb_session import TOKEN, Archive, check_access, open_session, retry_after
from components.receive.inbox import Inbox
from components.receive.objects import examine, is_cut_off
from mira.cases import Record
from mira.dicom import headers as h
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Refused
from mira.errors import ConfigurationError, DataRejected, MiraError, RetryableError
from mira.progress import track

T = TypeVar("T")
UID = re.compile(r"[0-9][0-9.]{0,63}")
PAGE = 200
BROKEN = 500  # may pass, but also stands for one object that the service cannot give
PASSING = (408, 429, BROKEN, 502, 503, 504)
LONGEST_PAUSE = 60.0
STUDY, SERIES, INSTANCE, MODALITY, MODALITIES = "0020000D", "0020000E", "00080018", "00080060", "00080061"


@dataclass(frozen=True)
class Query:
    """What is wanted.

    Attributes:
        modalities: of the series; DICOM codes.
        study_date: a day (20240131) or a range (20240101-20240131, 20240101-); "" for any.
        limit: largest number of series that anything is retrieved of; None for all.
        again: retrieve what was retrieved before, too.
    """

    modalities: Sequence[str] = ("CT", "MR", "PT", "RTSTRUCT")
    study_date: str = ""
    limit: int | None = None
    again: bool = False


class Pulled(Record):
    """What a pull brought.

    Attributes:
        series: series that fit the query.
        stored: new objects.
        known: objects whose content was here before.
        skipped: objects that an earlier pull brought, not asked for again.
        failed: objects that the archive did not give.
        refused: objects that cannot be used, by reason.
    """

    series: int = 0
    stored: int = 0
    known: int = 0
    skipped: int = 0
    failed: int = 0
    refused: dict[str, int] = Field(default_factory=dict)


def pull(archive: Archive, query: Query, inbox: Inbox, site: str) -> Pulled:
    """Bring every object that fits the query and is not here yet.

    Every object is noted once it is on the disk, so a pull that was cut off goes on where it stopped. The objects come
    in the transfer syntax in which the archive keeps them.

    Args:
        archive: where from.
        query: what.
        inbox: where to.
        site: the site that the objects belong to.

    Raises:
        ConfigurationError: when address, certificate or credentials are wrong.
        DataRejected: when the archive refuses the search.
        RetryableError: when the archive is away; what came is kept.
        OSError: when the inbox cannot be written.
    """
    inbox.add_site(site)
    for name in ("dicomweb_client", "urllib3", "requests", "retrying"):  # they log addresses, and these hold UIDs
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    counts, refused = Counter[str](), Counter[str]()
    with tolerant(), open_session(archive) as session:
        service = _Service(archive, session)
        for study, series in track(service.series(query), "pull", unit="series"):
            ledger = _Ledger(inbox.root / ".pulled" / site, study, series)
            listed = service.instances(study, series)
            wanted = [instance for instance in listed if query.again or instance not in ledger]
            counts["series"] += 1
            counts["skipped"] += len(listed) - len(wanted)
            counts["worked"] += bool(wanted)
            for instance, what in _bring_all(service, inbox, site, study, series, wanted):
                if isinstance(what, Refused):
                    refused[what.reason.text] += 1
                else:
                    counts[what] += 1
                if what in ("stored", "known"):
                    ledger.add(instance)
            if counts["worked"] == query.limit:
                break
    del counts["worked"]
    return Pulled(refused=dict(refused), **counts)


def _bring_all(
    service: "_Service", inbox: Inbox, site: str, study: str, series: str, instances: list[str]
) -> Iterator[tuple[str, str | Refused]]:
    """What became of each object, as they come; the first failure of the whole service ends it."""
    with ThreadPoolExecutor(service.archive.connections) as pool:
        waiting = {pool.submit(_bring, service, inbox, site, study, series, one): one for one in instances}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _bring(service: "_Service", inbox: Inbox, site: str, study: str, series: str, instance: str) -> str | Refused:
    """Retrieve and store one object; `stored`, `known`, `failed`, or why it cannot be used."""
    content = service.retrieve(study, series, instance)
    if content is None:
        return "failed"
    try:
        arrival = examine(content)
    except Refused as refusal:
        return refusal
    if h.text(arrival.header, "SOPInstanceUID") != instance:
        return "failed"  # not the one that was asked for
    return "stored" if inbox.store(site, content, arrival) else "known"


class _Service:
    """The requests, each tried again while the service is away or busy."""

    def __init__(self, archive: Archive, session: Session) -> None:
        self.archive = archive
        self.host = urllib.parse.urlsplit(archive.url).hostname
        self.client: DICOMwebClient = DICOMwebClient(
            archive.url.rstrip("/"), session=session, permissive_uid=True, timeout=archive.timeout
        )
        self.client.set_http_retry_params(retry=False)  # its own do not know a lost connection

    def series(self, query: Query) -> Iterator[tuple[str, str]]:
        """(study UID, series UID) of what fits; the archive may filter, and we do, since some archives do not."""
        filters = {"StudyDate": query.study_date} if query.study_date else {}
        seen: set[str] = set()
        for modality in query.modalities:
            wanted = {**filters, "ModalitiesInStudy": modality}
            for study in self._pages(self.client.search_for_studies, STUDY, search_filters=wanted):
                pages = self._pages(
                    self.client.search_for_series,
                    SERIES,
                    study_instance_uid=_value(study, STUDY),
                    search_filters={"Modality": modality},
                )
                for series in pages:
                    uid = _value(series, SERIES)
                    if _value(series, MODALITY) not in ("", modality) or uid in seen:
                        continue
                    seen.add(uid)
                    yield _value(study, STUDY), uid

    def instances(self, study: str, series: str) -> list[str]:
        """SOP instance UIDs of a series."""
        search = self.client.search_for_instances
        pages = self._pages(search, INSTANCE, study_instance_uid=study, series_instance_uid=series)
        return [_value(item, INSTANCE) for item in pages]

    def retrieve(self, study: str, series: str, instance: str) -> bytes | None:
        """One object as a file; None when the archive says that it has none or sends what is no DICOM."""

        def get() -> bytes:
            dataset = self.client.retrieve_instance(study, series, instance, media_types=(("application/dicom", "*"),))
            if is_cut_off(dataset):
                raise ValueError("cut off")
            stream = BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
            return stream.getvalue()

        try:
            return self._patiently(get)
        except HTTPError as error:
            check_access(error, self.host)
        except (MiraError, OSError):
            raise
        except Exception:
            return None  # the parser of the answer raises many types; all mean: this object cannot be had
        return None

    def _pages(self, search: Callable[..., list[dict[str, Any]]], key: str, **query: Any) -> Iterator[dict[str, Any]]:
        """All results, page by page, until one brings nothing new: archives cap pages, and some ignore the offset."""
        seen: set[str] = set()
        while True:
            try:
                page = self._patiently(lambda: search(**query, limit=PAGE, offset=len(seen)))
            except HTTPError as error:
                check_access(error, self.host)
                code = error.response.status_code
                raise DataRejected(
                    f"{self.host} refuses the search (HTTP {code}). Check the address and the query."
                ) from None
            except ValueError:
                raise DataRejected(
                    f"{self.host} answers no DICOM JSON. Check the address: is it the DICOMweb root?"
                ) from None
            if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
                raise DataRejected(f"{self.host} answers no DICOM JSON. Check the address: is it the DICOMweb root?")
            new = [item for item in page if UID.fullmatch(_value(item, key)) and _value(item, key) not in seen]
            if not new:
                return
            for item in new:
                seen.add(_value(item, key))
                yield item

    def _patiently(self, request: Callable[[], T]) -> T:
        """The request's result; tried again, later and later, while the service is busy or the connection is lost."""
        for attempt in range(1, self.archive.attempts + 1):
            last, asked = attempt == self.archive.attempts, 0.0
            try:
                return request()
            except HTTPError as error:
                code = error.response.status_code
                if code not in PASSING or (code == BROKEN and last):
                    raise
                what, asked = f"HTTP {code}", retry_after(error.response)
            except exceptions.SSLError:
                raise ConfigurationError(
                    f"The certificate of {self.host} cannot be trusted. Give the CA that signed it: --ca FILE."
                ) from None
            except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as error:
                what = type(error).__name__
            except exceptions.JSONDecodeError:
                raise
            except exceptions.TooManyRedirects:
                raise ConfigurationError(f"{self.host} redirects to elsewhere. Give the final address.") from None
            except exceptions.RequestException as error:  # its text may hold the token
                raise ConfigurationError(
                    f"Address or token cannot be used ({type(error).__name__}). Correct --url or {TOKEN}."
                ) from None
            if not last:
                pause = min(self.archive.first_pause * 2 ** (attempt - 1), LONGEST_PAUSE)
                time.sleep(min(max(pause * random.uniform(0.75, 1.25), asked), LONGEST_PAUSE))  # noqa: S311
        raise RetryableError(
            f"{self.host} is away or busy ({what}, {self.archive.attempts} attempts). "
            "What came is kept: run again to go on."
        )


class _Ledger:
    """Which instances of a series were brought before; hashes, since UIDs are not to be read in file names or here."""

    def __init__(self, folder: Path, study: str, series: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"{_code(study, series)}.txt"
        self.done = set(self.path.read_text(encoding="ascii").split()) if self.path.is_file() else set[str]()

    def __contains__(self, instance: str) -> bool:
        return _code(instance) in self.done

    def add(self, instance: str) -> None:
        """Note an instance that is safe in the inbox; a line that a kill cut off is no instance's."""
        code = _code(instance)
        with self.path.open("a", encoding="ascii") as stream:
            stream.write(f"\n{code}")
        self.done.add(code)


def _value(item: dict[str, Any], tag: str) -> str:
    """First value of an attribute in DICOM JSON; "" when absent."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _code(*uids: str) -> str:
    return hashlib.sha256("\0".join(uids).encode()).hexdigest()[:32]
