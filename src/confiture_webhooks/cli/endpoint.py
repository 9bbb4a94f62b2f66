"""An endpoint, and how a ping to it went, as blocks for people: nothing is ever cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from .tables import length, print_block

_NAMES = {"url": "address", "headers": "header names", "timeout_s": "timeout"}
WHEN_NOTHING = {"environments": "all", "migrations": "all"}
"""What an empty list of an endpoint stands for, where it is not nothing."""


def endpoint_facts(endpoint: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a redacted *endpoint* is, but for its name: every setting on a line of its own."""
    return [
        (_NAMES.get(key, key), _shown(key, value))
        for key, value in endpoint.items()
        if key != "name"
    ]


def show_endpoints(endpoints: Iterable[Mapping[str, Any]]) -> None:
    """A block for each redacted endpoint."""
    for endpoint in endpoints:
        print_block(endpoint["name"], endpoint_facts(endpoint))


def show_pings(results: Iterable[Mapping[str, Any]]) -> None:
    """A block for each ping: whether it arrived, what was answered, and the whole trace id."""
    for result in results:
        mark, end = ("✅", "delivered") if result["delivered"] else ("❌", "not delivered")
        print_block(f"{mark} {result['endpoint']}: {end}", _ping_facts(result))


def _ping_facts(result: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if result["status_code"] is not None:
        yield "answer", str(result["status_code"])
    elif result["error_type"] is not None:
        yield "reason", str(result["error_type"])
    else:
        yield "reason", "no attempt came to its end within the flush timeout"
    yield "attempts", str(result["attempts"])
    if result["duration_ms"] is not None:
        yield "last took", f"{result['duration_ms']:g} ms"
    yield "trace id", result["trace_id"]


def _shown(key: str, value: Any) -> str:
    if key == "retry":
        return _retry(value)
    if key == "timeout_s":
        return length(timedelta(seconds=value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) or value is None:
        return ", ".join(value or ()) or WHEN_NOTHING.get(key, "none")
    return str(value)


def _retry(retry: Mapping[str, Any]) -> str:
    waits = [length(timedelta(seconds=wait)) for wait in retry["schedule_s"]]
    if not waits:
        return "none: one attempt"
    return f"after {', '.join(waits)}; each ± {retry['jitter']:.0%}"
