"""Standard error in every state it can be in: text reaches it, or nobody, and nothing is raised."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks import stderr

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITES = "from confiture_webhooks import stderr; stderr.write('a line\\n')"


def python(code: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """What an interpreter of its own does with *code*."""
    return subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False, **streams
    )


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_text_is_written_at_once() -> None:
    """Text arrives as it is, after what others wrote and before what they write next."""
    code = f"import sys; sys.stderr.write('before '); {WRITES}; sys.stderr.write('after')"
    assert python(code, stderr=subprocess.PIPE).stderr == "before a line\nafter"


def test_a_full_disk_does_not_change_the_exit_code() -> None:
    """Nothing is left over for the interpreter to fail on when it ends."""
    with Path("/dev/full").open("w") as full:
        assert python(WRITES, stderr=full).returncode == 0


def test_a_broken_pipe_does_not_change_the_exit_code(broken_pipe: int) -> None:
    """Nobody reads it, and nobody is told."""
    assert python(WRITES, stderr=broken_pipe).returncode == 0


def test_without_a_standard_error_nothing_is_written_anywhere() -> None:
    """A closed descriptor 2 does not send the text to standard output."""
    done = python(WRITES, preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (0, "")


def test_what_cannot_be_encoded_is_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A character that the terminal does not know is written by its number."""
    with (tmp_path / "ascii").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stderr", file)
        stderr.write("caf\u00e9 \udcff\n")
        monkeypatch.undo()
    assert (tmp_path / "ascii").read_text() == "caf\\xe9 \\udcff\n"


def test_a_stream_without_a_file_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for standard error gets the text by its own ``write``, flushed."""
    inside = io.BytesIO()
    for stand_in in (io.StringIO(), io.TextIOWrapper(inside, encoding="ascii")):
        monkeypatch.setattr(sys, "stderr", stand_in)
        stderr.write("caf\u00e9\n")
        monkeypatch.undo()
        text = inside.getvalue().decode() or stand_in.getvalue()  # type: ignore[union-attr]
        assert text in ("caf\u00e9\n", "caf\\xe9\n")


def test_a_stand_in_is_not_passed_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stream that shows text elsewhere than in the file it names gets it all the same."""

    class Notebook(io.StringIO):
        def fileno(self) -> int:
            return descriptor

    descriptor = os.open(tmp_path / "console", os.O_CREAT | os.O_WRONLY)
    shown = Notebook()
    monkeypatch.setattr(sys, "stderr", shown)
    stderr.write("a line\n")
    monkeypatch.undo()
    os.close(descriptor)
    assert shown.getvalue() == "a line\n"
    assert (tmp_path / "console").read_text() == ""


def test_a_closed_stream_is_no_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody reads it, and nothing is raised."""
    with (tmp_path / "closed").open("w") as file:
        pass
    closed = io.StringIO()
    closed.close()
    for stream in (file, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        stderr.write("a line\n")


def test_as_a_file_it_takes_text_and_says_how_much() -> None:
    """Those who want a file to write to get one that never fails."""
    code = "from confiture_webhooks.stderr import Stderr; assert Stderr().write('text') == 4"
    with Path("/dev/full").open("w") as full:
        assert python(code, stderr=full).returncode == 0
