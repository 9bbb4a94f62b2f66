"""A ``confiture`` that is killed, as by SIGKILL, at a chosen instant of its first migration."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psycopg

if TYPE_CHECKING:
    from project import Project

Moment = Literal["before commit", "after commit"]

OTHERS = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)

_PLANTED = """
import os, signal
import psycopg
from confiture_webhooks.run.run import Run

begin, commit = Run.migration, psycopg.Connection.commit
under_way = []

def noted(self, *args):
    under_way.append(1)
    return begin(self, *args)

def cut(self):
    if under_way and {is_after}:
        commit(self)
    if under_way:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self)

Run.migration, psycopg.Connection.commit = noted, cut
"""


def crash(project: Project, moment: Moment, *arguments: str, **environ: str) -> None:
    """Run ``confiture`` with *arguments*; it dies around the commit of its first migration.

    The server, which may be slow to notice, has noticed.
    """
    planted = project.path.with_name("planted")
    planted.mkdir(exist_ok=True)
    code = _PLANTED.format(is_after=moment == "after commit")
    (planted / "sitecustomize.py").write_text(code, encoding="utf-8")
    done = project.confiture(*arguments, env={"PYTHONPATH": str(planted), **environ})
    assert done.returncode == -9, (done.returncode, done.stdout, done.stderr)
    with psycopg.connect(project.database_url, autocommit=True) as server:
        until = time.monotonic() + 60
        while server.execute(OTHERS).fetchone() is not None:
            assert time.monotonic() < until, "the server still has the killed run's session"
            time.sleep(0.02)


def outbox_of(project: Project) -> Path:
    """The file of the project's outbox."""
    return project.path / ".confiture" / "webhooks.db"
