"""Every OpenTelemetry and structlog touch of the package, behind one facade that never raises.

The SDK and its exporters are imported only when they are needed: a run without an exporter imports
the API alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, get_current_span

from ..bounded import contained, containing
from ..delivery import Delivery, TraceContext
from ..errors import Fault
from ..event import Database, Direction, Event, MigrationRef
from ..outbox import Intent
from ..transport import version
from . import names
from .context import fresh, from_stored, set_failed, storable, to_stored
from .deliveries import DeliverySpan, PassSpans
from .logs import Form, Logs
from .metrics import Read
from .providers import Providers
from .spans import HookSpan, MigrationSpan, Signals

REPORT_LOSSES_EVERY = timedelta(hours=1)


class Telemetry(Signals):
    """Traces, metrics and logs of one run. No method raises, whatever breaks.

    A signal without one of the *providers* is silent, but ids are real. *is_library*: log events go
    to the ``logging`` logger ``confiture_webhooks``, none to standard error.
    """

    def __init__(
        self,
        providers: Providers | None = None,
        *,
        endpoints: Sequence[str] = (),
        environment: str | None = None,
        log: Form | None = "off",
        log_level: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        is_library: bool = False,
        database_label: bool = True,
    ) -> None:
        self._providers = given = providers or Providers()
        super().__init__(
            run=given.inherited or fresh(),
            logs=Logs(
                form=log, level=log_level, records=given.records, now=now, is_library=is_library
            ),
            now=now,
            environment=environment,
            migration_spans_left=given.migration_spans,
        )
        self._database_label = database_label
        self._killed: set[str] = set()
        self._quiet_until = datetime.min.replace(tzinfo=UTC)
        self._run: Span | None = None
        """The run's span while it is open."""
        self._command = ""
        with containing("connect", self.report):  # a provider that breaks stays silent
            if (tracers := given.tracer_provider) is not None:
                self.tracer = tracers.get_tracer(names.SCOPE, version(), names.SCHEMA_URL)
            if given.meter_provider is not None:
                self.metrics.measure(given.meter_provider, endpoints)
        if given.error is not None:
            self.failed("telemetry.set_up", given.error)

    @property
    def correlation_id(self) -> str:
        """The run's trace id: 32 lower-case hex digits, never all zeros."""
        return f"{self.run.trace_id:032x}"

    def trace_of_run(self) -> TraceContext:
        """The context that deliveries of the run's own events continue."""
        return to_stored(self.run)

    @contained
    def start_run(
        self,
        command: str,
        database: Database | None = None,
        *,
        started_at: datetime | None = None,
        test_for: timedelta | None = None,
    ) -> None:
        """Open the run's span, under the current span, else under ``TRACEPARENT``.

        *test_for*: it is a test of this length, which ``confiture.runs`` does not count.
        """
        self.test_ends_at = self.now() + test_for if test_for is not None else None
        self._command = command.removeprefix("confiture ")
        about = {names.DB_SYSTEM: "postgresql"}
        self._run = self.start_span(
            command, parent=self._parent(), started_at=started_at, attributes=about
        )
        self.run = self._run.get_span_context()
        self.is_started = True
        if database is not None:
            self.connected(database)
        self._log_faults()

    @contained
    def connected(self, database: Database) -> None:
        """The migrated *database* is known: it owns the run's numbers and the outbox's."""
        if self._database_label:
            self.metrics.database = database.name or self.metrics.database
        if self._run is not None:
            named = filter(None, (database.name, database.schema))
            about = {
                names.DB_NAMESPACE: database.name and "|".join(named),
                names.SERVER_ADDRESS: database.host,
                names.SERVER_PORT: database.port,
            }
            self._run.set_attributes(storable(about))

    @contained
    def end_run(
        self, *, applied: int, failed: int, error_type: str | None, is_known: bool = True
    ) -> None:
        """The migrations are over; *error_type* is set exactly when the run failed.

        *is_known*: whether it is certain; else whoever settles the run counts it.
        """
        run, self._run = self._run, None
        if run is None:
            return
        run.set_attributes({names.RUN_APPLIED: applied, names.RUN_FAILED: failed})
        if error_type is not None:
            set_failed(run, error_type)
        try:
            if not is_known or self.test_ends_at:
                return
            self.metrics.count_run(self._command, error_type, self.now(), run)
            if error_type is not None:
                self._log_failed_run(self._command, error_type, migrations_applied=applied)
        finally:
            run.end()

    def migration(self, ref: MigrationRef, direction: Direction) -> MigrationSpan:
        """A migration begins."""
        return MigrationSpan(self, self._run or NonRecordingSpan(self.run), ref, direction)

    @contained
    def settled(self, event: Event, trace: TraceContext, run: str) -> None:
        """Log and measure how the migration of a killed *run* ended, in *trace*, the run's.

        Its span died with the run, which counts as failed. An unknown duration counts as none.
        """
        ref, direction = event.migration, event.direction
        if ref is None or direction is None:
            return
        span = NonRecordingSpan(from_stored(trace, is_remote=True) or self.run)
        whose = {"environment": event.environment, "correlation_id": event.trace_id}
        if run not in self._killed:  # counted once, however many of its migrations are settled
            self._killed.add(run)
            usual = "migrate up" if direction is Direction.UP else "migrate down"
            command = (event.command or usual).removeprefix("confiture ")
            # It ended no later than any run after it: what is seen only now is not the last word.
            ended_at = event.started_at or event.occurred_at
            self.metrics.count_run(command, names.INTERRUPTED, ended_at, span)
            self._log_failed_run(command, names.INTERRUPTED, span.get_span_context(), **whose)
            self._providers.export_metrics()
        self.migrated(ref, direction, span, event.error, event.duration_s, None, **whose)

    @contained
    def intent_discarded(self, intent: Intent, reason: str) -> None:
        """Log, in the run's trace, that no event reports how a killed run's migration ended."""
        self.log(
            names.LOG_INTENT_DISCARDED,
            from_stored(intent.trace, is_remote=True),
            correlation_id=intent.correlation_id,
            event_id=intent.event_id,
            reason=reason,
            direction=intent.direction.value,
            migration_version=intent.migration.version,
            migration_name=intent.migration.name,
            environment=intent.environment,
        )

    def delivery(self, delivery: Delivery, worker_pass: SpanContext | None = None) -> DeliverySpan:
        """A delivery begins: in the run's process, or in a *worker_pass*."""
        return DeliverySpan(self, delivery, worker_pass)

    def hook(self, hook: str, event: str, parent: TraceContext | None = None) -> HookSpan:
        """A user's hook ``<module>:<function>`` begins, under *parent* or the run."""
        stored = from_stored(parent, is_remote=False) if parent is not None else None
        span = self.start_span(
            f"{names.RUN_HOOK} {hook}",
            parent=stored or self.run,
            attributes={names.HOOK_EVENT: event},
        )
        return HookSpan(self, span)

    def passes(self) -> PassSpans:
        """A worker's passes over the outbox, under the current span, else ``TRACEPARENT``."""

        def start() -> Span:
            self._log_faults()
            return self.start_span(names.DRAIN, parent=self._parent())

        return PassSpans(start, self.report)

    def observe_outbox(self, read: Read) -> None:
        """Measure the outbox with *read* whenever metrics are collected."""
        self.metrics.read = read

    @contained
    def config_invalid(self, faults: Sequence[Fault], *, is_said: bool = False) -> None:
        """The configuration is wrong; every fault in one event.

        *is_said*: the command has said so on standard error, and a console does not show it again.
        """
        self.log(names.LOG_CONFIG_INVALID, faults=[*map(str, faults)], is_said=is_said)

    @contained
    def outbox_failed(self, reason: str) -> None:
        """The outbox refused; *reason* is an OutboxError's text."""
        self.log(names.LOG_OUTBOX_FAILED, reason=reason)

    @contained
    def hook_failed(
        self, /, hook: str, span: HookSpan | None = None, **why: str | int | None
    ) -> None:
        """A user's hook raised or ran out of time; *why*: the other fields of its log event."""
        context = span.span.get_span_context() if span is not None else None
        self.log(names.LOG_HOOK_FAILED, context, hook=hook, **why)

    @contained
    def report_losses(self) -> None:
        """Log what exports have lost so far, once an hour: a worker may run for months."""
        if self.now() >= self._quiet_until and (lost := self._providers.losses(is_over=False)):
            self._quiet_until = self.now() + REPORT_LOSSES_EVERY
            self.log(names.LOG_FLUSH_INCOMPLETE, **lost)

    @contained
    def shutdown(self, budget: timedelta) -> None:
        """Export what is left within *budget*; log when it did not all arrive.

        Only what was set up here is shut down. A second call does nothing.
        """
        self._log_faults()
        run, self._run = self._run, None
        if run is not None:  # a span that never ends is never exported
            with containing("abandon_run", self.report):
                run.end()
        if lost := self._providers.shutdown(budget):
            self.log(names.LOG_FLUSH_INCOMPLETE, budget_s=budget.total_seconds(), **lost)

    def _log_failed_run(
        self, command: str, error_type: str, context: SpanContext | None = None, **fields: object
    ) -> None:
        """Log that a run failed: the one that *fields* are about, else this one."""
        about = {"environment": self.environment, "database": self.metrics.database, **fields}
        self.log(names.LOG_RUN_FAILED, context, command=command, error_type=error_type, **about)

    def _parent(self) -> SpanContext | None:
        around = get_current_span().get_span_context()
        return around if around.is_valid else self._providers.inherited

    def _log_faults(self) -> None:
        """Log what set-up found wrong, once, when the run has its id."""
        faults, self._providers.faults = self._providers.faults, []
        if faults:
            self.config_invalid(faults)
