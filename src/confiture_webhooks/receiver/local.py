"""A local receiver: verifies, keeps and answers requests, as a script says."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..errors import SignatureError
from ..signature import DEFAULT_TOLERANCE, signing_keys, verify
from .server import Answer, Incoming, LoopbackServer, Scripted, answer_of

if TYPE_CHECKING:
    import ssl


KEPT_REQUESTS = 10_000
KEPT_BYTES = 64 * 1024 * 1024
"""A receiver keeps its last requests: so many, with bodies of so many bytes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Incoming):
    """One request as the local receiver got it, and how it was answered."""

    payload: Any
    """The body as JSON; ``None`` when it is not."""
    received_at: datetime
    verified: bool | None
    """``None``: no secret to check with."""
    answer: Answer


class LocalReceiver(LoopbackServer):
    """A real HTTP receiver on 127.0.0.1, serving inside its ``with`` block.

    POSTs are answered from *answers*, then with 200, as every other request is. An entry is a
    status, a status with headers and maybe a body, ``"slow"``, or a fault: ``hang``, ``reset``,
    ``close``, ``drip``, ``drip_body``, ``rubbish``, ``endless``. *on_request* is called with each
    request before its answer is sent, on the connection's thread. With *refuses*, a POST without a
    good signature is answered with 401 instead of 200. ``url`` and ``port`` are its
    address, ``connections`` is how many were ever accepted, and ``close()`` ends it early.
    """

    def __init__(
        self,
        port: int = 0,
        secret: str | Sequence[str] | None = None,
        answers: Iterable[Scripted] = (),
        on_request: Callable[[Received], None] | None = None,
        *,
        tolerance: timedelta | None = DEFAULT_TOLERANCE,
        tls: ssl.SSLContext | None = None,
        keeps: int = KEPT_REQUESTS,
        refuses: bool = False,
    ) -> None:
        self._secret = secret
        if secret is not None:
            signing_keys(secret)
        self._on_request = on_request
        self._tolerance = tolerance
        self._refuses = refuses
        self._default: deque[Answer] = deque(answer_of(entry) for entry in answers)
        self._scripts: dict[str, deque[Answer]] = {}
        self._keeps = keeps
        self._requests: deque[Received] = deque()
        self._kept_bytes = 0
        self._count = 0
        self._changed = threading.Condition()
        super().__init__(self._receive, port=port, tls=tls)

    def script(self, path: str, answers: Iterable[Scripted]) -> None:
        """Answer requests for *path* (without query) from *answers* first."""
        with self._changed:
            self._scripts.setdefault(path, deque()).extend(answer_of(entry) for entry in answers)

    @property
    def requests(self) -> tuple[Received, ...]:
        """The last requests, in order of arrival; older ones are forgotten."""
        with self._changed:
            return tuple(self._requests)

    def wait_for(self, n: int = 1, timeout: float = 10.0) -> tuple[Received, ...]:
        """The requests, once there are *n*; raises TimeoutError after *timeout* seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= n, timeout):
                raise TimeoutError(f"{self._count} of {n} requests in {timeout} s")
            return tuple(self._requests)

    def _receive(self, request: Incoming) -> Answer:
        verdict = self._verdict(request)
        with self._changed:
            own = self._scripts.get(request.path.partition("?")[0])
            script = own or self._default
            # A look whether somebody is there, as `doctor` takes it, is no webhook.
            is_webhook = request.method == "POST"
            is_refused = is_webhook and self._refuses and verdict is False
            usual = Answer(status=401 if is_refused else 200)
            received = Received(
                method=request.method,
                path=request.path,
                headers=request.headers,
                body=request.body,
                payload=payload_of(request.body),
                received_at=datetime.now(UTC),
                verified=verdict,
                answer=script.popleft() if script and is_webhook else usual,
            )
            self._keep(received)
            self._changed.notify_all()
        if self._on_request is not None:
            self._on_request(received)
        return received.answer

    def _keep(self, received: Received) -> None:
        """Keep it, and forget the oldest where there are too many, or they are too large."""
        kept = self._requests
        kept.append(received)
        self._count += 1
        self._kept_bytes += len(received.body)
        while len(kept) > self._keeps or (self._kept_bytes > KEPT_BYTES and len(kept) > 1):
            self._kept_bytes -= len(kept.popleft().body)

    def _verdict(self, request: Incoming) -> bool | None:
        if self._secret is None:
            return None
        try:
            verify(
                request.headers,
                request.body,
                self._secret,
                tolerance=self._tolerance,
                max_body=len(request.body),
                require_timestamp=False,
            )
        except SignatureError:
            return False
        return True


def payload_of(body: bytes) -> Any:
    """The JSON value of *body*; ``None``: it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
