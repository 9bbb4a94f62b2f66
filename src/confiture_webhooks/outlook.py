"""Which deliveries wait in vain, why, and the command that changes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from .endpoint import Endpoint
from .event import rfc3339
from .remedy import shown

NO_ENVIRONMENT = "(none)"
"""An environment without a name, on every screen."""
LATE = timedelta(minutes=15)
"""A delivery that was due for so long has no worker."""
PATIENCE = timedelta(days=1)
"""A delivery that a receiver has put off for so long waits for an operator."""


class EndpointStatus(NamedTuple):
    """Why nothing is claimed for an endpoint in an environment."""

    off_since: datetime | None
    """It is switched off since then, until an operator enables it."""
    rests_until: datetime | None
    """It asked for a rest until then."""


class Why(StrEnum):
    """Why deliveries to an endpoint are not sent."""

    OFF = "off"
    UNKNOWN = "unknown"
    FAULTY = "faulty"
    RESTS = "rests"
    LIMITED = "limited"
    UNSERVED = "unserved"


_DISCARDABLE = {Why.UNKNOWN, Why.LIMITED}
"""Their remedies offer to discard the deliveries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Deliveries to one endpoint of one environment that wait, and why."""

    endpoint: str
    count: int
    why: Why
    at: datetime | None = None
    """Since when it is off or its deliveries are due; until when it rests, or lately did."""

    @property
    def rests_until(self) -> datetime | None:
        """Until when the endpoint rests, or lately did; ``None``: it does not."""
        return self.at if self.why in (Why.RESTS, Why.LIMITED) else None

    @property
    def is_in_vain(self) -> bool:
        """Whether an operator has to act: a rest ends by itself."""
        return self.why is not Why.RESTS

    @property
    def reason(self) -> str:
        """Why, in words that go after a colon."""
        at = rfc3339(self.at) if self.at else None
        return {
            Why.OFF: f"switched off since {at}",
            Why.UNKNOWN: "no endpoint of that name is configured",
            Why.FAULTY: "its configuration is wrong",
            Why.RESTS: f"rests until {at}, as its receiver or its rate asks",
            Why.LIMITED: "held back for over a day by its rate, or answers of 429 or 503; "
            f"rests until {at}",
            Why.UNSERVED: f"due since {at}, and no worker sends them",
        }[self.why]

    @property
    def remedy(self) -> str:
        """The remedy with its command, as a sentence without its end."""
        name = self.endpoint
        again = "Set CONFITURE_WEBHOOK_URL" if name == "default" else "Configure it again"
        discard = shown("discard", "--endpoint", name)
        return {
            Why.OFF: f"Switch it on: {shown('enable', name)}",
            Why.UNKNOWN: f"{again}, or discard its deliveries: {discard}",
            Why.FAULTY: f"To see the fault, run {shown('check')}",
            Why.RESTS: f"Send them then: {shown('deliver')}",
            Why.LIMITED: f"Ask for a higher limit, or discard its deliveries: {discard}",
            Why.UNSERVED: f"Send them now: {shown('deliver')}",
        }[self.why]

    @property
    def detail(self) -> str:
        """Why, and how many."""
        return self.reason + (f" ({self.count} waiting)" if self.count else "")

    @property
    def line(self) -> str:
        """All of it: to which endpoint, why, how many, and the remedy."""
        return f"{self.endpoint}: {self.detail}. {self.remedy}"


def is_possible(until: datetime, endpoint: Endpoint | None, now: datetime) -> bool:
    """Whether the policy of *endpoint* allows a wait until then; else a clock was wrong."""
    return endpoint is None or until <= now + endpoint.retry.longest_wait


def rest_of(status: EndpointStatus, endpoint: Endpoint | None, now: datetime) -> datetime | None:
    """Until when *endpoint* rests, or did; ``None``: it did not, or a clock was wrong."""
    until = status.rests_until
    return until if until is not None and is_possible(until, endpoint, now) else None


def outlook(
    undelivered: Mapping[str, int],
    *,
    configured: Iterable[Endpoint],
    now: datetime,
    statuses: Mapping[str, EndpointStatus] | None = None,
    due: Mapping[str, datetime | None] | None = None,
    oldest: Mapping[str, datetime] | None = None,
) -> list[Wait]:
    """The endpoints of one environment whose deliveries are not sent, by name.

    *undelivered*: how many wait, by endpoint; one without any is named only if it is off.
    *configured*: those that are wrong, too. *statuses*: as the outbox has it.
    *due*: when the next delivery of each is due. *oldest*: when the oldest of each was made.
    """
    waits, endpoints = [], {endpoint.name: endpoint for endpoint in configured}
    for name, count in sorted(undelivered.items()):
        status = (statuses or {}).get(name, EndpointStatus(None, None))
        off_since, rests_until = status.off_since, rest_of(status, endpoints.get(name), now)
        due_at, made_at = (due or {}).get(name), (oldest or {}).get(name, now)
        reason: tuple[Why, datetime | None] | None = None
        if name not in endpoints:
            reason = (Why.UNKNOWN, None)
        elif endpoints[name].faults:
            reason = (Why.FAULTY, None)
        elif off_since is not None:
            reason = (Why.OFF, off_since)
        elif rests_until and rests_until > now - LATE and made_at < now - PATIENCE:
            reason = (Why.LIMITED, rests_until)
        elif rests_until is not None and rests_until > now:
            reason = (Why.RESTS, rests_until)
        elif due_at is not None and due_at < now - LATE:
            reason = (Why.UNSERVED, due_at)
        if reason is not None and (count or reason[0] is Why.OFF):
            waits.append(Wait(endpoint=name, count=count, why=reason[0], at=reason[1]))
    return waits


def correct_first(failure: str | None) -> str:
    """The correction that is needed before a webhook that failed with *failure* is sent again."""
    is_refused = failure in {"401", "403"}
    return ", so correct its `secret`, `headers` or `url` first" if is_refused else ""


def again_lines(dead: int, gone: int, *narrowed: str) -> list[str]:
    """How so many *dead* letters, and deliveries that a 410 ended, are sent again."""
    lines = []
    if dead:
        again = shown("redeliver", "--dead", *narrowed)
        lines.append(f"Send dead letters again: {again}")
    if gone:
        again = shown("redeliver", "--gone", *narrowed)
        lines.append(f"Deliveries answered with 410 are not retried. Send them again: {again}")
    return lines


def once_possible(waits: Iterable[Wait], then: str) -> str:
    """The sentence *then*, after the remedies of those of *waits* that are in vain."""
    vain = [wait for wait in waits if wait.is_in_vain]
    first = [f"{wait.endpoint}: {wait.remedy}" for wait in vain]
    # What was discarded is not there to be sent.
    begin = "If you keep them, then" if {wait.why for wait in vain} & _DISCARDABLE else "Then"
    return ". ".join([*first, f"{begin} {then[0].lower()}{then[1:]}"]) if first else then


def shown_environment(name: str | None) -> str:
    """*name* as screens show it."""
    return name or NO_ENVIRONMENT


def elsewhere(
    undelivered: Mapping[str | None, int], environment: str | None
) -> dict[str | None, int]:
    """Those of *undelivered*, by environment, that are not of *environment*."""
    mine = {environment or None, environment or ""}
    return {name: count for name, count in undelivered.items() if name not in mine and count}


def by_environment(counts: Mapping[str | None, int]) -> dict[str, int]:
    """*counts* by environment as screens and documents name it."""
    return {shown_environment(name): count for name, count in counts.items()}


def listed(counts: Mapping[str | None, int]) -> str:
    """*counts* by environment in words: ``production 2, (none) 1``."""
    return ", ".join(f"{name} {count}" for name, count in by_environment(counts).items())
