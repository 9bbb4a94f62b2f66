"""The output of commands: lines, documents, tables, faults and questions; their exit codes."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import wraps
from typing import Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import ConfigError, Fault, OutboxError, WebhooksError
from ..terminal import USUAL_COLUMNS, is_terminal, printable, say, settle

FAILED = 1
WRONG_COMMAND = 2
CONFIG_INVALID = 5
"""The host's exit code of an invalid configuration."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class CommandError(WebhooksError):
    """A command cannot do what it was asked; *lines* go with it, and *more* by its key in JSON."""

    def __init__(
        self, problem: str, *, code: int = FAILED, lines: Sequence[str] = (), **more: Sequence[Any]
    ) -> None:
        self.code, self.lines, self.more = code, lines, more
        super().__init__(problem)


def with_exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """*command*, whose errors end it with the host's exit code, in lines or in one document.

    Where standard output takes no more, on a full disk, it fails in one line.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        output = kwargs.get("output", "text")
        try:
            try:
                command(*args, **kwargs)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except ConfigError as error:
            if output == "json":
                print_json({"ok": False, "faults": fault_rows(error.faults)})
            else:
                say_faults(error.faults)
            raise typer.Exit(CONFIG_INVALID) from None
        except CommandError as error:
            _fail(error, output)
        except OutboxError as error:
            _fail(CommandError(str(error)), output)
        except OSError as error:
            if error.errno not in _FULL or error.filename:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is not tried again
            problem = f"standard output cannot be written ({error.strerror}). Make room for it"
            _fail(CommandError(problem), "text")

    return run


def _fail(error: CommandError, output: str) -> NoReturn:
    if output == "json":
        print_json({"ok": False, "error": str(error), **error.more})
    else:
        say(f"❌ {error}", style="red")
        say(*(f"   {below}" for below in error.lines))
    raise typer.Exit(error.code)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2))


def line(text: str, style: str | None = None) -> None:
    """A line for people, on stdout."""
    _console().print(escape(printable(text)), style=style)


def _console() -> Console:
    """Breaks no line, and shows numbers and ``:words:`` as they are; also if COLUMNS is 0."""
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    console.width = console.width or USUAL_COLUMNS
    return console


def conclude(
    document: Mapping[str, Any],
    shown: Iterable[str] | Callable[[], object],
    output: str,
    *,
    code: int = FAILED,
) -> None:
    """The end of a command: its document, or what is *shown* to people; unless ok, exit *code*."""
    settle()  # a progress line is wiped before the result comes
    if output == "json":
        print_json(document)
    elif callable(shown):
        shown()
    else:
        for text in shown:
            line(text)
    if not document["ok"]:
        raise typer.Exit(code)


def say_faults(faults: Sequence[Fault]) -> None:
    """Every fault with its remedy, on stderr."""
    for fault in faults:
        say(f"❌ {fault.what}", style="red")
        say(f"   {fault.remedy}")


def fault_rows(faults: Sequence[Fault]) -> list[dict[str, str | None]]:
    """The faults as JSON has them."""
    return [asdict(fault) for fault in faults]


def agree(plan: str, *, yes: bool) -> None:
    """Say what will be done. Raises CommandError unless somebody agrees."""
    if yes:
        say(f"{plan}.")
        return
    if not is_terminal(sys.stdin):
        todo = f"{plan[0].lower()}{plan[1:]}"
        raise CommandError(f"No terminal to confirm on. Add --yes to {todo}")
    if not typer.confirm(printable(f"{plan}?"), err=True):
        raise CommandError("Nothing was changed")


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
    shown = [[printable(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _print_for_people(columns, shown)
        return
    lines = [[column.upper() for column in columns], *shown]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _print_for_people(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A frame where it fits; else a block for each row, so that no cell is ever cut."""
    console = _console()
    lines = [columns, *rows]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(columns))]
    if sum(widths) + 3 * len(columns) + 1 <= console.width:
        table = Table(*columns)
        for row in rows:
            table.add_row(*(_styled(cell) for cell in row))
        console.print(table)
        return
    for head, *rest in rows:
        print_facts(zip(columns[1:], rest, strict=True), title=f"{columns[0]} {head}")


def print_facts(facts: Iterable[tuple[str, str]], *, title: str = "") -> None:
    """A ``name: value`` line for each fact, however long; below the *title*, if there is one."""
    console = _console()
    if title:
        console.print(f"[bold]{escape(printable(title))}[/bold]")
    for name, value in facts:
        indent = "  " if title else ""
        shown = escape(name.replace("_", " "))
        console.print(f"{indent}{shown}: {_styled(printable(value))}")


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
