"""What is generated of the documentation is current."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pages import ROOT


@pytest.mark.parametrize(
    "script", ["commands_page", "reference_tables", "python_page", "survived_page", "map_page"]
)
def test_what_is_made_from_the_code_is_current(script: str) -> None:
    """Commands, settings, events, telemetry and the Python API are on their pages as the code has them."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
