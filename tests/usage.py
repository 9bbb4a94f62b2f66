"""What a process uses."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def ticks_of(process: subprocess.Popen[str], seconds: float) -> int:
    """How many hundredths of a second of a core it uses in the next *seconds*."""

    def used() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    time.sleep(seconds)
    return used() - before
