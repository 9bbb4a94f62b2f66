"""The commands that messages show: they name the file that was used, and a shell takes them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from .command_watch import ENVIRONMENTS
from .terminal import is_terminal

File = str | PathLike[str] | None

INSTALL_DEMO = "`pip install 'confiture-webhooks[demo]'`, or in a clone `pip install '.[demo]'`"

_URL = re.compile(r"(postgres(?:ql)?://)(?:([\w.%~+-]+)(?::[^@/?#]*)?(@))?([^@\s]+)")
_SECRET = re.compile("pass|secret|key", re.IGNORECASE)
"""In the name of a parameter."""


class Assignment(str):
    """``NAME=value`` for a shell: commands need it in place of a file."""

    __slots__ = ()


_used: File = None


def use(file: File) -> None:
    """From now on, commands name *file*: the one, or the variable, that this process was given."""
    global _used  # noqa: PLW0603  a fact of the process, as its arguments are
    _used = file


def used() -> File:
    """The file that commands name, or their ``Assignment``."""
    return _used


def address(url: str | None, environ: Mapping[str, str]) -> Assignment:
    """The database *url* as a variable: by the name of one that holds it, else without a password.

    It is only named ``DSN`` if it is not known, or if it may have secrets elsewhere.
    """
    for name, value in environ.items():
        if url and value == url and name.isidentifier():
            return Assignment(f'CONFITURE_DATABASE_URL="${name}"')
    plain = _URL.fullmatch(url or "")
    is_open = plain and not _SECRET.search(plain[4].partition("?")[2])
    shown_url = "".join(part or "" for part in plain.groups()) if plain and is_open else "DSN"
    return Assignment(f"CONFITURE_DATABASE_URL={quoted(shown_url)}")


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
    file = None if isinstance(_used, Assignment) else _used
    return f"`{assigned(variable)}{command(*words, config=file, group=group)}`"


def assigned(*variables: str) -> str:
    """The assignments before a command: this process's own, and *variables* that are not empty."""
    given = _used if isinstance(_used, Assignment) else ""
    return "".join(f"{one} " for one in (given, *variables) if one)


def usual_file(environment: str | None) -> Path | None:
    """Where the file of *environment* usually lies; ``None``: its name is no file's."""
    is_name = environment and Path(environment).name == environment
    return Path(ENVIRONMENTS, f"{environment}.yaml") if is_name else None


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
