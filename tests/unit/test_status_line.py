"""The line that is written over: on a terminal alone, and never left behind."""

from __future__ import annotations

import io
import sys

import pytest

from confiture_webhooks.status_line import StatusLine


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error becomes a terminal. In the test itself: pytest sets it anew after set-up."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_a_line_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown last is taken away by an empty text."""
    terminal = on_terminal(monkeypatch)
    line = StatusLine()
    line.show("3 left")
    line.show("2 left")
    line.show("")
    assert terminal.getvalue() == "\r\x1b[2K3 left\r\x1b[2K2 left\r\x1b[2K"


def test_what_is_for_good_goes_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log line takes the place of the status line, which goes on below it."""
    terminal = on_terminal(monkeypatch)
    line = StatusLine()
    line.show("3 left")
    line.above("delivered")
    assert terminal.getvalue().endswith("\r\x1b[2Kdelivered\n3 left")


def test_it_fits_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would wrap, and could not be written over, is cut."""
    terminal = on_terminal(monkeypatch)
    StatusLine().show("x" * 1000)
    assert len(terminal.getvalue()) < 100


def test_a_pipe_gets_only_what_is_for_good(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nothing is shown; lines are written as they are."""
    line = StatusLine()
    line.show("3 left")
    line.above("delivered")
    line.show("")
    assert capsys.readouterr().err == "delivered\n"


def test_a_dumb_terminal_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor is left alone."""
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    StatusLine().show("3 left")
    assert terminal.getvalue() == ""


def test_a_closed_stderr_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads it, and nothing is raised."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    line = StatusLine()
    line.show("3 left")
    line.above("delivered")
