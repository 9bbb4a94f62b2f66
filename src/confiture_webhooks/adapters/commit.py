"""The instant before a migration's COMMIT: the one place where what is written goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Commit:
    """Calls *before* when *connection* is to commit and the migration's work is done.

    The host commits in the same way whatever else it commits: ``is_due`` tells them apart.
    """

    def __init__(self, connection: Any, before: Callable[[], object]) -> None:
        self._connection = connection
        self._before = before
        self.is_due = False
        self.was_sent = False
        """Whether the migration's COMMIT was sent, or that is not known."""

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Watch the connection's ``commit`` for as long as the block."""
        attributes = vars(self._connection)
        had, original = attributes.get("commit"), getattr(self._connection, "commit", None)
        if original is None:
            self.was_sent = True
            yield
            return

        def commit() -> Any:
            if self.is_due:
                self.is_due = False
                self._before()
                self.was_sent = True
            return original()

        attributes["commit"] = commit
        try:
            yield
        finally:
            if had is None:
                attributes.pop("commit", None)
            else:
                attributes["commit"] = had
