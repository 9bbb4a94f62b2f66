"""The commands that messages show: they name the file that was used, and a shell takes them."""

from __future__ import annotations

import shlex
from os import PathLike

File = str | PathLike[str] | None

_used: File = None


def use(file: File) -> None:
    """From now on, commands name *file*: the one that this process was given."""
    global _used  # noqa: PLW0603  a fact of the process, as its arguments are
    _used = file


def command(*words: str, config: File = None, group: str = "webhooks") -> str:
    """``confiture`` *group* with *words* and ``--config``, quoted for a shell, on one line."""
    named = ("--config", str(config)) if config is not None else ()
    return " ".join(map(quoted, ("confiture", group, *words, *named)))


def shown(*words: str, group: str = "webhooks") -> str:
    """A command for a sentence: between marks, with the file that this process was given."""
    return f"`{command(*words, config=_used, group=group)}`"


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
