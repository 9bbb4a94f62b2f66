"""The request of an attempt: every header of the contract, and none that somebody replaced."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from importlib import metadata

import pytest

from confiture_webhooks.delivery import Delivery, TraceContext
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.signature import body_signature, webhook_signature
from confiture_webhooks.transport import Request, header_text, prepare
from samples import AT, TRACE, TRACE_ID, delivery, endpoint

SECRETIVE = endpoint(secrets=("current", "previous"), send_secret=True)
SIGNED = {
    "Content-Type": "application/json",
    "User-Agent": f"Confiture/{metadata.version('fraiseql-confiture')} "
    f"confiture-webhooks/{metadata.version('confiture-webhooks')}",
    "X-Correlation-ID": TRACE_ID,
    "traceparent": TRACE.traceparent,
    "webhook-id": "evt_1",
    "webhook-timestamp": "1767968625",
    "webhook-signature": webhook_signature(["current", "previous"], "evt_1", AT, delivery().body),
    "X-Confiture-Signature": body_signature("current", delivery().body),
    "X-Confiture-Event": "migration_success",
    "X-Confiture-Delivery": "dlv_1",
    "X-Confiture-Attempt": "1",
    "X-Confiture-Secret": "current",
    "X-Migration-Version": "005",
    "X-Environment": "production",
}


def prepared(to: Endpoint, what: Delivery | None = None, *, number: int = 1) -> Request:
    """The request of attempt *number*."""
    return prepare(to, what or delivery(), attempt=number, at=AT)


def test_the_headers_are_those_of_the_contract() -> None:
    """A signed delivery carries exactly the headers of the table."""
    assert prepared(SECRETIVE).headers == SIGNED


def test_without_a_secret_nothing_is_signed() -> None:
    """Without a secret the two signatures and the secret are missing, and nothing else."""
    unsigned = set(SIGNED) - {"X-Confiture-Signature", "webhook-signature", "X-Confiture-Secret"}
    assert set(prepared(endpoint(send_secret=True)).headers) == unsigned


def test_the_secret_is_sent_only_when_asked_for() -> None:
    """Without ``send_secret`` the secret is in no header."""
    headers = prepared(endpoint(secrets=("current",))).headers
    assert "X-Confiture-Secret" not in headers
    assert "current" not in headers.values()


def test_the_secret_is_never_sent_over_plain_http() -> None:
    """Over http the secret stays here, even when it was asked for."""
    plain = endpoint(url="http://127.0.0.1:1/", secrets=("current",), send_secret=True)
    assert "X-Confiture-Secret" not in prepared(plain).headers


def test_the_body_and_the_address_are_as_given() -> None:
    """The request carries the stored bytes, the endpoint's URL and name."""
    request = prepared(endpoint())
    assert request.body == delivery().body
    assert request.url == "https://analytics.invalid/hooks/a?key=b"
    assert request.endpoint == "analytics"


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({}, {"Authorization": f"Basic {b64encode('jürgen:p:€'.encode()).decode()}"}),
        ({"authorization": "Bearer t"}, {"authorization": "Bearer t"}),
    ],
)
def test_user_and_password_are_sent_as_utf8(
    configured: dict[str, str], expected: dict[str, str]
) -> None:
    """Of the endpoint's address, unless it has an Authorization of its own."""
    headers = prepared(endpoint(basic_auth=("jürgen", "p:€"), headers=configured)).headers
    found = {name: one for name, one in headers.items() if name.lower() == "authorization"}
    assert found == expected


def test_a_later_attempt_has_its_number_and_the_same_id() -> None:
    """The event id stays over attempts; the number counts from 1, re-sends from 0."""
    first, third = prepared(endpoint()), prepared(endpoint(), number=3)
    assert third.headers["X-Confiture-Attempt"] == "3"
    assert third.headers["webhook-id"] == first.headers["webhook-id"]
    assert (first.resend_count, third.resend_count) == (0, 2)


def test_each_attempt_is_signed_as_of_its_own_time() -> None:
    """The timestamp and the signature are the attempt's, not the event's."""
    later = AT + timedelta(hours=5)
    request = prepare(SECRETIVE, delivery(), attempt=2, at=later)
    assert request.headers["webhook-timestamp"] == str(1767968625 + 5 * 3600)
    assert request.headers["webhook-signature"] == webhook_signature(
        ["current", "previous"], "evt_1", later, delivery().body
    )


def test_the_state_of_the_trace_is_sent_when_there_is_one() -> None:
    """``tracestate`` goes with ``traceparent``; baggage never does."""
    trace = TraceContext(traceparent=TRACE.traceparent, tracestate="vendor=1")
    headers = prepared(endpoint(), delivery(trace=trace)).headers
    assert headers["tracestate"] == "vendor=1"
    assert "baggage" not in {name.lower() for name in headers}


def test_what_is_not_known_has_no_header() -> None:
    """A delivery without version and environment has neither header."""
    headers = prepared(endpoint(), delivery(migration_version=None, environment=None)).headers
    assert not {"X-Migration-Version", "X-Environment"} & set(headers)


def test_a_users_headers_come_last() -> None:
    """Configured headers are sent as they are, after ours."""
    own = {"Authorization": "Bearer key", "X-Team": "payments"}
    headers = prepared(endpoint(headers=own)).headers
    assert list(headers.items())[-2:] == list(own.items())


@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
@pytest.mark.parametrize("name", SIGNED)
def test_a_users_header_replaces_none_of_ours(name: str, spell: object) -> None:
    """However it is spelled, a header of the table keeps its value and is there once."""
    spelled = spell(name)  # type: ignore[operator]
    request = prepared(endpoint(**_facts(SECRETIVE), headers={spelled: "forged"}))
    assert request.headers == SIGNED


def _facts(of: Endpoint) -> dict[str, object]:
    return {"secrets": of.secrets, "send_secret": of.send_secret}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("production", "production"),
        ("été", "\\xe9t\\xe9"),
        ("環境", "\\u74b0\\u5883"),
        ("a\r\nX-Forged: b", "a\\x0d\\x0aX-Forged: b"),
        ("tab\tdel\x7f", "tab\\x09del\\x7f"),
        ("\udce9", "\\udce9"),
        (" a b ", "a b"),
    ],
)
def test_a_headers_value_is_printable_ascii(value: str, text: str) -> None:
    """What a header cannot carry, line ends above all, is escaped, and blanks around it left out."""
    assert header_text(value) == text


def test_an_environments_name_cannot_add_a_header() -> None:
    """Line ends in an environment's name or a version make no header of their own."""
    evil = delivery(environment="a\r\nX-Forged: b", migration_version="1\n2")
    headers = prepared(endpoint(), evil).headers
    assert "X-Forged" not in headers
    assert not any("\r" in value or "\n" in value for value in headers.values())


def test_repr_shows_neither_address_nor_headers_nor_body() -> None:
    """A request's ``repr`` names its endpoint and nothing that was configured or is sent."""
    request = Request(
        url="https://canary",
        headers={"canary": "canary"},
        body=b"canary",
        endpoint="analytics",
    )
    assert "canary" not in repr(request)
    assert "analytics" in repr(request)
