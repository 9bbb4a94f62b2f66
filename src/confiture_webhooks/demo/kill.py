"""The demo's act with a SIGKILL: a run that dies in mid-migration."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOTICED_AFTER = {"client_connection_check_interval": "100ms"}
"""Server settings with which a migration that runs ends soon after its client was killed."""
SLOW = "SELECT pg_sleep(60);\n"
"""Ends a migration that is to be killed."""
WAIT_S = 20.0
_ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


def new_trace() -> tuple[str, str]:
    """A trace id for a run that cannot report its own any more, and the ``TRACEPARENT`` to give."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


def run_until_asleep(
    command: Sequence[str], directory: Path, environ: Mapping[str, str], dsn: str
) -> tuple[int, str]:
    """Run *command*, killed while its migration sleeps; exit code and output.

    Returns when the server has noticed, too. A command that ends by itself is left alone.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(process, dsn, until_asleep=True)
        finally:
            process.kill()
            process.wait()
        _wait(process, dsn, until_asleep=False)
        output.seek(0)
        return process.returncode, output.read().decode(errors="replace")


def _wait(process: subprocess.Popen[Any], dsn: str, *, until_asleep: bool) -> None:
    """Wait until a migration sleeps, or none does any more; not for a process that has ended."""
    import psycopg  # noqa: PLC0415

    deadline = time.monotonic() + WAIT_S
    with psycopg.connect(dsn, autocommit=True) as watch:
        while (watch.execute(_ASLEEP).fetchone() is not None) is not until_asleep:
            if time.monotonic() > deadline or (until_asleep and process.poll() is not None):
                return
            time.sleep(0.02)
