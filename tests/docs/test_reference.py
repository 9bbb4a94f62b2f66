"""What is generated of the documentation is current."""

from __future__ import annotations

import subprocess
import sys

from pages import ROOT


def test_the_page_of_commands_is_current() -> None:
    """Every command, option, example and exit code is on the page as ``--help`` tells it."""
    script = ROOT / "scripts" / "commands_page.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
