"""``confiture webhooks doctor``: what is wrong with a user's own set-up, and what mends it."""

from .diagnosis import diagnose

__all__ = ["diagnose"]
