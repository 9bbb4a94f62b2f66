"""The options that commands share, and the values they take."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from .. import remedy
from ..event import SUBSCRIBABLE, EventType


def _used(config: Path | None) -> Path | None:
    """The commands that messages show name the same file."""
    remedy.use(config)
    return config


ConfigOpt = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        callback=_used,
        help="Configuration file (default: db/environments/local.yaml)",
    ),
]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
EverywhereOpt = Annotated[
    bool,
    typer.Option("--all-environments", help="Every environment, not only that of --config"),
]
FORMATS = ("text", "json")

SUBSCRIBED = [kind for kind in EventType if kind in SUBSCRIBABLE]
"""The events that an endpoint can ask for."""
RECORDED = [kind for kind in EventType if kind is not EventType.PING]
"""The events that an outbox may have."""
TRACE_DIGITS = 32

Word = TypeVar("Word", bound=StrEnum)
T = TypeVar("T")


def _known_format(output: str) -> str:
    if output not in FORMATS:
        raise typer.BadParameter(f"{output!r} is not one of: {', '.join(FORMATS)}")
    return output


FormatOpt = Annotated[
    str,
    typer.Option(
        "--format",
        "-f",
        metavar=f"<{'|'.join(FORMATS)}>",
        callback=_known_format,
        help="Output format: text or json",
    ),
]


def is_json(output: str) -> bool:
    """Whether *output* asks for JSON."""
    return output == "json"


def words(among: Iterable[StrEnum]) -> str:
    """The values of *among*, for a help text."""
    return ", ".join(member.value for member in among)


def known(among: Iterable[Word], value: str | None, option: str) -> Word | None:
    """The one of *among* that *option* was given; a wrong one ends the command."""
    if value is None:
        return None
    found = next((member for member in among if member.value == value), None)
    if found is None:
        reason = f"{value!r} is not one of: {words(among)}"
        raise typer.BadParameter(reason, param_hint=option)
    return found


def not_empty(given: T) -> T:
    """Refuse an id without a character: every id begins so."""
    ids = [given] if isinstance(given, str) else given
    if isinstance(ids, list) and not all(ids):
        raise typer.BadParameter("an id is empty")
    return given


def check_trace(given: str | None, option: str) -> None:
    """Refuse the beginning of a trace id: a filter would find nothing."""
    if given is not None and len(given) != TRACE_DIGITS:
        reason = f"a trace id has {TRACE_DIGITS} digits. Its beginning is enough for "
        raise typer.BadParameter(reason + remedy.shown("show", given), param_hint=option)


def instant(value: str | None, option: str) -> datetime | None:
    """The instant that *option* was given; a wrong one ends the command."""
    if value is None:
        return None
    try:
        return since(value, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


_AGO = re.compile(r"(\d{1,6})\s*(s|min|m|h|d|w)")
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def since(text: str, now: datetime) -> datetime:
    """The instant *text* means: ``90min``, ``2h``, ``7d``, a date, or a date with a time.

    Without an offset it is UTC, as everything the commands print. Raises ValueError.
    """
    if ago := _AGO.fullmatch(text.strip().lower()):
        try:
            return now - int(ago[1]) * _UNITS[ago[2]]
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        message = f"{text!r} is neither an instant (2026-01-09T14:00) nor an age (90min, 2h, 7d)"
        raise ValueError(message) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)
