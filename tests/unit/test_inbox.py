"""The inbox: what it answers, that each event is handled once, and what a receiver can read."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from confiture_webhooks.delivery import decide
from confiture_webhooks.errors import ConfigError
from confiture_webhooks.event import Database, Direction, EventType, body, payload
from confiture_webhooks.formats import render
from confiture_webhooks.inbox import Inbox, ReplayWindow, Turn
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.signature import Verified, body_signature, verify, webhook_signature
from samples import AT, DATABASE, ERROR, REF, TRACE, TRACE_ID, attempt, endpoint, event

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CONTENT = body(payload(event(), "a"))


def signed(content: bytes = CONTENT, *, event_id: str = "evt_1") -> dict[str, str]:
    """The headers of a request sent now."""
    now = datetime.now(UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook_signature([SECRET], event_id, now, content),
        "traceparent": TRACE.traceparent,
    }


def verified(document: dict[str, Any]) -> Verified:
    """The event of a signed request with *document*."""
    content = body(document)
    return verify(signed(content), content, SECRET)


def test_an_authentic_event_is_handled() -> None:
    """The handler gets the event, the sender a success."""
    handled: list[Verified] = []
    reply = Inbox(SECRET, handled.append).receive(signed(), CONTENT)
    assert (reply.status, reply.document) == (200, {"status": "received"})
    assert [one.id for one in handled] == ["evt_1"]


def test_a_stranger_is_refused() -> None:
    """What is not authentic never reaches the handler."""
    handled: list[Verified] = []
    reply = Inbox(SECRET, handled.append).receive(signed(), CONTENT + b" ")
    assert (reply.status, handled) == (401, [])


def test_a_body_beyond_the_limit_is_refused() -> None:
    """A receiver's own limit holds."""
    inbox = Inbox(SECRET, print, max_body=len(CONTENT) - 1)
    assert inbox.receive(signed(), CONTENT).status == 401


def test_a_second_attempt_is_answered_and_not_handled() -> None:
    """An attempt whose answer got lost comes again: success, and nothing happens twice."""
    handled: list[Verified] = []
    inbox = Inbox(SECRET, handled.append)
    replies = [inbox.receive(signed(), CONTENT).document["status"] for _ in range(3)]
    assert replies == ["received", "handled before", "handled before"]
    assert len(handled) == 1


def test_what_failed_is_handled_when_it_comes_again() -> None:
    """A handler that raised gets the event again with the next attempt."""
    handled: list[Verified] = []

    def handle(one: Verified) -> None:
        handled.append(one)
        if len(handled) == 1:
            raise LookupError

    inbox = Inbox(SECRET, handle)
    with pytest.raises(LookupError):
        inbox.receive(signed(), CONTENT)
    assert inbox.receive(signed(), CONTENT).document == {"status": "received"}
    assert len(handled) == 2


def test_an_attempt_beside_one_at_work_is_put_off() -> None:
    """A success said too early would lose an event whose handler then fails. Others need not wait."""
    is_at_work, may_end = threading.Event(), threading.Event()

    def handle(_: Verified) -> None:
        is_at_work.set()
        assert may_end.wait(20)

    inbox = Inbox(SECRET, handle)
    first = threading.Thread(target=inbox.receive, args=(signed(), CONTENT))
    first.start()
    assert is_at_work.wait(20)
    second = inbox.receive(signed(), CONTENT)
    may_end.set()
    first.join(20)
    assert (second.status, second.headers) == (409, {"Retry-After": "5"})
    answered = attempt(status_code=second.status, retry_after=timedelta(seconds=5))
    assert decide(RetryPolicy(), answered, tries=1, now=AT, spread=0.5).rests_until is None
    assert inbox.receive(signed(), CONTENT).document == {"status": "handled before"}


def test_without_a_time_the_id_is_the_bodys() -> None:
    """The guide's signature alone is accepted when asked for, each event once."""
    handled: list[Verified] = []
    inbox = Inbox(SECRET, handled.append, require_timestamp=False)
    headers = {"X-Confiture-Signature": body_signature(SECRET, CONTENT)}
    assert [inbox.receive(headers, CONTENT).status for _ in range(2)] == [200, 200]
    assert [one.id for one in handled] == ["evt_1"]


@pytest.mark.parametrize("secret", ["", "whsec_?", []])
def test_a_secret_that_cannot_sign_is_reported_at_the_start(secret: Any) -> None:
    """The receiver's own mistake is not left to its first request."""
    with pytest.raises(ConfigError):
        Inbox(secret, print)


def test_the_window_forgets_what_is_old() -> None:
    """An id is known for as long as was asked, and not for ever."""
    now = [0.0]
    window = ReplayWindow(kept_for=timedelta(seconds=10), clock=lambda: now[0])
    window.begin("a")
    window.done("a")
    now[0] = 10.0
    assert window.begin("a") is Turn.DONE
    now[0] = 10.1
    assert window.begin("a") is Turn.FIRST


def test_a_window_of_the_receivers_own_is_used_while_it_is_empty() -> None:
    """One that counts its ids is false before the first: two processes would each handle it."""

    class Shared(ReplayWindow):
        ids: set[str] = set()  # noqa: RUF012  what processes share

        def __len__(self) -> int:
            return len(self.ids)

        def begin(self, event_id: str) -> Turn:
            return Turn.DONE if event_id in self.ids else Turn.FIRST

        def done(self, event_id: str) -> None:
            self.ids.add(event_id)

    handled: list[Verified] = []
    processes = [Inbox(SECRET, handled.append, window=Shared()) for _ in range(2)]
    assert [one.receive(signed(), CONTENT).status for one in processes] == [200, 200]
    assert len(handled) == 1


def test_the_window_is_bounded() -> None:
    """However many ids come, it keeps the latest and no more."""
    window = ReplayWindow(most=2)
    for event_id in "abc":
        assert window.begin(event_id) is Turn.FIRST
        window.done(event_id)
    assert [window.begin(event_id) for event_id in "bca"] == [Turn.DONE, Turn.DONE, Turn.FIRST]


def test_what_was_sent_can_be_read() -> None:
    """Every fact of the payload is there with a type of its own."""
    failure = event(type=EventType.MIGRATION_ERROR, error=ERROR)
    found = verified(payload(failure, "a", include_sql=True))
    assert found.type is EventType.MIGRATION_ERROR
    assert (found.migration, found.direction) == (REF, Direction.UP)
    assert found.migration is not None
    assert found.migration.name == "005_add_payment_table"
    assert (found.environment, found.error) == ("production", ERROR)
    assert found.database == Database(
        host=DATABASE.host, name=DATABASE.name, schema=DATABASE.schema
    )
    assert (found.duration_s, found.rows_affected) == (failure.duration_s, failure.rows_affected)
    assert found.occurred_at == AT.replace(microsecond=123000)
    assert (found.correlation_id, found.traceparent) == (TRACE_ID, TRACE.traceparent)


def test_a_run_can_be_read() -> None:
    """A run has its migrations, and the environment without one."""
    rows = [{"version": "1", "name": "1_a"}]
    run = event(type=EventType.RUN_SUCCESS, migration=None, migrations=rows)
    found = verified(payload(run, "a"))
    assert (found.type, found.migrations, found.migration) == ("run_success", tuple(rows), None)
    assert found.environment == "production"


def test_a_cloudevent_can_be_read() -> None:
    """The event inside a CloudEvent is read the same."""
    content = render(event(), endpoint(format="cloudevents"))[0]
    found = verify(signed(content), content, SECRET)
    assert (found.type, found.migration) == (EventType.MIGRATION_SUCCESS, REF)
    assert found.correlation_id == TRACE_ID


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"event_type": "something_new", "migration": {"version": 5, "name": []}},
        {"event_type": 7, "timestamp": "yesterday", "error": {"type": None}, "migrations": {}},
        {"timestamp": "2026-01-09T14:23:45", "execution": {"duration_seconds": True}},
        {"execution": {"duration_seconds": 10**400, "rows_affected": "9"}, "migrations": [1]},
        {"specversion": "1.0", "data": 5, "database": [], "direction": "sideways"},
    ],
)
def test_another_shape_is_nothing_and_no_error(document: dict[str, Any]) -> None:
    """Authentic is not well-formed: what cannot be read is ``None``."""
    found = verified(document)
    assert found.type in (None, "something_new")
    facts = (found.migration, found.direction, found.error, found.duration_s, found.occurred_at)
    assert facts == (None,) * 5
    assert (found.rows_affected, found.migrations, found.environment) == (None, (), None)
    assert found.database == Database()
