"""``confiture webhooks doctor``: the troubleshooting table, run against a user's own set-up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from ..adapters.backend import address_setting
from ..adapters.hook_files import HookFile
from ..bounded import bounded
from ..command_watch import is_off, sees_commands
from ..config import Settings
from ..config.variables import SWITCH
from ..endpoint import Tls
from ..errors import Fault
from ..networks import origin
from ..run.invocation import Invocation
from ..telemetry.plan import CONSOLE, GRPC, Export, complaints, plan
from ..telemetry.providers import try_out
from ..wiring import found_settings, in_database
from .endpoints import PATIENCE, address, failure_of, remedy_of, signs, try_connection, way_to
from .findings import Check, Health, ok, skipped, warn, wrong
from .outbox import database, outbox_checks

_COLLECTORS = {GRPC: "http://localhost:4317", "http/protobuf": "http://localhost:4318"}


def diagnose(
    invocation: Invocation,
    dsn: str | None,
    *,
    unread: Fault | None,
    two_databases: Fault | None,
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
    yield from _hook_files(files)
    for endpoint in settings.endpoints:
        yield from way_to(endpoint)
        yield signs(endpoint)
        yield from address(endpoint)
    of_database = list(database(invocation, dsn))
    yield from of_database
    if settings.recorded:
        is_own = bool(settings.place.rest)
        setting = address_setting(invocation.config_file, os.environ, is_own=is_own)
        is_reached = all(check.status is not Health.PROBLEM for check in of_database)
        used = in_database(settings, lambda: dsn)
        yield from outbox_checks(used, setting, dsn if is_reached else None)
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
    """Whether the installed host takes its ``migrate`` commands, and shows them to us.

    *refused*: why it does not take them here.
    """
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


def _hook_files(files: list[HookFile]) -> Iterator[Check]:
    for file in files:
        if file.fault is not None:
            problem = f"{file.fault.setting} {file.fault.problem}"
            yield wrong("hook file", problem, file.fault.remedy)
        elif file.reads_url:
            sends = "sends to CONFITURE_WEBHOOK_URL in place of `default`"
            yield ok("hook file", f"{file.shown}; {sends}")
        else:
            yield ok("hook file", f"{file.shown} (found, not run)")


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
    by_address: dict[tuple[str, str], list[Export]] = {}
    for export in wanted.exports:
        if export.protocol != CONSOLE and export not in found.refused:
            given = export.endpoint or _COLLECTORS[export.protocol]
            address = origin(given if "://" in given else f"http://{given}")
            by_address.setdefault((export.protocol, address), []).append(export)
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
