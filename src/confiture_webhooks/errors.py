"""The errors of this package, as one tree.

An HTTP status is data on an ``Attempt``, never an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WebhooksError(Exception):
    """The root of every error this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a configuration: which setting, what, and what to do."""

    setting: str
    """As the user wrote it: ``webhooks.endpoints[0].url`` or ``CONFITURE_WEBHOOK_URL``."""
    problem: str
    remedy: str
    endpoint: str | None = None
    """The name of the endpoint that the setting is of, if it has a good one."""

    @property
    def what(self) -> str:
        """Which setting, of which endpoint, and its problem."""
        return f"{self.setting}{f' ({self.endpoint})' if self.endpoint else ''}: {self.problem}"

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}"


class ConfigError(WebhooksError):
    """A configuration is wrong; ``faults`` holds every fault found, never only the first."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class SignatureError(WebhooksError):
    """A request is not from who it says, is too old, or cannot be read."""


class OutboxError(WebhooksError):
    """The outbox could not do what was asked; the store's own error is ``__cause__``."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}. {remedy}" if remedy else problem)


class HookError(WebhooksError):
    """A hook file is wrong, or what a hook asks for cannot be done."""


CUT = "cut"
UNRECORDED = "the outbox could not record the outcome"


class TransportError(WebhooksError):
    """No HTTP answer. ``error_type`` is one of the closed set in ``delivery.ERROR_TYPES``.

    Or ``CUT``: we ended the attempt ourselves, so it says nothing of the receiver.
    """

    def __init__(self, error_type: str, reason: str | None = None) -> None:
        self.error_type = error_type
        self.reason = reason
        """More about it, where it is known; holds no address."""
        super().__init__(error_type)
