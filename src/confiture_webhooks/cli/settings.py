"""What the commands share: their options, the settings they use, and how they refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ..adapters.hook_files import HookFile
from ..config import Settings
from ..config.variables import OFF_WORDS, SWITCH
from ..errors import ConfigError, Fault
from ..event import rfc3339
from ..outbox import Intent
from ..run.invocation import Invocation, parse
from ..run.settler import LONGEST_QUESTION_S, Ask, examine
from ..settlement import Ending
from ..wiring import command_settings, in_database, settings_from, unread_block

FAILED = 1
CONFIG_INVALID = 5
"""The host's exit code of an invalid configuration."""

ConfigOpt = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file (default: db/environments/local.yaml)"),
]
FORMATS = ("text", "json")


def _known_format(output: str) -> str:
    if output not in FORMATS:
        raise typer.BadParameter(f"{output!r} is not one of: {', '.join(FORMATS)}")
    return output


FormatOpt = Annotated[
    str,
    typer.Option(
        "--format",
        metavar=f"<{'|'.join(FORMATS)}>",
        callback=_known_format,
        help="Output format: text or json",
    ),
]


def is_json(output: str) -> bool:
    """Whether *output* asks for JSON."""
    return output == "json"


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2))


def _asked_for(config: Path | None) -> Invocation:
    words = ["migrate", "up", *(["--config", str(config)] if config else [])]
    invocation = parse(words, os.environ)
    assert isinstance(invocation, Invocation)
    return invocation


def ask_of(config: Path | None) -> Ask | None:
    """How to ask the database of a ``confiture migrate`` here; ``None``: none is named."""
    from ..adapters.database import project_dsn  # noqa: PLC0415
    from ..adapters.ledger import Ledger  # noqa: PLC0415

    try:
        dsn = project_dsn(_asked_for(config).config_file, os.environ)
        return Ledger(dsn).ask if dsn is not None else None
    except Exception:  # noqa: BLE001  an address that libpq cannot read
        return None


def unsettled_rows(intents: Sequence[Intent], config: Path | None) -> list[dict[str, str]]:
    """Which migrations' ends are not told yet, since when, and why; not those under way."""
    judged = examine(intents, ask_of(config) if intents else None, LONGEST_QUESTION_S)
    return [
        {
            "event_id": intent.event_id,
            "migration": intent.migration.name,
            "direction": intent.direction.value,
            "since": rfc3339(intent.staged_at),
            "why": f"{verdict.reason}; the next run tells it"
            if verdict.is_settled
            else verdict.reason,
        }
        for intent, verdict in judged
        if verdict.ending is not Ending.OPEN
    ]


def settings_of(
    config: Path | None, output: str, *, is_sending: bool = False, needs_endpoint: bool = True
) -> Settings:
    """The settings a ``confiture migrate`` here would use, or the end of the command."""
    invocation = invocation_of(config, output, is_sending=is_sending)
    try:
        settings = settings_from(os.environ, invocation.config_file)
    except ConfigError as error:
        refuse(error.faults, output)
    if needs_endpoint and not settings.endpoints:
        _refuse_nothing(invocation, output)
    if settings.outbox != "postgres":
        return settings
    from ..adapters.database import project_dsn  # noqa: PLC0415

    return in_database(settings, project_dsn(invocation.config_file, os.environ))


def whole_settings_of(config: Path | None, output: str) -> tuple[Settings, list[HookFile]]:
    """The same with the hook files, any fault of which ends the command too."""
    invocation = invocation_of(config, output)
    try:
        settings, files = command_settings(os.environ, invocation.config_file)
    except ConfigError as error:
        refuse(error.faults, output)
    if faults := [file.fault for file in files if file.fault is not None]:
        refuse(faults, output)
    if not (settings.endpoints or files):
        _refuse_nothing(invocation, output)
    return settings, files


def invocation_of(config: Path | None, output: str, *, is_sending: bool = False) -> Invocation:
    """What a ``confiture migrate up`` here would be asked for, or the end of the command."""
    invocation = _asked_for(config)
    if is_sending and os.environ.get(SWITCH, "").strip().lower() in OFF_WORDS:
        refuse([Fault(SWITCH, "switches webhooks off, so nothing is sent", "Unset it")], output)
    if config is not None and not config.exists():
        refuse([Fault("--config", "there is no such file", "Check the path")], output)
    return invocation


def _refuse_nothing(invocation: Invocation, output: str) -> NoReturn:
    if fault := unread_block(os.environ, invocation.config_file):
        refuse([fault], output)
    refuse(
        [
            Fault(
                "CONFITURE_WEBHOOK_URL",
                "no endpoint is configured",
                "Set it, or write a `webhooks:` block into "
                f"{invocation.config_file or 'the environment file'}",
            )
        ],
        output,
    )


def refuse(faults: Any, output: str) -> NoReturn:
    """Print every fault, on stderr or as JSON, and end with the host's exit code for them."""
    if is_json(output):
        print_json(
            {
                "ok": False,
                "faults": [
                    {"setting": f.setting, "problem": f.problem, "remedy": f.remedy} for f in faults
                ],
            }
        )
    else:
        console = Console(stderr=True, soft_wrap=True)
        for fault in faults:
            console.print(f"[red]❌ {escape(fault.setting)}[/red]: {escape(fault.problem)}")
            console.print(f"   {escape(fault.remedy)}")
    raise typer.Exit(CONFIG_INVALID)
