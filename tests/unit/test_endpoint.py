"""Endpoints: what they want to receive, and what they never show."""

from __future__ import annotations

import pytest

from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import DEFAULT_SUBSCRIPTION, SUBSCRIBABLE, EventType
from samples import endpoint, event


@pytest.mark.parametrize("kind", sorted(SUBSCRIBABLE))
def test_without_a_choice_only_outcomes_are_wanted(kind: EventType) -> None:
    """An endpoint that names no events wants the four outcomes and no other."""
    assert endpoint().wants(event(type=kind)) is (kind in DEFAULT_SUBSCRIPTION)


@pytest.mark.parametrize("kind", sorted(SUBSCRIBABLE))
def test_an_endpoint_wants_exactly_what_it_names(kind: EventType) -> None:
    """An endpoint that names one event wants that one."""
    only = endpoint(events=frozenset({EventType.RUN_ERROR}))
    assert only.wants(event(type=kind)) is (kind is EventType.RUN_ERROR)


@pytest.mark.parametrize(
    ("environment", "is_wanted"), [("production", True), ("staging", False), (None, False)]
)
def test_environments_narrow_what_is_wanted(environment: str | None, is_wanted: bool) -> None:
    """With environments named, an event of another or of none is not wanted."""
    chosen = endpoint(environments=frozenset({"production"}))
    assert chosen.wants(event(environment=environment)) is is_wanted


def test_without_environments_every_one_is_wanted() -> None:
    """An endpoint that names no environments wants the events of all, and of none."""
    assert endpoint().wants(event(environment=None))
    assert endpoint().wants(event(environment="anything"))


def test_a_ping_is_always_wanted() -> None:
    """A ping goes to every endpoint, whatever it subscribed to."""
    closed = endpoint(events=frozenset(), environments=frozenset())
    assert closed.wants(event(type=EventType.PING, environment=None))


def test_repr_shows_nothing_secret() -> None:
    """Neither address, password, secret nor header value is in an endpoint's ``repr``."""
    secretive = Endpoint(
        name="analytics",
        url="https://canary.invalid/canary",
        basic_auth=("canary", "canary"),
        secrets=("canary",),
        headers={"Authorization": "canary"},
    )
    assert "canary" not in repr(secretive)
    assert "analytics" in repr(secretive)
