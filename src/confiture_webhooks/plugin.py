"""The entry: ``confiture`` calls it on every command. Imports little, does nothing unconfigured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import command_watch
from .command_watch import ENVIRONMENTS

HELP = "Webhooks for migrations: check them, test them, see what was delivered"
NO_FILE = ("-d", "--database-url", "--no-config")
"""Options with which Confiture reads no environment file."""


class LazyGroup(TyperGroup):
    """The ``webhooks`` group, whose commands are imported only when one of them is meant."""

    def _load(self) -> None:
        if not self.commands:
            from .cli import app  # noqa: PLC0415

            self.commands.update(typer.main.get_group(app).commands)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  the base class calls it so
        """The names of the commands, in the order of their definition."""
        self._load()
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command called *cmd_name*, or ``None``."""
        self._load()
        return super().get_command(ctx, cmd_name)


def may_be_configured(arguments: list[str], environ: Mapping[str, str]) -> bool:
    """Whether webhooks may be wanted: cheap, imports nothing, wrong only on the yes side."""
    if command_watch.is_off(environ):
        return False
    # pathlib would be an import
    if command_watch.is_set_up(environ) or os.path.isdir(command_watch.HOOKS):  # noqa: PTH112
        return True
    words = [*arguments, environ.get("CONFITURE_ENVIRONMENT", "").strip()]
    values = {value for word in words for value in _values(word)}
    named = {path for value in values for path in (value, f"{ENVIRONMENTS}/{value}.yaml")}
    if environ.get("CONFITURE_DATABASE_URL") or any(word.startswith(NO_FILE) for word in arguments):
        with suppress(OSError):  # Confiture reads no file: any environment's may be meant
            named |= {f"{ENVIRONMENTS}/{name}" for name in os.listdir(ENVIRONMENTS)}  # noqa: PTH208
    named |= {command_watch.USUAL_FILE, command_watch.APPLY_AS_FILE}
    return any(map(command_watch.names_block, named))


def _values(word: str) -> set[str]:
    """The parts of *word* that may hold a value: ``FILE``, ``--config=FILE``, ``-cFILE``."""
    is_short = word.startswith("-") and not word.startswith("--")
    marks = "ce" if is_short else "="
    return {word, *(word.partition(mark)[2] for mark in marks)} - {""}


def _open(arguments: list[str]) -> command_watch.Finish | None:
    """Begin to observe a migrating command that has webhooks configured."""
    try:
        if not (command_watch.is_watched(arguments) and may_be_configured(arguments, os.environ)):
            return None
        from .session import open_session  # noqa: PLC0415

        session = open_session(arguments)
    except Exception as error:  # noqa: BLE001  whatever is wrong with us, the migration goes on
        _say("cannot start", error, "this run sends no webhooks, the migration goes on")
        return None
    return partial(_finish, session.finish) if session is not None else None


def _finish(finish: command_watch.Finish, failure: BaseException | None) -> None:
    try:
        finish(failure)
    except Exception as error:  # noqa: BLE001  the command has its result already
        _say("cannot end", error, "webhooks of this run may be missing")


def _say(what: str, error: Exception, consequence: str) -> None:
    # Only the missing module is shown of an error: other texts may hold settings.
    name = f" {error.name}" if isinstance(error, ImportError) and error.name else ""
    with suppress(Exception):  # this part may be the one that cannot be imported
        from .terminal import say  # noqa: PLC0415

        say(f"confiture-webhooks: {what} ({type(error).__name__}{name}); {consequence}")


def webhooks_app() -> typer.Typer:
    """The ``webhooks`` group; its commands are imported when one of them is meant."""
    group = typer.Typer(cls=LazyGroup, help=HELP, no_args_is_help=True)

    @group.callback(help=HELP)
    def webhooks(
        _: Annotated[  # noqa: FBT002  an option
            bool,
            typer.Option("--version", callback=_version, is_eager=True, help="Show the version"),
        ] = False,
    ) -> None:
        from .terminal import degrade  # noqa: PLC0415

        degrade()

    return group


def _version(is_asked: bool) -> None:  # noqa: FBT001  typer's callback
    if is_asked:
        from .transport import version  # noqa: PLC0415

        print(f"confiture-webhooks {version()}")
        raise typer.Exit


def register(app: typer.Typer) -> None:
    """The entry point of group ``confiture.plugins``: adds ``confiture webhooks`` and the watch."""
    if os.environ.get("OTEL_PYTHON_CONTEXT"):  # telemetry reports a wrong one without a traceback
        import logging  # noqa: PLC0415

        logging.getLogger("opentelemetry.context").addFilter(lambda one: "load" not in str(one.msg))
    app.add_typer(webhooks_app(), name="webhooks")
    current = app.info.cls
    base = current if isinstance(current, type) else getattr(current, "value", None)
    app.info.cls = command_watch.watching(base or TyperGroup, _open)
