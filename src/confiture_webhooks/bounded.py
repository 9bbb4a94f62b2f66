"""Calls that cannot harm their caller: ``bounded`` in time, their faults ``contained``."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class TimedOut(Exception):  # noqa: N818  it says what happened, as TimeoutError does not for OSError
    """The call has not returned in time; its thread ends with it."""


class NoThreadError(TimedOut):
    """No thread is to be had, so the call was not begun: a limit on processes, or the end."""


def bounded(
    call: Callable[[], R],
    seconds: float,
    *,
    cut: Callable[[], object] | None = None,
    is_patient: bool = False,
) -> R:
    """Return or raise as *call* does, if it does within *seconds*. Raises TimedOut.

    It runs on a daemon thread of its own, in the caller's context. *cut* ends a call that is not
    waited for any longer (it closes a socket), also when Ctrl-C ends the wait. One that
    *is_patient*, with a bound of its own, runs in the caller's thread where none is to be had.
    """
    answers: list[R] = []
    faults: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            answers.append(context.run(call))
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            faults.append(error)

    thread = threading.Thread(target=run, name="webhooks-bounded", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        if is_patient:
            return call()
        raise NoThreadError("no thread is to be had") from None
    try:
        thread.join(max(0.0, seconds))
    finally:
        if thread.is_alive() and cut is not None:
            with suppress(Exception):
                cut()
    if faults:
        try:
            raise faults[0]
        finally:
            faults.clear()  # the traceback refers to this frame
    if not answers:
        raise TimedOut(f"no answer within {max(0.0, seconds):g} s")
    return answers[0]


class Reporting(Protocol):
    """An object that can report a fault of ours."""

    def report(self, where: str, error: Exception, /) -> None:
        """Report *error*, which happened during *where*."""


S = TypeVar("S", bound=Reporting)


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
