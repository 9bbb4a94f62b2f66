"""Deliveries that wait in an outbox: counted for ``status``, and as rows of the doctor's table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from operator import itemgetter

from ..config import Settings
from ..config.variables import ENVIRONMENT, OUTBOX
from ..delivery import State
from ..errors import OutboxError
from ..event import rfc3339
from ..outbox import UNSETTLED_FOR, Intent, LeftBehind, Outbox, Row, Summary, Unreadable
from ..outbox.postgres_schema import left_behind_in
from ..outbox.summary import waiting_elsewhere
from ..outlook import (
    LATE,
    Wait,
    correct_first,
    elsewhere,
    once_possible,
    outlook,
    shown_environment,
)
from ..remedy import quoted, shown
from ..run.other_environment import in_environment
from ..terminal import counted
from ..wiring import left_in_file

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
    """An outbox, as a command of one environment sees it."""

    now: datetime
    environment: str | None
    summaries: Mapping[str | None, Summary]
    waits: list[Wait]
    off: Mapping[str, datetime]
    ended: Mapping[State, list[Wait]]
    """The endpoints of dead letters, and of what a 410 ended, to which nothing is sent now."""
    unserved: Mapping[str | None, tuple[int, datetime]]
    """By other environment, how many deliveries are due without a worker, and since when."""
    future: list[str]
    """The ids of deliveries that wait and were made in the future."""
    unreadable: list[str]
    """The ids of deliveries that are not delivered and that this version cannot read."""
    refused: Mapping[str, str]
    """The latest answer of each endpoint that refuses the sender."""
    unreadable_runs: Mapping[str | None, list[str]]
    """By environment, the ids of killed runs that this version cannot read."""
    intents: list[Intent]
    old_intents: Mapping[str | None, int]
    """By environment, how many of its migrations no run will settle any more."""
    left_in_file: Mapping[str | None, LeftBehind] | OutboxError
    """By environment, what waits in the SQLite file that was the outbox; why it is not known."""
    left_in_database: Mapping[str | None, LeftBehind]
    """By environment, what waits in the migrated database, where others may send it."""
    left_file: str = "sqlite"
    """The setting that names that file."""

    @property
    def summary(self) -> Summary:
        return self.summaries.get(self.environment, Summary())

    @property
    def others(self) -> dict[str | None, int]:
        """By other environment, how many deliveries wait."""
        return waiting_elsewhere(self.summaries, self.environment)

    def ended_elsewhere(self, state: State) -> dict[str | None, int]:
        """By other environment, how many deliveries are in *state*."""
        counts = {name: one.counts.get(state, 0) for name, one in self.summaries.items()}
        return elsewhere(counts, self.environment)

    @property
    def in_vain(self) -> list[Wait]:
        """Those that only an operator can change."""
        return [wait for wait in self.waits if wait.is_in_vain]

    @property
    def is_well(self) -> bool:
        """Whether nothing waits for an operator."""
        held = self.left_in_file
        return not (
            any(self.summary.counts.get(state, 0) for state in _ENDED)
            or self.in_vain
            or self.unserved
            or self.unreadable
            or self.unreadable_runs
            or self.old_intents
            or isinstance(held, OutboxError)
            or any(held.get(self.environment, ())[:-1])  # the last may be under way
        )


def examine(
    outbox: Outbox, settings: Settings, now: datetime, *, dsn: str | None = None
) -> Findings:
    """Look at everything once; *dsn*: the migrated database, if known."""
    environment = settings.environment
    summaries = outbox.summaries()
    summary = summaries.get(environment, Summary())
    statuses = outbox.statuses(environment)
    off = {name: since for name, (since, _) in statuses.items() if since is not None}
    waiting = partial(outlook, configured=settings.recorded, statuses=statuses, now=now)
    find = partial(outbox.deliveries, environment=environment)
    newest = find(state=State.PENDING, since=now + FUTURE, limit=MOST_NAMED)
    intents = outbox.intents()
    old = (one.environment for one in intents if one.staged_at < now - UNSETTLED_FOR)
    is_elsewhere = settings.place.kind != "postgres"
    in_file: Mapping[str | None, LeftBehind] | OutboxError
    try:
        left_file, in_file = left_in_file(settings)
    except OutboxError as error:
        left_file, in_file = "sqlite", error
    held = [
        row
        for state in (State.PENDING, State.IN_FLIGHT, State.DEAD_LETTER)
        for row in find(state=state, limit=SEARCHED)
    ]
    gone = find(state=State.GONE, limit=SEARCHED)
    unreadable_runs: defaultdict[str | None, list[str]] = defaultdict(list)
    for one in outbox.unreadable_intents():
        unreadable_runs[one.environment].append(one.event_id)
    return Findings(
        now=now,
        environment=environment,
        summaries=summaries,
        waits=waiting(
            {**dict.fromkeys(off, 0), **summary.undelivered},
            due=outbox.due(settings.recorded, environment, now=now),
            oldest=summary.oldest,
        ),
        off=off,
        ended={
            state: waiting(
                Counter(row.delivery.endpoint for row in (*held, *gone) if row.state is state)
            )
            for state in _ENDED
        },
        unserved={
            name: late
            for name, its in summaries.items()
            if name != environment and (late := _late(outbox, name, its, now))
        },
        future=[row.delivery.id for row in newest if row.delivery.created_at > now + FUTURE],
        unreadable=[row.delivery.id for row in held if isinstance(row.delivery, Unreadable)],
        refused=dict(_refused(find, held)),
        unreadable_runs=unreadable_runs,
        intents=[one for one in intents if one.environment == environment],
        old_intents=Counter(old),
        left_in_file=in_file,
        left_file=left_file,
        left_in_database=left_behind_in(dsn) if is_elsewhere and dsn is not None else {},
    )


def _refused(find: Callable[..., Sequence[Row]], held: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Endpoints whose latest answer refuses the sender, and that answer. *held*: undelivered."""
    for name in dict.fromkeys(r.delivery.endpoint for r in held if correct_first(r.last_answer)):
        arrived = find(state=State.DELIVERED, endpoint=name, limit=1)
        tried = [r.last_attempt for r in (*held, *arrived) if r.delivery.endpoint == name]
        latest = max(filter(None, tried), key=lambda one: one.started_at)
        if (answer := latest.answer) and correct_first(answer):
            yield name, answer


def _late(
    outbox: Outbox, environment: str | None, summary: Summary, now: datetime
) -> tuple[int, datetime] | None:
    """How many deliveries of another environment are due without a worker, since when."""
    names = summary.undelivered  # of one that is off nothing is due
    due = {name: at for name in names if (at := outbox.next_due_at(name, environment))}
    late = {name: at for name, at in due.items() if at < now - LATE}
    return (sum(summary.undelivered[name] for name in late), min(late.values())) if late else None


def needs(found: Findings) -> Iterator[Check]:
    """Everything that needs somebody, beside endpoints that wait, with the command that helps."""
    for name, answer in found.refused.items():
        first = f"{answer}{correct_first(answer)}"
        yield warn(f"{name}: last answer", first, f"Then try it: {shown('test', name)}")
    for state, (name, option) in _ENDED.items():
        if count := found.summary.counts.get(state, 0):
            again = f"Send them again: {shown('redeliver', option)}"
            yield warn(name, str(count), once_possible(found.ended[state], again))
    yield from _waits_elsewhere(found)
    yield from _left_behind(found)
    if ids := found.unreadable:
        again, drop = (shown(verb, *ids[:MOST_NAMED]) for verb in ("redeliver", "discard"))
        remedy = f"Try them again: {again}, or drop them: {drop}"
        yield wrong("unreadable deliveries", _UNREADABLE.format(len(ids)), remedy)
    if found.future:
        ahead = f"made by a clock that was wrong: {', '.join(found.future)}"
        yield warn("from the future", ahead, f"Send them now: {shown('redeliver', '--pending')}")
    yield from _killed_runs(found)


def _waits_elsewhere(found: Findings) -> Iterator[Check]:
    for state, (name, option) in _ENDED.items():
        of = "of" if state is State.DEAD_LETTER else "in"
        for other, count in found.ended_elsewhere(state).items():
            again = in_environment(other, "redeliver", option)
            where = f"{name} {of} {shown_environment(other)}"
            yield warn(where, str(count), f"Send again: {again}")
    for other, (count, since) in found.unserved.items():
        late = f"no worker serves it, {count} due since {rfc3339(since)}"
        # A run without a name may have meant that of this command.
        wanted = "=".join(filter(None, (ENVIRONMENT, found.environment)))
        set_it = "" if other else f"Set {wanted} for the run that recorded them. "
        send = f"{set_it}Send them: {in_environment(other, 'deliver')}"
        yield wrong(f"environment {shown_environment(other)}", late, send)


def _killed_runs(found: Findings) -> Iterator[Check]:
    here = found.environment
    for other, ids in found.unreadable_runs.items():
        drop = _command(other, here, "discard", *ids[:MOST_NAMED])
        remedy = f"Deliver with the version that wrote them, or: {drop}"
        whose = f"unreadable killed runs{_of(other, here)}"
        yield wrong(whose, _UNREADABLE.format(len(ids)), remedy)
    for other, count in found.old_intents.items():
        remedy = f"See which, and why: {shown('status')}"
        if other != here:
            remedy = f"Report them: {in_environment(other, 'deliver')}"
        yield wrong(f"unsettled{_of(other, here)}", f"{count} for more than a day", remedy)


_UNREADABLE = "{} cannot be read by this version"
_LEFT_BEHIND = {
    "waiting": ("delivery waits", "deliveries wait", "redeliver", "--pending"),
    "dead_letter": ("dead letter is", "dead letters are", "redeliver", "--dead"),
    "gone": ("delivery with a 410 is", "deliveries with a 410 are", "redeliver", "--gone"),
    "unsettled": ("killed run waits", "killed runs wait", "deliver"),
    "begun": ("run is under way, or was killed", "runs are under way, or were killed", "deliver"),
}
"""For each count of ``LeftBehind``: one of them, many, and the command for them."""


def _left_behind(found: Findings) -> Iterator[Check]:
    in_file = found.left_in_file
    if isinstance(in_file, OutboxError):
        problem = in_file.problem.removeprefix("outbox ")
        remedy = "Correct that, or delete it if nothing in it is needed"
        yield wrong("SQLite outbox", f"{problem}, and it is not in use here", remedy)
        in_file = {}
    for held, store, kind in (
        (in_file, "SQLite", found.left_file),
        (found.left_in_database, "PostgreSQL", "postgres"),
    ):
        variable = f"{OUTBOX}={quoted(kind)}"
        for name, left in held.items():
            whose = f"{store} outbox of {shown_environment(name)}"
            for key, count in filter(itemgetter(1), left._asdict().items()):
                one, many, *words = _LEFT_BEHIND[key]
                do = "Send " if "redeliver" in words else "Report "
                do += "it: " if count == 1 else "them: "
                do += _command(name, found.environment, *words, variable=variable)
                unused = "" if key == "begun" else " in it, and it is not in use here"
                # Others may use the database, and another environment the file.
                make = wrong if unused and held is in_file and name == found.environment else warn
                yield make(whose, counted(count, one, many) + unused, do)


def _of(name: str | None, here: str | None) -> str:
    return "" if name == here else f" of {shown_environment(name)}"


def _command(name: str | None, here: str | None, *words: str, variable: str = "") -> str:
    """The command for environment *name*: as it is here, or as another's job runs it."""
    if name == here:
        return shown(*words, variable=variable)
    return in_environment(name, *words, variable=variable)
