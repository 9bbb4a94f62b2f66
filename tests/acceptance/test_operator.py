"""The operator's commands on an outbox that a real run left behind."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from confiture_webhooks.receiver import LocalReceiver


@pytest.fixture
def left_behind(project: Any, receiver: Any) -> Any:
    """A project whose run gave one delivery up: its receiver answered 503 twice."""
    receiver.script("/", [503, 503])
    project.environment_file(
        webhooks={
            "endpoints": [
                {"name": "a", "url": receiver.url, "retry": {"schedule": [0.1], "jitter": 0}}
            ],
        }
    )
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    assert project.confiture("migrate", "up").returncode == 0
    return project


def listed(project: Any, *options: str) -> list[dict[str, Any]]:
    """What ``list --format json`` says."""
    done = project.confiture("webhooks", "list", "--format", "json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["deliveries"]


def test_a_dead_letter_is_seen_shown_and_redelivered(left_behind: Any, receiver: Any) -> None:
    """list, show and status name a dead letter; redeliver and deliver send it with the same id."""
    (dead,) = listed(left_behind, "--state", "dead_letter")
    assert set(dead) == {
        "id",
        "event_id",
        "event_type",
        "endpoint",
        "environment",
        "migration_version",
        "migration_name",
        "state",
        "attempts",
        "last_answer",
        "created_at",
        "next_attempt_at",
        "correlation_id",
    }
    assert (dead["attempts"], dead["next_attempt_at"], dead["last_answer"]) == (2, None, "503")
    assert (dead["environment"], dead["migration_name"]) == ("local", "001_a")
    shown = left_behind.confiture("webhooks", "show", dead["id"], "--format", "json")
    assert [a["status_code"] for a in json.loads(shown.stdout)["timeline"]] == [503, 503]
    read = left_behind.confiture("webhooks", "show", dead["id"]).stdout
    assert read.count(dead["correlation_id"]) == 1  # as the trace's id, by which it is found
    assert left_behind.confiture("webhooks", "status").returncode == 1
    assert (
        left_behind.confiture("webhooks", "redeliver", "--dead", "--later", "--yes").returncode == 0
    )
    done = left_behind.confiture("webhooks", "deliver", "--format", "json")
    assert json.loads(done.stdout)["delivered"] == 1
    assert done.returncode == 0
    assert [row["state"] for row in listed(left_behind)] == ["delivered"]
    assert left_behind.confiture("webhooks", "status").returncode == 0
    assert {request.headers["webhook-id"] for request in receiver.requests} == {dead["event_id"]}
    assert {r.headers["X-Correlation-ID"] for r in receiver.requests} == {dead["correlation_id"]}


def test_deliver_that_fails_says_so(left_behind: Any) -> None:
    """When the receiver is still down, deliver exits 1 and the delivery stays."""
    left_behind.confiture("webhooks", "redeliver", "--dead", "--later", "--yes")
    with LocalReceiver(answers=[500]) as down:
        left_behind.environment_file(webhooks={"endpoints": [{"name": "a", "url": down.url}]})
        done = left_behind.confiture("webhooks", "deliver")
    assert done.returncode == 1
    assert "1 left for later; a: 500" in done.stdout
    assert [row["state"] for row in listed(left_behind)] == ["pending"]


def test_what_a_run_advises_can_be_pasted(project: Any) -> None:
    """A run with an environment file of another name names it in the commands that it advises."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    with LocalReceiver(answers=[500]) as receiver:
        once = {"schedule": [], "jitter": 0}
        webhooks = {"endpoints": [{"name": "a", "url": receiver.url, "retry": once}]}
        project.environment_file("nightly", webhooks=webhooks)
        words = ("--config", "db/environments/nightly.yaml")
        up = project.confiture("migrate", "up", *words)
        advised = f"`confiture webhooks redeliver --dead --endpoint a --yes {' '.join(words)}`"
        assert advised in up.stderr
        pasted = shlex.split(advised.strip("`"))[1:]
        assert "1 delivery" in project.confiture(*pasted).stdout
        assert len(receiver.requests) == 2


@pytest.mark.survived("A 410", "kept")
def test_gone_is_off_until_enabled(project: Any) -> None:
    """After a 410 the endpoint is off, which status shows; enable switches it on.

    What a 410 ended stays dead, for status too, until it is redelivered as enable says.
    """
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    with LocalReceiver(answers=[410]) as receiver:
        env = {"CONFITURE_WEBHOOK_URL": receiver.url}
        up = project.confiture("migrate", "up", env=env)
        assert "default: answered 410 and is switched off. Once it works again: " in up.stderr
        assert "`confiture webhooks enable default`" in up.stderr
        project.confiture("migrate", "down", env=env)
        ping = project.confiture("webhooks", "test", env=env)
        assert "Endpoint default is off" in ping.stderr
        assert len(receiver.requests) == 2
        status = project.confiture("webhooks", "status", "--format", "json", env=env)
        assert list(json.loads(status.stdout)["endpoints_off"]) == ["default"]
        deliver = project.confiture("webhooks", "deliver", env=env)
        assert deliver.returncode == 1
        assert deliver.stdout.startswith(
            "0 delivered, 0 dead letters, 1 left\ndefault: switched off since 20"
        )
        assert deliver.stdout.endswith(
            "Z (1 waiting). Switch it on: `confiture webhooks enable default`\n"
        )
        kept = project.confiture("webhooks", "redeliver", "--pending", "--yes", env=env)
        assert kept.returncode == 1
        first, second = kept.stdout.splitlines()
        assert "Nothing can be sent from environment local, so nothing was changed" in first
        assert second.startswith("default: switched off since ")
        assert second.endswith("Switch it on: `confiture webhooks enable default`")
        enabled = project.confiture("webhooks", "enable", "default", env=env)
        assert (enabled.returncode, enabled.stderr) == (0, "")
        assert "is on" in enabled.stdout
        assert project.confiture("webhooks", "enable", "default", env=env).returncode == 1
        assert project.confiture("webhooks", "deliver", env=env).returncode == 0
        assert len(receiver.requests) == 3
        assert project.confiture("webhooks", "status", env=env).returncode == 1
        assert enabled.stdout.splitlines()[1].startswith("Waiting deliveries: 1. Send now: ")
        words = enabled.stdout.splitlines()[2].partition("`confiture ")[2].strip("`").split()
        assert words == ["webhooks", "redeliver", "--gone", "--endpoint", "default", "--yes"]
        assert project.confiture(*words, env=env).returncode == 0
        assert len(receiver.requests) == 4
        assert project.confiture("webhooks", "status", env=env).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "dlv_nosuch"), 1),
        (("redeliver", "dlv_nosuch"), 1),
        (("redeliver",), 2),
        (("redeliver", "--dead", "--pending"), 2),
        (("discard",), 2),
        (("enable", "nosuch"), 5),
        (("list", "--state", "nosuch"), 2),
    ],
)
def test_what_is_not_there_is_refused(
    project: Any, receiver: Any, arguments: tuple[str, ...], code: int
) -> None:
    """Unknown ids and states are refused in a line, with the host's exit codes."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    done = project.confiture("webhooks", *arguments, env=env)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def document(project: Any, *words: str, code: int = 0) -> dict[str, Any]:
    """The one JSON document that a command of the operator prints."""
    done = project.confiture("webhooks", *words, "--format", "json")
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout))


def test_the_operators_commands_answer_programs(left_behind: Any) -> None:
    """redeliver, discard and enable print one document: what was done, what waits, or why not."""
    (dead,) = listed(left_behind)
    refused = document(left_behind, "redeliver", "--dead", code=1)
    assert (refused["ok"], "Add --yes" in refused["error"]) == (False, True)
    short = dead["id"][:12]
    assert document(left_behind, "redeliver", short, "--later", "--yes") == {
        "ok": True,
        "redelivered": 1,
        "environments": {"local": 1},
        "due": 1,
        "not_sent": {},
        "elsewhere": {},
    }
    left_behind.environment_file(
        webhooks={"endpoints": [{"name": "b", "url": "http://127.0.0.1:9"}]}
    )
    again = document(left_behind, "redeliver", "--pending", "--yes", code=1)
    assert (again["redelivered"], again["due"], again["not_sent"]) == (0, 0, {"a": "unknown"})
    assert "too short" in document(left_behind, "discard", dead["id"][:8], "--yes", code=1)["error"]
    gone = {
        "ok": True,
        "discarded": 1,
        "environments": {"local": 1},
        "elsewhere": {},
        "unsettled": 0,
        "under_way": 0,
    }
    assert document(left_behind, "discard", short, "--yes") == gone
    assert document(left_behind, "redeliver", "--dead", "--yes")["redelivered"] == 0
    assert document(left_behind, "enable", "b", code=1)["error"] == "Endpoint b is not off"
    assert document(left_behind, "enable", "a", code=5)["faults"][0]["setting"] == "endpoint"


def test_what_waits_is_made_now_or_dropped(project: Any, receiver: Any) -> None:
    """The closing line is true: deliver waits for the time, redeliver --pending does not."""
    receiver.script("/", [503, 503, 200])
    one = {"name": "a", "url": receiver.url, "retry": {"schedule": [600], "jitter": 0}}
    project.environment_file(webhooks={"endpoints": [one]})
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    up = project.confiture("migrate", "up")
    assert "sent by the next run when it is due, the first at" in up.stderr
    assert "`confiture webhooks redeliver --pending --yes`" in up.stderr
    waits = project.confiture("webhooks", "deliver")
    assert "0 delivered, 0 dead letters, 1 left for later; the next is due at" in waits.stdout
    assert "Unless a worker runs, send them then: `confiture webhooks deliver" in waits.stdout
    again = project.confiture("webhooks", "redeliver", "--pending", "--yes")
    assert again.stdout.splitlines()[0] == "Due again: 1 delivery (local 1)"
    assert "1 left for later; a: 503" in again.stdout
    assert again.returncode == 1
    project.environment_file(webhooks={"endpoints": [{**one, "name": "renamed"}]})
    down = project.confiture("migrate", "down")
    assert "a: 1, no endpoint of that name is configured" in down.stderr
    left = project.confiture("webhooks", "deliver")
    assert "a: no endpoint of that name is configured (1 waiting). Configure it" in left.stdout
    wrong = project.confiture("webhooks", "discard", "--endpoint", "aa", "--yes")
    assert wrong.returncode == 5
    assert "One of: renamed, a\n" in wrong.stderr
    gone = project.confiture("webhooks", "discard", "--endpoint", "a", "--yes")
    assert "Discarded 1 delivery (local 1)" in gone.stdout
    assert [row["endpoint"] for row in listed(project)] == ["renamed"]
    nothing = project.confiture("webhooks", "redeliver", "--dead", "--yes")
    assert (nothing.returncode, nothing.stdout) == (0, "Nothing to redeliver\n")


def test_redeliver_counts_what_it_was_asked_for(project: Any, receiver: Any) -> None:
    """Of the same endpoint another delivery waits for later: it is not among those left."""
    receiver.script("/", [500, 503, 200, 500])
    for number, schedule in (("001", []), ("002", [600])):
        endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": schedule}}
        project.environment_file(webhooks={"endpoints": [endpoint]})
        project.migration(number, "a", up="SELECT 1", down="SELECT 1")
        project.confiture("migrate", "up")
    assert [row["state"] for row in listed(project)] == ["pending", "dead_letter"]
    done = project.confiture("webhooks", "redeliver", "--dead", "--yes")
    assert done.stdout.splitlines()[1:] == ["1 delivered, 0 dead letters, 0 left for later"]
    assert done.returncode == 0
    again = document(project, "redeliver", "--pending", "--yes", code=1)
    assert (again["delivered"], again["left"]) == (0, 1)
    assert again["next_attempt_at"] == listed(project, "--state", "pending")[0]["next_attempt_at"]


@pytest.mark.parametrize(("answer", "schedule"), [(401, []), (403, [600])])
def test_status_repeats_what_is_to_be_corrected_first(
    project: Any, receiver: Any, answer: int, schedule: list[int]
) -> None:
    """Of a dead letter, and of a delivery that waits for its next attempt: as the run said it."""
    receiver.script("/", [answer])
    endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": schedule}}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    first = f"last answer {answer}, so correct its `secret`, `headers` or `url` first"
    assert first in project.confiture("migrate", "up").stderr
    again = f"a: {first.replace('answer', 'answer:')}. Then try it: `confiture webhooks test a`\n"
    assert again in project.confiture("webhooks", "status").stdout
    assert first.replace("answer", "answer:") in project.confiture("webhooks", "doctor").stdout
    assert document(project, "status", code=int(not schedule))["refused"] == {"a": str(answer)}
    option = "--pending" if schedule else "--dead"
    assert project.confiture("webhooks", "redeliver", option, "--yes").returncode == 0
    assert first.replace("answer", "answer:") not in project.confiture("webhooks", "status").stdout


@pytest.mark.parametrize(("answer", "state"), [(500, "dead_letter"), (410, "gone")])
def test_redeliver_fails_for_no_other_delivery(
    project: Any, receiver: Any, answer: int, state: str
) -> None:
    """Another one that is due to the same endpoint is sent, too: its failure is not this one's."""
    endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": []}, "concurrency": 1}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    receiver.script("/", [500, 500, 200, answer])
    for number in ("001", "002"):
        project.migration(number, "a", up="SELECT 1", down="SELECT 1")
        project.confiture("migrate", "up")
    other, one = (row["id"] for row in listed(project))
    document(project, "redeliver", other, "--later", "--yes")
    again = document(project, "redeliver", one, "--yes")
    assert (again["ok"], again["failures"]) == (True, {})
    assert [again[name] for name in ("delivered", "dead_letter", "gone", "left")] == [1, 0, 0, 0]
    assert [row["state"] for row in listed(project)] == [state, "delivered"]


@pytest.mark.parametrize(("schedule", "after"), [([], 200), ([], 500), ([600], 503)])
def test_status_names_no_refusal_that_is_over(
    project: Any, receiver: Any, schedule: list[int], after: int
) -> None:
    """A later answer is the last one, whatever still waits for an operator."""
    receiver.script("/", [401, after])
    for number, waits in (("001", []), ("002", schedule)):
        endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": waits}}
        project.environment_file(webhooks={"endpoints": [endpoint]})
        project.migration(number, "a", up="SELECT 1", down="SELECT 1")
        project.confiture("migrate", "up")
    assert document(project, "status", code=1)["refused"] == {}
