"""An endpoint of the settings that were read for it, good or bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..endpoint import Endpoint, Tls
from ..networks import Networks
from ..retry import RetryPolicy
from .block import TLS
from .reading import AT, Place, Reading
from .rules import Invalid


def endpoint(
    reading: Reading, found: Mapping[str, Any], file: Mapping[str, Any], allow_http_as: str
) -> Endpoint | None:
    """The endpoint of the settings *found*, its faults in it; ``None``: it has no good name.

    *file* has what holds for all endpoints; *allow_http_as* is how plain http is allowed here.
    """
    at: Place = found[AT]
    for keys, problem, remedy in _contradictions(found, allow_http_as):
        if not any(reading.faults_in((*at, key)) for key in keys):
            reading.fault((*at, keys[0]), Invalid(problem, remedy))
    if found["name"] is None:
        return None
    reading.names[at] = found["name"]
    url, retry = found["url"], found["retry"]
    return Endpoint(
        url=url.url if url else "",
        basic_auth=url.basic_auth if url else None,
        secrets=found["secret"],
        events=frozenset(found["events"]),
        environments=frozenset(found["environments"]) or None,
        retry=RetryPolicy(schedule=tuple(retry["schedule"]), jitter=retry["jitter"]),
        tls=Tls(**{key: found["tls"][key] for key in TLS}),
        networks=Networks(
            allowed=found["allow_networks"] or file["allow_networks"],
            denied=found["deny_networks"] or file["deny_networks"],
        ),
        faults=reading.faults_in(at),
        **{key: found[key] for key in _AS_THEY_ARE},
    )


_AS_THEY_ARE = (
    *("name", "send_secret", "headers", "signatures", "migrations", "routing_key", "format"),
    *("timeout", "concurrency", "rate", "include_sql"),
)


def _contradictions(
    found: Mapping[str, Any], allow_http_as: str
) -> Iterator[tuple[Sequence[str], str, str]]:
    """What is wrong with settings that are right each by itself: the one to change comes first."""
    url, secrets = found["url"], found["secret"]
    is_https = url is None or url.is_https
    if not (is_https or url.is_loopback or found["allow_http"]):
        remedy = f"Use https, or allow it: `{allow_http_as}`"
        yield ("url", "allow_http"), "is plain http to another machine", remedy
    if found["send_secret"] and not is_https:
        yield ("send_secret",), "needs https", "Use https, or remove `send_secret`"
    elif found["send_secret"] and not secrets:
        yield ("send_secret", "secret"), "needs a secret", "Set `secret`, or remove `send_secret`"
    elif found["send_secret"] and not _is_latin(secrets[0]):
        remedy = "Use a secret of printable Latin-1 characters, or remove `send_secret`"
        yield ("send_secret", "secret"), "needs a secret that a header can carry", remedy
    if found["format"] == "pagerduty" and not found["routing_key"]:
        remedy = "Set `routing_key` to the integration key"
        yield ("format", "routing_key"), "needs a `routing_key`", remedy
    if found["format"] != "pagerduty" and found["routing_key"]:
        remedy = "Remove it, or set that format"
        yield ("routing_key", "format"), "is only for `format: pagerduty`", remedy
    if url and url.basic_auth and "authorization" in map(str.lower, found["headers"]):
        problem = "has `Authorization`, and the URL has a user or password"
        yield ("headers",), problem, "Keep one of the two"
    files = {key for key in TLS if found["tls"][key]}
    if files and not is_https:
        yield ("tls",), "needs https", "Use https, or remove `tls`"
    if "client_key" in files and "client_certificate" not in files:
        yield ("tls",), "has a key without a certificate", "Set `client_certificate`"


def _is_latin(value: str) -> bool:
    try:
        return bool(value.encode("latin-1"))
    except UnicodeEncodeError:
        return False
