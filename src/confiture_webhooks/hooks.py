"""The hook files' API: ``register_hook`` and what a hook is given, a ``HookContext``.

Hook files import it as ``confiture.hooks`` wherever Confiture has no module of that name.
Standard library only, and no effects: other modules find, import and run hooks.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from .errors import HookError

__all__ = ["HookContext", "HookError", "MigrationFailed", "register_hook"]

EVENTS = ("pre_execute", "post_execute", "on_error", "post_rollback")
"""Before a migration; after ``up`` committed; after either way failed; after ``down`` committed."""

_AS_WRITTEN: dict[str, Any] = {"annotation_format": 4} if sys.version_info >= (3, 14) else {}
"""``annotationlib.Format.STRING``: what annotations name may be there for type checkers alone."""


class MigrationFailed(Exception):  # noqa: N818  what a hook sees reads as the root cause's class
    """Why a migration failed, fit to be sent on: the server's message, without SQL or values.

    Its class has the name of the root cause's class, as in ``UndefinedTable``.
    """

    sqlstate: str | None = None
    """The server's code of the error, if it was the server's."""
    detail: str | None = None
    """The whole text, with its SQL and values: for your eyes, not for others'."""


def _outside(_: Mapping[str, Any], __: str | None) -> NoReturn:
    raise HookError("context.send works in a hook that confiture runs, and nowhere else")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookContext:
    """The event, as a hook sees it. Instants are aware and in UTC."""

    event: str
    """``pre_execute``, ``post_execute``, ``on_error`` or ``post_rollback``."""
    migration_name: str
    """``<version>_<name>``, as in ``005_add_payment_table``."""
    migration_version: str
    environment: str | None = None
    """The environment file's ``name:``, else its stem, else ``CONFITURE_ENVIRONMENT``."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    """``None`` in ``pre_execute``."""
    duration: timedelta | None = None
    """``None`` in ``pre_execute``."""
    rows_affected: int | None = None
    """Rows the migration's own statements touched; ``None`` when unknown."""
    database_url: str = field(default="", repr=False)
    """``postgresql://user:***@host/database``: never the password."""
    schema_name: str | None = None
    """The current schema of the connection that migrates."""
    error: MigrationFailed | None = field(default=None, repr=False)
    """Why it failed, in ``on_error``."""
    trace_id: str = ""
    """The run's trace id, 32 lower-case hex digits."""
    sender: Callable[[Mapping[str, Any], str | None], str] = field(
        default=_outside, repr=False, compare=False
    )
    """Gets the payloads of ``send``; set by the run."""

    @property
    def correlation_id(self) -> str:
        """The same as ``trace_id``: what every webhook of the run has as ``X-Correlation-ID``."""
        return self.trace_id

    def send(self, payload: Mapping[str, Any], endpoint: str | None = None) -> str:
        """Send *payload*, as it is, to a configured endpoint: kept, signed, retried, traced.

        *endpoint* may be left out when there is only one. Returns the ``webhook-id``, at once:
        delivering goes on in the background. Raises HookError when the payload is not a JSON
        object, or there is no such endpoint.
        """
        return self.sender(payload, endpoint)


HookFunction = Callable[[HookContext], object]
F = TypeVar("F", bound=HookFunction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One function that is called for one event."""

    event: str
    function: HookFunction
    module: str
    name: str
    is_named: bool
    """Whether *name* names this function and no other: not so for closures and lambdas."""
    file: str
    line: int

    @property
    def label(self) -> str:
        """``<module>:<function>``: its name in traces and logs."""
        return f"{self.module}:{self.name}"


class Registry:
    """The hooks that were registered in this process, in order."""

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self._loading: dict[int, list[Hook]] = {}
        """The hooks of each thread that loads a file: one may have been left behind."""
        self._guard = threading.Lock()

    def add(self, hook: Hook) -> None:
        """Keep *hook*. While a file is loaded, the same one again raises HookError."""
        with self._guard:
            loaded = self._loading.get(threading.get_ident())
            same = [one for one in self._hooks if _is_same(one, hook)]
            if same and loaded is not None:
                twice = f"{hook.name} is registered for {hook.event} twice"
                raise HookError(f"{twice}; register it once")
            self._hooks = [one for one in self._hooks if one not in same] + [hook]
            if loaded is not None:
                loaded.append(hook)

    @contextmanager
    def loading(self) -> Iterator[list[Hook]]:
        """The list of what this thread registers in the block."""
        thread, loaded = threading.get_ident(), list[Hook]()
        self._loading[thread] = loaded
        try:
            yield loaded
        finally:
            del self._loading[thread]

    def of(self, module: str) -> list[Hook]:
        """The hooks that *module* registered."""
        return [hook for hook in self._hooks if hook.module == module]

    def forget(self, package: str) -> None:
        """Drop the hooks of *package*, which is about to be imported anew."""
        with self._guard:
            self._hooks = [one for one in self._hooks if one.module.partition(".")[0] != package]


def _is_same(one: Hook, other: Hook) -> bool:
    is_name_theirs = one.is_named and (one.module, one.name) == (other.module, other.name)
    return one.event == other.event and (is_name_theirs or one.function is other.function)


registry = Registry()


def register_hook(event: str) -> Callable[[F], F]:
    """Decorate a function that is to be called with a HookContext whenever *event* happens.

    Raises HookError for an unknown event, and for what cannot be called with one argument.
    """
    if callable(event):
        raise HookError(f"register_hook needs an event: @register_hook('{EVENTS[1]}')")
    if event not in EVENTS:
        near = get_close_matches(str(event), EVENTS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise HookError(f"unknown hook event '{event}'{hint}; the events are {', '.join(EVENTS)}")

    def register(function: F) -> F:
        registry.add(hook_of(event, function))
        return function

    return register


def hook_of(event: str, function: Any) -> Hook:
    """*function* as a hook of *event*. Raises HookError for what cannot be one."""
    qualified = getattr(function, "__qualname__", None)
    name = qualified or type(function).__name__
    if not callable(function):
        raise HookError(f"{name} is not a function")
    if inspect.iscoroutinefunction(function):
        raise HookError(f"{name} is async; a hook is a plain function")
    if inspect.isgeneratorfunction(function):
        raise HookError(f"{name} is a generator, which calling does not run; remove its `yield`")
    try:
        inspect.signature(function, **_AS_WRITTEN).bind(None)
    except TypeError:
        problem = f"{name} cannot be called with one argument; a hook takes one, the context"
        raise HookError(problem) from None
    except ValueError:  # something built in, without a signature
        pass
    code = getattr(inspect.unwrap(function), "__code__", None)
    return Hook(
        event=event,
        function=function,
        module=getattr(function, "__module__", None) or "?",
        name=name,
        is_named=qualified is not None and "<" not in qualified,
        file=code.co_filename if code else "?",
        line=code.co_firstlineno if code else 0,
    )
