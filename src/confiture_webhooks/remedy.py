"""The commands that messages show: they name the file that was used, and a shell takes them."""

from __future__ import annotations

import os
import shlex
import sys
from os import PathLike
from pathlib import Path

from .command_watch import ENVIRONMENTS, USUAL_FILE
from .terminal import is_terminal

File = str | PathLike[str] | None

INSTALL_DEMO = "`pip install 'confiture-webhooks[demo]'`, or in a clone `pip install '.[demo]'`"

_used: File = None


def use(file: File) -> None:
    """From now on, commands name *file*: the one that this process was given."""
    global _used  # noqa: PLW0603  a fact of the process, as its arguments are
    _used = file


def command(*words: str, config: File = None, group: str = "webhooks") -> str:
    """``confiture`` *group* with *words* and ``--config``, quoted for a shell, on one line.

    Without a terminal, as in a job, ``redeliver`` cannot ask.
    """
    asks = words[:1] == ("redeliver",) and "--yes" not in words
    agreed = ("--yes",) if asks and not is_terminal(sys.stdin) else ()
    named = ("--config", str(config)) if config is not None else ()
    return " ".join(map(quoted, ("confiture", group, *words, *agreed, *named)))


def shown(*words: str, group: str = "webhooks", variable: str = "") -> str:
    """A command for a sentence: between marks, with the file that this process was given.

    *variable*: ``NAME=value``, which the command needs.
    """
    before = f"{variable} " if variable else ""
    return f"`{before}{command(*words, config=_used, group=group)}`"


def usual_file(environment: str | None) -> Path | None:
    """Where the file of *environment* usually lies; ``None``: its name is no file's."""
    is_name = environment and Path(environment).name == environment
    return Path(ENVIRONMENTS, f"{environment}.yaml") if is_name else None


def shown_for(environment: str | None, *words: str, variable: str = "") -> str:
    """A command as :func:`shown` has it, for another *environment*.

    It names the file of that environment, or, where this process read none or that is none, it
    sets the variable.
    """
    has_variables = os.environ.get("CONFITURE_DATABASE_URL") or not os.access(USUAL_FILE, os.F_OK)
    file = None if _used is None and has_variables else usual_file(environment)
    before = f"{variable} " if variable else ""
    if file is not None and os.access(file, os.R_OK):
        return f"`{before}{command(*words, config=file)}`"
    return f"`{before}CONFITURE_ENVIRONMENT={quoted(environment or '')} {command(*words)}`"


def quoted(word: str) -> str:
    """*word* for a shell; one with characters that no screen shows is escaped as ``$'…'``."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)
