"""Whether a receiver can trust an endpoint's webhooks and read them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..delivery import Delivery, TraceContext
from ..endpoint import DEFAULT_FORMAT
from ..errors import ConfigError, SignatureError
from ..event import EventType, body
from ..transport import prepare
from ..verification import verify
from ..wiring import user_agent
from .health import Check, ok, warn, wrong

if TYPE_CHECKING:
    from ..endpoint import Endpoint

_HOSTS = {
    "hooks.slack.com": "slack",
    "hooks.slack-gov.com": "slack",
    "discord.com": "discord",
    "discordapp.com": "discord",
    "webhook.office.com": "teams",
    "logic.azure.com": "teams",
    "powerplatform.com": "teams",
    "events.pagerduty.com": "pagerduty",
    "events.eu.pagerduty.com": "pagerduty",
    "api.opsgenie.com": "opsgenie",
    "api.eu.opsgenie.com": "opsgenie",
}
"""Hosts, and those below them, that read one format only."""
_SIGNED = (DEFAULT_FORMAT, "cloudevents")
"""Formats whose receivers check signatures; the others know the sender by address or key."""


def signs(endpoint: Endpoint) -> Check:
    """Whether a sample verifies, or the receiver knows the sender by other means."""
    name = f"{endpoint.name}: signs"
    if not endpoint.secrets:
        if endpoint.basic_auth or endpoint.headers:
            return ok(name, "no secret; the receiver knows the sender by its headers")
        if endpoint.format not in _SIGNED or _format_of(endpoint.url):
            return ok(name, "no secret; the receiver knows the sender by the address")
        return warn(name, "no secret: the receiver cannot verify the sender", "Set `secret`")
    at = datetime.now(UTC)
    sample = Delivery(
        id="dlv_doctor",
        event_id="evt_doctor",
        event_type=EventType.PING,
        endpoint=endpoint.name,
        body=body({"event_id": "evt_doctor", "event_type": "ping"}),
        content_type="application/json",
        trace=TraceContext(traceparent=f"00-{'1' * 32}-{'1' * 16}-01"),
        correlation_id="1" * 32,
        created_at=at,
    )
    request = prepare(endpoint, sample, attempt=1, at=at, user_agent=user_agent())
    try:
        for secret in endpoint.secrets:
            verify(
                request.headers,
                request.body,
                secret,
                require_timestamp="standard" in endpoint.signatures,
            )
    except (SignatureError, ConfigError):
        return wrong(name, "a sample does not verify", "Set another secret, and report this")
    each = "each" if len(endpoint.secrets) > 1 else "the"
    return ok(name, f"a sample verifies with {each} secret")


def address(endpoint: Endpoint) -> Iterator[Check]:
    """A warning where the host reads another format than the endpoint's."""
    wanted = _format_of(endpoint.url)
    if wanted is not None and endpoint.format == DEFAULT_FORMAT:
        problem = f"the address is {wanted}'s, which does not read the format `{DEFAULT_FORMAT}`"
        yield warn(f"{endpoint.name}: format", problem, f"Set `format: {wanted}`")


def _format_of(url: str) -> str | None:
    host = urlsplit(url).hostname or ""
    names = (format_ for known, format_ in _HOSTS.items() if f".{host}".endswith(f".{known}"))
    return next(names, None)
