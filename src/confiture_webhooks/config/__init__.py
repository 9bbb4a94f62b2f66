"""Settings: the environment and the ``webhooks:`` block, read and checked, every fault at once."""

from .settings import Settings, has_block, is_configured, load, read, redacted

__all__ = ["Settings", "has_block", "is_configured", "load", "read", "redacted"]
