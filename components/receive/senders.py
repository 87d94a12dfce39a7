"""Who may send: calling AE titles and peers, and the site that each one stands for."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from mira.errors import ConfigurationError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RULE = re.compile(r"(?P<title>[^@=\\]{1,16})(@(?P<host>[^@=]+))?(=(?P<site>[a-z0-9-]+))?")
ANY_TITLE = "*"
HOW = "Write --allow AET, AET@HOST or AET@HOST=SITE, e.g. --allow CT01@10.1.2.0/24=hospital-a."


@dataclass(frozen=True)
class Sender:
    """One rule of the list.

    Attributes:
        title: calling AE title; `*` for every title.
        networks: addresses it may come from; empty for everywhere.
        site: site id of what it sends.
    """

    title: str
    networks: tuple[Network, ...]
    site: str

    def fits(self, title: str, address: str) -> bool:
        """Whether an association is one of this sender's."""
        if self.title not in (ANY_TITLE, title):
            return False
        peer = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return not self.networks or any(peer in network for network in self.networks)


def parse_senders(rules: Sequence[str], default_site: str | None) -> list[Sender]:
    """Read the rules of the command line.

    Args:
        rules: `AET`, `AET@HOST` or `AET@HOST=SITE`; HOST is an address, a network such as 10.1.2.0/24, or a name.
        default_site: site of rules that name none.

    Raises:
        ConfigurationError: for a rule that cannot be read, a host that is not known, or a missing site.
    """
    senders: list[Sender] = []
    for rule in rules:
        found = RULE.fullmatch(rule)
        if found is None:
            raise ConfigurationError(f"Cannot read the rule number {len(senders) + 1}. {HOW}")
        site = found["site"] or default_site
        if site is None:
            raise ConfigurationError(
                f"The rule number {len(senders) + 1} names no site: add =SITE to it, or give --site."
            )
        senders.append(Sender(found["title"].strip(), _networks(found["host"]), site))
    return senders


def site_of(senders: Sequence[Sender], title: str, address: str) -> str | None:
    """Site of an association by the first rule that fits; None when it may not send."""
    return next((sender.site for sender in senders if sender.fits(title, address)), None)


def _networks(host: str | None) -> tuple[Network, ...]:
    if host is None:
        return ()
    try:
        return (ipaddress.ip_network(host, strict=False),)
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"The host {host} is not known here: give its address. {HOW}") from error
    return tuple(ipaddress.ip_network(address.partition("%")[0]) for address in sorted(found))
