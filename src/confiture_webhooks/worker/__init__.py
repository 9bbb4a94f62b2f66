"""Claim → send → record. Lanes, a thread each, per endpoint, so that none delays another."""

from .sender import PassSpans
from .worker import Worker

__all__ = ["PassSpans", "Worker"]
