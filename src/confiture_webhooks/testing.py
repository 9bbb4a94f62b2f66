"""For your own tests: fakes that keep the ports' promises, and a run that sends nowhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .config import Settings
from .endpoint import Endpoint
from .errors import CUT, TransportError
from .event import SUBSCRIBABLE
from .outbox.sqlite import InMemoryOutbox
from .transport import Request, Response

__all__ = ["InMemoryOutbox", "ScriptedTransport", "Sent", "captured"]

Reply = int | str | Response
"""A status code, an error type such as ``"timeout"``, or a whole response."""


@dataclass
class ScriptedTransport:
    """Answers each send with the endpoint's next scripted reply, then with 200; keeps what came."""

    replies: Mapping[str, Sequence[Reply]] = field(default_factory=dict)
    sent: list[Request] = field(default_factory=list)
    timeouts: list[timedelta] = field(default_factory=list)
    is_aborted: bool = False
    is_closed: bool = False

    def __post_init__(self) -> None:
        self._left = {name: list(replies) for name, replies in self.replies.items()}
        self._lock = threading.Lock()

    def send(self, request: Request, *, timeout: timedelta) -> Response:
        """The next reply for the request's endpoint; raises TransportError for an error type."""
        with self._lock:
            self.sent.append(request)
            self.timeouts.append(timeout)
            left = self._left.get(request.endpoint)
            reply: Reply = left.pop(0) if left else 200
        if self.is_aborted:
            raise TransportError(CUT)
        if isinstance(reply, str):
            raise TransportError(reply)
        return reply if isinstance(reply, Response) else Response(status_code=reply)

    def abort(self) -> None:
        """Cut every later send."""
        self.is_aborted = True

    def close(self) -> None:
        """Note that the transport was closed."""
        self.is_closed = True


@dataclass(frozen=True, slots=True)
class Sent:
    """One webhook as its receiver would have seen it."""

    headers: Mapping[str, str]
    payload: dict[str, Any]


@contextmanager
def captured(session: Any) -> Iterator[list[Sent]]:
    """Collect every webhook that *session* (entered) would send in the block; nothing is sent.

    The list is complete when the block has been left.
    """
    from .run import Parts  # noqa: PLC0415
    from .run.run import Run  # noqa: PLC0415
    from .session import reported  # noqa: PLC0415
    from .telemetry import Telemetry  # noqa: PLC0415
    from .telemetry.providers import for_library  # noqa: PLC0415

    endpoint = Endpoint(name="captured", url="https://captured.invalid/", events=SUBSCRIBABLE)
    settings = Settings(
        endpoints=(endpoint,), outbox="memory", flush_timeout=timedelta(seconds=10), log="off"
    )
    transport = ScriptedTransport()
    telemetry = Telemetry(
        for_library({}), endpoints=["captured"], log="off", log_level="info", is_library=True
    )
    parts = Parts(
        telemetry=lambda: telemetry, outbox=lambda _: InMemoryOutbox(), transport=lambda: transport
    )
    sent: list[Sent] = []
    try:
        with reported(session, Run(settings, parts)):
            yield sent
    finally:
        sent.extend(Sent(request.headers, json.loads(request.body)) for request in transport.sent)
