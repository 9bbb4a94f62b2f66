"""``confiture webhooks check``: what a migration here would use, and who would be told what."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..config import redacted
from ..config.values import Invalid, event
from ..config.variables import OFF_WORDS, SWITCH
from ..event import EventType
from ..explain import Verdict, explain
from ..wiring import unread_block
from .endpoint import show_endpoints
from .options import ConfigOpt, FormatOpt, is_json
from .output import print_json
from .project import invocation_of, whole_settings_of
from .tables import print_block


def check(
    config: ConfigOpt = None,
    explained: Annotated[
        str | None,
        typer.Option("--explain", help="Say who would be told of this event, and why not"),
    ] = None,
    migration: Annotated[
        str | None,
        typer.Option("--migration", help="With --explain: of this one, as <version>_<name>"),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", help="With --explain: in this environment")
    ] = None,
    output: FormatOpt = "text",
) -> None:
    """Validate the configuration and show the endpoints, secrets and addresses hidden.

    PROCESS:
      Reads the environment, the file's `webhooks:` block and the hook files as
      `confiture migrate` would. Sends nothing, and runs nothing of the hook files.

    EXAMPLES:
      confiture webhooks check
        ↳ Check what a migration here would use

      confiture webhooks check --config db/environments/production.yaml
        ↳ Check another environment

      confiture webhooks check --explain migration_error --migration 007_billing
        ↳ Who would be told if that migration failed, and why not the others

    EXIT CODES:
      0  The configuration is valid.
      2  --explain names no event.
      5  It is not, or neither an endpoint nor a hook file is there; every fault is printed.
    """
    kind = _event(explained)
    as_json = is_json(output)
    settings, files = whole_settings_of(config, output)
    unread = unread_block(os.environ, invocation_of(config, output).config_file)
    is_off = os.environ.get(SWITCH, "").strip().lower() in OFF_WORDS
    document: dict[str, Any] = {
        **redacted(settings),
        "hook_files": [{"module": file.module, "file": file.shown} for file in files],
        "default_taken_over_by": next((file.shown for file in files if file.reads_url), None),
        "warnings": [
            *([f"{SWITCH}: is off, so nothing is sent. Unset it"] if is_off else []),
            *([str(unread)] if unread else []),
        ],
    }
    verdicts: list[Verdict] = []
    if kind is not None:
        where = settings.environment if environment is None else environment
        verdicts = explain(settings.endpoints, kind, where, migration)
        document["explain"] = {
            "event": kind.value,
            "migration": migration,
            "environment": where,
            "endpoints": [verdict.as_dict() for verdict in verdicts],
        }
    if as_json:
        print_json({"ok": True, **document})
        return
    console = Console(soft_wrap=True)
    if kind is not None:
        _show_verdicts(verdicts)
        return
    _show(console, document)
    console.print("[green]✅ The configuration is valid[/green]")


def _event(name: str | None) -> EventType | None:
    if name is None:
        return None
    try:
        return event(name)
    except Invalid as invalid:
        raise typer.BadParameter(
            f"{name!r} {invalid.problem}. {invalid.remedy}", param_hint="--explain"
        ) from None


def _show(console: Console, document: dict[str, Any]) -> None:
    show_endpoints(document["endpoints"])
    for file in document["hook_files"]:
        console.print(f"hooks: {escape(file['file'])}")
    if taken := document["default_taken_over_by"]:
        console.print(
            f"{escape(taken)} reads CONFITURE_WEBHOOK_URL itself: the built-in endpoint `default` "
            "stands down, so that nobody is told twice"
        )
    console.print(
        f"environment: {escape(str(document['environment'] or '(none)'))}   "
        f"outbox: {escape(document['outbox'])}   "
        f"flush timeout: {document['flush_timeout_s']:g} s"
    )
    for text in document["warnings"]:
        console.print(f"[yellow]⚠️  {escape(text)}[/yellow]")


def _show_verdicts(verdicts: list[Verdict]) -> None:
    words = {True: "told", False: "not told", None: "depends"}
    for verdict in verdicts:
        print_block(f"{verdict.endpoint}: {words[verdict.is_told]}", [("why", verdict.reason)])
