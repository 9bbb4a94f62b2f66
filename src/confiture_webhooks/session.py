"""Sessions: a ``confiture migrate …`` command, or a block of Python, under observation."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import remedy, terminal
from .adapters.backend import database_of, dsn_of, named, project_dsn
from .adapters.confiture import observe, observe_resume, report_unloadable
from .adapters.failure import explain
from .adapters.ledger import Ledger, ask_over
from .bounded import containing
from .command_watch import HOOKS, is_set_up, names_block
from .config import Settings, load
from .config.variables import OUTBOX, URL
from .end_signals import FLUSH, EndSignals
from .errors import Fault
from .event import ErrorInfo
from .outlook import shown_environment
from .run import TELEMETRY_BUDGET
from .run.invocation import Invocation, parse, unread_block
from .run.run import Run
from .wiring import exports, found_settings, hook_sources, make_telemetry, outbox_exists, parts

if TYPE_CHECKING:
    from .adapters.hook_files import HookFile


def migrate_on(run: Run, connection: Any, configured: str | None = None) -> None:
    """*run* migrates on *connection*, made with *configured*, and asks its database."""
    run.connection = connection
    with containing("reading the database's address", run.report):
        run.database = database_of(connection)
        run.ask_here = partial(ask_over, connection)
        run.dsn = run.dsn or dsn_of(connection, configured)  # it may be closed later
        run.ask = Ledger(run.dsn).ask


@dataclass(eq=False, repr=False)
class CommandSession:
    """One ``confiture migrate …`` command under observation."""

    settings: Settings
    run: Run
    invocation: Invocation
    _engine: Any = None
    _end_signals: EndSignals | None = None
    """Caught as soon as the command is a run."""
    _connections: list[Any] = field(default_factory=list)
    """Held, not only known by id: an id is given again once its connection is gone."""
    _installed: ExitStack = field(default_factory=ExitStack)

    def install(self) -> None:
        """Begin the run, and take the host's seams for embedders: what was there stays beneath."""
        from confiture.core._migrator.session import MigratorSession  # noqa: PLC0415

        stand_ins: dict[str, Callable[..., Any]] = {
            "default_engine": self._make_engine,
            "default_lock": self._make_lock,
            "default_migration_loader": self._load_migration,
        }
        self._installed.callback(terminal.keep_whole())
        for name, stand_in in stand_ins.items():
            self._installed.callback(setattr, MigratorSession, name, vars(MigratorSession)[name])
            original = getattr(MigratorSession, name)
            setattr(MigratorSession, name, staticmethod(partial(stand_in, original)))
        if self.invocation.is_run:
            self._begin(f"confiture migrate {self.invocation.command}")

    def _make_engine(self, make: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        made = self._engine = make(*args, **kwargs)
        with containing("observing the engine", self.run.report):
            observe(made, self.run, self._is_active)
            if self.invocation.resumes:
                self._connected(made.connection, self.invocation.command)
                observe_resume(made, self.run, self.invocation)
        return made

    def _make_lock(self, make: Callable[..., Any], /, connection: Any, config: Any) -> Any:
        with containing("observing the lock", self.run.report):
            command = getattr(config, "command", None)
            if command and not self.invocation.is_rehearsal:
                self._connected(connection, command)
        return make(connection, config)

    def _load_migration(self, load: Callable[..., Any], /, path: Path) -> Any:
        try:
            return load(path)
        except Exception as error:  # a migration that cannot be loaded has failed
            with containing("recording a migration", self.run.report):
                if self._is_active(self._engine):
                    way = self.invocation.direction
                    report_unloadable(self._engine, self.run, path, way, error)
            raise

    def _begin(self, command: str) -> None:
        """The command is a run, also if it fails before it has a connection."""
        self._end_signals = EndSignals()
        self._end_signals.catch()
        self.run.begin(command)

    def _connected(self, connection: Any, command: str) -> None:
        if self._end_signals is None:
            self._begin(command)
        self._connections.append(connection)
        migrate_on(self.run, connection, self.dsn())

    def _is_active(self, engine: Any) -> bool:
        """Whether *engine* belongs to the session that took the lock in a command's name.

        Replays into scratch databases take it without a name.
        """
        connection = getattr(engine, "connection", None)
        return any(connection is known for known in self._connections)

    def finish(self, error: BaseException | None) -> None:
        """The command is over, its output written."""
        try:
            self._finish(error)
        except KeyboardInterrupt:  # before its end is recorded: that comes first
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        try:  # its result is not lost if the process is killed from here on
            sys.stdout.flush()
        except OSError as unwritten:  # the interpreter meets it again, and the command fails
            error = error or unwritten
        except Exception:  # noqa: BLE001, S110  none, a closed one, or a stand-in
            pass
        with containing("ending a run", self.run.report):
            self._installed.close()
        if self._end_signals is None:
            _log_faults(self.settings)
            return  # nothing was to be changed: left-overs wait for a real run
        failure = None
        with containing("ending a run", self.run.report):
            failure = self._end_signals.failure
            if error is not None:
                failure = failure or _failure(error)
                for migration in self.run.unsettled:
                    migration.error = migration.error or explain(error)
            if not self._connections:
                self.run.database = named(self.dsn())
        self.run.finish(failure, FLUSH if self._end_signals.failure else timedelta.max)
        self._end_signals.pass_on()

    def dsn(self) -> str | None:
        """The DSN of the migrated database; before there is a connection, the configured one."""
        if self.run.dsn is not None:
            return self.run.dsn
        given = self.invocation
        if given.is_refused:  # the host has not connected, and no more do we
            return None
        return given.database_url or project_dsn(given.config_file, os.environ)


def _failure(error: BaseException) -> ErrorInfo | None:
    """Why a command failed: the root cause of what it ended with; ``None``: it did not."""
    code = getattr(error, "exit_code", getattr(error, "code", 1))
    if code in (0, None) or isinstance(error, GeneratorExit):  # a block that is dropped
        return None
    if isinstance(error, KeyboardInterrupt):
        return explain(KeyboardInterrupt())
    is_exit = hasattr(error, "exit_code") or isinstance(error, SystemExit)
    if is_exit and error.__cause__ is None and error.__context__ is None:
        return ErrorInfo(type=f"exit_{code}", message=f"the command ended with exit code {code}")
    found = explain(error)
    if found.type == BrokenPipeError.__name__:  # one that a migration raised is its event's
        found = replace(found, message="standard output was closed before the command had ended")
    return found


NEEDED = ("telemetry", "adapters.http_session")
FORK_WAITS_S = 2.0


def preload() -> None:
    """Import what threads of a run will need, while the host connects and plans.

    A migration that forks waits for it: without this thread, the new process could not import for
    ever what is half imported.
    """
    with suppress(Exception):  # the run meets the same fault, and reports it
        for name in NEEDED:
            import_module(f".{name}", __package__)
        import_module("structlog")
        from .telemetry.plan import plan  # noqa: PLC0415

        for export in plan(os.environ).exports:
            import_module(".telemetry.sdk", __package__).maker_of(export)


def open_session(arguments: list[str]) -> CommandSession | None:
    """A session for the command line *arguments*, or ``None`` when nothing is configured for it.

    Faults of the configuration are said; each costs only what it is about.
    """
    invocation = parse(arguments, os.environ)
    if invocation is None:
        return None
    remedy.use(invocation.named_file)
    file = invocation.settings_file
    is_meant = is_set_up(os.environ) or (file is not None and names_block(file))
    unread = unread_block(os.environ, invocation, arguments) if invocation.is_changing else None
    if not (is_meant or unread or Path(HOOKS).is_dir()):
        return None
    settings, files = found_settings(file)
    _say(settings, files, unread, is_run=invocation.is_run)
    files = [one for one in files if one.is_trusted]
    if not (settings.recorded or files or ((settings.faults or unread) and exports())):
        _log_faults(settings)
        return None
    if invocation.is_run and invocation.drops_schemas and settings.place.shown == "postgres":
        terminal.say(
            "confiture-webhooks: --drop-schemas drops the outbox, too, with all that waits in it. "
            f"Send that before you rebuild: {remedy.shown('deliver')}"
        )
    session = _session_of(settings, files, invocation)
    if not invocation.is_rehearsal:
        # The host's objects stay until the command ends: going through all of them again while
        # ours are imported costs more than the imports.
        gc.freeze()
        with suppress(RuntimeError):  # no thread is to be had: it is imported when it is needed
            thread = threading.Thread(target=preload, name="webhooks-preload", daemon=True)
            thread.start()
            os.register_at_fork(before=partial(thread.join, FORK_WAITS_S))
    try:
        session.install()
    except KeyboardInterrupt as error:
        session.finish(error)
        raise
    return session


def _session_of(
    settings: Settings, files: Sequence[HookFile], invocation: Invocation
) -> CommandSession:
    is_project = invocation.missing is None and invocation.migrations_dir.is_dir()
    is_project = is_project or bool(os.environ.get(OUTBOX)) or outbox_exists(settings)
    if not is_project:  # where Confiture will refuse, no outbox is created
        settings = replace(settings, outbox="memory")
    made = replace(
        parts(
            settings,
            partial(make_telemetry, settings),
            lambda: session.dsn(),  # noqa: PLW0108  made below
            terminal.say,
        ),
        hooks=partial(hook_sources, files) if files else None,
        exports=exports,
        shows_progress=True,
        is_project=is_project,
        has_python=any(invocation.migrations_dir.glob("[!_]*.py")),
    )
    session = CommandSession(settings, Run(settings, made), invocation)
    return session


def _say(
    settings: Settings, files: Sequence[HookFile], unread: Fault | None, *, is_run: bool
) -> None:
    """On standard error, whatever is wrong or not used, and what becomes of the events."""
    notices = [str(slip) for slip in settings.warnings]
    notices += [str(one.fault) for one in files if not one.is_trusted]
    own = [one.shown for one in files if one.is_trusted and one.reads_url and os.environ.get(URL)]
    notices += [f"{one} reads {URL} itself, so the endpoint default is not used" for one in own[:1]]
    if unread is not None and not settings.recorded:
        notices.append(str(unread))
    is_anyones = any(one.is_for(settings.environment) for one in settings.recorded)
    if settings.recorded and not is_anyones and is_run:
        name = shown_environment(settings.environment)
        none = f"no endpoint is for environment {name}, so no event is sent"
        notices.append(f"{none}. Show the endpoints: {remedy.shown('check')}")
    if settings.faults:
        notices += [_costs(settings), *map(str, settings.faults)]
    if notices:
        terminal.say(*(f"confiture-webhooks: {notice}" for notice in notices))


def _costs(settings: Settings) -> str:
    here = settings.environment
    waiting = ", ".join(endpoint.name for endpoint in settings.faulty if endpoint.is_for(here))
    is_kept = settings.place.kind != "memory"
    then = "recorded and wait until this is fixed" if is_kept else "not sent"
    costs = [f"events for {waiting} are {then}"] if waiting else []
    if settings.outbox_fault is not None:
        costs.append("events are kept in memory and are lost when the command ends")
    if not settings.recorded:
        costs.append("no webhook is sent")
    return f"the configuration is wrong; {'; '.join(costs) or 'the rest is used'}:"


def _log_faults(settings: Settings) -> None:
    """Every fault as one log event of a command without a run; a run logs its own."""
    if not settings.faults:
        return
    telemetry = make_telemetry(replace(settings, endpoints=(), faulty=(), environment=None))
    telemetry.config_invalid(settings.faults, is_said=True)
    telemetry.shutdown(TELEMETRY_BUDGET)


@contextmanager
def attach(
    session: Any,
    settings: Settings | None = None,
    *,
    config_file: Path | str | None = None,
    command: str = "confiture migrate",
) -> Iterator[Run]:
    """Send webhooks for what *session* (an entered MigratorSession or engine) does in the block.

    Without *settings* they come from the environment variables and the ``webhooks:`` block of
    *config_file*, if given. Uses the global OpenTelemetry providers and configures nothing.
    Leaving the block, or Python's exit, waits up to ``flush_timeout`` for deliveries that are due;
    Ctrl-C ends the wait and is raised. Raises ConfigError when the settings are wrong, before
    anything runs. Log events and lines for people go to the logger ``confiture_webhooks``.
    """
    chosen = settings or load(os.environ, Path(config_file) if config_file else None)
    remedy.use(config_file)
    run = _library_run(chosen, getattr(session, "migrator", session).connection)
    with reported(session, run, command):
        yield run


@contextmanager
def reported(session: Any, run: Run, command: str = "confiture migrate") -> Iterator[None]:
    """*run* reports what *session* does in the block, and how the block ends."""
    engine = getattr(session, "migrator", session)
    run.begin(command)
    migrate_on(run, engine.connection)
    undo, failed = observe(engine, run), None
    if not threading.current_thread().daemon:  # else it may migrate still
        atexit.register(run.finish)  # for a block that is never left: no thread starts later
    try:
        yield
    except BaseException as error:
        failed = error
        raise
    finally:
        atexit.unregister(run.finish)
        undo()
        failure = None
        with containing("ending a run", run.report):
            failure = _failure(failed) if failed is not None else None
        if run.finish(failure):
            raise KeyboardInterrupt from failed


def _library_run(settings: Settings, connection: Any) -> Run:
    from .telemetry.logs import note  # noqa: PLC0415

    telemetry = make_telemetry(settings, is_library=True)
    dsn = dsn_of(connection) if settings.place.kind == "postgres" else None
    made = replace(parts(settings, lambda: telemetry, lambda: dsn, note), exports=lambda: True)
    if not settings.recorded:
        note(f"no endpoint is configured: no webhook will be sent. Give config_file=, or set {URL}")
    return Run(settings, made, note)
