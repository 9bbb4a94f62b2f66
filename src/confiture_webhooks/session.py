"""Wiring: the one place that picks the parts of a run, for the command and for the library."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import stderr
from .config import Settings, is_configured, load
from .errors import ConfigError, OutboxError
from .invocation import HOOKS, Invocation, parse
from .outgoing import TELEMETRY_BUDGET, Parts
from .run import Run
from .variables import ALLOW_HTTP, SECRET, URL

if TYPE_CHECKING:
    from .adapters.hook_files import HookFile
    from .hook_runner import HookRunner, Send
    from .outbox import Outbox
    from .telemetry import Telemetry
    from .transport import Transport

HOST = "fraiseql-confiture"
OF_DEFAULT = frozenset({URL, SECRET, ALLOW_HTTP})
"""What makes the endpoint that variables alone make."""


def user_agent() -> str:
    """``Confiture/<host version> confiture-webhooks/<version>``."""
    return f"Confiture/{_version(HOST)} confiture-webhooks/{_version('confiture-webhooks')}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def settings_from(environ: Mapping[str, str], config_file: Path | None) -> Settings:
    """The settings, if this version can do what they ask. Raises ConfigError with every fault."""
    return load(environ, config_file)


def command_settings(
    environ: Mapping[str, str], config_file: Path | None
) -> tuple[Settings, list[HookFile]]:
    """The settings of a command, and its hook files. Raises ConfigError with every fault.

    A hook file that reads CONFITURE_WEBHOOK_URL itself tells that address: the variable then
    makes no endpoint here, so that nobody is told twice.
    """
    from .adapters.hook_files import find  # noqa: PLC0415

    project = Path.cwd()
    files = find(project)
    if not any(file.reads_url for file in files):
        settings = settings_from(environ, config_file)
        files = find(project, settings.hooks)
        if not any(file.reads_url for file in files):
            return settings, files
    rest = {name: value for name, value in environ.items() if name not in OF_DEFAULT}
    settings = settings_from(rest, config_file)
    return settings, find(project, settings.hooks)


def make_hooks(settings: Settings, files: Sequence[HookFile]) -> Callable[..., HookRunner] | None:
    """What makes a run's hooks of *files*; ``None`` when there are none."""
    if not files:
        return None

    def hooks(telemetry: Telemetry, send: Send) -> HookRunner:
        from .adapters.hook_files import forget, load  # noqa: PLC0415
        from .hook_runner import HookRunner, HookSource  # noqa: PLC0415

        project = Path.cwd()
        forget()
        sources = [
            HookSource(module=file.module, load=partial(load, file, project)) for file in files
        ]
        return HookRunner(sources, telemetry, send, timeout=settings.hook_timeout, say=_say)

    return hooks


def _say(text: str) -> None:
    stderr.write(f"{text}\n")


def make_transport() -> Transport:
    """The HTTP transport."""
    from .adapters.http import HttpTransport  # noqa: PLC0415

    return HttpTransport()


def spare_outbox() -> Outbox:
    """An outbox in memory."""
    from .adapters.memory import InMemoryOutbox  # noqa: PLC0415

    return InMemoryOutbox()


def sqlite_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where the SQLite outbox of the project in the current directory lies."""
    from .adapters.sqlite import default_path  # noqa: PLC0415

    given = settings.outbox.partition(":")[2]
    return Path(given) if given else default_path(Path.cwd(), environ)


def in_database(settings: Settings, dsn: str | None) -> Settings:
    """*settings* whose PostgreSQL outbox, if no other database is named, is in that of *dsn*."""
    is_open = dsn is not None and settings.outbox == "postgres"
    return replace(settings, outbox=f"postgres:{dsn}") if is_open else settings


def postgres_dsn(settings: Settings) -> str:
    """The database of the PostgreSQL outbox. Raises OutboxError when none is named."""
    dsn = settings.outbox.partition(":")[2]
    if not dsn:
        raise OutboxError(
            "outbox postgres: no database is named. Set `database_url` in the environment file, "
            "CONFITURE_DATABASE_URL, or CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>"
        )
    return dsn


def make_outbox(
    settings: Settings, environ: Mapping[str, str], notice: Callable[[str], None]
) -> Outbox:
    """The outbox the settings name. Raises OutboxError when it cannot be opened."""
    if settings.outbox == "memory":
        return spare_outbox()
    if settings.outbox.startswith("postgres"):
        from .adapters.pgmq import PgmqOutbox  # noqa: PLC0415

        return PgmqOutbox(postgres_dsn(settings))
    from .adapters.sqlite import open_outbox  # noqa: PLC0415

    outbox, notices = open_outbox(sqlite_path(settings, environ))
    for text in notices:
        notice(text)
    return outbox


def operators_outbox(
    settings: Settings, environ: Mapping[str, str], *, makes: bool = False
) -> Outbox:
    """The outbox that runs share, for a command of its own; nothing stands in for a broken one.

    One that does not exist yet is made if *makes*, and is empty otherwise. Raises OutboxError.
    """
    if settings.outbox == "memory":
        raise OutboxError("outbox memory: it is gone with its run, so there is nothing to look at")
    if not settings.outbox.startswith("sqlite"):
        return make_outbox(settings, environ, lambda _: None)
    from .adapters.sqlite import SqliteOutbox  # noqa: PLC0415

    path = sqlite_path(settings, environ)
    return SqliteOutbox(path) if makes or path.exists() else spare_outbox()


def parts(
    settings: Settings,
    environ: Mapping[str, str],
    telemetry: Callable[[], Telemetry],
    database: Callable[[], str | None] = lambda: None,
    hooks: Callable[..., HookRunner] | None = None,
) -> Parts:
    """What a run with *settings* is put together from; *database* is the migrated one's DSN."""
    return Parts(
        telemetry=telemetry,
        outbox=lambda made: make_outbox(
            in_database(settings, database()), environ, made.outbox_failed
        ),
        spare_outbox=spare_outbox,
        transport=make_transport,
        user_agent=user_agent(),
        hooks=hooks,
        has_leftovers=lambda: _has_outbox(in_database(settings, database()), environ),
    )


def _has_outbox(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether there is an outbox already. Makes none."""
    kind, _, dsn = settings.outbox.partition(":")
    if kind == "postgres":
        from .adapters.pgmq import has_outbox  # noqa: PLC0415

        return bool(dsn) and has_outbox(dsn)
    return kind == "sqlite" and sqlite_path(settings, environ).exists()


def command_telemetry(settings: Settings, environ: Mapping[str, str]) -> Telemetry:
    """Telemetry of a ``confiture`` command: it sets the SDK up when an exporter is configured."""
    from .telemetry import Telemetry  # noqa: PLC0415

    return Telemetry.for_command(
        environ=environ,
        environment=settings.environment,
        endpoints=[endpoint.name for endpoint in settings.endpoints],
        log=settings.log,
        log_level=settings.log_level,
    )


def consult(run: Run, connection: Any) -> None:
    """Have *run* ask the database of *connection* how the migrations of killed runs ended."""
    try:
        from .adapters.ledger import Ledger  # noqa: PLC0415

        run.consult(Ledger.beside(connection).ask)
    except Exception as error:  # noqa: BLE001  ours to swallow: the migration comes first
        run.report("reading the database's address", error)


class CommandSession:
    """One ``confiture migrate …`` command under observation."""

    def __init__(self, run: Run, invocation: Invocation) -> None:
        self._run = run
        self._invocation = invocation
        self._engine: Any = None
        self._connections: list[Any] = []
        """Held, not only known by id: an id is given again once its connection is gone."""
        self._restore: Callable[[], None] = lambda: None
        self.database: str | None = None
        """The DSN of what is migrated, once it is known."""

    def install(self) -> None:
        """Take the host's seams for embedders. What others put there before stays underneath."""
        from confiture.core._migrator.session import MigratorSession  # noqa: PLC0415

        seams = ("default_engine", "default_lock", "default_migration_loader")
        before = {name: vars(MigratorSession)[name] for name in seams}
        make_engine, make_lock, load_migration = (getattr(MigratorSession, name) for name in seams)

        def engine(*args: Any, **kwargs: Any) -> Any:
            made = make_engine(*args, **kwargs)
            self._watch(made)
            return made

        def lock(connection: Any, config: Any) -> Any:
            command = getattr(config, "command", None)
            if command and not self._invocation.is_rehearsal:
                self._connections.append(connection)
                self._note_database(connection)
                self._run.begin(command)
                consult(self._run, connection)
            return make_lock(connection, config)

        def loader(path: Path) -> Any:
            try:
                return load_migration(path)
            except Exception as error:
                self._tell_unloadable(path, error)
                raise

        def restore() -> None:
            for name, value in before.items():
                setattr(MigratorSession, name, value)

        MigratorSession.default_engine = staticmethod(engine)
        MigratorSession.default_lock = staticmethod(lock)
        MigratorSession.default_migration_loader = staticmethod(loader)
        self._restore = restore

    def _note_database(self, connection: Any) -> None:
        """Keep the address while the connection tells it: the outbox may be there."""
        from .adapters.database import dsn_of  # noqa: PLC0415

        try:
            self.database = self.database or dsn_of(connection)
        except Exception as error:  # noqa: BLE001  ours to swallow: the migration comes first
            self._run.report("reading the database's address", error)

    def _watch(self, engine: Any) -> None:
        from .adapters.confiture import observe, observe_resume  # noqa: PLC0415

        try:
            self._engine = engine
            observe(engine, self._run, self._is_active)
            if self._invocation.resumes:
                self._connections.append(engine.connection)
                self._note_database(engine.connection)
                self._run.begin("confiture migrate steps")
                consult(self._run, engine.connection)
                observe_resume(engine, self._run, self._invocation)
        except Exception as error:  # noqa: BLE001  ours to swallow: the migration comes first
            self._run.report("observing the engine", error)

    def _tell_unloadable(self, path: Path, error: Exception) -> None:
        """A migration file that cannot be loaded is a migration that failed."""
        from .adapters.confiture import tell_unloadable  # noqa: PLC0415

        try:
            if self._engine is not None and self._is_active(self._engine):
                direction = self._invocation.direction
                tell_unloadable(self._engine, self._run, path, direction, error)
        except Exception as fault:  # noqa: BLE001  ours to swallow: the migration comes first
            self._run.report("recording a migration", fault)

    def _is_active(self, engine: Any) -> bool:
        """Whether *engine* belongs to the session that took the lock in a command's name.

        Replays into scratch databases take it in nobody's name.
        """
        return any(engine.connection is known for known in self._connections)

    def finish(self, error: BaseException | None) -> None:
        """The command is over, its output written."""
        with suppress(Exception):  # its result is not lost if the process is killed from here on
            sys.stdout.flush()
        self._restore()
        if not self._connections:
            return  # nothing was migrated, nor meant to be: left-overs wait for a real run
        error_type = None
        try:
            error_type = _error_type(error)
            self._explain_unsettled(error)
        except Exception as fault:  # noqa: BLE001  ours to swallow: the migration comes first
            self._run.report("ending a run", fault)
        self._run.finish(error_type)

    def _explain_unsettled(self, error: BaseException | None) -> None:
        from .adapters.failure import explain  # noqa: PLC0415

        if error is not None:
            for migration in self._run.unsettled:
                migration.error = migration.error or explain(error)


def _error_type(error: BaseException | None) -> str | None:
    """Why a command failed: the class of what it ended with; ``None`` for exit code 0."""
    if error is None:
        return None
    code = getattr(error, "exit_code", getattr(error, "code", 1))
    if code in (0, None):
        return None
    cause = error.__cause__ or error.__context__ or error
    return type(cause).__name__ if cause is not error else f"exit_{code}"


NEEDED = ("telemetry", "outgoing", "adapters.sqlite", "adapters.http_session")


def preload() -> None:
    """Import what a run will need, while the host connects and plans."""
    with suppress(Exception):  # the run will meet the same fault, and tell it
        for name in NEEDED:
            import_module(f".{name}", __package__)
        from .telemetry.plan import plan  # noqa: PLC0415

        if plan(os.environ).exports:
            import_module(".telemetry.setup", __package__)


def open_session(arguments: list[str]) -> CommandSession | None:
    """A session for the command line *arguments*, or ``None`` when nothing is configured for it.

    Faults of the configuration are said aloud; the command then runs without webhooks.
    """
    invocation = parse(arguments, os.environ)
    if invocation is None:
        return None
    # A secret without an address is a slip worth telling.
    is_meant = is_configured(os.environ, invocation.config_file) or bool(os.environ.get(SECRET))
    if not (is_meant or HOOKS.is_dir()):
        return None
    try:
        settings, files = command_settings(os.environ, invocation.config_file)
    except ConfigError as error:
        _say_faults(error)
        return None
    if not (settings.endpoints or files):
        return None

    def database() -> str | None:
        return session.database

    hooks = make_hooks(settings, files)
    telemetry = partial(command_telemetry, settings, os.environ)
    made = replace(
        parts(settings, os.environ, telemetry, database, hooks),
        shows_progress=True,
    )
    if not invocation.is_rehearsal:
        threading.Thread(target=preload, name="webhooks-preload", daemon=True).start()
    session = CommandSession(Run(settings, made), invocation)
    session.install()
    return session


def _say_faults(error: ConfigError) -> None:
    """Every fault, on stderr and as one log event."""
    lines = ["confiture-webhooks: the configuration is wrong; no webhook is sent:"]
    lines += [f"  {fault}" for fault in error.faults]
    stderr.write("".join(f"{line}\n" for line in lines))
    from .telemetry import Telemetry  # noqa: PLC0415

    telemetry = Telemetry.for_command(
        environ=os.environ, environment=None, endpoints=(), log=None, log_level=None
    )
    telemetry.config_invalid(error.faults)
    telemetry.shutdown(TELEMETRY_BUDGET)


@contextmanager
def attach(
    session: Any,
    settings: Settings | None = None,
    *,
    config_file: Path | str | None = None,
    command: str = "confiture migrate",
) -> Iterator[Run]:
    """Tell webhooks what *session* (an entered MigratorSession, or an engine) does in the block.

    Without *settings* they come from the environment variables and the ``webhooks:`` block of
    *config_file*, if given. Uses the global OpenTelemetry providers and configures nothing.
    Leaving the block waits up to ``flush_timeout`` for what is due; Ctrl-C ends the wait and
    is raised. Raises ConfigError when the settings are wrong, before anything runs.
    """
    from .adapters.confiture import observe  # noqa: PLC0415
    from .adapters.database import dsn_of  # noqa: PLC0415
    from .telemetry import Telemetry  # noqa: PLC0415

    chosen = settings or settings_from(os.environ, Path(config_file) if config_file else None)
    engine = getattr(session, "migrator", session)
    telemetry = Telemetry.for_library(
        environ=os.environ,
        environment=chosen.environment,
        endpoints=[endpoint.name for endpoint in chosen.endpoints],
        log=chosen.log,
        log_level=chosen.log_level,
    )
    dsn = dsn_of(engine.connection) if chosen.outbox == "postgres" else None
    run = Run(chosen, parts(chosen, os.environ, lambda: telemetry, lambda: dsn))
    run.begin(command)
    consult(run, engine.connection)
    undo = observe(engine, run)
    try:
        yield run
    except BaseException as error:
        undo()
        if run.finish(type(error).__name__):
            raise KeyboardInterrupt from error
        raise
    undo()
    if run.finish():
        raise KeyboardInterrupt
