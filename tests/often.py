"""How often: a little every day, a lot where ``CI`` is set, and as often as ``EXAMPLES`` says."""

from __future__ import annotations

import os

IS_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
EXAMPLES = int(os.environ.get("EXAMPLES") or 0)


def often(times: int) -> int:
    """*times* in CI, an eighth of it every day, and never less than ten; or ``EXAMPLES``."""
    return EXAMPLES or (times if IS_CI else min(times, max(10, times // 8)))
