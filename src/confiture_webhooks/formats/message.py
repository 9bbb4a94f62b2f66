"""An event in words for people: what every chat and paging format is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ..event import Event, EventType

Fact = tuple[str, str]

TITLES = {
    EventType.MIGRATION_SUCCESS: "Migration succeeded",
    EventType.MIGRATION_ERROR: "Migration failed",
    EventType.MIGRATION_ROLLBACK: "Migration rolled back",
    EventType.MIGRATION_ROLLBACK_ERROR: "Rollback failed",
    EventType.MIGRATION_STARTED: "Migration started",
    EventType.RUN_SUCCESS: "Run succeeded",
    EventType.RUN_ERROR: "Run failed",
    EventType.PING: "Ping: webhooks arrive here",
}
_FAILURES = frozenset(
    {EventType.MIGRATION_ERROR, EventType.MIGRATION_ROLLBACK_ERROR, EventType.RUN_ERROR}
)
_SUCCESSES = frozenset(
    {EventType.MIGRATION_SUCCESS, EventType.MIGRATION_ROLLBACK, EventType.RUN_SUCCESS}
)
_SECONDS_SHOWN = 3
LONGEST_LIST = 50
"""So many migrations of a run are named; the others are counted."""


class Tone(StrEnum):
    """How an event is to be taken."""

    GOOD = "good"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What happened, as a title, one line of text, and facts in the order they are read."""

    tone: Tone
    title: str
    text: str
    """The migration and where it ran; empty when the title says it all."""
    facts: tuple[Fact, ...] = ()

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
    return Message(
        tone=tone(event),
        title=TITLES.get(event.type) or event.type.value.replace("_", " ").capitalize(),
        text=_text(event),
        facts=tuple(_facts(event, include_sql=include_sql)),
    )


def tone(event: Event) -> Tone:
    """Whether *event* is good news, bad news, or none."""
    if event.type in _FAILURES:
        return Tone.BAD
    return Tone.GOOD if event.type in _SUCCESSES else Tone.NEUTRAL


def cut(text: str, limit: int) -> str:
    """*text*, or as much of it as *limit* leaves, with an ellipsis at the end.

    Counted in UTF-16 units, as some providers do: those that count characters find fewer.
    """
    units = text.encode("utf-16-le")
    if len(units) <= 2 * limit:
        return text
    return units[: 2 * (limit - 1)].decode("utf-16-le", "ignore") + "…"


def key(event: Event, limit: int) -> str:
    """What names the trouble *event* is about: the same for its failure and its next success.

    A migration in one environment and database, or a run there. Events that open and
    close nothing have a key of their own, so that nothing goes by it.
    """
    about = event.migration.version if event.migration else "run"
    if tone(event) is Tone.NEUTRAL:
        about = event.id
    place = (event.environment, event.database.host, event.database.name, about)
    whole = plain("confiture:" + ":".join(part or "-" for part in place))
    if len(whole) <= limit:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()
    return f"{whole[: limit - len(digest) - 1]}:{digest}"


def plain(text: str) -> str:
    """*text* as UTF-8 can carry it, before it is measured: bad bytes are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(event: Event) -> str:
    what = f"{event.migration.name} ({event.direction or 'up'})" if event.migration else ""
    where = f"in {event.environment}" if event.environment else ""
    return plain(" ".join(part for part in (what, where) if part))


def _facts(event: Event, *, include_sql: bool) -> list[Fact]:
    database, error = event.database, event.error
    found: list[tuple[str, object]] = [
        ("Migration", event.migration.name if event.migration else None),
        ("Direction", event.direction.value if event.direction else None),
        ("Environment", event.environment),
        ("Database", "/".join(part for part in (database.host, database.name) if part)),
        ("Duration", _duration(event.duration_s)),
        ("Rows", event.rows_affected),
        ("Migrations", _listed([_named(row) for row in event.migrations or ()])),
    ]
    if error is not None:
        found += [("Error", f"{error.type}: {error.message}"), ("SQLSTATE", error.sqlstate)]
        if include_sql:
            found.append(("Detail", error.detail))
    found.append(("Trace", event.trace_id))
    return [(name, plain(str(value))) for name, value in found if value not in (None, "")]


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else f"{round(seconds, _SECONDS_SHOWN):g} s"


def _named(row: Mapping[str, object]) -> str:
    return f"{row['name']}{'' if row['status'] == 'success' else ' (failed)'}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LONGEST_LIST])
    left = len(names) - LONGEST_LIST
    return f"{shown} and {left} more" if left > 0 else shown
