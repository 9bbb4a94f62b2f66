"""``confiture webhooks doctor``: the troubleshooting table, run against a user's own set-up."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from ..adapters.backend import address_setting, names_database
from ..adapters.hook_files import HookFile
from ..bounded import bounded
from ..command_watch import is_off, sees_commands
from ..config import Settings
from ..config.variables import SWITCH, outbox_setting
from ..delivery import State
from ..endpoint import Tls
from ..errors import Fault, OutboxError
from ..networks import origin
from ..outbox.postgres_refusal import NAMED, placed, reason_of
from ..outbox.postgres_rights import lacking
from ..outbox.postgres_schema import may_make
from ..outbox.postgres_session import ADDRESS
from ..outbox.sqlite_file import OTHER, is_there, translated
from ..outlook import listed, shown_environment
from ..remedy import shown
from ..run.invocation import Invocation
from ..telemetry.plan import CONSOLE, GRPC, Export, complaints, plan
from ..telemetry.providers import try_out
from ..terminal import counted
from ..wiring import (
    found_settings,
    in_database,
    init_by_admin,
    operators_outbox,
    outbox_place,
    postgres_dsn,
    sqlite_path,
)
from .endpoints import PATIENCE, failure_of, remedy_of, signs, try_connection, way_to
from .findings import Check, Findings, Health, examine, needs, ok, skipped, warn, wrong

WAIT_S = 5


def diagnose(
    invocation: Invocation,
    dsn: str | None,
    unread: Fault | None,
    two_databases: Fault | None,
    *,
    is_pinging: bool,
) -> Iterator[Check]:
    """One check after the other; with *is_pinging* every endpoint is sent a ping.

    *dsn*: the database of a ``confiture migrate`` here. *unread*: that a block here is not read.
    *two_databases*: why the host refuses its commands here.
    """
    settings, files = found_settings(invocation.settings_file)
    if is_off(os.environ):
        yield wrong("configuration", f"{SWITCH} is off: nothing is sent", "Unset it")
    for fault in settings.faults:
        yield wrong("configuration", fault.what, fault.remedy)
    if not settings.faults:
        yield _configured(settings, files)
    for fault in (*settings.warnings, *settings.advice):
        yield warn("settings", fault.what, fault.remedy)
    if unread is not None:
        yield warn("environment file", f"{unread.setting} {unread.problem}", unread.remedy)
    yield _commands(two_databases)
    for file in files:
        yield _hook_file(file)
    for endpoint in settings.endpoints:
        yield from way_to(endpoint)
        yield signs(endpoint)
    of_database = list(_database(invocation, dsn))
    yield from of_database
    if settings.recorded:
        address = address_setting(invocation.config_file, os.environ)
        setting = outbox_setting(os.environ) if settings.place.rest else address
        is_reached = all(check.status is not Health.PROBLEM for check in of_database)
        used = in_database(settings, lambda: dsn)
        yield from _outbox(used, setting, dsn if is_reached else None)
        yield from _pings(settings, is_pinging=is_pinging)
    yield from _collector()


def _configured(settings: Settings, files: list[HookFile]) -> Check:
    counts = f"endpoints: {len(settings.endpoints)}, hook files: {len(files)}"
    if settings.endpoints or files:
        return ok("configuration", f"{counts}; {'; '.join(settings.sources) or 'hook files'}")
    block = "the `webhooks:` block of the environment file"
    remedy = f"Set CONFITURE_WEBHOOK_URL, or write an endpoint into {block}"
    return wrong("configuration", "no endpoint and no hook file: no webhook is sent", remedy)


def _commands(refused: Fault | None) -> Check:
    """Whether the host takes its ``migrate`` commands, or has *refused*, and shows them to us."""
    if refused is not None:
        return wrong("commands", refused.what, refused.remedy)
    why = "this Confiture does not show it to plugins"
    try:
        if sees_commands():
            return ok("commands", "this plugin sees `confiture migrate up`")
    except Exception as error:  # noqa: BLE001  whatever the host's command line raises
        why = type(error).__name__
    remedy = "Report this with the versions of confiture, typer and click"
    return wrong("commands", f"`confiture migrate up` sends no webhook: {why}", remedy)


def _hook_file(file: HookFile) -> Check:
    if fault := file.fault:
        return wrong("hook file", f"{fault.setting} {fault.problem}", fault.remedy)
    sends = "; sends to CONFITURE_WEBHOOK_URL in place of `default`"
    return ok("hook file", f"{file.shown}{sends if file.reads_url else ' (found, not run)'}")


def _database(invocation: Invocation, dsn: str | None) -> Iterator[Check]:
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
    question = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"
    with psycopg.connect(dsn, autocommit=True, connect_timeout=WAIT_S) as connection:
        return connection.execute(question, prepare=False).fetchall()


def _outbox(settings: Settings, setting: str, dsn: str | None) -> Iterator[Check]:
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


def _pings(settings: Settings, *, is_pinging: bool) -> Iterator[Check]:
    if not is_pinging:
        yield skipped("ping", "not asked for; --ping sends one to every endpoint")
        return
    from ..ping import ping  # noqa: PLC0415

    for row in ping(settings, None):
        name = f"{row['endpoint']}: ping"
        if row["delivered"]:
            yield ok(name, f"delivered with {row['status_code']} in {row['duration_ms']} ms")
        else:
            remedy = remedy_of(row["error_type"], row["exchange"])
            yield wrong(name, f"not delivered: {row['error_type']}", remedy)


def _collector() -> Iterator[Check]:
    wanted, found = plan(os.environ), try_out(os.environ)
    for fault in found.faults:
        yield wrong("collector", fault.what, fault.remedy)
    if not wanted.exports and not found.faults:
        is_set = any("_OTLP_" in name and name.endswith("ENDPOINT") for name in os.environ)
        off = "unset OTEL_SDK_DISABLED and OTEL_*_EXPORTER"
        how = off if is_set else "set OTEL_EXPORTER_OTLP_ENDPOINT"
        yield skipped("collector", "nothing is exported", f"To export, {how}")
    by_address: defaultdict[tuple[str, str], list[Export]] = defaultdict(list)
    for export in wanted.exports:
        if export.protocol != CONSOLE and export not in found.refused:
            given = export.endpoint or f"localhost:{4317 if export.protocol == GRPC else 4318}"
            address = origin(given if "://" in given else f"http://{given}")
            by_address[export.protocol, address].append(export)
    for (_, place), exports in by_address.items():
        yield _exporter(place, exports)


def _exporter(address: str, exports: Sequence[Export]) -> Check:
    from ..telemetry.sdk import probe  # noqa: PLC0415

    name = f"collector: {', '.join(export.signal for export in exports)}"
    tls = Tls(ca_bundle=os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE"))
    found = try_connection(address, PATIENCE, tls=tls, is_export=True)
    if stopped := failure_of(found):
        symptom, remedy = stopped
        remedy = remedy.replace("`url`", "OTEL_EXPORTER_OTLP_ENDPOINT")
        if not found.proxy_variable and found.reason is None:
            remedy = "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
        return wrong(name, f"{address} is not reached: {symptom}", remedy)
    for export in exports:
        try:
            with complaints():  # what an exporter logs is the row's to say
                reason = bounded(partial(probe, export), PATIENCE.total_seconds())
        except Exception as error:  # noqa: BLE001  its text may hold the address
            reason = type(error).__name__
        if reason is not None:
            symptom, _, remedy = reason.partition(". ")
            remedy = remedy or "Check the OTEL_EXPORTER_OTLP_* variables"
            return wrong(name, f"{address} does not take {export.signal}: {symptom}", remedy)
    return ok(name, f"{address} takes them")
