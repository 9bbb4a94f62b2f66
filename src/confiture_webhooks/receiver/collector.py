"""A real OTLP/HTTP receiver on loopback that keeps spans, points and records as plain values."""

from __future__ import annotations

import importlib.util
import queue
import threading
import zlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import WebhooksError
from . import otlp
from .server import Answer, Incoming, LoopbackServer, Scripted, answer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .otlp import LogRecord, MetricPoint, Span

PROTOBUF = "application/x-protobuf"
MAX_BODY = 64 * 1024 * 1024
KEPT = 100_000
"""So many of the last spans, points and records each, and as many bytes as one body may have."""
FORWARD_TIMEOUT_S = 5.0
_PASSED_ON = ("Content-Type", "Content-Encoding")


class LocalCollector(LoopbackServer):
    """An OTLP/HTTP receiver on 127.0.0.1, serving inside its ``with`` block.

    ``url`` is what ``OTEL_EXPORTER_OTLP_ENDPOINT`` takes. *forward_to* is the same of another
    collector, which gets every accepted request too, in order, without making the sender
    wait. *answers* are what ``LocalReceiver`` takes; a request that is not answered with
    success adds to ``raw`` only. Raises WebhooksError when opentelemetry-proto is not
    installed or *forward_to* is not an http or https URL.
    """

    def __init__(
        self, *, port: int = 0, forward_to: str | None = None, answers: Iterable[Scripted] = ()
    ) -> None:
        if importlib.util.find_spec("opentelemetry.proto") is None:
            raise WebhooksError(otlp.MISSING)
        self._forwarder = _Forwarder(forward_to) if forward_to is not None else None
        self._script = deque(answer_of(entry) for entry in answers)
        self._changed = threading.Condition()
        self._raw: deque[bytes] = deque()
        self._kept: dict[str, deque[Any]] = {path: deque(maxlen=KEPT) for path in _DECODERS}
        super().__init__(self._receive, port=port, max_body=MAX_BODY)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The last spans, in order of arrival."""
        return self._kept_at("/v1/traces")

    @property
    def metrics(self) -> tuple[MetricPoint, ...]:
        """The last metric points, in order of arrival."""
        return self._kept_at("/v1/metrics")

    @property
    def logs(self) -> tuple[LogRecord, ...]:
        """The last log records, in order of arrival."""
        return self._kept_at("/v1/logs")

    @property
    def raw(self) -> bytes:
        """The last bodies, unpacked, to search for a text that must not be there."""
        with self._changed:
            return b"\n".join(self._raw)

    @property
    def forward_failures(self) -> tuple[str, ...]:
        """The failures to forward: the path and the reason, never the address."""
        return tuple(self._forwarder.failures) if self._forwarder is not None else ()

    def wait_for(
        self, predicate: Callable[[LocalCollector], object], timeout: float = 10.0
    ) -> None:
        """Return once *predicate* holds of this collector; raises TimeoutError if never."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self), timeout):
                kept = ", ".join(f"{len(v)} from {k}" for k, v in self._kept.items())
                raise TimeoutError(f"not in {timeout} s; so far: {kept}")

    def close(self) -> None:
        """Stop listening and finish forwarding, within bounds. Closing twice is allowed."""
        super().close()
        if self._forwarder is not None:
            self._forwarder.close()

    def _kept_at(self, path: str) -> tuple[Any, ...]:
        with self._changed:
            return tuple(self._kept[path])

    def _receive(self, request: Incoming) -> Answer:
        refusal = _refusal(request)
        if refusal is not None:
            return Answer(status=refusal)
        try:
            content = _decompressed(request)
            records = _DECODERS[request.path](content)
        except OverflowError:
            return Answer(status=413)
        except (ValueError, LookupError, OSError, EOFError, zlib.error):
            return Answer(status=400)
        with self._changed:
            answer = self._script.popleft() if self._script else Answer()
            self._raw.append(content)
            while sum(map(len, self._raw)) > MAX_BODY:
                self._raw.popleft()
            if answer.is_success:
                self._kept[request.path].extend(records)
            self._changed.notify_all()
        if answer.is_success and self._forwarder is not None:
            self._forwarder.pass_on(request)
        # An empty body is an empty Export…ServiceResponse: everything was accepted.
        return answer if answer.headers else replace(answer, headers={"Content-Type": PROTOBUF})


_DECODERS: Mapping[str, Callable[[bytes], list[Any]]] = {
    "/v1/traces": otlp.spans,
    "/v1/metrics": otlp.metric_points,
    "/v1/logs": otlp.log_records,
}


def _refusal(request: Incoming) -> int | None:
    """The status for a request that is not OTLP over HTTP in protobuf."""
    if request.path not in _DECODERS:
        return 404
    if request.method != "POST":
        return 405
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
    packing = request.headers.get("Content-Encoding", "identity")
    return None if kind == PROTOBUF and packing in ("identity", "gzip", "deflate") else 415


def _decompressed(request: Incoming) -> bytes:
    """The body, unpacked; raises OverflowError for one that grows beyond all bounds."""
    if request.headers.get("Content-Encoding", "identity") == "identity":
        return request.body
    unpacked, packed = b"", request.body
    while packed:
        unpacking = zlib.decompressobj(wbits=47)  # gzip or zlib
        unpacked += unpacking.decompress(packed, MAX_BODY + 1 - len(unpacked))
        if len(unpacked) > MAX_BODY:
            raise OverflowError
        if not unpacking.eof:
            raise EOFError
        packed = unpacking.unused_data
    return unpacked


def try_collector(url: str, setting: str) -> None:
    """Export nothing to the collector at *url*.

    Raises WebhooksError with the name of the *setting* if it does not take that.
    """
    import requests  # noqa: PLC0415

    _check_address(url)
    try:
        answer = requests.post(
            url.rstrip("/") + "/v1/traces",
            data=b"",  # an Export…ServiceRequest without a span
            headers={"Content-Type": PROTOBUF},
            timeout=FORWARD_TIMEOUT_S,
        )
    except requests.RequestException as error:
        reason = f"no collector answers there ({type(error).__name__})"
    else:
        if answer.ok:
            return
        reason = f"its server answers {answer.status_code} to /v1/traces"
    raise WebhooksError(
        f"{setting}: {reason}. Start one, or give the address at which one takes OTLP over HTTP, "
        "mostly port 4318"
    )


def _check_address(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise WebhooksError("the collector to forward to must be an http or https URL")


class _Forwarder:
    """Passes requests on to another collector, one after the other, on a thread of its own."""

    def __init__(self, url: str) -> None:
        _check_address(url)
        self._url = url.rstrip("/")
        self.failures: list[str] = []
        self._waiting: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)
        self._thread.start()

    def pass_on(self, request: Incoming) -> None:
        self._waiting.put(request)

    def close(self) -> None:
        """Wait until all is passed on, within bounds."""
        self._waiting.put(None)
        self._thread.join(2 * FORWARD_TIMEOUT_S)
        if self._thread.is_alive():
            self.failures.append("forwarding did not end in time")

    def _run(self) -> None:
        import requests  # noqa: PLC0415

        with requests.Session() as session:
            while (request := self._waiting.get()) is not None:
                url, body = self._url + request.path, request.body
                headers = {n: request.headers[n] for n in _PASSED_ON if n in request.headers}
                try:
                    answer = session.post(url, body, headers=headers, timeout=FORWARD_TIMEOUT_S)
                except requests.RequestException as error:
                    self.failures.append(f"{request.path}: {type(error).__name__}")
                else:
                    if not answer.ok:
                        self.failures.append(f"{request.path}: HTTP {answer.status_code}")
