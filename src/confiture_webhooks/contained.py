"""A fault of ours never reaches the migration: it is reported, and the caller goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Reporting(Protocol):
    """An object that can report a fault of ours."""

    def report(self, where: str, error: Exception, /) -> None:
        """Report *error*, which happened during *where*."""


S = TypeVar("S", bound=Reporting)
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def containing(where: str, report: Callable[[str, Exception], object]) -> Iterator[None]:
    """Any ``Exception`` of the block goes to *report*, and no further; Ctrl-C passes."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  the one place that swallows faults of ours
        with suppress(Exception):
            report(where, error)


def contained(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
    """*method*, whose faults go to ``self.report`` and whose answer then is ``None``."""
    where = method.__name__.strip("_")

    @functools.wraps(method)
    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        with containing(where, self.report):
            return method(self, *args, **kwargs)
        return None

    return wrapper
