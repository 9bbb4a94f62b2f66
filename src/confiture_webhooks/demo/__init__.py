"""``confiture webhooks demo``: the whole product on this machine, with nothing installed."""

from .command import demo

__all__ = ["demo"]
