"""Writes ``docs/reference/python.md`` from the public names; ``--check`` only compares."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attributes import described

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "python.md"
HEAD = """# Python

These names may be imported, by module. Nothing is imported before it is used. Names that are not
here may change without a word.

<!-- made by scripts/python_page.py: change the docstrings, not this page -->
"""
MODULES: Mapping[str, Sequence[str]] = {
    "confiture_webhooks": (),
    "confiture_webhooks.receiver": (),
    "confiture_webhooks.hooks": (),
    "confiture_webhooks.testing": (),
    "confiture_webhooks.endpoint": ("Endpoint",),
    "confiture_webhooks.retry": ("RetryPolicy",),
    "confiture_webhooks.event": ("EventType", "Direction", "MigrationRef", "Database", "ErrorInfo"),
}
"""The public modules, and what is public in those that do not say so themselves."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def page() -> str:
    """The page as it should be."""
    parts, titles = [HEAD.rstrip("\n")], dict[int, str]()
    for name, chosen in MODULES.items():
        module = importlib.import_module(name)
        parts += [f"## {name}", *docstring_of(module)]
        values = {title: getattr(module, title) for title in chosen or sorted(module.__all__)}
        if again := [title for title, value in values.items() if id(value) in titles]:
            parts.append(f"Also here, see above: {', '.join(f'`{title}`' for title in again)}.")
        for title, value in values.items():
            if id(value) not in titles:
                titles[id(value)] = title
                parts += [f"### {title}", *entry(title, value)]
    return "\n\n".join(parts) + "\n"


def docstring_of(owner: Any) -> Iterator[str]:
    """The docstring of *owner*, if somebody wrote one."""
    inherits_none = vars(owner) if inspect.isclass(owner) else {"__doc__": owner.__doc__}
    text = inspect.cleandoc(inherits_none.get("__doc__") or "")
    if text and not text.startswith(f"{getattr(owner, '__name__', '')}("):
        yield text.replace("``", "`")


def entry(title: str, value: Any) -> Iterator[str]:
    """What the page says of one name."""
    if not inspect.isclass(value):
        if callable(value):
            yield signature(title, value)
            yield from docstring_of(value)
        else:
            yield f"`{value!r}`"
        return
    is_made = not issubclass(value, enum.Enum | BaseException)
    if is_made and not dataclasses.is_dataclass(value):
        yield signature(title, value)
    yield from docstring_of(value)
    if rows := list(attributes(value)):
        yield "\n".join(["| attribute | type | |", "|---|---|---|", *rows])
    for name, method in vars(value).items():
        if not name.startswith("_") and inspect.isfunction(method) and method.__doc__:
            yield signature(f"{title}.{name}", method)
            yield from docstring_of(method)


def attributes(owner: type) -> Iterator[str]:
    """A row for each attribute and property of *owner* that is meant for others."""
    words = described(owner)
    if issubclass(owner, enum.Enum):
        for member in owner:
            yield row(member.name, f"`{member.value}`", words.get(member.name, ""))
        return
    types = {name: str(kind) for name, kind in inspect.get_annotations(owner).items()}
    for name, kind in types.items():
        if not name.startswith("_"):
            yield row(name, f"`{kind}`", words.get(name, ""))
    for name, value in vars(owner).items():
        if isinstance(value, property) and not name.startswith("_"):
            kind = getattr(value.fget, "__annotations__", {}).get("return", "")
            yield row(name, f"`{kind}`", " ".join(inspect.cleandoc(value.__doc__ or "").split()))


def row(name: str, kind: str, text: str) -> str:
    """A row of a table of attributes."""
    text = text.replace("``", "`").replace("|", "\\|").replace("](", "](../")
    cells = (f"`{name}`", kind.replace("|", "\\|"), text)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def signature(title: str, function: Any) -> str:
    """How *function* is called, each parameter on a line of its own where one line is too long."""
    found = inspect.signature(function)
    parameters = list(parameters_of(found))
    returned = "" if inspect.isclass(function) else f" -> {annotation(found.return_annotation)}"
    line = f"{title}({', '.join(parameters)}){returned}"
    if len(line) > 90:  # noqa: PLR2004  what a narrow page shows
        line = f"{title}(\n{''.join(f'    {one},{END}' for one in parameters)}){returned}"
    return f"```text\n{line}\n```"


END = "\n"


def parameters_of(found: inspect.Signature) -> Iterator[str]:
    """The parameters of a signature as they are written."""
    is_starred = False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not is_starred:
            is_starred = True
            yield "*"
        is_starred = is_starred or parameter.kind is parameter.VAR_POSITIONAL
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        text = stars.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {default(parameter.default)}"
        yield text


def annotation(value: Any) -> str:
    """A type as it is written."""
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def default(value: Any) -> str:
    """A default as it could be written."""
    name = getattr(value, "__name__", None)
    return (
        name if callable(value) and name else ADDRESS.sub("", repr(value)).replace("datetime.", "")
    )


def main() -> int:
    """Write the page, or say that it is not current."""
    new = page()
    if "--check" in sys.argv[1:]:
        is_current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == new
        if not is_current:
            print(f"{PAGE.name} is not current: run scripts/python_page.py", file=sys.stderr)
        return int(not is_current)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
