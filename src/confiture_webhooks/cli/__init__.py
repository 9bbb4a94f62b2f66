"""``confiture webhooks …``: the commands, in the host's style; a file for a group of them."""

from .app import app

__all__ = ["app"]
