"""The database and the outbox: whether a run can use them, and what waits for an operator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from ..adapters.backend import address_setting, names_database
from ..bounded import bounded
from ..config import Settings
from ..delivery import State
from ..errors import OutboxError
from ..outbox.postgres_refusal import ADDRESS, NAMED, placed, reason_of
from ..outbox.postgres_rights import lacking
from ..outbox.postgres_schema import may_make
from ..outbox.sqlite_file import OTHER, is_there, translated
from ..outlook import listed, shown_environment
from ..remedy import shown
from ..run.invocation import Invocation
from ..terminal import counted
from ..wiring import init_by_admin, operators_outbox, outbox_place, postgres_dsn, sqlite_path
from .findings import Check, Findings, examine, needs, ok, skipped, warn, wrong


def outbox_checks(settings: Settings, setting: str, dsn: str | None) -> Iterator[Check]:
    """Whether a run can use it, and whether deliveries in it wait for an operator.

    *setting*: what names the database of a PostgreSQL outbox. *dsn*: the migrated database.
    """
    if fault := settings.outbox_fault:
        yield wrong("outbox", fault.what, fault.remedy)
        return
    if settings.place.kind == "memory":
        yield warn("outbox", "in memory", "Use `sqlite`: memory ends with the command")
        return
    try:
        yield from _checked(settings, dsn)
    except OutboxError as error:
        remedy = error.remedy or OTHER
        if settings.place.kind == "postgres":
            remedy = placed(error.remedy or init_by_admin(settings), setting)
        yield wrong("outbox", error.problem.removeprefix("outbox "), remedy)


def _checked(settings: Settings, dsn: str | None) -> Iterator[Check]:
    with closing(operators_outbox(settings)) as outbox:
        findings = examine(outbox, settings, datetime.now(UTC), dsn=dsn)
        is_there = outbox.is_durable
    yield _kept(settings, findings) if is_there else _missing(settings)
    is_asked = is_there and settings.place.kind == "postgres"
    if rights := lacking(postgres_dsn(settings)) if is_asked else "":
        problem = f"this role has no right to {rights}, so nothing old is deleted"
        yield warn("outbox: rights", problem, init_by_admin(settings))
    for wait in findings.waits:
        check = wrong if wait.is_in_vain else warn
        yield check(f"{wait.endpoint}: outbox", wait.detail, wait.remedy)
    for row in needs(findings):
        yield replace(row, check=f"outbox: {row.check}")


def _missing(settings: Settings) -> Check:
    place = outbox_place(settings)
    if settings.place.kind != "postgres":
        check_path(settings)
    elif not may_make(postgres_dsn(settings)):
        problem = f"there is none in the database ({place}), and this role may not create it"
        return wrong("outbox", problem, init_by_admin(settings))
    return ok("outbox", f"there is none yet; the first run creates {place}")


def check_path(settings: Settings) -> None:
    """Whether the SQLite outbox is there, or can be created. Raises OutboxError."""
    if settings.place.kind != "sqlite":
        return
    path = sqlite_path(settings)
    if is_there(path):
        return
    above = next(parent for parent in path.absolute().parents if parent.exists())
    with translated(path), TemporaryDirectory(dir=above):
        pass


def _kept(settings: Settings, findings: Findings) -> Check:
    summary = findings.summary
    dead = counted(summary.counts.get(State.DEAD_LETTER, 0), "dead letter", "dead letters")
    where = f"environment {shown_environment(settings.environment)} in {outbox_place(settings)}"
    elsewhere = listed(findings.others)
    where += f"; waiting in other environments: {elsewhere}" if elsewhere else ""
    counts = f"{summary.waiting} waiting, {dead}; {where}"
    if summary.waiting > sum(wait.count for wait in findings.waits):  # which have rows of their own
        return warn("outbox", counts, f"Send them now: {shown('redeliver', '--pending')}")
    return ok("outbox", counts)


# The database

WAIT_S = 5
_STANDBY = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"


def database(invocation: Invocation, dsn: str | None) -> Iterator[Check]:
    """Whether it takes writes: a run fails without it."""
    if invocation.missing is not None:
        problem = f"a run here fails: {invocation.missing} does not exist"
        remedy = "Go to the project's directory, name the file with --config, or set"
        yield wrong("database", problem, f"{remedy} CONFITURE_DATABASE_URL")
        return
    if dsn is None:
        yield skipped("database", "no address is configured")
        return
    try:
        [[is_standby, read_only]] = bounded(lambda: _asked(dsn), WAIT_S + 1)
    except Exception as error:  # noqa: BLE001  its text may hold the address
        yield _not_reached(error, invocation.config_file)
        return
    if is_standby:
        problem = "it is a standby, which takes no writes: no migration and no event in it"
        remedy = "Set the address of the primary, or target_session_attrs=read-write"
        yield wrong("database", problem, remedy)
    elif read_only == "on":
        remedy = "Reset default_transaction_read_only for the role or the database"
        yield wrong("database", "its sessions are read-only for this role", remedy)
    else:
        yield ok("database", "it is reached and takes writes")


def _not_reached(error: Exception, config_file: Path | None) -> Check:
    if config_file is not None and not names_database(config_file, os.environ):
        problem = f"{config_file} names none, and the default of Confiture does not answer"
        remedy = "Set CONFITURE_DATABASE_URL, or `database_url` in the file"
        return wrong("database", problem, remedy)
    known = error if isinstance(error, psycopg.Error) else psycopg.OperationalError()
    if isinstance(known, psycopg.ProgrammingError) and known.sqlstate is None:
        remedy = "Write it as postgresql://user:password@host:5432/database"
        return wrong("database", "its address cannot be read", remedy)
    reason, remedy = reason_of(known)
    remedy = remedy.removesuffix(NAMED).replace(ADDRESS, address_setting(config_file, os.environ))
    return wrong("database", f"not reached: {reason}", remedy)


def _asked(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=WAIT_S) as connection:
        return connection.execute(_STANDBY, prepare=False).fetchall()
