"""How a command answers: a document for programs, a line for people, and the exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import Fault
from ..terminal import printable, say
from .options import is_json

FAILED = 1
CONFIG_INVALID = 5
"""The host's exit code of an invalid configuration."""


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2))


def line(text: str, style: str | None = None) -> None:
    """A line for people, on stdout."""
    Console(soft_wrap=True, highlight=False).print(escape(printable(text)), style=style)


def fail(text: str, output: str = "text", **more: Any) -> NoReturn:
    """A line for people, or a document with *more* for programs, and the end of the command."""
    if is_json(output):
        print_json({"ok": False, "error": text, **more})
    else:
        say(f"❌ {text}", style="red")
    raise typer.Exit(FAILED)


def say_faults(faults: Sequence[Fault]) -> None:
    """Every fault with its remedy, on stderr."""
    for fault in faults:
        say(f"❌ {fault.setting}: {fault.problem}", style="red")
        say(f"   {fault.remedy}")


def fault_rows(faults: Sequence[Fault]) -> list[dict[str, str]]:
    """The faults as JSON has them."""
    return [{"setting": f.setting, "problem": f.problem, "remedy": f.remedy} for f in faults]


def refuse(faults: Sequence[Fault], output: str) -> NoReturn:
    """Print every fault, on stderr or as JSON, and end with the host's exit code for them."""
    if is_json(output):
        print_json({"ok": False, "faults": fault_rows(faults)})
    else:
        say_faults(faults)
    raise typer.Exit(CONFIG_INVALID)


def agree(plan: str, *, yes: bool, output: str) -> None:
    """Say what will be done, and end the command unless somebody agrees."""
    if yes:
        say(f"{plan}.")
        return
    if not sys.stdin.isatty():
        fail(f"{plan}? No terminal to confirm on. Add --yes", output)
    say(f"{plan}?")
    if not typer.confirm("Go on", err=True):
        fail("Nothing was changed", output)
