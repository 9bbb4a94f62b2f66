"""The parts a ``confiture migrate`` here would use: settings, hook files, database, outbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from ..adapters.backend import address_setting, named, names_database, project_dsn
from ..adapters.hook_files import HookFile
from ..adapters.ledger import Ledger
from ..command_watch import is_off
from ..config import Settings, read
from ..config.file import BLOCK
from ..config.variables import CONFIG, DSN, OUTBOX, SWITCH, URL, outbox_setting
from ..errors import ConfigError, Fault, OutboxError
from ..event import Database
from ..outbox import Outbox
from ..outbox.postgres_refusal import placed
from ..outlook import Wait, outlook
from ..remedy import usual_file
from ..run.invocation import Invocation, blocks_here, parse, unread_block
from ..run.settling import Ask
from ..terminal import say
from ..watch import Configuration, Source
from ..wiring import found_settings, in_database, operators_outbox, outbox_place
from .tables import say_faults


@dataclass(kw_only=True)
class Context:
    """The project of the current directory, as one command sees it. Each part is read once.

    A fault of a part is raised as ConfigError.
    """

    config: Path | None
    is_sending: bool = False
    outbox: Outbox = field(init=False)
    """Only a context that ``opened`` made has it."""

    @cached_property
    def invocation(self) -> Invocation:
        """The command line of a ``confiture migrate up`` here."""
        words = ["migrate", "up", *([f"--config={self.config}"] if self.config else [])]
        invocation = parse(words, os.environ)
        assert invocation is not None
        if self.is_sending and is_off(os.environ):
            raise refusal(SWITCH, "switches webhooks off, so nothing is sent", "Unset it")
        if self.config is not None and (invocation.missing or self.config.is_dir()):
            meant = usual_file(self.config.stem)
            remedy = f"Write {meant}" if meant and meant.is_file() else "Check the path"
            raise refusal("--config", f"{self.config} is no file", remedy)
        return invocation

    @cached_property
    def unread(self) -> Fault | None:
        """The fault that an environment's file has a block which this command does not read."""
        words = sys.argv[1:]  # those of ``python -m confiture_webhooks`` lack the group
        words = words if "webhooks" in words else ["webhooks", *words]
        return unread_block(os.environ, self.invocation, words)

    @property
    def two_databases(self) -> Fault | None:
        """The fault that ``--config`` and a variable each name the database; which one is used.

        Confiture refuses the two: its CONFIG_007.
        """
        file = self.invocation.config_file
        if file is None or not os.environ.get(DSN):
            return None
        used = f"the database of {file}" if names_database(file, {}) else "the variable's database"
        problem = "is set and --config is given: `confiture migrate up` refuses the two together. "
        problem += f"Commands of webhooks use {used}"
        return Fault(DSN, problem, "Unset the variable, or leave --config out")

    @cached_property
    def dsn(self) -> str | None:
        """The database of a ``confiture migrate`` here; ``None``: none is named."""
        return project_dsn(self.invocation.config_file, os.environ)

    @property
    def ask(self) -> Ask | None:
        """How to ask that database; ``None``: its address is not known."""
        return Ledger(self.dsn).ask if self.dsn is not None else None

    @property
    def database(self) -> Database:
        return named(self.dsn)

    @cached_property
    def settings(self) -> Settings:
        """The settings that a ``confiture migrate`` here would use.

        A fault of one endpoint costs that endpoint alone.
        """
        found = self._read()
        outbox = found.outbox_fault and found.outbox_fault.setting
        decisive = {CONFIG, BLOCK, outbox, str(self.invocation.settings_file)}
        if faults := [fault for fault in found.faults if fault.setting in decisive]:
            raise ConfigError(faults)
        return found

    def _read(self) -> Settings:
        return in_database(read(os.environ, self.invocation.settings_file), lambda: self.dsn)

    @property
    def sending_settings(self) -> Settings:
        """The settings, for a command that needs an endpoint."""
        if not self.settings.endpoints and self.settings.faults:
            raise ConfigError(self.settings.faults)
        if not self.settings.recorded:
            raise self._nothing_configured()
        return self.settings

    def whole_settings(self) -> tuple[Settings, list[HookFile], list[Fault]]:
        """The settings, the hook files, and every fault of both. ConfigError: there is neither."""
        settings, files = found_settings(self.invocation.settings_file)
        of_files = [file.fault for file in files if file.fault is not None]
        if not (settings.faults or settings.recorded or files):
            raise self._nothing_configured()
        return in_database(settings, lambda: self.dsn), files, [*settings.faults, *of_files]

    def source(self) -> Source:
        """Where the settings come from, to be read again when its files change."""

        def again() -> Configuration:
            fresh = Context(config=self.config)
            return Configuration(fresh._read(), fresh.ask, fresh.database)

        given = self.invocation
        named = (given.settings_file, given.config_file, os.environ.get(CONFIG))
        return Source(tuple(dict.fromkeys(path for path in named if path)), again)

    @property
    def environment(self) -> str | None:
        """The environment of ``--config``."""
        return self.settings.environment

    def waits(self, counts: Mapping[str, int]) -> list[Wait]:
        """The endpoints of so many deliveries each, of its environment, that get nothing now."""
        recorded, statuses = self.settings.recorded, self.outbox.statuses(self.environment)
        return outlook(counts, configured=recorded, statuses=statuses, now=datetime.now(UTC))

    @property
    def where(self) -> str:
        """Where the outbox lies, without what is secret."""
        return outbox_place(self.settings)

    def explained(self, error: OutboxError) -> OutboxError | ConfigError:
        """*error* with the setting that names its database, or that the file does not name it."""
        file, place = self.invocation.config_file, self.settings.place
        if place.kind != "postgres":
            return error
        is_project = place.rest in {"", self.dsn}
        if not is_project or names_database(file, os.environ):
            named_by = address_setting(file, os.environ)
            setting = named_by if is_project else outbox_setting(os.environ)
            return OutboxError(error.problem, error.remedy and placed(error.remedy, setting))
        remedy = f"Set {DSN}, or `database_url` in the environment file"
        return refusal(str(file or "outbox postgres"), "names no database", remedy)

    def unknown_endpoint(self, name: str, removed: Iterable[str] = ()) -> ConfigError:
        """The error that *name* is no endpoint's, nor one of the *removed*."""
        names = ", ".join([*(endpoint.name for endpoint in self.settings.recorded), *removed])
        remedy = f"One of: {names}" if names else self._other_blocks() or "None is configured"
        return refusal("endpoint", f"none is called {name!r}", remedy)

    def _nothing_configured(self) -> ConfigError:
        if self.unread is not None:
            return ConfigError([self.unread])
        file = os.environ.get(CONFIG) or self.invocation.config_file or "the environment file"
        block = f"Set it, or write an endpoint into the `webhooks:` block of {file}"
        remedy = self._other_blocks() or block
        nothing = Fault(URL, "no endpoint is configured", remedy)
        return ConfigError([nothing, *self.settings.warnings])  # a slip in its name may be why

    def _other_blocks(self) -> str:
        """Says which other environment files have a block, if --config would have them read."""
        used = self.invocation.settings_file
        files = [str(one) for one in blocks_here() if not used or one.resolve() != used.resolve()]
        there = f"Name with --config a file that has a `webhooks:` block: {', '.join(files)}"
        return there if files and not os.environ.get(CONFIG) else ""


@contextmanager
def opened(
    config: Path | None, *, creates: bool = False, is_sending: bool = False
) -> Iterator[Context]:
    """The project with its outbox.

    Reading needs no endpoint, no secret and no address, only what names the outbox. An outbox is
    created only if *creates*. Raises ConfigError and OutboxError.
    """
    context = Context(config=config, is_sending=is_sending)
    settings = context.settings
    if context.two_databases is not None:
        say(str(context.two_databases))
    if context.unread is not None and not settings.recorded:
        if not os.environ.get(OUTBOX):
            raise ConfigError([context.unread])
        say_faults([context.unread])
    try:
        with closing(operators_outbox(settings, creates=creates, notice=say)) as outbox:
            context.outbox = outbox
            yield context
    except OutboxError as error:
        raise context.explained(error) from error


def refusal(setting: str, problem: str, remedy: str) -> ConfigError:
    """One fault, to be raised."""
    return ConfigError([Fault(setting, problem, remedy)])
