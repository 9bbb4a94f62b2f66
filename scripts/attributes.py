"""What is written below the attributes of a module and of its classes, read from its source."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any


def described(owner: Any) -> Mapping[str, str]:
    """The docstring below each attribute of *owner*, a module or a class, on one line."""
    tree = ast.parse(inspect.getsource(owner))
    if inspect.ismodule(owner):
        return dict(_pairs(tree.body))
    (found,) = tree.body
    assert isinstance(found, ast.ClassDef)
    return dict(_pairs(found.body))


def _pairs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement, after in pairwise(body):
        name = _name(statement)
        if name and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield name, " ".join(str(after.value.value).split())


def _name(statement: ast.stmt) -> str | None:
    """What *statement* gives a value or a type to."""
    if isinstance(statement, ast.AnnAssign):
        target: ast.expr = statement.target
    elif isinstance(statement, ast.Assign):
        target = statement.targets[0]
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None
