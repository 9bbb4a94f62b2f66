"""The way to an address: which proxy, which certificates. One answer for sender and inspector."""

from __future__ import annotations

import os
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from ..errors import Fault
from ..networks import faces, ip, is_loopback
from ..trust import stamp

if TYPE_CHECKING:
    from ..endpoint import Tls

LOOKS_AROUND_EVERY_S = 1.0
"""How soon a change of proxies and certificates is seen, at the latest."""
_CLIENT = ("tls.client_certificate", "tls.client_key")
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
_PROBLEMS = {
    "proxy_address": (
        "is not the address of an HTTP or SOCKS proxy",
        "Write it as http://host:port, or unset it",
    ),
    "socks_missing": (
        "names a SOCKS proxy, which needs PySocks",
        "Install it: pip install 'confiture-webhooks[socks]'",
    ),
}
_OTHER_FILE = "Correct the path or the file; a path is relative to the directory of the command"
_HOST = re.compile(r"[\w.-]+|\[[^\[\]]+\]")
"""A name or an address: a variable that keeps its quotes has none."""
_NO_BRACKETS = str.maketrans("", "", "[]")


@dataclass(slots=True)
class Way:
    """How requests get to one address."""

    asked: tuple[str, Tls | None]
    """The address as it was given, and the files for TLS."""
    url: str
    """As requests writes it."""
    proxy: str | None
    settings: dict[str, Any]
    """As ``requests.Session.send`` takes them."""
    files: dict[str, str]
    """For TLS, by the setting or variable that names each."""
    stamp: tuple[Any, ...]
    """The state of the certificates' files: another value when a file has changed."""
    looked_at: float
    fault: Fault | None = None
    """Why no connection can begin, as its session found."""
    has_answered: bool = False
    """Whether the latest attempt on it had an answer, and from no proxy."""
    pool: Any = None
    """urllib3's pool of its connections, once a request was sent."""
    target: str = ""
    """What a request names there: the path, to a proxy the whole address."""

    def is_for(self, address: str, tls: Tls | None) -> bool:
        """Whether it leads there, and the environment need not be looked at again."""
        is_recent = time.monotonic() - self.looked_at <= LOOKS_AROUND_EVERY_S
        return is_recent and self.asked == (address, tls)


def way_to(address: str, tls: Tls | None = None, *, is_export: bool = False) -> Way:
    """The way to *address* in the present environment.

    Beyond this machine, an export goes as ``requests`` does.
    """
    plain = requests.PreparedRequest()
    plain.prepare_url(address, None)
    url = plain.url or ""
    direct = is_loopback(address_of(url)[0]) if is_export else is_direct(url)
    proxies = {} if direct else dict(get_environ_proxies(url))
    named = [("tls.ca_bundle", tls.ca_bundle if tls else None)]
    named += [(name, os.environ.get(name)) for name in _CA_VARIABLES]
    files = next(({name: path} for name, path in named if path), {})
    verify, cert = next(iter(files.values()), True), None
    if tls and tls.client_certificate:
        cert = (tls.client_certificate, tls.client_key or tls.client_certificate)
        files |= zip(_CLIENT, cert, strict=True)
    settings = {"proxies": proxies, "verify": verify, "cert": cert}
    return Way(
        (address, tls),
        url,
        select_proxy(url, proxies),
        settings | {"stream": True, "allow_redirects": False},
        files,
        tuple(map(stamp, files.values())),
        time.monotonic(),
    )


def file_fault(way: Way) -> Fault | None:
    """Which of the files for TLS cannot be used, and why: no connection on *way* can begin."""
    if not (way.files and way.url.startswith("https:")):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    setting = ""
    try:
        for setting, path in way.files.items():
            if setting in _CLIENT:
                Path(path).open("rb").close()
            else:
                context.load_verify_locations(*([None, path] if Path(path).is_dir() else [path]))
        if cert := way.settings["cert"]:
            setting = "tls"
            context.load_cert_chain(cert[0], cert[1], "")
    except ssl.SSLError:
        its_key = " with its key, without a passphrase" if setting == "tls" else ""
        return Fault(setting, f"names no file with a certificate{its_key}", _OTHER_FILE)
    except OSError as error:
        return Fault(setting, f"names a file that cannot be read: {error.strerror}", _OTHER_FILE)
    return None


def proxy_fault(url: str) -> Fault | None:
    """Why no request to *url* can pass through the proxy that the environment names."""
    problem = proxy_problem(way_to(url).proxy)
    if problem is None:
        return None
    names = (f"{urlsplit(url).scheme}_proxy", "all_proxy")
    given = (one for name in names for one in (name, name.upper()) if os.environ.get(one))
    variable = next(given, "all_proxy").upper()
    return Fault(variable, *_PROBLEMS[problem])


def proxy_problem(proxy: str | None) -> str | None:
    """Why no request can pass through *proxy*, a key of ``_PROBLEMS``; ``None``: one may."""
    if proxy is None:
        return None
    try:
        parts = parse_url(prepend_scheme_if_needed(proxy, "http"))  # type: ignore[no-untyped-call]
    except LocationParseError:
        return "proxy_address"
    is_socks = parts.scheme in _SOCKS
    is_host = _HOST.fullmatch(parts.host or "")
    if not is_host or parts.port == 0 or not (is_socks or parts.scheme in ("http", "https")):
        return "proxy_address"
    return "socks_missing" if is_socks and find_spec("socks") is None else None


def is_direct(url: str) -> bool:
    """Whether *url* is reached without a proxy: this machine, or a match of ``NO_PROXY``.

    Hosts that requests itself matches beyond this are reached directly, too.
    """
    name, port = address_of(url)
    host = name.removesuffix(".")
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return is_loopback(host) or any(
        _matches(entry.strip().lower(), host, port) for entry in given.split(",")
    )


def address_of(url: str) -> tuple[str, int]:
    """Host and port of *url*."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an *entry* of ``NO_PROXY`` is about *host*: a name, address or network."""
    if entry == "*":
        return True
    name, _, wanted = entry.rpartition(":")
    if not (wanted.isdecimal() and (entry.count(":") == 1 or "]:" in entry)):
        name = entry
    elif wanted != str(port):
        return False
    address, name = ip(host), name.translate(_NO_BRACKETS)
    if address is not None:
        with suppress(ValueError):
            network = ip_network(name, strict=False)
            return any(face in network for face in faces(address))
        return False
    name = name.removeprefix("*").strip(".")
    with suppress(UnicodeError):
        name = name.encode("idna").decode()  # as requests writes a host
    return bool(name) and (host == name or host.endswith(f".{name}"))
