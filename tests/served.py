"""The receivers in ``examples/``, each served by its framework in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples" / "receivers"
LONGEST_START_S = 30.0


class Served:
    """A receiver that runs, and what it printed."""

    def __init__(self, name: str, environ: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/webhooks/migrations"
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, f"{name}_app.py"],
            cwd=EXAMPLES,
            env={"PATH": os.defpath, "PORT": str(self.port), "PYTHONDONTWRITEBYTECODE": "1"}
            | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))

    def wait_until_it_listens(self) -> None:
        """Return once it accepts connections; raises TimeoutError with what it printed."""
        deadline = time.monotonic() + LONGEST_START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise TimeoutError("".join(self.lines))

    def close(self) -> None:
        """End it, and read what it still had to print."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def served(name: str, environ: dict[str, str]) -> Iterator[Served]:
    """The example *name*, listening while the block runs."""
    receiver = Served(name, environ)
    try:
        receiver.wait_until_it_listens()
        yield receiver
    finally:
        receiver.close()
