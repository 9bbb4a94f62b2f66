"""What attempts led to is kept behind the lanes' backs, so that they can send on meanwhile."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable

FURTHEST_BEHIND = 32
"""So many outcomes of one owner may wait to be kept: a crash sends no more than these again."""


class Recorder:
    """Does jobs one after the other on a thread of its own, in the order they were put.

    A job that raises is told to its owner: at its next ``put`` or ``settle``.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._left: Counter[str] = Counter()
        self._faults: dict[str, Exception] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def put(self, owner: str, job: Callable[[], None]) -> None:
        """Have *job* done soon. Waits while too many of *owner* do; raises what one of them did."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._left[owner] < FURTHEST_BEHIND or self._is_closed or self._faults
            )
            self._raise(owner)
            self._left[owner] += 1
            self._waiting.append((owner, job))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="webhooks-recorder", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def settle(self, owner: str) -> None:
        """Wait until all of *owner* is done; raises what one of its jobs did."""
        with self._changed:
            self._changed.wait_for(lambda: not self._left[owner] or self._is_closed)
            self._raise(owner)

    def close(self, timeout_s: float) -> None:
        """Do what waits, *timeout_s* at most, and end the thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
            self._is_closed = True
            self._changed.notify_all()

    def _raise(self, owner: str) -> None:
        if fault := self._faults.pop(owner, None):
            raise fault

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                owner, job = self._waiting.popleft()
            fault: Exception | None = None
            try:
                job()
            except Exception as error:  # noqa: BLE001  raised again where it can be told
                fault = error
            del job
            with self._changed:
                if fault is not None:
                    self._faults.setdefault(owner, fault)
                self._left[owner] -= 1
                self._changed.notify_all()
