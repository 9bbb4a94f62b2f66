"""The commands that messages show: they name the file that was used, and a shell takes them."""

from __future__ import annotations

import shlex
from os import PathLike

_PROGRAM = ("confiture", "webhooks")


def command(*words: str, config: str | PathLike[str] | None = None) -> str:
    """``confiture webhooks`` with *words* and ``--config``, quoted for a shell, on one line."""
    named = ("--config", str(config)) if config is not None else ()
    return " ".join(quoted(word) for word in (*_PROGRAM, *words, *named))


def shown(*words: str, config: str | PathLike[str] | None = None) -> str:
    """The same between the marks that set a command apart in a sentence."""
    return f"`{command(*words, config=config)}`"


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
