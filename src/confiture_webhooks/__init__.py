"""Webhooks for Confiture migrations: signed, retried, durable, traced.

The names below are loaded on first use, because Confiture imports this package on every command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import hook_alias

if TYPE_CHECKING:
    from .config import Settings, load
    from .errors import (
        ConfigError,
        HookError,
        OutboxError,
        SignatureError,
        TransportError,
        WebhooksError,
    )
    from .hooks import HookContext, register_hook
    from .inbox import Inbox
    from .session import attach
    from .verification import verify

__all__ = [
    "ConfigError",
    "HookContext",
    "HookError",
    "Inbox",
    "OutboxError",
    "Settings",
    "SignatureError",
    "TransportError",
    "WebhooksError",
    "attach",
    "load",
    "register_hook",
    "verify",
]

_HOMES = {
    "HookContext": "hooks",
    "Inbox": "inbox",
    "Settings": "config",
    "attach": "session",
    "load": "config",
    "register_hook": "hooks",
    "verify": "verification",
}


hook_alias.install()


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
