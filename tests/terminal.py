"""A command on a terminal of its own."""

from __future__ import annotations

import os
import pty
import time
from typing import TYPE_CHECKING

import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from project import Project


def on_terminal(
    project: Project,
    *arguments: str,
    typed: str = "",
    asked: Callable[[], str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, str]:
    """Run ``confiture`` with all three streams on a pseudo-terminal: exit code, what it showed.

    *asked* is called when the command asks a question, and returns what is typed then.
    """
    ours, theirs = pty.openpty()
    try:
        process = forked.popen(
            [*arguments],
            cwd=project.path,
            env={**project.environ(env), "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux ends a terminal so
                break
            if not chunk:
                break
            shown += chunk
            if asked and b"[y/N]" in shown:
                os.write(ours, asked().encode())
                asked = None
        return process.wait(10), shown.decode(errors="replace")
    finally:
        os.close(ours)
