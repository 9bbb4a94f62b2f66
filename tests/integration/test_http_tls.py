"""HttpTransport over TLS: whom it trusts, and what it says of those it does not."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.doctor.endpoints import try_connection
from confiture_webhooks.endpoint import Tls
from confiture_webhooks.errors import TransportError
from confiture_webhooks.transport import Request
from peer import OK, Peer, Talk, answers, hello_then

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = timedelta(seconds=20)


def request(url: str) -> Request:
    """A request to *url*."""
    return Request(url=url, headers={}, body=b"{}", endpoint="analytics")


def error_type(transport: HttpTransport, sent: Request, timeout: timedelta = PATIENCE) -> str:
    """Why *sent* has no answer."""
    with pytest.raises(TransportError) as caught:
        transport.send(sent, timeout=timeout)
    return caught.value.error_type


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority nobody trusts yet."""
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """The authority's certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """The receiver's side of TLS, with a certificate for *names*."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.survived(
    "A certificate that is expired, unknown or of another host", "private", "said"
)
def test_an_untrusted_certificate(transport: HttpTransport, authority: trustme.CA) -> None:
    """A receiver with a certificate of its own making is not talked to."""
    with Peer(answers(OK), tls=tls(authority, "127.0.0.1")) as peer:
        assert error_type(transport, request(peer.url)) == "tls"
        assert peer.requests == []


def test_a_trusted_certificate(
    transport: HttpTransport,
    authority: trustme.CA,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """REQUESTS_CA_BUNDLE names whom to trust; a TLS connection is used again."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with Peer(answers(OK), tls=tls(authority, "127.0.0.1")) as peer:
        for _ in range(2):
            assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        assert len(peer.talks) == 1


@pytest.mark.survived(
    "A certificate that is expired, unknown or of another host", "private", "said"
)
def test_another_hosts_certificate(
    transport: HttpTransport,
    authority: trustme.CA,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trusted certificate for another name is a fault of TLS."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with Peer(answers(OK), tls=tls(authority, "elsewhere.test")) as peer:
        assert error_type(transport, request(peer.url)) == "tls"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_that_is_none(
    transport: HttpTransport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    authority: trustme.CA,
    content: str | None,
) -> None:
    """A missing or unreadable bundle is a fault of TLS."""
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with Peer(answers(OK), tls=tls(authority, "127.0.0.1")) as peer:
        assert error_type(transport, request(peer.url)) == "tls"


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        pytest.param(
            hello_then(lambda talk: talk.sock.sendall(b"HTTP/1.1 400 No\r\n\r\n")),
            "tls",
            id="another protocol",
        ),
        pytest.param(hello_then(lambda _: None), "connection_reset", id="closes"),
        pytest.param(hello_then(Talk.reset), "connection_reset", id="resets"),
    ],
)
def test_no_tls(transport: HttpTransport, behave: Callable[[Talk], object], expected: str) -> None:
    """A peer that does not speak TLS is distinguished from one that just ends the connection."""
    with Peer(behave) as peer:
        sent = request(peer.url.replace("http", "https"))
        assert error_type(transport, sent, timedelta(seconds=2)) == expected


@pytest.mark.survived("A client certificate that is renewed", "kept")
@pytest.mark.usefixtures("looks_at_once")
def test_a_client_certificate(
    transport: HttpTransport, authority: trustme.CA, bundle: Path, tmp_path: Path
) -> None:
    """A receiver that asks for one gets it; a renewed file is read again, without a new worker."""
    server = tls(authority, "127.0.0.1")
    server.verify_mode = ssl.CERT_REQUIRED
    clients = trustme.CA()
    clients.configure_trust(server)
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    files = Tls(client_certificate=str(certificate), client_key=str(key), ca_bundle=str(bundle))

    def renew(by: trustme.CA) -> None:
        made = by.issue_cert("client.test")
        made.private_key_pem.write_to_path(key)
        made.cert_chain_pems[0].write_to_path(certificate)

    with Peer(answers(OK), tls=server) as peer:
        sent = replace(request(peer.url), tls=files)
        assert error_type(transport, sent) == "tls"  # the files are not there
        assert try_connection(peer.url, PATIENCE, tls=files).reason == "client_certificate"
        renew(clients)
        for _ in range(2):
            assert transport.send(sent, timeout=PATIENCE).status_code == 200
        assert len(peer.talks) == 1
        assert try_connection(peer.url, PATIENCE, tls=files).step == "answers"
        renew(authority)
        assert error_type(transport, sent) == "tls"
        renew(clients)
        assert transport.send(sent, timeout=PATIENCE).status_code == 200


def test_key_and_certificate_in_one_file(
    transport: HttpTransport, authority: trustme.CA, bundle: Path, tmp_path: Path
) -> None:
    """The key may stand in the certificate's file."""
    server = tls(authority, "127.0.0.1")
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server)
    path = tmp_path / "both.pem"
    authority.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(path)
    with Peer(answers(OK), tls=server) as peer:
        files = Tls(client_certificate=str(path), ca_bundle=str(bundle))
        sent = replace(request(peer.url), tls=files)
        assert transport.send(sent, timeout=PATIENCE).status_code == 200


def test_a_refusal_is_read_though_the_connection_is_closed(
    transport: HttpTransport, authority: trustme.CA, bundle: Path
) -> None:
    """With TLS 1.3 the receiver asks for a certificate, refuses and closes while we send."""
    server = tls(authority, "127.0.0.1")
    server.verify_mode = ssl.CERT_REQUIRED
    with Peer(answers(OK), tls=server) as peer:
        for body in (b"{}", b"{}" * 200_000) * 10:
            sent = replace(request(peer.url), tls=Tls(ca_bundle=str(bundle)), body=body)
            with pytest.raises(TransportError) as caught:
                transport.send(sent, timeout=PATIENCE)
            assert (caught.value.error_type, caught.value.reason) == ("tls", "refused")


@pytest.mark.survived("Bytes that follow an answer on its connection", "kept")
def test_what_follows_an_answer_is_no_answer_to_the_next_request(
    transport: HttpTransport, authority: trustme.CA, bundle: Path
) -> None:
    """TLS reads a whole record: what is left of it cannot be seen on the socket."""
    no = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    more = OK + b"x" * (8192 - len(OK)) + OK  # an answer's lines are read by 8192 bytes
    with Peer(answers(more, no), tls=tls(authority, "127.0.0.1")) as peer:
        sent = replace(request(peer.url), tls=Tls(ca_bundle=str(bundle)))
        found = [transport.send(sent, timeout=PATIENCE).status_code for _ in range(2)]
        assert found == [200, 500]
        assert len(peer.talks) == 2


def alert(number: int) -> Callable[[Talk], object]:
    """A behaviour: end the handshake with an alert (RFC 8446, 6)."""
    return hello_then(lambda talk: talk.sock.sendall(bytes([21, 3, 3, 0, 2, 2, number])))


_SERVER_HELLO = bytes([2, 0, 0, 38, 3, 1, *bytes(32), 0, 0xC0, 0x14, 0])


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        pytest.param(alert(40), "refused", id="handshake_failure"),
        pytest.param(alert(112), "refused", id="unrecognized_name"),
        pytest.param(alert(120), "refused", id="no_application_protocol"),
        pytest.param(alert(70), "old_tls", id="protocol_version"),
        pytest.param(
            hello_then(lambda talk: talk.sock.sendall(b"\x16\x03\x01\0\x2a" + _SERVER_HELLO)),
            "old_tls",
            id="TLS 1.0",
        ),
        pytest.param(hello_then(lambda talk: talk.sock.sendall(OK)), "no_tls", id="HTTP"),
    ],
)
def test_why_there_is_no_handshake(
    transport: HttpTransport, behave: Callable[[Talk], object], reason: str
) -> None:
    """A receiver that refuses, one with an old TLS and one without any are three things."""
    with Peer(behave) as peer, pytest.raises(TransportError) as caught:
        transport.send(request(peer.url.replace("http", "https")), timeout=PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("tls", reason)
