"""Confiture: what a run sees of it, through the two class attributes it offers embedders.

``MigratorSession.default_engine`` makes the engine every session drives, and
``default_lock`` the lock every mutating command takes with its own name on it; nothing else
of the host is touched. ``observe`` wraps the ``apply`` and ``rollback`` of one engine object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..contained import containing
from ..event import Direction, MigrationRef
from ..run.invocation import Invocation
from ..run.migration import Backend, Migration
from ..run.run import Run
from .backend import backend_of, before, is_idle
from .failure import explain
from .ledger import Ledger
from .rows import RowTally

OBSERVED = (
    "apply",
    "rollback",
    "find_pending",
    "get_applied_versions",
    "_trigger_hook",
    "_execute_sql",
)


def observe(
    engine: Any, run: Run, is_active: Callable[[Any], bool] = lambda _: True
) -> Callable[[], None]:
    """Report to *run* every migration that *engine* applies or rolls back for good.

    A rehearsal (``commit=False``) and everything while *is_active* says no is not reported.
    Returns what ends it: call it, and the engine is as it was.
    """
    before = dict(vars(engine))
    watch = _Watch(engine, run, is_active)
    engine.apply = functools.wraps(engine.apply)(watch.wrap_apply(engine.apply))
    engine.rollback = functools.wraps(engine.rollback)(watch.wrap_rollback(engine.rollback))
    for name, wrap in (
        ("find_pending", watch.wrap_pending),
        ("get_applied_versions", watch.wrap_planning),
        ("_trigger_hook", watch.wrap_hook),
        ("_execute_sql", watch.wrap_ledger),
    ):
        original = getattr(engine, name, None)
        if original is not None:
            setattr(engine, name, wrap(original))

    def undo() -> None:
        for name in OBSERVED:
            vars(engine).pop(name, None)
            if name in before:
                setattr(engine, name, before[name])

    return undo


class _Watch:
    """One engine under observation: the run it is reported to, and the migration under way."""

    def __init__(self, engine: Any, run: Run, is_active: Callable[[Any], bool]) -> None:
        self._engine = engine
        self._run = run
        self._is_active = is_active
        self._backend: Backend | None = None
        self._ledger: Ledger | None = None
        self._tally: RowTally | None = None
        self._window: ExitStack | None = None
        self._commit: Commit | None = None
        self._direction = Direction.UP

    def wrap_apply(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        def observed(migration: Any, force: bool = False, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
            if kwargs.get("commit", True) is False or not self._is_active(self._engine):
                return apply(migration, force, *args, **kwargs)
            is_one = kwargs.get("strategy") is None and _is_transactional(migration)
            with self._observed(migration, Direction.UP, can_settle=not force, is_one=is_one):
                return apply(migration, force, *args, **kwargs)

        return observed

    def wrap_rollback(self, rollback: Callable[..., Any]) -> Callable[..., Any]:
        def observed(migration: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._is_active(self._engine):
                return rollback(migration, *args, **kwargs)
            is_one = _is_transactional(migration)
            with self._observed(migration, Direction.DOWN, can_settle=True, is_one=is_one):
                self._open_window()
                return rollback(migration, *args, **kwargs)

        return observed

    def wrap_planning(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Let what the host reads to plan leave its connection as idle as it was.

        Otherwise the first migration begins in the transaction that reading has opened.
        """

        def observed(*args: Any, **kwargs: Any) -> Any:
            connection = self._engine.connection
            if not (self._is_active(self._engine) and is_idle(connection)):
                return read(*args, **kwargs)
            with connection.transaction():
                return read(*args, **kwargs)

        return observed

    def wrap_pending(self, find: Callable[..., Any]) -> Callable[..., Any]:
        """Expect the first of the pending migrations while the connection is idle."""
        planned = self.wrap_planning(find)

        def observed(*args: Any, **kwargs: Any) -> Any:
            found = planned(*args, **kwargs)
            if self._is_active(self._engine) and is_idle(self._engine.connection):
                with containing("expecting a migration", self._run.report):
                    for path in list(found)[:1]:
                        ref = _ref_of(path)
                        self._run.expect(ref, Direction.UP, self._before(ref.version))
            return found

        return observed

    def wrap_hook(self, trigger: Callable[..., Any]) -> Callable[..., Any]:
        """Count rows between the host's own BEFORE_EXECUTE and AFTER_EXECUTE."""

        def observed(phase: Any, *args: Any, **kwargs: Any) -> Any:
            name = getattr(phase, "name", "")
            if name == "AFTER_EXECUTE":
                self._close_window()
                self._set_due(is_due=False)
            result = trigger(phase, *args, **kwargs)
            if name == "AFTER_EXECUTE":
                self._set_due(is_due=bool(kwargs.get("success")))
            if name == "BEFORE_EXECUTE" and self._tally is not None:
                self._open_window()
            return result

        return observed

    def wrap_ledger(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        """Leave the ledger's own statements out of the count."""

        def observed(*args: Any, **kwargs: Any) -> Any:
            if self._tally is None:
                return execute(*args, **kwargs)
            with self._tally.paused():
                result = execute(*args, **kwargs)
            # On the way down no hook fires: the ledger's row goes, and the COMMIT comes.
            if self._direction is Direction.DOWN:
                self._set_due(is_due=True)
            return result

        return observed

    @contextmanager
    def _observed(
        self, migration: Any, direction: Direction, *, can_settle: bool, is_one: bool
    ) -> Iterator[None]:
        """Report *migration* to the run; *is_one*: its work is one transaction, its COMMIT one.

        *can_settle*: the ledger knows how it ended.
        """
        begun = self._begin(migration, direction)
        self._direction = direction
        commit = None
        try:
            with self._before_commit(begun) as commit:
                yield
        except BaseException as error:
            may_have = commit is None or commit.was_sent or not is_one
            self._end(begun, error, can_settle=can_settle and may_have)
            raise
        else:
            self._end(begun, None, can_settle=can_settle)
        finally:
            self._tally = None

    @contextmanager
    def _before_commit(self, migration: Migration | None) -> Iterator[Commit | None]:
        """Report the COMMIT of *migration* while there is still time to go with it."""
        if migration is None:
            yield None
            return
        connection = self._engine.connection

        def committing() -> None:
            if self._tally is None:
                self._run.committing(migration, None, connection)
                return
            with self._tally.paused():  # what is recorded here are no rows of the migration
                self._run.committing(migration, self._tally.total, connection)

        self._commit = Commit(connection, committing)
        try:
            with self._commit.awaited():
                yield self._commit
        finally:
            self._commit = None

    def _set_due(self, *, is_due: bool) -> None:
        if self._commit is not None:
            self._commit.is_due = is_due

    def _begin(self, migration: Any, direction: Direction) -> Migration | None:
        begun = None
        with containing("observing a migration", self._run.report):
            ref = MigrationRef(version=str(migration.version), slug=str(migration.name))
            begun = self._run.migration(ref, direction, self._before(ref.version))
            self._tally = RowTally(steps_table(self._engine)) if begun is not None else None
        return begun

    def _before(self, version: str) -> Backend:
        """Where *version* is about to run."""
        if self._backend is None:
            self._ledger = Ledger.beside(self._engine.connection)
            self._backend = backend_of(self._engine)
        return before(self._backend, self._engine, version)

    def _end(
        self, migration: Migration | None, error: BaseException | None, *, can_settle: bool
    ) -> None:
        if migration is None:
            return
        connection = self._engine.connection
        is_over = connection.closed or is_idle(connection)
        # The host ends the transaction of an interrupted migration only when it closes.
        with (
            containing("recording a migration", self._run.report),
            self._run.hurried(when=not is_over),
        ):
            migration.stop_clock()
            self._close_window()
            tally = self._tally
            if error is None:
                migration.succeeded(tally.total if tally is not None else None)
                return
            migration.error = explain(error)
            is_open = can_settle and not migration.backend.is_gone
            if is_open and self._ledger and _is_uncertain(connection, error):
                migration.unknown(_question(self._ledger, migration))
            else:
                migration.failed(migration.error)

    def _open_window(self) -> None:
        if self._tally is None or self._window is not None:
            return
        window = ExitStack()
        with containing("counting rows", self._run.report):
            window.enter_context(self._tally.counting(self._engine.connection))
            self._window = window

    def _close_window(self) -> None:
        window, self._window = self._window, None
        with containing("counting rows", self._run.report):
            if window is not None:
                window.close()


class Commit:
    """Calls *before* when *connection* is to commit and the migration's work is done.

    The host also commits its own bookkeeping: only a commit that ``is_due`` is the migration's.
    """

    def __init__(self, connection: Any, before: Callable[[], object]) -> None:
        self._connection = connection
        self._before = before
        self.is_due = False
        self.was_sent = False
        """Whether the migration's COMMIT was sent, or that is not known."""

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Watch the connection's ``commit`` for as long as the block."""
        attributes = vars(self._connection)
        had, original = attributes.get("commit"), getattr(self._connection, "commit", None)
        if original is None:
            self.was_sent = True
            yield
            return

        def commit() -> Any:
            if self.is_due:
                self.is_due = False
                self._before()
                self.was_sent = True
            return original()

        attributes["commit"] = commit
        try:
            yield
        finally:
            if had is None:
                attributes.pop("commit", None)
            else:
                attributes["commit"] = had


def _is_uncertain(connection: Any, error: BaseException) -> bool:
    """Whether the COMMIT may have happened although the call raised.

    It may when the connection broke, or when something other than an ``Exception``
    (Ctrl-C) came in between: then only the ledger knows.
    """
    return not isinstance(error, Exception) or bool(connection.closed or connection.broken)


def _question(ledger: Ledger, migration: Migration) -> Callable[[], bool | None]:
    """Asks whether the ledger has *migration*."""
    backend = migration.backend
    return functools.partial(ledger.has, backend.ledger_table, migration.ref.version, backend.pid)


def steps_table(engine: Any) -> str:
    """The table in which the host keeps the checkpoints of ``--online`` migrations."""
    return f"{str(engine.migration_table).rpartition('.')[2]}_steps"


def observe_resume(engine: Any, run: Run, invocation: Invocation) -> None:
    """Report ``migrate steps --resume`` to *run*: it writes the ledger past the engine.

    The resumed migration begins when the ledger is first made sure of; how it ended is
    asked of the ledger when the command is over.
    """
    initialize = engine.initialize

    @functools.wraps(initialize)
    def observed(*args: Any, **kwargs: Any) -> Any:
        result = initialize(*args, **kwargs)
        with containing("observing a resumed migration", run.report):
            _begin_resumed(engine, run, invocation)
        return result

    engine.initialize = observed


def _begin_resumed(engine: Any, run: Run, invocation: Invocation) -> None:
    version = invocation.resumes or ""
    if version in engine.get_applied_versions():
        return
    found = next(invocation.migrations_dir.glob(f"{version}_*.up.sql"), None)
    if found is None:
        return
    slug = found.name.removesuffix(".up.sql").removeprefix(f"{version}_")
    ledger, backend = Ledger.beside(engine.connection), backend_of(engine)
    backend = before(backend, engine, version)
    migration = run.migration(MigrationRef(version=version, slug=slug), Direction.UP, backend)
    if migration is not None:
        migration.unknown(_question(ledger, migration))


def report_unloadable(
    engine: Any, run: Run, path: Path, direction: Direction, error: Exception
) -> None:
    """Report to *run* that the migration in *path* could not even be loaded."""
    migration = run.migration(_ref_of(path), direction, backend_of(engine))
    if migration is not None:
        migration.stop_clock()
        migration.failed(explain(error))


def _ref_of(path: Path) -> MigrationRef:
    """The migration in *path*, by its name."""
    version, _, slug = path.name.partition(".")[0].partition("_")
    return MigrationRef(version=version, slug=slug)


def _is_transactional(migration: Any) -> bool:
    return bool(getattr(migration, "transactional", True))
