"""``confiture.hooks``, where Confiture itself has no such module.

The finder comes last: it is asked only for what no other found.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

ALIAS = "confiture.hooks"


class HooksFinder:
    """Finds ``confiture.hooks``, and nothing else."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002  the import system's
        """The module's spec, or ``None`` for every other name."""
        return ModuleSpec(name, self) if name == ALIAS else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill *module* with the public names of ``confiture_webhooks.hooks``."""
        from . import hooks  # noqa: PLC0415  only a hook file needs it

        module.__doc__ = hooks.__doc__
        vars(module).update({name: getattr(hooks, name) for name in hooks.__all__})
        vars(module)["__all__"] = list(hooks.__all__)


def install() -> None:
    """Put the finder behind all others, once."""
    if not any(isinstance(finder, HooksFinder) for finder in sys.meta_path):
        sys.meta_path.append(HooksFinder())
