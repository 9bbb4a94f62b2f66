"""Every name this package gives to telemetry. Dashboards, alerts and docs are made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCOPE: Final = "confiture_webhooks"
REQUESTS: Final = "opentelemetry.instrumentation.requests"
"""The scope of ``http.client.request.duration``: attempts and hooks are measured as one."""
REQUESTS_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.21.0"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SERVICE_NAME: Final = "confiture"

# Attributes of our own.
MIGRATION_VERSION: Final = "confiture.migration.version"
MIGRATION_NAME: Final = "confiture.migration.name"
MIGRATION_DIRECTION: Final = "confiture.migration.direction"
MIGRATION_ROWS_AFFECTED: Final = "confiture.migration.rows_affected"
RUN_APPLIED: Final = "confiture.run.applied"
RUN_FAILED: Final = "confiture.run.failed"
COMMAND: Final = "confiture.command"
RUN_OUTCOME: Final = "confiture.run.outcome"
WEBHOOK_ENDPOINT: Final = "confiture.webhook.endpoint"
WEBHOOK_EVENT_TYPE: Final = "confiture.webhook.event_type"
WEBHOOK_EVENT_ID: Final = "confiture.webhook.event_id"
WEBHOOK_DELIVERY_ID: Final = "confiture.webhook.delivery_id"
WEBHOOK_CORRELATION_ID: Final = "confiture.webhook.correlation_id"
WEBHOOK_OUTCOME: Final = "confiture.webhook.outcome"
WEBHOOK_ATTEMPTS: Final = "confiture.webhook.attempts"
WEBHOOK_CLAIMED: Final = "confiture.webhook.claimed"
WEBHOOK_STATE: Final = "confiture.webhook.state"
HOOK_EVENT: Final = "confiture.hook.event"
DELAY_S: Final = "delay_s"
DURATION_S: Final = "duration_s"

# The semantic conventions', copied so that importing them costs nothing.
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_RESEND_COUNT: Final = "http.request.resend_count"
HTTP_STATUS_CODE: Final = "http.response.status_code"
PROTOCOL_VERSION: Final = "network.protocol.version"
URL_FULL: Final = "url.full"
DB_SYSTEM: Final = "db.system.name"
DB_NAMESPACE: Final = "db.namespace"
DB_STATUS_CODE: Final = "db.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# Spans.
APPLY: Final = "apply migration"
ROLL_BACK: Final = "roll back migration"
DELIVER: Final = "deliver webhook"
DRAIN: Final = "drain webhook outbox"
RUN_HOOK: Final = "run hook"
HANDLE: Final = "handle webhook"

# Span events.
RETRY_SCHEDULED: Final = "confiture.webhook.retry_scheduled"
DEAD_LETTERED: Final = "confiture.webhook.dead_lettered"
MIGRATION_DONE: Final = "confiture.migration.done"
"""On the run's span, for a success beyond the cap of migration spans."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric: its instrument, unit, attributes and bucket boundaries."""

    name: str
    instrument: str
    unit: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


DELIVERY_DURATION: Final = MetricSpec(
    "confiture.webhook.delivery.duration",
    "histogram",
    "s",
    (WEBHOOK_ENDPOINT, WEBHOOK_EVENT_TYPE, WEBHOOK_OUTCOME, ERROR_TYPE),
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
DELIVERY_LAG: Final = MetricSpec(
    "confiture.webhook.delivery.lag",
    "histogram",
    "s",
    (WEBHOOK_ENDPOINT,),
    (1, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400),
)
DELIVERIES: Final = MetricSpec(
    "confiture.webhook.deliveries", "counter", "{delivery}", (WEBHOOK_ENDPOINT, WEBHOOK_OUTCOME)
)
RETRIES: Final = MetricSpec(
    "confiture.webhook.retries", "counter", "{retry}", (WEBHOOK_ENDPOINT, ERROR_TYPE)
)
FAILURES: Final = MetricSpec(
    "confiture.webhook.failures", "counter", "{failure}", (WEBHOOK_ENDPOINT, ERROR_TYPE)
)
OUTBOX_SIZE: Final = MetricSpec(
    "confiture.webhook.outbox.size",
    "observable up-down counter",
    "{delivery}",
    (WEBHOOK_STATE, DB_NAMESPACE),
)
OUTBOX_OLDEST: Final = MetricSpec(
    "confiture.webhook.outbox.oldest_timestamp", "observable gauge", "s", (DB_NAMESPACE,)
)
RUNS: Final = MetricSpec(
    "confiture.runs", "counter", "{run}", (COMMAND, RUN_OUTCOME, ERROR_TYPE, DB_NAMESPACE)
)
LAST_SUCCESS: Final = MetricSpec(
    "confiture.run.last_success_timestamp", "gauge", "s", (COMMAND, DB_NAMESPACE)
)
LAST_FAILURE: Final = MetricSpec(
    "confiture.run.last_failure_timestamp", "gauge", "s", (COMMAND, DB_NAMESPACE)
)
MIGRATION_DURATION: Final = MetricSpec(
    "confiture.migration.duration",
    "histogram",
    "s",
    (MIGRATION_DIRECTION, ERROR_TYPE),
    (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600),
)
REQUEST_DURATION: Final = MetricSpec(
    "http.client.request.duration",
    "histogram",
    "s",
    (
        *(HTTP_METHOD, HTTP_STATUS_CODE, ERROR_TYPE),
        *(SERVER_ADDRESS, SERVER_PORT, PROTOCOL_VERSION),
    ),
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
METRICS: Final = tuple(value for value in list(globals().values()) if type(value) is MetricSpec)

DELIVERED: Final = "delivered"
DEFERRED: Final = "deferred"
DEAD_LETTER: Final = "dead_letter"
GONE: Final = "gone"
OUTCOMES: Final = (DELIVERED, DEFERRED, DEAD_LETTER, GONE)
SUCCESS: Final = "success"
FAILURE: Final = "failure"
INTERRUPTED: Final = "Interrupted"
"""``error.type`` of a run that was killed."""
STATES: Final = ("pending", "dead_letter")


@dataclass(frozen=True, slots=True)
class LogSpec:
    """A log event: its name, level, fields beyond those every line has, and its sentence."""

    event: str
    level: str
    fields: tuple[str, ...]
    sentence: str
    """For people; a part between bars is left out when its field is not known."""


COMMON_FIELDS: Final = ("timestamp", "level", "event", "trace_id", "span_id", "correlation_id")
LOST: Final = ("lost_spans", "lost_metric_points", "lost_log_records")
_DELIVERY = ("endpoint", "event_type", "event_id", "delivery_id")
_ABOUT = ("migration_version", "migration_name", "environment")
_WHY = ("error_type", "reason")
_ENDED = (*_DELIVERY, "attempts", "status_code", "error_type", "duration_ms", *_ABOUT)
_MIGRATED = (*_ABOUT, "database", "direction", "duration_ms", "rows_affected")
_ATTEMPTED = "|: {error_type}|, {attempts}|, {duration_ms}"
_WHERE = "|: {error_type}|, {reason}|, file {file}|, line {line}"

LOG_DELIVERED: Final = LogSpec(
    "webhook.delivered",
    "info",
    (*_DELIVERY, "attempts", "status_code", "duration_ms", "lag_ms", *_ABOUT),
    "{subject} |delivered| to {endpoint}| in {duration_ms}|, {attempts}",
)
LOG_ATTEMPT_FAILED: Final = LogSpec(
    "webhook.attempt_failed",
    "warning",
    (*_DELIVERY, *_ABOUT, "attempt", "status_code", *_WHY, "duration_ms", "retry_in_s"),
    "{subject} |not accepted| by {endpoint}|: {error_type}|, {reason}|, attempt {attempt}"
    "|, {duration_ms}|, due again in {retry_in_s} s",
)
LOG_DEFERRED: Final = LogSpec(
    "webhook.deferred",
    "warning",
    (*_ENDED, "next_attempt_at"),
    f"{{subject}} |deferred| for {{endpoint}}{_ATTEMPTED}|, next attempt {{next_attempt_at}}",
)
LOG_DEAD_LETTERED: Final = LogSpec(
    "webhook.dead_lettered", "error", _ENDED, f"{{subject}} |given up| for {{endpoint}}{_ATTEMPTED}"
)
LOG_ENDPOINT_GONE: Final = LogSpec(
    "webhook.endpoint_gone",
    "error",
    _ENDED,
    f"{{subject}} |refused for good| by {{endpoint}}{_ATTEMPTED}",
)
LOG_HOOK_FAILED: Final = LogSpec(
    "hook.failed", "error", ("hook", "file", "line", *_WHY), f"hook |{{hook}} |failed{_WHERE}"
)
LOG_APPLIED: Final = LogSpec(
    "migration.applied", "info", _MIGRATED, "{subject} |applied| in {duration_ms}|, {rows_affected}"
)
LOG_ROLLED_BACK: Final = LogSpec(
    "migration.rolled_back",
    "info",
    _MIGRATED,
    "{subject} |rolled back| in {duration_ms}|, {rows_affected}",
)
LOG_MIGRATION_FAILED: Final = LogSpec(
    "migration.failed",
    "error",
    (*_MIGRATED, "error_type", "sqlstate"),
    "{subject} |failed| after {duration_ms}|: {error_type}|, {rows_affected}",
)
LOG_RUN_FAILED: Final = LogSpec(
    "run.failed",
    "error",
    ("command", "environment", "database", "error_type", "migrations_applied"),
    "{command} |failed| on {database}|: {error_type}|, {migrations_applied} applied",
)
LOG_INTENT_DISCARDED: Final = LogSpec(
    "webhooks.intent_discarded",
    "warning",
    ("event_id", "reason", "direction", *_ABOUT),
    "{subject} |ended unknown|: {reason}",
)
LOG_CONFIG_INVALID: Final = LogSpec(
    "webhooks.config_invalid", "error", ("faults",), "wrong configuration|: {faults}"
)
LOG_OUTBOX_FAILED: Final = LogSpec(
    "webhooks.outbox_failed", "error", ("reason",), "outbox failed|: {reason}"
)
LOG_FAILED: Final = LogSpec(
    "webhooks.failed",
    "error",
    ("where", "error_type", "file", "line"),
    f"internal fault| in {{where}}{_WHERE}",
)
LOG_FLUSH_INCOMPLETE: Final = LogSpec(
    "telemetry.flush_incomplete",
    "warning",
    ("budget_s", "lost", *LOST, "reason"),
    "telemetry lost|: {lost}| ({lost_spans}|, {lost_metric_points}|, {lost_log_records})"
    "|, within {budget_s} s|: {reason}",
)
LOG_EVENTS: Final = tuple(value for value in list(globals().values()) if type(value) is LogSpec)
ENDINGS: Final = {
    DELIVERED: LOG_DELIVERED,
    DEFERRED: LOG_DEFERRED,
    DEAD_LETTER: LOG_DEAD_LETTERED,
    GONE: LOG_ENDPOINT_GONE,
}
