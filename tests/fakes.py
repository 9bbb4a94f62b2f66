"""Fakes of the parts of a run, and a way to break any of them."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import Outbox
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.run.migration import UNKNOWN
from samples import TRACE, TRACE_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from confiture_webhooks.delivery import Delivery, TraceContext
    from confiture_webhooks.event import Database, Direction, ErrorInfo, Event, MigrationRef


class FakeSpan:
    """The span of a migration or of a delivery: notes how it ended."""

    trace: TraceContext = TRACE

    def __init__(self, what: Any, ends: list[Any]) -> None:
        self._what = what
        self._ends = ends

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    @contextmanager
    def attempt(self, request: Any) -> Iterator[Any]:
        yield SimpleNamespace(request=request)

    def attempt_failed(self, attempt: Any, *, retry_in: timedelta | None) -> None:
        pass

    def leave(self, *, duration_s: float) -> None:
        self._ends.append((self._what, {"error": UNKNOWN, "duration_s": duration_s}))

    def finish(self, *outcome: str, **facts: Any) -> None:
        self._ends.append((self._what, *outcome, facts))


class FakeTelemetry:
    """Keeps what a run reports, and makes nothing of it."""

    correlation_id = TRACE_ID

    def __init__(self) -> None:
        self.runs: list[tuple[str, Database]] = []
        self.run_ends: list[dict[str, Any]] = []
        self.migration_ends: list[Any] = []
        self.delivery_ends: list[Any] = []
        self.observed: list[Callable[[], Any]] = []
        self.invalid: list[Any] = []
        self.outbox_failures: list[str] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.shutdowns: list[timedelta] = []
        self.settlements: list[tuple[Event, TraceContext]] = []

    def start_run(self, command: str, database: Database, **_: Any) -> None:
        self.runs.append((command, database))

    def connected(self, database: Database) -> None:
        pass

    def end_run(self, **facts: Any) -> None:
        self.run_ends = self.run_ends or [facts]  # later calls do nothing

    def migration(self, ref: MigrationRef, direction: Direction) -> FakeSpan:
        return FakeSpan((ref.name, direction.value), self.migration_ends)

    def trace_of_run(self) -> TraceContext:
        return TRACE

    def delivery(self, delivery: Delivery, *_: Any) -> FakeSpan:
        return FakeSpan(delivery.id, self.delivery_ends)

    def observe_outbox(self, read: Callable[[], Any]) -> None:
        self.observed.append(read)

    def settled(self, event: Event, trace: TraceContext, _run: str) -> None:
        self.settlements.append((event, trace))

    def config_invalid(self, faults: Any, *, is_said: bool = False) -> None:  # noqa: ARG002
        self.invalid.extend(faults)

    def outbox_failed(self, reason: str) -> None:
        self.outbox_failures.append(reason)

    def failed(self, where: str, error: BaseException) -> None:
        if not any(place == where and type(error) is type(known) for place, known in self.faults):
            self.faults.append((where, error))

    def shutdown(self, budget: timedelta) -> None:
        self.shutdowns.append(budget)

    def migrations(self) -> list[tuple[str, str, str | None]]:
        """Name, direction and error type of each migration whose span has ended."""
        ends: list[tuple[str, str, str | None]] = []
        for (name, direction), facts in self.migration_ends:
            error: ErrorInfo | None = facts["error"]
            ends.append((name, direction, error.type if error else None))
        return ends


class Breaking:
    """*part*, but its method *name* raises *error*; the first *spared* calls go through."""

    def __init__(self, part: Any, name: str, error: BaseException, *, spared: int = 0) -> None:
        self._part = part
        self._name = name
        self._error = error
        self._spared = spared
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name != self._name:
            return getattr(self._part, name)
        return self._call

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls > self._spared:
            raise self._error
        return getattr(self._part, self._name)(*args, **kwargs)


class Joining(InMemoryOutbox):
    """Goes with a transaction, and refuses all afterwards: its server was killed."""

    def over(self, _: Any) -> Outbox:
        return Outbox(self._store)

    def release(self, *_: Any) -> bool:
        raise OutboxError("gone")
