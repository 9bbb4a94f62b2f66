"""What operators see: frames and questions on a terminal, plain columns and refusals in a pipe."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.delivery import Decision, Outcome
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.receiver.server import Answer
from project import Project
from samples import TRACE_ID, attempt, delivery
from terminal import on_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime.now(UTC)


def put(outbox: SqliteOutbox, number: int, outcome: Outcome, *, endpoint: str = "a") -> None:
    """A delivery made *number* days ago whose only attempt led to *outcome*."""
    made_at = NOW - timedelta(days=number)
    one = delivery(
        id=f"dlv_{number}",
        event_id=f"evt_{number}",
        endpoint=endpoint,
        created_at=made_at,
        environment="local",
    )
    outbox.release(one.event_id, [one])
    (claim,) = outbox.claim(endpoint, environment="local", now=NOW, lease=timedelta(seconds=40))
    outbox.record(claim, attempt(status_code=503), Decision(outcome=outcome))


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[Project]:
    """A project with endpoints a and b; three deliveries are dead, one is delivered."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/none")
    urls = {name: f"http://127.0.0.1:1/{name}" for name in "ab"}
    project.environment_file(
        webhooks={"endpoints": [{"name": name, "url": url} for name, url in urls.items()]}
    )
    with closing(SqliteOutbox(project.path / ".confiture" / "webhooks.db")) as outbox:
        put(outbox, 3, Outcome.DEAD_LETTER)
        put(outbox, 2, Outcome.DEAD_LETTER)
        put(outbox, 1, Outcome.DEAD_LETTER, endpoint="b")
        put(outbox, 0, Outcome.DELIVERED)
    yield project
    project.close()


def states(project: Project) -> dict[str, str]:
    with closing(SqliteOutbox(project.path / ".confiture" / "webhooks.db")) as outbox:
        return {row.delivery.id: row.state.value for row in outbox.deliveries()}


def test_a_pipe_gets_columns_and_a_terminal_a_frame(operated: Project) -> None:
    """Piped, a list is a line for each delivery, newest first; a wide terminal has a frame."""
    piped = operated.confiture("webhooks", "list")
    head, *rows = piped.stdout.splitlines()
    assert head.split()[:3] == ["ID", "EVENT", "MIGRATION"]
    assert [row.split()[0] for row in rows] == ["dlv_0", "dlv_1", "dlv_2", "dlv_3"]
    assert piped.stdout.isascii()
    assert max(map(len, piped.stdout.splitlines())) <= 140
    wide = {"COLUMNS": "240"}
    code, shown = on_terminal(operated, "webhooks", "list", "--limit", "2", env=wide)
    assert code == 0
    assert "┃" in shown
    assert "dlv_0" in shown
    assert "The newest are listed, at most 2; --limit lists more" in shown


def test_filters_narrow_the_list(operated: Project) -> None:
    """Each filter leaves what it names, newest first."""
    for filters, found in (
        (("--state", "dead_letter"), [1, 2, 3]),
        (("--endpoint", "b"), [1]),
        (("--event-type", "migration_error"), []),
        (("--since", "36h"), [0, 1]),
        (("--since", (NOW - timedelta(days=2, hours=1)).isoformat()), [0, 1, 2]),
        (("--state", "dead_letter", "--endpoint", "a", "--limit", "1"), [2]),
    ):
        done = operated.confiture("webhooks", "list", "--format", "json", *filters)
        ids = [row["id"] for row in json.loads(done.stdout)["deliveries"]]
        assert ids == [f"dlv_{number}" for number in found], filters


def test_an_empty_outbox_is_said_to_be_empty(project: Project) -> None:
    """The heads of columns alone do not say whether it was read."""
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": "http://127.0.0.1:9/"}]})
    missing = project.confiture("webhooks", "list").stderr
    assert missing.startswith("There is no outbox at")
    assert missing.count("\n") == 1
    assert project.confiture("webhooks", "disable", "a").returncode == 0
    listed = project.confiture("webhooks", "list")
    assert (listed.returncode, listed.stderr) == (0, "No delivery matches. There is none yet\n")


def test_what_cannot_be_done_is_said_in_a_line(operated: Project) -> None:
    """Unknown names, wrong dates and questions without a terminal end with a line and a code."""
    before = states(operated)
    for arguments, code, line in (
        (("list", "--endpoint", "nosuch"), 5, "endpoint: none is called 'nosuch'"),
        (
            ("list", "--environment", "nosuch"),
            0,
            "No delivery matches. There are, by environment: local 4",
        ),
        (("enable", "nosuch"), 5, "One of: a, b"),
        (("redeliver", "--dead", "--endpoint", "nosuch"), 5, "endpoint: none is called 'nosuch'"),
        (("list", "--since", "yesterday"), 2, "neither an instant"),
        (("list", "--limit", "0"), 2, "Invalid value for '--limit'"),
        (("redeliver", "dlv_0", "--endpoint", "b"), 1, "dlv_0 (not to b)"),
        (("redeliver", "evt_"), 1, "evt_ (the beginning of 4 ids)"),
        (
            ("redeliver", "dlv_0", "dlv_x"),
            1,
            "dlv_x (unknown. See `confiture webhooks list`, or `confiture webhooks status` for killed",
        ),
        (
            ("discard", "dlv_x", "dlv_x"),
            1,
            (
                "Not possible: dlv_x (unknown. See `confiture webhooks list`, or `confiture webhooks "
                "status` for killed runs). Nothing was changed"
            ),
        ),
        (("redeliver", "--dead"), 1, "Add --yes"),
        (("redeliver", "dlv_0"), 1, "Add --yes"),
    ):
        done = operated.confiture("webhooks", *arguments)
        assert done.returncode == code, arguments
        assert line in " ".join(done.stderr.replace("│", " ").split())
        assert "Traceback" not in done.stderr
        assert states(operated) == before


def test_a_terminal_is_asked(operated: Project) -> None:
    """On a terminal a redelivery is asked for: no changes nothing, yes does it."""
    code, shown = on_terminal(operated, "webhooks", "redeliver", "--dead", typed="n\n")
    assert code == 1
    assert "Redeliver 3 deliveries (local 3)? [y/N]" in shown
    assert set(states(operated).values()) == {"dead_letter", "delivered"}
    code, shown = on_terminal(
        operated, "webhooks", "redeliver", "--dead", "--later", "--endpoint", "a", typed="y\n"
    )
    assert code == 0
    assert "Due again: 2 deliveries (local 2)" in shown
    assert "Send now: `confiture webhooks deliver`" in shown
    assert states(operated) == {
        "dlv_0": "delivered",
        "dlv_1": "dead_letter",
        "dlv_2": "pending",
        "dlv_3": "pending",
    }


def test_what_is_sent_while_the_operator_is_asked_is_not_sent_twice(
    operated: Project, receiver: LocalReceiver
) -> None:
    """What another command has delivered meanwhile stays delivered."""
    again = ["webhooks", "redeliver", "--dead", "--endpoint", "a"]
    operated.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})

    def meanwhile() -> str:
        assert operated.confiture(*again, "--yes").returncode == 0
        return "y\n"

    code, shown = on_terminal(operated, *again, asked=meanwhile)
    assert (code, len(receiver.requests)) == (0, 2)
    assert "Nothing is due again: a worker has sent it, or is sending it" in shown


def test_what_changes_while_the_operator_is_asked_is_not_discarded(
    operated: Project, receiver: LocalReceiver
) -> None:
    """What was sent meanwhile stays, and is counted apart; what came meanwhile was not asked for."""
    operated.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})

    def meanwhile() -> str:
        assert operated.confiture("webhooks", "redeliver", "dlv_3", "--yes").returncode == 0
        with closing(SqliteOutbox(operated.path / ".confiture" / "webhooks.db")) as outbox:
            put(outbox, 4, Outcome.DEAD_LETTER)
        return "y\n"

    code, shown = on_terminal(operated, "webhooks", "discard", "--endpoint", "a", asked=meanwhile)
    assert (code, "Discarded 1 delivery (local 1)" in shown) == (0, True)
    assert "Not discarded, because delivered or discarded meanwhile: 1" in shown
    assert "in flight" not in shown
    left = states(operated)
    assert (left["dlv_3"], left["dlv_4"], "dlv_2" in left) == ("delivered", "dead_letter", False)


@pytest.mark.parametrize(("second", "is_dropped"), [("y\n", True), ("n\n", False)])
def test_an_outbox_that_changes_while_the_operator_is_asked_is_asked_about_again(
    operated: Project, second: str, is_dropped: bool
) -> None:
    """drop removes what it has named, or nothing."""

    def meanwhile() -> str:
        with closing(SqliteOutbox(operated.path / ".confiture" / "webhooks.db")) as outbox:
            put(outbox, 4, Outcome.DEAD_LETTER)
        return f"y\n{second}"

    code, shown = on_terminal(operated, "webhooks", "outbox", "drop", asked=meanwhile)
    assert "with 4 deliveries, 3 not delivered (local 3)?" in shown
    assert "with 5 deliveries, 4 not delivered (local 4)?" in shown
    assert (code == 0) == is_dropped
    assert (operated.path / ".confiture").exists() != is_dropped


def test_show_is_a_timeline_with_the_trace_id(operated: Project) -> None:
    """show has the event, each attempt with its distance from it, and the trace id."""
    done = operated.confiture("webhooks", "show", "dlv_3")
    assert f"trace id: {TRACE_ID}" in done.stdout
    assert "005_add_payment_table" in done.stdout
    *_, attempt, again = done.stdout.splitlines()
    assert (attempt.split()[0], again) == (
        "1",
        "Send it again: `confiture webhooks redeliver dlv_3 --yes`",
    )
    assert "100 ms" in done.stdout or "0.1 s" in done.stdout
    assert attempt.endswith("503")


def test_the_beginning_of_an_id_is_enough(operated: Project) -> None:
    """show takes the beginning of one id; of several, or of none, it says so."""
    with closing(SqliteOutbox(operated.path / ".confiture" / "webhooks.db")) as outbox:
        outbox.release("evt_x", [delivery(id="dlv_long_id", event_id="evt_x", endpoint="a")])
    done = operated.confiture("webhooks", "show", "dlv_lo", "--format", "json")
    assert json.loads(done.stdout)["id"] == "dlv_long_id"
    for given, words in (("dlv_", "5 ids begin with dlv_"), ("x", "There is no delivery x")):
        done = operated.confiture("webhooks", "show", given)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr


def test_status_shows_what_is_stuck(operated: Project) -> None:
    """Waiting for an endpoint that is not configured is stuck, and so is a delivery without a worker."""
    with closing(SqliteOutbox(operated.path / ".confiture" / "webhooks.db")) as outbox:
        for name in ("a", "x"):
            one = delivery(
                environment="local",
                id=f"dlv_{name}",
                event_id=f"evt_{name}",
                endpoint=name,
                created_at=NOW - timedelta(hours=2),
            )
            outbox.release(one.event_id, [one])
    done = operated.confiture("webhooks", "status", "--format", "json")
    shown_status = json.loads(done.stdout)
    assert (done.returncode, shown_status["ok"], shown_status["counts"]["dead_letter"]) == (
        1,
        False,
        3,
    )
    assert 7200 <= shown_status["oldest_age_s"] < 3 * 3600
    assert shown_status["stuck"]["x"] == "no endpoint of that name is configured (1 waiting)"
    assert shown_status["stuck"]["a"].startswith("due since ")
    assert "oldest: 2 h" in operated.confiture("webhooks", "status").stdout


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """Where no run has left an outbox, list and status find it empty and leave no file."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/none")
    env = {"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:1/hook"}
    assert project.confiture("webhooks", "list", env=env).returncode == 0
    assert project.confiture("webhooks", "status", env=env).returncode == 0
    assert not (project.path / ".confiture").exists()


def test_a_line_shows_how_far_a_pass_is(project: Any) -> None:
    """On a terminal deliver shows its progress; the line is wiped before the result."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    with LocalReceiver(answers=[Answer(delay_s=1.5)] * 9) as receiver:
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_LOG": "off"}
        later = {**env, "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0"}
        assert project.confiture("migrate", "up", env=later).returncode == 0
        code, shown = on_terminal(project, "webhooks", "deliver", env=env)
    assert code == 0
    line = "0 delivered, 0 attempts failed … Ctrl-C ends it"
    assert line in shown
    left_standing = shown.rpartition("\x1b[2K")[2]
    assert left_standing.strip() == "1 delivered, 0 dead letters, 0 left for later"


def test_a_line_shows_what_a_run_waits_for_and_is_gone_afterwards(project: Any) -> None:
    """On a terminal the flush is shown in one line that is wiped; in a pipe, once if it is long."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    waiting = "1 webhook to deliver"
    answers = [Answer(delay_s=1.5), Answer(), Answer(delay_s=4)]
    with LocalReceiver(answers=answers) as receiver:
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_LOG": "off"}
        code, shown = on_terminal(project, "migrate", "up", env=env)
        assert code == 0
        assert waiting in shown
        after = shown.rpartition(waiting)[2]
        assert "\x1b[2K" in after
        assert after.rpartition("\x1b[2K")[2].strip() == ""
        project.migration("002", "b", up="CREATE TABLE b (id int)", down="DROP TABLE b")
        piped = project.confiture("migrate", "up", env=env)
        assert (piped.returncode, piped.stderr) == (0, "")
        project.migration("003", "c", up="CREATE TABLE c (id int)", down="DROP TABLE c")
        piped = project.confiture("migrate", "up", env=env)
    assert piped.returncode == 0
    assert re.fullmatch(rf"confiture-webhooks: {waiting}, \d s at most\n", piped.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
@pytest.mark.parametrize("command", ["check", "list", "status", "deliver", "list --format json"])
def test_a_full_disk_under_standard_output_is_one_line(project: Any, command: str) -> None:
    """No traceback: what happened, on standard error, and exit code 1."""
    with closing(SqliteOutbox(project.path / ".confiture" / "webhooks.db")) as outbox:
        put(outbox, 1, Outcome.DELIVERED)
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": "http://127.0.0.1:9/"}]})
    with Path("/dev/full").open("w") as full:
        process = project.spawn("webhooks", *command.split(), stdout=full)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 1
    [line] = [one for one in shown.splitlines() if not one.startswith("{")]
    assert line.startswith("❌ standard output cannot be written (No space left on device)")
