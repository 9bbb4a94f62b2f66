"""Lanes: runs side by side, each in order; limits of a receiver; records that cannot be sent."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from confiture_webhooks.delivery import Decision, Outcome, State
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import Claim, Unreadable
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.outbox.values import Batch
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.testing import ScriptedTransport
from confiture_webhooks.transport import Request, Response
from confiture_webhooks.worker import Worker
from confiture_webhooks.worker.pace import NEVER
from confiture_webhooks.worker.sender import Clock
from confiture_webhooks.worker.worker import AGAIN_S
from contract.acts import rest
from samples import attempt, delivery, endpoint

LONG_ENOUGH = timedelta(seconds=20)


class Meeting(ScriptedTransport):
    """Notes how many requests are under way at once; each waits until *expected* are."""

    def __init__(self, expected: int = 1, **terms: Any) -> None:
        super().__init__(**terms)
        self.most = 0
        self.expected = expected
        self._here = 0
        self._changed = threading.Condition()

    def send(self, request: Request, **terms: Any) -> Response:
        with self._changed:
            self._here += 1
            self.most = max(self.most, self._here)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.expected, 20)
        answer = super().send(request, **terms)
        with self._changed:
            self._here -= 1
        return answer


def worker_of(outbox: Any, transport: Any, **facts: Any) -> Worker:
    """A worker for one endpoint."""
    to = endpoint(retry=RetryPolicy(schedule=(timedelta(hours=1),), jitter=0), **facts)
    return Worker(
        [to],
        outbox,
        transport,
        Telemetry(),
        environment="production",
        hold=timedelta(),
    )


def backlog(runs: int, each: int) -> InMemoryOutbox:
    """An outbox with *runs* of *each* deliveries."""
    outbox = InMemoryOutbox()
    for run in range(runs):
        for number in range(each):
            name = f"{run}_{number}"
            one = delivery(
                id=f"dlv_{name}",
                event_id=f"evt_{name}",
                correlation_id=f"{run:032x}",
                created_at=datetime.now(UTC),
            )
            outbox.release(one.event_id, [one])
    return outbox


def pass_once(worker: Worker) -> bool:
    """Deliver what is due."""
    worker.start()
    worker.wake()
    is_done = worker.drain(LONG_ENOUGH, horizon=timedelta())
    worker.stop()
    return is_done


def test_runs_are_delivered_side_by_side_each_in_order() -> None:
    """Four lanes are busy at once; the deliveries of one run keep their order."""
    transport = Meeting(expected=4)
    assert pass_once(worker_of(backlog(8, 5), transport))
    assert transport.most == 4
    numbers = defaultdict(list)
    for sent in transport.sent:
        _, run, number = sent.headers["webhook-id"].split("_")
        numbers[run].append(int(number))
    assert len(numbers) == 8
    assert all(order == [0, 1, 2, 3, 4] for order in numbers.values())


def test_lanes_that_are_done_wait_for_no_lease() -> None:
    """A lane that found the others' leases does not wait for their end once they are done."""
    worker = worker_of(backlog(8, 5), Meeting(expected=4))
    worker.start()
    worker.wake()
    started = time.monotonic()
    assert worker.drain(timedelta(minutes=5))
    worker.stop()
    assert time.monotonic() - started < 20  # the leases last 40 s


def test_one_run_has_one_lane() -> None:
    """However many lanes there are, the deliveries of one run are sent one after the other."""
    transport = Meeting()
    assert pass_once(worker_of(backlog(1, 40), transport, concurrency=8))
    assert transport.most == 1
    sent = [one.headers["webhook-id"] for one in transport.sent]
    assert sent == [f"evt_0_{number}" for number in range(40)]


class Counting(InMemoryOutbox):
    """Counts the claims."""

    claims = 0

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        self.claims += 1
        return super().claim(*args, **kwargs)


class Migrating(ScriptedTransport):
    """While it sends, the run records the next delivery, and wakes the worker, *left* times."""

    def __init__(self, outbox: InMemoryOutbox, left: int) -> None:
        super().__init__()
        self.outbox, self.left = outbox, left
        self.wake: Any = None

    def send(self, request: Request, **terms: Any) -> Response:
        if self.left:
            self.left -= 1
            record(self.outbox, self.left)
            self.wake(RUN)
            threading.Event().wait(0.005)  # another lane would look now
        return super().send(request, **terms)


RUN = f"{0:032x}"


def record(outbox: InMemoryOutbox, number: int) -> None:
    """Put one more delivery of one run into *outbox*."""
    one = delivery(id=f"dlv_{number}", event_id=f"evt_{number}", correlation_id=RUN)
    outbox.release(one.event_id, [one])


def test_no_other_lane_looks_for_the_run_that_a_lane_sends() -> None:
    """What is recorded while a lane sends for its run costs one claim each, by that lane."""
    outbox = Counting()
    record(outbox, 20)
    transport = Migrating(outbox, 20)
    worker = worker_of(outbox, transport)
    transport.wake = worker.wake
    worker.start()
    assert worker.drain(LONG_ENOUGH)
    worker.stop()
    assert len(transport.sent) == 21
    assert outbox.claims <= 21 + 3  # the last look, and those of a lane that saw a new run


def test_a_lane_is_roused_unless_all_that_is_new_is_of_runs_that_are_sent() -> None:
    """Whoever sends one of the runs does not look for the other."""
    worker = worker_of(InMemoryOutbox(), ScriptedTransport())
    [pace] = worker.paces
    pace.busy, pace.due, pace.runs = 4, NEVER, {"a", "b"}
    worker.wake("a")
    worker.wake("b", "a")
    assert pace.due == NEVER
    worker.wake("a", "c")
    assert pace.due == 0


def test_one_lane_looks_for_what_is_new() -> None:
    """Until its look says that there is more, the others wait."""
    worker = worker_of(InMemoryOutbox(), ScriptedTransport())
    [pace] = worker.paces
    assert worker._wait(pace)
    assert (pace.busy, pace.due) == (1, NEVER)


class Late(InMemoryOutbox):
    """The run records one more just after a look that found nothing, *left* times."""

    left = 5
    wake: Any = None

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        found = super().claim(*args, **kwargs)
        if not found and self.left:
            self.left -= 1
            record(self, self.left)
            self.wake(RUN)
        return found


def test_what_is_recorded_as_a_lane_ends_is_sent() -> None:
    """A lane that no other joins misses nothing that comes just after its last look."""
    outbox, transport = Late(), ScriptedTransport()
    record(outbox, outbox.left)
    worker = worker_of(outbox, transport)
    outbox.wake = worker.wake
    worker.start()
    assert worker.drain(LONG_ENOUGH)
    worker.stop()
    assert len(transport.sent) == 6


class Outdated(InMemoryOutbox):
    """One lane looks in vain, and hears of it only when the other has met a broken outbox."""

    worker: Worker
    looks = 0

    def __init__(self) -> None:
        super().__init__()
        self.has_looked = threading.Event()

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        self.looks += 1
        if self.looks == 3:
            raise OutboxError("locked")
        found = super().claim(*args, **kwargs)
        if self.looks == 2:
            self.has_looked.set()
            with self.worker.lock:
                self.worker._ended.wait_for(lambda: self.worker.paces[0].faults, 10)
        return found

    def record(self, *args: Any) -> Any:
        if not self.has_looked.is_set():
            self.worker.wake()
            self.has_looked.wait(10)
        return super().record(*args)


def test_a_broken_outbox_is_not_forgotten_by_a_lane_that_looked_before() -> None:
    """The run's next delivery is sent, although the last lane to end saw the run in other hands."""
    outbox, transport = Outdated(), ScriptedTransport()
    record(outbox, 0)
    record(outbox, 1)
    worker = outbox.worker = worker_of(outbox, transport)
    worker.start()
    assert worker.drain(LONG_ENOUGH)
    worker.stop()
    assert [one.headers["webhook-id"] for one in transport.sent] == ["evt_0", "evt_1"]


def test_one_lane_keeps_the_order_of_all() -> None:
    """``concurrency: 1`` sends everything in the order in which it was recorded."""
    transport = Meeting()
    assert pass_once(worker_of(backlog(3, 3), transport, concurrency=1))
    assert transport.most == 1
    sent = [one.headers["webhook-id"] for one in transport.sent]
    assert sent == [f"evt_{run}_{number}" for run in range(3) for number in range(3)]


def test_a_rest_that_another_worker_was_asked_for_is_heeded_in_mid_batch() -> None:
    """What is claimed already is given back after the attempt under way."""
    outbox = backlog(1, 40)

    class Asked(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            if len(self.sent) == 4:  # the second of a batch of four
                now = datetime.now(UTC)
                rest(outbox, now + timedelta(hours=1), request.endpoint, now=now)
            return super().send(request, **terms)

    transport = Asked()
    assert pass_once(worker_of(outbox, transport))
    assert len(transport.sent) == 5
    assert outbox.summary("production").counts == {State.DELIVERED: 5, State.PENDING: 35}


def test_a_rest_of_a_wrong_clock_is_not_heeded_in_mid_batch() -> None:
    """One that is longer than the schedule allows stops nothing."""
    outbox = backlog(1, 8)

    class Asked(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            now = datetime.now(UTC)
            rest(outbox, now + timedelta(days=3650), request.endpoint, now=now)
            return super().send(request, **terms)

    assert pass_once(worker_of(outbox, Asked()))
    assert outbox.summary("production").counts == {State.DELIVERED: 8}


def test_an_endpoint_that_is_switched_off_gets_nothing_more_in_mid_batch() -> None:
    """By an operator, or because another worker got a 410: what is claimed already waits."""
    outbox = backlog(1, 40)

    class Asked(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            if len(self.sent) == 4:  # the second of a batch of four
                outbox.disable(request.endpoint, "production", datetime.now(UTC))
            return super().send(request, **terms)

    transport = Asked()
    assert pass_once(worker_of(outbox, transport))
    assert len(transport.sent) == 5
    assert outbox.summary("production").counts == {State.DELIVERED: 5, State.PENDING: 35}
    outbox.enable("analytics", "production")
    assert pass_once(worker_of(outbox, ScriptedTransport()))
    assert outbox.summary("production").counts == {State.DELIVERED: 40}


def test_a_limit_rests_every_lane_and_uses_up_no_try() -> None:
    """After a 429 with Retry-After nothing is sent until then, also by another worker."""
    limited = Response(status_code=429, retry_after=timedelta(seconds=20))
    transport = ScriptedTransport({"analytics": [200, limited, limited, limited, limited]})
    outbox = backlog(8, 2)
    assert pass_once(worker_of(outbox, transport))
    assert len(transport.sent) <= 5  # those under way in the other lanes, and no more
    rows = [row for row in outbox.deliveries() if row.attempts and row.state is State.PENDING]
    assert rows
    now = datetime.now(UTC)
    terms: Any = {"environment": "production", "lease": timedelta(minutes=1)}
    for seconds, is_due in ((19, False), (21, True)):
        at = now + timedelta(seconds=seconds)
        claims = outbox.claim("analytics", now=at, **terms)
        assert bool(claims) is is_due
    assert [claim.tries for claim in claims] == [0] * len(claims)


def test_a_rate_is_kept_by_all_lanes_together() -> None:
    """Requests begin no closer than the rate allows, in whatever lane."""
    begun: list[float] = []

    class Timed(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            begun.append(time.monotonic())
            return super().send(request, **terms)

    rate = timedelta(milliseconds=50)
    assert pass_once(worker_of(backlog(6, 1), Timed(), rate=rate))
    assert len(begun) == 6
    steps = [later - earlier for earlier, later in pairwise(begun)]
    assert sum(steps) >= 5 * 0.05 - 0.01


def test_no_worker_waits_for_a_turn_that_is_far() -> None:
    """With a low rate a pass sends one and ends; the endpoint rests for the next worker, too."""
    outbox, transport = backlog(3, 1), ScriptedTransport()
    for _ in range(2):
        assert pass_once(worker_of(outbox, transport, rate=timedelta(hours=1)))
    assert len(transport.sent) == 1
    until = outbox.statuses("production")["analytics"].rests_until
    assert until is not None
    assert until > datetime.now(UTC) + timedelta(minutes=59)


class WithUnreadable(InMemoryOutbox):
    """One of its deliveries cannot be read."""

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        claims = super().claim(*args, **kwargs)
        for claim in claims:
            if claim.delivery.id == "dlv_0_1":
                fields = {
                    name: getattr(claim.delivery, name)
                    for name in claim.delivery.__dataclass_fields__
                }
                object.__setattr__(
                    claim, "delivery", Unreadable(**fields, reason="event_type: later")
                )
        return claims


@pytest.mark.survived("A record that cannot be read in front of others", "kept")
def test_a_record_that_cannot_be_read_costs_itself_alone() -> None:
    """It counts attempts with the type ``other``, and is buried when its schedule is used up."""
    outbox = WithUnreadable()
    for one in reversed(backlog(1, 3).deliveries()):
        outbox.release(one.delivery.event_id, [one.delivery])
    transport = ScriptedTransport()
    assert pass_once(worker_of(outbox, transport))
    assert [one.headers["webhook-id"] for one in transport.sent] == ["evt_0_0", "evt_0_2"]
    (row,) = outbox.deliveries(state=State.PENDING)
    assert (row.delivery.id, row.attempts, row.last_answer) == ("dlv_0_1", 1, "other")
    outbox.redeliver("dlv_0_1", now=datetime.now(UTC))
    worker = worker_of(outbox, transport)
    object.__setattr__(worker.paces[0].endpoint, "retry", RetryPolicy(schedule=()))
    assert pass_once(worker)
    (row,) = outbox.deliveries(id="dlv_0_1")
    assert row.state is State.DEAD_LETTER


def test_an_outbox_that_fails_in_between_loses_no_answer() -> None:
    """A record that is refused is made again, with the answer in hand: nothing is sent twice."""
    outbox, refused = backlog(1, 3), [True, False, True]
    record = outbox.record

    def failing(*args: Any) -> bool:
        if refused and refused.pop():
            raise OutboxError("locked")
        return record(*args)

    outbox.record = failing  # type: ignore[method-assign]
    transport = ScriptedTransport()
    assert pass_once(worker_of(outbox, transport))
    assert len(transport.sent) == 3
    assert {row.state for row in outbox.deliveries()} == {State.DELIVERED}


def test_telemetry_that_cannot_begin_a_span_breaks_no_delivery() -> None:
    """The webhook is sent without one, and the fault is reported."""
    reported: list[str] = []

    class Broken(Telemetry):
        def delivery(self, *_: Any, **__: Any) -> Any:
            raise ImportError("b3")

        def failed(self, where: str, _: BaseException) -> None:
            reported.append(where)

    outbox, transport = backlog(1, 1), ScriptedTransport()
    worker = worker_of(outbox, transport)
    worker.telemetry = Broken()
    assert pass_once(worker)
    assert [row.state for row in outbox.deliveries()] == [State.DELIVERED]
    assert reported == ["span"]


def test_a_lane_that_has_no_turn_waits_for_the_other_and_asks_nothing() -> None:
    """While a failing endpoint's one lane is busy, the others sleep until it is done."""
    worker = worker_of(InMemoryOutbox(), Meeting())
    [pace] = worker.paces
    pace.busy = pace.failures = 1
    worker.poll_every(timedelta(milliseconds=1))
    patience: list[float | None] = []

    def wait(timeout: float | None = None) -> bool:
        patience.append(timeout)
        worker.stopping.set()
        return True

    worker._idle["analytics"].wait = wait  # type: ignore[method-assign]
    assert not worker._wait(pace)
    assert patience == [None]


def released(outbox: InMemoryOutbox, run: int, name: str) -> None:
    """Put one delivery of *run* into *outbox*."""
    one = delivery(id=f"dlv_{name}", event_id=f"evt_{name}", correlation_id=f"{run:032x}")
    outbox.release(one.event_id, [one])


@pytest.mark.parametrize("is_put_off", [False, True])
def test_a_run_does_not_wait_for_another_that_went_out_before(*, is_put_off: bool) -> None:
    """Two runs that are due at once are sent side by side, although one was sent before."""
    outbox, transport = InMemoryOutbox(), Meeting()
    released(outbox, 0, "0_0")
    worker = worker_of(outbox, transport)
    worker.start()
    assert worker.drain(LONG_ENOUGH)
    transport.expected = 2
    released(outbox, 0, "0_1")
    released(outbox, 1, "1_0")
    if is_put_off:  # by a worker that claimed both, and was killed
        lease = timedelta(milliseconds=300)
        for _ in range(2):
            now = datetime.now(UTC)
            assert outbox.claim("analytics", environment="production", now=now, lease=lease)
        worker.wake(RUN)
    else:
        worker.wake()
    assert worker.drain(timedelta(seconds=10))
    worker.stop()
    assert transport.most == 2


def test_lanes_are_back_once_the_endpoint_accepts_again() -> None:
    """After a failure the runs do not wait for each other once the endpoint accepts again."""
    outbox = backlog(2, 60)
    under_way: set[str] = set()
    met: list[bool] = []

    class Hiccup(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            under_way.add(request.headers["webhook-id"])
            threading.Event().wait(0.005)
            met.append(len(under_way) > 1)
            under_way.discard(request.headers["webhook-id"])
            return super().send(request, **terms)

    replies = [200] * 8 + [503] * 2
    assert pass_once(worker_of(outbox, Hiccup({"analytics": replies})))
    assert sum(met[14:60]) > 20  # of two lanes; at their end one may be left


def claimed(outbox: InMemoryOutbox, limit: int) -> deque[Claim]:
    """What a lane would claim now."""
    now, lease = datetime.now(UTC), timedelta(minutes=1)
    return deque(
        outbox.claim("analytics", environment="production", now=now, lease=lease, limit=limit)
    )


def test_another_run_does_not_wait_for_the_batch_that_is_accepted_again() -> None:
    """A lane that slept while the endpoint failed is roused by the first success of a batch."""
    outbox, sleeps, is_sent, met = backlog(2, 2), threading.Event(), threading.Event(), []

    class Batch(ScriptedTransport):
        def send(self, request: Request, **terms: Any) -> Response:
            if request.headers["webhook-id"] == "evt_1_0":
                is_sent.set()
            if request.headers["webhook-id"] == "evt_0_1":
                met.append(is_sent.wait(10))
            return super().send(request, **terms)

    worker = worker_of(outbox, Batch())
    [pace] = worker.paces
    idle = worker._idle["analytics"]
    wait = idle.wait

    def noted(timeout: float | None = None) -> bool:
        sleeps.set()
        return wait(timeout)

    idle.wait = noted  # type: ignore[method-assign]
    pace.busy = pace.failures = 1  # the one lane is this thread
    worker.start()
    assert sleeps.wait(10)
    worker.deliver(pace, claimed(outbox, 2), NEVER)
    worker.stop()
    assert met == [True]


@pytest.mark.parametrize("answer", [429, 410])
def test_a_lane_that_waits_for_its_turn_heeds_what_another_is_told(answer: int) -> None:
    """Asked to rest, or switched off, meanwhile: nothing more is sent, and all goes back."""
    outbox, transport = backlog(1, 2), ScriptedTransport()
    worker = worker_of(outbox, transport, rate=timedelta(seconds=1))
    [pace] = worker.paces
    now = datetime.now(UTC)
    worker.clock = Clock(now=lambda: now, monotonic=lambda: 0.0)
    pace.next_start = 1.0
    until = now + timedelta(minutes=1)
    told = {
        429: Decision(outcome=Outcome.RETRY, next_attempt_at=until, rests_until=until),
        410: Decision(outcome=Outcome.GONE),
    }

    def wait(timeout: float | None = None) -> bool:
        assert timeout == 1.0
        pace.note(attempt(status_code=answer), told[answer], now)
        return False

    worker.stopping.wait = wait  # type: ignore[method-assign]
    claims = claimed(outbox, 2)
    worker.deliver(pace, claims, 60.0)
    assert transport.sent == []
    assert len(claims) == 2


def test_a_look_in_vain_is_not_repeated_at_once() -> None:
    """Somebody else has locked the row that is due, or it is damaged: no lane spins on it."""
    clock = Clock(now=lambda: datetime(2026, 1, 9, tzinfo=UTC), monotonic=lambda: 100.0)
    worker = worker_of(InMemoryOutbox(), ScriptedTransport())
    worker.clock = clock
    [pace] = worker.paces
    pace.due = NEVER
    worker._end_look(pace, pace.begin_look(), Batch((), clock.now()), None)
    assert pace.due_in(clock.now(), clock.monotonic()) == pytest.approx(AGAIN_S)
