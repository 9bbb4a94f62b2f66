"""How a command answers: a document for programs, a line for people, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from .. import terminal
from ..errors import Fault
from .options import is_json

FAILED = 1
CONFIG_INVALID = 5
"""The host's exit code of an invalid configuration."""


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2))


def say(text: str, style: str | None = None) -> None:
    """A line for people, on stderr."""
    terminal.say(*text.split("\n"), style=style)


def fail(text: str, output: str = "text") -> NoReturn:
    """A line for people, or a document for programs, and the end of the command."""
    if is_json(output):
        print_json({"ok": False, "error": text})
    else:
        say(f"❌ {text}", style="red")
    raise typer.Exit(FAILED)


def refuse(faults: Sequence[Fault], output: str) -> NoReturn:
    """Print every fault, on stderr or as JSON, and end with the host's exit code for them."""
    if is_json(output):
        print_json(
            {
                "ok": False,
                "faults": [
                    {"setting": f.setting, "problem": f.problem, "remedy": f.remedy} for f in faults
                ],
            }
        )
    else:
        for fault in faults:
            terminal.say(f"❌ {fault.setting}: {fault.problem}", style="red")
            terminal.say(f"   {fault.remedy}")
    raise typer.Exit(CONFIG_INVALID)
