"""Confiture: what a run sees of it. ``observe`` wraps methods of one engine object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from ..bounded import containing
from ..event import Direction, MigrationRef
from ..run.invocation import Invocation
from ..run.migration import Backend, Migration, is_idle
from ..run.run import Run
from .backend import backend_of, before
from .failure import explain
from .ledger import Ledger
from .rows import RowTally


def observe(
    engine: Any, run: Run, is_active: Callable[[Any], bool] = lambda _: True
) -> Callable[[], None]:
    """Report to *run* every migration that *engine* applies or rolls back for good.

    A rehearsal (``commit=False``) and everything while *is_active* says no is not reported.
    Returns what ends it: call it, and the engine is as it was.
    """
    before = dict(vars(engine))
    watch = _Watch(engine, run, is_active)
    watched: dict[str, Callable[..., Any]] = {
        "apply": watch.apply,
        "rollback": watch.rollback,
        "find_pending": watch.find_pending,
        "get_applied_versions": watch.plan,
        "_trigger_hook": watch.trigger_hook,
        "_execute_sql": watch.execute_sql,
    }
    for name, method in watched.items():
        # An engine without one of these two is not watched: that is a fault.
        if name in ("apply", "rollback") or hasattr(engine, name):
            original = getattr(engine, name)
            setattr(engine, name, wraps(original)(partial(method, original)))

    def undo() -> None:
        for name in watched:
            vars(engine).pop(name, None)
            if name in before:
                setattr(engine, name, before[name])

    return undo


@dataclass(eq=False, repr=False)
class _Watch:
    """One engine under observation: the run it is reported to, and the migration under way.

    Its public methods stand in for the engine's; each is given the original first.
    """

    _engine: Any
    _run: Run
    _is_active: Callable[[Any], bool]
    _backend: Backend | None = None
    _tally: RowTally = field(default_factory=RowTally)
    _commit: Commit | None = None
    """The commit of the migration under way; ``None``: there is none."""
    _direction: Direction = Direction.UP

    def apply(
        self,
        apply: Callable[..., Any],
        /,
        migration: Any,
        force: bool = False,  # noqa: FBT001, FBT002  the host's
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if kwargs.get("commit", True) is False or not self._is_watched():
            return apply(migration, force, *args, **kwargs)
        is_one = kwargs.get("strategy") is None and getattr(migration, "transactional", True)
        with self._observed(migration, Direction.UP, can_settle=not force, is_one=is_one):
            return apply(migration, force, *args, **kwargs)

    def rollback(
        self, rollback: Callable[..., Any], /, migration: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._is_watched():
            return rollback(migration, *args, **kwargs)
        is_one = getattr(migration, "transactional", True)
        with self._observed(migration, Direction.DOWN, can_settle=True, is_one=is_one):
            self._tally.is_paused = False
            return rollback(migration, *args, **kwargs)

    def plan(self, read: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Let what the host reads to plan leave its connection as idle as it was.

        Otherwise the first migration begins in the transaction that reading has opened.
        """
        if not self._is_watched(when_idle=True):
            return read(*args, **kwargs)
        with self._engine.connection.transaction():
            return read(*args, **kwargs)

    def find_pending(self, find: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Expect the first of the pending migrations while the connection is idle."""
        found = self.plan(find, *args, **kwargs)
        if self._is_watched(when_idle=True):
            with containing("expecting a migration", self._run.report):
                for path in list(found)[:1]:
                    ref = _ref_of(path)
                    self._run.expect(ref, Direction.UP, self._before(ref.version))
        return found

    def _is_watched(self, *, when_idle: bool = False) -> bool:
        """Whether the engine works for the run, and *when_idle* in no transaction."""
        with containing("observing the engine", self._run.report):
            is_ready = not when_idle or is_idle(self._engine.connection)
            return is_ready and self._is_active(self._engine)
        return False

    def trigger_hook(
        self, trigger: Callable[..., Any], /, phase: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Count rows between the host's own BEFORE_EXECUTE and AFTER_EXECUTE."""
        name, commit = getattr(phase, "name", ""), self._commit
        if commit is None:
            return trigger(phase, *args, **kwargs)
        if name == "AFTER_EXECUTE":
            self._tally.is_paused = True
            commit.is_due = False
        result = trigger(phase, *args, **kwargs)
        if name == "AFTER_EXECUTE":
            commit.is_due = bool(kwargs.get("success"))
        if name == "BEFORE_EXECUTE":
            self._tally.is_paused = False
        return result

    def execute_sql(self, execute: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Leave the ledger's own statements out of the count."""
        if self._commit is None:
            return execute(*args, **kwargs)
        with self._tally.paused():
            result = execute(*args, **kwargs)
        # On the way down no hook fires: the ledger's row goes, and the COMMIT comes.
        if self._direction is Direction.DOWN:
            self._commit.is_due = True
        return result

    @contextmanager
    def _observed(
        self, migration: Any, direction: Direction, *, can_settle: bool, is_one: bool
    ) -> Iterator[None]:
        """Report *migration* to the run; *is_one*: its work is one transaction, its COMMIT one.

        *can_settle*: the ledger knows how it ended.
        """
        begun, tally = None, RowTally()
        with containing("observing a migration", self._run.report):
            tally = RowTally(str(self._engine.migration_table))
            ref = MigrationRef(version=str(migration.version), slug=str(migration.name))
            begun = self._run.migration(ref, direction, self._before(ref.version))
        if begun is None:
            yield
            return
        connection = self._engine.connection

        def committing() -> None:
            # What is recorded here are no rows of the migration.
            with containing("committing", self._run.report), tally.paused():
                self._run.committing(begun, tally.total, connection)

        commit, window = Commit(connection, committing), ExitStack()
        self._tally, self._commit, self._direction = tally, commit, direction
        tally.is_paused = True  # until the host calls the migration
        with containing("observing the connection", self._run.report):
            window.enter_context(commit.awaited())
            window.enter_context(tally.counting(connection))
        try:
            try:
                yield
            finally:
                with containing("observing the connection", self._run.report):
                    window.close()
        except BaseException as error:
            self._end(begun, commit, error, can_settle=can_settle, is_one=is_one)
            raise
        else:
            self._end(begun, commit, None, can_settle=can_settle, is_one=is_one)
        finally:
            self._commit = None

    def _before(self, version: str) -> Backend:
        if self._backend is None:
            self._backend = backend_of(self._engine, for_hooks=self._run.has_hooks)
        return before(self._backend, self._engine, version)

    def _end(
        self,
        migration: Migration,
        commit: Commit,
        error: BaseException | None,
        *,
        can_settle: bool,
        is_one: bool,
    ) -> None:
        connection = self._engine.connection
        with containing("recording a migration", self._run.report):
            migration.stop_clock()
            # The host ends the transaction of an interrupted migration only when it closes.
            is_over = connection.closed or is_idle(connection)
            if error is None:
                self._run.conclude(migration, self._tally.total, None, is_idle=is_over)
                return
            migration.error = explain(error)
            # The COMMIT may have happened although the call raised: when the connection broke, when
            # Ctrl-C came in between, or when it was raised after the server's answer, say by a
            # handler of the migration's; or when a BEGIN of a non-transactional one is left open,
            # which the host commits with the release of its lock. Then only the ledger knows.
            is_answered = not commit.is_open and (is_one or is_over)
            is_seen = not connection.closed and is_answered and isinstance(error, Exception)
            # The host also commits what Ctrl-C leaves in order: with the release of its lock.
            may_have = commit.was_sent or not is_one
            may_have |= connection.info.transaction_status == TransactionStatus.INTRANS
            if can_settle and may_have and not is_seen and not migration.backend.is_gone:
                self._run.settle_later(migration, _question(self._run, migration))
            else:
                self._run.conclude(migration, None, migration.error, is_idle=is_over)


@dataclass(slots=True)
class Commit:
    """Calls *before* when *connection* is to commit and the migration's work is done.

    The host also commits its own bookkeeping: only a commit that ``is_due`` is the migration's.
    """

    connection: Any
    before: Callable[[], object]
    is_due: bool = False
    was_sent: bool = True
    """Whether the migration's COMMIT was sent, or that is not known."""
    is_open: bool = False
    """Whether it was sent, and the server has not refused it."""

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Watch the connection's ``commit`` for as long as the block."""
        attributes = vars(self.connection)
        had, original = attributes.get("commit"), getattr(self.connection, "commit", None)
        if original is None:
            yield
            return
        self.was_sent = False

        def commit() -> Any:
            if self.is_due:
                self.is_due = False
                self.before()
                self.was_sent = self.is_open = True
            try:
                return original()
            except psycopg.Error as error:
                self.is_open = self.is_open and error.sqlstate is None
                raise

        attributes["commit"] = commit
        try:
            yield
        finally:
            if attributes.get("commit") is commit:  # else a migration's own is around it
                del attributes["commit"]
                if had is not None:
                    attributes["commit"] = had


def _question(run: Run, migration: Migration) -> Callable[[], bool | None]:
    if run.dsn is None:
        return lambda: None
    return partial(Ledger(run.dsn).has, migration.backend.ledger_table, migration.ref.version)


def observe_resume(engine: Any, run: Run, invocation: Invocation) -> None:
    """Report ``migrate steps --resume`` to *run*: it writes the ledger past the engine.

    The resumed migration begins when the ledger is first made sure of; how it ended is
    asked of the ledger when the command is over.
    """
    initialize, version = engine.initialize, invocation.resumes or ""

    @wraps(initialize)
    def observed(*args: Any, **kwargs: Any) -> Any:
        result = initialize(*args, **kwargs)
        with containing("observing a resumed migration", run.report):
            found = next(invocation.migrations_dir.glob(f"{version}_*.up.sql"), None)
            if found is None or version in engine.get_applied_versions():
                return result
            slug = found.name.removesuffix(".up.sql").removeprefix(f"{version}_")
            ref = MigrationRef(version=version, slug=slug)
            backend = before(backend_of(engine, for_hooks=run.has_hooks), engine, version)
            migration = run.migration(ref, Direction.UP, backend)
            if migration is not None:
                run.settle_later(migration, _question(run, migration))
        return result

    engine.initialize = observed


def report_unloadable(
    engine: Any, run: Run, path: Path, direction: Direction, error: Exception
) -> None:
    """Report to *run* that the migration in *path* could not even be loaded."""
    migration = run.migration(_ref_of(path), direction, backend_of(engine, for_hooks=run.has_hooks))
    if migration is not None:
        run.conclude(migration, None, explain(error))


def _ref_of(path: Path) -> MigrationRef:
    version, _, slug = path.name.partition(".")[0].partition("_")
    return MigrationRef(version=version, slug=slug)
