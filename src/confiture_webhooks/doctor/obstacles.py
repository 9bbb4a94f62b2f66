"""What stands between this machine and an address, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from .health import Check, ok, skipped, warn, wrong

if TYPE_CHECKING:
    from ..adapters.reach import Reach
    from ..endpoint import Endpoint

CLOCK_OFF = timedelta(seconds=60)
CLOCK_WRONG = timedelta(minutes=5)
"""Receivers refuse a timestamp that is further off."""
PATIENCE = timedelta(seconds=5)
_SECRETS = "Compare the secret on both sides; `confiture webhooks verify` checks a request"
_REMEDIES = {
    "dns": "Check the host's name in `url`, and that this machine can resolve it",
    "connection_refused": "Start the receiver, or correct host and port in `url`",
    "connection_reset": "Something on the way closes connections: check proxy and firewall",
    "timeout": "Check firewall and network; a receiver that is only slow needs a higher `timeout`",
    "tls": "Check the certificate; for a private authority set REQUESTS_CA_BUNDLE to its file",
    "proxy": "Check HTTPS_PROXY; NO_PROXY names hosts that are reached without it",
    "protocol": "Something else than an HTTP server answers there: check the port in `url`",
    "401": _SECRETS,
    "403": _SECRETS,
    "404": "Check the path in `url`",
    "410": "The receiver is gone for good: remove the endpoint, or correct the path in `url`",
}
_OTHER = "Read the receiver's own log; `confiture webhooks test` tries again"
_TLS = {
    "bundle": (
        "the file of certificates that `tls` or REQUESTS_CA_BUNDLE names cannot be read",
        "Correct the setting, or unset it",
    ),
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
        "Set REQUESTS_CA_BUNDLE to its file, or use one of an authority that is trusted",
    ),
    "untrusted": (
        "the certificate is of an authority that is not trusted here",
        "Set REQUESTS_CA_BUNDLE to the authority's file, or have the whole chain sent",
    ),
    "wrong_host": (
        "the certificate is for another host",
        "Write the host into `url` that the certificate is for, or have one made for this host",
    ),
    "socks_missing": (
        "the proxy speaks SOCKS, and its package is not installed",
        "pip install 'confiture-webhooks[socks]'",
    ),
    "no_tls": (
        "what answers there does not speak TLS",
        "Check the port in `url`, and that it is meant to be https",
    ),
}


def remedy_of(reason: str) -> str:
    """What to do about an attempt that failed with *reason*, an error type or a status."""
    return _REMEDIES.get(reason, _OTHER)


def obstacle(found: Reach, scheme: str) -> tuple[str, str] | None:
    """What stopped *found* on its way to an address of *scheme*, and the remedy, if anything."""
    if found.error_type is None:
        return None
    if found.step == "proxy" and found.error_type.isdigit():
        return f"{found.error_type} from the proxy", _of_proxy(found.error_type, scheme)
    if found.is_proxied and found.step in ("resolves", "connects", "proxy"):
        remedy = f"Check {_variable(scheme)}; NO_PROXY names hosts that are reached without it"
        return f"{found.error_type} (the proxy)", remedy
    if found.reason in _TLS:
        symptom, remedy = _TLS[found.reason]
        return f"{found.error_type}, {symptom}", remedy
    if found.reason is not None and "_networks" in found.reason:
        return f"the address is refused: {found.reason}", "Change allow_networks or deny_networks"
    return found.error_type, remedy_of(found.error_type)


def _of_proxy(status: str, scheme: str) -> str:
    if status == "407":
        return f"Put the proxy's user and password into {_variable(scheme)}"
    if status in ("502", "503", "504"):
        return "The proxy does not reach that host: check `url`, and where the proxy may go"
    return "Have the proxy let this host through, or name the host in NO_PROXY"


def _variable(scheme: str) -> str:
    return f"{scheme.upper()}_PROXY"


def way_to(endpoint: Endpoint) -> Iterator[Check]:
    """Each step to *endpoint*, up to the first that fails, and what the clock there says."""
    from ..adapters.reach import reach  # noqa: PLC0415

    scheme = endpoint.url.partition(":")[0]
    patience = min(endpoint.timeout, PATIENCE)
    found = reach(endpoint.url, patience, tls=endpoint.tls, networks=endpoint.networks)
    stopped = obstacle(found, scheme)
    for step in _steps(found, scheme):
        name = f"{endpoint.name}: {step}"
        if stopped is None or found.step != step:
            is_theirs = found.is_proxied and step in ("resolves", "connects")
            yield ok(name, "yes (the proxy)" if is_theirs else "yes")
            continue
        # A receiver may answer a bare HEAD with a 403 of its own.
        is_open = step == "proxy" and scheme == "http" and found.error_type == "403"
        yield (warn if is_open else wrong)(name, *stopped)
        break
    yield _clock(endpoint.name, found.skew)


def _steps(found: Reach, scheme: str) -> list[str]:
    steps = ["resolves", "connects", *(["proxy"] if found.is_proxied else [])]
    return [*steps, "tls"] if scheme == "https" else steps


def _clock(endpoint: str, skew: timedelta | None) -> Check:
    name = f"{endpoint}: clock"
    if skew is None:
        return skipped(name, "no answer had a Date")
    off_s = round(skew.total_seconds())
    if abs(skew) < CLOCK_OFF:
        return ok(name, f"{off_s} s apart")
    side = "ahead of" if off_s > 0 else "behind"
    remedy = "Set this machine's clock, or the receiver's: timestamps are part of the signature"
    make = wrong if abs(skew) > CLOCK_WRONG else warn
    return make(name, f"the receiver's is {abs(off_s)} s {side} this machine's", remedy)
