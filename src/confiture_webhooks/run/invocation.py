"""A ``confiture migrate …`` command line, as far as webhooks must know it.

Cheap to import: this is read before it is known whether webhooks are wanted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import command_watch
from ..config.variables import CONFIG, DSN, ENVIRONMENT
from ..errors import Fault
from ..event import Direction
from ..remedy import Assignment, address, usual_file
from ..remedy import command as shown_command

ENVIRONMENTS = Path(command_watch.ENVIRONMENTS)
DEFAULT_CONFIG = Path(command_watch.USUAL_FILE)
DEFAULT_MIGRATIONS = Path("db/migrations")
FILE_ONLY = frozenset({"apply-as", "squash-ledger", "steps", "verify-checksums"})
"""Mutating commands that take the DSN from their file and from nowhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One command line of the ``migrate`` group."""

    command: str
    """The word after ``migrate``; empty when there is none."""
    config_file: Path | None
    """The environment file the host reads, or ``None`` when the DSN comes from elsewhere."""
    named_file: Path | Assignment | None
    """The ``--config`` of commands that read the same; the variable if the host reads no file.

    ``None``: they need neither.
    """
    settings_file: Path | None
    """Where the ``webhooks:`` block is looked for: there, or in CONFITURE_ENVIRONMENT's file."""
    missing: Path | None = None
    """The environment file the host reads, if it does not exist."""
    is_refused: bool = False
    """Whether the host will not choose a database: no file, or two addresses on purpose."""
    is_changing: bool = False
    """Whether such a command changes a database, unless this one is a rehearsal."""
    is_rehearsal: bool
    """Whether nothing it does is meant to last."""
    drops_schemas: bool = False
    """Whether ``migrate rebuild`` drops every schema, the outbox's too."""
    resumes: str | None = None
    """The version ``migrate steps --resume`` continues."""
    migrations_dir: Path = DEFAULT_MIGRATIONS

    database_url: str | None = field(default=None, repr=False)

    @property
    def is_run(self) -> bool:
        """Whether it is meant to change a database."""
        is_steps = self.command == "steps" and self.resumes is None  # it only shows them
        return self.is_changing and not (self.is_rehearsal or is_steps)

    @property
    def direction(self) -> Direction:
        return Direction.DOWN if self.command.startswith("down") else Direction.UP


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Invocation | None:
    """The invocation *arguments* (without the program's name) stand for; ``None``: not migrate."""
    if not arguments or arguments[0] != "migrate":
        return None
    rest = list(arguments[1:])
    if "--" in rest:
        rest = rest[: rest.index("--")]
    command = next((word for word in rest if not word.startswith("-")), "")
    given = _option(rest, "--config", "-c")
    config_file = Path(given) if given is not None else _usual_file(command, rest, environ)
    readable = _readable(config_file)
    missing = config_file if config_file and not os.access(config_file, os.F_OK) else None
    url = _option(rest, "--database-url", "-d") or _target_url(command, rest)
    is_singular = url or given is None or command in FILE_ONLY or "--no-config" in rest
    named = environ.get(ENVIRONMENT, "").strip()
    is_usual = given is None and config_file == DEFAULT_CONFIG and not environ.get(DSN)
    return Invocation(
        command=command,
        config_file=readable,
        named_file=None if is_usual else config_file or _variable(url, environ),
        missing=missing,
        is_refused=missing is not None or bool(environ.get(DSN) and not is_singular),
        settings_file=_readable(usual_file(named)) if config_file is None else readable,
        is_changing=command_watch.changes(command, rest),
        is_rehearsal=any(word.startswith("--dry-run") for word in rest),
        drops_schemas="--drop-schemas" in rest,
        resumes=_option(rest, "--resume") if command == "steps" else None,
        database_url=url,
        migrations_dir=Path(_option(rest, "--migrations-dir") or DEFAULT_MIGRATIONS),
    )


def unread_block(
    environ: Mapping[str, str], invocation: Invocation, words: Sequence[str]
) -> Fault | None:
    """The fault that an environment's file has a block which is not read, as no file is; else None.

    *words*: the command after ``confiture``, which the remedy shows with ``--config``.
    """
    given, used = environ.get(ENVIRONMENT, "").strip(), invocation.settings_file
    meant = usual_file(given) if used and invocation.named_file is None else None
    if environ.get(CONFIG) or (used and meant in (None, used)):
        return None
    blocks = [one for one in blocks_here() if meant in (None, one)]
    if not blocks:
        return None
    names = " or ".join(path.stem for path in blocks)
    unused = f"the `webhooks:` block of {', '.join(map(str, blocks))} is not used"
    named = f"`{shown_command(*words[1:], config=blocks[0], group=words[0])}`"
    if used is not None:
        setting, why = ENVIRONMENT, f"is {given}, but Confiture reads {used}, so"
        remedy = f"Set {DSN} too, or name the file: {named}"
    elif invocation.missing is not None:
        setting, why = str(invocation.missing), "does not exist, so"
        others = f" (or {', '.join(path.name for path in blocks[1:])})" if blocks[1:] else ""
        is_usual = invocation.missing == DEFAULT_CONFIG
        remedy = f"Name the file: {named}{others}" if is_usual else "Correct the path"
    elif given:
        setting, why = ENVIRONMENT, f"is {given}, but there is no {ENVIRONMENTS}/{given}.yaml, so"
        misnamed = next((path for path in blocks if path.stem == given), None)
        remedy = f"Rename {misnamed} to {given}.yaml" if misnamed else f"Set it to {names}"
    else:
        setting, what = (DSN, "is set") if environ.get(DSN) else ("--config", "names no file")
        why = f"{what}, so Confiture reads no environment file, and"
        remedy = f"Set {ENVIRONMENT} to {names}, or {CONFIG} to the file"
    return Fault(setting, f"{why} {unused}", remedy)


def blocks_here() -> list[Path]:
    """The environment files of this project that have a `webhooks:` block."""
    return sorted(path for path in ENVIRONMENTS.glob("*.y*ml") if command_watch.has_block(path))


def _usual_file(command: str, rest: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    """The file that the host reads if none is given: an explicit DSN beats the default."""
    if command == "schema-to-schema":
        target = _option(rest, "--target")
        if not target or _target_url(command, rest):
            return None
        is_path = target.endswith(".yaml") or Path(target).exists()  # else an environment's name
        return Path(target) if is_path else ENVIRONMENTS / f"{target}.yaml"
    if command in ("apply-as", "fix-signatures"):
        name = _option(rest, "--env", "-e")
        return ENVIRONMENTS / f"{name}.yaml" if name else Path(command_watch.APPLY_AS_FILE)
    if command in FILE_ONLY:
        return DEFAULT_CONFIG
    has_dsn = _option(rest, "--database-url", "-d") is not None or environ.get(DSN)
    return None if has_dsn or "--no-config" in rest else DEFAULT_CONFIG


def _variable(url: str | None, environ: Mapping[str, str]) -> Assignment | None:
    """The variable with which other commands read no file, either; ``None``: it is set already."""
    is_set = environ.get(DSN) and url in (None, environ[DSN])
    return None if is_set else address(url or environ.get("DATABASE_URL"), environ)


def _target_url(command: str, rest: Sequence[str]) -> str | None:
    target = _option(rest, "--target") if command == "schema-to-schema" else None
    return target if target and target.startswith(("postgres://", "postgresql://")) else None


def _readable(path: Path | None) -> Path | None:
    """*path* when it is a file. A pipe can be read once, and that is for the host to do."""
    try:
        return path if path is not None and stat.S_ISREG(path.stat().st_mode) else None
    except PermissionError:  # in a directory that is closed: reading it says so
        return path
    except (OSError, ValueError):
        return None


def _option(words: Sequence[str], *names: str) -> str | None:
    """The value of the last of *names* on the command line, in any spelling the host takes."""
    value = None
    for index, word in enumerate(words):
        if word.startswith("-") and not word.startswith("--"):
            letters = word[1:].lstrip("vy")  # these have no value: ``-vc FILE``
            name, is_attached, attached = f"-{letters[:1]}", letters[1:], letters[1:]
        else:
            name, is_attached, attached = word.partition("=")
        if name in names:
            value = attached if is_attached else next(iter(words[index + 1 :]), None)
    return value
