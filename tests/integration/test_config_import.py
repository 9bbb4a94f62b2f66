"""What the cheap question costs: the standard library alone."""

from __future__ import annotations

import subprocess
import sys


def test_asking_imports_neither_yaml_nor_pydantic() -> None:
    """Every ``confiture migrate`` pays for this import, so it is the standard library alone."""
    code = (
        "import sys; from confiture_webhooks.config import Settings; "
        "Settings(); print(*sys.modules)"
    )
    printed = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    loaded = {name.partition(".")[0] for name in printed.split()}
    assert "confiture_webhooks" in loaded
    assert not loaded & {"pydantic", "yaml", "standardwebhooks", "httpx", "requests", "structlog"}
