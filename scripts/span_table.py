"""The spans of a run and their attributes, as ``docs/telemetry.md`` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from confiture_webhooks.telemetry.names import (
    APPLY,
    DB_NAMESPACE,
    DB_STATUS_CODE,
    DB_SYSTEM,
    DEAD_LETTERED,
    DELAY_S,
    DELIVER,
    DRAIN,
    DURATION_S,
    ERROR_TYPE,
    HANDLE,
    HOOK_EVENT,
    HTTP_METHOD,
    HTTP_RESEND_COUNT,
    HTTP_STATUS_CODE,
    MIGRATION_DIRECTION,
    MIGRATION_DONE,
    MIGRATION_NAME,
    MIGRATION_ROWS_AFFECTED,
    MIGRATION_VERSION,
    PROTOCOL_VERSION,
    RETRY_SCHEDULED,
    ROLL_BACK,
    RUN_APPLIED,
    RUN_FAILED,
    RUN_HOOK,
    SERVER_ADDRESS,
    SERVER_PORT,
    URL_FULL,
    WEBHOOK_ATTEMPTS,
    WEBHOOK_CLAIMED,
    WEBHOOK_CORRELATION_ID,
    WEBHOOK_DELIVERY_ID,
    WEBHOOK_ENDPOINT,
    WEBHOOK_EVENT_ID,
    WEBHOOK_EVENT_TYPE,
    WEBHOOK_OUTCOME,
)

SPAN_EVENTS: Final = MappingProxyType(
    {
        RETRY_SCHEDULED: (DELAY_S, ERROR_TYPE, HTTP_STATUS_CODE),
        DEAD_LETTERED: (),
        MIGRATION_DONE: (
            MIGRATION_VERSION,
            MIGRATION_NAME,
            MIGRATION_DIRECTION,
            MIGRATION_ROWS_AFFECTED,
            DURATION_S,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class SpanSpec:
    """A span's name (a part in angle brackets varies), kinds and attributes of ours.

    *parent* and *note* are what the documentation says of it.
    """

    name: str
    kind: str
    attributes: tuple[str, ...]
    parent: str
    note: str = ""
    events: tuple[str, ...] = ()


_OUTSIDE: Final = "`TRACEPARENT` of the environment if valid, else none"

SPANS: Final = MappingProxyType(
    {
        "run": SpanSpec(
            "confiture migrate up",
            "INTERNAL",
            (
                DB_SYSTEM,
                DB_NAMESPACE,
                SERVER_ADDRESS,
                SERVER_PORT,
                RUN_APPLIED,
                RUN_FAILED,
                ERROR_TYPE,
            ),
            _OUTSIDE,
            "ERROR if the run failed",
            (MIGRATION_DONE,),
        ),
        "migration": SpanSpec(
            f"{APPLY}, {ROLL_BACK}",
            "INTERNAL",
            (
                MIGRATION_VERSION,
                MIGRATION_NAME,
                MIGRATION_DIRECTION,
                MIGRATION_ROWS_AFFECTED,
                ERROR_TYPE,
                DB_STATUS_CODE,
            ),
            "run",
            "ERROR if it failed; `error.type` is the SQLSTATE, or the class of the error",
        ),
        "delivery": SpanSpec(
            f"{DELIVER} <endpoint>",
            "INTERNAL, CONSUMER",
            (
                WEBHOOK_ENDPOINT,
                WEBHOOK_EVENT_TYPE,
                WEBHOOK_EVENT_ID,
                WEBHOOK_DELIVERY_ID,
                WEBHOOK_CORRELATION_ID,
                WEBHOOK_OUTCOME,
                WEBHOOK_ATTEMPTS,
                ERROR_TYPE,
            ),
            "migration (run for the run's own events), or the stored context",
            "ERROR unless delivered",
            (RETRY_SCHEDULED, DEAD_LETTERED),
        ),
        "attempt": SpanSpec(
            "POST",
            "CLIENT",
            (
                HTTP_METHOD,
                HTTP_RESEND_COUNT,
                HTTP_STATUS_CODE,
                PROTOCOL_VERSION,
                SERVER_ADDRESS,
                SERVER_PORT,
                URL_FULL,
                ERROR_TYPE,
            ),
            "delivery",
            "ERROR from status 400 on, or without an answer. Its names are the stable HTTP "
            "conventions'; `url.full` holds scheme, host and port only",
        ),
        "user hook": SpanSpec(
            f"{RUN_HOOK} <module>:<function>",
            "INTERNAL",
            (HOOK_EVENT, ERROR_TYPE),
            "migration",
            "ERROR if it raised or ran out of time",
        ),
        "worker pass": SpanSpec(DRAIN, "INTERNAL", (WEBHOOK_CLAIMED,), _OUTSIDE),
        "receiver": SpanSpec(
            HANDLE,
            "CONSUMER",
            (WEBHOOK_EVENT_TYPE, WEBHOOK_EVENT_ID, WEBHOOK_CORRELATION_ID, ERROR_TYPE),
            "the attempt, or the span a framework's instrumentation has opened",
            "in a receiver that uses `Inbox`; ERROR if its handler raised",
        ),
    }
)
