"""What a ``confiture migrate`` here would use: settings, hook files, database and outbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..adapters.hook_files import HookFile
from ..command_watch import is_off
from ..config import Settings, read
from ..config.file import BLOCK
from ..config.variables import CONFIG, DSN, OUTBOX, SWITCH, URL
from ..errors import Fault, OutboxError
from ..event import Database
from ..outlook import Standing, Wait, outlook
from ..run.invocation import Invocation, parse
from ..run.settling import Ask
from ..terminal import say
from ..watch import Source
from ..wiring import (
    blocks_here,
    found_settings,
    in_database,
    operators_outbox,
    outbox_place,
    two_databases,
    unread_block,
)
from .tables import fail, refuse, say_faults

if TYPE_CHECKING:
    from ..outbox import Outbox


_SET_DSN = f"Set {DSN}, or `database_url` in the environment file"


@dataclass(kw_only=True)
class Context:
    """The project of the current directory, as one command sees it: each part is read once.

    What is wrong with a part ends the command, with the host's exit code.
    """

    config: Path | None
    output: str
    is_sending: bool = False
    outbox: Outbox = field(init=False)

    @cached_property
    def invocation(self) -> Invocation:
        """What a ``confiture migrate up`` here would be asked for."""
        words = ["migrate", "up", *(["--config", str(self.config)] if self.config else [])]
        invocation = parse(words, os.environ)
        assert isinstance(invocation, Invocation)
        fault = None
        if self.is_sending and is_off(os.environ):
            fault = Fault(SWITCH, "switches webhooks off, so nothing is sent", "Unset it")
        elif invocation.missing is not None and self.config is not None:
            fault = Fault("--config", f"{self.config} is no file", "Check the path")
        elif self.config is not None and self.config.is_dir():
            fault = Fault("--config", f"{self.config} is a directory", "Name a file in it")
        if fault is not None:
            refuse([fault], self.output)
        return invocation

    @cached_property
    def unread(self) -> Fault | None:
        """That an environment's file has a block which this command does not read."""
        words = sys.argv[1:]  # those of ``python -m confiture_webhooks`` lack the group
        words = words if "webhooks" in words else ["webhooks", *words]
        return unread_block(os.environ, self.invocation, words)

    @property
    def two_databases(self) -> Fault | None:
        """That ``--config`` and a variable each name the database."""
        return two_databases(os.environ, self.invocation)

    @cached_property
    def dsn(self) -> str | None:
        """The database of a ``confiture migrate`` here; ``None``: none is named."""
        from ..adapters.database import project_dsn  # noqa: PLC0415

        return project_dsn(self.invocation.config_file, os.environ)

    @property
    def ask(self) -> Ask | None:
        """How to ask that database; ``None``: its address is not known, or cannot be read."""
        from ..adapters.ledger import Ledger  # noqa: PLC0415

        with suppress(Exception):
            return Ledger(self.dsn).ask if self.dsn is not None else None
        return None

    @property
    def database(self) -> Database:
        """That database, by its address."""
        from ..adapters.database import named  # noqa: PLC0415

        return named(self.dsn)

    @cached_property
    def settings(self) -> Settings:
        """The settings that a ``confiture migrate`` here would use.

        A fault of one endpoint costs that endpoint alone.
        """
        found = self._placed(read(os.environ, self.invocation.settings_file))
        outbox = found.outbox_fault and found.outbox_fault.setting
        decisive = {CONFIG, BLOCK, outbox, str(self.invocation.settings_file)}
        if faults := [fault for fault in found.faults if fault.setting in decisive]:
            refuse(faults, self.output)
        return found

    @property
    def sending_settings(self) -> Settings:
        """The settings, for a command that needs an endpoint."""
        if not self.settings.endpoints and self.settings.faults:
            refuse(self.settings.faults, self.output)
        if not self.settings.recorded:
            self._refuse_nothing()
        return self.settings

    def whole_settings(self) -> tuple[Settings, list[HookFile]]:
        """The settings and the hook files; any fault at all ends the command."""
        settings, files = found_settings(os.environ, self.invocation.settings_file)
        of_files = [file.fault for file in files if file.fault is not None]
        if faults := settings.faults or of_files:
            refuse(faults, self.output)
        if not (settings.recorded or files):
            self._refuse_nothing()
        return self._placed(settings), files

    def source(self) -> Source:
        """Where the settings come from, to be read again when its files change."""

        def again() -> tuple[Settings, Ask | None]:
            fresh = Context(config=self.config, output=self.output)
            settings = read(os.environ, fresh.invocation.settings_file)
            return fresh._placed(settings), fresh.ask

        given = self.invocation
        named = (given.settings_file, given.config_file, os.environ.get(CONFIG))
        return Source(tuple(dict.fromkeys(path for path in named if path)), again)

    def _placed(self, settings: Settings) -> Settings:
        return in_database(settings, lambda: self.dsn)

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

    def outbox_failed(self, error: OutboxError) -> NoReturn:
        """The outbox refused, or the environment file does not name its database."""
        from ..adapters.database import names_database  # noqa: PLC0415

        file, place = self.invocation.config_file, self.settings.place
        is_project = place.kind == "postgres" and place.rest in {"", self.dsn}
        if is_project and not names_database(file, os.environ):
            where = str(file) if file is not None else "outbox postgres"
            refuse([Fault(where, "names no database", _SET_DSN)], self.output)
        fail(str(error), self.output)

    def _refuse_nothing(self) -> NoReturn:
        """No endpoint is configured."""
        if self.unread is not None:
            refuse([self.unread], self.output)
        file = self.invocation.config_file or "the environment file"
        remedy = _other_blocks() or f"Set it, or write a `webhooks:` block into {file}"
        refuse([Fault(URL, "no endpoint is configured", remedy)], self.output)

    def refuse_name(self, setting: str, name: str, names: Collection[str]) -> NoReturn:
        """*name* is no endpoint, only *names* are."""
        one_of = f"One of: {', '.join(names)}" if names else _other_blocks() or "None is configured"
        refuse([Fault(setting, f"no endpoint is called {name!r}", one_of)], self.output)


@contextmanager
def opened(
    config: Path | None, output: str, *, creates: bool = False, is_sending: bool = False
) -> Iterator[Context]:
    """The project with its outbox; what the outbox refuses ends the command in a line.

    Reading needs no endpoint, no secret and no address, only what names the outbox. An outbox is
    created only if *creates*.
    """
    context = Context(config=config, output=output, is_sending=is_sending)
    settings = context.settings
    if context.two_databases is not None:
        say(str(context.two_databases))
    if context.unread is not None and not settings.recorded:
        if not os.environ.get(OUTBOX):
            refuse([context.unread], output)
        say_faults([context.unread])
    try:
        with closing(operators_outbox(settings, os.environ, creates=creates, notice=say)) as outbox:
            context.outbox = outbox
            yield context
    except OutboxError as error:
        context.outbox_failed(error)


def _other_blocks() -> str:
    """That other environment files have a block, if they have; no block is read here."""
    files = ", ".join(map(str, blocks_here()))
    return f"Add --config: a `webhooks:` block is in {files}" if files else ""
