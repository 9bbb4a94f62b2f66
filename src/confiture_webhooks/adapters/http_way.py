"""The way to an address: proxy, certificates, look-up. One answer for sender and inspector."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, connection, parse_url

from ..errors import Fault
from ..networks import address_of, faces, ip, is_loopback, proxy_variable
from ..trust import stamp

if TYPE_CHECKING:
    from ..endpoint import Tls
    from ..networks import Networks
    from .http_exchange import Exchange

LOOKS_AROUND_EVERY_S = 1.0
"""How soon a change of proxies and certificates is seen, at the latest."""
_CERTIFICATE, _KEY = _CLIENT = ("tls.client_certificate", "tls.client_key")
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
_HOST = re.compile(r"[\w.-]+|\[[^\[\]]+\]")
"""A name or an address: a variable that keeps its quotes has none."""
_NO_BRACKETS = str.maketrans("", "", "[]")


class DeniedError(OSError):
    """No address of the host may be dialled; its text is the rule that says so."""


class WrongSetting(NamedTuple):
    """Why no request can begin."""

    error_type: str
    reason: str
    fault: Fault
    """The same for people: what has to be corrected."""


@dataclass(slots=True)
class Way:
    """How requests get to one address."""

    asked: tuple[str, Tls | None]
    """The address as it was given, and the files for TLS."""
    url: str
    """As requests writes it."""
    proxy: str | None
    proxy_variable: str
    """The one of the environment that names it; empty without a proxy."""
    settings: dict[str, Any]
    """``proxies``, ``verify`` and ``cert``, as requests takes them."""
    files: dict[str, str]
    """For TLS, by the setting or variable that names each."""
    stamp: tuple[Any, ...]
    """The state of the certificates' files: another value when a file has changed."""
    looked_at: float
    wrong_setting: WrongSetting | None = None
    """As its session found."""
    has_answered: bool = False
    """Whether the latest attempt on it had an answer, and from no proxy."""
    pool: Any = None
    """urllib3's pool of its connections, once a request was sent."""
    target: str = ""
    """A request names this there: the path, to a proxy the whole address."""

    @property
    def is_forwarded(self) -> bool:
        """Whether the proxy reads the requests, and may answer them itself."""
        return bool(self.proxy and self.url.startswith("http:") and not is_socks(self.proxy))

    @property
    def authority(self) -> str:
        """The setting that names certificates to trust; empty: the built-in ones."""
        return next((name for name in self.files if name not in _CLIENT), "")

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
    setting = "OTEL_EXPORTER_OTLP_CERTIFICATE" if is_export else "tls.ca_bundle"
    named = [(setting, tls.ca_bundle if tls else None)]
    named += [(name, os.environ.get(name)) for name in _CA_VARIABLES]
    files = next(({name: path} for name, path in named if path), {})
    verify, cert = next(iter(files.values()), True), None
    if tls and tls.client_certificate:
        cert = (tls.client_certificate, tls.client_key or tls.client_certificate)
        files |= zip(_CLIENT, cert, strict=True)
    proxy = select_proxy(url, proxies)
    return Way(
        (address, tls),
        url,
        proxy,
        proxy_variable(url) if proxy else "",
        {"proxies": proxies, "verify": verify, "cert": cert},
        files,
        tuple(map(stamp, files.values())),
        time.monotonic(),
    )


def wrong_file(way: Way) -> WrongSetting | None:
    """Which of the files for TLS cannot be used, and why."""
    is_tls = way.url.startswith("https:") or (way.proxy or "").lower().startswith("https:")
    if not (way.files and is_tls):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    setting = ""
    try:
        for setting, path in way.files.items():
            if setting not in _CLIENT and Path(path).is_dir():
                context.load_verify_locations(None, path)
                continue
            Path(path).open("rb").close()
            if setting != _KEY:
                context.load_verify_locations(path)
        if cert := way.settings["cert"]:
            context.load_cert_chain(cert[0], cert[1], "")
    except ssl.SSLError:
        problem = "names no file with a certificate"
        if setting == _KEY:
            problem = f"names no file with the key of {_CERTIFICATE}, without a passphrase"
    except OSError as error:
        problem = f"names a file that cannot be read: {error.strerror}"
    else:
        return None
    change = f"Set {_KEY} to the file of that key" if setting == _KEY else f"Correct {setting}"
    remedy = f"{change}, or correct the file. A path is relative to the command's directory"
    reason = "client_certificate" if setting in _CLIENT else "bundle"
    return WrongSetting("tls", reason, Fault(setting, problem, remedy))


def wrong_proxy(way: Way) -> WrongSetting | None:
    """Why no request can pass through the proxy."""
    if way.proxy is None:
        return None
    try:
        parts = parse_url(prepend_scheme_if_needed(way.proxy, "http"))  # type: ignore[no-untyped-call]
    except LocationParseError:
        parts = Url()
    is_host = _HOST.fullmatch(parts.host or "")
    if not is_host or parts.port == 0 or parts.scheme not in ("http", "https", *_SOCKS):
        problem = "is not the address of an HTTP or SOCKS proxy"
        remedy = f"Write {way.proxy_variable} as http://host:port, or unset it"
        reason = "proxy_address"
    elif parts.scheme in _SOCKS and find_spec("socks") is None:
        problem = "names a SOCKS proxy, which needs PySocks"
        remedy = "Install it: pip install 'confiture-webhooks[socks]'"
        reason = "socks_missing"
    else:
        return None
    return WrongSetting("proxy", reason, Fault(way.proxy_variable, problem, remedy))


def is_socks(proxy: str) -> bool:
    """Whether *proxy*, an address, is that of a SOCKS proxy, as ``requests`` sees it."""
    return proxy.lower().startswith("socks")


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


_lookups: dict[tuple[str, int], Future[list[Any]]] = {}
"""Those under way. The C library cannot be interrupted: one that hangs is left behind."""
_lookups_lock = threading.Lock()


def look_up(host: str, port: int, exchange: Exchange) -> list[Any]:
    """The addresses of *host*, as getaddrinfo has them, on one thread per name at most.

    Raises gaierror, or TimeoutError when time is up.
    """
    if ":" in host:
        host = host.replace("%25", "%")  # before a zone (RFC 6874)
    elif is_loopback(host) and ip(host) is None:
        host = "localhost"  # whatever a resolver would answer (RFC 6761, 6.3)
    key = (host, port)
    is_known = threading.Event()
    exchange.stops_with(is_known.set)
    with _lookups_lock:
        if key not in _lookups:
            made: Future[list[Any]] = Future()
            threading.Thread(
                target=_resolve, args=(key, made), name="webhooks-dns", daemon=True
            ).start()
            _lookups[key] = made
        found = _lookups[key]
    found.add_done_callback(lambda _: is_known.set())
    is_known.wait(exchange.left())
    return found.result(timeout=0)


def _resolve(key: tuple[str, int], found: Future[list[Any]]) -> None:
    family = connection.allowed_gai_family()
    try:
        found.set_result(socket.getaddrinfo(*key, family, socket.SOCK_STREAM))
    except UnicodeError:
        found.set_exception(socket.gaierror("not a host name"))
    except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
        found.set_exception(error)
    finally:
        with _lookups_lock:
            del _lookups[key]


def permitted(addresses: list[Any], networks: Networks, *, every: bool = False) -> list[Any]:
    """Those of *addresses* that may be dialled. Raises DeniedError when none, or not *every*."""
    if not (networks.allowed or networks.denied):
        return addresses
    refusals = [networks.refusal(one[4][0]) for one in addresses]
    allowed = [one for one, refusal in zip(addresses, refusals, strict=True) if refusal is None]
    if len(allowed) < (len(addresses) if every else min(1, len(addresses))):
        raise DeniedError(next(refusal for refusal in refusals if refusal))
    return allowed
