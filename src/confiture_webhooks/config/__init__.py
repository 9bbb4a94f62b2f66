"""Settings: the environment and the ``webhooks:`` block, read and checked, every fault at once."""

from .settings import Settings, is_configured, load, log_form, redacted

__all__ = ["Settings", "is_configured", "load", "log_form", "redacted"]
