"""The environment file as plain values, and ``${VAR}`` in them as Confiture expands it."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import command_watch
from ..errors import Fault
from . import variables
from .rules import Invalid, Unset

BLOCK = command_watch.BLOCK
LARGEST = 1024 * 1024
"""Bytes of a file."""
MOST = 10_000
"""So many values are read of a block, and so many merged keys of a mapping."""

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class _Loader(yaml.SafeLoader):
    """The safe loader; merge keys (``<<``) that multiply are refused."""

    def flatten_mapping(self, node: Any) -> None:
        most = max(MOST, len(node.value))
        super().flatten_mapping(node)
        if len(node.value) > most:
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark)


class File:
    """The environment file: what it holds, and its name."""

    def __init__(self, config_file: Path | None, environ: Mapping[str, str]) -> None:
        given = environ.get(variables.CONFIG)
        self.path = Path(given) if given else config_file
        self.content: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self.environment: str | None = None
        """Its ``name:``, else its stem.

        A file of CONFITURE_WEBHOOK_CONFIG without a name may serve many environments: then it is
        that of the file which Confiture reads, if it reads one.
        """
        if self.path is None:
            return
        try:
            self.content, line = read(self.path, needs=BLOCK if given else None)
            if line is not None:
                problem = f"a key of `{BLOCK}:` stands there twice: the last one counts"
                self.faults.append(Fault(f"{self.path}:{line}", problem, "Remove one of them"))
        except Invalid as invalid:
            problem = f"names a file that {invalid.problem}" if given else invalid.problem
            setting = variables.CONFIG if given else str(self.path)
            self.faults.append(Fault(setting, problem, invalid.remedy))
        name = self.content.get("name")
        if isinstance(name, str) and name.strip():
            self.environment = name
        elif given:
            self.environment = File(config_file, {}).environment
        else:
            self.environment = self.path.stem or None


def read(path: Path, needs: str | None = None) -> tuple[dict[str, Any], int | None]:
    """The mapping in the file, and the line of the first key that our block has twice.

    Raises Invalid when there is none, or no key that it *needs*.
    """
    content = None
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST:
            content = path.read_bytes().decode()
    except FileNotFoundError:
        raise Invalid("does not exist", "Check the path") from None
    except OSError as error:
        problem = f"cannot be read ({type(error).__name__})"
        raise Invalid(problem, "Check the path and its permissions") from None
    except ValueError:
        raise Invalid("is not UTF-8", "Save it as UTF-8") from None
    if content is None:
        raise Invalid("is not a plain file of up to 1 MiB", "Name an environment file")
    document, repeated = _parsed(content)
    if not isinstance(document, dict):
        kind = {type(None): "nothing", list: "a list"}.get(type(document), "a single value")
        raise Invalid(f"holds {kind} instead of `key: value` lines", "Write `key: value` lines")
    if needs is not None and needs not in document:
        raise Invalid(f"has no `{needs}:` block", f"Put the settings below `{needs}:`")
    return document, repeated


def _parsed(content: str) -> tuple[Any, int | None]:
    """The document, and the line of what stands twice in our block.

    PyYAML quotes the offending line in its messages: only its place is kept.
    """
    place = ""
    try:
        loader = _Loader(content)
        root = loader.get_single_node()
        repeated = _repeated(root, set()) if root and BLOCK in content else None
        return (loader.construct_document(root) if root else None), repeated
    except yaml.MarkedYAMLError as error:
        if mark := error.problem_mark:
            place = f" (line {mark.line + 1}, column {mark.column + 1})"
    except Exception:  # noqa: BLE001, S110  its constructors raise whatever they trip over
        pass
    raise Invalid(f"is not valid YAML{place}", "Check indents, colons and quotes (of `${VAR}` too)")


def _repeated(node: Any, seen: set[int], *, is_ours: bool = False) -> int | None:
    """The line of the first key below *node* that its mapping has twice, in the block or of it."""
    known: set[str | None] = set()
    if isinstance(node, yaml.ScalarNode) or id(node) in seen:
        return None
    seen.add(id(node))
    for key, value in (one if isinstance(one, tuple) else (None, one) for one in node.value):
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if not (is_ours or name == BLOCK):
            continue
        if key and name in known:
            return int(key.start_mark.line) + 1
        known.add(name)
        if found := _repeated(value, seen, is_ours=True):
            return found
    return None


def expand(value: Any, environ: Mapping[str, str]) -> Any:
    """*value* with every ``${VAR}`` in its texts replaced. Raises Invalid when one cannot be.

    The rules are those of ``confiture.config._env_vars``, which cannot be used: it
    reads only ``os.environ``, stops at the first fault and quotes the text in it.
    """
    if isinstance(value, dict):
        return {key: expand(item, environ) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if "${" in _REFERENCE.sub("", value):
        raise Invalid("has a `${` without a `}`", "Write `${NAME}`")
    for variable in _REFERENCE.findall(value):
        if not _VARIABLE.fullmatch(variable):
            remedy = "Write `${NAME}` in capitals; defaults such as `${NAME:-x}` are not supported"
            raise Invalid("has a `${…}` that is not a plain variable", remedy)
        if variable not in environ:
            raise Unset(variable)
    result = _REFERENCE.sub(lambda match: environ[match[1]], value)
    if _REFERENCE.search(result):
        remedy = "Resolve it in the environment: variables are not expanded twice"
        raise Invalid("still holds a `${…}` after its variables were put in", remedy)
    return result
