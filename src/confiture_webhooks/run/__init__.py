"""One run of migrations; this file has its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..hooks import Hook
    from ..outbox import Outbox
    from ..telemetry import Telemetry
    from ..transport import Transport

TELEMETRY_BUDGET = timedelta(seconds=1.4)
"""For all that comes after the time-out of the flush: 2 s with our imports and the exit."""


Loads = Mapping[str, Callable[[], "Sequence[Hook]"]]
"""Modules with hooks, and how to import each: that raises LoadFault, or anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a run; each is made on first use and at most once."""

    telemetry: Callable[[], Telemetry]
    outbox: Callable[[Telemetry], Outbox]
    transport: Callable[[], Transport]
    hooks: Callable[[], Loads] | None = None
    """Finds users' hooks; ``None``: there are none."""
    shows_progress: bool = False
    """Whether a terminal may show what is waited for at the end."""
    exports: Callable[[], bool] = lambda: False
    """Whether telemetry leaves the process: then a run with nothing to do is counted, too."""
    has_leftovers: Callable[[], bool] = lambda: False
    """Whether an earlier run may have left deliveries; of a database, it is asked."""
    is_project: bool = True
    """Whether the command runs in a Confiture project; elsewhere it creates no outbox."""
    has_python: bool = False
    """Whether migrations are Python: they may replace parts of the library, as hooks do."""
