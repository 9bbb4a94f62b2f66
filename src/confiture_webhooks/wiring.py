"""Wiring: the one place that picks the parts of a run, for the command and for the library."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .adapters.http import HttpTransport
from .command_watch import HOOKS
from .config import OutboxPlace, Settings, read
from .config.variables import OF_DEFAULT, outbox_setting
from .errors import OutboxError
from .outbox import LeftBehind, Outbox, postgres_schema, sqlite, sqlite_file
from .outbox.postgres_refusal import by_admin, init
from .outbox.postgres_session import ADDRESS
from .run import Loads, Parts

if TYPE_CHECKING:
    from .adapters.hook_files import HookFile
    from .telemetry import Telemetry


def found_settings(config_file: Path | None) -> tuple[Settings, list[HookFile]]:
    """The settings of a command as far as they are right, and its hook files. Raises nothing.

    A hook file that reads CONFITURE_WEBHOOK_URL itself sends to that address: the variable then
    makes no endpoint here, so that no event is sent there twice.
    """
    settings = read(os.environ, config_file)
    if not (settings.hooks or os.path.isdir(HOOKS)):  # noqa: PTH112  never raises
        return settings, []
    from .adapters.hook_files import find  # noqa: PLC0415  not for a run without hooks

    files = find(here(), settings.hooks)
    if any(file.reads_url for file in files):
        rest = {name: value for name, value in os.environ.items() if name not in OF_DEFAULT}
        settings = read(rest, config_file)
    return settings, files


def here() -> Path:
    """The current directory; where that was removed, one in which nothing is found or created."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.devnull)


def hook_sources(files: Sequence[HookFile]) -> Loads:
    """The modules that a run imports for its hooks, from *files*."""
    from .adapters.hook_files import forget, load  # noqa: PLC0415  not for a run without hooks

    forget()
    return {one.module: partial(load, one, here()) for one in files}


def sqlite_path(settings: Settings) -> Path:
    """Where the SQLite outbox of the project in the current directory lies."""
    given = settings.place.rest
    if not given:
        return sqlite_file.default_path(here(), os.environ)
    return Path(os.path.expanduser(given))  # noqa: PTH111  no shell expands it; never raises


def outbox_place(settings: Settings) -> str:
    """Where the outbox lies, for people: a whole path, or host and database; nothing secret."""
    if settings.place.kind == "sqlite":
        return f"sqlite:{sqlite_path(settings).absolute()}"
    return settings.place.shown


def left_in_file(settings: Settings) -> tuple[str, dict[str | None, LeftBehind]]:
    """The deliveries in a SQLite file of the project that is not the outbox; the setting for it.

    Raises OutboxError.
    """
    usual, place = sqlite_file.default_path(here(), os.environ), sqlite_file.place_of
    used = place(sqlite_path(settings)) if settings.place.kind == "sqlite" else ()
    paths = sqlite_file.default_paths(here(), os.environ)
    for path in paths:
        if place(path) != used and (left := sqlite.left_behind_in(path)):
            if path == paths[0] != usual:
                raise OutboxError(f"outbox {path}: what it holds waits until it can be written")
            return "sqlite" if path == usual else f"sqlite:{path}", left
    return "sqlite", {}


def outbox_exists(settings: Settings, *, is_asked: bool = False) -> bool:
    """Whether the outbox's file is there; of a database only if it *is_asked*. Makes none."""
    place = settings.place
    if place.kind == "sqlite":
        return sqlite_file.may_be_there(sqlite_path(settings))
    if not is_asked:
        return True
    if place.kind == "postgres" and place.rest:
        with suppress(OutboxError):  # one that cannot be asked has none
            return postgres_schema.is_there(place.rest)
    return False


def in_database(settings: Settings, find: Callable[[], str | None]) -> Settings:
    """*settings* whose PostgreSQL outbox, if it names no database, is in that of *find*."""
    dsn = find() if settings.place == OutboxPlace("postgres", "") else None
    return replace(settings, outbox=f"postgres:{dsn}") if dsn is not None else settings


def postgres_dsn(settings: Settings) -> str:
    """The database of the PostgreSQL outbox. Raises OutboxError when none is named."""
    if not (dsn := settings.place.rest):
        raise OutboxError(
            "outbox postgres: its database is not known",
            "Name one: `database_url` in the environment file, CONFITURE_DATABASE_URL without "
            "--config, or CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>",
        )
    return dsn


def make_outbox(
    settings: Settings,
    notice: Callable[[str], None],
    *,
    connects: bool = True,
    setting: str = ADDRESS,
) -> Outbox:
    """The outbox the settings name. Raises OutboxError when it cannot be opened.

    Without *connects* PostgreSQL is connected to when something is asked of it. *setting*: what
    names its database, for remedies.
    """
    if settings.place.kind == "postgres":
        from .outbox.postgres import PostgresOutbox  # noqa: PLC0415  not for a run on SQLite

        return PostgresOutbox(
            postgres_dsn(settings),
            connects=connects,
            environment=settings.environment,
            setting=setting,
        )
    if settings.place.kind == "memory":
        return sqlite.InMemoryOutbox()
    return sqlite.open_outbox(sqlite_path(settings), notice)


def init_by_admin(settings: Settings) -> str:
    """The remedy that an administrator creates the PostgreSQL outbox, and gives the role rights."""
    return by_admin(partial(init, postgres_dsn(settings), settings.environment))


def operators_outbox(
    settings: Settings, *, creates: bool = False, notice: Callable[[str], None] = lambda _: None
) -> Outbox:
    """The outbox that runs share, for a command of its own; nothing stands in for a broken one.

    One that does not exist yet is created if *creates*; otherwise *notice* gets a line, and an
    empty one stands in. Raises OutboxError.
    """
    if settings.outbox_fault is not None:
        raise OutboxError(settings.outbox_fault.what, settings.outbox_fault.remedy)
    if settings.place.kind == "memory":
        raise OutboxError(
            "outbox memory: it is gone with its run, so there is nothing to look at",
            "Set `outbox`, or CONFITURE_WEBHOOK_OUTBOX, to sqlite or postgres",
        )
    if settings.place.kind == "sqlite":
        path = sqlite_path(settings)
        if creates or sqlite_file.is_there(path):
            return sqlite.SqliteOutbox(path, follows=creates)
    elif creates or postgres_schema.is_there(postgres_dsn(settings)):
        outbox = make_outbox(settings, notice)
        try:
            outbox.check_role()
        except OutboxError:
            outbox.close()
            raise
        return outbox
    if settings.place.kind == "postgres" and not postgres_schema.may_make(postgres_dsn(settings)):
        missing = f"There is no outbox at {outbox_place(settings)}, and this role may not create it"
        notice(f"{missing}. {init_by_admin(settings)}")
        return sqlite.InMemoryOutbox()
    advice = "the first `confiture migrate up` that has an endpoint creates it"
    if settings.place.kind == "sqlite" and not settings.place.rest.startswith(("/", "~")):
        advice += ". If one has run, start the command in its directory, or set "
        advice += "CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>"
    notice(f"There is no outbox at {outbox_place(settings)}: {advice}")
    return sqlite.InMemoryOutbox()


def parts(
    settings: Settings,
    telemetry: Callable[[], Telemetry],
    database: Callable[[], str | None],
    say: Callable[[str], None],
) -> Parts:
    """The parts of a run with *settings*; *database* finds the migrated database's DSN."""

    def outbox(telemetry: Telemetry) -> Outbox:
        def report(text: str) -> None:
            """Say what became of an outbox that opens all the same."""
            telemetry.outbox_failed(text)
            if not settings.is_logged:
                say(f"confiture-webhooks: {text}")

        own = outbox_setting(os.environ) if settings.place.rest else ADDRESS
        return make_outbox(in_database(settings, database), report, connects=False, setting=own)

    return Parts(
        telemetry=telemetry,
        outbox=outbox,
        transport=HttpTransport,
        has_leftovers=lambda: outbox_exists(in_database(settings, database), is_asked=True),
    )


def exports() -> bool:
    """Whether telemetry of a command leaves the process."""
    from .telemetry.plan import plan  # noqa: PLC0415

    return bool(plan(os.environ).exports)


def make_telemetry(settings: Settings, *, is_library: bool = False) -> Telemetry:
    """Telemetry of a ``confiture`` command, which sets the SDK up, or of a block of Python."""
    from .telemetry import Telemetry  # noqa: PLC0415
    from .telemetry.providers import for_command, for_library  # noqa: PLC0415

    environment = settings.environment
    return Telemetry(
        for_library(os.environ) if is_library else for_command(os.environ, environment),
        is_library=is_library,
        environment=environment,
        endpoints=[endpoint.name for endpoint in settings.recorded],
        log=settings.log,
        log_level=settings.log_level,
        database_label=settings.database_label,
    )
