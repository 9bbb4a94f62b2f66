"""A receiver's limits and a proxy that cannot be used, on the real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from confiture_webhooks.delivery import State
from confiture_webhooks.event import rfc3339
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.receiver import LocalReceiver
from project import Project
from samples import delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

import pytest


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Project]:
    """A project whose database is not asked for anything."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/none")
    yield project
    project.close()


@pytest.mark.survived("A limit of the receiver: 429 or 503 with Retry-After", "kept")
def test_a_limit_is_the_receivers(outside: Project) -> None:
    """After 429 with Retry-After nothing is sent before; no delivery's schedule is shorter for it."""
    answers = [(429, {"Retry-After": "600"})] * 4
    with LocalReceiver(answers=answers) as receiver:
        outside.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
        outbox = SqliteOutbox(outside.path / ".confiture" / "webhooks.db")
        for number in range(20):
            one = delivery(
                environment="local",
                id=f"dlv_{number}",
                event_id=f"evt_{number}",
                correlation_id=f"{number:032x}",
                endpoint="a",
                created_at=datetime.now(UTC),
            )
            outbox.release(one.event_id, [one])
        assert outside.confiture("webhooks", "deliver").returncode == 1
        assert 1 <= len(receiver.requests) <= 4  # one for each lane, at most
        before = len(receiver.requests)
        outside.confiture("webhooks", "deliver")
        assert len(receiver.requests) == before
        tried = [row for row in outbox.deliveries() if row.attempts]
        assert {row.state for row in tried} == {State.PENDING}
        resting = outbox.statuses("local")["a"]
        assert resting.rests_until is not None
        outbox.close()
        words = f"rests until {rfc3339(resting.rests_until)}"
        assert words in outside.confiture("webhooks", "status").stdout
        assert words.partition(".")[0] in outside.confiture("webhooks", "list").stdout
        status = json.loads(outside.confiture("webhooks", "status", "--format", "json").stdout)
        assert status["endpoints_resting"] == {"a": rfc3339(resting.rests_until)}
        assert status["waits"]["a"].startswith(words)
        rows = json.loads(outside.confiture("webhooks", "list", "--format", "json").stdout)
        assert {row["rests_until"] for row in rows["deliveries"]} == {words.rsplit(maxsplit=1)[-1]}


def test_deliver_says_how_what_a_410_ended_is_sent_again(outside: Project) -> None:
    """The dead letters' command would find none."""
    with LocalReceiver(answers=[410]) as receiver:
        outside.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
        outbox = SqliteOutbox(outside.path / ".confiture" / "webhooks.db")
        one = delivery(environment="local", endpoint="a")
        outbox.release(one.event_id, [one])
        outbox.close()
        done = outside.confiture("webhooks", "deliver")
        assert done.returncode == 1
        assert "0 delivered, 0 dead letters, 1 gone, 0 left" in done.stdout
        *_, on, again = done.stdout.splitlines()
        assert on.startswith("a: switched off since ")
        printed = [line.split("`")[1].split()[1:] for line in (on, again)]
        assert [words[1] for words in printed] == ["enable", "redeliver"]
        assert "redeliver --dead" not in done.stdout
        receiver.script("/", [410, 200])
        for first in ("a: switched off since ", ""):
            assert outside.confiture(*printed[0]).returncode == 0
            again = outside.confiture(*printed[1])
            assert again.returncode == bool(first)
            assert first in again.stdout


def test_a_pass_does_not_wait_an_hour_for_its_next_turn(outside: Project) -> None:
    """It sends one, says until when the endpoint rests, and ends with 0; so does the next."""
    with LocalReceiver() as receiver:
        one = {"name": "a", "url": receiver.url, "rate": "1/h"}
        outside.environment_file(webhooks={"endpoints": [one]})
        outbox = SqliteOutbox(outside.path / ".confiture" / "webhooks.db")
        for number in range(3):
            made = delivery(
                id=f"dlv_{number}",
                event_id=f"evt_{number}",
                endpoint="a",
                environment="local",
                created_at=datetime.now(UTC),
            )
            outbox.release(made.event_id, [made])
        outbox.close()
        for sent in (1, 0):
            done = outside.confiture("webhooks", "deliver", timeout=60)
            assert done.returncode == 0, done.stdout
            assert f"{sent} delivered, 0 dead letters, 2 left for later" in done.stdout
            assert "a: rests until" in done.stdout
        assert len(receiver.requests) == 1


def test_a_limit_without_end_waits_for_an_operator(outside: Project) -> None:
    """After a day of 429 nothing is given up, and ``deliver`` and ``status`` end with 1."""
    with LocalReceiver(answers=[(429, {"Retry-After": "20"})] * 9) as receiver:
        outside.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
        outbox = SqliteOutbox(outside.path / ".confiture" / "webhooks.db")
        made_at = datetime.now(UTC) - timedelta(days=2)
        one = delivery(environment="local", endpoint="a", created_at=made_at)
        outbox.release(one.event_id, [one])
        words = "held back for over a day by its rate, or answers of 429 or 503"
        for command in ("deliver", "status"):
            done = outside.confiture("webhooks", command)
            assert (done.returncode, words in done.stdout) == (1, True), done.stdout
        status = json.loads(outside.confiture("webhooks", "status", "-f", "json").stdout)
        assert status["stuck"]["a"].startswith(words)
        assert list(status["endpoints_resting"]) == ["a"]
        (row,) = outbox.deliveries()
        assert (row.state, row.attempts) == (State.PENDING, 1)
        outbox.close()


def test_loopback_is_never_proxied(outside: Project) -> None:
    """A receiver here gets its webhook though every proxy variable names a proxy."""
    env = {f"{name}_PROXY": "http://127.0.0.1:9" for name in ("HTTP", "HTTPS", "ALL")}
    with LocalReceiver() as receiver:
        outside.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
        assert outside.confiture("webhooks", "test", env=env).returncode == 0
        assert len(receiver.requests) == 1


def test_a_proxy_of_no_known_kind_is_a_fault(outside: Project) -> None:
    """``check`` names the variable of a proxy that no webhook can pass."""
    url = "https://receiver.example/"
    outside.environment_file(webhooks={"endpoints": [{"name": "a", "url": url}]})
    done = outside.confiture(
        "webhooks", "check", "--format", "json", env={"ALL_PROXY": "gopher://a.test"}
    )
    assert done.returncode == 5
    assert "ALL_PROXY" in done.stdout + done.stderr


def test_the_answer_is_shown_on_request(outside: Project) -> None:
    """``test --show-answer`` shows how the receiver refused; what it repeats of ours is hidden."""
    repeated = ["a-long-secret-of-ours", b64encode(b"bob:pa%5word").decode(), "T0K3N", "c4n4ry="]
    refusal = f"bad field 'x', not {' '.join(repeated)} of hooks\x1b[31m".encode()
    with LocalReceiver(answers=[(422, {}, refusal)] * 9) as receiver:
        block = {
            "name": "a",
            "url": f"{receiver.url.replace('//', '//bob:pa%255word@', 1)}/hooks/T0K3N?key=c4n4ry%3D",
            "secret": "a-long-secret-of-ours",
            "retry": {"schedule": []},
        }
        outside.environment_file(webhooks={"endpoints": [block]})
        shown = outside.confiture("webhooks", "test", "--show-answer", "--format", "json")
        (result,) = json.loads(shown.stdout)["results"]
        shown_answer = "bad field 'x', not (hidden) (hidden) (hidden) (hidden) of hooks"
        assert result["answer"].startswith(shown_answer)
        text = outside.confiture("webhooks", "test", "--show-answer").stdout
        assert "bad field" in text
        assert "\x1b[31m" not in text
        assert (
            "answer"
            not in json.loads(outside.confiture("webhooks", "test", "--format", "json").stdout)[
                "results"
            ][0]
        )


@pytest.mark.survived("A clock that was ahead by days", "kept")
@pytest.mark.survived("A first attempt with the clock three days ahead", "kept")
@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs Debian's faketime")
def test_a_clock_that_was_ahead_delays_nothing(outside: Project) -> None:
    """A retry that a wrong clock put off by days is due once the clock is right, and shown so."""
    with LocalReceiver(answers=[503]) as receiver:
        block = {"name": "a", "url": receiver.url, "retry": {"schedule": [5]}}
        outside.environment_file(webhooks={"endpoints": [block]})
        outbox = SqliteOutbox(outside.path / ".confiture" / "webhooks.db")
        one = delivery(environment="local", endpoint="a")
        outbox.release(one.event_id, [one])
        library = subprocess.run(
            ["faketime", "1 day", "printenv", "LD_PRELOAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        ahead = {"LD_PRELOAD": library, "FAKETIME": "+3d"}
        assert outside.confiture("webhooks", "deliver", env=ahead).returncode == 1
        (row,) = outbox.deliveries()
        assert row.next_attempt_at is not None
        assert row.next_attempt_at > datetime.now(UTC) + timedelta(days=2)
        for words in (("list",), ("show", one.id)):
            shown = outside.confiture("webhooks", *words).stdout
            assert f"{row.next_attempt_at:%Y-%m-%dT%H:%M:%S}" not in shown
        made_ahead = delivery(
            environment="local",
            endpoint="a",
            id="dlv_ahead",
            event_id="evt_ahead",
            created_at=datetime.now(UTC) + timedelta(days=3),
        )
        outbox.release(made_ahead.event_id, [made_ahead])
        ahead = "from the future: made by a clock that was wrong: dlv_ahead"
        assert ahead in outside.confiture("webhooks", "status").stdout
        listed = json.loads(outside.confiture("webhooks", "list", "-f", "json").stdout)
        for each in listed["deliveries"]:
            assert each["next_attempt_at"] <= rfc3339(datetime.now(UTC)), each["id"]
        assert outside.confiture("webhooks", "deliver").returncode == 0
        assert [request.answer.status for request in receiver.requests] == [503, 200, 200]
        assert ahead not in outside.confiture("webhooks", "status").stdout
        outbox.close()


def test_a_delivery_of_a_clock_half_an_hour_ahead_is_shown_as_due(outside: Project) -> None:
    """Nothing has put it off, so that a worker takes it now, in whatever environment."""
    made_at = datetime.now(UTC) + timedelta(minutes=30)
    one = delivery(environment="staging", created_at=made_at)
    with closing(SqliteOutbox(outside.path / ".confiture" / "webhooks.db")) as outbox:
        outbox.release(one.event_id, [one])
    [listed] = json.loads(outside.confiture("webhooks", "list", "-f", "json").stdout)["deliveries"]
    assert listed["next_attempt_at"] <= rfc3339(datetime.now(UTC))
