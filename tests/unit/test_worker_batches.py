"""A worker with a backlog: batches, what goes back, an end that is not cut, and its passes."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from confiture_webhooks.delivery import Delivery, State
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import Claim
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.signature import verify
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.telemetry.deliveries import PassSpans
from confiture_webhooks.testing import ScriptedTransport
from confiture_webhooks.transport import Request, Response, prepare
from confiture_webhooks.worker import Worker, sender
from confiture_webhooks.worker.pace import LARGEST_BATCH
from confiture_webhooks.worker.sender import Clock
from confiture_webhooks.worker.worker import FRESH_FOR, LEASE_MARGIN
from samples import delivery, endpoint

LONG_ENOUGH = timedelta(seconds=20)
SECRET = "s3cret"


class Watched(InMemoryOutbox):
    """Notes how much was claimed at once, for how long, and what went back."""

    def __init__(self) -> None:
        super().__init__()
        self.claimed: list[int] = []
        self.leases: list[timedelta] = []
        self.returned: list[str] = []
        self.recorded = threading.Semaphore(0)

    def record(self, *args: Any) -> Any:
        stands = super().record(*args)
        self.recorded.release()
        return stands

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        claims = super().claim(*args, **kwargs)
        self.claimed.append(len(claims))
        self.leases.append(kwargs["lease"])
        return claims

    def give_back(self, claim: Any) -> None:
        self.returned.append(claim.delivery.id)
        super().give_back(claim)


class Slow(ScriptedTransport):
    """Its answers to what comes *after* the first few wait until they are let go."""

    def __init__(self, after: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.after = after
        self.is_reached = threading.Event()
        self.let_go = threading.Event()

    def send(self, request: Request, **terms: Any) -> Response:
        answer = super().send(request, **terms)
        if len(self.sent) > self.after:
            self.is_reached.set()
            self.let_go.wait(LONG_ENOUGH.total_seconds())
        return answer


class Bench:
    """A worker of its own over a watched outbox with *count* deliveries."""

    def __init__(
        self,
        count: int,
        transport: Any = None,
        *,
        created_at: datetime | None = None,
        **terms: Any,
    ) -> None:
        self.outbox = Watched()
        created_at = created_at or datetime.now(UTC)
        for number in range(count):
            one = delivery(id=f"dlv_{number}", event_id=f"evt_{number}", created_at=created_at)
            self.outbox.release(one.event_id, [one])
        self.transport = transport or ScriptedTransport()
        telemetry = Telemetry()
        self.worker = Worker(
            [
                endpoint(
                    retry=RetryPolicy(schedule=(timedelta(hours=1),)),
                    secrets=(SECRET,),
                    concurrency=1,
                )
            ],
            self.outbox,
            self.transport,
            telemetry,
            environment="production",
            hold=timedelta(),
            passes=telemetry.passes(),
            **terms,
        )

    def pass_once(self) -> bool:
        self.worker.start()
        self.worker.wake()
        is_done = self.worker.drain(LONG_ENOUGH, horizon=timedelta())
        self.worker.stop()
        return is_done

    def claims(self, limit: int) -> deque[Claim]:
        """What a lane would claim, of all that is due."""
        terms: dict[str, Any] = {"environment": "production", "lease": LEASE_MARGIN}
        now = self.worker.clock.now()
        return deque(self.outbox.claim(endpoint().name, now=now, limit=limit, **terms))

    def states(self) -> list[State]:
        return [row.state for row in reversed(self.outbox.deliveries(limit=1000))]


class Passing(threading.Condition):
    """A wait that has an end is over at once, and the clock stands there; or *early*."""

    def __init__(self, bench: Bench, early: float = 1e9) -> None:
        super().__init__(bench.worker.lock)
        self._began, self._early = datetime.now(UTC), early
        self.passed = 0.0
        worker = bench.worker
        worker._idle = {endpoint().name: self}
        clock = Clock(
            now=lambda: self._began + timedelta(seconds=self.passed), monotonic=lambda: self.passed
        )
        worker.clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is None:
            return super().wait(LONG_ENOUGH.total_seconds())
        self.passed += min(timeout, self._early)
        return False


class Looks:
    """When the outbox was asked for what is due: so often, and then no more."""

    def __init__(self, bench: Bench, most: int, early: float = 1e9) -> None:
        self.at: list[float] = []
        self.then: dict[int, Callable[[], Any]] = {}
        """What happens at a look, by its number."""
        self._passing, self._most = Passing(bench, early), most
        self._are_over, self._may_end = threading.Event(), threading.Event()
        self._worker, self._claim = bench.worker, bench.outbox.claim
        bench.outbox.claim = self.claim  # type: ignore[method-assign]

    def claim(self, *name: Any, **terms: Any) -> Any:
        self.at.append(self._passing.passed)
        if len(self.at) == self._most:
            self._are_over.set()
            self._may_end.wait(LONG_ENOUGH.total_seconds())
        self.then.get(len(self.at), lambda: None)()
        return self._claim(*name, **terms)

    def steps(self) -> list[float]:
        """Let the worker look; the seconds from each look to the next."""
        self._worker.start()
        assert self._are_over.wait(LONG_ENOUGH.total_seconds())
        self._worker.stopping.set()
        self._may_end.set()
        self._worker.stop()
        return [later - earlier for earlier, later in pairwise(self.at)]


def test_a_backlog_is_claimed_in_growing_batches_and_sent_in_order() -> None:
    """Claims double up to a bound while all goes well; the order is that of the release."""
    bench = Bench(300)
    assert bench.pass_once()
    assert bench.outbox.claimed[:8] == [1, 2, 4, 8, 16, 32, LARGEST_BATCH, LARGEST_BATCH]
    sent = [request.headers["webhook-id"] for request in bench.transport.sent]
    assert sent == [f"evt_{number}" for number in range(300)]
    assert bench.outbox.returned == []
    assert sum(pace.outcomes.total() for pace in bench.worker.paces) == 300


class Between(ScriptedTransport):
    """Notes what the outbox knew when a request was sent, and when its answer came."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.states: Callable[[], list[State]] = list
        self.when_sent: list[list[State]] = []
        self.when_answered: list[list[State]] = []

    def send(self, request: Request, **terms: Any) -> Response:
        self.when_sent.append(self.states())
        answer = super().send(request, **terms)
        self.when_answered.append(self.states())
        return answer


def test_what_failed_is_recorded_before_the_next_is_sent() -> None:
    """A failure decides what comes next, so it is kept at once."""
    bench = Bench(3, Between(replies={endpoint().name: [200, 503]}))
    bench.transport.states = bench.states
    bench.pass_once()
    assert bench.transport.when_sent[2] == [State.DELIVERED, State.PENDING, State.IN_FLIGHT]


class Late(ScriptedTransport):
    """Its answers come *late* seconds later, by a clock that nothing else moves."""

    def __init__(self, late: float = 0, **terms: Any) -> None:
        super().__init__(**terms)
        self.late = late
        self.now = datetime(2026, 1, 9, 14, 23, 45, tzinfo=UTC)
        self.sent_at: list[datetime] = []
        self.answered = 0

    def send(self, request: Request, **terms: Any) -> Response:
        self.sent_at.append(self.now)
        answer = super().send(request, **terms)
        self.answered += 1
        self.now += timedelta(seconds=self.late)
        return answer


def bench_of(transport: Late, count: int) -> Bench:
    """A bench whose worker goes by the transport's clock."""
    clock = Clock(now=lambda: transport.now)
    return Bench(count, transport, created_at=transport.now, clock=clock)


@pytest.mark.parametrize("late", [0.3, 7.0, -3600.0])
def test_a_request_is_signed_in_the_second_in_which_it_is_sent(late: float) -> None:
    """One that was made before the answer to the last came is not sent with an old time."""
    transport = Late(late)
    assert bench_of(transport, 12).pass_once()
    stamps = [int(one.headers["webhook-timestamp"]) for one in transport.sent]
    assert stamps == [int(at.timestamp()) for at in transport.sent_at]
    for one, at in zip(transport.sent, transport.sent_at, strict=True):
        verify(one.headers, one.body, SECRET, now=at, tolerance=timedelta(seconds=1))


def test_a_retry_that_is_made_ahead_has_its_own_number() -> None:
    """``X-Confiture-Attempt`` goes on where the attempts before ended, for each of a batch."""
    transport = Late(replies={endpoint().name: [500] * 3})
    bench = bench_of(transport, 3)
    lane, one = bench.worker.paces[0], bench.worker
    for _ in range(2):
        one.deliver(lane, bench.claims(3), time.monotonic() + 60)
        transport.now += timedelta(hours=2)
    numbers = [sent.headers["X-Confiture-Attempt"] for sent in transport.sent]
    assert numbers == ["1"] * 3 + ["2"] * 3
    assert [sent.resend_count for sent in transport.sent] == [0] * 3 + [1] * 3


def test_a_delivery_that_cannot_be_prepared_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It counts an attempt, as one that fails, and waits for the next; the others are sent."""
    transport = Late()

    def faulty(to: Endpoint, one: Delivery, **terms: Any) -> Request:
        if one.id == "dlv_5":
            raise RuntimeError("a bug of ours")
        return prepare(to, one, **terms)

    monkeypatch.setattr(sender, "prepare", faulty)
    bench = bench_of(transport, 7)
    bench.pass_once()
    states = [State.DELIVERED] * 7
    states[5] = State.PENDING
    assert bench.states() == states
    (row,) = bench.outbox.deliveries(state=State.PENDING)
    assert (row.attempts, row.last_answer) == (1, "other")


def test_an_attempt_begins_only_while_the_lease_outlasts_it() -> None:
    """What the lease of a batch would not outlast goes back, and is claimed anew."""
    bench = Bench(7)
    now = iter(range(10**6))
    step = FRESH_FOR.total_seconds() / 4
    clock = bench.worker.clock
    object.__setattr__(clock, "monotonic", lambda: next(now) * step)
    bench.worker.start()
    assert all(bench.outbox.recorded.acquire(timeout=20) for _ in range(7))
    object.__setattr__(clock, "monotonic", time.monotonic)
    bench.worker.stop()
    assert bench.states() == [State.DELIVERED] * 7
    assert bench.outbox.returned
    assert len(bench.transport.sent) == 7
    assert set(bench.outbox.leases) == {endpoint().timeout + LEASE_MARGIN}
    assert FRESH_FOR < LEASE_MARGIN


def test_a_rest_in_mid_batch_gives_the_others_back() -> None:
    """An endpoint that begins to fail costs five attempts; what else was claimed is due again."""
    answers = [200] * 7 + [500] * 100
    bench = Bench(40, ScriptedTransport({"analytics": answers}))
    bench.pass_once()
    assert len(bench.transport.sent) == 12
    assert State.IN_FLIGHT not in bench.states()


def test_gone_in_mid_batch_ends_it() -> None:
    """After a 410 nothing more of the batch is sent, and it waits for the endpoint."""
    bench = Bench(20, ScriptedTransport({"analytics": [200] * 8 + [410]}))
    bench.pass_once()
    assert len(bench.transport.sent) == 9
    assert bench.states() == [State.DELIVERED] * 8 + [State.GONE] + [State.PENDING] * 11


def test_finishing_lets_the_attempt_in_hand_end() -> None:
    """Asked to finish, a worker records the attempt under way and gives back the rest."""
    transport = Slow(after=7)
    bench = Bench(30, transport)
    bench.worker.start()
    assert transport.is_reached.wait(LONG_ENOUGH.total_seconds())
    finishing = threading.Thread(target=bench.worker.finish)
    finishing.start()
    finishing.join(0.2)
    assert finishing.is_alive()
    transport.let_go.set()
    finishing.join(LONG_ENOUGH.total_seconds())
    assert bench.states() == [State.DELIVERED] * 8 + [State.PENDING] * 22
    assert [pace.failed for pace in bench.worker.paces] == [None]


def test_a_watching_lane_looks_though_others_keep_it_awake() -> None:
    """A lane that is woken all the time by another still looks for what others released."""
    looks = Looks(Bench(0, poll=timedelta(seconds=0.05)), most=4, early=0.005)
    assert looks.steps() == pytest.approx([0.05] * 3)


def test_a_worker_may_look_rarely_and_often_again() -> None:
    """When it is to look rarely, it looks once more and then not; to look often, at once."""
    bench = Bench(0, poll=timedelta(seconds=0.5))
    looks = Looks(bench, most=7)
    looks.then[3] = lambda: bench.worker.poll_every(timedelta(hours=1))
    looks.then[5] = lambda: bench.worker.poll_every(timedelta(seconds=0.5))
    assert looks.steps() == [0.5, 0.5, 0, 3600, 0, 0.5]


def test_an_outbox_that_keeps_failing_is_asked_less_and_less() -> None:
    """Faults of the outbox are reported at growing distances, however often it is to look."""
    bench = Bench(0, poll=timedelta(milliseconds=10))
    looks = Looks(bench, most=8)

    def failing() -> None:
        raise OutboxError("disk full")

    looks.then = dict.fromkeys(range(1, 9), failing)
    assert looks.steps() == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert any(pace.faults for pace in bench.worker.paces)


def test_a_pass_ends_when_nothing_is_left() -> None:
    """A watching worker begins a pass with a claim and ends it when it is idle."""
    ended: queue.Queue[int] = queue.Queue()

    class Span:
        claimed = 0

        def get_span_context(self) -> Any:
            return Telemetry().run

        def set_attribute(self, _: str, claimed: int) -> None:
            self.claimed = claimed

        def end(self) -> None:
            ended.put(self.claimed)

    bench = Bench(3)
    bench.worker.passes = passes = PassSpans(Span, bench.worker.telemetry.report)
    bench.worker.start()
    assert ended.get(timeout=20) == 3
    one = delivery(id="dlv_x", event_id="evt_x", created_at=datetime.now(UTC))
    bench.outbox.release("evt_x", [one])
    bench.worker.wake()
    assert ended.get(timeout=20) == 1
    bench.worker.stop()
    assert passes._span is None
