"""The worker: lanes, retries, spans that stay open, and an end that is bounded."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from confiture_webhooks.delivery import (
    Attempt,
    Decision,
    Delivery,
    Outcome,
    State,
    TraceContext,
)
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.event import EventType
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.testing import ScriptedTransport
from confiture_webhooks.transport import Request, Response
from confiture_webhooks.worker import Worker, pace
from confiture_webhooks.worker.pace import FAILING_AFTER, LONGEST_REST
from confiture_webhooks.worker.sender import Clock
from confiture_webhooks.worker.worker import LONGEST_NAP_S

A_SECOND = timedelta(seconds=1)
LONG_ENOUGH = timedelta(seconds=20)
"""Only a hang would make a drain take this long."""


class Spans:
    """Stands in for telemetry: keeps its calls, makes no spans."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, str, int]] = []
        self.next_attempts: list[datetime | None] = []
        self.failed_attempts: list[tuple[str, str | None, timedelta | None]] = []
        self.attempts: list[Any] = []
        self.outbox_failures: list[str] = []
        self.faults: list[str] = []

    def delivery(self, delivery: Delivery, _: object) -> Any:
        spans = self

        class Span:
            @contextmanager
            def attempt(self, request: Any) -> Any:
                spans.attempts.append(SimpleNamespace(request=replace(request)))
                yield spans.attempts[-1]

            def attempt_failed(self, attempt: Any, *, retry_in: timedelta | None) -> None:
                spans.failed_attempts.append((delivery.id, attempt.failure, retry_in))

            def finish(self, outcome: str, *, attempts: int, **more: Any) -> None:
                spans.finished.append((delivery.id, outcome, attempts))
                spans.next_attempts.append(more.get("next_attempt_at"))

        return Span()

    def outbox_failed(self, reason: str) -> None:
        self.outbox_failures.append(reason)

    def failed(self, where: str, error: BaseException) -> None:
        self.faults.append(f"{where}: {error!r}")


def endpoint(name: str = "a", *schedule: float) -> Endpoint:
    """An endpoint whose retries wait *schedule* seconds, without jitter."""
    policy = RetryPolicy(schedule=tuple(timedelta(seconds=s) for s in schedule), jitter=0)
    return Endpoint(name=name, url=f"https://{name}.invalid/hook", retry=policy)


def delivery(number: int = 1, name: str = "a") -> Delivery:
    """A delivery of an event for endpoint *name*."""
    return Delivery(
        id=f"dlv_{name}_{number}",
        event_id=f"evt_{number}",
        event_type=EventType.MIGRATION_SUCCESS,
        endpoint=name,
        body=b'{"n": %d}' % number,
        content_type="application/json",
        trace=TraceContext(traceparent=f"00-{'a' * 32}-{'b' * 16}-01"),
        correlation_id="a" * 32,
        created_at=datetime.now(UTC),
    )


class Bench:
    """A worker over memory and a scripted transport."""

    def __init__(self, *endpoints: Endpoint, transport: Any = None, hold: float = 10) -> None:
        self.outbox = InMemoryOutbox()
        self.transport = transport or ScriptedTransport()
        self.spans = Spans()
        self.worker = Worker(
            endpoints,
            self.outbox,
            self.transport,
            self.spans,  # type: ignore[arg-type]
            environment=None,
            hold=timedelta(seconds=hold),
        )

    def start(self, *deliveries: Delivery) -> None:
        """Release and start."""
        for one in deliveries:
            self.outbox.release(one.event_id, [one])
        self.worker.start()
        self.worker.wake()

    def run(
        self,
        *deliveries: Delivery,
        budget: timedelta = LONG_ENOUGH,
        horizon: timedelta | None = None,
    ) -> bool:
        """Release, start, drain and stop; whether all was done."""
        self.start(*deliveries)
        is_done = self.worker.drain(budget, horizon=horizon)
        self.worker.stop()
        return is_done

    def hang(self, *deliveries: Delivery) -> None:
        """Release, start, and stop while an attempt hangs."""
        self.start(*deliveries)
        assert self.transport.is_reached.wait(LONG_ENOUGH.total_seconds())
        self.worker.stop()

    def stop_the_clock(self) -> None:
        """What is released now is due, and no rest ends."""
        now = datetime.now(UTC) + timedelta(minutes=1)
        self.worker.clock = Clock(now=lambda: now)

    def state(self, delivery_id: str) -> State:
        return next(r.state for r in self.outbox.deliveries() if r.delivery.id == delivery_id)


def test_what_is_released_is_sent_once_byte_for_byte() -> None:
    """A released delivery is sent once, with its own bytes, and is then delivered."""
    bench = Bench(endpoint())
    assert bench.run(delivery())
    assert [request.body for request in bench.transport.sent] == [b'{"n": 1}']
    assert bench.state("dlv_a_1") is State.DELIVERED
    assert bench.spans.finished == [("dlv_a_1", "delivered", 1)]


def test_order_is_kept_while_deliveries_succeed() -> None:
    """One endpoint's deliveries go out in the order of their release."""
    bench = Bench(endpoint())
    bench.run(*(delivery(n) for n in range(1, 30)))
    assert [r.headers["webhook-id"] for r in bench.transport.sent] == [
        f"evt_{n}" for n in range(1, 30)
    ]


def test_a_retry_keeps_the_event_id_and_counts_attempts() -> None:
    """Attempts of one delivery share the webhook-id and are numbered from 1."""
    bench = Bench(endpoint("a", 0.01), transport=ScriptedTransport({"a": [503]}))
    bench.run(delivery())
    first, second = bench.transport.sent
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [r.headers["X-Confiture-Attempt"] for r in (first, second)] == ["1", "2"]
    assert [r.resend_count for r in (first, second)] == [0, 1]
    assert bench.spans.finished == [("dlv_a_1", "delivered", 2)]


def test_the_request_of_an_attempts_span_is_sent_and_it_gets_the_answer() -> None:
    """So it may name itself as the receiver's parent, and show the status."""
    bench = Bench(endpoint("a", 0.01), transport=ScriptedTransport({"a": [503]}))
    bench.run(delivery())
    assert len(bench.spans.attempts) == 2
    for made, sent in zip(bench.spans.attempts, bench.transport.sent, strict=True):
        assert made.request is sent
    assert [made.response.status_code for made in bench.spans.attempts] == [503, 200]


def test_a_near_retry_stays_in_one_span_and_a_far_one_ends_it_as_deferred() -> None:
    """A wait longer than the hold ends the delivery's span; a shorter one does not."""
    bench = Bench(endpoint("a", 0.01, 3600), transport=ScriptedTransport({"a": [500, 500]}))
    assert bench.run(delivery())
    assert bench.spans.finished == [("dlv_a_1", "deferred", 2)]
    assert bench.state("dlv_a_1") is State.PENDING


def test_a_used_up_schedule_is_a_dead_letter() -> None:
    """After the schedule's last attempt the delivery is dead, not tried again."""
    bench = Bench(endpoint("a", 0.01), transport=ScriptedTransport({"a": ["dns", "dns", 200]}))
    bench.run(delivery())
    assert len(bench.transport.sent) == 2
    assert bench.state("dlv_a_1") is State.DEAD_LETTER
    assert bench.spans.finished == [("dlv_a_1", "dead_letter", 2)]
    assert bench.spans.failed_attempts[-1] == ("dlv_a_1", "dns", None)


def test_gone_switches_the_endpoint_off() -> None:
    """After a 410 the delivery is gone and what follows for that endpoint is not sent."""
    bench = Bench(endpoint(), transport=ScriptedTransport({"a": [410]}))
    bench.run(delivery(1), delivery(2))
    assert len(bench.transport.sent) == 1
    assert bench.state("dlv_a_1") is State.GONE
    assert bench.state("dlv_a_2") is State.PENDING


class Hanging(ScriptedTransport):
    """Never answers endpoint ``stuck`` until it is aborted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_reached = threading.Event()
        self.released = threading.Event()

    def send(self, request: Request, **terms: Any) -> Response:
        if request.endpoint == "stuck":
            self.is_reached.set()
            self.released.wait(LONG_ENOUGH.total_seconds())
        return super().send(request, **terms)

    def abort(self) -> None:
        super().abort()
        self.released.set()


def test_a_hung_endpoint_delays_no_other() -> None:
    """While one endpoint hangs, the other's deliveries are all made."""
    bench = Bench(endpoint("stuck", 60), endpoint("a"), transport=Hanging())
    record, recorded = bench.outbox.record, threading.Semaphore(0)
    bench.outbox.record = lambda *args: (record(*args), recorded.release())[0]  # type: ignore[method-assign]
    bench.start(delivery(1, "stuck"), *(delivery(n) for n in range(2, 9)))
    assert all(recorded.acquire(timeout=LONG_ENOUGH.total_seconds()) for _ in range(2, 9))
    assert not bench.worker.drain(timedelta())
    bench.worker.stop()
    assert all(bench.state(f"dlv_a_{n}") is State.DELIVERED for n in range(2, 9))


def test_stopping_cuts_the_attempt_under_way_and_defers_its_delivery() -> None:
    """A stop ends a hanging attempt, whose delivery is due as before and reported as deferred."""
    bench = Bench(endpoint("stuck", 60), transport=Hanging())
    bench.hang(delivery(1, "stuck"))
    assert bench.spans.finished == [("dlv_stuck_1", "deferred", 0)]
    assert bench.state("dlv_stuck_1") is State.PENDING


def test_an_attempt_that_we_cut_is_no_failure_of_the_receivers() -> None:
    """Cut on its last try, a delivery is no dead letter: nothing is recorded, it is due at once."""
    bench = Bench(endpoint("stuck"), transport=Hanging())
    bench.hang(delivery(1, "stuck"))
    assert bench.state("dlv_stuck_1") is State.PENDING
    assert bench.outbox.attempts("dlv_stuck_1") == []
    assert bench.spans.failed_attempts == []
    assert not any(pace.failed for pace in bench.worker.paces)
    (claim,) = bench.outbox.claim("stuck", environment=None, now=datetime.now(UTC), lease=A_SECOND)
    assert (claim.attempts, claim.tries) == (0, 0)


def test_a_cut_attempt_is_none_beyond_those_before_it() -> None:
    """A delivery that is put off so has as many attempts as before, and is due now."""
    bench = Bench(endpoint("stuck", 60), transport=Hanging())
    bench.outbox.release("evt_1", [delivery(1, "stuck")])
    now = datetime.now(UTC)
    (claim,) = bench.outbox.claim("stuck", environment=None, now=now, lease=A_SECOND)
    failed = Attempt(number=1, started_at=now, duration=A_SECOND, status_code=503)
    bench.outbox.record(claim, failed, Decision(outcome=Outcome.RETRY, next_attempt_at=now))
    bench.hang()
    assert bench.spans.finished == [("dlv_stuck_1", "deferred", 1)]
    assert bench.spans.next_attempts[0] is not None


def test_a_stop_in_the_middle_of_a_record_reports_once() -> None:
    """When the worker stops while a lane records, its delivery ends once and nothing breaks."""
    bench = Bench(endpoint("a", 3600), transport=ScriptedTransport({"a": [503]}))
    record, is_recording, let_go = bench.outbox.record, threading.Event(), threading.Event()

    def slow(*args: Any) -> bool:
        is_recording.set()
        let_go.wait(LONG_ENOUGH.total_seconds())
        return record(*args)

    bench.outbox.record = slow  # type: ignore[method-assign]
    bench.outbox.release("evt_1", [delivery()])
    bench.worker.start()
    bench.worker.wake()
    assert is_recording.wait(LONG_ENOUGH.total_seconds())
    bench.worker.stop(grace=timedelta())
    let_go.set()
    for thread in (one for lanes in bench.worker._threads.values() for one in lanes):
        thread.join(LONG_ENOUGH.total_seconds())
    assert bench.spans.finished == [("dlv_a_1", "deferred", 1)]
    assert bench.spans.failed_attempts == []
    assert bench.spans.faults == []


def test_an_endpoint_that_keeps_failing_is_given_a_rest() -> None:
    """After a few failures in a row, the deliveries behind are not tried one by one."""
    bench = Bench(endpoint("a", 60), transport=ScriptedTransport({"a": [503] * 100}), hold=1)
    bench.stop_the_clock()
    assert bench.run(*(delivery(n) for n in range(1, 60)), horizon=A_SECOND)
    assert len(bench.transport.sent) == FAILING_AFTER


class Impatient(threading.Condition):
    """Counts how often somebody waits, and says so when it never ends."""

    def __init__(self, lock: Any) -> None:
        super().__init__(lock)
        self.waits = 0
        self.never_ends = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        if self.waits > 2000:
            self.never_ends.set()
        return super().wait(timeout)


def test_endpoints_that_rest_let_each_other_rest() -> None:
    """Several endpoints that keep failing wait for the end of their rest, not for each other."""
    endpoints = [endpoint(name, 60) for name in "abc"]
    bench = Bench(*endpoints, transport=ScriptedTransport({name: [503] * 100 for name in "abc"}))
    idle = {name: Impatient(bench.worker.lock) for name in "abc"}
    bench.worker._idle.update(idle)
    bench.stop_the_clock()
    for name in "abc":
        for number in range(FAILING_AFTER + 1):
            one = replace(delivery(number, name), event_id=f"evt_{name}_{number}")
            bench.outbox.release(one.event_id, [one])
    bench.worker.start()
    bench.worker.wake()
    assert bench.worker.drain(LONG_ENOUGH, horizon=A_SECOND)
    bench.worker.wake()
    assert not any(one.never_ends.wait(0.1) for one in idle.values())
    bench.worker.stop()
    assert len(bench.transport.sent) == len(endpoints) * FAILING_AFTER


def test_a_rest_ends_by_the_clock_though_the_machine_slept() -> None:
    """A lane waits by the monotonic clock, which stood still: it looks at the other in between."""
    limited = Response(status_code=503, retry_after=timedelta(hours=1))
    is_sent_again = threading.Event()

    class Limited(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            if self.sent:
                is_sent_again.set()
            return super().send(request, **terms)

    one_lane = replace(endpoint("a", 3600), concurrency=1)
    bench = Bench(one_lane, transport=Limited({"a": [limited]}))

    class Slept(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return super().wait()
            later = bench.worker.clock.now() + timedelta(hours=2)
            bench.worker.clock = Clock(now=lambda: later)
            return super().wait(timeout - LONGEST_NAP_S)

    bench.worker._idle["a"] = Slept(bench.worker.lock)
    bench.start(delivery())
    assert is_sent_again.wait(LONG_ENOUGH.total_seconds())
    bench.worker.stop()


def test_a_fault_of_the_outbox_is_reported_and_the_lane_goes_on() -> None:
    """When a claim fails, the failure is reported and the next claim still delivers."""
    bench = Bench(endpoint())
    claim, failures = bench.outbox.claim, iter([OutboxError("disk full")])

    def failing(*args: Any, **kwargs: Any) -> Any:
        for error in failures:
            raise error
        return claim(*args, **kwargs)

    bench.outbox.claim = failing  # type: ignore[method-assign]
    assert bench.run(delivery())
    assert bench.spans.outbox_failures == ["disk full"]
    assert bench.state("dlv_a_1") is State.DELIVERED


def test_a_bug_in_a_port_never_leaves_the_lane() -> None:
    """Whatever a transport raises, the worker reports it and can be stopped."""

    class Broken(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            raise ZeroDivisionError

    bench = Bench(endpoint(), transport=Broken())
    bench.run(delivery())
    assert bench.spans.faults == ["attempt: ZeroDivisionError()"]


def test_a_lost_lease_keeps_nothing() -> None:
    """When the lease ran out under an attempt, its outcome is not recorded by this worker."""
    bench = Bench(endpoint())
    bench.outbox.record = lambda *_: None  # type: ignore[method-assign]
    bench.run(delivery())
    assert set(bench.spans.finished) == {("dlv_a_1", "deferred", 1)}
    assert bench.worker.paces[0].outcomes.total() == 0


@pytest.mark.parametrize("step", ["record", "give_back"])
def test_a_claim_that_could_not_be_ended_is_remembered(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is ours, and no other worker is to be blamed for it."""
    monkeypatch.setattr(pace, "OUTBOX_REST", timedelta(milliseconds=1))
    cut = {"a": ["cut"]} if step == "give_back" else {}
    bench = Bench(endpoint(), transport=ScriptedTransport(cut))

    def failing(*_: Any) -> None:
        raise OutboxError("disk full")

    setattr(bench.outbox, step, failing)
    bench.worker.stopping.wait = lambda _: True  # type: ignore[method-assign]
    bench.run(delivery())
    assert bench.worker.paces[0].unrecorded == {"dlv_a_1"}


def test_a_claim_without_an_attempt_that_the_outbox_keeps_is_remembered() -> None:
    """The endpoint went away before its turn, and the outbox did not take it back."""
    bench = Bench(endpoint(), transport=ScriptedTransport({"a": [410]}))
    bench.worker.paces[0].batch = 2

    def failing(_: Any) -> None:
        raise OutboxError("disk full")

    bench.outbox.give_back = failing  # type: ignore[method-assign]
    bench.run(delivery(), delivery(2))
    assert bench.worker.paces[0].unrecorded == {"dlv_a_2"}


def test_a_claim_that_was_ended_later_is_forgotten() -> None:
    """The outbox answers again: a later failure has its own reason."""
    bench = Bench(endpoint())
    give_back, faults = bench.outbox.give_back, [OutboxError("disk full")]

    def failing(claim: Any) -> None:
        for fault in faults:
            raise fault
        give_back(claim)

    bench.outbox.give_back = failing  # type: ignore[method-assign]
    bench.outbox.release("evt_1", [delivery()])
    [claim] = bench.outbox.claim(
        "a", environment=None, now=datetime.now(UTC), lease=timedelta(minutes=1)
    )
    sender, paced = bench.worker, bench.worker.paces[0]
    with pytest.raises(OutboxError):
        sender.give_back(paced, claim)
    assert paced.unrecorded == {"dlv_a_1"}
    faults.clear()
    sender.give_back(paced, claim)
    assert paced.unrecorded == set()


def test_what_another_worker_took_over_is_not_kept_open() -> None:
    """The span of a retry that another worker made ends as put off, while this one goes on."""
    bench = Bench(endpoint("a", 5), transport=ScriptedTransport({"a": [503]}))
    ahead = timedelta()
    clock = Clock(now=lambda: datetime.now(UTC) + ahead)
    bench.worker.clock = clock
    bench.outbox.release("evt_1", [delivery()])
    bench.worker.start()
    bench.worker.drain(LONG_ENOUGH, horizon=timedelta())
    assert bench.spans.finished == []
    at = datetime.now(UTC) + 6 * A_SECOND
    assert bench.outbox.claim("a", environment=None, now=at, lease=timedelta(hours=1))
    ahead = timedelta(minutes=1)
    bench.outbox.release("evt_2", [replace(delivery(2), correlation_id="b" * 32)])
    bench.worker.wake()
    assert bench.worker.drain(LONG_ENOUGH, horizon=timedelta())
    assert bench.spans.finished == [("dlv_a_1", "deferred", 1), ("dlv_a_2", "delivered", 1)]
    bench.worker.stop()


def test_the_span_of_a_delivery_under_way_is_not_ended_by_another_lanes_look() -> None:
    """However long ago its attempt was due: the retry's outcome is reported in the span."""
    now = datetime.now(UTC) + timedelta(minutes=1)

    class Long(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            nonlocal now
            if self.sent:
                now += LONGEST_REST + 2 * A_SECOND
                bench.worker._work(pace)  # as another lane; the run is held
            return super().send(request, **terms)

    bench = Bench(endpoint("a", 5), transport=Long({"a": [503]}))
    [pace] = bench.worker.paces
    bench.worker.clock = Clock(now=lambda: now)
    bench.outbox.release("evt_1", [delivery()])
    for _ in range(2):
        bench.worker._work(pace)
        now += 6 * A_SECOND
    assert len(bench.transport.sent) == 2
    assert bench.spans.finished == [("dlv_a_1", "delivered", 2)]


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_clock_that_jumps_does_not_hang_the_drain(jump: timedelta) -> None:
    """A wall clock set an hour forth or back does not make the drain outlast its budget."""
    bench = Bench(endpoint("a", 0.05), transport=ScriptedTransport({"a": [503]}))
    offset = iter([timedelta()] * 3)
    clock = Clock(now=lambda: datetime.now(UTC) + next(offset, jump))
    bench.worker.clock = clock
    bench.run(delivery(), budget=A_SECOND)
    assert bench.transport.sent
