"""``confiture webhooks deliver`` on an outbox that others fill: once, and as a worker."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.delivery import State
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.receiver.server import Answer
from peer import Peer
from project import Project
from samples import TRACE_ID, delivery
from usage import ticks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOUND_S = 60
"""Only a hang would make anything here take this long."""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Project]:
    """A project whose database nobody needs: a worker never talks to it."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/none")
    yield project
    project.close()


def configured(project: Project, *urls: str, **settings: Any) -> None:
    """One endpoint for each of *urls*, called a, b, …"""
    endpoints = [
        {"name": name, "url": url, **settings} for name, url in zip("abcdef", urls, strict=False)
    ]
    project.environment_file(webhooks={"endpoints": endpoints})


def database(project: Project) -> Path:
    return project.path / ".confiture" / "webhooks.db"


def release(project: Project, *numbers: int, endpoint: str = "a", ago_s: float = 0) -> None:
    """What a run of another process would leave in the project's outbox."""
    with closing(SqliteOutbox(database(project))) as outbox:
        for number in numbers:
            one = delivery(
                environment="local",
                id=f"dlv_{endpoint}_{number}",
                event_id=f"evt_{endpoint}_{number:04d}",
                endpoint=endpoint,
                created_at=datetime.now(UTC) - timedelta(seconds=ago_s),
            )
            outbox.release(one.event_id, [one])


def states(project: Project) -> list[State]:
    with closing(SqliteOutbox(database(project))) as outbox:
        return sorted(row.state for row in outbox.deliveries(limit=1000))


def eventually(is_true: Callable[[], object]) -> None:
    """*is_true* becomes so before a hang would end."""
    deadline = time.monotonic() + BOUND_S
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_true()


def read_until(lines: Any, words: str) -> str:
    """What is written up to the line that has *words*."""
    said = ""
    while words not in said:
        line = lines.readline()
        assert line, said
        said += line
    return said


def ids(receiver: LocalReceiver) -> list[str]:
    return [request.headers["webhook-id"] for request in receiver.requests]


def test_one_pass_makes_all_that_is_due_in_order(outside: Project, receiver: Any) -> None:
    """A hundred waiting deliveries go out in the order of their release, each once; exit 0."""
    configured(outside, receiver.url)
    release(outside, *range(100))
    done = outside.confiture("webhooks", "deliver", "--format", "json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert (reported["ok"], reported["delivered"], reported["left"]) == (True, 100, 0)
    assert ids(receiver) == [f"evt_a_{number:04d}" for number in range(100)]


def test_a_failure_is_reported_though_the_next_delivery_succeeds(outside: Project) -> None:
    """When one of several fails, deliver exits 1 and names the endpoint; the others are made."""
    with LocalReceiver(answers=[503]) as receiver:
        configured(outside, receiver.url)
        release(outside, 1, 2, 3)
        done = outside.confiture("webhooks", "deliver")
    assert done.returncode == 1
    assert "2 delivered, 0 dead letters, 1 left for later; a: 503" in done.stdout


@pytest.mark.survived("An endpoint that fails all the time beside one that works", "kept")
def test_an_endpoint_that_keeps_failing_does_not_spend_the_others_time(outside: Project) -> None:
    """While one endpoint refuses all, it gets a few attempts and the other gets everything."""
    with LocalReceiver(answers=[500] * 1000) as broken, LocalReceiver() as well:
        configured(outside, broken.url, well.url)
        release(outside, *range(50), endpoint="a")
        release(outside, *range(50), endpoint="b")
        done = outside.confiture("webhooks", "deliver")
        assert done.returncode == 1
        assert "a: 500, paused after 5 failures in a row; the next" in done.stdout
        assert len(well.requests) == 50
        assert len(broken.requests) == 5


def test_two_workers_share_what_is_due(outside: Project, receiver: Any) -> None:
    """Two passes at once make every delivery once."""
    configured(outside, receiver.url)
    release(outside, *range(150))
    both = [outside.spawn("webhooks", "deliver") for _ in range(2)]
    for process in both:
        process.communicate(timeout=BOUND_S)  # read: their log lines are more than a pipe holds
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(ids(receiver)) == [f"evt_a_{number:04d}" for number in range(150)]


def test_an_outbox_that_cannot_be_used_is_an_error(outside: Project, receiver: Any) -> None:
    """A worker and a check do not go on in memory: the file's fault is said, and exit is 1."""
    configured(outside, receiver.url)
    database(outside).parent.mkdir()
    database(outside).write_bytes(b"not a database" * 500)
    for command in ("deliver", "list", "status"):
        done = outside.confiture("webhooks", command)
        assert done.returncode == 1
        assert "damaged" in done.stderr
        assert "Traceback" not in done.stderr
        done = outside.confiture("webhooks", command, "--format", "json")
        assert done.returncode == 1
        assert "damaged" in json.loads(done.stdout)["error"]


def test_memory_has_nothing_for_a_worker(outside: Project, receiver: Any) -> None:
    """With the outbox in memory, a worker refuses instead of waiting for ever."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": "memory"}
    done = outside.confiture("webhooks", "deliver", "--watch", env=env)
    assert done.returncode == 1
    assert "gone with its run" in done.stderr


def test_a_worker_sees_what_others_release(outside: Project, receiver: Any) -> None:
    """deliver --watch makes what is released while it runs, and ends with exit 0 on SIGINT."""
    configured(outside, receiver.url)
    worker = outside.spawn("webhooks", "deliver", "--watch")
    eventually(database(outside).exists)
    for number in range(3):
        release(outside, number)
        eventually(lambda number=number: len(receiver.requests) == number + 1)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(BOUND_S) == 0


@pytest.mark.survived("The file is removed under a worker", "kept")
def test_a_worker_survives_the_removal_of_the_file(outside: Project, receiver: Any) -> None:
    """After ``git clean`` or the like, deliver --watch makes what the next run records."""
    configured(outside, receiver.url)
    worker = outside.spawn("webhooks", "deliver", "--watch")
    eventually(database(outside).exists)
    release(outside, 1)
    eventually(lambda: len(receiver.requests) == 1)
    shutil.rmtree(database(outside).parent)
    release(outside, 2)
    eventually(lambda: len(receiver.requests) == 2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(BOUND_S) == 0


@pytest.mark.survived("SIGTERM of a worker", "kept")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_finishes_what_is_in_hand_and_gives_the_rest_back(
    outside: Project, collector: Any, number: signal.Signals
) -> None:
    """Asked to end, it makes and records the attempt under way, nothing stays claimed, exit 0."""
    answers = [Answer()] * 6 + [Answer(delay_s=2.0)] * 100
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with LocalReceiver(answers=answers) as receiver:
        configured(outside, receiver.url)
        release(outside, *range(20))
        worker = outside.spawn("webhooks", "deliver", "--watch", env=env)
        eventually(lambda: len(receiver.requests) == 7)
        worker.send_signal(number)
        said, _ = worker.communicate(timeout=BOUND_S)
        assert worker.returncode == 0
        assert said == "7 delivered, 0 dead letters, 13 left for later; the next is due now\n"
        assert len(receiver.requests) == 7
    assert states(outside) == [State.DELIVERED] * 7 + [State.PENDING] * 13
    spans = [span for span in collector.spans if span.name == "deliver webhook a"]
    assert [span.attributes["confiture.webhook.outcome"] for span in spans] == ["delivered"] * 7


@pytest.mark.survived("SIGTERM of a single pass", "kept")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_cuts_a_single_pass_and_keeps_no_lease(
    outside: Project, collector: Any, number: signal.Signals
) -> None:
    """A CronJob at its deadline, a terminal that is gone: nothing stays claimed, the trace is sent."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with LocalReceiver(answers=["hang"]) as receiver:
        configured(outside, receiver.url)
        release(outside, 1, 2)
        one = outside.spawn("webhooks", "deliver", env=env)
        eventually(lambda: len(receiver.requests) == 1)
        one.send_signal(number)
        assert one.wait(BOUND_S) == 128 + number
    assert states(outside) == [State.PENDING] * 2
    (span,) = [span for span in collector.spans if span.name == "deliver webhook a"]
    assert span.attributes["confiture.webhook.outcome"] == "deferred"


@pytest.mark.survived("SIGKILL of a worker in mid-attempt", "kept")
def test_a_killed_workers_delivery_is_made_again_after_its_lease(outside: Project) -> None:
    """SIGKILL in mid-attempt loses nothing: once the lease is over the same event goes out."""
    with LocalReceiver(answers=["hang"]) as receiver:
        configured(outside, receiver.url)
        release(outside, 1)
        worker = outside.spawn("webhooks", "deliver", "--watch")
        eventually(lambda: len(receiver.requests) == 1)
        worker.kill()
        worker.wait(BOUND_S)
        assert outside.confiture("webhooks", "deliver").returncode == 0
        assert states(outside) == [State.IN_FLIGHT]  # its lease is not over
        now = int(datetime.now(UTC).timestamp() * 1_000_000)
        with closing(sqlite3.connect(database(outside))) as connection, connection:
            (wakes_at,) = connection.execute("SELECT wakes_at FROM deliveries").fetchone()
            connection.execute("UPDATE deliveries SET wakes_at = ?", (now - 1,))
        assert wakes_at < now + 41_000_000
        assert outside.confiture("webhooks", "deliver").returncode == 0
        assert ids(receiver) == ["evt_a_0001"] * 2
    assert states(outside) == [State.DELIVERED]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_idle_worker_costs_next_to_nothing(outside: Project, receiver: Any) -> None:
    """Over seconds with nothing to do, a worker with six endpoints uses a few percent of a core."""
    configured(outside, *[receiver.url] * 6)
    release(outside, 1)
    worker = outside.spawn("webhooks", "deliver", "--watch")
    eventually(lambda: receiver.requests)
    eventually(lambda: ticks_of(worker, seconds=2) < 20)
    worker.terminate()
    assert worker.wait(BOUND_S) == 0


def test_a_workers_telemetry_is_true(outside: Project, receiver: Any, collector: Any) -> None:
    """Deliveries continue their trace as CONSUMER and link to the pass; lag and size are true."""
    configured(outside, receiver.url, receiver.url)
    release(outside, 1, 2, ago_s=1.1)
    with closing(SqliteOutbox(database(outside))) as outbox:
        made_at = min(row.delivery.created_at for row in outbox.deliveries())
        old = delivery(
            environment="local",
            id="dlv_old",
            event_id="evt_old",
            endpoint="a",
            created_at=datetime.now(UTC) - timedelta(days=2),
        )
        outbox.release("evt_old", [old])
        unknown = delivery(
            id="dlv_x", event_id="evt_x", endpoint="x", created_at=made_at, environment="local"
        )
        outbox.release("evt_x", [unknown])
    done = outside.confiture(
        "webhooks", "deliver", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    )
    assert done.returncode == 1, done.stderr  # what waits for the unknown endpoint
    assert done.stdout.startswith(
        "3 delivered, 0 dead letters, 1 left\nx: no endpoint of that name "
    )
    (one_pass,) = [span for span in collector.spans if span.name == "drain webhook outbox"]
    assert (one_pass.parent_id, one_pass.attributes["confiture.webhook.claimed"]) == (None, 3)
    spans = {
        span.attributes["confiture.webhook.delivery_id"]: span
        for span in collector.spans
        if span.name == "deliver webhook a"
    }
    assert {span.kind for span in spans.values()} == {"CONSUMER"}
    near, far = spans["dlv_a_1"], spans["dlv_old"]
    assert (near.trace_id, near.parent_id) == (TRACE_ID, "00f067aa0ba902b7")
    assert [link.span_id for link in near.links] == [one_pass.span_id]
    assert (far.trace_id, far.parent_id) == (one_pass.trace_id, one_pass.span_id)
    assert [link.trace_id for link in far.links] == [TRACE_ID]
    lag = next(m for m in collector.metrics if m.name == "confiture.webhook.delivery.lag")
    assert lag.count == 3
    assert 2 * 86400 + 2 < lag.sum < 2 * 86400 + 2 * BOUND_S
    sizes = {
        point.attributes["confiture.webhook.state"]: point.value
        for point in collector.metrics
        if point.name == "confiture.webhook.outbox.size"
    }
    assert sizes == {"pending": 1, "dead_letter": 0}
    oldest = [m for m in collector.metrics if m.name.endswith("outbox.oldest_timestamp")]
    assert oldest[-1].value == pytest.approx(made_at.timestamp(), abs=0.001)


@pytest.mark.survived("A configuration that changes under a worker, to a wrong one too", "kept")
def test_a_watching_worker_takes_a_changed_file_over(outside: Project) -> None:
    """New addresses, secrets and endpoints are in force within seconds; a wrong file changes nothing."""
    with LocalReceiver(secret="old") as old, LocalReceiver(secret="new") as new:
        block = {"name": "a", "url": old.url, "secret": "old"}
        outside.environment_file(webhooks={"endpoints": [block]})
        release(outside, 1)
        worker = outside.spawn("webhooks", "deliver", "--watch")
        eventually(lambda: len(old.requests) == 1)
        outside.environment_file(webhooks={"endpoints": [{"name": "a", "url": "no address"}]})
        said = read_until(worker.stderr, "the one before it stays in force")
        release(outside, 2)
        eventually(lambda: len(old.requests) == 2)
        elsewhere = {"endpoints": [block], "outbox": "sqlite:/proc/none/webhooks.db"}
        outside.environment_file(webhooks=elsewhere)
        said += read_until(worker.stderr, "the one before it stays in force")
        assert "Endpoints now" not in said
        changed = {"name": "a", "url": new.url, "secret": "new"}
        outside.environment_file(webhooks={"endpoints": [changed, {**changed, "name": "b"}]})
        said += read_until(worker.stderr, "Endpoints now: a, b")
        release(outside, 3)
        eventually(lambda: len(new.requests) == 1)
        assert len(old.requests) == 2
        assert all(request.verified for request in (*old.requests, *new.requests))
        worker.terminate()
        assert "3 delivered" in worker.stdout.read()
        said += worker.stderr.read()
    assert said.count("the one before it stays in force") == 2


def test_a_receiver_that_hangs_does_not_keep_a_new_file_waiting(outside: Project) -> None:
    """Its attempt is cut, is none, and goes to the new address with the same id."""
    with Peer(lambda talk: (talk.read(), talk.hang())) as silent, LocalReceiver() as receiver:
        configured(outside, silent.url, timeout=60)
        release(outside, 1)
        worker = outside.spawn("webhooks", "deliver", "--watch")
        eventually(lambda: silent.requests)
        configured(outside, receiver.url, timeout=60)
        eventually(lambda: receiver.requests)
        worker.terminate()
        assert "1 delivered" in worker.stdout.read()
    [request] = receiver.requests
    assert request.headers["X-Confiture-Attempt"] == "1"
    assert f"webhook-id: {request.headers['webhook-id']}".encode() in silent.requests[0]


def test_one_that_was_dead_twice_is_one_dead_letter(outside: Project) -> None:
    """A worker's last line counts what is a dead letter at its end."""
    with LocalReceiver(answers=[500] * 2) as receiver:
        configured(outside, receiver.url, retry={"schedule": []})
        release(outside, 1)
        worker = outside.spawn("webhooks", "deliver", "--watch")
        eventually(lambda: states(outside) == [State.DEAD_LETTER])
        assert outside.confiture("webhooks", "redeliver", "--dead", "--later", "--yes").stdout
        eventually(lambda: len(receiver.requests) == 2 and states(outside) == [State.DEAD_LETTER])
        worker.terminate()
        assert "0 delivered, 1 dead letter, 0 left" in worker.stdout.read()


@pytest.mark.parametrize(("option", "schedule"), [("--dead", []), ("--pending", [300])])
def test_a_refused_secret_is_corrected_before_it_is_sent_again(
    one_migration: Project, option: str, schedule: list[int]
) -> None:
    """The run and redeliver say so: without that, a receiver that answers 401 does so again."""
    with LocalReceiver(answers=[401] * 2) as receiver:
        configured(one_migration, receiver.url, retry={"schedule": schedule})
        done = one_migration.confiture("migrate", "up")
        assert done.returncode == 0
        again = one_migration.confiture("webhooks", "redeliver", option, "--yes")
    for text in (done.stderr, again.stdout):
        assert "401, so correct its `secret`, `headers` or `url` first" in text


def test_a_worker_whose_outbox_is_gone_still_counts_what_it_did(outside: Project) -> None:
    """Its last line has what it delivered and what was given up, as it saw it; not what is left."""
    with LocalReceiver(answers=[500, 200]) as receiver:
        configured(outside, receiver.url, retry={"schedule": []})
        release(outside, 1, 2)
        worker = outside.spawn("webhooks", "deliver", "--watch")
        eventually(lambda: states(outside) == [State.DEAD_LETTER, State.DELIVERED])
        with closing(sqlite3.connect(database(outside))) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("DROP TABLE deliveries")
        worker.terminate()
        last = worker.stdout.read()
    assert "1 delivered, 1 dead letter, the outbox does not say how many are left; a: 500" in last


def test_a_pass_that_cannot_see_killed_runs_fails(outside: Project) -> None:
    """It delivers all the same."""
    with LocalReceiver() as receiver:
        configured(outside, receiver.url)
        release(outside, 1)
        with closing(sqlite3.connect(database(outside))) as connection:
            connection.execute("ALTER TABLE intents RENAME TO lost")
        done = outside.confiture("webhooks", "deliver")
    assert (done.returncode, len(receiver.requests)) == (1, 1)


def test_a_pass_that_cannot_count_what_is_left_says_so(outside: Project) -> None:
    """It does not say that nothing is left, to people or to programs."""
    with LocalReceiver() as receiver:
        configured(outside, receiver.url)
        release(outside, 1)
        with closing(sqlite3.connect(database(outside))) as connection:
            connection.execute("DROP TABLE endpoints")
        done = outside.confiture("webhooks", "deliver", "--format", "json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["left"]) == (1, False, None)
