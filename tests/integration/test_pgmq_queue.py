"""What of the PostgreSQL outbox somebody took away with pgmq's own means."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from confiture_webhooks.adapters.pgmq import PgmqOutbox
from confiture_webhooks.delivery import State
from contract.made import A_SECOND, DELIVERED, LEASE, NOW, attempt, delivery, event_id, retry


def test_a_queue_that_was_dropped_with_pgmq_is_made_again(database: str) -> None:
    """Nothing is lost with it: what waits is claimed when it is due, in its order, and ends."""
    with closing(PgmqOutbox(database)) as outbox:
        assert outbox.has_made
        for number in range(1, 5):
            outbox.release(event_id(number), [delivery(number)])
        first, second, _ = outbox.claim(
            "a", environment="production", now=NOW, lease=LEASE, limit=3
        )
        outbox.record(first, attempt(), DELIVERED)
        outbox.record(second, attempt(), retry(NOW + A_SECOND))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA pgmq CASCADE")
    with closing(PgmqOutbox(database)) as outbox:
        assert outbox.has_made
        outbox.release(event_id(5), [delivery(5)])
        ids = [
            [claim.delivery.id for claim in claims]
            for at in (NOW, NOW + A_SECOND)
            for claims in [
                outbox.claim("a", environment="production", now=at, lease=LEASE, limit=9)
            ]
        ]
        assert ids == [["dlv_a_3", "dlv_a_4", "dlv_a_5"], ["dlv_a_2"]]
        assert outbox.redeliver("dlv_a_1", now=NOW)
    with closing(PgmqOutbox(database)) as outbox:
        assert not outbox.has_made
        assert outbox.summary().counts == {State.PENDING: 1, State.IN_FLIGHT: 4}


def test_an_emptied_queue_is_seen_and_filled_again(project: Any, receiver: Any) -> None:
    """What waits in no queue is stuck, says status; redeliver --pending puts it there."""
    env = {"CONFITURE_WEBHOOK_OUTBOX": "postgres"}
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    with closing(PgmqOutbox(project.database_url)) as outbox:
        for number, hours in ((1, 1), (2, 0)):
            made_at = datetime.now(UTC) - timedelta(hours=hours)
            one = delivery(number, environment="local", created_at=made_at)
            outbox.release(one.event_id, [one])
    with psycopg.connect(project.database_url, autocommit=True) as connection:
        connection.execute("SELECT pgmq.purge_queue('confiture_webhooks')")
    status = project.confiture("webhooks", "status", "--format", "json", env=env)
    assert status.returncode == 1
    reason = json.loads(status.stdout)["stuck"]["a"]
    assert reason.startswith("2 waiting, and none of them in the queue")
    assert "redeliver --pending" in reason
    assert project.confiture("webhooks", "redeliver", "--pending", "--yes", env=env).returncode == 0
    assert project.confiture("webhooks", "deliver", env=env).returncode == 0
    assert [request.headers["webhook-id"] for request in receiver.requests] == [
        event_id(1),
        event_id(2),
    ]
    assert project.confiture("webhooks", "status", env=env).returncode == 0
