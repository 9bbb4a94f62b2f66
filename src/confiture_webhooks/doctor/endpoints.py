"""An endpoint: the way to it, and whether its receiver can trust and read the webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

from ..adapters.http_exchange import Exchange, time_until
from ..bounded import TimedOut, bounded
from ..endpoint import Endpoint, Tls
from ..formats import FORMATS, format_of
from ..networks import Networks, origin
from ..remedy import command
from ..transport import Request
from .findings import Check, ok, skipped, warn, wrong


def signs(endpoint: Endpoint) -> Check:
    """Whether the receiver can know the sender: by a signature, headers or the address."""
    name = f"{endpoint.name}: signs"
    if endpoint.secrets:
        return ok(name, "every request is signed")
    if endpoint.basic_auth or endpoint.headers:
        return ok(name, "no secret; the receiver knows the sender by its headers")
    if FORMATS[endpoint.format].hosts or format_of(endpoint.url):
        return ok(name, "no secret; the receiver knows the sender by the address")
    return warn(name, "no secret: the receiver cannot verify the sender", "Set `secret`")


# The way

_LET_THROUGH = "Have the proxy let this host through, or name the host in NO_PROXY"
_NOT_REACHED = "The proxy does not reach that host: check `url`, and where the proxy may go"
_OF_THE_PROXY = {
    "403": _LET_THROUGH,
    **dict.fromkeys(("407", "credentials"), "Put the proxy's user and password into {proxy}"),
    **dict.fromkeys(("502", "503", "504", "not_reached"), _NOT_REACHED),
}
"""The remedies of answers that a proxy makes itself."""
_CHECK_PROXY = "Check {proxy}; NO_PROXY names hosts that are reached without it"
_ANSWER_WITHIN_S = 2.0


def try_connection(
    url: str,
    timeout: timedelta,
    *,
    tls: Tls | None = None,
    networks: Networks | None = None,
    is_export: bool = False,
) -> Exchange:
    """Ask *url*'s host for its clock, in at most about *timeout*; sends no path or credentials.

    The exchange: how far it went, and the error of the first step that failed. With a proxy,
    ``resolves`` and ``connects`` are the proxy's.

    An export of OpenTelemetry takes the proxies that ``requests`` takes, but none to this machine.
    """
    from ..adapters.http_session import EndpointSession  # noqa: PLC0415

    request = Request(
        url=f"{origin(url)}/",
        headers={"Connection": "close"},
        body=b"",
        endpoint="doctor",
        method="HEAD",
        tls=tls or Tls(),
        networks=networks or Networks(),
    )
    exchange = Exchange(request, timeout, answer_within=_ANSWER_WITHIN_S)
    session = EndpointSession(is_export=is_export)

    try:
        exchange.error_type = bounded(
            partial(session.exchange, exchange), timeout.total_seconds(), cut=exchange.cut
        )
    except TimedOut:
        exchange.error_type = "timeout"
    finally:
        session.close()
    status = str(exchange.response.status_code) if exchange.response is not None else ""
    failed = exchange.error_type
    if exchange.is_forwarded and status in _OF_THE_PROXY:
        exchange.step = exchange.error_type = "proxy"
        exchange.reason = status
    elif not status and (exchange.fault is not None or failed == "tls"):
        exchange.step = failed or exchange.step
    elif status or (exchange.step == "answers" and (is_export or failed != "protocol")):
        # A receiver may not like a HEAD; a collector may speak gRPC.
        exchange.step, exchange.error_type, exchange.reason = "answers", None, None
    return exchange


CLOCK_OFF = timedelta(seconds=60)
CLOCK_WRONG = timedelta(minutes=5)
"""Receivers refuse a timestamp that is further off."""
PATIENCE = timedelta(seconds=5)
_SECRETS = (
    "Compare `secret`, `headers` and `url` with what the receiver expects; "
    f"of requests with a secret, `{command('verify', 'FILE')}` checks a captured one"
)
_MOVED = "Redirects are not followed: write the address that it leads to into `url`"
_REMEDIES = {
    "dns": "Check the host's name in `url`, and that this machine can resolve it",
    "connection_refused": "Start the receiver, or correct host and port in `url`",
    "connection_reset": "Something on the way closes connections: check proxy and firewall",
    "timeout": "Check firewall and network; a receiver that is only slow needs a higher `timeout`",
    "tls": "Check the certificate; for a private authority set REQUESTS_CA_BUNDLE to its file",
    "other": "Check this machine's route to the host in `url`, its firewall, and `ulimit -n`",
    "protocol": "Something else than an HTTP server answers there: check the port in `url`",
    "too_slow": "Let the receiver answer first and then work, or set a higher `timeout`",
    **dict.fromkeys(("301", "302", "303", "307", "308"), _MOVED),
    **dict.fromkeys(("401", "403"), _SECRETS),
    **dict.fromkeys(("404", "405"), "Check the path in `url`"),
    "407": "A proxy answers there: correct host and port in `url`",
    "410": "The receiver is gone for good: remove the endpoint, or correct the path in `url`",
    "429": "Set `rate` to what the receiver allows",
}
_OTHER = "Read the receiver's own log, and correct what it names"
_BUNDLE = "REQUESTS_CA_BUNDLE"
_TLS = {
    "expired": (
        "the certificate has expired",
        "Renew the certificate there; when it is new, set this machine's clock",
    ),
    "not_yet_valid": (
        "the certificate is not valid yet",
        "Set this machine's clock, or wait until the certificate's first day",
    ),
    "self_signed": (
        "the certificate is signed by itself",
        f"Set {_BUNDLE} to its file, or use one of an authority that is trusted",
    ),
    "untrusted": (
        "the certificate is of an authority that is not trusted here",
        f"Set {_BUNDLE} to the authority's file, or have the whole chain sent",
    ),
    "wrong_host": (
        "the certificate is for another host",
        "Write the host into `url` that the certificate is for, or have one made for this host",
    ),
    "refused": (
        "the handshake was refused",
        "If it asks for a certificate, set `tls.client_certificate`. Else check host and TLS there",
    ),
    "old_tls": (
        "what answers there speaks no TLS version from 1.2 on",
        "Switch TLS 1.2 or 1.3 on there",
    ),
    "no_tls": (
        "what answers there does not speak TLS",
        "Check the port in `url`, and that it is meant to be https",
    ),
}


def remedy_of(failure: str, found: Exchange | None = None) -> str:
    """The remedy for an attempt that failed with *failure*, an error type or a status.

    *found*: what is known of the attempt.
    """
    if found is None:
        return _REMEDIES.get(failure, _OTHER)
    reason = found.reason or ""
    of_reason = _TLS[reason][1] if reason in _TLS else None
    if found.fault is not None:
        return found.fault.remedy
    if "_networks" in reason:
        return f"Its address is refused, {reason}. Change allow_networks or deny_networks"
    if _is_at_proxy(failure, found):
        of_reason = (of_reason or _CHECK_PROXY).replace("`url`", "{proxy}")
        of_reason = of_reason.replace(_BUNDLE, found.authority or _BUNDLE)
        other = _LET_THROUGH if reason.isdigit() else of_reason
        return _OF_THE_PROXY.get(reason, other).replace("{proxy}", found.proxy_variable)
    remedy = of_reason or _REMEDIES.get(failure, _OTHER)
    return remedy.replace(_BUNDLE, found.authority or _BUNDLE)


def _is_at_proxy(failure: str, found: Exchange) -> bool:
    is_before = found.step in ("resolves", "connects", "proxy")
    return failure == "proxy" or bool(failure == "timeout" and found.proxy_variable and is_before)


def failure_of(found: Exchange) -> tuple[str, str] | None:
    """How the way of *found* failed, and the remedy; ``None``: it did not."""
    failure, reason = found.error_type, found.reason
    if failure is None:
        return None
    symptom = _TLS[reason][0] if reason in _TLS else reason
    if found.fault is not None:
        symptom = f"{failure}, {found.fault.setting} {found.fault.problem}"
    elif _is_at_proxy(failure, found):
        is_status = (reason or "").isdigit()
        symptom = f"{reason} from the proxy" if is_status else f"{symptom or failure} (the proxy)"
    else:
        is_known = reason in _TLS or (failure == "other" and reason)
        symptom = f"{failure}, {symptom}" if is_known else failure
    return symptom, remedy_of(failure, found)


def way_to(endpoint: Endpoint) -> Iterator[Check]:
    """Each step to *endpoint*, up to the first that fails, and what the clock there says."""
    scheme = endpoint.url.partition(":")[0]
    patience = min(endpoint.timeout, PATIENCE)
    found = try_connection(endpoint.url, patience, tls=endpoint.tls, networks=endpoint.networks)
    stopped = failure_of(found)
    for step in _steps(found, scheme):
        name = f"{endpoint.name}: {step}"
        if stopped is None or found.step != step:
            is_theirs = found.proxy_variable and step in ("resolves", "connects")
            yield ok(name, "yes (the proxy)" if is_theirs else "yes")
            continue
        # A receiver may answer a bare HEAD with a 403 of its own.
        is_open = step == "proxy" and scheme == "http" and found.reason == "403"
        detail, remedy = stopped
        detail = "no" if step == "resolves" and detail == "dns" else detail
        yield (warn if is_open else wrong)(name, detail, remedy)
        break
    answer = found.response
    skew = time_until(answer.date, datetime.now(UTC)) if answer is not None else None
    if stopped is None or skew is not None:
        yield _clock(endpoint.name, skew)


def _steps(found: Exchange, scheme: str) -> list[str]:
    if found.fault is not None:
        return [found.step]  # nothing else was tried
    proxy = ["proxy"] if found.proxy_variable else []
    last = ["answers"] if found.error_type == "protocol" else []
    return ["resolves", "connects", *proxy, *(["tls"] if scheme == "https" else []), *last]


def _clock(endpoint: str, skew: timedelta | None) -> Check:
    name = f"{endpoint}: clock"
    if skew is None:
        return skipped(name, "no answer had a Date")
    off_s = round(skew.total_seconds())
    if abs(skew) < CLOCK_OFF:
        return ok(name, f"agrees with the receiver's to within {max(abs(off_s), 1)} s")
    side = "ahead of" if off_s > 0 else "behind"
    remedy = "Set this machine's clock, or the receiver's: timestamps are part of the signature"
    make = wrong if abs(skew) > CLOCK_WRONG else warn
    return make(name, f"the receiver's is {abs(off_s)} s {side} this machine's", remedy)
