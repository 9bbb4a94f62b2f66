"""Which hosts are this machine, which addresses may be dialled, and what is shown of a URL."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NAMED = {
    "private": (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "240.0.0.0/4"),
        *("::/128", "::1/128", "fc00::/7", "fe80::/10"),
    ),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "metadata": (
        *("169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32"),  # clouds, ECS, EKS
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),  # Alibaba, Azure, Oracle
        *("fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"),  # AWS, EKS, Google
    ),
}
"""Names for networks. ``private`` is every address that no public host can have, loopback too."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def members(name: str) -> tuple[Network, ...]:
    """The networks of a name, a network or an address. Raises ValueError for anything else."""
    return tuple(ipaddress.ip_network(one) for one in NAMED.get(name, (name,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The addresses that an endpoint may be at. Without a rule: all of them."""

    allowed: tuple[str, ...] = ()
    """Networks and names; when there are any, an address has to lie in one."""
    denied: tuple[str, ...] = ()
    """An address in one of these is refused, whatever is allowed."""

    def refusal(self, address: str) -> str | None:
        """Why *address* (an IP, as it is dialled) is refused; ``None`` when it may be used."""
        known = faces(ipaddress.ip_address(address.partition("%")[0]))
        if denied := _first(known, self.denied):
            return f"deny_networks has {denied}"
        if self.allowed and not _first(known[-1:], self.allowed):
            return "allow_networks has no network for it"
        return None


def ip(host: str) -> Ip | None:
    """The address that *host* is, in every form the system's resolver takes; else ``None``."""
    bare = host.strip("[]").partition("%")[0]
    with suppress(ValueError):
        return ipaddress.ip_address(bare)
    try:  # 127.1, 0x7f.1, 2130706433
        return ipaddress.IPv4Address(socket.inet_aton(bare)) if bare[:1].isdigit() else None
    except (OSError, UnicodeError):
        return None


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine, whatever a resolver would answer (RFC 6761, 6.3)."""
    found, name = ip(host), host.lower().removesuffix(".")
    if found is not None:
        return any(face.is_loopback for face in faces(found))
    return name == "localhost" or name.endswith(".localhost")


def origin(url: str) -> str:
    """Scheme, host and port of *url*: no user, password, path or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def address_of(url: str) -> tuple[str, int]:
    """Host and port of *url*."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def proxy_variable(url: str) -> str:
    """The variable that names the proxy for *url*, by the rules of ``requests``."""
    from urllib.request import getproxies  # noqa: PLC0415  slow, and rarely needed

    scheme = urlsplit(url).scheme
    name = f"{scheme if scheme in getproxies() else 'all'}_proxy"
    # Lower case wins, and sorts last.
    return max((one for one in os.environ if one.lower() == name), default=name.upper())


def _first(known: Sequence[Ip], names: Sequence[str]) -> str | None:
    return next(
        (name for name in names if any(face in one for one in members(name) for face in known)),
        None,
    )


def faces(address: Ip) -> list[Ip]:
    """*address*, and the IPv4 address that is reached through it, if it is a form of one."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return [address] if inner is None else [address, inner]
