"""The receivers of ``examples/``, in their real frameworks, sent events by the real command."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from confiture_webhooks.signature import webhook_signature
from served import served

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ANSWERS_S = 20


def post(url: str, content: bytes, *, signed_with: str = SECRET) -> int:
    """The status a request of its own gets."""
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_own",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook_signature([signed_with], "evt_own", now, content),
        "Content-Type": "application/json",
    }
    return requests.post(url, content, headers=headers, timeout=ANSWERS_S).status_code


def is_handling(span: Any, event_type: str) -> bool:
    """Whether it is a receiver's span of an event of that type."""
    reported = span.attributes.get("confiture.webhook.event_type")
    return span.name == "handle webhook" and reported == event_type


def is_all_there(collector: Any) -> bool:
    """Whether the receiver's spans have arrived, up to that of the last request made here."""
    ends = [is_handling(span, "ping") for span in collector.spans]
    return any(ends) and any(span.name == "confiture migrate up" for span in collector.spans)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["flask", "fastapi", "django", "wsgi"])
def test_a_framework_receives(name: str, project: Any, collector: Any) -> None:
    """It handles each authentic event once, within the run's trace, and refuses the rest."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "CONFITURE_WEBHOOK_SECRET": SECRET}
    receivers = {"OTEL_SERVICE_NAME": "receiver", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    project.migration("001", "users", up="CREATE TABLE users (id int)", down="DROP TABLE users")
    with served(name, {**env, **receivers}) as receiver:
        done = project.confiture(
            "migrate", "up", env={"CONFITURE_WEBHOOK_URL": receiver.url, **env}
        )
        statuses = [
            post(receiver.url, b'{"event_type": "ping"}', signed_with="another"),
            post(receiver.url, b"[]"),
            post(receiver.url, b" " * (1024 * 1024) + b"{}"),
            post(receiver.url, b'{"event_type": "ping"}'),
            post(receiver.url, b'{"event_type": "ping"}'),
        ]
        deadline = time.monotonic() + ANSWERS_S
        while not is_all_there(collector) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert done.returncode == 0, done.stderr
    shown = [line.strip() for line in receiver.lines if line.startswith(("migration_", "ping"))]
    assert shown == ["migration_success 001_users local", "ping - -"], receiver.lines
    assert statuses[:2] == [401, 401]
    assert statuses[2] in (400, 401, 413)
    assert statuses[3:] == [200, 200]
    spans = {span.span_id: span for span in collector.spans}
    (handled,) = (span for span in spans.values() if is_handling(span, "migration_success"))
    above = [handled]
    while above[-1].parent_id in spans:
        above.append(spans[above[-1].parent_id])
    # A framework that traces itself has spans of its own between ours and the sender's.
    assert [span.name for span in above[-4:]] == [
        "POST",
        "deliver webhook default",
        "apply migration",
        "confiture migrate up",
    ]
    assert {span.trace_id for span in above} == {handled.trace_id}
