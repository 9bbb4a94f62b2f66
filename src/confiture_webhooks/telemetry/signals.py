"""The three signals of one run together, and the guard that keeps their faults inside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from .logs import Logs
    from .metrics import Metrics
    from .tracing import Tracing


@dataclass(slots=True)
class Signals:
    """What spans of a run are made with, and where the run stands in its trace."""

    tracing: Tracing
    metrics: Metrics
    logs: Logs
    run: SpanContext
    """The run's span; before it starts, what it will have at least the trace id of."""
    environment: str | None = None
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    monotonic: Callable[[], float] = monotonic
    migration_spans_left: int = 0
    await_ready: Callable[[], None] = lambda: None
    """Returns when requests are traced, soon in any case: set-up goes on in the background."""
    has_run: bool = False
    has_failed: bool = False

    @property
    def started(self) -> SpanContext | None:
        """The run's span, once it has started."""
        return self.run if self.has_run else None

    def failed(self, where: str, error: BaseException) -> None:
        """Tell of the first fault in telemetry itself; later ones are silent. Never raises."""
        if not self.has_failed:
            self.has_failed = True
            self.logs.failed(where, error, self.run)


class _Holder(Protocol):
    @property
    def _signals(self) -> Signals: ...


S = TypeVar("S", bound=_Holder)
P = ParamSpec("P")


def contained(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Turn any fault of *method* into at most one log line."""

    @functools.wraps(method)
    def wrapper(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  telemetry never breaks a delivery or a migration
            self._signals.failed(f"telemetry.{method.__name__}", error)

    return cast("Callable[Concatenate[S, P], None]", wrapper)
