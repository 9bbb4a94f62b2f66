"""Whether an address can be reached, on the way of a webhook; and the time there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..bounded import TimedOut, bounded
from ..delivery import ERROR_TYPES
from ..endpoint import Tls
from ..networks import Networks, origin
from ..telemetry.context import without_http_spans
from ..transport import Request
from .http_exchange import Exchange
from .http_session import EndpointSession, ahead

_OF_THE_PROXY = frozenset({403, 407, 502, 503, 504})
"""Answers to a plain request that a proxy makes itself."""
_ANSWER_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Reach:
    """How far it went; ``error_type`` is of the first step that failed."""

    step: str = "resolves"
    """``resolves``, ``connects``, ``proxy``, ``tls``, or ``answers`` when all went well.

    With a proxy the first two are the proxy's.
    """
    error_type: str | None = None
    """Of those a delivery can have; of step ``proxy``, the proxy's status where it answered."""
    reason: str | None = None
    """More about it, where that is known: ``expired``, ``wrong_host``, ``socks_missing``, …"""
    is_proxied: bool = False
    skew: timedelta | None = None
    """By how much the clock there is ahead, where its answer has a ``Date``."""


def reach(
    url: str,
    timeout: timedelta,
    *,
    tls: Tls | None = None,
    networks: Networks | None = None,
    is_export: bool = False,
) -> Reach:
    """Ask *url*'s host for its clock, in at most about *timeout*; sends no path or credentials.

    An export of OpenTelemetry takes the proxies that ``requests`` takes, also to this machine.
    """
    request = Request(
        url=f"{origin(url)}/",
        headers={"Connection": "close"},
        body=b"",
        endpoint="reach",
        method="HEAD",
        tls=tls or Tls(),
        networks=networks or Networks(),
    )
    exchange = Exchange(request, timeout, answer_within=_ANSWER_WITHIN_S)
    session = EndpointSession(is_export=is_export)

    def look() -> str | None:
        with without_http_spans():
            return session.exchange(exchange)

    try:
        error_type = bounded(look, timeout.total_seconds(), cut=exchange.cut)
    except TimedOut:
        error_type = "timeout"
    finally:
        session.close()
    return _found(exchange, error_type)


def _found(exchange: Exchange, error_type: str | None) -> Reach:
    answer, step, reason = exchange.response, exchange.step, exchange.reason
    is_proxied = exchange.is_proxied
    if answer is not None:
        if is_proxied and answer.status_code in _OF_THE_PROXY:
            return Reach("proxy", str(answer.status_code), is_proxied=True)
        return Reach("answers", is_proxied=is_proxied, skew=ahead(answer.date, datetime.now(UTC)))
    if error_type == "tls":
        step = "tls"
    elif step == "answers":
        return Reach(step, is_proxied=is_proxied)
    if error_type == "proxy" and reason and (reason.isdecimal() or reason in ERROR_TYPES):
        error_type, reason = reason, None
    return Reach(step, error_type, reason, is_proxied)
