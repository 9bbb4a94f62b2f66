"""What waits in an outbox: counted for ``status``, and as rows of the doctor's table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from ..config import Settings
from ..config.variables import OUTBOX
from ..delivery import State
from ..errors import OutboxError
from ..event import rfc3339
from ..outbox import UNSETTLED_FOR, Intent, LeftBehind, Outbox, Row, Summary, Unreadable
from ..outlook import (
    LATE,
    Standing,
    Wait,
    correct_first,
    elsewhere,
    once_possible,
    outlook,
    shown_environment,
)
from ..remedy import shown
from ..run.other_environment import in_environment
from ..run.sending import undelivered
from ..terminal import counted
from ..wiring import left_in_database, left_in_file

FUTURE = timedelta(minutes=1)
"""A delivery made so far in the future was made by a clock that was wrong."""
MOST_NAMED = 20
SEARCHED = 1000
"""Among so many of the newest, unreadable and refused ones are looked for."""


_ENDED = {
    State.DEAD_LETTER: ("dead letters", "--dead"),
    State.GONE: ("answered with 410", "--gone"),
}
"""The states of what is not sent any more: in words, and the option of ``redeliver``."""


class Health(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table, as ``--format json`` prints it."""

    status: Health
    check: str
    detail: str
    remedy: str | None = None


ok = partial(Check, Health.OK)
warn = partial(Check, Health.WARNING)
"""It works, and might not always."""
wrong = partial(Check, Health.PROBLEM)
skipped = partial(Check, Health.SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """An outbox, as far as one environment is concerned."""

    now: datetime
    summary: Summary
    waits: list[Wait]
    """The endpoints whose deliveries wait, and why."""
    off: Mapping[str, datetime]
    """Since when each endpoint that is off is."""
    others: Mapping[str | None, int]
    """By other environment, how many deliveries wait."""
    ended: Mapping[State, list[Wait]]
    """The endpoints of dead letters, and of what a 410 ended, to which nothing is sent now."""
    ended_elsewhere: Mapping[State, Mapping[str | None, int]]
    """By other environment, how many dead letters it has, and deliveries that a 410 ended."""
    unserved: Mapping[str | None, tuple[int, datetime]]
    """By other environment, how many deliveries are due without a worker, and since when."""
    future: list[str]
    """The ids of deliveries that wait and were made in the future."""
    unreadable: list[str]
    """The ids of deliveries that are not delivered and that this version cannot read."""
    refused: Mapping[str, str]
    """The latest answer of each endpoint that refuses the sender."""
    unreadable_intents: list[str]
    """The same of killed runs."""
    unreadable_elsewhere: Mapping[str | None, list[str]]
    """By other environment, those of its killed runs."""
    intents: list[Intent]
    """The intents of migrations whose end was not reported yet."""
    unsettled_elsewhere: Mapping[str | None, int]
    """By other environment, how many of its migrations no run will settle any more."""
    left_in_file: Mapping[str | None, LeftBehind] | OutboxError
    """By environment, what waits in the SQLite file that was the outbox; why it is not known."""
    left_in_database: Mapping[str | None, LeftBehind]
    """By environment, what waits in the migrated database, where others may send it."""

    @property
    def old_intents(self) -> int:
        """How many of them no run will settle any more."""
        return len(_old(self.intents, self.now))

    @property
    def in_vain(self) -> list[Wait]:
        """Those that only an operator can change."""
        return [wait for wait in self.waits if wait.is_in_vain]

    @property
    def is_well(self) -> bool:
        """Whether nothing waits for an operator."""
        ended = [self.summary.counts.get(one, 0) for one in _ENDED]
        return not any(
            (
                *ended,
                self.in_vain,
                self.unserved,
                self.unreadable,
                self.unreadable_intents,
                self.unreadable_elsewhere,
                self.old_intents,
                self.unsettled_elsewhere,
                self._is_left_in_file,
            )
        )

    @property
    def _is_left_in_file(self) -> bool:
        """Whether the file holds more than runs that may be under way, or cannot be read."""
        held = self.left_in_file
        return isinstance(held, OutboxError) or any(any(one[:-1]) for one in held.values())


def examine(
    outbox: Outbox, settings: Settings, now: datetime, *, dsn: str | None = None
) -> Findings:
    """Look at everything once; *dsn*: the migrated database, if known."""
    environment = settings.environment or None
    summaries = outbox.summaries()
    summary = summaries.get(environment, Summary())
    standing = outbox.standing(environment)
    off = _off(standing)
    due = outbox.due(settings.recorded, environment, now=now)
    newest = outbox.deliveries(
        state=State.PENDING, environment=environment, since=now + FUTURE, limit=MOST_NAMED
    )
    intents = outbox.intents()
    in_file: Mapping[str | None, LeftBehind] | OutboxError
    try:
        in_file = left_in_file(settings)
    except OutboxError as error:
        in_file = error
    held = [
        row
        for state in (State.PENDING, State.IN_FLIGHT, State.DEAD_LETTER)
        for row in outbox.deliveries(state=state, environment=environment, limit=SEARCHED)
    ]
    gone = outbox.deliveries(state=State.GONE, environment=environment, limit=SEARCHED)
    unreadable: defaultdict[str | None, list[str]] = defaultdict(list)
    for one in outbox.unreadable_intents():
        unreadable[one.environment].append(one.event_id)
    return Findings(
        now=now,
        summary=summary,
        waits=outlook(
            {**dict.fromkeys(off, 0), **summary.undelivered},
            configured=settings.recorded,
            standing=standing,
            due=due,
            oldest=summary.oldest,
            now=now,
        ),
        off=off,
        others=elsewhere(undelivered(summaries), environment),
        ended={
            state: outlook(
                Counter(row.delivery.endpoint for row in (*held, *gone) if row.state is state),
                configured=settings.recorded,
                standing=standing,
                now=now,
            )
            for state in _ENDED
        },
        ended_elsewhere={
            state: elsewhere(
                {name: one.counts.get(state, 0) for name, one in summaries.items()}, environment
            )
            for state in _ENDED
        },
        unserved={
            name: late
            for name, one in summaries.items()
            if name != environment and (late := _late(outbox, name, one, now))
        },
        future=[row.delivery.id for row in newest if row.delivery.created_at > now + FUTURE],
        unreadable=[row.delivery.id for row in held if isinstance(row.delivery, Unreadable)],
        refused=dict(_refused(outbox, environment, held)),
        unreadable_intents=unreadable.pop(environment, []),
        unreadable_elsewhere=unreadable,
        intents=[one for one in intents if one.environment == environment],
        unsettled_elsewhere=elsewhere(
            Counter(one.environment for one in _old(intents, now)), environment
        ),
        left_in_file=in_file,
        left_in_database=left_in_database(settings, dsn),
    )


def _old(intents: Iterable[Intent], now: datetime) -> list[Intent]:
    return [one for one in intents if one.staged_at < now - UNSETTLED_FOR]


def _refused(
    outbox: Outbox, environment: str | None, held: Sequence[Row]
) -> Iterator[tuple[str, str]]:
    """Endpoints whose latest answer refuses the sender, and that answer. *held*: undelivered."""
    for name in dict.fromkeys(r.delivery.endpoint for r in held if correct_first(r.last_answer)):
        arrived = outbox.deliveries(
            state=State.DELIVERED, environment=environment, endpoint=name, limit=1
        )
        tried = [r.last_attempt for r in (*held, *arrived) if r.delivery.endpoint == name]
        latest = max(filter(None, tried), key=lambda one: one.started_at)
        if (answer := latest.answer) and correct_first(answer):
            yield name, answer


def _off(standing: Mapping[str, Standing]) -> dict[str, datetime]:
    return {name: since for name, (since, _) in standing.items() if since is not None}


def _late(
    outbox: Outbox, environment: str | None, summary: Summary, now: datetime
) -> tuple[int, datetime] | None:
    """How many deliveries of another environment are due without a worker, since when."""
    off = _off(outbox.standing(environment))
    due = {
        name: at
        for name in summary.undelivered
        if name not in off
        and (at := outbox.next_due_at(name, environment)) is not None
        and at < now - LATE
    }
    if not due:
        return None
    return sum(summary.undelivered[name] for name in due), min(due.values())


def needs(findings: Findings, environment: str | None) -> Iterator[Check]:
    """Everything that needs somebody, beside endpoints that wait, with the command that helps.

    *environment*: that of the command, which a run without one may have meant.
    """
    for name, answer in findings.refused.items():
        first = f"{answer}{correct_first(answer)}"
        yield warn(f"{name}: last answer", first, f"Then try it: {shown('test', name)}")
    for state, (name, option) in _ENDED.items():
        if count := findings.summary.counts.get(state, 0):
            again = f"Send them again: {shown('redeliver', option)}"
            yield warn(name, str(count), once_possible(findings.ended[state], again))
    yield from _needs_elsewhere(findings, environment)
    yield from _needs_left_behind(findings, environment)
    if ids := findings.unreadable:
        are = f"{len(ids)} cannot be read by this version"
        again, drop = (shown(verb, *ids[:MOST_NAMED]) for verb in ("redeliver", "discard"))
        yield wrong("unreadable deliveries", are, f"Try them again: {again}, or drop them: {drop}")
    if ids := findings.unreadable_intents:
        are = f"{len(ids)} cannot be read by this version"
        drop = shown("discard", *ids[:MOST_NAMED])
        remedy = f"Deliver with the version that wrote them, or: {drop}"
        yield wrong("unreadable killed runs", are, remedy)
    if findings.future:
        ahead = f"made by a clock that was wrong: {', '.join(findings.future)}"
        yield warn("from the future", ahead, f"Send them now: {shown('redeliver', '--pending')}")
    if findings.old_intents:
        lasting = f"{findings.old_intents} for more than a day"
        yield wrong("unsettled", lasting, f"See which, and why: {shown('status')}")


_LEFT_BEHIND = (
    ("delivery waits in it", "deliveries wait in it", "Send", "redeliver", "--pending"),
    ("dead letter is in it", "dead letters are in it", "Send", "redeliver", "--dead"),
    (
        "delivery with a 410 is in it",
        "deliveries with a 410 are in it",
        "Send",
        "redeliver",
        "--gone",
    ),
    ("killed run waits in it", "killed runs wait in it", "Report", "deliver"),
    ("run is under way, or was killed", "runs are under way, or were killed", "Report", "deliver"),
)
"""For each count of ``LeftBehind``: one of them, many, and what to do with them."""


def _needs_left_behind(findings: Findings, environment: str | None) -> Iterator[Check]:
    unused = ", and it is not in use any more"
    if isinstance(findings.left_in_file, OutboxError):
        problem = findings.left_in_file.problem.removeprefix("outbox ")
        remedy = "Correct that, or delete it if nothing in it is needed"
        yield wrong("SQLite outbox", f"{problem}{unused}", remedy)
    else:
        for is_sure, name, are, do in _rows_left_behind(
            findings.left_in_file, environment, "sqlite"
        ):
            make, what = (wrong, f"{are}{unused}") if is_sure else (warn, are)
            yield make(f"SQLite {name}", what, do)
    for is_sure, name, are, do in _rows_left_behind(
        findings.left_in_database, environment, "postgres"
    ):
        what = f"{are}, and it is not in use here" if is_sure else are
        yield warn(f"PostgreSQL {name}", what, do)


def _rows_left_behind(
    held: Mapping[str | None, LeftBehind], environment: str | None, kind: str
) -> Iterator[tuple[bool, str, str, str]]:
    """Whether it is sure that it waits; of whom, how many are left, and what to do with them."""
    for name, left in held.items():
        for count, words_of in zip(left, _LEFT_BEHIND, strict=True):
            one, many, do, *words = words_of
            command = shown(*words, variable=f"{OUTBOX}={kind}")
            if name != (environment or None):
                command = in_environment(name, *words, variable=f"{OUTBOX}={kind}")
            if count:
                are, whose = counted(count, one, many), f"outbox of {shown_environment(name)}"
                yield words_of is not _LEFT_BEHIND[-1], whose, are, f"{do} them: {command}"


def _needs_elsewhere(findings: Findings, environment: str | None) -> Iterator[Check]:
    """The same of other environments."""
    for state, (name, option) in _ENDED.items():
        of = "of" if state is State.DEAD_LETTER else "in"
        for other, count in findings.ended_elsewhere[state].items():
            again = in_environment(other, "redeliver", option)
            where = f"{name} {of} {shown_environment(other)}"
            yield warn(where, str(count), f"Send again: {again}")
    for other, (count, since) in findings.unserved.items():
        late = f"no worker serves it, {count} due since {rfc3339(since)}"
        wanted = f"CONFITURE_ENVIRONMENT={environment}" if environment else "CONFITURE_ENVIRONMENT"
        set_it = "" if other else f"Set {wanted} for the run that recorded them. "
        send = f"{set_it}Send them: {in_environment(other, 'deliver')}"
        yield wrong(f"environment {shown_environment(other)}", late, send)
    for other, ids in findings.unreadable_elsewhere.items():
        are = f"{len(ids)} cannot be read by this version"
        drop = in_environment(other, "discard", *ids[:MOST_NAMED])
        remedy = f"Deliver with the version that wrote them, or: {drop}"
        yield wrong(f"unreadable killed runs of {shown_environment(other)}", are, remedy)
    for other, count in findings.unsettled_elsewhere.items():
        lasting, report = f"{count} for more than a day", in_environment(other, "deliver")
        yield wrong(f"unsettled of {shown_environment(other)}", lasting, f"Report them: {report}")
