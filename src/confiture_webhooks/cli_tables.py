"""What the operator's commands show: rich on a terminal, plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.table import Table

STYLES = {
    "delivered": "green",
    "pending": "yellow",
    "in_flight": "cyan",
    "dead_letter": "red",
    "gone": "red",
}
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One table on stdout: for people with a frame, for programs in columns and nothing else."""
    shown = [list(row) for row in rows]
    if sys.stdout.isatty():
        table = Table()
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in shown:
            table.add_row(*(_styled(cell) for cell in row))
        Console().print(table)
        return
    lines = [[column.upper() for column in columns], *shown]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """A name and a value on each line."""
    listed = list(facts)
    width = max((len(name) for name, _ in listed), default=0)
    console = Console(soft_wrap=True, highlight=False)
    for name, value in listed:
        if sys.stdout.isatty():
            console.print(f"[bold]{escape(name.ljust(width))}[/bold]  {_styled(value)}")
        else:
            print(f"{name.ljust(width)}  {value}".rstrip())


def age(since: datetime, now: datetime) -> str:
    """How long ago *since* was, in its two largest units: ``2 h 5 min``."""
    return length(max(now - since, timedelta()))


def length(span: timedelta) -> str:
    """*span* in its two largest units; below a minute to the hundredth of a second."""
    seconds = span.total_seconds()
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.3g} s"
    left, parts = int(seconds), []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _styled(cell: str) -> str:
    style = STYLES.get(cell)
    return f"[{style}]{escape(cell)}[/{style}]" if style else escape(cell)
