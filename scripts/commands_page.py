"""Writes ``docs/reference/commands.md`` from the commands themselves; ``--check`` only compares."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from confiture_webhooks.cli import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "commands.md"
HEAD = """# Commands

Each command takes `--help`. Exit codes follow Confiture's own: 0 is well, 1 is no, 2 is a wrong
command line, 5 is a wrong configuration. `--format json` prints one JSON document to standard
output, and nothing else there; a wrong command line is reported on
standard error alone.

<!-- made by scripts/commands_page.py: change the commands, not this page -->
"""
SECTION = re.compile(r"^([A-Z][A-Z ]+):$")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command of *group* by its full name, groups opened."""
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def rendered(text: str) -> Iterator[str]:
    """A command's help as Markdown: its sections as bold words, their lines as they stand."""
    section: list[str] = []
    for line in [*inspect.cleandoc(text).splitlines(), "END:"]:
        heading = SECTION.match(line)
        if heading is None:
            section.append(line)
            continue
        body = "\n".join(section).strip("\n")
        if body:
            yield (
                body if not line_is_indented(section) else f"```text\n{inspect.cleandoc(body)}\n```"
            )
        section = []
        if heading[1] != "END":
            yield f"**{heading[1].capitalize()}**"


def line_is_indented(lines: Sequence[str]) -> bool:
    """Whether what stands in *lines* is laid out by hand."""
    return any(line.startswith("  ") for line in lines)


def options(command: Any) -> Iterator[str]:
    """The rows of a command's arguments and options."""
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        words = (getattr(parameter, "help", "") or "").replace("|", "\\|")
        yield f"| {names} | {words} |"


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for name, command in commands(typer.main.get_group(app)):
        parts.append(f"## {name}")
        parts += rendered(command.help or "")
        if rows := list(options(command)):
            parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or say that it is not current."""
    new = page()
    if "--check" in sys.argv[1:]:
        is_current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == new
        if not is_current:
            print(f"{PAGE.name} is not current: run scripts/commands_page.py", file=sys.stderr)
        return int(not is_current)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
