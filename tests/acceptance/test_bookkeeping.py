"""Commands that write Confiture's ledger, or run migrations elsewhere, and apply none here."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from typing import Any

import psycopg
import pytest

from crashing import crash

pytestmark = pytest.mark.timeout(240)

EVERY_EVENT = [
    "migration_started",
    "migration_success",
    "migration_error",
    "migration_rollback",
    "migration_rollback_error",
    "run_success",
    "run_error",
]
OFF = {"CONFITURE_WEBHOOKS": "off"}
TABLES = {"001": "CREATE TABLE tb_a (pk_a int)", "002": "CREATE TABLE tb_b (pk_b int)"}
LEAVES_A_MARK = """
from confiture.models.migration import Migration


class Marks(Migration):
    version = "000"
    name = "marks"

    def up(self):
        with open("ran", "a") as file:
            file.write("x")

    def down(self):
        pass
"""


@pytest.fixture
def shop(project: Any, receiver: Any) -> Any:
    """A project with two migrations, its schema as DDL, and an endpoint that wants every event."""
    schema = project.path / "db" / "schema"
    schema.mkdir()
    (schema / "tables.sql").write_text("".join(f"{text};\n" for text in TABLES.values()))
    (project.path / "db" / "project.yaml").write_text("squash:\n  min_age_days: 0\n")
    for version, text in TABLES.items():
        project.migration(version, "t", up=text, down=f"DROP TABLE {text.split()[2]}")
    configure(project, receiver)
    return project


def configure(project: Any, receiver: Any, **webhooks: Any) -> None:
    """Write the environment file."""
    endpoint = {"name": "a", "url": receiver.url, "events": EVERY_EVENT, **webhooks}
    outbox = endpoint.pop("outbox", "sqlite")
    project.environment_file(
        include_dirs=["db/schema"],
        migration={"view_helpers": "off"},
        webhooks={"outbox": outbox, "endpoints": [endpoint]},
    )


def ran(project: Any, *words: str, env: dict[str, str] | None = None) -> Any:
    """Run a command that must succeed."""
    done = project.confiture(*words, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def answer(done: Any) -> tuple[int, str]:
    """Exit code and standard output, without the times."""
    return done.returncode, re.sub(r"\d+ ?ms|duration_ms\": ?\d+", "…", done.stdout)


def reported(receiver: Any) -> list[tuple[str, str | None]]:
    """Event type and version of every webhook, in order."""
    return [
        (p["event_type"], p.get("migration", {}).get("version"))
        for p in (request.payload for request in receiver.requests)
    ]


def drop_tables(project: Any) -> None:
    """Take away what the migrations made, as a restored backup may lack it."""
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute("DROP TABLE tb_a, tb_b")


def deliveries(project: Any) -> list[dict[str, Any]]:
    """What ``webhooks list`` shows."""
    done = ran(project, "webhooks", "list", "--format", "json")
    rows: list[dict[str, Any]] = json.loads(done.stdout)["deliveries"]
    return rows


def squash_by_hand(project: Any) -> None:
    """Replace the migrations by a baseline, as ``squash`` does where it has a pg_dump."""
    with psycopg.connect(project.database_url) as connection:
        rows = connection.execute("SELECT version, checksum FROM tb_confiture").fetchall()
    digest = hashlib.sha256("\n".join(sorted("\t".join(row) for row in rows)).encode()).hexdigest()
    shutil.rmtree(project.migrations)
    project.migrations.mkdir()
    header = f"-- confiture:squashed-baseline through=002 versions={len(rows)} digest={digest}\n"
    project.migration("003", "base", up=f"{header}SELECT 1;\n", down="SELECT 1")


def unsettled(project: Any) -> list[str]:
    """Why each killed run cannot be reported."""
    done = project.confiture("webhooks", "status", "--format", "json")
    return [row["why"] for row in json.loads(done.stdout)["intents"]]


@pytest.mark.survived("Ledger rows that no run wrote: baseline, reinit, squash", "true")
def test_marking_what_a_killed_run_rolled_back_makes_no_success(shop: Any, receiver: Any) -> None:
    """``baseline`` writes a row for a migration that never committed: that is reported, no success."""
    # What is in flight when a run is killed holds back that run's other deliveries for its lease.
    configure(shop, receiver, events=[one for one in EVERY_EVENT if one != "migration_started"])
    crash(shop, "before commit", "migrate", "up")
    ran(shop, "migrate", "baseline", "--through", "001")
    ran(shop, "webhooks", "deliver")
    ends = [one for one in reported(receiver) if one[0] != "migration_started"]
    assert ends == [("migration_error", "001"), ("run_error", None)]
    assert unsettled(shop) == []


@pytest.mark.survived("Ledger rows that no run wrote: baseline, reinit, squash", "true")
def test_a_ledger_written_anew_does_not_say_how_a_killed_run_ended(
    shop: Any, receiver: Any
) -> None:
    """``reinit`` drops the row of a rollback that never committed: it is not reported as done."""
    ran(shop, "migrate", "up", env=OFF)
    crash(shop, "before commit", "migrate", "down")
    ran(shop, "migrate", "reinit", "--through", "001", "--yes")
    ran(shop, "webhooks", "deliver")
    assert reported(receiver) == []
    assert unsettled(shop) == ["public.tb_confiture was made anew since"]


def test_marking_migrations_reports_nothing(shop: Any, receiver: Any) -> None:
    """No migration is reported, only the run that failed; output and exit code are the host's."""
    ran(shop, "migrate", "up", env=OFF)
    codes = []
    for words in (
        ("reinit", "--yes"),
        ("rebuild", "--yes"),  # fails: the tables are there
        ("rebuild", "--yes", "--drop-schemas", "--verify"),
    ):
        off, on = (answer(shop.confiture("migrate", *words, env=env)) for env in (OFF, {}))
        assert off == on
        codes.append(bool(on[0]))
    assert codes == [False, True, False]
    assert reported(receiver) == [("run_error", None)]


def test_squashing_replays_elsewhere_and_reports_nothing(shop: Any, receiver: Any) -> None:
    """``squash`` runs every migration in a scratch database: none of that is reported."""
    shop.python_migration("000", "marks", LEAVES_A_MARK)
    ran(shop, "migrate", "up", env=OFF)
    kept = shop.path / "kept"
    shutil.copytree(shop.migrations, kept)
    answers = []
    for env in (OFF, {}):
        shutil.rmtree(shop.migrations)
        shutil.copytree(kept, shop.migrations)
        # Where pg_dump is older than the server it fails, but after the replay.
        answers.append(answer(shop.confiture("migrate", "squash", "--through", "002", env=env)))
    assert (shop.path / "ran").read_text() == "xxx"
    assert answers[0] == answers[1]
    assert reported(receiver) == []


def test_recording_a_squashed_baseline_reports_nothing(shop: Any, receiver: Any) -> None:
    """``squash-ledger`` marks what the database has already: no migration ran."""
    ran(shop, "migrate", "up", env=OFF)
    squash_by_hand(shop)
    off = answer(ran(shop, "migrate", "squash-ledger", env=OFF))
    with psycopg.connect(shop.database_url, autocommit=True) as admin:
        assert admin.execute("DELETE FROM tb_confiture WHERE version = '003'").rowcount == 1
        admin.execute("UPDATE tb_confiture SET archived_into = NULL")
    on = answer(ran(shop, "migrate", "squash-ledger"))
    assert off == on
    assert "003" in on[1]
    assert reported(receiver) == []


def test_what_waits_outlives_a_rebuild_that_drops_no_schemas(shop: Any, receiver: Any) -> None:
    """The PostgreSQL outbox keeps its deliveries; --drop-schemas takes them, and a run makes it anew."""
    only = {"events": ["migration_success"], "retry": {"schedule": [3600, 3600]}}
    configure(shop, receiver, outbox="postgres", **only)
    receiver.script("/", [503, 503])
    ran(shop, "migrate", "up")
    before = deliveries(shop)
    assert [one["state"] for one in before] == ["pending"] * 2
    sent = len(receiver.requests)
    drop_tables(shop)
    ran(shop, "migrate", "rebuild", "--yes")
    assert deliveries(shop) == before
    ran(shop, "migrate", "rebuild", "--yes", "--drop-schemas")
    assert deliveries(shop) == []
    assert len(receiver.requests) == sent
    shop.migration("003", "t", up="CREATE TABLE tb_c (pk_c int)", down="DROP TABLE tb_c")
    ran(shop, "migrate", "up")
    assert reported(receiver)[sent:] == [("migration_success", "003")]
