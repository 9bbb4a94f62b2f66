"""What is generated of the documentation is current."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pages import ROOT

PAGES = ("commands_page", "reference_tables", "python_page", "survived_page", "map_page")


@pytest.mark.parametrize(
    "script", [*(f"scripts/{page}.py" for page in PAGES), "observability/generator/generate.py"]
)
def test_what_is_made_from_the_code_is_current(script: str) -> None:
    """The pages, dashboards and rules that are committed are what their scripts make now."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
