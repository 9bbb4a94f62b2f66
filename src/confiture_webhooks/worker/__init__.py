"""Claim → send → record. One lane, a thread, per endpoint, so that none delays another."""

from .worker import Worker

__all__ = ["Worker"]
