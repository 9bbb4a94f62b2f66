"""The commands for other environments: of the ways there, the first that the files here confirm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ..config.file import File
from ..config.variables import CONFIG, DSN, ENVIRONMENT
from ..event import stored_text
from ..outlook import listed, shown_environment
from ..remedy import Assignment, assigned, command, quoted, used, usual_file
from ..trust import stamp
from .invocation import ENVIRONMENTS, parse

MOST_FILES = 50
"""So many environment files are read to find the one with a name."""

Way = tuple[dict[str, str], Path | None]
"""Variables to set, and a file to name."""


def shown_for(environment: str | None, *words: str, variable: str = "") -> str:
    """A command as ``remedy.shown`` has it, for another *environment*."""
    for variables, file in _ways(environment):
        if _leads_to(environment, variables, file):
            named = [f"{name}={quoted(value)}" for name, value in variables.items()]
            return f"`{assigned(variable, *named)}{command(*words, config=file)}`"
    unknown = f"`{assigned(variable)}{command(*words, config='FILE')}`"
    return f"{unknown} (FILE: the one whose `name:` is {shown_environment(environment)})"


def _ways(environment: str | None) -> Iterator[Way]:
    """The ways that may lead to *environment*, the shortest first."""
    given, name = used(), environment or ""
    usual, files = usual_file(environment), sorted(islice(ENVIRONMENTS.glob("*.yaml"), MOST_FILES))
    files = [usual, *files] if usual and usual.is_file() else files
    ways: list[Way] = [({}, file) for file in files]
    if isinstance(given, Assignment) or (given is None and os.environ.get(DSN)):
        ways = [({ENVIRONMENT: file.stem}, None) for file in files]
    ways.append(({ENVIRONMENT: name}, None))
    if not environment:
        ways.append(({DSN: "DSN", ENVIRONMENT: ""}, None))
    yield from ways
    if os.environ.get(CONFIG):  # its file may name an environment
        yield from (({CONFIG: "", **variables}, file) for variables, file in ways)


def _leads_to(environment: str | None, variables: Mapping[str, str], file: Path | None) -> bool:
    """Whether a command with *variables* and *file* acts on *environment*."""
    environ = {**os.environ, **variables}
    if isinstance(used(), Assignment):
        environ[DSN] = "DSN"
    invocation = parse(["migrate", "up", *(["--config", str(file)] if file else [])], environ)
    if invocation is None or (file and invocation.missing):
        return False
    settings, given = invocation.settings_file, environ.get(CONFIG, "")
    is_right, found = _named(settings, given, (stamp(settings or ""), stamp(given)))
    name = found or environ.get(ENVIRONMENT, "").strip()
    return is_right and stored_text(name) == (environment or "")


@lru_cache(maxsize=4 * MOST_FILES)
def _named(settings: Path | None, given: str, _: object) -> tuple[bool, str | None]:
    """Whether the file can be read, and its environment: once for each state of the files.

    There may be as many environments to look for as there are files, at the end of a run.
    """
    found = File(settings, {CONFIG: given})
    return not found.faults, found.environment


def elsewhere_line(counts: Mapping[str | None, int]) -> str:
    """How many deliveries wait in other environments, and whose job sends them."""
    jobs = [
        f"The job of {shown_environment(name)} sends them: {in_environment(name, 'deliver')}"
        for name in counts
    ]
    return ". ".join([f"Other environments have deliveries that wait: {listed(counts)}", *jobs])


def in_environment(environment: str | None, *words: str, variable: str = "") -> str:
    """The command that the job of *environment* runs; here, its variables may lead elsewhere."""
    job = shown_for(environment, *words, variable=variable)
    return f"{job}, with the variables that its migrations run with"
