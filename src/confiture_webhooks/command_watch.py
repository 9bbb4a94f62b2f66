"""``confiture migrate …`` before anything is imported: its commands and files, and how it is seen.

It is seen by the public methods of click's groups: ``resolve_command`` finds a sub-command and
``invoke`` runs it, in every click and in Typer's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

GROUP = "migrate"
MUTATING = frozenset(
    {"apply-as", "baseline", "down", "down-to", "rebuild", "reinit", "squash-ledger", "steps", "up"}
)
"""The commands that change a database or its ledger."""
NOT_MIGRATING = frozenset(
    (
        *("current", "diff", "fix", "generate", "introspect", "preflight", "status", "validate"),
        *("fix-signatures", "schema-to-schema", "verify", "verify-checksums"),
    )
)
"""Those that change no database: they are not watched. One that is new in the host is."""
CHANGING_WORDS: dict[str, frozenset[str]] = {
    "fix-signatures": frozenset({"apply", "--mode=apply"}),
    "schema-to-schema": frozenset({"cleanup", "migrate", "migrate-table", "setup"}),
    "verify-checksums": frozenset({"--fix"}),
}
"""Some of those do change it when one of these words follows."""
ENVIRONMENTS = "db/environments"
USUAL_FILE = f"{ENVIRONMENTS}/local.yaml"
"""The environment file that Confiture reads when it is given none."""
APPLY_AS_FILE = "confiture.yaml"
"""The environment file of ``migrate apply-as``."""
HOOKS = "confiture_hooks"
PREFIX = "CONFITURE_WEBHOOK"
SWITCH = "CONFITURE_WEBHOOKS"
BLOCK = "webhooks"
OFF_WORDS = frozenset({"false", "no", "off", "0"})
_KEY = re.compile(rb"""(?:^|[\r\n{,]|\xef\xbb\xbf)[ \t]*["']?([\w-]{4,12})["']?[ \t]*:""")
_ALIKE = 5
"""So many letters of a misspelt ``webhooks`` are right."""


def is_off(environ: Mapping[str, str]) -> bool:
    """Whether webhooks are switched off."""
    return environ.get(SWITCH, "").strip().lower() in OFF_WORDS


def is_set_up(environ: Mapping[str, str]) -> bool:
    """Whether a variable is one of ours, or nearly so. Errs only on the yes side."""
    return any(
        value and name != SWITCH and name.startswith("CONF") and "WEB" in name
        for name, value in environ.items()
    )


def _content_of(path: str | os.PathLike[str]) -> bytes:
    """The content of a file; nothing of what is no file, or cannot be read."""
    try:
        # Not of a pipe: what is read here would be missing where the host reads it.
        if not os.path.isfile(path):  # noqa: PTH113  pathlib would be an import
            return b""
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except (OSError, ValueError):
        return b""


def has_block(path: str | os.PathLike[str]) -> bool:
    """Whether the file seems to have a ``webhooks:`` block. Cheap; never raises."""
    return BLOCK.encode() in _KEY.findall(_content_of(path))


def names_block(path: str | os.PathLike[str]) -> bool:
    """Whether a key in the file is ``webhooks``, or nearly so. Errs only on the yes side.

    One that is longer, such as ``webhooks_old``, is meant to be another.
    """
    block = BLOCK.encode()
    keys = map(bytes.lower, _KEY.findall(_content_of(path)))
    return any(key == block or (block not in key and _is_near(key)) for key in keys)


def _is_near(key: bytes) -> bool:
    return b"hook" in key or len({*key} & {*BLOCK.encode()}) >= _ALIKE


def changes(command: str, words: Iterable[str]) -> bool:
    """Whether *command* of ``migrate`` with *words* changes a database or its ledger."""
    return command in MUTATING or not CHANGING_WORDS.get(command, frozenset()).isdisjoint(words)


def is_watched(words: list[str]) -> bool:
    """Whether the command line *words* is one that may change a database."""
    name = next(iter(words[1:]), "")
    return words[:1] == [GROUP] and (name not in NOT_MIGRATING or changes(name, words[2:]))


Finish = Callable[[BaseException | None], None]
"""Called when a command has ended, with an error or without."""
Open = Callable[[list[str]], Finish | None]
"""Begins to observe the command of these words, unless there is no reason to. Raises nothing."""

_seen: list[list[str]] | None = None
"""During a proof, the commands that were seen: none of them is opened."""


def watching(group: type[Any], open_: Open) -> type[Any]:
    """*group* as the root of commands, with a watch over every command of ``migrate``.

    The watch begins when the command line is parsed, and ends when the command has. One is enough:
    this plugin may be installed under two names.
    """
    if getattr(group, "is_watched", False):
        return group

    class WatchedGroup(group):  # type: ignore[misc]
        is_watched = True

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, command, rest = super().resolve_command(ctx, args)
            if name == GROUP:
                with suppress(Exception):  # no group, or one of another make: it is not watched
                    resolve = command.resolve_command
                    command.resolve_command = partial(_resolve, command, resolve, open_)
            return name, command, rest

    return WatchedGroup


def _resolve(
    group: Any, resolve: Callable[..., Any], open_: Open, ctx: Any, args: list[str]
) -> Any:
    """*resolve* a command of *group*, once, and watch it."""
    group.resolve_command = resolve
    name, command, rest = resolve(ctx, args)
    with suppress(Exception):  # no such command, or one that takes no attribute: the same
        command.invoke = partial(_invoke, command, command.invoke, [GROUP, *args], open_)
    return name, command, rest


def _invoke(
    command: Any, run: Callable[[Any], Any], words: list[str], open_: Open, ctx: Any
) -> Any:
    """*run* the command, once, under observation."""
    command.invoke = run
    if _seen is not None:
        _seen.append(words)
        return run(ctx)
    finish = open_(words)
    if finish is None:
        return run(ctx)
    try:
        result = run(ctx)
    except BaseException as error:
        finish(error)
        raise
    finish(None)
    return result


def sees_commands(app: Any = None) -> bool:
    """Whether ``confiture migrate up`` is seen here: it is dispatched, with nothing in it to run.

    *app* is the host's Typer app. Raises whatever the host's command line raises.
    """
    global _seen  # noqa: PLW0603  one proof at a time
    import typer  # noqa: PLC0415

    if app is None:
        app = import_module("confiture.cli.main").app
    root: Any = typer.main.get_command(app)
    root.commands[GROUP].commands["up"].callback = None
    seen: list[list[str]] = []
    _seen = seen
    try:
        root.main([GROUP, "up"], prog_name="confiture", standalone_mode=False)
    finally:
        _seen = None
    return seen == [[GROUP, "up"]]
