"""Webhooks for Confiture migrations: signed, retried, durable, traced.

The names below are loaded on first use, because Confiture imports this package on every command.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

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
    from .signature import verify

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
    "verify": "signature",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _HooksFinder:
    """Finds ``confiture.hooks``, where Confiture itself has no such module: it is asked last."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002  the import system's
        return ModuleSpec(name, self) if name == "confiture.hooks" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill *module* with the public names of ``confiture_webhooks.hooks``."""
        from . import hooks  # noqa: PLC0415  only a hook file needs it

        module.__doc__ = hooks.__doc__
        vars(module).update({name: getattr(hooks, name) for name in hooks.__all__})
        vars(module)["__all__"] = list(hooks.__all__)


sys.meta_path.append(_HooksFinder())
