"""Claim → send → record. Lanes, a thread each, per endpoint, so that none delays another."""

from .pace import FAILING_AFTER
from .worker import Worker

__all__ = ["FAILING_AFTER", "Worker"]
