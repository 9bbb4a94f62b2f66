"""``confiture webhooks check`` and ``doctor``: the configuration, and a run that would use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import typer

from ..command_watch import is_off
from ..config import Settings, redacted
from ..config.variables import SWITCH, URL, outbox_setting
from ..doctor import check_path, diagnose
from ..doctor.findings import Health
from ..endpoint import explain
from ..errors import ConfigError, Fault, OutboxError
from ..event import EventType
from ..outbox.sqlite_file import OTHER
from ..outlook import shown_environment
from ..telemetry.providers import try_out
from ..wiring import outbox_exists, outbox_place
from .context import Context
from .options import SUBSCRIBED, ConfigOpt, FormatOpt, environment_of, not_empty, one_event
from .tables import CONFIG_INVALID, FAILED, conclude, length, line, print_facts

_MARKS = {
    Health.OK: ("✅", "green"),
    Health.WARNING: ("⚠️ ", "yellow"),
    Health.PROBLEM: ("❌", "red"),
    Health.SKIPPED: ("-", "dim"),
}


def check(
    config: ConfigOpt = None,
    explained: Annotated[
        EventType | None,
        one_event(
            "--explain", among=SUBSCRIBED, what="Say which endpoints get this event, and why not"
        ),
    ] = None,
    migration: Annotated[
        str | None,
        typer.Option(
            "--migration",
            callback=not_empty,
            help="With --explain: about this one, as <version>_<name>",
        ),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment", callback=environment_of, help="With --explain: in this environment"
        ),
    ] = None,
    output: FormatOpt = "text",
) -> None:
    """Validate the configuration and show the endpoints, secrets and addresses hidden.

    PROCESS:
      Reads the environment, the file's `webhooks:` block and the hook files as
      `confiture migrate` would. Sends nothing, runs nothing of the hook files, and does not
      open the outbox: `doctor` finds one that is damaged, locked or of a newer version.

    EXAMPLES:
      confiture webhooks check
        ↳ Check what a migration here would use

      confiture webhooks check --explain migration_error --migration 007_billing
        ↳ Which endpoints are sent its failure, and why the others are not

    EXIT CODES:
      0  The configuration is valid.
      2  --explain names no event, or --migration or --environment is given without it.
      5  It is invalid, or there is neither an endpoint nor a hook file; every fault is printed.
    """
    if explained is None and (migration, environment) != (None, None):
        given = "--migration" if migration is not None else "--environment"
        raise typer.BadParameter("needs --explain with an event", param_hint=given)
    context = Context(config=config)
    settings, files, faults = context.whole_settings()
    faults += _of_a_run(settings)
    if faults:
        raise ConfigError([*dict.fromkeys(faults), *settings.warnings])
    document: dict[str, Any] = {
        **redacted(settings),
        "outbox_at": outbox_place(settings),
        "outbox_exists": outbox_exists(settings),
        "hook_files": [{"module": file.module, "file": file.shown} for file in files],
        "default_taken_over_by": next((file.shown for file in files if file.reads_url), None),
        "warnings": [
            *([f"{SWITCH}: is off, so nothing is sent. Unset it"] if is_off(os.environ) else []),
            *(str(one) for one in (context.two_databases, context.unread) if one),
            *(str(fault) for fault in (*settings.warnings, *settings.advice)),
        ],
    }
    if explained is not None:
        where = settings.environment if environment is None else environment
        document["explain"] = {
            "event": explained.value,
            "migration": migration,
            "environment": where,
            "endpoints": explain(settings.recorded, explained, where, migration),
        }
    conclude({"ok": True, **document}, partial(_show, document), output)


def _of_a_run(settings: Settings) -> list[Fault]:
    """What a run meets later: faults of telemetry and of ways, an outbox not to be had."""
    from ..adapters.http_way import way_to, wrong_file, wrong_proxy  # noqa: PLC0415

    faults = [*try_out(os.environ).faults]
    for one in settings.endpoints:
        if one.is_for(settings.environment):
            way = way_to(one.url, one.tls)
            for found in filter(None, (wrong_proxy(way), wrong_file(way))):
                is_shared = found.fault.setting in os.environ
                faults.append(found.fault if is_shared else replace(found.fault, endpoint=one.name))
    try:
        check_path(settings)
    except OutboxError as error:
        problem = error.problem.removeprefix("outbox ")
        faults.append(Fault(outbox_setting(os.environ), problem, error.remedy or OTHER))
    return faults


def _show(document: dict[str, Any]) -> None:
    if "explain" in document:
        words = {True: "sent", False: "not sent", None: "depends"}
        for one in document["explain"]["endpoints"]:
            line(f"{one['endpoint']}: {words[one['sent']]}. Why: {one['reason']}")
        return
    for endpoint in document["endpoints"]:
        print_facts(endpoint_facts(endpoint), title=endpoint["name"])
    for file in document["hook_files"]:
        line(f"hooks: {file['file']}")
    if taken := document["default_taken_over_by"]:
        unused = "the built-in endpoint `default` is not used, so that no event is sent twice"
        line(f"{taken} reads {URL} itself: {unused}")
    is_missing = "" if document["outbox_exists"] else " (not there yet)"
    line(
        f"environment: {shown_environment(document['environment'])}   "
        f"outbox: {document['outbox_at']}{is_missing}   "
        f"flush timeout: {document['flush_timeout_s']:g} s"
    )
    for text in document["warnings"]:
        line(f"⚠️  {text}", "yellow")
    line("✅ The configuration is valid", "green")


def endpoint_facts(endpoint: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting of a redacted *endpoint* but its name, as text."""
    found = {**endpoint, "timeout_s": length(timedelta(seconds=endpoint["timeout_s"]))}
    waits = [length(timedelta(seconds=wait)) for wait in endpoint["retry"]["schedule_s"]]
    spread = f"; each ± {endpoint['retry']['jitter']:.0%}"
    found["retry"] = f"after {', '.join(waits)}{spread}" if waits else "none: one attempt"
    found |= {key: "all" for key in ("environments", "migrations") if found[key] is None}
    return [(key.removesuffix("_s"), _shown(found[key])) for key in found if key != "name"]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def doctor(
    is_pinging: Annotated[
        bool, typer.Option("--ping", help="Also send a ping to every endpoint")
    ] = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Find the faults of this project's webhooks, each with its remedy.

    PROCESS:
      Checks the configuration, the hook files and whether the host shows its commands. For each
      endpoint it checks name resolution, connection, proxy, TLS, format and clock, and whether
      requests are signed. Then come the database, the outbox, the telemetry exporter and its
      collector. Receivers get a bare HEAD request, and a ping only with --ping.

    EXIT CODES:
      0  Nothing is wrong; there may be warnings.
      1  Something is wrong.
      5  The configuration is invalid, or nothing is configured.
    """
    context, rows = Context(config=config), []
    known = (context.invocation, context.dsn, context.unread, context.two_databases)
    for row in diagnose(*known, is_pinging=is_pinging):
        rows.append(row)
        mark, style = _MARKS[row.status]
        if output == "text":
            line(f"{mark} {row.check}: {row.detail}", style)
            if row.remedy is not None:
                line(f"   {row.remedy}")
    wrong = [row.check for row in rows if row.status is Health.PROBLEM]
    document = {"ok": not wrong, "checks": [asdict(row) for row in rows]}
    conclude(document, (), output, code=CONFIG_INVALID if "configuration" in wrong else FAILED)
