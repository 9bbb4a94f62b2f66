"""What a ``confiture migrate`` here would use: settings, hook files, database and outbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..adapters.hook_files import HookFile
from ..config import Settings, read
from ..config.reader import BLOCK
from ..config.variables import CONFIG, DSN, OUTBOX, SWITCH, is_off
from ..errors import ConfigError, Fault, OutboxError
from ..event import Database
from ..outlook import Standing, Wait, outlook
from ..run.invocation import Invocation, parse
from ..run.settling import Ask
from ..terminal import say
from ..watch import Source
from ..wiring import (
    blocks_here,
    command_settings,
    in_database,
    operators_outbox,
    outbox_place,
    unread_block,
)
from .tables import fail, refuse, say_faults

if TYPE_CHECKING:
    from ..outbox import Outbox


_SET_DSN = f"Set {DSN}, or `database_url` in the environment file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The project of the current directory, as one command sees it."""

    config: Path | None
    output: str
    settings: Settings
    outbox: Outbox

    @property
    def is_there(self) -> bool:
        """Whether there is an outbox; a command that reads creates none."""
        return self.outbox.is_durable

    @property
    def environment(self) -> str | None:
        """The environment of ``--config``."""
        return self.settings.environment or None

    @property
    def where(self) -> str:
        """Where the outbox lies, without what is secret."""
        return outbox_place(self.settings, os.environ)

    @property
    def names(self) -> list[str]:
        """The configured endpoints, those with a fault too."""
        return [endpoint.name for endpoint in self.settings.recorded]

    def outlook(
        self, undelivered: Mapping[str, int], standing: Mapping[str, Standing], now: datetime
    ) -> list[Wait]:
        """Which of *undelivered* wait, and why."""
        configured = self.settings.recorded
        return outlook(undelivered, configured=configured, standing=standing, now=now)


def words_given() -> list[str]:
    """The command line after ``confiture``; ``python -m confiture_webhooks`` has the same words."""
    words = sys.argv[1:]
    return words if "webhooks" in words else ["webhooks", *words]


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


def database_of(config: Path | None) -> Database:
    """The database of a ``confiture migrate`` here, without asking it."""
    from ..adapters.database import named, project_dsn  # noqa: PLC0415

    return named(project_dsn(_asked_for(config).config_file, os.environ))


def source_of(config: Path | None) -> Source:
    """Where the configuration comes from, to be read again when its files change."""

    def again() -> tuple[Settings, Ask | None]:
        invocation = _asked_for(config)
        settings = read(os.environ, invocation.settings_file)
        return _placed(settings, invocation), ask_of(config)

    invocation = _asked_for(config)
    named = (invocation.settings_file, invocation.config_file, os.environ.get(CONFIG))
    return Source(tuple(dict.fromkeys(path for path in named if path)), again)


def settings_of(
    config: Path | None, output: str, *, is_sending: bool = False, needs_endpoint: bool = True
) -> Settings:
    """The settings a ``confiture migrate`` here would use, or the end of the command.

    A fault of one endpoint costs that endpoint alone.
    """
    invocation = invocation_of(config, output, is_sending=is_sending)
    settings = read(os.environ, invocation.settings_file)
    where = {settings.outbox_fault and settings.outbox_fault.setting, str(invocation.settings_file)}
    if decisive := [fault for fault in settings.faults if fault.setting in {CONFIG, BLOCK, *where}]:
        refuse(decisive, output)
    if needs_endpoint and not settings.endpoints:
        if settings.faults:
            refuse(settings.faults, output)
        if not settings.recorded:
            refuse_nothing(invocation, output)
    return _placed(settings, invocation)


def _placed(settings: Settings, invocation: Invocation) -> Settings:
    """*settings* whose PostgreSQL outbox names its database."""
    if settings.place.kind != "postgres":
        return settings
    from ..adapters.database import project_dsn  # noqa: PLC0415

    return in_database(settings, project_dsn(invocation.config_file, os.environ))


def whole_settings_of(config: Path | None, output: str) -> tuple[Settings, list[HookFile]]:
    """The same with the hook files, any fault of which ends the command too."""
    invocation = invocation_of(config, output)
    try:
        settings, files = command_settings(os.environ, invocation.settings_file)
    except ConfigError as error:
        refuse(error.faults, output)
    if faults := [file.fault for file in files if file.fault is not None]:
        refuse(faults, output)
    if not (settings.recorded or files):
        refuse_nothing(invocation, output)
    return _placed(settings, invocation), files


def invocation_of(config: Path | None, output: str, *, is_sending: bool = False) -> Invocation:
    """What a ``confiture migrate up`` here would be asked for, or the end of the command."""
    invocation = _asked_for(config)
    if is_sending and is_off(os.environ):
        refuse([Fault(SWITCH, "switches webhooks off, so nothing is sent", "Unset it")], output)
    if config is not None and config.is_dir():
        refuse([Fault("--config", f"{config} is a directory", "Name a file in it")], output)
    if config is not None and not config.exists():
        refuse([Fault("--config", f"{config} is no file", "Check the path")], output)
    return invocation


@contextmanager
def opened(config: Path | None, output: str, *, creates: bool = False) -> Iterator[Context]:
    """The settings and the outbox they name; what the outbox refuses ends the command in a line.

    Reading needs no endpoint, no secret and no address, only what names the outbox. An outbox is
    created only if *creates*.
    """
    settings = settings_of(config, output, needs_endpoint=False)
    if not settings.recorded and (
        fault := unread_block(os.environ, _asked_for(config), words_given())
    ):
        if not os.environ.get(OUTBOX):
            refuse([fault], output)
        say_faults([fault])
    try:
        with closing(operators_outbox(settings, os.environ, creates=creates, notice=say)) as outbox:
            yield Context(config=config, output=output, settings=settings, outbox=outbox)
    except OutboxError as error:
        outbox_failed(error, settings, config, output)


def outbox_failed(
    error: OutboxError, settings: Settings, config: Path | None, output: str
) -> NoReturn:
    """End the command: the outbox refused, or the environment file does not name its database."""
    from ..adapters.database import names_database, project_dsn  # noqa: PLC0415

    file = _asked_for(config).config_file
    dsn = project_dsn(file, os.environ)
    is_project = settings.place.kind == "postgres" and settings.place.rest in {"", dsn}
    if is_project and not names_database(file, os.environ):
        where = str(file) if file is not None else "outbox postgres"
        refuse([Fault(where, "names no database", _SET_DSN)], output)
    fail(str(error), output)


def refuse_nothing(invocation: Invocation, output: str) -> NoReturn:
    """End the command: no endpoint is configured."""
    if fault := unread_block(os.environ, invocation, words_given()):
        refuse([fault], output)
    file = invocation.config_file or "the environment file"
    remedy = _other_blocks() or f"Set it, or write a `webhooks:` block into {file}"
    refuse([Fault("CONFITURE_WEBHOOK_URL", "no endpoint is configured", remedy)], output)


def refuse_name(setting: str, name: str, names: Collection[str], output: str) -> NoReturn:
    """End the command: *name* is no endpoint, only *names* are."""
    one_of = f"One of: {', '.join(names)}" if names else _other_blocks() or "None is configured"
    refuse([Fault(setting, f"no endpoint is called {name!r}", one_of)], output)


def _other_blocks() -> str:
    """That other environment files have a block, if they have; no block is read here."""
    files = ", ".join(map(str, blocks_here()))
    return f"Add --config: a `webhooks:` block is in {files}" if files else ""
