"""``confiture webhooks demo`` as a whole, on a PostgreSQL from a wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import forked
from confiture_webhooks import demo as demo_module
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.receiver.collector import LocalCollector
from project import CONFITURE

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """The directory for temporary files of the commands under test."""
    # A shell's background job has SIGINT ignored, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield scratch
    signal.signal(signal.SIGINT, before)


def start(scratch: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """The demo, as a user of this machine would start it."""
    return subprocess.Popen(
        [str(CONFITURE), "webhooks", "demo", *arguments],
        cwd=scratch.parent,
        env={**os.environ, "TMPDIR": str(scratch), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(scratch: Path) -> list[str]:
    """Every process that was started, directly or not, by a demo with this scratch directory."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if str(scratch).encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def run(scratch: Path, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the demo."""
    process = start(scratch, *arguments, **environ)
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def refused(scratch: Path, address: str) -> str:
    """The line on stderr with which ``--otlp`` *address* ends the demo before anything is started."""
    done = forked.run(
        ["webhooks", "demo", "--otlp", address],
        cwd=scratch.parent,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(scratch), **forked.FIXED},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert list(scratch.iterdir()) == []
    (line,) = done.stderr.splitlines()
    return line


def test_demo(scratch: Path) -> None:
    """Everything is received and shown in plain text, no secret with it.

    With --otlp a running collector receives the same traces, metrics and log records.
    With --keep the project stays, without a secret in it, and is named.
    """
    hostile = {"CONFITURE_WEBHOOKS": "off", "OTEL_SDK_DISABLED": "true", "PGHOST": "nowhere"}
    hostile |= {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "localhost"}
    with LocalCollector() as collector:
        url = f"http://localhost:{collector.port}"
        code, out, err = run(scratch, "--keep", "--otlp", url, **hostile)
        assert (code, err) == (0, ""), out
        runs = {s.name: s.trace_id for s in collector.spans if s.name.startswith("confiture ")}
        assert set(runs) == {"confiture migrate up", "confiture migrate down"}
        assert all(trace_id in out for trace_id in runs.values())
        assert collector.metrics
        found = {r.attributes["correlation_id"] for r in collector.logs}
        assert found > set(runs.values())
        assert len(found) == len(runs) + 1  # the killed run's
    for line in (
        "Trace of confiture migrate up",
        "Trace of confiture migrate down",
        "migration_success, delivered, retry in",
        "confiture.webhook.deliveries",
        "webhook.attempt_failed",
        "roll back migration",
        "of 4 webhooks (4 signatures valid)",
        "of 1 webhook (1 signature valid)",
        "Trace of the killed run",
        "error_type=Interrupted",
        f"sent on to {url}",
    ):
        assert line in out
    assert "\x1b" not in out
    assert "postgresql://" not in out
    assert "whsec_" not in out
    (kept,) = scratch.iterdir()
    assert f"Kept: {kept}" in out
    assert (kept / "db" / "migrations" / "001_create_customers.up.sql").exists()
    files = [file for file in kept.rglob("*") if file.is_file()]
    assert not [file for file in files if b"whsec_" in file.read_bytes()]


def test_demo_with_a_dead_collector(scratch: Path) -> None:
    """When the collector of --otlp is not there, that is one line, before anything is started."""
    with LocalCollector() as gone:
        url = gone.url
    reason = "--otlp: no collector takes OTLP there (/v1/traces: ConnectionError). Start one"
    assert reason in refused(scratch, url)


def test_demo_with_what_is_no_collector(scratch: Path, receiver: LocalReceiver) -> None:
    """An address where something else answers is refused as well, with what it answered."""
    receiver.script("/v1/traces", [404])
    assert "--otlp: no collector takes OTLP there (/v1/traces: HTTP 404)" in refused(
        scratch, receiver.url
    )


def test_demo_with_a_wrong_collector(scratch: Path) -> None:
    """A wrong --otlp is one line and exit code 2, before anything is started."""
    for address in ("localhost:4318", "", "ftp://127.0.0.1", "http://"):
        assert "http or https" in refused(scratch, address)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "OTEL_EXPORTER_OTLP_ENDPOINT"), (signal.SIGTERM, "Starting")],
)
def test_ended_from_outside(scratch: Path, number: signal.Signals, moment: str) -> None:
    """Ctrl-C and SIGTERM end the server and every process, and leave no file."""
    process = start(scratch)
    assert process.stdout is not None
    while moment not in process.stdout.readline():
        assert process.poll() is None
    assert processes_of(scratch)
    # A terminal sends Ctrl-C to the whole group, a supervisor SIGTERM to the one it started.
    os.killpg(process.pid, number) if number is signal.SIGINT else process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130, rest
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()
    # A command that was just being started when the signal came ends by itself, at once.
    deadline = time.monotonic() + 60
    while processes_of(scratch) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(scratch) == []
    assert list(scratch.iterdir()) == []


def test_demo_says_what_is_missing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not received, here or at --otlp, is named with the commands' output: exit code 1.

    Nothing is left.
    """
    monkeypatch.setattr(demo_module, "COMMANDS", ())
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with (
        LocalCollector(answers=[200, *[503] * 100]) as fails_later,
        pytest.raises(typer.Exit) as end,
    ):
        demo_module.demo(otlp=fails_later.url)
    assert end.value.exit_code == 1
    out = capsys.readouterr().out
    assert "Not received: 1 x migration_rollback" in out
    assert re.search("Not received: at --otlp: /v1/[a-z]+: HTTP 503", out)
    assert "Not received: 1 x webhook of the killed run" not in out
    assert "output of confiture migrate up" in out
    assert list(scratch.iterdir()) == []


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra the exit code is 2 and the extra is named."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(typer.Exit) as end:
        demo_module.demo()
    assert end.value.exit_code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "`pip install 'confiture-webhooks[demo]'`, or in a clone `pip install '.[demo]'`" in said
