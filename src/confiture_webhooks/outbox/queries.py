"""SQL by name, out of ``queries.sql``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_NAMED = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def queries() -> dict[str, str]:
    """The statements of ``queries.sql`` by name, with ``:name`` for values."""
    text = Path(__file__).with_name("queries.sql").read_text(encoding="utf-8")
    _, *parts = _NAMED.split(text)
    return {
        name: "\n".join(
            line for line in body.strip().splitlines() if line and not line.startswith("--")
        )
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
