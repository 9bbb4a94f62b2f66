"""``confiture webhooks doctor``: the faults of a user's own set-up, each with its remedy."""

from .diagnosis import diagnose

__all__ = ["diagnose"]
