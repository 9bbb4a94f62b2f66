"""What a ``confiture migrate`` here would use: settings, hook files, database and outbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..adapters.hook_files import HookFile
from ..config import Settings
from ..config.variables import OFF_WORDS, SWITCH
from ..errors import ConfigError, Fault, OutboxError
from ..run.invocation import Invocation, parse
from ..run.settler import Ask
from ..wiring import command_settings, in_database, operators_outbox, settings_from, unread_block
from .output import fail, refuse, say

if TYPE_CHECKING:
    from ..outbox import Outbox, Row

SEARCHED = 10_000
"""Among so many of the newest the beginning of an id is looked for."""


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


@contextmanager
def opened(config: Path | None, output: str) -> Iterator[tuple[Settings, Outbox]]:
    """The settings and the outbox they name; whatever it refuses ends the command in a line."""
    settings = settings_of(config, output)
    try:
        outbox = operators_outbox(settings, os.environ, notice=say)
        try:
            yield settings, outbox
        finally:
            outbox.close()
    except OutboxError as error:
        fail(str(error), output)


def check_endpoint(settings: Settings, outbox: Outbox, name: str | None, output: str) -> None:
    """End the command unless *name* is an endpoint's, configured or only in the outbox."""
    names = [endpoint.name for endpoint in settings.endpoints]
    if name is None or name in names or outbox.deliveries(endpoint=name, limit=1):
        return
    known = f"One of: {', '.join(names)}"
    refuse([Fault("endpoint", f"no endpoint is called {name!r}", known)], output)


def rows_called(outbox: Outbox, given: str) -> list[Row]:
    """The delivery called *given*, or those whose ids begin so."""
    row = outbox.find(given)
    if row is not None:
        return [row]
    return [row for row in outbox.deliveries(limit=SEARCHED) if row.delivery.id.startswith(given)]


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
