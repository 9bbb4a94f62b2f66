"""Runs are seen, also those that fail before they have a migration, or even a connection."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

import forked
from project import Project

pytestmark = pytest.mark.timeout(60)
LOCK = 1751936052
NOWHERE = "postgresql://app@127.0.0.1:1/shop"
LOCAL = "db/environments/local.yaml"
OWNED = {
    "confiture.runs",
    "confiture.run.last_success_timestamp",
    "confiture.run.last_failure_timestamp",
    "confiture.webhook.outbox.size",
    "confiture.webhook.outbox.oldest_timestamp",
}
"""The metrics that are about one database."""
CUT_OFF = """
from confiture.models.migration import Migration


class CutOff(Migration):
    version = "002"
    name = "cut_off"

    def up(self):
        watched = self.connection.commit

        def commit():
            self.connection.commit = watched
            raise KeyboardInterrupt  # before anything is sent

        self.connection.commit = commit

    down = up
"""


def role_of(shop: Any) -> str:
    """A role of this test's own, which a server has for all its databases."""
    return f"{shop.database_url.rpartition('/')[2]}_deployer"


@pytest.fixture
def shop(project: Any, receiver: Any) -> Any:
    """A project with one migration and an endpoint with the default events."""
    project.migration("001", "create_users", "CREATE TABLE tb_user (pk int)", "DROP TABLE tb_user")
    webhooks: dict[str, Any] = {"endpoints": [{"name": "a", "url": receiver.url}]}
    project.environment_file(webhooks=webhooks)
    project.webhooks = webhooks
    admin = project.database_url
    yield project
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {role_of(project)}")


def sent(receiver: Any, after: int = 0) -> list[tuple[str, str | None]]:
    """Event type and class of the error of every webhook *after* so many."""
    payloads = [request.payload for request in receiver.requests[after:]]
    return [(one["event_type"], (one.get("error") or {}).get("type")) for one in payloads]


def down(shop: Any) -> None:
    shop.database_url = NOWHERE
    shop.environment_file(webhooks=shop.webhooks)


def absent(shop: Any) -> None:
    shop.database_url += "_absent"
    shop.environment_file(webhooks=shop.webhooks)


def without_rights(shop: Any) -> None:
    with psycopg.connect(shop.database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role_of(shop)} LOGIN PASSWORD 'canary'")
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    host = shop.database_url.rpartition("@")[2]
    shop.database_url = f"postgresql://{role_of(shop)}:canary@{host}"
    shop.environment_file(webhooks=shop.webhooks)


def without_rights_and_outbox(shop: Any) -> None:
    shop.webhooks["outbox"] = "postgres"
    without_rights(shop)


def changed(shop: Any) -> None:
    assert shop.confiture("migrate", "up").returncode == 0
    shop.migration("001", "create_users", "CREATE TABLE tb_user (pk bigint)", "DROP TABLE tb_user")


def twice(shop: Any) -> None:
    shop.migration("001", "create_orders", "CREATE TABLE tb_order (pk int)", "DROP TABLE tb_order")


def broken(shop: Any) -> None:
    assert shop.confiture("migrate", "up").returncode == 0
    shop.python_migration("002", "broken", "this is no Python")


def down_with_the_outbox(shop: Any) -> None:
    shop.webhooks["outbox"] = "postgres"
    down(shop)


@pytest.mark.survived(
    "A run fails before its first migration, or has no connection", "unharmed", "said"
)
@pytest.mark.parametrize(
    ("break_it", "event", "error"),
    [
        (down, "run_error", "OperationalError"),
        (down_with_the_outbox, "run_error", "OperationalError"),
        (absent, "run_error", "OperationalError"),
        (without_rights, "run_error", "InsufficientPrivilege"),
        (without_rights_and_outbox, "run_error", "InsufficientPrivilege"),
        (changed, "run_error", "ChecksumVerificationError"),
        (twice, "run_error", "exit_{code}"),
        (broken, "migration_error", "SyntaxError"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_run_that_fails_is_reported(
    shop: Any, receiver: Any, break_it: Any, event: str, error: str
) -> None:
    """One event reports it, of the migration if there is one, and the exit code is the host's."""
    break_it(shop)
    before = len(receiver.requests)
    off = shop.confiture("migrate", "up", env={"CONFITURE_WEBHOOKS": "off"})
    done = shop.confiture("migrate", "up")
    assert (done.returncode, done.stdout) == (off.returncode, off.stdout)
    assert done.returncode != 0
    assert done.stderr.count('"run.failed"') == 1
    assert sent(receiver, before)[-1] == (event, error.format(code=off.returncode))
    assert [kind for kind, _ in sent(receiver)].count("run_error") == (event == "run_error")
    payload = receiver.requests[-1].payload
    assert payload["database"]["name"]
    assert "canary" not in str(payload)


@pytest.mark.survived("The migration lock is held by somebody else", "unharmed", "said")
def test_a_lock_that_somebody_else_holds_is_reported(shop: Any, receiver: Any) -> None:
    """A lock time-out is a failed run."""
    assert shop.confiture("migrate", "up").returncode == 0
    with psycopg.connect(shop.database_url, autocommit=True) as other:
        holder = "SELECT pg_advisory_lock(%s, ('x' || substr(encode(sha256(current_database()::text::bytea), 'hex'), 1, 8))::bit(32)::int & 2147483647)"
        other.execute(holder, (LOCK,))
        done = shop.confiture("migrate", "up", "--lock-timeout", "200")
    assert done.returncode != 0
    assert sent(receiver, 1) == [("run_error", "LockAcquisitionError")]
    assert "within 0.2s" in receiver.requests[-1].payload["error"]["message"]


def test_a_command_that_changes_nothing_is_no_run(shop: Any, receiver: Any) -> None:
    """Neither status, nor help, nor a usage error, nor a dry run reports anything."""
    down(shop)
    for words in (["status"], ["up", "--help"], ["up", "--nosuch"], ["up", "--dry-run"]):
        shop.confiture("migrate", *words)
    assert sent(receiver) == []


def test_nothing_to_do_is_a_success(shop: Any, receiver: Any, collector: Any) -> None:
    """A run with nothing to do has a span that did not fail, and no event."""
    assert shop.confiture("migrate", "up").returncode == 0
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_EXPORTER": "otlp"}
    assert shop.confiture("migrate", "up", env=env).returncode == 0
    assert sent(receiver, 1) == []
    (span,) = [span for span in collector.spans if span.name == "confiture migrate up"]
    assert "error.type" not in span.attributes


def test_a_run_that_connects_unseen_names_its_database(shop: Any, collector: Any) -> None:
    """`migrate down` with nothing applied takes no lock, and its numbers have an owner."""
    assert shop.confiture("migrate", "up").returncode == 0
    assert shop.confiture("migrate", "down").returncode == 0
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    assert shop.confiture("migrate", "down", env=env).returncode == 0
    (counted,) = [point for point in collector.metrics if point.name == "confiture.runs"]
    assert counted.attributes["db.namespace"] == shop.database_url.rpartition("/")[2]


def test_libpqs_variables_name_the_owner(shop: Any, collector: Any) -> None:
    """A run without a connection, one with it, and a worker count for one database."""
    given = shop.database_url
    address, _, name = given.rpartition("/")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PGDATABASE": name}
    for url in (address, f"{address.rpartition('@')[0]}@127.0.0.1:1"):
        shop.database_url = url
        shop.environment_file(webhooks=shop.webhooks)
        shop.confiture("migrate", "up", env=env)
        shop.confiture("webhooks", "deliver", env=env)
    shop.database_url = given
    points = [point for point in collector.metrics if point.name in OWNED]
    assert {point.name for point in points} == OWNED
    assert {point.attributes.get("db.namespace") for point in points} == {name}


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (f"fix-signatures --schema s.sql --config {LOCAL}", None),
        (f"fix-signatures --schema s.sql --config {LOCAL} --mode apply", "success"),
        ("fix-signatures --schema nosuch.sql --env local --mode=apply", "failure"),
        ("verify-checksums", None),
        ("verify-checksums --fix", "success"),
        ("schema-to-schema analyze --source local --target local", None),
        (f"schema-to-schema setup --source {NOWHERE} --target local", "failure"),
    ],
)
def test_a_command_that_changes_a_database_is_a_run(
    shop: Any, receiver: Any, collector: Any, line: str, outcome: str | None
) -> None:
    """Also without a migration; the same command that only looks is none."""
    assert shop.confiture("migrate", "up").returncode == 0
    (shop.path / "s.sql").write_text("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    before = len(receiver.requests)
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    done = shop.confiture("migrate", *line.split(), env=env)
    counted = [point.attributes for point in collector.metrics if point.name == "confiture.runs"]
    assert [one["confiture.run.outcome"] for one in counted] == ([outcome] if outcome else [])
    kinds = [kind for kind, _ in sent(receiver, before)]
    assert kinds == (["run_error"] if outcome == "failure" else [])
    for one in counted:
        assert one["confiture.command"] == f"migrate {line.split(maxsplit=1)[0]}"
        assert one["db.namespace"] == shop.database_url.rpartition("/")[2]
        assert (done.returncode == 0) is (outcome == "success")


@pytest.mark.parametrize("has_address", [False, True], ids=["missing", "not read"])
def test_a_run_whose_block_is_not_read_is_counted(
    shop: Any, collector: Any, has_address: bool
) -> None:
    """Nobody is sent a webhook of it: the number is all there is."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    words = [] if has_address else ["--config", "db/environments/nosuch.yaml"]
    if has_address:
        env["CONFITURE_DATABASE_URL"] = shop.database_url
    done = shop.confiture("migrate", "up", *words, env=env)
    (counted,) = [point for point in collector.metrics if point.name == "confiture.runs"]
    outcome = counted.attributes["confiture.run.outcome"]
    assert (done.returncode == 0, outcome) == (has_address, "success" if has_address else "failure")
    assert ("run.failed" in done.stderr) is not has_address
    assert "is not used" in done.stderr


@pytest.mark.survived("SIGTERM, SIGHUP or SIGINT of a migrating run", "unharmed", "said")
@pytest.mark.parametrize(
    ("name", "code", "error"),
    [
        ("SIGINT", 130, "KeyboardInterrupt"),
        ("SIGTERM", -signal.SIGTERM, "SIGTERM"),
        ("SIGHUP", -signal.SIGHUP, "SIGHUP"),
    ],
)
def test_a_run_that_is_asked_to_end_reports_its_migration(
    shop: Any, receiver: Any, name: str, code: int, error: str
) -> None:
    """The migration under way is rolled back and reported, and the process ends as it would."""
    shop.migration("002", "wait", "SELECT pg_sleep(60)", "SELECT 1")
    process = shop.spawn("migrate", "up")
    with psycopg.connect(shop.database_url, autocommit=True) as admin:
        asked = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()"
        while admin.execute(asked).fetchone() is None:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=30)
        assert process.returncode == code
        assert admin.execute(asked).fetchone() is None
    assert sent(receiver) == [("migration_success", None), ("migration_error", error)]
    words = receiver.requests[-1].payload["error"]["message"]
    assert words == f"the command was ended by {error}"


def test_a_job_that_is_cancelled_while_a_receiver_answers_hears_the_answer(
    shop: Any, receiver: Any
) -> None:
    """The migrations are over: an answer within five seconds is no attempt that was cut."""
    receiver.script("/", ["slow"])
    process = shop.spawn("migrate", "up")
    receiver.wait_for(1, timeout=60)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    counts = json.loads(shop.confiture("webhooks", "status", "--format", "json").stdout)["counts"]
    assert counts == dict.fromkeys(counts, 0) | {"delivered": len(receiver.requests)}


def test_a_cancelled_job_has_time_for_its_last_line(shop: Any, receiver: Any) -> None:
    """Ten seconds are what ``docker stop`` and many runners give it before they kill it."""
    receiver.script("/", ["hang"] * 9)
    shop.migration("002", "wait", "SELECT pg_sleep(60)", "SELECT 1")
    process = shop.spawn("migrate", "up")
    receiver.wait_for(1, timeout=60)
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert "no answer before the run stopped waiting" in err


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_a_killed_run_is_counted_by_one_that_is_killed(
    shop: Any, collector: Any, outbox: str
) -> None:
    """Where every run is killed, each is seen as soon as the next one settles it."""
    shop.migration("002", "wait", "SELECT pg_sleep(60)", "SELECT 1")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "CONFITURE_WEBHOOK_OUTBOX": outbox}
    asked = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()"
    failed = "confiture.run.last_failure_timestamp"
    with psycopg.connect(shop.database_url, autocommit=True) as admin:
        for is_second in (False, True):
            process = shop.spawn("migrate", "up", env=env)
            if is_second:
                while failed not in {one.name for one in collector.metrics}:
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.05)
            while admin.execute(asked.replace("pg_terminate_backend(pid)", "1")).fetchone() is None:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            process.kill()
            process.communicate(timeout=30)
            assert admin.execute(asked).fetchone()
    (counted,) = [point for point in collector.metrics if point.name == "confiture.runs"]
    assert (counted.value, counted.attributes["error.type"]) == (1, "Interrupted")


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_what_the_host_commits_after_ctrl_c_is_a_success(
    shop: Any, receiver: Any, outbox: str
) -> None:
    """Confiture releases its lock with a COMMIT, also of a migration that Ctrl-C has cut off."""
    shop.python_migration("002", "cut_off", CUT_OFF)
    env = {"CONFITURE_WEBHOOK_OUTBOX": outbox}
    for way, kind in (("up", "migration_success"), ("down", "migration_rollback")):
        assert shop.confiture("migrate", way, env=env).returncode == 130
        assert sent(receiver)[-2:] == [(kind, None), ("run_error", "KeyboardInterrupt")], way


def test_a_run_in_a_directory_that_is_gone_is_reported(shop: Any, receiver: Any) -> None:
    """Its outbox lies in the user's state, as of every project that cannot be written."""
    gone = shop.path.with_name("gone")
    gone.mkdir()
    config = shop.environments / "local.yaml"
    done = forked.run(
        ["migrate", "up", "--config", str(config), "--migrations-dir", str(shop.migrations)],
        timeout=60,
        cwd=gone,
        env=shop.environ(),
        preexec_fn=gone.rmdir,
    )
    assert done.returncode == 0, done.stderr
    assert sent(receiver) == [("migration_success", None)]
    assert [*shop.home.rglob("webhooks.db")]


def test_a_failed_run_is_one_line(shop: Any) -> None:
    """The log has one run.failed with why, and the database it was about."""
    down(shop)
    done = shop.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_LOG": "json"})
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "run.failed"]
    assert (line["error_type"], line["migrations_applied"]) == ("OperationalError", 0)
    assert line["command"] == "migrate up"


def test_a_run_whose_output_is_not_read_fails_and_says_why(shop: Any, receiver: Any) -> None:
    """A closed standard output ends Confiture with 1: that is the run's failure, not a migration's."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:  # noqa: PTH123
        assert shop.spawn("migrate", "up", stdout=nobody).wait(60) == 1
    assert sent(receiver)[-1] == ("run_error", "BrokenPipeError")
    words = "standard output was closed before the command had ended"
    assert receiver.requests[-1].payload["error"]["message"] == words


def test_a_run_whose_result_cannot_be_written_fails_and_says_why(shop: Any, receiver: Any) -> None:
    """On a full disk the interpreter ends with 120: whoever reads the result would find none."""
    with Path("/dev/full").open("w") as full:
        assert shop.spawn("migrate", "up", "--format", "json", stdout=full).wait(60) == 120
    assert sent(receiver)[-1] == ("run_error", "OSError")


@pytest.mark.parametrize("has_address", [False, True], ids=["no file", "no migrations"])
def test_a_directory_that_is_no_project_stays_as_it_is(
    shop: Any, receiver: Any, tmp_path: Any, has_address: bool
) -> None:
    """The failed run is reported from memory; nothing is created, unless the outbox is named."""
    elsewhere = Project(tmp_path / "elsewhere", shop.database_url)
    shutil.rmtree(elsewhere.path / "db")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    if has_address:
        env["CONFITURE_DATABASE_URL"] = shop.database_url
    assert elsewhere.confiture("migrate", "up", env=env).returncode != 0
    assert elsewhere.confiture("webhooks", "deliver", env=env).returncode == 0
    assert [kind for kind, _ in sent(receiver)] == ["run_error"]
    assert list(elsewhere.path.iterdir()) == []
    env |= {"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:1/", "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0"}
    lost = elsewhere.confiture("migrate", "up", env=env)
    assert "Each is lost with this process" in lost.stderr
    assert "this directory is no Confiture project, so no outbox was created" in lost.stderr
    assert "OUTBOX=sqlite" not in lost.stderr
    elsewhere.confiture("migrate", "up", env={**env, "CONFITURE_WEBHOOK_OUTBOX": "sqlite"})
    assert (elsewhere.path / ".confiture" / "webhooks.db").exists()


@pytest.mark.parametrize(
    "content",
    ["database_url: [\nwebhooks: {", "database_url: {url}\nwebhooks: {endpoints: [{nme: a}]}"],
    ids=["no YAML", "no endpoint is right"],
)
def test_a_run_with_a_wrong_file_is_counted(shop: Any, collector: Any, content: str) -> None:
    """No endpoint is known, so no webhook reports it: the number and the line do."""
    file = shop.environments / "local.yaml"
    file.write_text(content.replace("{url}", shop.database_url))
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    done = shop.confiture("migrate", "up", env=env)
    outcome = "success" if done.returncode == 0 else "failure"
    (counted,) = [point for point in collector.metrics if point.name == "confiture.runs"]
    assert counted.attributes["confiture.run.outcome"] == outcome
    logged = [record.event_name for record in collector.logs]
    assert logged.count("webhooks.config_invalid") == 1
    assert ("run.failed" in logged) is (outcome == "failure")
    assert done.stderr.count("webhooks.config_invalid") == 1
    assert not (shop.path / ".confiture").exists()


@pytest.mark.parametrize(
    ("words", "variable", "has_file"),
    [((), "DATABASE_URL", False), (("-c", LOCAL), "CONFITURE_DATABASE_URL", True)],
    ids=["an address that is only there", "two addresses"],
)
def test_a_database_that_confiture_refuses_is_not_touched(
    shop: Any, receiver: Any, words: tuple[str, ...], variable: str, *, has_file: bool
) -> None:
    """Confiture would not choose it, so no outbox is made in it, and no event names it."""
    if not has_file:
        (shop.path / LOCAL).unlink()
    env = {
        variable: shop.database_url,
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": "postgres",
    }
    done = shop.confiture("migrate", "up", *words, env=env)
    assert done.returncode != 0
    with psycopg.connect(shop.database_url) as admin:
        found = admin.execute("SELECT to_regnamespace('confiture_webhooks')").fetchone()
    assert found == (None,)
    assert [request.payload["event_type"] for request in receiver.requests][:1] == ["run_error"]
    assert receiver.requests[0].payload["database"]["name"] is None
