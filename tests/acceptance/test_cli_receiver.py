"""``confiture webhooks listen`` and ``verify`` as whole commands."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from confiture_webhooks.event import body as body_of
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.signature import body_signature, webhook_signature
from project import Project

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
PAYLOAD = {
    "event_id": "evt_1",
    "event_type": "migration_success",
    "trace_id": "4bf9" * 8,
    "migration": {"name": "005_add_payment_table", "version": "005", "environment": "production"},
}
BODY = body_of(PAYLOAD)


def signed(at: datetime | None = None, secret: str = SECRET) -> dict[str, str]:
    """The headers of our sender for ``BODY``."""
    at = at or datetime.now(UTC)
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": webhook_signature([secret], "evt_1", at, BODY),
        "X-Confiture-Signature": body_signature(secret, BODY),
        "X-Correlation-ID": "4bf9" * 8,
        "Content-Length": str(len(BODY)),
    }


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Project]:
    """A directory to run commands in; no database is needed."""
    # A shell's background job has SIGINT ignored, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    project = Project(tmp_path / "project", NOWHERE)
    yield project
    project.close()
    signal.signal(signal.SIGINT, before)


class Listener:
    """A running ``confiture webhooks listen``."""

    def __init__(
        self, project: Project, *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        self._process = project.spawn("webhooks", "listen", "--port", "0", *arguments, env=env)
        assert self._process.stderr is not None
        self.banner = self._process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", self.banner)
        assert found, self.banner + self._process.stderr.read()
        self.url = found.group()

    def post(self, **headers: str) -> int:
        """The status of one POST of ``BODY``."""
        return requests.post(self.url, data=BODY, headers=headers, timeout=5).status_code

    def line(self) -> str:
        """The next line on stdout."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def until(self, words: str) -> str:
        """The next lines on stdout, up to one with *words*: they come after the answer."""
        lines = [self.line()]
        while lines[-1] and words not in lines[-1]:
            lines.append(self.line())
        return "".join(lines)

    def interrupt(self) -> tuple[int, str, str]:
        """Ctrl-C: exit code, what was left on stdout, and stderr."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.send_signal(signal.SIGINT)
        # communicate() would lose what reading by lines has already taken in.
        out, err = self._process.stdout.read(), self._process.stderr.read()
        return self._process.wait(timeout=20), out, err


def test_listen_as_json(here: Project) -> None:
    """Each request is one JSON document on a line, and Ctrl-C ends with 0 and no traceback."""
    listener = Listener(here, "--secret", SECRET, "--answer", "503,200", "--format", "json")
    assert [listener.post(**signed()), listener.post(), listener.post()] == [503, 200, 200]
    documents = [json.loads(listener.line()) for _ in range(3)]
    assert [document["verified"] for document in documents] == [True, False, False]
    assert [document["answer"] for document in documents] == [503, 200, 200]
    assert documents[0]["payload"] == PAYLOAD
    assert documents[0]["correlation_id"] == "4bf9" * 8
    assert listener.interrupt() == (0, "", "")


def test_listen_as_text(here: Project) -> None:
    """Events are printed for eyes, with the verdict and the correlation id."""
    listener = Listener(here, env={"CONFITURE_WEBHOOK_SECRET": SECRET})
    assert "signatures are checked" in listener.banner
    assert listener.post(**signed()) == 200
    assert listener.post(**signed(secret="another")) == 401
    first = "".join(listener.line() for _ in range(5))
    assert "migration_success 005_add_payment_table" in first
    assert "✅ valid" in first
    assert "4bf9" * 8 in first
    rest = listener.until("Compare the secret")
    code, _, err = listener.interrupt()
    assert (code, err) == (0, "")
    assert "❌ not valid\n" in rest
    assert "none in it was made with this secret, or the request was changed since. " in rest
    assert "Compare the secret with the sender's (CONFITURE_WEBHOOK_SECRET, or" in rest


def test_listen_says_what_a_sender_without_a_secret_lacks(here: Project) -> None:
    """Of an event of ours; another request is just not signed."""
    listener = Listener(here, "--secret", SECRET)
    unsigned = {"X-Confiture-Event": "migration_success"}
    assert [listener.post(**unsigned), listener.post()] == [401, 401]
    shown = listener.until("- not signed\n")
    listener.interrupt()
    lacks = "the sender has no secret (CONFITURE_WEBHOOK_SECRET, or `secret` of the endpoint)"
    assert shown.count(f"- not signed: {lacks}\n") == 1
    assert shown.count("- not signed\n") == 1


def test_listen_says_that_a_signature_is_too_old(here: Project) -> None:
    """With the age, and the command that accepts it."""
    listener = Listener(here, "--secret", SECRET)
    assert listener.post(**signed(at=datetime.now(UTC) - timedelta(hours=1))) == 401
    shown = listener.until("too old")
    listener.interrupt()
    assert re.search(
        r"too old: signed with this secret, but 36\d\d s ago; with --tolerance 0 it is accepted\n",
        shown,
    )


def test_listen_shows_no_secret(here: Project) -> None:
    """Without a secret that is said; a received credential is not printed."""
    listener = Listener(here, "--format", "json")
    assert "not checked" in listener.banner
    listener.post(Authorization="Bearer canary")
    document = listener.line()
    assert json.loads(document)["verified"] is None
    assert "canary" not in document
    listener.interrupt()


def test_port_in_use(here: Project) -> None:
    """A port that is taken is one line and exit code 2."""
    with LocalReceiver() as receiver:
        done = here.confiture("webhooks", "listen", "--port", str(receiver.port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{receiver.port}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["listen", "--answer", "sulk"], 2, "sulk"),
        (["listen", "--port", "70000"], 2, "--port"),
        (["listen", "--format", "xml"], 2, "xml"),
        (["listen", "--secret", "whsec_?"], 5, "base64"),
        (["listen", "--secret", "'quoted'"], 5, "--secret: is in quotes"),
        (["listen", "--secret", "ends "], 5, "--secret: begins or ends with white space"),
        (["verify", "nowhere.txt", "--secret", "s"], 2, "nowhere.txt"),
        (["verify", "nowhere.txt"], 5, "CONFITURE_WEBHOOK_SECRET"),
        (["verify", "empty.txt", "--secret", "s"], 2, "not a captured request"),
        (["verify", "request.txt", "--secret", "whsec_?"], 5, "base64"),
        (["verify", "request.txt", "--secret", ""], 5, "--secret: is blank"),
    ],
)
def test_bad_input(here: Project, arguments: list[str], code: int, words: str) -> None:
    """Bad input is a clear message and the host's exit code, never a traceback.

    A secret that `check` refuses is refused here, too.
    """
    (here.path / "empty.txt").touch()
    (here.path / "request.txt").write_text("a: b\n\n{}")
    done = here.confiture("webhooks", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def raw(headers: dict[str, str]) -> bytes:
    """A captured request as bytes off the wire."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /hook HTTP/1.1\r\n{head}\r\n".encode() + BODY


def verify(
    project: Project, content: bytes, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """``verify --format json`` on a file with *content*, the secret in the environment."""
    (project.path / "request.txt").write_bytes(content)
    env = {"CONFITURE_WEBHOOK_SECRET": SECRET}
    done = project.confiture(
        "webhooks", "verify", "request.txt", "--format", "json", *arguments, env=env
    )
    return done, json.loads(done.stdout)


def test_verify(here: Project) -> None:
    """An authentic request is valid: exit 0 and what it says."""
    done, document = verify(here, raw(signed()))
    assert (done.returncode, done.stderr) == (0, "")
    assert document["valid"]
    assert (document["event_id"], document["correlation_id"]) == ("evt_1", "4bf9" * 8)
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\.000Z", document["sent_at"])


def test_verify_reads_what_editors_and_servers_change(here: Project) -> None:
    """Names in any case, a byte order mark before all, a last line break, and no length."""
    headers = {name.upper(): value for name, value in signed().items() if "Length" not in name}
    for content in (
        b"\xef\xbb\xbf" + raw(headers) + b"\r\n",
        b"\xef\xbb\xbf" + json.dumps({"headers": headers, "body": BODY.decode()}).encode(),
        raw({**headers, "Transfer-Encoding": "chunked"}) + b"\n",
    ):
        assert verify(here, content)[1]["valid"]


def test_verify_reads_one_document_whose_payload_is_its_body(here: Project) -> None:
    """A payload that was changed is none of the body's; several lines are given one at a time."""
    captured = {"headers": signed(), "body": BODY.decode(), "payload": PAYLOAD}
    done, _ = verify(here, json.dumps(captured).encode())
    assert done.returncode == 0, done.stderr
    captured["payload"] = {**PAYLOAD, "event_type": "migration_error"}
    for content, said in (
        (json.dumps(captured), '"payload" is not what the body holds'),
        (f"{json.dumps(captured)}\n" * 2, "give one line at a time"),
    ):
        (here.path / "captured").write_text(content, encoding="utf-8")
        refused = here.confiture("webhooks", "verify", "--secret", SECRET, "captured")
        assert refused.returncode == 2
        assert said in refused.stderr


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless file here")
def test_verify_reads_no_file_without_end(here: Project) -> None:
    """So much is read and no more; and a standard input that is closed is one line."""
    env = {"CONFITURE_WEBHOOK_SECRET": SECRET}
    done = here.confiture("webhooks", "verify", "/dev/zero", env=env, timeout=60)
    assert done.returncode == 2
    assert "larger than 64 MiB" in done.stderr
    piped = here.confiture("webhooks", "verify", "-", env=env, stdin=raw(signed()).decode())
    assert piped.returncode == 0, piped.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (raw(signed(secret="x")), "signature: none in it was made with this secret"),
        (raw(signed()).replace(b"005_add", b"006_add"), "or the request was changed since"),
        (
            raw(signed()).removesuffix(BODY) + json.dumps(PAYLOAD, indent=2).encode(),
            "or the request was changed since",
        ),
        (raw(signed(datetime.now(UTC) + timedelta(days=1))), "too early: signed with this secret"),
        (raw({"webhook-id": "evt_1"}), "it is not signed: it has no signature header"),
        (raw({"webhook-signature": "v1,x"}), "no webhook-id and no webhook-timestamp header"),
        (raw(signed()).removesuffix(BODY) + b"[1]", "unreadable: its body is not a JSON object"),
        (
            raw(signed() | {"Transfer-Encoding": "chunked"}).removesuffix(BODY)
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            "not a JSON object; decode it as its transfer-encoding says",
        ),
        (
            raw(signed() | {"Content-Encoding": "gzip"}).removesuffix(BODY) + gzip.compress(BODY),
            "not a JSON object; decode it as its content-encoding says",
        ),
        (
            raw(signed()).replace(b"webhook-sig", b"Webhook-Signature: v1,x\r\nWebhook-Sig"),
            "unreadable: it has more than one webhook-signature header",
        ),
        (
            raw(signed()).replace(b"\r\n\r\n", b"\r\n\r\n\xef\xbb\xbf"),
            "changed: its body begins with a byte order mark",
        ),
    ],
)
def test_verify_says_which_check_failed(here: Project, content: bytes, reason: str) -> None:
    """Its user holds the secret, and gets the reason that a sender does not get."""
    done, document = verify(here, content)
    assert (done.returncode, document["valid"]) == (1, False)
    assert reason in document["reason"]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (signed(datetime.now(UTC) - timedelta(days=1)), "too old: signed with this secret"),
        ({"X-Confiture-Signature": body_signature(SECRET, BODY)}, "has no time"),
    ],
)
def test_verify_accepts_any_time_when_asked(
    here: Project, headers: dict[str, str], reason: str
) -> None:
    """An old capture, or one without a time, is refused with the reason; --tolerance 0 takes it."""
    done, document = verify(here, raw(headers))
    assert (done.returncode, document["valid"]) == (1, False)
    assert reason in document["reason"]
    assert "with --tolerance 0 it is accepted" in document["reason"]
    for tolerance in ("0", "9" * 18) if "webhook-id" in headers else ("0",):
        assert verify(here, raw(headers), "--tolerance", tolerance)[0].returncode == 0


def test_verify_for_eyes(here: Project) -> None:
    """As text it says valid with the event, or why not; a line break at the end is no matter."""
    env = {"CONFITURE_WEBHOOK_SECRET": SECRET}
    for headers, code, words in (
        (signed(), 0, "✅ The signature is valid"),
        (signed(secret="x"), 1, "❌ Not valid"),
    ):
        (here.path / "request.txt").write_bytes(raw(headers) + b"\n")
        done = here.confiture("webhooks", "verify", "request.txt", env=env)
        assert (done.returncode, words in done.stdout) == (code, True)


def test_listen_then_verify(here: Project) -> None:
    """What ``listen --format json`` prints, ``verify -`` reads."""
    listener = Listener(here, "--format", "json")
    listener.post(**signed())
    captured = listener.line()
    listener.interrupt()
    done = here.confiture("webhooks", "verify", "-", "--secret", SECRET, stdin=captured)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_piped_and_no_request_is_called_by_its_name(here: Project) -> None:
    """Not by the dash that stands for it."""
    done = here.confiture("webhooks", "verify", "-", "--secret", SECRET, stdin="{}")
    assert done.returncode == 2
    assert "standard input is not a captured request: no " in done.stderr
