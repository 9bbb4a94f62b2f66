"""An event in words for people: what every chat and paging format is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ..event import FAILURES, OF_RUNS, Direction, Event, EventType, utf8
from ..terminal import counted

Fact = tuple[str, str]

TITLES = {
    EventType.MIGRATION_SUCCESS: "Migration succeeded",
    EventType.MIGRATION_ERROR: "Migration failed",
    EventType.MIGRATION_ROLLBACK: "Migration rolled back",
    EventType.MIGRATION_ROLLBACK_ERROR: "Rollback failed",
    EventType.MIGRATION_STARTED: "Migration started",
    EventType.PING: "Ping: webhooks arrive here",
}
"""Titles of events about one migration, or none; a run's is made of its migrations."""
_SUCCESSES = frozenset({EventType.MIGRATION_SUCCESS, EventType.RUN_SUCCESS})
LONGEST_LINK = 1000
"""Discord takes fields of 1024; a longer address is left out, for part of one leads nowhere."""
LONGEST_LIST = 50
"""So many migrations of a run are named; the others are counted."""


class Tone(StrEnum):
    """Whether an event is good news."""

    GOOD = "good"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An event as a title, one line of text, and facts in the order they are read."""

    tone: Tone
    title: str
    text: str
    """The migration and where it ran; empty when the title says it all."""
    facts: tuple[Fact, ...] = ()
    links: tuple[Fact, ...] = ()
    """Names and web addresses: of the CI run, and of the trace."""

    @property
    def summary(self) -> str:
        """All that matters in one line: title, migration, and why it failed."""
        error = dict(self.facts).get("Error")
        return ": ".join(part for part in (self.title, self.text, error) if part)

    def cut(self, limit: int) -> Message:
        """The same with no text longer than *limit*."""
        return replace(
            self,
            title=cut(self.title, limit),
            text=cut(self.text, limit),
            facts=tuple((name, cut(value, limit)) for name, value in self.facts),
        )


def message(event: Event, *, include_sql: bool = False) -> Message:
    """*event* in words; with *include_sql* the whole error text is one of the facts."""
    found = (("CI run", event.run_url), ("Trace link", event.trace_url))
    # Cards write them as Markdown, in which a bracket may end them.
    links = ((name, (url or "").replace("(", "%28").replace(")", "%29")) for name, url in found)
    return Message(
        tone=tone(event),
        title=_run_title(event) if event.type in OF_RUNS else TITLES[event.type],
        text="" if event.type in OF_RUNS else _text(event),
        facts=tuple(_facts(event, include_sql=include_sql)),
        links=tuple((name, url) for name, url in links if url and len(url) <= LONGEST_LINK),
    )


def tone(event: Event) -> Tone:
    """Whether *event* is good news, bad news, or none: a rollback is none."""
    if event.type in FAILURES:
        return Tone.BAD
    return Tone.GOOD if event.type in _SUCCESSES and not is_down(event) else Tone.NEUTRAL


def is_down(event: Event) -> bool:
    """Whether *event* is about rolling back."""
    if event.direction is not None:
        return event.direction is Direction.DOWN
    directions = {row["direction"] for row in event.migrations or ()}
    if directions:
        return directions == {Direction.DOWN.value}
    return (event.command or "").partition("migrate ")[2].startswith("down")


def cut(text: str, limit: int) -> str:
    """*text*, or as much of it as *limit* leaves, with an ellipsis at the end.

    Counted in UTF-16 units, as some providers do: those that count characters find fewer.
    """
    units = text.encode("utf-16-le")
    if len(units) <= 2 * limit:
        return text
    return units[: 2 * (limit - 1)].decode("utf-16-le", "ignore") + "…"


def key(event: Event, limit: int) -> str:
    """The name of the trouble *event* is about: the same for its failure and its next success.

    A migration in one environment and database, or a run there, in one direction: a rollback
    ends no trouble of an ``up``. Events that open and close nothing have a key of their own.
    """
    about = event.migration.version if event.migration else "run"
    is_end = event.type in {*_SUCCESSES, EventType.MIGRATION_ROLLBACK}
    if not (is_end or tone(event) is Tone.BAD):
        about = event.id
    place = [event.environment, event.database.host, event.database.name, about]
    whole = utf8("confiture:" + ":".join(part or "-" for part in place))
    whole += ":down" if is_down(event) else ""
    if len(whole) <= limit:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()
    return f"{whole[: limit - len(digest) - 1]}:{digest}"


def _run_title(event: Event) -> str:
    """The title of a run: its work, where, and its migrations: the failed one, or the first few."""
    rows = event.migrations or ()
    where = f" in {event.environment}" if event.environment else ""
    failed = [str(row["name"]) for row in rows if row["status"] != "success"]
    names = failed[-1:] or [str(row["name"]) for row in rows]
    if event.type is EventType.RUN_ERROR and failed:
        doing = "Rollback of" if is_down(event) else "Migration"
        return utf8(f"{doing} {names[0]} failed{where}")
    if event.type is EventType.RUN_ERROR:
        return utf8(f"Run failed{where}")
    if not names:
        return utf8(f"Run succeeded{where}: nothing to do")
    verb = "Rolled back" if is_down(event) else "Applied"
    number = counted(len(names), "migration", "migrations")
    return utf8(f"{verb} {number}{where}: {_listed(names, 3)}")


def _text(event: Event) -> str:
    what = f"{event.migration.name} ({event.direction or 'up'})" if event.migration else ""
    where = f"in {event.environment}" if event.environment else ""
    return utf8(" ".join(part for part in (what, where) if part))


def _facts(event: Event, *, include_sql: bool) -> list[Fact]:
    database, error, seconds = event.database, event.error, event.duration_s
    named = [
        f"{row['name']}{'' if row['status'] == 'success' else ' (failed)'}"
        for row in event.migrations or ()
    ]
    found: list[tuple[str, object]] = [
        ("Migration", event.migration.name if event.migration else None),
        ("Direction", event.direction.value if event.direction else None),
        ("Environment", event.environment),
        ("Database", " on ".join(filter(None, (database.name, database.host)))),
        ("Duration", None if seconds is None else f"{round(seconds, 3):g} s"),
        ("Rows", event.rows_affected),
        ("Migrations", _listed(named, LONGEST_LIST)),
    ]
    if error is not None:
        found += [("Error", f"{error.type}: {error.message}"), ("SQLSTATE", error.sqlstate)]
        if include_sql:
            found.append(("Detail", error.detail))
    found += [("Command", event.command), ("Trace", event.trace_id)]
    texts = ((name, "" if value is None else utf8(str(value))) for name, value in found)
    return [fact for fact in texts if fact[1].strip()]


def _listed(names: Sequence[str], most: int) -> str:
    shown = ", ".join(names[:most])
    left = len(names) - most
    return f"{shown} and {left} more" if left > 0 else shown
