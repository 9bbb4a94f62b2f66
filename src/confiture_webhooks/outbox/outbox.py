"""The outbox's operations, once for every store.

Guarantees, each checked by the contract suite on each store:

- ``release`` is atomic and idempotent: the intent is gone and every delivery is there, or
  neither. A second release of an event id changes nothing, until ``prune`` has deleted the
  first. A released delivery is due at once.
- A delivery comes back from ``claim`` byte for byte as it was released: body, trace context,
  correlation id. One that cannot be read comes back as an ``Unreadable`` and costs itself alone.
- A claim is a lease. Until ``lease`` has passed by the ``now`` of the claims, no other claim
  returns the delivery; from then on it is claimable again. The lease is lost when another
  claim takes the delivery: nothing recorded under it is kept, ``record`` answers ``None``.
- A claim returns the due deliveries of one run (``correlation_id``) to one endpoint, in the order
  they were released. It returns none of a run that another lease of that endpoint holds. If
  several runs have some, the run with the oldest comes first.
- A delivery is claimed for its endpoint in its own environment only (none is one, too): the
  same name may be another receiver there. An endpoint rests, or is off, in one environment.
- If an outbox releases an event that another one staged, the other's process is over: its leases
  end, and no others.
- ``record`` moves a delivery and keeps the attempt in one step. A ``GONE`` decision switches
  the endpoint off in that step, in the delivery's environment; nothing is claimed for an
  endpoint that is off or rests.
- A killed process undoes nothing that returned. A power cut undoes no release and nothing an
  operator did; it may undo the latest claims and records, whose deliveries are sent again.
- Instants are aware and come from the caller. If one lies further ahead than *max_wait*, a wrong
  clock wrote it: the retry, lease or rest is over. A clock set forward ends leases early: one more
  attempt with the same event id follows, and the token lets one record stand.
- Only delivered deliveries are pruned. A dead letter stays until an operator redelivers or
  discards it.
- It keeps no endpoint's URL, no secret, no header value and no body of an answer.

Every method raises ``OutboxError`` when the store refuses, with the store's error as cause.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..delivery import Attempt, Decision, Delivery, Outcome, State
from ..event import EventType, stored_text
from . import rows, schema
from .front import END_OF_TIME, Front, horizon, status_of
from .summary import Summary, summaries
from .values import Batch, Claim, Intent, Row, UnreadableIntent

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..outlook import EndpointStatus

KEPT_FOR = timedelta(days=30)
KEPT_DELIVERED = 10_000
"""Delivered deliveries are kept so long and so many, for operators to look at."""
PRUNE_BATCH = 500
ASKED_AT_ONCE = 400
"""Some builds of SQLite take no more than 999 values."""
LONGEST_LEASE = timedelta(days=1)
"""A lease that ends later is of a wrong clock."""

Release = tuple[str, Sequence[Delivery]]
"""An event's id and its deliveries."""


class Outbox:
    """Keeps every event until each endpoint has it."""

    def __init__(self, store: schema.Store) -> None:
        self._store = store
        self.is_durable, self.where = store.is_durable, store.where
        self.holder = os.urandom(8).hex()
        """Begins this one's tokens, and is in the intents it stages."""
        self.killed: dict[str, str] = {}
        """By event that another one staged, that one's holder."""
        self.environment: str | None = None
        """The environment of an event that is released without intent and deliveries."""
        self._fronts: dict[tuple[Any, ...], Front] = {}

    # A run

    def stage(self, intent: Intent) -> Sequence[Intent]:
        """Remember that a migration is about to run; a second time, or late, changes nothing.

        Returns ``intents`` as they were before.
        """
        found, _ = self._store.write(_INTENTS, self._staging(intent))
        return self._read(found)[0]

    def stage_committed(self, intent: Intent, *waiting: Release) -> None:
        """Add its end to *intent*: in a transaction that is about to commit, or ``has_committed``.

        If *intent* is not there, it is staged first. Its event is released after the COMMIT; if
        this process is killed before that, by whoever finds it. *waiting*: what came before it and
        is not released yet.
        """
        step = ("stage_committed", rows.committed_values(intent))
        *_, is_there = self._store.write(*self._steps(waiting), step)
        if not is_there:  # it could not be staged before, or was released by another one
            self._store.write(self._staging(replace(intent, committed=None)), step)

    def _staging(self, intent: Intent) -> schema.Step:
        return ("stage", rows.intent_values(replace(intent, holder=self.holder)))

    def over(self, _connection: Any, /) -> Outbox | None:
        """This outbox by way of another's connection to its database; ``None``: it is to another.

        While the connection is idle each step is a transaction of its own. In one that is open
        intents are read and ``stage_committed`` is done: it stays if the transaction does. A step
        that is refused leaves the transaction as it was. Nothing is left on the session.
        """
        return None

    def check_role(self) -> None:
        """Raise OutboxError if this role may see no row of the environment."""

    def is_made_anew(self) -> bool:
        """Whether our own connection had to make it: what was written over another's is gone."""
        return False

    def release(self, event_id: str, deliveries: Sequence[Delivery], *then: Release) -> bool:
        """The outcome is known: replace the intent, if any, by its deliveries (maybe none).

        *then*: what is released after it in the same step. ``False``: another one released it.
        """
        return bool(self._store.write(*self._steps([(event_id, deliveries), *then]))[0])

    def _steps(self, releases: Sequence[Release]) -> list[schema.Step]:
        steps: list[schema.Step] = []
        for event, released in releases:
            environment = released[0].environment if released else self.environment
            values = {
                "event_id": stored_text(event),
                "environment": stored_text(environment or ""),
                "released_at": rows.instant(datetime.now(UTC)),
                "token": os.urandom(8).hex(),
                "holder": self.killed.get(event),
            }
            each = [values | rows.delivery_values(one) for one in released]
            steps.append(("release", {**values, "deliveries": each}))
        return steps

    def intents(self) -> Sequence[Intent]:
        """Those staged and not released, oldest first, without those that cannot be read."""
        return self._read(*self._store.read(_INTENTS))[0]

    def unreadable_intents(self) -> Sequence[UnreadableIntent]:
        """Those staged and not released that this version cannot read."""
        return self._read(*self._store.read(_INTENTS))[1]

    def discard_intent(self, intent: UnreadableIntent) -> None:
        """Forget one that cannot be read: its event is released with no delivery."""
        if intent.key == intent.event_id:
            self.release(intent.event_id, [])
        else:
            self._store.write(("forget_intent", {"key": rows.stored_key(intent.key)}))

    def _read(self, found: schema.Found) -> tuple[list[Intent], list[UnreadableIntent]]:
        read = [rows.intent(row) for row in found]
        intents = [one for one in read if isinstance(one, Intent)]
        holders = {one.event_id: one.holder for one in intents}
        self.killed.clear()
        self.killed |= {key: one for key, one in holders.items() if one and one != self.holder}
        return intents, [one for one in read if isinstance(one, UnreadableIntent)]

    # A worker

    def claim(
        self,
        endpoint: str,
        *,
        environment: str | None,
        now: datetime,
        lease: timedelta,
        limit: int = 1,
        max_wait: timedelta | None = None,
        rest: timedelta | None = None,
    ) -> Batch:
        """Up to *limit* of one run of *environment* for *endpoint* that are due at *now*.

        *rest*: how long *endpoint* then rests, for every worker.
        """
        front = self._front(endpoint, environment)
        for _ in range(3):  # another worker may take the runs that were seen
            look = front.woken(now, max_wait)
            runs = look.candidates()
            if not runs:
                break
            token = self.holder + os.urandom(8).hex()
            lease_until = rows.instant(now + lease)
            leasing = {"token": token, "limit": limit, "lease_until": lease_until}
            leasing |= {**front.place, **runs, "now": rows.instant(now), "horizon": look.latest}
            steps, leasing["turn_ends"] = ["lease", "leased"], 0
            if rest:  # random microseconds: a claim of the same instant has another turn
                microseconds = int.from_bytes(os.urandom(2), "big")
                leasing["turn_ends"] = rows.instant(now + rest) + microseconds
                steps.insert(0, "take_turn")
            *_, found = self._store.write(*((one, leasing) for one in steps), is_synced=False)
            if found:
                claims = (rows.claim(row, token) for row in found)
                return Batch(claims, look.next_at(found[0]["correlation_id"]))
        return Batch((), look.next_at())

    def record(
        self,
        claim: Claim,
        attempt: Attempt,
        decision: Decision,
        rests_until: datetime | None = None,
        max_wait: timedelta | None = None,
    ) -> EndpointStatus | None:
        """Keep *attempt* and move the delivery as decided; ``None``: the lease was lost.

        Else whether the endpoint was off or had to rest there before. An attempt after which it
        rests is no try of the schedule. Until *rests_until* it rests, for every worker.
        """
        is_over = decision.outcome is not Outcome.RETRY
        finished_at = rows.instant(attempt.started_at + attempt.duration)
        next_at = decision.next_attempt_at
        values = rows.attempt_values(attempt) | {
            **_held(claim),
            **_place(claim.delivery.endpoint, claim.delivery.environment),
            "state": decision.outcome.state.value,
            "next_attempt_at": rows.instant(next_at) if next_at else None,
            "finished_at": finished_at,
            "ended_at": finished_at if is_over else None,
            "counts": int(decision.rests_until is None),
        }
        steps = ["hold", "status", "add_attempt", "move"]
        if decision.outcome is Outcome.GONE:
            steps.insert(3, "switch_off")
        if rests_until is not None:  # with the move, which lets other workers claim the next
            now = attempt.started_at + attempt.duration
            values |= {"until": rows.instant(rests_until), "horizon": horizon(now, max_wait)}
            steps.insert(3, "rest")
        is_held, status, *_ = self._store.write(
            *((name, values) for name in steps), *(() if is_over else (NEWS,)), is_synced=False
        )
        # It may be recorded already, and the store's answer was lost.
        is_kept = is_held or self._store.read(("recorded", values))[0]
        return status_of(status) if is_kept else None

    def give_back(self, claim: Claim) -> None:
        """End the lease without an attempt; the delivery is due as before."""
        self._store.write(("give_back", _held(claim)), NEWS, is_synced=False)

    def next_due_at(
        self,
        endpoint: str,
        environment: str | None,
        *,
        now: datetime | None = None,
        max_wait: timedelta | None = None,
    ) -> datetime | None:
        """When there is something to claim for *endpoint* there; ``None``: nothing is waiting.

        The end of a lease counts, so that a crashed worker's delivery is taken up.
        """
        front = self._front(endpoint, environment)
        return front.look(now or datetime.now(UTC), max_wait).next_at()

    def due(
        self, endpoints: Iterable[Endpoint], environment: str | None, *, now: datetime
    ) -> dict[str, datetime]:
        """The same by endpoint, of those that something waits for."""
        found = {
            one.name: self.next_due_at(
                one.name, environment, now=now, max_wait=one.retry.longest_wait
            )
            for one in endpoints
        }
        return {name: at for name, at in found.items() if at is not None}

    def _front(self, endpoint: str, environment: str | None) -> Front:
        place = _place(endpoint, environment)
        return self._fronts.setdefault(tuple(place.values()), Front(self._store, place))

    # Endpoints

    def disable(self, endpoint: str, environment: str | None, at: datetime) -> None:
        """Switch *endpoint* off there: its deliveries wait. Off already: since when stays."""
        self._store.write(("disable", _place(endpoint, environment) | {"at": rows.instant(at)}))

    def enable(self, endpoint: str, environment: str | None) -> bool:
        """Switch *endpoint* on again in *environment*; ``False``: it was not off."""
        count, *_ = self._store.write(("enable", _place(endpoint, environment)), NEWS)
        return bool(count)

    def statuses(self, environment: str | None) -> Mapping[str, EndpointStatus]:
        """The endpoints that are off in *environment*, or were asked to rest, and until when."""
        [found] = self._store.read(("status", _place("", environment)))
        return {
            rows.shown(row["endpoint"]): status for row in found if any(status := status_of([row]))
        }

    # Operators

    def redeliver(self, delivery_id: str, *, now: datetime, was: State = State.DELIVERED) -> bool:
        """Start the schedule of one that no lease holds over, due now; ``False``: no such one.

        Attempt numbers count on, and its place in the endpoint's order stays. One that *was* not
        delivered when it was chosen, and is by now, is left alone: it would be sent twice.
        """
        count, *_ = self._store.write(("redeliver", _free(delivery_id, now, was)), NEWS)
        return bool(count)

    def discard(self, delivery_id: str, *, now: datetime, was: State = State.DELIVERED) -> bool:
        """Forget one that no lease holds at *now*, nor was delivered since; as ``redeliver``."""
        [count] = self._store.write(("discard", _free(delivery_id, now, was)))
        return bool(count)

    def prune(self, *, before: datetime | None = None, keep: int = KEPT_DELIVERED) -> int:
        """Forget deliveries delivered before *before*, and all but the last *keep* delivered.

        Returns how many. An event id released before *before*, by this machine's clock, may be
        forgotten once it has no delivery left.
        """
        before = (before or datetime.now(UTC) - KEPT_FOR) - self._ahead()
        cutoff = (rows.instant(before), 0)
        [surplus] = self._store.read(("newest_surplus", {"keep": keep}))
        for row in surplus:
            cutoff = max(cutoff, (row["finished_at"], row["seq"]))
        forgetting = {"at": rows.instant(before), "limit": PRUNE_BATCH}
        pruning = forgetting | {"at": cutoff[0], "last": cutoff[1]}
        pruned = schema.write_all(self._store, "prune", pruning)
        schema.write_all(self._store, "forget_released", forgetting)
        self._store.write(("forget_status", forgetting))
        return pruned

    def _ahead(self) -> timedelta:
        """By how much this machine's clock is ahead of the store's."""
        return timedelta()

    def deliveries(
        self,
        *,
        state: State | None = None,
        endpoint: str | None = None,
        event_type: EventType | None = None,
        since: datetime | None = None,
        limit: int = 100,
        **named: str | None,
    ) -> Sequence[Row]:
        """Up to *limit* deliveries that match, newest first; *since* is about when made.

        *named*: ``environment`` (``""`` or ``None``: those without one), ``migration`` (version,
        or version and name), ``trace``, ``event_id``, or ``id``.
        """
        if "environment" in named:
            named["environment"] = named["environment"] or ""
        wanted = named | {
            "state": state.value if state and state is not State.PENDING else None,
            "pending": state is State.PENDING or None,
            "endpoint": endpoint,
            "event_type": event_type and event_type.value,
            "since": rows.instant(since) if since else None,
        }
        values: dict[str, Any] = {
            name: stored_text(one) if isinstance(one, str) else one
            for name, one in wanted.items()
            if one is not None
        }
        filters = " AND ".join(_FILTERS[name] for name in values) or "1 = 1"
        if "beginning" in values:
            values["end"] = f"{values['beginning']}~"  # ids are ASCII, and less than that
        if "any_id" in values:
            values["seq"] = rows.named(values["any_id"])["seq"]
        values["limit"] = min(limit, END_OF_TIME)  # no store takes a larger number
        [found] = self._store.read((f"list {filters}", values))
        return [rows.row_of(row) for row in found]

    def named(self, delivery_ids: Sequence[str]) -> Sequence[Row]:
        """The deliveries of these ids, as far as they are there."""
        found: list[Row] = []
        for start in range(0, len(delivery_ids), ASKED_AT_ONCE):
            some = [rows.named(one) for one in delivery_ids[start : start + ASKED_AT_ONCE]]
            values = {
                f"{key}{n}": one[key] for n, one in enumerate(some) for key in one if one[key]
            }
            wanted = " OR ".join(
                f"deliveries.{key} IN ({', '.join(places)})"
                for key in ("id", "seq")
                if (places := [f":{name}" for name in values if name.startswith(key)])
            )
            [stored] = self._store.read((f"list {wanted}", {**values, "limit": len(some)}))
            found += map(rows.row_of, stored)
        return found

    def look_up(self, beginning: str, *, limit: int = 20) -> Sequence[Row]:
        """Deliveries whose id, event id or trace id is *beginning*, else begins so; newest first.

        For an event or a run it returns all its deliveries, in every environment.
        """
        if not beginning:
            return []
        whole = self.deliveries(any_id=beginning, limit=limit)
        return whole or self.deliveries(beginning=beginning, limit=limit)

    def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The attempts of one delivery by number; empty also when there is no such delivery."""
        [found] = self._store.read(("attempts", rows.named(delivery_id)))
        return [one for row in found if (one := rows.attempt(row)) is not None]

    def summary(self, environment: str | None) -> Summary:
        """Counts by state and endpoint, and the oldest undelivered, of one environment."""
        return self.summaries().get(environment or None, Summary())

    def summaries(self) -> dict[str | None, Summary]:
        """The same of each environment that has a delivery."""
        return summaries(*self._store.read(("undelivered", {}), ("ended", {})))

    def listen(
        self,
        wake: Callable[[], None],  # noqa: ARG002
        on_change: Callable[[bool], None],  # noqa: ARG002
    ) -> Callable[[], None]:
        """Call *wake*, in a thread of its own, whenever there is something new; what ends it.

        *on_change* is called with ``True`` when that can be relied on, and with ``False`` when not
        any more: at both instants something may have come without a call. It is a hint, not a
        promise: looking now and then is still needed. A store that cannot call never does.
        """
        return lambda: None

    def close(self) -> None:
        """Close files and connections. Closing twice is allowed."""
        self._store.close()


NEWS: schema.Step = ("notify", {"payload": ""})
"""The listeners look again, once it is committed."""
_INTENTS: schema.Step = ("intents", {})

_FILTERS = {
    "state": "deliveries.state = :state",
    "pending": f"deliveries.state NOT IN {tuple(str(one) for one in State)[1:]}",
    "endpoint": "endpoint = :endpoint",
    "event_type": "event_type = :event_type",
    "since": "created_at >= :since",
    "environment": "environment = :environment",
    "migration": "(migration_version = :migration OR migration_name = :migration)",
    "trace": "correlation_id = :trace",
    "event_id": "event_id = :event_id",
    "id": "id = :id",
    "any_id": "(id = :any_id OR event_id = :any_id OR correlation_id = :any_id"
    " OR deliveries.seq = :seq)",
    "beginning": " OR ".join(
        f"({column} >= :beginning AND {column} < :end)"
        for column in ("id", "event_id", "correlation_id")
    ).join("()"),
}


def _place(endpoint: str, environment: str | None) -> dict[str, Any]:
    return {"endpoint": stored_text(endpoint), "environment": stored_text(environment or "")}


def _free(delivery_id: str, now: datetime, was: State) -> dict[str, Any]:
    lease = {"now": rows.instant(now), "horizon": horizon(now, LONGEST_LEASE)}
    return rows.named(delivery_id) | lease | {"was_delivered": int(was is State.DELIVERED)}


def _held(claim: Claim) -> dict[str, Any]:
    seq, _, token = claim.token.partition(".")
    return {"seq": int(seq), "token": token}
