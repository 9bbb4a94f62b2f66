"""The fakes for users' own tests keep the promises of the ports they stand in for."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.errors import CUT, TransportError
from confiture_webhooks.testing import InMemoryOutbox, ScriptedTransport, captured
from confiture_webhooks.transport import Request, Response, prepare
from engines import FakeEngine, a_migration
from samples import AT, delivery, endpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confiture_webhooks.testing import Reply

SECOND = timedelta(seconds=1)


def request(name: str = "a") -> Request:
    """A request to endpoint *name*."""
    return prepare(endpoint(name=name), delivery(), attempt=1, at=AT)


def answers(transport: ScriptedTransport, count: int, name: str = "a") -> list[int | str]:
    """What *count* sends to endpoint *name* led to."""
    got: list[int | str] = []
    for _ in range(count):
        try:
            got.append(transport.send(request(name), timeout=SECOND).status_code)
        except TransportError as error:
            got.append(error.error_type)
    return got


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([], [200, 200]),
        ([503], [503, 200]),
        (["timeout", 410], ["timeout", 410]),
        ([Response(status_code=429, retry_after=SECOND)], [429, 200]),
    ],
)
def test_replies_come_in_order_and_then_success(
    script: Sequence[Reply], expected: list[int | str]
) -> None:
    """Statuses, error types and whole responses are answered in order, then 200."""
    assert answers(ScriptedTransport({"a": script}), 2) == expected


def test_each_endpoint_has_its_own_script() -> None:
    """One endpoint's replies are not used up by another."""
    transport = ScriptedTransport({"a": [500], "b": [501]})
    assert answers(transport, 2, "b") == [501, 200]
    assert answers(transport, 1, "a") == [500]


def test_a_whole_response_keeps_its_hint() -> None:
    """A scripted ``Retry-After`` reaches the caller."""
    transport = ScriptedTransport({"a": [Response(status_code=429, retry_after=SECOND)]})
    assert transport.send(request(), timeout=SECOND).retry_after == SECOND


def test_what_was_sent_is_kept() -> None:
    """Requests and their timeouts can be looked at afterwards."""
    transport = ScriptedTransport()
    answers(transport, 2)
    assert transport.sent == [request(), request()]
    assert transport.timeouts == [SECOND, SECOND]


def test_after_an_abort_every_send_is_cut() -> None:
    """An aborted transport answers nothing more."""
    transport = ScriptedTransport()
    transport.abort()
    assert answers(transport, 2) == [CUT, CUT]


def test_closing_is_noted() -> None:
    """A test can see that the transport was closed."""
    transport = ScriptedTransport()
    transport.close()
    assert transport.is_closed


def test_captured_collects_what_would_be_sent() -> None:
    """Every event of the block is there afterwards, as its receiver would have seen it."""
    engine: Any = FakeEngine()
    with captured(engine) as sent:
        engine.apply(a_migration())
        assert sent == []
    kinds = [webhook.payload["event_type"] for webhook in sent]
    assert kinds == ["migration_started", "migration_success", "run_success"]
    for webhook in sent:
        assert webhook.headers["X-Correlation-ID"] == webhook.payload["trace_id"]
        assert webhook.headers["webhook-id"] == webhook.payload["event_id"]


def test_captured_sees_a_failure_and_lets_it_through() -> None:
    """A failing migration raises as always, and its error is among what was captured."""
    engine: Any = FakeEngine(ZeroDivisionError("canary"))
    with pytest.raises(ZeroDivisionError), captured(engine) as sent:
        engine.apply(a_migration())
    (failure,) = [w.payload for w in sent if w.payload["event_type"] == "migration_error"]
    assert failure["error"]["type"] == "ZeroDivisionError"
    assert "canary" not in str(failure)


def test_captured_sees_that_the_block_failed() -> None:
    """An error after the last migration fails the run, as with ``attach``."""
    engine: Any = FakeEngine()
    with suppress(ZeroDivisionError), captured(engine) as sent:
        engine.apply(a_migration())
        raise ZeroDivisionError
    kinds = [webhook.payload["event_type"] for webhook in sent]
    assert kinds == ["migration_started", "migration_success", "run_error"]


def test_an_outbox_in_memory_that_nobody_holds_leaves_nothing_open() -> None:
    """It can be read after a run; Python warns of a connection that is never closed."""
    outbox = InMemoryOutbox()
    outbox.close()
    assert outbox.deliveries() == []
    connection = vars(vars(outbox)["_store"])["_connection"]
    del outbox
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_rehearsal_is_not_captured() -> None:
    """``apply(commit=False)`` sends nothing."""
    engine: Any = FakeEngine()
    with captured(engine) as sent:
        engine.apply(a_migration(), commit=False)
    assert sent == []


def test_after_the_block_nothing_more_is_captured() -> None:
    """The list is complete when the block is left."""
    engine: Any = FakeEngine()
    with captured(engine) as sent:
        pass
    engine.apply(a_migration())
    assert sent == []
    assert len(engine.applied) == 1
