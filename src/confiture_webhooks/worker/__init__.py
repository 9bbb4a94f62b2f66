"""Claim → send → record. Lanes, a thread each, per endpoint, so that none delays another."""

from .sender import Passes
from .worker import Worker

__all__ = ["Passes", "Worker"]
