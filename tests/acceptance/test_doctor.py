"""``confiture webhooks doctor`` on what stands in the way: real TLS, real proxies, real clocks."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from peer import OK, Peer, Talk, answers, hello_then, says, tunnel
from project import Project

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
SECRET_PATH = "/hook/CANARY?token=CANARY"
Side = Callable[[trustme.CA, Path], ssl.SSLContext]


@pytest.fixture
def here(tmp_path: Path, outbox_database: str) -> Project:
    """A directory to run the doctor in, on a database that is only asked whether it is there."""
    return Project(tmp_path / "project", outbox_database)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that only those trust who have its certificate."""
    return trustme.CA()


def test_without_an_endpoint_no_row_promises_a_webhook(project: Project) -> None:
    """The row of the commands is about what Confiture shows to the plugin, not about what is sent."""
    project.environment_file()
    done = project.confiture("webhooks", "doctor")
    assert "no endpoint and no hook file: no webhook is sent" in done.stdout
    assert "✅ commands: this plugin sees `confiture migrate up`" in done.stdout
    assert "sends webhooks" not in done.stdout


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """The environment of those who are."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem")}


AT_ONCE = {"retry": {"schedule": [0.1]}}
"""``test`` does not wait seconds for its second attempt."""


def diagnosed(
    project: Project, urls: dict[str, str], env: dict[str, str] | None = None
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of the doctor for endpoints at *urls*, and its rows by name."""
    common = {"secret": "s3cret", "allow_http": True, **AT_ONCE}
    endpoints = [{"name": name, "url": url + SECRET_PATH, **common} for name, url in urls.items()]
    project.environment_file(webhooks={"endpoints": endpoints})
    # A machine without a name server is to say so at once.
    given = {"RES_OPTIONS": "timeout:1 attempts:1", **(env or {})}
    done = project.confiture("webhooks", "doctor", "--format", "json", env=given)
    assert "CANARY" not in done.stdout + done.stderr
    assert done.stderr == ""
    return done.returncode, {row["check"]: row for row in json.loads(done.stdout)["checks"]}


def problems(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What is wrong, and its remedy, by row."""
    return {
        name: f"{row['detail']} | {row['remedy']}"
        for name, row in rows.items()
        if row["status"] == "problem"
    }


def issued(*names: str, **dates: datetime) -> Side:
    """A receiver's side of TLS with a certificate of the authority for *names*."""

    def side(authority: trustme.CA, _: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*names, **dates).configure_cert(context)
        return context

    return side


def self_signed(_: trustme.CA, directory: Path) -> ssl.SSLContext:
    """A receiver's side of TLS with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "self-signed.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


def another_authority(_: trustme.CA, directory: Path) -> ssl.SSLContext:
    """A receiver's side of TLS with a certificate of an unknown authority."""
    return issued("localhost")(trustme.CA(), directory)


def asks_for_a_certificate(authority: trustme.CA, directory: Path) -> ssl.SSLContext:
    """A receiver's side of TLS that takes only clients with a certificate."""
    context = issued("localhost")(authority, directory)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones let the client begin to send
    return context


def of_localhost(peer: Peer, scheme: str = "https") -> str:
    """The address of *peer* by the name that its certificate is for."""
    return f"{scheme}://localhost:{peer.port}"


FAULTS: dict[str, tuple[Side, str, str]] = {
    "expired": (
        issued("localhost", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "the certificate has expired",
        "Renew the certificate",
    ),
    "early": (
        issued("localhost", not_before=NOW + DAY, not_after=NOW + 9 * DAY),
        "the certificate is not valid yet",
        "Set this machine's clock",
    ),
    "elsewhere": (
        issued("elsewhere.test"),
        "the certificate is for another host",
        "Write the host into `url` that the certificate is for",
    ),
    "own": (self_signed, "the certificate is signed by itself", "Set REQUESTS_CA_BUNDLE"),
    "stranger": (
        another_authority,
        "the certificate is of an authority that is not trusted here",
        "Set REQUESTS_CA_BUNDLE to the authority's file",
    ),
    "refused": (
        asks_for_a_certificate,
        "the handshake was refused",
        "If it asks for a certificate, set `tls.client_certificate`",
    ),
}


@pytest.mark.survived(
    "A certificate that is expired, unknown or of another host", "private", "said"
)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_certificate(
    fault: str, here: Project, authority: trustme.CA, trusted: dict[str, str], tmp_path: Path
) -> None:
    """Each fault of a certificate is one problem in words of its own, with its remedy, and exit 1."""
    side, symptom, remedy = FAULTS[fault]
    with Peer(answers(OK), tls=side(authority, tmp_path)) as peer:
        code, rows = diagnosed(here, {"a": of_localhost(peer)}, trusted)
        assert peer.requests == []
    assert code == 1
    found = problems(rows)
    assert list(found) == ["a: tls"]
    assert found["a: tls"].startswith(f"tls, {symptom} | {remedy}")


def test_a_right_certificate_and_none(
    here: Project, authority: trustme.CA, trusted: dict[str, str], tmp_path: Path
) -> None:
    """A trusted certificate is no problem; a port without TLS, and an unreadable bundle, are."""
    with (
        Peer(answers(OK), tls=issued("localhost")(authority, tmp_path)) as right,
        Peer(hello_then(lambda talk: talk.sock.sendall(b"HTTP/1.1 400 No\r\n\r\n"))) as plain,
    ):
        assert diagnosed(here, {"a": of_localhost(right)}, trusted)[0] == 0
        assert right.requests[0].startswith(b"HEAD / HTTP/1.1\r\n")
        code, rows = diagnosed(here, {"a": of_localhost(plain)}, trusted)
        assert code == 1
        assert "does not speak TLS | Check the port" in problems(rows)["a: tls"]
        tested = here.confiture("webhooks", "test", "a", "--format", "json", env=trusted)
        [result] = json.loads(tested.stdout)["results"]
        assert (result["error_type"], result["remedy"]) == ("tls", rows["a: tls"]["remedy"])
        gone = {"REQUESTS_CA_BUNDLE": str(tmp_path / "nosuch.pem")}
        code, rows = diagnosed(here, {"a": of_localhost(right)}, gone)
    assert code == 1
    unread = "tls, REQUESTS_CA_BUNDLE names a file that cannot be read: No such file or directory"
    assert problems(rows)["a: tls"].startswith(f"{unread} | Correct REQUESTS_CA_BUNDLE, or correct")


def test_the_remedy_of_a_test_is_that_of_its_last_attempt(here: Project) -> None:
    """The flush timeout cuts a second attempt, in which the receiver says nothing."""

    def behave(talk: Talk) -> None:
        if len(peer.talks) == 1:
            talk.sock.sendall(b"HTTP/1.1 400 No\r\n\r\n")
        else:
            talk.is_over.wait()

    with Peer(hello_then(behave)) as peer:
        one = {"name": "a", "url": of_localhost(peer), "retry": {"schedule": [0.1]}}
        here.environment_file(webhooks={"endpoints": [one], "flush_timeout": 1})
        tested = here.confiture("webhooks", "test", "--format", "json")
        assert len(peer.talks) == 2
    [result] = json.loads(tested.stdout)["results"]
    assert (result["attempts"], result["error_type"]) == (1, "tls")
    assert "Check the port" in result["remedy"]


KEYS = ("missing", "other key", "locked key", "no key")
"""Faults of a client certificate's key."""


@pytest.mark.survived("A file for TLS that is not there, or holds something else", "said")
@pytest.mark.parametrize("fault", [*KEYS, "empty", "certificate"])
def test_a_file_for_tls_that_cannot_be_used(
    here: Project, authority: trustme.CA, tmp_path: Path, fault: str
) -> None:
    """``check`` names its setting, ``doctor`` and ``test`` fail as the sender does; mended, none."""
    context = issued("localhost")(authority, tmp_path)
    client, other = authority.issue_cert("client.test"), authority.issue_cert("other.test")
    names = ("ca_bundle", "client_certificate", "client_key")
    files = {name: tmp_path / f"{name}.pem" for name in names}

    def write() -> None:
        authority.cert_pem.write_to_path(files["ca_bundle"])
        client.cert_chain_pems[0].write_to_path(files["client_certificate"])
        client.private_key_pem.write_to_path(files["client_key"])

    write()
    if fault == "missing":
        files["client_key"].unlink()
    elif fault == "empty":
        files["ca_bundle"].write_text("")
    elif fault == "certificate":
        files["client_certificate"].write_text("no certificate")
    elif fault == "other key":
        other.private_key_pem.write_to_path(files["client_key"])
    elif fault == "locked key":
        key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
        locked = serialization.BestAvailableEncryption(b"word")
        pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files["client_key"].write_bytes(key.private_bytes(pem, kind, locked))
    wrong = {"empty": "tls.ca_bundle", "certificate": "tls.client_certificate"}
    setting = wrong.get(fault, "tls.client_key")
    with Peer(answers(OK), tls=context) as peer:
        none = "client_key" if fault == "no key" else ""
        tls = {name: str(path) for name, path in files.items() if name != none}
        one = {"name": "a", "url": of_localhost(peer), "tls": tls, **AT_ONCE}
        away = {**one, "name": "b", "environments": ["away"], "tls": {"ca_bundle": "/away"}}
        here.environment_file(webhooks={"endpoints": [one, away]})
        checked = here.confiture("webhooks", "check")
        assert checked.returncode == 5
        assert f"{setting} (a): names " in checked.stdout + checked.stderr
        here.environment_file(webhooks={"endpoints": [one]})
        diagnosis = here.confiture("webhooks", "doctor", "--format", "json")
        rows = [row for row in json.loads(diagnosis.stdout)["checks"] if row["check"][0] == "a"]
        assert (diagnosis.returncode, peer.requests) == (1, [])
        assert [(row["check"], row["status"]) for row in rows[:1]] == [("a: tls", "problem")]
        assert rows[0]["detail"].startswith(f"tls, {setting} names ")
        assert ("Set tls.client_key to the file" in rows[0]["remedy"]) is (fault in KEYS)
        tested = here.confiture("webhooks", "test", "--format", "json")
        [result] = json.loads(tested.stdout)["results"]
        assert (result["error_type"], result["remedy"]) == ("tls", rows[0]["remedy"])
        line, *_ = logged(tested.stderr, "webhook.attempt_failed")
        assert line["reason"] == ("bundle" if fault == "empty" else "client_certificate")
        write()
        one = {**one, "tls": {**tls, "client_key": str(files["client_key"])}}
        here.environment_file(webhooks={"endpoints": [one, away]})
        for command in ("check", "test a"):
            assert here.confiture("webhooks", *command.split()).returncode == 0


def test_the_setting_of_an_authority_that_is_not_the_receivers(
    here: Project, authority: trustme.CA, trusted: dict[str, str], tmp_path: Path
) -> None:
    """The remedy names ``tls.ca_bundle``: with it, the variable has no effect."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with Peer(answers(OK), tls=issued("localhost")(authority, tmp_path)) as peer:
        tls = {"ca_bundle": str(tmp_path / "other.pem")}
        one = {"name": "a", "url": of_localhost(peer), "tls": tls, **AT_ONCE}
        here.environment_file(webhooks={"endpoints": [one]})
        for words in (("doctor",), ("test", "a")):
            told = here.confiture("webhooks", *words, env={**trusted, "COLUMNS": "200"})
            assert told.returncode == 1
            assert "Set tls.ca_bundle to the authority's file" in told.stdout


def logged(stderr: str, event: str) -> list[dict[str, Any]]:
    """The log lines of *event*."""
    lines = (json.loads(line) for line in stderr.splitlines())
    return [line for line in lines if line["event"] == event]


def refuses(status: int) -> Callable[[Talk], None]:
    """Behave as a proxy that answers everything with *status*."""
    return says(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.survived("A proxy that refuses, hangs or is none", "said")
@pytest.mark.parametrize(
    ("variable", "scheme", "status", "remedy"),
    [
        ("HTTPS_PROXY", "https", 403, "Have the proxy let this host through, or name the host in"),
        ("HTTPS_PROXY", "https", 407, "Put the proxy's user and password into HTTPS_PROXY"),
        ("all_proxy", "https", 407, "Put the proxy's user and password into all_proxy"),
        ("ALL_PROXY", "https", 502, "The proxy does not reach that host"),
        ("HTTP_PROXY", "http", 407, "Put the proxy's user and password into HTTP_PROXY"),
        ("ALL_PROXY", "http", 407, "Put the proxy's user and password into ALL_PROXY"),
        ("HTTP_PROXY", "http", 503, "The proxy does not reach that host"),
    ],
)
def test_a_proxy_that_refuses(
    here: Project, *, variable: str, scheme: str, status: int, remedy: str
) -> None:
    """What a proxy answers instead of passing on is the proxy's problem, and exit 1."""
    with Peer(refuses(status)) as proxy:
        env = {variable: f"http://user:CANARY@127.0.0.1:{proxy.port}"}
        code, rows = diagnosed(here, {"a": f"{scheme}://receiver.test"}, env)
        verb = b"CONNECT receiver.test:443" if scheme == "https" else b"HEAD http://receiver.test"
        assert proxy.requests[0].startswith(verb)
        assert b"Proxy-Authorization: Basic " in proxy.requests[0]
        tested = here.confiture("webhooks", "test", "--format", "json", env=env)
        assert "CANARY" not in tested.stdout + tested.stderr
        [result] = json.loads(tested.stdout)["results"]
        if scheme == "https" or status == 407:  # no other status says whose it is
            assert (result["error_type"], result["remedy"]) == ("proxy", rows["a: proxy"]["remedy"])
            line, *_ = logged(tested.stderr, "webhook.attempt_failed")
            assert (line["error_type"], line["reason"]) == ("proxy", str(status))
    assert code == 1
    assert list(problems(rows)) == ["a: proxy"]
    assert problems(rows)["a: proxy"].startswith(f"{status} from the proxy | {remedy}")
    assert rows["a: connects"]["detail"] == "yes (the proxy)"


def test_a_403_through_a_proxy_may_be_the_receivers(here: Project) -> None:
    """A plain request that is answered with 403 is a warning: the answer does not say whose it is."""
    with Peer(refuses(403)) as proxy:
        code, rows = diagnosed(here, {"a": "http://receiver.test"}, {"HTTP_PROXY": proxy.url})
    assert code == 0
    assert rows["a: proxy"]["status"] == "warning"


@pytest.mark.parametrize(
    ("variable", "proxy", "scheme"),
    [
        ("HTTPS_PROXY", "http", "https"),
        ("https_proxy", "socks5h", "https"),
        ("ALL_PROXY", "http", "http"),
        ("all_proxy", "socks4a", "http"),
    ],
)
def test_a_proxy_that_is_not_there(
    here: Project, *, variable: str, proxy: str, scheme: str
) -> None:
    """No step is said to have gone well that did not, and ``test`` names the same variable."""
    env = {variable: f"{proxy}://user:CANARY@127.0.0.1:9"}
    code, rows = diagnosed(here, {"a": f"{scheme}://receiver.test"}, env)
    assert code == 1
    remedy = f"Check {variable}; NO_PROXY names hosts that are reached without it"
    assert problems(rows) == {"a: connects": f"connection_refused (the proxy) | {remedy}"}
    tested = here.confiture("webhooks", "test", "--format", "json", env=env)
    assert "CANARY" not in tested.stdout + tested.stderr
    [result] = json.loads(tested.stdout)["results"]
    assert (result["error_type"], result["remedy"]) == ("proxy", remedy)


def test_hosts_without_a_proxy(here: Project, receiver: Any) -> None:
    """This machine is reached without a proxy."""
    code, rows = diagnosed(here, {"a": receiver.url}, {"HTTP_PROXY": "http://127.0.0.1:9"})
    assert (code, problems(rows)) == (0, {})
    assert rows["a: connects"]["detail"] == "yes"


def test_what_is_behind_a_tunnel_is_looked_at(
    here: Project, authority: trustme.CA, trusted: dict[str, str], tmp_path: Path
) -> None:
    """A proxy that opens a tunnel is no problem; a certificate behind it can be."""
    with (
        Peer(tunnel) as proxy,
        Peer(answers(OK), tls=issued("receiver.test")(authority, tmp_path)) as peer,
    ):
        env = {**trusted, "HTTPS_PROXY": proxy.url}
        code, rows = diagnosed(here, {"a": f"https://receiver.test:{peer.port}"}, env)
        assert (code, problems(rows)) == (0, {})
        assert rows["a: proxy"]["detail"] == rows["a: tls"]["detail"] == "yes"
        code, rows = diagnosed(here, {"a": f"https://another.test:{peer.port}"}, env)
    assert code == 1
    assert list(problems(rows)) == ["a: tls"]


def test_what_is_no_http_server_is_named(here: Project) -> None:
    """The doctor finds what a test finds: the port is another program's."""
    with Peer(says(b"SSH-2.0-OpenSSH_9.2\r\n")) as peer:
        code, rows = diagnosed(here, {"a": peer.url}, {})
        tested = here.confiture("webhooks", "test", "a", "--format", "json")
    [result] = json.loads(tested.stdout)["results"]
    assert code == 1
    assert problems(rows) == {"a: answers": f"protocol | {result['remedy']}"}
    assert (rows["a: connects"]["status"], result["error_type"]) == ("ok", "protocol")


def test_a_name_that_does_not_resolve(here: Project) -> None:
    """The name is the problem, and nothing after it is guessed at."""
    code, rows = diagnosed(here, {"a": "https://receiver.invalid"})
    assert code == 1
    assert problems(rows) == {
        "a: resolves": "no | Check the host's name in `url`, and that this machine can resolve it"
    }
    assert "a: connects" not in rows


@pytest.mark.parametrize(
    ("ahead", "code", "status", "detail"),
    [
        (timedelta(), 0, "ok", "agrees with the receiver's to within"),
        (timedelta(minutes=3), 0, "warning", "ahead of this machine's"),
        (timedelta(hours=-1), 1, "problem", "behind this machine's"),
    ],
)
def test_a_clock_that_is_off(
    here: Project, ahead: timedelta, code: int, status: str, detail: str
) -> None:
    """A receiver's clock beyond the tolerance of signatures is a problem, nearly so a warning."""

    def gives_the_time(talk: Talk) -> None:
        date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
        says(f"HTTP/1.1 405 No\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())(talk)

    with Peer(gives_the_time) as peer:
        ended, rows = diagnosed(here, {"a": peer.url})
    assert ended == code
    assert rows["a: clock"]["status"] == status
    assert detail in rows["a: clock"]["detail"]
    assert (rows["a: clock"]["remedy"] is None) is (status == "ok")


def test_what_waits_for_an_operator(project: Any, receiver: Any) -> None:
    """An endpoint that a 410 switched off, and deliveries for one that is no more, are problems."""
    receiver.script("/hook", [410])
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    gone = {"name": "gone", "url": f"{receiver.url}/hook"}
    removed = {"name": "removed", "url": "http://127.0.0.1:9/", "retry": {"schedule": [300]}}
    project.environment_file(webhooks={"endpoints": [gone, removed], "flush_timeout": 2})
    assert project.confiture("migrate", "up").returncode == 0
    project.environment_file(webhooks={"endpoints": [gone]})
    done = project.confiture("webhooks", "doctor")
    assert done.returncode == 1
    assert "❌ gone: outbox: switched off since" in done.stdout
    assert "Switch it on: `confiture webhooks enable gone`" in done.stdout
    assert "❌ removed: outbox: no endpoint of that name is configured (1 waiting)" in done.stdout
    project.environment_file("other", webhooks={"endpoints": [gone]})
    other = project.confiture("webhooks", "doctor", "--config", "db/environments/other.yaml")
    assert "outbox: 0 waiting, 0 dead letters; environment other in sqlite:" in other.stdout


@pytest.mark.parametrize(
    ("env", "remedy"),
    [
        ({}, "To export, set OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_SDK_DISABLED": "true",
            },
            "To export, unset OTEL_SDK_DISABLED and OTEL_*_EXPORTER",
        ),
    ],
)
def test_why_nothing_is_exported(here: Project, env: dict[str, str], remedy: str) -> None:
    """An address that is set already is no remedy."""
    assert diagnosed(here, {}, env)[1]["collector"]["remedy"] == remedy


def test_a_collector_is_looked_for_the_way_exports_go(
    here: Project, authority: trustme.CA, trusted: dict[str, str], tmp_path: Path
) -> None:
    """A proxy in between and a certificate authority of its own are taken into account."""
    with Peer(answers(OK), tls=issued("localhost")(authority, tmp_path)) as peer:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": of_localhost(peer)}
        row = "collector: traces, metrics, logs"
        wrong = diagnosed(here, {}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "foo"})[1]["collector"]
        assert wrong["status"] == "problem"  # and no row that nothing is exported
        usual = diagnosed(here, {}, {"OTEL_TRACES_EXPORTER": "otlp"})[1]["collector: traces"]
        assert usual["detail"].startswith("http://localhost:4318 ")
        assert "not trusted here" in problems(diagnosed(here, {}, env)[1])[row]
        known = {**env, "OTEL_EXPORTER_OTLP_CERTIFICATE": trusted["REQUESTS_CA_BUNDLE"]}
        assert row not in problems(diagnosed(here, {}, known)[1])
        proxied = {**known, "HTTPS_PROXY": "http://127.0.0.1:9"}
        assert row not in problems(diagnosed(here, {}, proxied)[1])  # none to this machine
        proxied["OTEL_EXPORTER_OTLP_ENDPOINT"] = "https://collector.example"
        assert "(the proxy) | Check HTTPS_PROXY" in problems(diagnosed(here, {}, proxied)[1])[row]
    with Peer(hello_then(lambda talk: talk.sock.sendall(OK))) as peer:
        plain = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://localhost:{peer.port}"}
        found = problems(diagnosed(here, {}, plain)[1])[row]
        assert "Check the port in OTEL_EXPORTER_OTLP_ENDPOINT, and that" in found


def test_an_exporter_that_is_not_installed_has_a_row(here: Project) -> None:
    """A protocol whose package is missing is named with the package, before anything is sent."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    rows = diagnosed(here, {}, env)[1]
    assert rows["collector"]["detail"].endswith("needs a package that is missing")
    assert rows["collector"]["remedy"] == "Run: pip install opentelemetry-exporter-otlp-proto-grpc"
    assert "collector: traces, metrics, logs" not in rows


def test_the_doctor_names_what_is_wrong(project: Any, receiver: Any) -> None:
    """A dead receiver, a missing collector and a missing secret each come with a remedy."""
    endpoints = [
        {"name": "alive", "url": receiver.url, "secret": "s"},
        {"name": "dead", "url": "http://127.0.0.1:9/", "secret": "s"},
        {"name": "open", "url": receiver.url},
    ]
    project.environment_file(webhooks={"endpoints": endpoints[:1]})
    well = project.confiture("webhooks", "doctor", "--ping")
    assert well.returncode == 0, well.stdout
    assert "alive: ping: delivered with 200" in well.stdout
    project.environment_file(webhooks={"endpoints": endpoints})
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = project.confiture("webhooks", "doctor", "--format", "json", env=env)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    status = {row["check"]: row["status"] for row in document["checks"]}
    assert status["configuration"] == "ok"
    assert status["alive: connects"] == status["alive: signs"] == status["alive: clock"] == "ok"
    assert status["dead: connects"] == "problem"
    assert "dead: clock" not in status  # there was no answer
    assert status["open: signs"] == "warning"
    assert status["outbox"] == "ok"
    assert status["collector: traces, metrics, logs"] == "problem"
    assert all(row["remedy"] for row in document["checks"] if row["status"] == "problem")
    assert (
        project.confiture("webhooks", "doctor", env={"CONFITURE_WEBHOOKS": "off"}).returncode == 5
    )


def test_an_outbox_that_cannot_be_made(here: Project) -> None:
    """The row says which file and why, and not that memory had been chosen."""
    here.environment_file(webhooks={"endpoints": [{"name": "down", "url": "http://127.0.0.1:9"}]})
    env = {"CONFITURE_WEBHOOK_OUTBOX": "sqlite:/proc/nowhere/x.db"}
    done = here.confiture("webhooks", "doctor", "--format", "json", env=env)
    assert done.returncode == 1
    rows = {row["check"]: row for row in json.loads(done.stdout)["checks"]}
    assert rows["outbox"]["status"] == "problem"
    assert rows["outbox"]["detail"].startswith("/proc/nowhere/x.db: ")
    assert "memory ends with the command" not in rows["outbox"]["remedy"]
    checked = here.confiture("webhooks", "check", env=env)
    assert checked.returncode == 5
    assert "CONFITURE_WEBHOOK_OUTBOX: /proc/nowhere/x.db" in checked.stderr
    block = {"endpoints": [{"name": "a", "url": "http://127.0.0.1:9"}]}
    here.environment_file(webhooks={**block, "outbox": "sqlite:/proc/nowhere/x.db"})
    assert "❌ webhooks.outbox: /proc/nowhere/x.db" in here.confiture("webhooks", "check").stderr


def test_a_damaged_outbox_is_only_looked_at(here: Project, receiver: Any) -> None:
    """The row says that the file is damaged and which command sets it aside; it stays as it is."""
    here.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    file = here.path / ".confiture" / "webhooks.db"
    file.parent.mkdir(mode=0o700)
    file.write_bytes(b"not a database" * 1000)
    code, rows = diagnosed(here, {"a": receiver.url})
    assert code == 1
    assert rows["outbox"]["detail"].endswith("the file is damaged")
    assert rows["outbox"]["remedy"].startswith("The next `confiture migrate up` keeps it aside")
    done = here.confiture("webhooks", "doctor", "--config", "db/environments/local.yaml")
    assert "`confiture migrate up --config db/environments/local.yaml` keeps it" in done.stdout
    assert file.read_bytes() == b"not a database" * 1000
    assert sorted(found.name for found in file.parent.iterdir()) == [".gitignore", "webhooks.db"]


def test_a_database_that_does_not_answer_has_words_and_a_remedy(here: Project) -> None:
    """No class of an exception: what is wrong with which database, and what to do."""
    here.database_url = "postgresql://nobody@127.0.0.1:1/nothing"
    code, rows = diagnosed(here, {})
    row = rows["database"]
    assert (code, row["status"]) == (5, "problem")  # nothing is configured here, either
    assert row["detail"] == ("not reached: the server does not answer or has closed the connection")
    remedy = "Check that it runs, and its address in"
    assert row["remedy"] == f"{remedy} `database_url` of db/environments/local.yaml"
    variable = {"CONFITURE_DATABASE_URL": here.database_url}
    found = diagnosed(here, {}, variable)[1]["database"]
    assert found["remedy"] == f"{remedy} CONFITURE_DATABASE_URL"
    url = {"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:9/"}
    for outbox, setting in (
        ("postgres", "CONFITURE_DATABASE_URL"),
        ("postgres:postgresql://nobody@127.0.0.1:2/x", "CONFITURE_WEBHOOK_OUTBOX"),
    ):
        env = {**variable, **url, "CONFITURE_WEBHOOK_OUTBOX": outbox}
        for command in (["status"], ["list"], ["doctor"], ["outbox", "init"]):
            done = here.confiture("webhooks", *command, env=env)
            said = done.stdout + done.stderr
            assert f"{remedy} {setting}" in said
            assert (f"{setting}. For an outbox elsewhere" in said) == (outbox == "postgres")
    here.database_url = "no address"
    assert diagnosed(here, {})[1]["database"]["detail"] == "its address cannot be read"


def test_a_directory_that_is_no_project_says_so(tmp_path: Path, receiver: Any) -> None:
    """A run there fails, so the row is a problem with what names a project."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/nothing")
    (project.environments / "local.yaml").unlink()
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    done = project.confiture("webhooks", "doctor", "-f", "json", env=env)
    assert done.returncode == 1
    row = next(one for one in json.loads(done.stdout)["checks"] if one["check"] == "database")
    assert row["detail"] == "a run here fails: db/environments/local.yaml does not exist"
    assert "name the file with --config, or set CONFITURE_DATABASE_URL" in row["remedy"]
