"""The C-STORE receiver: takes DICOM objects from scanners and archives over the network, into the inbox."""

import errno
import ipaddress
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.events import Event

from components.receive.inbox import Inbox
from components.receive.objects import ACCEPTED, examine
from components.receive.senders import Sender, site_of
from mira.dicom import headers as h
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason, Refused
from mira.errors import ConfigurationError

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, NO_SUCH_CLASS = 0x0000, 0xA700, 0xA900, 0xC000, 0x0122
STATUS = {Reason.OTHER_MODALITY: NO_SUCH_CLASS}
CALLING_TITLE_UNKNOWN = (1, 1, 3)  # permanent, by the service user, calling AE title not recognised
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.1.99",  # deflated
    "1.2.840.10008.1.2.2",  # explicit VR big endian
    "1.2.840.10008.1.2.5",  # RLE
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)),  # JPEG
    *(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81)),  # JPEG-LS
    *(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)),  # JPEG 2000
    *(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)),  # HTJ2K
)
"""What is stored as it was sent; the reader decodes them all, and nothing is transcoded here."""

END_OF_COMMAND = 0b11  # of a fragment's message control header: part of a command, and its last
LARGEST_CONTROL_PDU = 2**20
QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)
"""Linux: without it, a sender that writes command and data apart waits 40 ms for our delayed ACK on every object."""


@dataclass(frozen=True)
class Receiver:
    """How the receiver listens.

    Attributes:
        host: address to listen on; the loopback one unless the network is to reach it.
        port: TCP port; 0 for any free one.
        ae_title: our AE title, which senders must call.
        senders: who may send, and as which site.
        max_associations: associations at a time; the next one is told to come back later.
        max_pdu: largest PDU that we ask for, in bytes.
        max_object_bytes: an object beyond it ends its association; each association holds up to three times as much.
        idle_seconds: an association on which nothing moves for so long is ended.
        tls: context for TLS, from `server_tls`; None for plain TCP.
    """

    host: str
    port: int
    ae_title: str
    senders: Sequence[Sender]
    max_associations: int = 10
    max_pdu: int = 131072
    max_object_bytes: int = 2**30
    idle_seconds: float = 60.0
    tls: ssl.SSLContext | None = None


class _LateHandshake(ssl.SSLContext):
    """Has the handshake done by the association's own thread: a silent client must not stop everybody else."""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        kwargs["do_handshake_on_connect"] = False
        return super().wrap_socket(*args, **kwargs)


def server_tls(certificate: Path, key: Path, authorities: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer with our certificate; with `authorities`, senders must show one that these have signed.

    Raises:
        ConfigurationError: when a file is missing or is no such thing.
    """
    context = _LateHandshake(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if authorities is not None:
            context.load_verify_locations(authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"TLS: cannot use certificate, key or CA ({error}). Give PEM files.") from error
    return context


def check_exposure(receiver: Receiver) -> None:
    """Refuse to listen on the network to everybody.

    Raises:
        ConfigurationError: when any title from anywhere may send and the address is not a loopback one.
    """
    try:
        local = ipaddress.ip_address(receiver.host).is_loopback
    except ValueError:
        local = receiver.host == "localhost"
    if not local and any(sender.title == "*" and not sender.networks for sender in receiver.senders):
        raise ConfigurationError(
            f"Anybody who reaches {receiver.host} could send. Name who may: --allow AET@HOST=SITE, once per sender."
        )


@contextmanager
def receiving(receiver: Receiver, inbox: Inbox, say: Callable[[str], None]) -> Iterator[int]:
    """Receive while the block runs; yields the port.

    Each object is on the disk before its sender is told of success. What the sender is told otherwise: 0xA700 the
    disk is full or cannot be written, try again later; 0xA900 not the object that the command announced; 0xC000
    damaged or cut off; 0x0122 not of an accepted kind.

    Args:
        receiver: how to listen.
        inbox: where to store.
        say: gets one line per association; no line holds anything from an object or an AE title.

    Raises:
        ConfigurationError: when the address cannot be used.
    """
    check_exposure(receiver)
    for site in {sender.site for sender in receiver.senders}:
        inbox.add_site(site)
    # its loggers print data sets and AE titles; its own handlers are not bound at all
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    try:
        entity = AE(ae_title=receiver.ae_title)
    except ValueError as error:
        raise ConfigurationError("An AE title has 1 to 16 characters, and no backslash. Correct --ae-title.") from error
    entity.require_called_aet = True
    entity.maximum_associations = receiver.max_associations
    entity.maximum_pdu_size = receiver.max_pdu
    entity.network_timeout = entity.dimse_timeout = receiver.idle_seconds
    entity.acse_timeout = min(30.0, receiver.idle_seconds)
    entity.add_supported_context("1.2.840.10008.1.1")  # verification: C-ECHO
    for kind in ACCEPTED:
        entity.add_supported_context(kind, list(TRANSFER_SYNTAXES))
    service = _Service(receiver, inbox, say)
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, service.limit),
        (evt.EVT_REQUESTED, service.admit),
        (evt.EVT_PDU_RECV, service.measure),
        (evt.EVT_C_STORE, service.store),
        (evt.EVT_CONN_CLOSE, service.sum_up),
    ]
    with tolerant():
        try:
            server = entity.start_server(
                (receiver.host, receiver.port), block=False, evt_handlers=handlers, ssl_context=receiver.tls
            )
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"Cannot listen on {receiver.host}, port {receiver.port}: {error}. Give another --host or --port."
            ) from error
        assert server is not None
        hook, threading.excepthook = threading.excepthook, service.crashed
        try:
            yield int(server.server_address[1])
        finally:
            threading.excepthook = hook
            server.shutdown()
            for association in entity.active_associations:
                association.abort()


class _Service:
    """What happens on an association; each runs in threads of its own."""

    def __init__(self, receiver: Receiver, inbox: Inbox, say: Callable[[str], None]) -> None:
        self.receiver = receiver
        self.inbox = inbox
        self.say = say
        self.lock = threading.Lock()
        self.counts: dict[Any, Counter[str]] = {}
        self.pending: dict[Any, int] = {}

    def limit(self, event: Event) -> None:
        """Bound how long and how much is read at once from a new connection, and acknowledge at once."""
        connection: Any = event.assoc.dul.socket
        connection.socket.settimeout(self.receiver.idle_seconds)
        largest = max(LARGEST_CONTROL_PDU, self.receiver.max_pdu + 6)

        def receive(size: int) -> bytearray:
            if size > largest:
                raise OSError(errno.EMSGSIZE, "the peer announces a PDU beyond the limit")
            if QUICK_ACK is not None:
                connection.socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
            buffer, filled = bytearray(size), 0
            while filled < size:
                count = connection.socket.recv_into(memoryview(buffer)[filled:])
                if not count:
                    break
                filled += count
            return buffer[:filled]

        connection.recv = receive

    def admit(self, event: Event) -> None:
        """Reject who is not on the list."""
        if self._site(event) is None:
            address = event.assoc.requestor.address
            self.say(f"rejected an association from {address}: its calling AE title or address is not allowed")
            event.assoc.acse.send_reject(*CALLING_TITLE_UNKNOWN)
            event.assoc.kill()  # returns when the rejection is sent

    def measure(self, event: Event) -> None:
        """End an association whose object grows beyond the limit."""
        for item in getattr(event.pdu, "presentation_data_value_items", []):
            fragment = item.presentation_data_value
            before = self.pending.get(event.assoc, 0)
            size = before + len(fragment)
            self.pending[event.assoc] = 0 if fragment[0] & END_OF_COMMAND == END_OF_COMMAND else size
            if before <= self.receiver.max_object_bytes < size:
                self._count(event, "larger than allowed")
                event.assoc.abort()

    def store(self, event: Event) -> int:
        """Answer a C-STORE request."""
        site = self._site(event)
        assert site is not None
        try:
            content = event.encoded_dataset()
            arrival = examine(content)
            for keyword in ("SOPClassUID", "SOPInstanceUID"):
                if h.text(arrival.header, keyword) != str(getattr(event.request, f"Affected{keyword}")):
                    self._count(event, "not what was announced")
                    return MISMATCH
            new = self.inbox.store(site, content, arrival)
        except Refused as refusal:
            self._count(event, refusal.reason.text)
            return STATUS.get(refusal.reason, CANNOT_UNDERSTAND)
        except OSError as error:
            self._count(event, "no space left" if error.errno in OUT_OF_SPACE else f"cannot be written ({error.errno})")
            return OUT_OF_RESOURCES
        except Exception as error:  # its text may quote the object
            self._count(event, type(error).__name__)
            return CANNOT_UNDERSTAND
        self._count(event, "stored" if new else "known")
        return SUCCESS

    def sum_up(self, event: Event) -> None:
        """Say what an association brought."""
        with self.lock:
            counts = self.counts.pop(event.assoc, Counter())
            self.pending.pop(event.assoc, None)
        if counts:
            stored, known = counts.pop("stored", 0), counts.pop("known", 0)
            refused = "".join(f"; refused {count}: {reason}" for reason, count in counts.most_common())
            self.say(f"{self._site(event)}: {stored} objects stored, {known} there before{refused}")

    def crashed(self, failure: threading.ExceptHookArgs) -> None:
        """Say that a thread of the network library died, without its traceback, which may quote what was sent."""
        self.say(f"an association was lost to {failure.exc_type.__name__}")

    def _site(self, event: Event) -> str | None:
        requestor = event.assoc.requestor
        if requestor.primitive is None:
            return None
        return site_of(self.receiver.senders, requestor.primitive.calling_ae_title.strip(), requestor.address)

    def _count(self, event: Event, what: str) -> None:
        with self.lock:
            self.counts.setdefault(event.assoc, Counter())[what] += 1
