"""Endpoints and pings for people: everything there is, nothing cut, whatever the width."""

from __future__ import annotations

from datetime import timedelta

import pytest

from confiture_webhooks.cli.check import endpoint_facts
from confiture_webhooks.cli.send import show_pings
from confiture_webhooks.cli.tables import print_facts
from confiture_webhooks.config import Settings, redacted
from confiture_webhooks.event import SUBSCRIBABLE
from confiture_webhooks.retry import RetryPolicy
from samples import TRACE_ID, endpoint

LONG = "a-name-of-an-endpoint-that-is-as-long-as-names-of-endpoints-may-b"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 40 columns."""
    monkeypatch.setenv("COLUMNS", "40")


def test_an_endpoint_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting is on a line of its own; what is secret is a number or a name."""
    one = endpoint(
        name="a",
        url="https://a-host-with-a-long-name.department.example.com/CANARY",
        secrets=("CANARY", "CANARY2"),
        headers={"X-Team": "CANARY", "Authorization": "CANARY"},
        events=SUBSCRIBABLE,
        environments=frozenset({"staging", "production"}),
        include_sql=True,
    )
    (document,) = redacted(Settings(endpoints=(one,)))["endpoints"]
    print_facts(endpoint_facts(document), title=document["name"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "a"
    assert shown[1:] == [
        "  url: https://a-host-with-a-long-name.department.example.com/…",
        f"  events: {', '.join(sorted(kind.value for kind in SUBSCRIBABLE))}",
        "  environments: production, staging",
        "  migrations: all",
        "  format: confiture",
        "  headers: Authorization, X-Team",
        "  secrets: 2",
        "  send secret: no",
        "  include sql: yes",
        "  timeout: 10 s",
        "  retry: after 2 s, 4 s, 5 min, 30 min, 2 h, 5 h, 10 h; each ± 20%",
    ]


def test_every_fact_of_an_endpoint_is_shown() -> None:
    """Everything that ``--format json`` has of an endpoint, the text has too."""
    one = endpoint(retry=RetryPolicy(schedule=()), timeout=timedelta(seconds=90))
    (document,) = redacted(Settings(endpoints=(one,)))["endpoints"]
    facts = dict(endpoint_facts(document))
    assert len(facts) == len(document) - 1
    assert facts["retry"] == "none: one attempt"
    assert facts["environments"] == "all"
    assert facts["headers"] == "none"
    assert facts["timeout"] == "1 min 30 s"


@pytest.mark.parametrize(
    ("ended", "lines"),
    [
        (
            {"delivered": True, "status_code": 204, "error_type": None, "duration_ms": 12.5},
            [f"✅ {LONG}: delivered", "  status code: 204", "  duration ms: 12.5"],
        ),
        (
            {"delivered": False, "status_code": None, "error_type": "dns", "duration_ms": 1.0},
            [
                f"❌ {LONG}: not delivered. A test is not sent again later",
                "  error type: dns",
                "  duration ms: 1.0",
            ],
        ),
    ],
)
def test_a_ping_is_shown_whole(
    capsys: pytest.CaptureFixture[str], ended: dict[str, object], lines: list[str]
) -> None:
    """Each fact that is known, and the trace id to its last digit."""
    show_pings([{"endpoint": LONG, **ended, "trace_id": TRACE_ID}])
    assert capsys.readouterr().out.splitlines() == [*lines, f"  trace id: {TRACE_ID}"]
