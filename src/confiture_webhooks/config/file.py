"""The environment file as plain values, and ``${VAR}`` in them as Confiture expands it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .values import Invalid

DEEPEST = 5
"""Where the deepest setting lies, a wait: what is below cannot be one, and may hold itself."""

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Finding(NamedTuple):
    """A fault at a place in the block, not yet named as the user knows it."""

    at: tuple[str | int, ...]
    problem: str
    remedy: str


def read(path: Path) -> dict[str, Any]:
    """The mapping in the file. Raises Invalid when there is none, as Confiture does."""
    try:
        content = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise Invalid(
            f"cannot be read ({type(error).__name__})", "Check the path and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise Invalid("is not UTF-8", "Save it as UTF-8") from None
    document = _parsed(content)
    if not isinstance(document, dict):
        raise Invalid(
            f"holds {_kind(document)} instead of `key: value` lines", "Write `key: value` lines"
        )
    return document


def _parsed(content: str) -> Any:
    """The document. PyYAML quotes the offending line in its messages: only its place is kept."""
    try:
        return yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    except Exception:  # noqa: BLE001  its constructors raise whatever they trip over
        place = ""
    raise Invalid(f"is not valid YAML{place}", "Check indentation, quotes and colons")


def _kind(document: object) -> str:
    if document is None:
        return "nothing"
    return "a list" if isinstance(document, list) else "a single value"


def expand(block: Any, environ: Mapping[str, str]) -> tuple[Any, list[Finding]]:
    """*block* with every ``${VAR}`` replaced; what cannot be is ``None``, and a finding.

    The rules are those of ``confiture.config._env_vars``, which cannot be used: it
    reads only ``os.environ``, stops at the first fault and quotes the text in it.
    """
    findings: list[Finding] = []

    def walk(value: Any, at: tuple[str | int, ...]) -> Any:
        if len(at) > DEEPEST:
            return None
        if isinstance(value, dict):
            named = {_key(key): item for key, item in value.items()}
            return {key: walk(item, (*at, key)) for key, item in named.items()}
        if isinstance(value, list):
            return [walk(item, (*at, index)) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        try:
            return _expanded(value, environ)
        except Invalid as invalid:
            findings.append(Finding(at, invalid.problem, invalid.remedy))
            return None

    return walk(block, ()), findings


def _key(key: object) -> str:
    """A key as text: YAML makes booleans, numbers and dates of some."""
    return key if isinstance(key, str) else str(key).lower()


def _expanded(value: str, environ: Mapping[str, str]) -> str:
    if "${" in _REFERENCE.sub("", value):
        raise Invalid("has a `${` without a `}`", "Write `${NAME}`")
    result = _REFERENCE.sub(lambda match: _value_of(match.group(1), environ), value)
    if _REFERENCE.search(result):
        raise Invalid(
            "still holds a `${…}` after its variables were put in",
            "Resolve it in the environment: variables are not expanded twice",
        )
    return encodable(result)


def _value_of(variable: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(variable):
        raise Invalid(
            "has a `${…}` that is not a plain variable",
            "Write `${NAME}` in capitals; defaults such as `${NAME:-x}` are not supported",
        )
    if variable not in environ:
        raise Invalid(
            f"needs the environment variable {variable}, which is not set", f"Set {variable}"
        )
    return environ[variable]


def encodable(value: str) -> str:
    """*value*, if UTF-8 can carry it. Raises Invalid otherwise."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid("holds bytes that are not text", "Use UTF-8") from None
    return value
