"""What goes out of a run: made on first use, replaced when its store breaks, bounded in its end."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.pq import TransactionStatus

from confiture_webhooks.bounded import bounded
from confiture_webhooks.config import Settings
from confiture_webhooks.delivery import State
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.event import EventType, payload
from confiture_webhooks.formats import FORMATS, Format
from confiture_webhooks.outbox import Intent, Outbox
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.run import Parts, recorder, run_outbox, sending
from confiture_webhooks.run.recorder import Recorder
from confiture_webhooks.testing import ScriptedTransport
from contract.made import committed, event_id, intent
from engines import FakeConnection
from fakes import Breaking, FakeTelemetry, Joining
from samples import ERROR, TRACE, TRACE_ID, delivery, endpoint, event

LATER = RetryPolicy(schedule=(timedelta(hours=1),))


class Bench:
    """What goes out, over parts that are counted as they are made."""

    def __init__(self, *endpoints: Any, **parts: Any) -> None:
        self.telemetry = FakeTelemetry()
        self.outbox = InMemoryOutbox()
        self.transport = ScriptedTransport()
        self.made: list[str] = []
        self.settings = Settings(
            endpoints=endpoints or (endpoint(name="a", retry=LATER),), environment="production"
        )
        self.recorder = self.with_parts(**parts)

    def with_parts(self, **parts: Any) -> Recorder:
        """What goes out over the usual parts and these."""
        usual: dict[str, Any] = {
            "telemetry": lambda: self.telemetry,
            "outbox": lambda _: self._make("outbox"),
            "transport": lambda: self._make("transport"),
        }
        made = Parts(**usual | parts)  # type: ignore[arg-type]
        outbox = run_outbox.RunOutbox(self.settings, made, self.telemetry)
        sends = sending.Sending(self.settings, made, self.telemetry, outbox)
        outbox.abandon = sends.abandon
        return Recorder(self.settings, self.telemetry, "up", outbox, sends)

    @property
    def spare(self) -> Outbox:
        """What is used now, once memory stands in."""
        assert self.recorder.outbox.current is not None
        return self.recorder.outbox.current

    def _make(self, name: str) -> Any:
        self.made.append(name)
        return getattr(self, name)

    def end(self) -> str | None:
        """Flush, stop and close; the lines to read."""
        self.recorder.sending.flush(time.monotonic() + 20)
        lines = self.recorder.sending.stop()
        self.recorder.sending.close()
        return "\n".join(lines) or None


def test_nothing_reported_writes_nothing() -> None:
    """Without an event and without left-overs, no part is made and there is nothing to read."""
    bench = Bench()
    assert bench.end() is None
    assert bench.made == []


def test_an_event_without_an_endpoint_starts_no_worker() -> None:
    """An event without a subscriber opens the outbox alone."""
    bench = Bench()
    bench.recorder.record(event(type=EventType.RUN_SUCCESS), TRACE)
    assert bench.made == ["outbox"]
    assert bench.end() is None


def test_a_format_that_cannot_be_made_is_reported_and_delivered_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A renderer that breaks costs its endpoint the format, and the others nothing."""
    monkeypatch.setitem(FORMATS, "slack", Format(make=broken))
    bench = Bench(endpoint(name="a", format="slack"), endpoint(name="b", format="discord"))
    bench.recorder.record(event(), TRACE)
    assert bench.end() is None
    bodies = {sent.endpoint: json.loads(sent.body) for sent in bench.transport.sent}
    assert bodies["a"] == payload(event(command="up"), "a")
    assert "embeds" in bodies["b"]
    assert [where for where, _ in bench.telemetry.faults] == ["format"]


def broken(*_: Any) -> Any:
    raise AttributeError("the host moved on")


def test_an_event_is_one_delivery_for_each_that_wants_it() -> None:
    """Each subscribed endpoint gets the event, with its own name in it."""
    bench = Bench(
        endpoint(name="a"),
        endpoint(name="b", events=frozenset({EventType.RUN_ERROR})),
        endpoint(name="c"),
    )
    bench.recorder.record(event(), TRACE)
    assert bench.end() is None
    bodies = [json.loads(request.body) for request in bench.transport.sent]
    assert sorted(body["webhook_target"] for body in bodies) == ["a", "c"]
    assert {body["event_id"] for body in bodies} == {"evt_1"}


def test_a_delivery_holds_what_is_needed_to_continue() -> None:
    """Trace, correlation id, times and names of the event are kept with its delivery."""
    bench = Bench()
    bench.recorder.record(event(), TRACE)
    bench.end()
    (row,) = bench.outbox.deliveries()
    kept = row.delivery
    assert kept.id.startswith("dlv_")
    assert (kept.event_id, kept.endpoint, kept.trace) == ("evt_1", "a", TRACE)
    assert (kept.correlation_id, kept.created_at) == (TRACE_ID, event().occurred_at)
    assert kept.migration_version == "005"
    assert kept.migration_name == "005_add_payment_table"
    assert (kept.environment, kept.content_type) == ("production", "application/json")


def test_sql_goes_only_where_it_was_asked_for() -> None:
    """The whole text of an error is in the body for the endpoint that asks, and in no other."""
    bench = Bench(endpoint(name="a"), endpoint(name="b", include_sql=True))
    bench.recorder.record(event(type=EventType.MIGRATION_ERROR, error=ERROR), TRACE)
    bench.end()
    bodies = {request.endpoint: request.body for request in bench.transport.sent}
    assert b"SELECT" in bodies["b"]
    assert b"SELECT" not in bodies["a"]


def test_each_part_is_made_once() -> None:
    """Many events share one outbox and one transport."""
    bench = Bench()
    for number in range(5):
        bench.recorder.record(event(id=f"evt_{number}"), TRACE)
    bench.end()
    assert sorted(bench.made) == ["outbox", "transport"]
    assert len(bench.transport.sent) == 5


def test_the_configured_outbox_is_the_one_that_is_measured() -> None:
    """Metrics read the configured outbox; after it broke, memory does not answer in its place."""
    bench = Bench()
    bench.outbox.is_durable = True  # type: ignore[misc]
    bench.recorder.record(event(), TRACE)
    bench.end()
    assert bench.telemetry.observed[-1]().counts == {State.DELIVERED: 1}
    bench = Bench()
    bench.outbox = Breaking(bench.outbox, "release", OutboxError("full"))  # type: ignore[assignment]
    bench.recorder.record(event(), TRACE)
    bench.end()
    assert len(bench.telemetry.observed) == 2
    with pytest.raises(OutboxError, match="stands in"):
        bench.telemetry.observed[-1]()


def test_a_store_that_breaks_is_closed_and_replaced() -> None:
    """When the outbox refuses, it is let go of, the reason is reported, and memory takes over."""
    bench = Bench()
    closed: list[str] = []
    bench.outbox.close = lambda: closed.append("outbox")  # type: ignore[method-assign]
    bench.outbox = Breaking(bench.outbox, "release", OutboxError("full"))  # type: ignore[assignment]
    bench.recorder.record(event(), TRACE)
    assert bench.end() is None
    assert bench.made == ["outbox", "transport"]
    assert bench.telemetry.outbox_failures == ["full"]
    assert closed == ["outbox"]
    assert len(bench.transport.sent) == 1


def test_a_store_that_cannot_even_be_closed_is_replaced() -> None:
    """A broken outbox that refuses to close does not keep the run from going on."""
    bench = Bench()
    broken = Breaking(bench.outbox, "release", OutboxError("full"))
    bench.outbox = Breaking(broken, "close", OutboxError("worse"))  # type: ignore[assignment]
    bench.recorder.record(event(), TRACE)
    assert bench.end() is None
    assert len(bench.transport.sent) == 1


def test_a_store_that_cannot_be_opened_is_replaced_once() -> None:
    """When opening fails, memory is used from then on, and the reason is reported once."""

    def refuse(_: Any) -> Any:
        raise OutboxError("read-only")

    bench = Bench(outbox=refuse)
    for number in range(3):
        bench.recorder.record(event(id=f"evt_{number}"), TRACE)
    assert bench.end() is None
    assert bench.telemetry.outbox_failures == ["read-only"]


@pytest.mark.parametrize("is_opened", [True, False])
def test_what_memory_holds_goes_back_into_a_store_that_works_again(is_opened: bool) -> None:
    """Locked for a while, full for a while: what is not delivered at the end is not lost."""
    bench = Bench(endpoint(name="a", retry=LATER), endpoint(name="b"))
    bench.transport = ScriptedTransport({"a": [503, 200, 503]})
    store = bench.outbox
    store.is_durable = True
    states = iter(
        [
            Breaking(store, "release", OutboxError("locked")) if is_opened else InMemoryOutbox(),
            store,
        ]
    )
    bench.recorder = bench.with_parts(outbox=lambda _: next(states))
    store.stage(intent(1))
    for number in (1, 2, 3):
        bench.recorder.record(event(id=event_id(number)), TRACE)
        bench.recorder.sending.flush(time.monotonic() + 20)
    line = bench.end()
    assert line is not None
    assert line.startswith("confiture-webhooks: 2 deliveries not sent (a: 2")
    assert "Each is kept, and sent by the next run when it is due" in line
    kept = [(row.delivery.event_id, row.delivery.endpoint) for row in store.deliveries()]
    assert sorted(kept) == [(event_id(1), "a"), (event_id(3), "a")]
    assert store.intents() == []
    store.release(event_id(2), [delivery(event_id=event_id(2))])
    assert len(store.deliveries()) == 2  # reported already: not a second time


def test_what_memory_delivered_is_not_settled_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is back in a moment learns what was delivered, and keeps what is not known."""
    bench, tries = Bench(), 0
    store = bench.outbox
    store.is_durable = True

    def make(_: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            return Breaking(store, "release", OutboxError("gone"))
        return store if tries > 3 else Breaking(store, "release", OutboxError("starting"))

    monkeypatch.setattr(run_outbox, "time", SimpleNamespace(monotonic=time.monotonic, sleep=int))
    bench.recorder = bench.with_parts(outbox=make)
    bench.recorder.stage(intent(1))
    bench.recorder.record(event(id=event_id(1)), TRACE)
    bench.recorder._write([run_outbox.Kept(intent=intent(2))])
    assert bench.end() is None
    assert len(bench.transport.sent) == 1
    assert [one.event_id for one in store.intents()] == [event_id(2)]
    assert tries == 4


def test_what_memory_gave_up_is_not_lost_either() -> None:
    """A dead letter of memory is due again in the store, and the line does not call it lost."""
    bench = Bench(endpoint(name="a", retry=RetryPolicy(schedule=())))
    bench.transport = ScriptedTransport({"a": [500]})
    store = bench.outbox
    store.is_durable = True
    states = iter([Breaking(store, "release", OutboxError("locked")), store])
    bench.recorder = bench.with_parts(outbox=lambda _: next(states))
    bench.recorder.record(event(), TRACE)
    line = bench.end()
    assert line is not None
    assert "lost" not in line
    assert [row.state for row in store.deliveries()] == [State.PENDING]


def test_what_memory_gave_up_of_a_killed_run_is_handed_over_whole() -> None:
    """Its last migration and the run itself were released in one step: the store gets both."""
    bench = Bench(endpoint(name="a", retry=RetryPolicy(schedule=())))
    bench.transport = ScriptedTransport({"a": [500, 500]})
    store = bench.outbox
    store.is_durable = True
    states = iter([Breaking(store, "release", OutboxError("locked")), store])
    bench.recorder = bench.with_parts(outbox=lambda _: next(states))
    last = delivery(id="dlv_1", event_id="evt_1", endpoint="a")
    whole = delivery(id="dlv_2", event_id="evt_2", endpoint="a", event_type=EventType.RUN_ERROR)
    bench.recorder.release("evt_1", [last], ("evt_2", [whole]))
    bench.end()
    assert {row.delivery.event_id for row in store.deliveries()} == {"evt_1", "evt_2"}


def test_what_memory_holds_stays_there_while_the_store_refuses() -> None:
    """A store that still refuses costs one more try, and the line says that it is lost."""
    bench = Bench()
    bench.transport = ScriptedTransport({"a": [503]})
    closed: list[str] = []
    bench.outbox.close = lambda: closed.append("outbox")  # type: ignore[method-assign]
    bench.outbox.is_durable = True
    bench.outbox = Breaking(bench.outbox, "release", OutboxError("full"))  # type: ignore[assignment]
    bench.recorder.record(event(), TRACE)
    line = bench.end()
    assert line is not None
    assert "lost with this process" in line
    assert bench.made == ["outbox", "transport", "outbox"]
    assert closed == ["outbox", "outbox"]


class Lying(InMemoryOutbox):
    """Lies in the migrated database: notes what is written over its connection, and what not."""

    def __init__(self) -> None:
        super().__init__()
        self.is_durable = True
        self.written: list[str] = []
        self.beside: list[str] = []
        self.refuses = False
        self.refusal: Exception = OutboxError("refused")

    def over(self, _: Any) -> Outbox:
        return Over(self)

    def stage(self, intent: Any) -> None:
        self.beside.append(f"stage {intent.event_id}")

    def release(self, event_id: str, deliveries: Any, *_: Any) -> bool:
        self.beside.append(f"release {event_id}")
        return super().release(event_id, deliveries)


class Over(Outbox):
    """*lying* by way of the connection."""

    def __init__(self, lying: Lying) -> None:
        super().__init__(lying._store)
        self._lying = lying

    def stage(self, intent: Any) -> None:
        self._write(f"stage {intent.event_id}")

    def release(self, event_id: str, deliveries: Any, *_: Any) -> bool:
        self._write(f"release {event_id}")
        return super().release(event_id, deliveries)

    def _write(self, what: str) -> None:
        if self._lying.refuses:
            raise self._lying.refusal
        self._lying.written.append(what)


def lent(outbox: Any) -> tuple[Any, Any]:
    """A bench whose outbox lies in the database of a connection that it was lent."""
    bench, connection = Bench(), FakeConnection()
    bench.outbox = outbox
    bench.recorder.write_over(connection)
    return bench, connection


def test_while_the_run_migrates_everything_goes_over_its_connection() -> None:
    """No second session, and no worker, until the connection is given back."""
    bench, _ = lent(outbox := Lying())
    bench.recorder.stage(intent(1))
    bench.recorder.record(event(), TRACE)
    assert outbox.written == [f"stage {event_id(1)}", "release evt_1"]
    assert bench.made == ["outbox"]
    bench.recorder.give_back()
    assert bench.end() is None
    assert outbox.beside == []
    assert len(bench.transport.sent) == 1


@pytest.mark.parametrize("why", ["busy", "thread", "refused", "faulty"])
def test_what_cannot_be_written_over_it_is_written_afterwards_once(why: str) -> None:
    """In a transaction, from a hook's thread, or refused: it waits, in order."""
    bench, connection = lent(outbox := Lying())
    outbox.refuses = why in {"refused", "faulty"}
    if why == "faulty":
        outbox.refusal = ValueError("a fault of ours")
    if why == "busy":
        connection.info.transaction_status = TransactionStatus.INTRANS

    def record() -> None:
        bench.recorder.stage(intent(1))
        bench.recorder.record(event(), TRACE)

    if why == "thread":
        bounded(record, 5)
    else:
        record()
    assert outbox.written == outbox.beside == []
    connection.closed = True
    bench.recorder.give_back()
    assert outbox.beside == [f"stage {event_id(1)}", "release evt_1"]
    assert bench.end() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_what_was_kept_survives_a_fault_while_it_is_written(error: BaseException) -> None:
    """Ctrl-C, or a fault of ours, loses nothing that waits: it is written with the next try."""
    bench, connection = lent(outbox := Lying())
    outbox.refuses = True
    bench.recorder.stage(intent(1))
    bench.recorder.record(event(), TRACE)
    connection.closed = True
    release, outbox.release = outbox.release, Breaking(None, "_", error)._call
    with pytest.raises(type(error)):
        bench.recorder.give_back()
    outbox.release = release
    bench.recorder.give_back()
    assert outbox.beside[-1] == "release evt_1"
    assert bench.end() is None
    assert len(bench.transport.sent) == 1


def test_what_was_kept_survives_ctrl_c_while_the_outbox_is_asked_what_it_holds() -> None:
    """What went over the connection before is asked for: what waits is written with the next try."""
    bench, connection = lent(outbox := Lying())
    bench.recorder.record(event(), TRACE)
    connection.info.transaction_status = TransactionStatus.INTRANS
    bench.recorder.record(event(id="evt_2"), TRACE)
    assert outbox.written == ["release evt_1"]
    outbox.is_made_anew = Breaking(None, "_", KeyboardInterrupt())._call  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.recorder.give_back()
    outbox.is_made_anew = lambda: False  # type: ignore[method-assign]
    bench.recorder.give_back()
    assert outbox.beside == ["release evt_2"]
    assert bench.end() is None
    assert len(bench.transport.sent) == 2


def test_an_outbox_that_cannot_be_opened_is_lent_no_connection() -> None:
    """Memory takes its place at the first event, as everywhere."""

    def refuse(_: Any) -> Any:
        raise OutboxError("no such database")

    bench = Bench(outbox=refuse)
    with pytest.raises(OutboxError):
        bench.recorder.write_over(FakeConnection())
    bench.recorder.record(event(), TRACE)
    assert bench.recorder.intents() == []
    assert bench.end() is None
    assert len(bench.transport.sent) == 1


def test_a_slow_refusal_is_not_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody keeps the tables locked: the rest waits until the connection is given back."""
    monkeypatch.setattr(recorder, "SLOW_S", -1.0)
    bench, connection = lent(outbox := Lying())
    asked: list[str] = []

    def refuse(_: Over, one: Intent) -> None:
        asked.append(one.event_id)
        raise OutboxError("locked")

    monkeypatch.setattr(Over, "stage", refuse)
    for number in (1, 2):
        bench.recorder.stage(intent(number))
    assert not bench.recorder.stage_committed(connection, committed(1))
    bench.recorder.record(event(), TRACE)
    assert (asked, outbox.written) == ([event_id(1)], [])
    bench.recorder.give_back()
    assert outbox.beside == [f"stage {event_id(1)}", f"stage {event_id(2)}", "release evt_1"]
    bench.end()


def test_after_a_slow_refusal_the_connection_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kill is then survived again; never in a transaction, and not for ever."""
    monkeypatch.setattr(recorder, "SLOW_S", -1.0)
    monkeypatch.setattr(recorder, "AGAIN_S", 0.0)
    bench, connection = lent(outbox := Lying())
    outbox.refuses = True
    bench.recorder.stage(intent(1))
    outbox.refuses = False
    assert not bench.recorder.stage_committed(connection, committed(1))
    assert outbox.written == []
    bench.recorder.stage(intent(2))
    assert outbox.written == [f"stage {event_id(1)}", f"stage {event_id(2)}"]
    outbox.refuses = True
    bench.recorder.outbox.waited_s = 10.0
    bench.recorder.stage(intent(3))
    outbox.refuses = False
    bench.recorder.stage(intent(4))
    assert len(outbox.written) == 2
    bench.recorder.give_back()
    bench.end()


def test_what_a_silent_outbox_took_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has waited for it waits that much less for receivers."""
    monkeypatch.setattr(run_outbox, "PATIENCE_S", 0.05)
    monkeypatch.setattr(run_outbox, "IMPATIENCE_S", 0.01)
    bench = Bench()
    bench.outbox = silent = Silent()
    bench.recorder.stage(intent(1))
    assert 0.05 <= bench.recorder.outbox.waited_s < 5
    silent.free.set()


def test_a_store_that_is_gone_at_the_end_is_named_with_what_it_keeps() -> None:
    """What was recorded in it is not lost, and the run says what sends it."""
    bench, connection = lent(outbox := Lying())
    bench.recorder.record(event(), TRACE)
    connection.closed = True
    bench.recorder.give_back()
    bench.outbox = outbox
    outbox.intents = broken_outbox  # type: ignore[method-assign]
    assert bench.recorder.intents() == []
    line = bench.end()
    assert line is not None
    assert "gone. Deliveries recorded before that are kept in it" in line
    assert bench.telemetry.outbox_failures == ["gone"]


def broken_outbox() -> Any:
    raise OutboxError("gone")


class Silent(InMemoryOutbox):
    """Never answers a ``stage`` until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def stage(self, intent: Any) -> None:
        self.free.wait(20)


def test_a_silent_outbox_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced by memory; while the host's transaction is open, that is not even waited for."""
    monkeypatch.setattr(run_outbox, "PATIENCE_S", 0.05)
    monkeypatch.setattr(run_outbox, "IMPATIENCE_S", 0.01)
    bench = Bench()
    bench.outbox = silent = Silent()
    with bench.recorder.outbox.hurried(when=True):
        bench.recorder.stage(intent(1))
    assert bench.telemetry.outbox_failures == []
    bench.recorder.stage(intent(2))
    (reason,) = bench.telemetry.outbox_failures
    assert "did not answer" in reason
    assert [one.event_id for one in bench.spare.intents()] == [event_id(2)]
    silent.free.set()


def at_once(count: int, call: Any) -> None:
    """*call* with each number, on threads that begin together."""
    gate = threading.Barrier(count)

    def run(number: int) -> None:
        gate.wait(5)
        call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def test_two_that_meet_a_silent_outbox_replace_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events of both are in the one memory outbox."""
    monkeypatch.setattr(run_outbox, "PATIENCE_S", 0.05)
    bench = Bench()
    bench.outbox = silent = Silent()
    at_once(2, lambda number: bench.recorder.stage(intent(number)))
    assert len(bench.telemetry.outbox_failures) == 1
    assert {one.event_id for one in bench.spare.intents()} == {event_id(0), event_id(1)}
    silent.free.set()


def test_two_first_releases_start_one_worker() -> None:
    """One transport is made, so there is one worker."""
    bench = Bench()

    def slow() -> Any:
        threading.Event().wait(0.05)
        return bench._make("transport")

    bench.recorder = bench.with_parts(transport=slow)
    mine = [delivery(id=f"dlv_{n}", event_id=f"evt_{n}", endpoint="a") for n in range(2)]
    at_once(2, lambda n: bench.recorder.release(f"evt_{n}", [mine[n]]))
    assert bench.made.count("transport") == 1
    bench.end()


def test_what_a_hook_records_while_the_connection_is_given_back_is_sent() -> None:
    """It finds the connection gone, or is among what is written over another."""
    bench, connection = lent(Lying())
    connection.info.transaction_status = TransactionStatus.INTRANS
    keep = bench.recorder._keep

    def late(kept: Any) -> Any:
        bench.recorder.give_back()
        return keep(kept)

    bench.recorder._keep = late
    bench.recorder.release("evt_2", [delivery(endpoint="a", event_id="evt_2")])
    assert bench.end() is None
    assert len(bench.transport.sent) == 1


def test_an_outbox_that_is_silent_from_the_start_is_named_by_its_setting() -> None:
    """Without user and password: which server did not answer is known all the same."""
    bench = Bench()
    bench.settings = replace(bench.settings, outbox="postgres:postgresql://u:p4ss@db:5433/shop")
    silent = bench.with_parts().outbox.silence(3)
    assert silent.problem == (
        "outbox postgres:postgresql://db:5433/shop: it did not answer within 3 s"
    )


def test_a_silent_outbox_does_not_keep_the_end_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says which one did not answer and still holds what was recorded."""
    monkeypatch.setattr(sending, "IMPATIENCE_S", 0.01)
    bench, free = Bench(), threading.Event()
    bench.outbox.where = "postgres db:5433/shop"
    bench.recorder.record(event(), TRACE)
    bench.recorder.sending.flush(time.monotonic() + 20)
    bench.outbox.summaries = lambda: free.wait(20)  # type: ignore[method-assign, assignment, return-value]
    [line] = bounded(lambda: bench.recorder.sending.stop(seconds=0.05), 5)
    silent = "outbox postgres db:5433/shop: it did not answer within 0.05 s. See whether it answers"
    assert f"{silent} now: `confiture webhooks doctor`" in line
    free.set()


def test_what_went_with_a_transaction_is_taken_back_once_memory_has_sent_it() -> None:
    """Else a later run would send it again, and count this run as killed."""
    gone = Joining()
    gone.is_durable = True
    bench, connection = lent(gone)
    gone.close = lambda: None  # type: ignore[method-assign]
    staged = replace(committed(1), environment="production")
    assert bench.recorder.stage_committed(connection, staged)
    connection.closed = True
    bench.recorder.record(event(), TRACE)
    bench.recorder.give_back()
    bench.outbox = back = Outbox(gone._store)  # type: ignore[assignment]
    back.is_durable = True
    back.close = lambda: None  # type: ignore[method-assign]
    assert bench.end() is None
    assert len(bench.transport.sent) == 1
    assert back.intents() == []


def test_what_is_not_sent_is_reported_with_its_reason() -> None:
    """After a failed attempt the line names the endpoint, the number and the answer."""
    bench = Bench()
    bench.transport = ScriptedTransport({"a": [503]})
    bench.recorder.record(event(), TRACE)
    line = bench.end()
    assert line is not None
    assert "1 delivery not sent (a: 1, last answer 503)" in line


def test_a_store_that_will_not_prune_keeps_no_line_back() -> None:
    """When pruning is refused, what a run ends with is reported all the same."""
    bench = Bench()
    bench.outbox = Breaking(bench.outbox, "prune", OutboxError("busy"))  # type: ignore[assignment]
    bench.transport = ScriptedTransport({"a": [503]})
    bench.recorder.record(event(), TRACE)
    line = bench.end()
    assert line is not None
    assert "1 delivery not sent" in line


def test_nothing_is_pruned_when_no_time_is_left() -> None:
    """At the end of its time a run does not begin to tidy up."""
    bench = Bench()
    bench.outbox = broken = Breaking(bench.outbox, "prune", OutboxError("busy"))  # type: ignore[assignment]
    bench.recorder.record(event(), TRACE)
    bench.recorder.sending.flush(time.monotonic() + 20)
    bench.recorder.sending.stop(is_late=True)
    assert broken.calls == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            410,
            "a: answered 410 and is switched off. Once it works again: `confiture webhooks enable a`",
        ),
        (
            500,
            "a: 1 dead letter, last answer 500. Send dead letters again: `confiture webhooks redeliver",
        ),
    ],
)
def test_what_is_given_up_is_reported(answer: int, said: str) -> None:
    """A run whose delivery ended in a 410 or as a dead letter says so, with the remedy."""
    once = RetryPolicy(schedule=())
    bench = Bench(endpoint(name="a", retry=once))
    bench.outbox.is_durable = True  # type: ignore[misc]
    bench.transport = ScriptedTransport({"a": [answer]})
    bench.recorder.record(event(), TRACE)
    line = bench.end()
    assert line is not None
    assert said in line


@pytest.mark.parametrize("part", ["outbox", "transport"])
def test_a_part_that_cannot_be_closed_does_not_keep_the_other_open(part: str) -> None:
    """When closing one part raises, the other is closed all the same."""
    bench = Bench()
    other = {"outbox": "transport", "transport": "outbox"}[part]
    closed: list[str] = []
    getattr(bench, other).close = lambda: closed.append(other)
    setattr(bench, part, Breaking(getattr(bench, part), "close", ZeroDivisionError()))
    bench.recorder.record(event(), TRACE)
    bench.recorder.sending.flush(time.monotonic() + 20)
    bench.recorder.sending.stop()
    with pytest.raises(ZeroDivisionError):
        bench.recorder.sending.close()
    assert closed == [other]
