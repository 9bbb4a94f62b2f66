"""A standard error that is full, broken or closed is no matter of the migration's."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from project import CONFITURE

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
        done = subprocess.run(
            [CONFITURE, "migrate", "up", "--format", "json"],
            cwd=project.path,
            env=project.environ(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
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
