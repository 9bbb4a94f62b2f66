"""The options that commands share, and how values of options are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .. import remedy
from ..event import SUBSCRIBABLE, EventType
from ..outlook import NO_ENVIRONMENT

FORMATS = ("text", "json")
SUBSCRIBED = [kind for kind in EventType if kind in SUBSCRIBABLE]
"""The events that an endpoint can ask for."""
RECORDED = [kind for kind in EventType if kind is not EventType.PING]
"""The events that an outbox may have."""
SHORTEST = 8
"""A command that changes something takes a beginning with so many characters after its prefix."""
_TRACE = re.compile("[0-9a-f]{32}")

Word = TypeVar("Word", bound=str)
Given = TypeVar("Given", str, str | None)


def one_of(among: Collection[Word]) -> Callable[[str], Word]:
    """How the value of an option is read that takes one of *among*."""

    def text(value: str) -> Word:
        for one in among:
            if one == value:
                return one
        raise typer.BadParameter(f"{value!r} is not one of: {', '.join(among)}")

    return text


def not_empty(given: Given) -> Given:
    """Refuse an empty value: every id begins so, and no name is one."""
    if given == "":
        raise typer.BadParameter("it is empty")
    return given


def environment_of(given: Given) -> Given:
    """The name as the outbox has it: ``(none)`` is the environment without one."""
    return "" if not_empty(given) == NO_ENVIRONMENT else given


def each(read: Callable[[str], str]) -> Callable[[list[str] | None], list[str]]:
    """How an option that may be repeated is read: each value by *read*. Typer 0.12 needs a list."""
    return lambda given: [read(one) for one in given or []]


def whole_trace(given: str | None) -> str | None:
    """Refuse the beginning of a trace id: a filter would find nothing. Capitals are small ones."""
    if given is not None and not _TRACE.fullmatch(given := not_empty(given).strip().lower()):
        reason = "a trace id has 32 hexadecimal digits. Its beginning is enough for "
        raise typer.BadParameter(reason + remedy.shown("show", given))
    return given


_AGO = re.compile(r"(\d{1,6})\s*(s|min|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def since(text: str, now: datetime | None = None) -> datetime:
    """The instant *text* means: ``90min``, ``2h``, ``7d``, a date, or a date with a time.

    Without an offset it is UTC, as everything the commands print. Raises BadParameter.
    """
    if ago := _AGO.fullmatch(text.strip().lower()):
        try:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        message = f"{text!r} is neither an instant (2026-01-09T14:00) nor an age (90min, 2h, 7d)"
        raise typer.BadParameter(message) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _used(config: Path | None) -> Path | None:
    """The commands that messages show name the same file."""
    remedy.use(config)
    return config


def one_event(*names: str, among: Collection[EventType], what: str) -> Any:
    """An option that takes one event *among* some."""
    shown = f"{what}: {', '.join(among)}"
    return typer.Option(*names, metavar="<event>", parser=one_of(among), help=shown)


_FILE = "Configuration file (default: db/environments/local.yaml)"
_OUTPUT = f"Output format: {' or '.join(FORMATS)}"
ConfigOpt = Annotated[Path | None, typer.Option("--config", "-c", callback=_used, help=_FILE)]
FormatOpt = Annotated[
    str,
    typer.Option("--format", "-f", metavar="<text|json>", parser=one_of(FORMATS), help=_OUTPUT),
]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to go on")]
EverywhereOpt = Annotated[
    bool, typer.Option("--all-environments", help="Every environment, not only that of --config")
]
NameArg = Annotated[str, typer.Argument(help="The endpoint's name")]
IdsArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        callback=each(not_empty),
        help="Ids of deliveries, events or traces (of `discard` also of events that stay "
        f"unsettled), or beginnings of {SHORTEST} characters",
    ),
]
