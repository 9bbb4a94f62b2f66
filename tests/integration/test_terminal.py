"""Standard error in every state it can be in: text reaches it or is lost, and no caller waits."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks import terminal
from confiture_webhooks.cli.tables import conclude

if TYPE_CHECKING:
    from collections.abc import Iterator

SAYS = "from confiture_webhooks import terminal; terminal.say('a line')"


def python(code: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """What an interpreter of its own does with *code*."""
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        text=True,
        **{"stdout": subprocess.PIPE, **streams},
    )


class Screen(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Standard error becomes a terminal. In the test itself: pytest sets it anew after set-up."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    return screen


def test_text_is_written_at_once() -> None:
    """Text arrives as it is, after what others wrote and before what they write next."""
    code = f"import sys; sys.stderr.write('before '); {SAYS}; sys.stderr.write('after')"
    assert python(code, stderr=subprocess.PIPE).stderr == "before a line\nafter"


def test_text_that_was_queued_last_arrives() -> None:
    """The interpreter ends after the writer."""
    code = "from confiture_webhooks.terminal import write\nfor i in range(500): write(f'{i}\\n')"
    assert python(code, stderr=subprocess.PIPE).stderr.splitlines() == [*map(str, range(500))]


def test_a_full_disk_does_not_change_the_exit_code() -> None:
    """Nothing is left over for the interpreter to fail on when it ends."""
    with Path("/dev/full").open("w") as full:
        assert python(SAYS, stderr=full).returncode == 0


def test_a_broken_pipe_does_not_change_the_exit_code(broken_pipe: int) -> None:
    """A reader that is gone is no fault."""
    assert python(SAYS, stderr=broken_pipe).returncode == 0


def test_without_a_standard_error_nothing_is_written_anywhere() -> None:
    """A closed descriptor 2 does not send the text to standard output."""
    done = python(SAYS, preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_pipe_that_is_not_read_stops_no_caller() -> None:
    """With more lines than the pipe holds the program ends soon, and what was read is whole."""
    reading, writing = os.pipe()
    code = (
        "import time; from confiture_webhooks import terminal\n"
        "began = time.monotonic()\n"
        "for i in range(5000): terminal.write('x' * 99 + '\\n')\n"
        "for i in range(100): terminal.say('done')\n"
        "print(time.monotonic() - began)"
    )
    done = python(code, stderr=writing, timeout=30)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    assert (done.returncode, set(map(len, lines[:-1]))) == (0, {99})
    assert float(done.stdout) < 2


def test_the_host_can_still_write() -> None:
    """Of a pipe that is not read, room is left for the messages that the host waits to write."""
    reading, writing = os.pipe()
    code = (
        "import os, time; from confiture_webhooks import terminal\n"
        "for i in range(1000): terminal.write('x' * 499 + '\\n')\n"
        "terminal.settle(); time.sleep(0.1); os.write(2, b'y' * 4000)"
    )
    done = python(code, stderr=writing, timeout=30)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert "y" * 4000 in pipe.read()
    assert done.returncode == 0


def test_dropped_lines_are_counted_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit the queue is said, as a number, as soon as somebody reads."""
    monkeypatch.setattr(terminal, "LIMIT", 100)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        terminal.write("x" * 100_000 + "\n")
        while terminal.stderr._busy_since is None:
            time.sleep(0.001)
        for _ in range(40):
            terminal.write("y" * 9 + "\n")
        text = ""
        while "not read" not in text:
            text += os.read(reading, 65536).decode()
        terminal.write("after\n")
        terminal.settle()
        monkeypatch.undo()
    text += os.read(reading, 65536).decode()
    os.close(reading)
    assert text.splitlines()[1:] == [
        *["y" * 9] * 11,
        "confiture-webhooks: 29 lines were dropped: standard error was not read",
        "after",
    ]


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    """Whoever started the command has set its pipe so; a reader that is late misses nothing."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    code = "from confiture_webhooks import terminal; terminal.write('x' * 200_000)"
    found: list[str] = []

    def read() -> None:
        time.sleep(0.1)
        with os.fdopen(reading) as pipe:
            found.append(pipe.read())

    reader = threading.Thread(target=read)
    reader.start()
    python(code, stderr=writing)
    os.close(writing)
    reader.join()
    assert found == ["x" * 200_000]


def test_a_forked_child_writes_too() -> None:
    """The writer's thread does not exist in a child; it gets one of its own."""
    code = f"{SAYS}; import os\npid = os.fork()\nterminal.say(str(pid == 0))\nif pid: os.wait()"
    done = python(f"import warnings; warnings.simplefilter('ignore'); {code}", stderr=-1)
    assert sorted(done.stderr.splitlines()) == ["False", "True", "a line"]


def test_what_cannot_be_encoded_is_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A character that the terminal does not know is written by its number."""
    with (tmp_path / "ascii").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stderr", file)
        terminal.say("caf\u00e9 \udcff")
        monkeypatch.undo()
    assert (tmp_path / "ascii").read_text() == "caf\\xe9 \\udcff\n"


@pytest.mark.survived("A terminal that cannot encode the text", "unharmed")
def test_output_that_cannot_be_encoded_degrades() -> None:
    """What a command prints is escaped where the terminal's encoding lacks it."""
    code = "from confiture_webhooks import terminal; terminal.degrade(); print('caf\u00e9')"
    done = python(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout == "caf\\xe9\n"


@pytest.mark.survived("Control characters, line breaks and forged log lines in names", "private")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u2705 \U0001f600", "caf\u00e9 \u2705 \U0001f600"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("\u202efdp.exe\u2066", "\\u202efdp.exe\\u2066"),
        ("\u2028\u200b\udcff", "\\u2028\\u200b\\udcff"),
        (None, "None"),
    ],
)
def test_printable_text_stays_where_it_is(text: object, shown: str) -> None:
    """What moves, colours, reverses or breaks a line is escaped; all else is as it was."""
    assert terminal.printable(text) == shown


@pytest.mark.survived("Control characters, line breaks and forged log lines in names", "private")
def test_a_line_cannot_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said is one line, whatever is in it."""
    terminal.say('x\n{"event": "forged"}', "y")
    assert capsys.readouterr().err == 'x\\n{"event": "forged"}\ny\n'


def test_a_style_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is coloured on a terminal, unless its user wants no colours."""
    screen = on_terminal(monkeypatch)
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.say("x", style="red")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.say("x", style="red")
    assert screen.getvalue() == "\x1b[31mx\x1b[0m\nx\n"


def test_a_stream_without_a_file_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for standard error gets the text by its own ``write``, flushed."""
    inside = io.BytesIO()
    for stand_in in (io.StringIO(), io.TextIOWrapper(inside, encoding="ascii")):
        monkeypatch.setattr(sys, "stderr", stand_in)
        terminal.say("caf\u00e9")
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
    terminal.say("a line")
    monkeypatch.undo()
    os.close(descriptor)
    assert shown.getvalue() == "a line\n"
    assert (tmp_path / "console").read_text() == ""


def test_a_closed_stream_is_no_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stream that is closed is no fault."""
    with (tmp_path / "closed").open("w") as file:
        pass
    closed = io.StringIO()
    closed.close()
    for stream in (file, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        terminal.say("a line")
        terminal.progress("3 left")
        terminal.progress("")


def test_as_a_file_it_takes_text_and_says_how_much() -> None:
    """Consoles and exporters get a file that never fails."""
    code = "from confiture_webhooks.terminal import stderr; assert stderr.write('text') == 4"
    with Path("/dev/full").open("w") as full:
        assert python(code, stderr=full).returncode == 0


def test_progress_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown last is taken away by an empty text."""
    screen = on_terminal(monkeypatch)
    for text in ("3 left", "2 left", ""):
        terminal.progress(text)
        terminal.settle()
    assert screen.getvalue() == "\r\x1b[2K3 left\r\x1b[2K2 left\r\x1b[2K"


def test_lines_are_above_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line takes the place of the progress line, which goes on below it."""
    screen = on_terminal(monkeypatch)
    terminal.progress("3 left")
    terminal.say("delivered")
    terminal.progress("")
    terminal.settle()
    assert screen.getvalue() == "\r\x1b[2K3 left\r\x1b[2Kdelivered\n3 left\r\x1b[2K"


def test_progress_fits_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would wrap, and could not be written over, is cut."""
    screen = on_terminal(monkeypatch)
    terminal.progress("x" * 1000)
    terminal.progress("")
    terminal.settle()
    assert len(screen.getvalue()) < 100


def test_a_result_comes_after_the_progress_line_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the wipe would come after it, and the progress line stand before it."""
    shown: list[str] = []

    class Slow(Screen):
        """A terminal that takes its time, as a busy machine's does."""

        def write(self, text: str) -> int:
            time.sleep(0.05)
            shown.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Slow())
    monkeypatch.setenv("TERM", "xterm")
    terminal.progress("3 left")
    terminal.settle()
    terminal.progress("")
    conclude({"ok": True}, lambda: shown.append("3 delivered"), "text")
    terminal.settle()
    assert shown[-1] == "3 delivered"


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_progress_is_for_terminals_that_can(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A pipe, or a terminal that cannot move its cursor, gets lines alone."""
    screen = on_terminal(monkeypatch) if kind == "dumb" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb" if kind == "dumb" else "xterm")
    terminal.progress("3 left")
    terminal.say("delivered")
    terminal.progress("")
    assert screen.getvalue() == "delivered\n"


HOST = """
import sys, time
from confiture_webhooks import terminal
end = terminal.keep_whole()
for version in ("001", "002"):
    print(f"Applying {version}...", end=" ", flush=True)
    terminal.write(f"log of {version}\\n")
    time.sleep(0.05)
    print("done", flush=True)
"""


def test_lines_of_the_host_stay_whole() -> None:
    """While a line is open on standard output ours are held, and follow as soon as it ends."""
    done = python(f"{HOST}\nend(); print('bye')", stderr=subprocess.STDOUT)
    assert done.stdout.splitlines() == [
        "Applying 001... done",
        "log of 001",
        "Applying 002... done",
        "log of 002",
        "bye",
    ]


@pytest.mark.parametrize("broken", ["hold", "release", "flush"])
def test_lines_of_the_host_are_written_whatever_breaks(broken: str) -> None:
    """A fault of ours in keeping them whole costs no line of the host's."""
    code = f"from confiture_webhooks import terminal\nterminal._Stderr.{broken} = None\n{HOST}"
    done = python(f"{code}\nprint('bye')", stderr=subprocess.PIPE)
    assert done.stdout.splitlines() == ["Applying 001... done", "Applying 002... done", "bye"]


def test_a_line_that_stays_open_is_ended() -> None:
    """When the command leaves its line open, what was held begins a line of its own."""
    code = f"{HOST}\nprint('Applying 003...', end='', flush=True); terminal.write('log\\n'); end()"
    assert python(code, stderr=subprocess.STDOUT).stdout.splitlines()[-2:] == [
        "Applying 003...",
        "log",
    ]


def test_an_unbuffered_output_holds_nothing_back() -> None:
    """Where every write is shown at once, ours follow it at once."""
    code = (
        "from confiture_webhooks import terminal; end = terminal.keep_whole()\n"
        "print('a'); terminal.say('log'); print('b'); end()"
    )
    done = python(code, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert done.stdout.splitlines() == ["a", "log", "b"]


def test_what_is_not_flushed_comes_before_ours() -> None:
    """Text that waits in a buffer when the command ends is written first."""
    code = f"{HOST}\nprint('x' * 10_000); terminal.say('log'); end()"
    lines = python(code, stderr=subprocess.STDOUT).stdout.splitlines()
    assert lines[-2:] == ["x" * 10_000, "log"]


def test_nothing_is_held_where_the_streams_are_apart(tmp_path: Path) -> None:
    """A log file of its own gets each line at once."""
    code = (
        f"{HOST}\nprint('Applying', end='', flush=True); terminal.say('log')\n"
        f"import os; print(os.fstat(2).st_size)"
    )
    with (tmp_path / "log").open("w") as log:
        size = python(code, stderr=log).stdout.splitlines()[-1]
    assert size == f"Applying{len((tmp_path / 'log').read_text())}"


def test_after_the_end_the_stream_is_as_before() -> None:
    """The command's standard output keeps nothing of ours."""
    code = f"{HOST}\nend(); print([n for n in ('write', 'flush') if n in vars(sys.stdout)])"
    assert python(code, stderr=subprocess.STDOUT).stdout.splitlines()[-1] == "[]"


def test_a_fork_of_a_process_without_threads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer has a thread again, so its end leaves the queue to that."""
    stderr = terminal._Stderr()
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError))
        stderr._start()
    assert stderr._is_alone
    monkeypatch.setattr(terminal.os, "getpid", lambda: -1)
    stderr._start()
    assert not stderr._is_alone


def test_a_long_line_without_a_thread_is_counted() -> None:
    """It could block on a pipe, so it is dropped; its end says so."""
    code = (
        "import threading\n"
        "def none(_): raise RuntimeError\n"
        "threading.Thread.start = none\n"
        "from confiture_webhooks import terminal\n"
        "terminal.say('short'); terminal.say('x' * 5000); terminal.say('last')"
    )
    said = python(code, stderr=subprocess.PIPE).stderr
    loss = "confiture-webhooks: 1 line was dropped: standard error was not read"
    assert said.splitlines() == ["short", "last", loss]
