"""A standard error that is full, broken or closed is no matter of the migration's."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import forked
from passage import Passage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OFF = {"CONFITURE_WEBHOOKS": "off"}


@contextmanager
def standard_error(state: str) -> Iterator[dict[str, Any]]:
    """Arguments of a ``Popen`` whose standard error is in that *state*."""
    if state == "full":
        with Path("/dev/full").open("w") as full:
            yield {"stderr": full}
    elif state == "broken":
        reading, writing = os.pipe()
        os.close(reading)
        try:
            yield {"stderr": writing}
        finally:
            os.close(writing)
    elif state == "closed":
        yield {"preexec_fn": lambda: os.close(2)}
    else:
        yield {"stderr": subprocess.DEVNULL}


def migrated(project: Any, env: Mapping[str, str], state: str) -> tuple[int, Any, bool]:
    """Exit code and document of ``migrate up``, and whether it was applied; it is undone then."""
    with standard_error(state) as streams:
        done = forked.run(
            ["migrate", "up", "--format", "json"],
            timeout=60,
            cwd=project.path,
            env=project.environ(env),
            **streams,
        )
    with psycopg.connect(project.database_url) as connection:
        found = connection.execute("SELECT to_regclass('a') IS NOT NULL").fetchone()
    assert found is not None
    undone = project.confiture("migrate", "down", env=OFF)
    assert undone.returncode == 0, undone.stderr
    return done.returncode, _timeless(json.loads(done.stdout)), found[0]


def _timeless(document: Any) -> Any:
    """*document* without what differs from run to run: how long things took."""
    if isinstance(document, dict):
        return {key: _timeless(value) for key, value in document.items() if "_ms" not in key}
    return [_timeless(item) for item in document] if isinstance(document, list) else document


@pytest.mark.survived("A standard error that is full, broken or closed", "unharmed")
@pytest.mark.parametrize("state", ["full", "broken", "closed"])
def test_it_changes_nothing(project: Any, receiver: Any, state: str) -> None:
    """Exit code, standard output and database are as with webhooks off, whatever is configured."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    off = migrated(project, OFF, "usual")
    assert off[0] == 0
    assert off[2]
    assert migrated(project, {"CONFITURE_WEBHOOK_URL": receiver.url}, state) == off
    assert migrated(project, {"CONFITURE_WEBHOOK_URL": "ftp://nowhere"}, state) == off
    assert [request.payload["event_type"] for request in receiver.requests] == ["migration_success"]


@pytest.mark.survived("A standard error that is not read", "unharmed", "kept")
def test_one_that_is_not_read_stops_nothing(project: Any, receiver: Any) -> None:
    """A pipe that is full takes no more lines; migrations, webhooks and the end do not wait."""
    for number in range(1, 13):
        project.migration(f"{number:03}", f"t{number}", up="SELECT 1", down="SELECT 1")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_LOG": "json"}
    done = run(project, env, stderr=writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert 0 < len(text) <= 4096
    assert done.returncode == 0, text + done.stdout
    assert len(receiver.requests) == 12


@pytest.mark.survived("Outbox, collector, receiver and standard error broken at once", "unharmed")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("outbox", ["postgres", "postgres:{deaf}"])
def test_everything_broken_at_once_ends_in_time(project: Any, outbox: str) -> None:
    """Each waits in its part of one time: result and end are those of webhooks off, and that."""
    project.environment_file(migration={"view_helpers": "off"})
    for number in (1, 2, 3):
        project.migration(f"{number:03}", f"t{number}", f"CREATE TABLE t{number} ()", "SELECT 1")
    off = run(project, OFF)
    assert off.returncode == 0
    again = [f"DROP TABLE {name}" for name in ("t1", "t2", "t3", "tb_confiture")]
    with psycopg.connect(project.database_url) as connection:
        connection.execute(";".join(again))
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with Passage(project.database_url) as deaf, socket.create_server(("127.0.0.1", 0)) as silent:
        deaf.is_deaf = True
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        env = {
            "CONFITURE_WEBHOOK_URL": dead,
            "CONFITURE_WEBHOOK_OUTBOX": outbox.format(deaf=deaf.dsn),
            "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": dead,
        }
        started = time.monotonic()
        done = run(project, env, stderr=writing)
        took_s = time.monotonic() - started
    os.close(writing)
    os.close(reading)
    assert (done.returncode, timeless(done.stdout)) == (0, timeless(off.stdout))
    assert took_s < 45  # 3 s more than with webhooks off; each part alone would take longer


def timeless(text: str) -> str:
    """*text* without how long things took."""
    return re.sub(r"[\d.]+ ?m?s\b", "", text)


def test_lines_of_the_command_stay_whole(project: Any, receiver: Any) -> None:
    """In a log of both streams ours begin lines of their own, as soon as the command's ends."""
    for number in range(1, 4):
        project.migration(f"{number:03}", f"t{number}", up="SELECT 1", down="SELECT 1")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_LOG": "json"}
    lines = run(project, env, stderr=subprocess.STDOUT).stdout.splitlines()
    assert sum("Applying" in line and "✅" in line for line in lines) == 3
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert events.count("migration.applied") == events.count("webhook.delivered") == 3


def run(project: Any, env: Mapping[str, str], **streams: Any) -> subprocess.CompletedProcess[str]:
    """``migrate up``, in text."""
    options = {"cwd": project.path, "env": project.environ(env)}
    return forked.run(["migrate", "up"], timeout=60, **options, **streams)


def test_every_line_of_ours_is_a_log_event_or_says_whose_it_is(project: Any) -> None:
    """In a CI log, faults and what was not sent stand between JSON lines, with our name first."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    nowhere = {"name": "nowhere", "url": "http://127.0.0.1:1/"}
    wrong = {"name": "wrong", "url": "ftp://127.0.0.1/"}
    project.environment_file(webhooks={"flush_timeout": 0.5, "endpoints": [nowhere, wrong]})
    up = project.confiture("migrate", "up")
    assert up.returncode == 0
    sentences = [line for line in up.stderr.splitlines() if not line.startswith("{")]
    assert len(sentences) == 3
    assert all(line.startswith("confiture-webhooks: ") for line in sentences)
