"""HttpTransport takes proxies from the environment as ``requests`` does, but no credentials."""

from __future__ import annotations

import base64
import socket
import ssl
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trustme
from requests import adapters

from confiture_webhooks.adapters import http_way
from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.adapters.http_exchange import Exchange
from confiture_webhooks.adapters.http_session import EndpointSession
from confiture_webhooks.adapters.http_way import LOOKS_AROUND_EVERY_S, way_to
from confiture_webhooks.doctor.endpoints import failure_of, remedy_of, try_connection
from confiture_webhooks.errors import TransportError
from confiture_webhooks.networks import Networks
from confiture_webhooks.transport import Request
from peer import OK, Peer, Talk, answers, hello_then, says, socks, tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PATIENCE = timedelta(seconds=20)
BRIEF = timedelta(milliseconds=150)


def request(url: str, *, headers: Mapping[str, str] | None = None) -> Request:
    """A request to *url*."""
    return Request(url=url, headers=headers or {}, body=b"{}", endpoint="analytics")


def credentials(sent: bytes) -> list[str]:
    """The values of a request's Authorization headers."""
    lines = sent.decode("latin-1").split("\r\n")
    return [
        value
        for name, _, value in (line.partition(": ") for line in lines)
        if name.lower() == "authorization"
    ]


def test_plain_http_goes_through_the_proxy(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is asked for the whole address, with its own credentials and no others."""
    with Peer(answers(OK)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:word@"))
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:word@"))
        given = {"proxy-authorization": "Basic other"}
        sent = request("http://receiver.test/hook?a=1", headers=given)
        assert transport.send(sent, timeout=PATIENCE).status_code == 200
        (read,) = proxy.requests
    assert read.startswith(b"POST http://receiver.test/hook?a=1 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:word") in read
    assert read.lower().count(b"proxy-authorization") == 1


def test_no_proxy(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY names hosts that are reached directly."""
    resolves_to_loopback(monkeypatch)
    with Peer(answers(OK)) as proxy, Peer(answers(OK)) as peer:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "other.test,receiver.test")
        url = peer.url.replace("127.0.0.1", "receiver.test")
        assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        assert proxy.talks == []
        assert len(peer.requests) == 1


def resolves_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every name of the domain ``test`` lead here."""
    real = socket.getaddrinfo

    def look_up(host: str, *args: object) -> object:
        return real("127.0.0.1" if host.endswith(".test") else host, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.survived("A proxy in the environment, and a receiver on this machine", "private")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "a.localhost", "127.1"])
def test_loopback_is_never_proxied(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A token for this machine is not sent to another, whatever the environment names."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", peer.port))],
    )
    with Peer(answers(OK)) as proxy, Peer(answers(OK)) as peer:
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        url = peer.url.replace("127.0.0.1", host)
        assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        assert proxy.talks == []


@pytest.mark.parametrize(
    ("entries", "url", "expected"),
    [
        ("*", "https://receiver.test/", True),
        ("receiver.test", "https://receiver.test/", True),
        (" Receiver.Test ", "https://receiver.test/", True),
        (".test", "https://receiver.test/", True),
        ("*.test", "https://receiver.test/", True),
        ("ceiver.example", "https://receiver.test/", False),
        ("receiver.test:443", "https://receiver.test/", True),
        ("receiver.test:8443", "https://receiver.test/", False),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.0.0.0/8", "https://[::ffff:10.1.2.3]/", True),
        ("bücher.test", "https://bücher.test/", True),
        (".bücher.test", "https://a.xn--bcher-kva.test/", True),
        ("xn--bcher-kva.test", "https://BÜCHER.test/", True),
        ("fd00::/8", "https://[fd00::1]/", True),
        ("[fd00::]/8", "https://[fd00::1]/", True),
        ("fd00::/8", "https://[fe80::1]/", False),
        ("fd00::1", "https://[fd00::1]/", True),
        ("[fd00::1]", "https://[fd00:0::1]/", True),
        ("[fd00::1]:8443", "https://[fd00::1]:8443/", True),
        ("[fd00::1]:8443", "https://[fd00::1]/", False),
        ("", "https://receiver.test/", False),
        (",", "https://receiver.test/", False),
        ("", "http://[::1]:8080/", True),
    ],
)
def test_who_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, *, entries: str, url: str, expected: bool
) -> None:
    """NO_PROXY holds names, addresses and networks, in brackets or not, with a port or without."""
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", entries)
    assert (way_to(url).proxy is None) is expected


@pytest.mark.survived("A SOCKS proxy, with and without its package", "kept")
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks4a"])
def test_a_socks_proxy(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """With the extra ``socks``, webhooks pass through such a proxy, over a kept connection."""
    resolves_to_loopback(monkeypatch)
    with Peer(socks) as proxy, Peer(answers(OK)) as peer:
        monkeypatch.setenv("all_proxy", proxy.url.replace("http", scheme))
        url = f"http://receiver.test:{peer.port}/"
        for _ in range(2):
            assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        assert len(peer.talks) == len(proxy.talks) == 1


def test_tls_through_a_socks_proxy(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The receiver's certificate is checked behind such a proxy, by sender and inspector."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with Peer(socks) as proxy, Peer(answers(OK), tls=server(authority)) as peer:
        monkeypatch.setenv("all_proxy", proxy.url.replace("http", "socks5h"))
        for host, is_good in (("receiver.test", True), ("another.test", False)):
            url = f"https://{host}:{peer.port}/"
            found = try_connection(url, PATIENCE)
            assert (found.step, found.reason) == (
                ("answers", None) if is_good else ("tls", "wrong_host")
            )
            if is_good:
                assert transport.send(request(url), timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize(
    ("behave", "expected"),
    [(Talk.hang, "timeout"), (lambda _: None, "proxy"), (Talk.reset, "proxy")],
)
def test_a_socks_proxy_that_fails(
    transport: HttpTransport,
    monkeypatch: pytest.MonkeyPatch,
    behave: Callable[[Talk], object],
    expected: str,
) -> None:
    """An attempt through it is bounded, and its failure is the proxy's."""
    with Peer(behave) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url.replace("http", "socks5h"))
        timeout = BRIEF if expected == "timeout" else PATIENCE
        with pytest.raises(TransportError) as caught:
            transport.send(request("http://receiver.test/"), timeout=timeout)
    assert caught.value.error_type == expected


@pytest.mark.survived("A SOCKS proxy, with and without its package", "said")
def test_a_socks_proxy_without_pysocks(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, sender and inspector name the same reason."""
    monkeypatch.setattr(http_way, "find_spec", lambda _: None)
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test")
    with pytest.raises(TransportError) as caught:
        transport.send(request("http://receiver.test/"), timeout=PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("proxy", "socks_missing")
    found = try_connection("http://receiver.test/", PATIENCE)
    assert (found.error_type, found.reason, found.proxy_variable) == (
        "proxy",
        "socks_missing",
        "ALL_PROXY",
    )


@pytest.mark.parametrize(
    "proxy",
    [
        *("http://[::1", "http://127.0.0.1:99999", "http://", "http://a:0", "ftp://a:1", "a b:1"),
        *('"http://a:1"', "'a:1'"),
    ],
)
def test_what_is_no_proxys_address_is_named(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """By ``check``, and by sender and inspector as the proxy's fault, not the receiver's."""
    for name in ("all_proxy", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    wrong = http_way.wrong_proxy(way_to("http://receiver.test/"))
    assert wrong is not None
    assert wrong.fault.setting == "http_proxy"
    with pytest.raises(TransportError) as caught:
        transport.send(request("http://receiver.test/"), timeout=PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("proxy", "proxy_address")
    found = try_connection("http://receiver.test/", PATIENCE)
    assert (found.error_type, found.reason, found.fault) == wrong


@pytest.mark.survived("An address in a denied network, behind a name or a proxy", "private")
def test_a_proxy_reaches_no_network_that_is_denied(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that a proxy would resolve is resolved here first."""
    resolves_to_loopback(monkeypatch)
    with Peer(answers(OK)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        sent = replace(request("http://receiver.test/"), networks=Networks(denied=("private",)))
        with pytest.raises(TransportError) as caught:
            transport.send(sent, timeout=PATIENCE)
        assert (caught.value.error_type, proxy.talks) == ("other", [])


def test_a_proxy_may_dial_any_address_of_a_name() -> None:
    """Here one that is permitted is dialled; a proxy chooses itself, so all of them must be."""
    open_, private = ((0, 0, 0, "", (address, 443)) for address in ("192.0.2.1", "10.0.0.1"))
    rule = Networks(denied=("10.0.0.0/8",))
    assert http_way.permitted([private, open_], rule) == [open_]
    assert http_way.permitted([open_], rule, every=True) == [open_]
    for addresses, every in (([private, open_], True), ([private], False)):
        with pytest.raises(http_way.DeniedError, match="deny_networks has"):
            http_way.permitted(addresses, rule, every=every)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxys_status_is_known(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Sender and inspector know that a proxy asks for credentials, whatever it was asked for."""
    with Peer(says(b"HTTP/1.1 407 Authentication required\r\n\r\n")) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        with pytest.raises(TransportError) as caught:
            transport.send(request(f"{scheme}://receiver.test/"), timeout=PATIENCE)
        found = try_connection(f"{scheme}://receiver.test/", PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("proxy", "407")
    assert (found.step, found.error_type, found.reason) == ("proxy", "proxy", "407")


@pytest.mark.parametrize("status", [407, 503])
@pytest.mark.parametrize("way", ["direct", "socks", "tunnel"])
def test_a_receivers_status_is_not_the_proxys(
    transport: HttpTransport,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    way: str,
    status: int,
) -> None:
    """A proxy that only connects answers no request: sender and inspector take it so."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    resolves_to_loopback(monkeypatch)
    refusal = says(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
    side = server(authority) if way == "tunnel" else None
    with Peer(socks if way == "socks" else tunnel) as proxy, Peer(refusal, tls=side) as peer:
        if way != "direct":
            scheme = "socks5h" if way == "socks" else "http"
            monkeypatch.setenv("all_proxy", proxy.url.replace("http", scheme))
        url = peer.url.replace("127.0.0.1", "receiver.test")
        assert transport.send(request(url), timeout=PATIENCE).status_code == status
        assert try_connection(url, PATIENCE).step == "answers"
        assert len(proxy.talks) == (0 if way == "direct" else 2)


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({"HTTPS_PROXY": "a:1", "ALL_PROXY": "b:1"}, "https://receiver.test/", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "a:1", "https_proxy": "b:1"}, "https://receiver.test/", "https_proxy"),
        ({"HTTPS_PROXY": "a:1", "ALL_PROXY": "b:1"}, "http://receiver.test/", "ALL_PROXY"),
        ({"ALL_PROXY": "a:1", "all_proxy": "b:1"}, "http://receiver.test/", "all_proxy"),
        # An empty one in lower case unsets the other.
        ({"HTTPS_PROXY": "a:1", "https_proxy": "", "ALL_PROXY": "b:1"}, "https://a/", "ALL_PROXY"),
        # A server that runs CGI sets HTTP_PROXY from a request's header.
        (
            {"HTTP_PROXY": "a:1", "ALL_PROXY": "b:1", "REQUEST_METHOD": "GET"},
            "http://a/",
            "ALL_PROXY",
        ),
        (
            {"http_proxy": "a:1", "ALL_PROXY": "b:1", "REQUEST_METHOD": "GET"},
            "http://a/",
            "http_proxy",
        ),
        ({"Http_Proxy": "a:1"}, "http://receiver.test/", "Http_Proxy"),
        ({}, "http://receiver.test/", ""),
    ],
)
def test_the_variable_that_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch, *, environ: dict[str, str], url: str, expected: str
) -> None:
    """It is the one whose value requests takes."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    way = way_to(url)
    assert (way.proxy_variable, way.proxy) == (expected, environ.get(expected))


def test_a_receivers_name_is_not_the_proxys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up here for a SOCKS proxy, and is not found, is the endpoint's."""
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    stopped = failure_of(try_connection("http://receiver.invalid/", PATIENCE))
    assert stopped is not None
    assert stopped[0] == "dns"
    assert stopped[1].startswith("Check the host's name in `url`")


def test_a_socks_proxy_that_is_not_there(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sender and inspector know that no connection to the proxy was made."""
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    with pytest.raises(TransportError) as caught:
        transport.send(request("http://receiver.test/"), timeout=PATIENCE)
    found = try_connection("http://receiver.test/", PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("proxy", "connection_refused")
    assert (found.step, found.error_type, found.reason) == (
        "connects",
        "proxy",
        "connection_refused",
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x05\xff", "credentials"),
        (b"\x05\x00\x05\x05\x00\x01" + bytes(6), "not_reached"),
        (b"HTTP/1.1 400 No\r\n\r\n", "protocol"),
    ],
    ids=["credentials", "host", "no SOCKS"],
)
def test_why_a_socks_proxy_lets_nothing_through(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, *, answer: bytes, reason: str
) -> None:
    """Sender and inspector know whether its credentials, the host or the address are wrong."""
    with Peer(hello_then(lambda talk: talk.sock.sendall(answer))) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url.replace("http", "socks5h"))
        with pytest.raises(TransportError) as caught:
            transport.send(request("http://receiver.test/"), timeout=PATIENCE)
        found = try_connection("http://receiver.test/", PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("proxy", reason)
    assert (found.step, found.error_type, found.reason) == ("proxy", "proxy", reason)


@pytest.mark.parametrize("way", ["forwarded", "socks", "tunnel"])
def test_a_connection_that_ends_behind_a_proxy(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    """A kept one is replaced; a new one that ends is the receiver's failure, if it was connected."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    answered = [OK, b"", OK, b"", b""]

    def behave(talk: Talk) -> None:
        while talk.read() is not None and (answer := answered.pop(0)):
            talk.sock.sendall(answer)

    side = server(authority) if way == "tunnel" else None
    with Peer(behave, tls=side) as peer, Peer(socks if way == "socks" else tunnel) as between:
        url = peer.url.replace("127.0.0.1", "receiver.test")
        proxy = peer if way == "forwarded" else between
        scheme = "socks5h" if way == "socks" else "http"
        monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:{proxy.port}")
        for _ in range(2):
            assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        with pytest.raises(TransportError) as caught:
            transport.send(request(url), timeout=PATIENCE)
    assert answered == []
    expected = "proxy" if way == "forwarded" else "connection_reset"
    assert caught.value.error_type == expected


@pytest.mark.parametrize("answer", [b"", b"rubbish\r\n\r\n"], ids=["closes", "no HTTP"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_without_an_answer(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, *, scheme: str, answer: bytes
) -> None:
    """A proxy that closes or speaks no HTTP is at fault, also where it is asked for everything."""
    with Peer(says(answer)) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url)
        with pytest.raises(TransportError) as caught:
            transport.send(request(f"{scheme}://receiver.test/"), timeout=PATIENCE)
        found = try_connection(f"{scheme}://receiver.test/", PATIENCE)
    reason = "protocol" if answer else "connection_reset"
    assert (caught.value.error_type, caught.value.reason) == ("proxy", reason)
    assert (found.step, found.error_type, found.reason) == ("proxy", "proxy", reason)


@pytest.mark.survived("A certificate that is expired, unknown or of another host", "private")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_certificate_of_a_proxy_is_verified(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    """Neither its password nor a request goes to a proxy whose certificate is not trusted."""
    trusted, other = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with (
        Peer(answers(OK), tls=server(trusted, "127.0.0.1")) as good,
        Peer(answers(OK), tls=server(other, "127.0.0.1")) as bad,
    ):
        monkeypatch.setenv(f"{scheme}_proxy", bad.url.replace("//", "//user:word@"))
        with pytest.raises(TransportError) as caught:
            transport.send(request(f"{scheme}://receiver.test/"), timeout=PATIENCE)
        found = try_connection(f"{scheme}://receiver.test/", PATIENCE)
        assert bad.requests == []
        assert (caught.value.error_type, caught.value.reason) == ("proxy", "untrusted")
        assert (found.step, found.error_type, found.reason) == ("proxy", "proxy", "untrusted")
        monkeypatch.setenv("http_proxy", good.url)
        assert try_connection("http://receiver.test/", PATIENCE).step == "answers"


@pytest.mark.usefixtures("looks_at_once")
def test_a_changed_proxy_is_seen_soon(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook or a host may set it in mid-run; the kept connection is not used past it."""
    assert LOOKS_AROUND_EVERY_S <= 1
    resolves_to_loopback(monkeypatch)
    with Peer(answers(OK)) as proxy, Peer(answers(OK)) as peer:
        url = peer.url.replace("127.0.0.1", "receiver.test")
        assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        assert proxy.talks == []
        monkeypatch.setenv("http_proxy", proxy.url)
        assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        assert len(peer.requests) == 1
        assert proxy.requests[0].startswith(f"POST {url}".encode())


@pytest.mark.usefixtures("looks_at_once")
def test_a_bundle_is_read_for_a_proxy_alone(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong file costs an http endpoint nothing, until and while its proxy is an https one."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    resolves_to_loopback(monkeypatch)
    with Peer(answers(OK)) as peer:
        url = peer.url.replace("127.0.0.1", "receiver.test")
        assert transport.send(request(url), timeout=PATIENCE).status_code == 200
        monkeypatch.setenv("http_proxy", "https://127.0.0.1:9")
        for _ in range(2):
            with pytest.raises(TransportError) as caught:
                transport.send(request(url), timeout=PATIENCE)
            assert (caught.value.error_type, caught.value.reason) == ("tls", "bundle")


@pytest.mark.survived("A certificate authority that is taken away in mid-run", "private")
@pytest.mark.usefixtures("looks_at_once")
def test_a_changed_bundle_is_seen_soon(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whom to trust no more is not trusted because a connection was kept."""
    trusted, other = trustme.CA(), trustme.CA()
    for name, authority in (("trusted", trusted), ("other", other)):
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "trusted.pem"))
    with Peer(answers(OK), tls=server(trusted, "127.0.0.1")) as peer:
        assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other.pem"))
        with pytest.raises(TransportError) as raised:
            transport.send(request(peer.url), timeout=PATIENCE)
    assert raised.value.error_type == "tls"


def test_without_a_bundle_requests_own_is_trusted(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As ``requests`` does: certifi's, whatever the system trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "certifi.pem")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(adapters, "DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "certifi.pem"))
    with Peer(answers(OK), tls=server(authority, "127.0.0.1")) as peer:
        assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200


def test_each_address_of_an_endpoint_is_reached(transport: HttpTransport) -> None:
    """Some providers have one address for an alert and another for its end."""
    with Peer(answers(OK)) as peer:
        for path in ("/alerts", "/alerts/1/close", "/alerts"):
            assert transport.send(request(peer.url + path), timeout=PATIENCE).status_code == 200
        paths = [read.split()[1] for read in peer.requests]
    assert [path.decode().removeprefix("/hook") for path in paths] == [
        "/alerts",
        "/alerts/1/close",
        "/alerts",
    ]


def test_https_goes_through_a_tunnel(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HTTPS_PROXY opens a tunnel, which is used again, and sees nothing of the request."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with Peer(tunnel) as proxy, Peer(answers(OK), tls=server(authority)) as peer:
        monkeypatch.setenv("https_proxy", proxy.url)
        sent = request(f"https://receiver.test:{peer.port}/hook")
        for _ in range(2):
            assert transport.send(sent, timeout=PATIENCE).status_code == 200
        assert len(proxy.talks) == 1
        assert proxy.requests[0].startswith(b"CONNECT receiver.test:")
        assert [read.split()[1] for read in peer.requests] == [b"/hook", b"/hook"]


def server(authority: trustme.CA, name: str = "receiver.test") -> ssl.SSLContext:
    """The receiver's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.survived("A proxy that refuses, hangs or is none", "kept")
@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        (says(b"HTTP/1.1 407 Authentication required\r\n\r\n"), "proxy"),
        (says(b"HTTP/1.1 502 Bad gateway\r\n\r\n"), "proxy"),
        (says(b"rubbish\r\n"), "proxy"),
        (says(b""), "proxy"),
        (Talk.hang, "timeout"),
    ],
)
def test_a_proxy_that_fails(
    transport: HttpTransport,
    monkeypatch: pytest.MonkeyPatch,
    behave: Callable[[Talk], object],
    expected: str,
) -> None:
    """A proxy's answer is not the receiver's: there was none."""
    with Peer(behave) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        timeout = BRIEF if expected == "timeout" else PATIENCE
        with pytest.raises(TransportError) as caught:
            transport.send(request("https://receiver.test/"), timeout=timeout)
    assert caught.value.error_type == expected


@pytest.mark.parametrize("reason", ["wrong_host", "no_tls"])
def test_a_remedy_at_a_proxy_names_its_variable(reason: str) -> None:
    """The endpoint's address is right: the proxy's is to be corrected."""
    found = Exchange(request("https://receiver.test/"), PATIENCE)
    found.step, found.reason, found.proxy_variable = "proxy", reason, "https_proxy"
    remedy = remedy_of("proxy", found)
    assert "https_proxy" in remedy
    assert "`url`" not in remedy
    found.step, found.proxy_variable = "tls", ""
    assert "`url`" in remedy_of("tls", found)


def test_a_collector_is_reached_whatever_protocol_it_speaks() -> None:
    """Its exporter finds out whether it takes an export; of a receiver it is the fault."""
    for is_export in (True, False):
        with Peer(says(b"\0\0\x06\x04\0\0\0\0\0\0\x05")) as peer:
            found = try_connection(peer.url, PATIENCE, is_export=is_export)
        assert found.error_type == (None if is_export else "protocol")


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        ("301", "Redirects are not followed"),
        ("308", "Redirects are not followed"),
        ("401", "Compare `secret`, `headers` and `url`"),
        ("405", "Check the path"),
        ("429", "Set `rate`"),
        ("too_slow", "higher `timeout`"),
        ("500", "receiver's own log"),
    ],
)
def test_a_remedy_is_that_of_the_troubleshooting_table(failure: str, remedy: str) -> None:
    """The receiver's log explains no redirect, and no answer that was too slow."""
    assert remedy in remedy_of(failure)


@pytest.mark.parametrize(
    ("error", "reason", "symptom"),
    [
        ("other", None, "other"),
        ("other", "no route to host", "other, no route to host"),
        ("tls", "expired", "tls, the certificate has expired"),
        ("tls", "not_verified", "tls"),
    ],
)
def test_the_symptom_has_the_reason_where_one_is_known(
    error: str, reason: str | None, symptom: str
) -> None:
    """A reason that has no words of its own is left out, and so is one that is not known."""
    found = Exchange(request("https://receiver.test/"), PATIENCE)
    found.step, found.error_type, found.reason = "connects", error, reason
    assert failure_of(found) == (symptom, remedy_of(error, found))


def test_a_proxy_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver was not asked: its time-out is no remedy."""
    with Peer(Talk.hang) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        stopped = failure_of(try_connection("https://receiver.test/", BRIEF))
    remedy = "Check ALL_PROXY; NO_PROXY names hosts that are reached without it"
    assert stopped == ("timeout (the proxy)", remedy)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://", "gopher://a.test"])
def test_a_proxy_that_is_not_there(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """A proxy that cannot be reached, or is none, is a failed attempt."""
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(TransportError) as caught:
        transport.send(request("https://receiver.test/"), timeout=PATIENCE)
    assert caught.value.error_type == "proxy"


@pytest.mark.parametrize("is_proxied", [False, True])
@pytest.mark.parametrize(
    ("behave", "is_answered"),
    [
        (answers(OK), True),
        (says(b"HTTP/1.1 200 OK\r\nCont"), True),
        (says(b"rubbish\r\n\r\n"), False),
    ],
)
def test_only_an_answer_of_the_receiver_spares_the_next_attempt_a_thread(
    monkeypatch: pytest.MonkeyPatch,
    behave: Callable[[Talk], object],
    *,
    is_answered: bool,
    is_proxied: bool,
) -> None:
    """An answer that breaks off is one, without a fault; through a proxy none is."""
    with Peer(behave) as peer:
        if is_proxied:
            monkeypatch.setenv("http_proxy", peer.url)
        sent = request("http://receiver.test/" if is_proxied else peer.url)
        session, exchange = EndpointSession(), Exchange(sent, PATIENCE)
        failed = copy_context().run(session.exchange, exchange)
        spares = session.has_answered(sent)
        session.close()
    assert (failed is None) == (exchange.response is not None) == is_answered
    assert spares == (is_answered and not is_proxied)


@pytest.mark.parametrize(
    ("headers", "expected"), [({}, []), ({"Authorization": "Bearer t"}, ["Bearer t"])]
)
def test_netrc_is_not_read(
    transport: HttpTransport,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    headers: dict[str, str],
    expected: list[str],
) -> None:
    """The user's netrc neither adds nor replaces an Authorization."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Peer(answers(OK)) as peer:
        transport.send(request(peer.url, headers=headers), timeout=PATIENCE)
        assert credentials(peer.requests[0]) == expected


def test_an_address_gives_no_credentials(transport: HttpTransport) -> None:
    """User and password left in an address are not sent: they belong into Authorization."""
    with Peer(answers(OK)) as peer:
        sent = request(
            peer.url.replace("//", "//user:word@"), headers={"Authorization": "Bearer t"}
        )
        transport.send(sent, timeout=PATIENCE)
        assert credentials(peer.requests[0]) == ["Bearer t"]


def test_close_may_be_called_again(transport: HttpTransport) -> None:
    """Closing ends the kept connections, twice as well as once; sending opens new ones."""
    with Peer(answers(OK)) as peer:
        for _ in range(2):
            transport.send(request(peer.url), timeout=PATIENCE)
            transport.close()
            transport.close()
            assert peer.talks[-1].is_closed.wait(20)
        assert len(peer.talks) == 2
