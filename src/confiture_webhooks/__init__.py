"""Webhooks for Confiture migrations: signed, retried, durable, traced.

The names below are loaded on first use, because Confiture imports this package on every command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Settings, load
    from .errors import ConfigError, OutboxError, SignatureError, TransportError, WebhooksError
    from .inbox import Inbox
    from .session import attach
    from .verification import verify

__all__ = [
    "ConfigError",
    "Inbox",
    "OutboxError",
    "Settings",
    "SignatureError",
    "TransportError",
    "WebhooksError",
    "attach",
    "load",
    "verify",
]

_HOMES = {
    "Inbox": "inbox",
    "Settings": "config",
    "attach": "session",
    "load": "config",
    "verify": "verification",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
