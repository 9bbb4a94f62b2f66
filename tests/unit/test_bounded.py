"""``bounded`` and ``containing``: what they promise their callers."""

import contextvars
import threading

import pytest

from confiture_webhooks.bounded import TimedOut, bounded, contained, containing


def test_a_call_in_time_gives_its_answer() -> None:
    """The answer, an empty one too, is what the call returned."""
    assert bounded(lambda: 7, 5) == 7
    assert bounded(lambda: None, 5) is None


def test_what_the_call_raises_is_raised() -> None:
    """An error of the call is the caller's."""
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 / 0, 5)


def test_a_call_that_hangs_is_cut() -> None:
    """It is waited for only so long, and what cuts it ends its thread."""
    release = threading.Event()
    before = {*threading.enumerate()}
    with pytest.raises(TimedOut):
        bounded(release.wait, 0, cut=release.set)
    for thread in threading.enumerate():
        if thread.name == "webhooks-bounded":
            thread.join(5)
    assert {*threading.enumerate()} <= before


def test_without_a_thread_the_call_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on processes is a kind of time-out, which every caller is prepared for."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(TimedOut, match="no thread"):
        bounded(lambda: 7, 5)


def test_the_call_has_the_callers_context() -> None:
    """Spans that are current for the caller are current for the call."""
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(3)
    assert bounded(variable.get, 5) == 3


class Holder:
    def __init__(self) -> None:
        self.reported: list[tuple[str, type[Exception]]] = []

    def report(self, where: str, error: Exception) -> None:
        self.reported.append((where, type(error)))

    @contained
    def _divides(self, number: int) -> float:
        return 10 / number

    @contained
    def interrupted(self) -> None:
        raise KeyboardInterrupt


def test_a_fault_is_reported_and_goes_no_further() -> None:
    """A contained method reports under its name and returns None."""
    holder = Holder()
    assert holder._divides(5) == 2
    assert holder._divides(0) is None
    assert holder.reported == [("divides", ZeroDivisionError)]


def test_ctrl_c_passes() -> None:
    """Only Exceptions are contained."""
    with pytest.raises(KeyboardInterrupt):
        Holder().interrupted()


def test_a_report_that_fails_is_swallowed() -> None:
    """Reporting a fault cannot become one."""
    with containing("anything", lambda *_: 1 / 0):
        raise ValueError
