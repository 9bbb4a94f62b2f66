"""The PostgreSQL outbox and the rest of Confiture: schema checks, rebuilds, a role with no rights."""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import conninfo

from confiture_webhooks.outbox.sqlite import SqliteOutbox
from contract.made import intent

TABLE = "CREATE TABLE tb_order (pk_order int PRIMARY KEY)"
NO_HELPERS: dict[str, Any] = {"migration": {"view_helpers": "off"}}
"""Confiture's own helpers want a schema that the role may not create either."""
ON = {"CONFITURE_WEBHOOK_OUTBOX": "postgres"}


@pytest.fixture
def migrated(project: Any, receiver: Any) -> Any:
    """A project whose migration ran, reported over a PostgreSQL outbox in its database."""
    (project.path / "db" / "schema").mkdir()
    (project.path / "db" / "schema" / "order.sql").write_text(f"{TABLE};\n")
    project.environment_file(
        name="local",
        include_dirs=["db/schema"],
        webhooks={"outbox": "postgres", "endpoints": [{"name": "a", "url": receiver.url}]},
    )
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    assert len(receiver.requests) == 1
    return project


@pytest.mark.timeout(240)
def test_no_check_of_the_host_sees_it(migrated: Any) -> None:
    """drift finds nothing, and lint, build, status and verify do not name it."""
    config = ("--config", "db/environments/local.yaml")
    drift = migrated.confiture(
        "drift", *config, "--schema", "db/schema/order.sql", "--fail-on-warning", "--format", "json"
    )
    assert drift.returncode == 0, drift.stdout + drift.stderr
    for words in (
        ("lint", "--env", "local", "--format", "json"),
        ("build", "--env", "local"),
        ("migrate", "status", *config, "--format", "json"),
        ("migrate", "verify", *config),
    ):
        done = migrated.confiture(*words)
        assert "confiture_webhooks" not in done.stdout, words


@pytest.mark.timeout(240)
@pytest.mark.parametrize("drops", [True, False])
def test_a_rebuild_keeps_it_unless_it_drops_every_schema(migrated: Any, drops: bool) -> None:
    """--drop-schemas drops the outbox with all else, and says so; without it, the outbox stays."""
    with psycopg.connect(migrated.database_url, autocommit=True) as admin:
        if not drops:
            admin.execute("DROP TABLE tb_order")
    words = ["migrate", "rebuild", "--yes", "--config", "db/environments/local.yaml"]
    done = migrated.confiture(*words, *(["--drop-schemas"] if drops else []))
    assert done.returncode == 0, done.stdout + done.stderr
    sentence = "--drop-schemas drops the outbox, too, with all that waits in it. Send that before"
    assert (sentence in done.stderr) is drops
    with psycopg.connect(migrated.database_url, autocommit=True) as admin:
        row = admin.execute("SELECT to_regclass('confiture_webhooks.deliveries')::text").fetchone()
    assert row == (None if drops else "confiture_webhooks.deliveries",)


@pytest.mark.lowest
@pytest.mark.timeout(240)
def test_a_role_without_create_migrates_with_what_init_printed(project: Any, receiver: Any) -> None:
    """`outbox init` prints the GRANTs, and waits for slow event triggers; with them its role reports."""
    project.environment_file(
        webhooks={"outbox": "postgres", "endpoints": [{"name": "a", "url": receiver.url}]}
    )
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    admin = psycopg.connect(project.database_url, autocommit=True)
    admin.execute("DROP ROLE IF EXISTS deployer")
    admin.execute(
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.1); END $$"
    )
    admin.execute("CREATE EVENT TRIGGER slow ON ddl_command_end EXECUTE FUNCTION slow()")
    made = project.confiture("webhooks", "outbox", "init", "--format", "json")
    admin.execute("DROP EVENT TRIGGER slow")
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["created"]
    status = project.confiture("webhooks", "status", "-f", "json")
    assert document["outbox"] == json.loads(status.stdout)["outbox"]
    init = ("webhooks", "outbox", "init", "--role", "deployer")
    refused = project.confiture(*init)
    assert (refused.returncode, refused.stdout) == (1, "")  # nothing that psql could not run
    assert "the role deployer is not. Create the role, then run this again" in refused.stderr
    admin.execute("CREATE ROLE deployer LOGIN PASSWORD 'p'")
    try:
        document = json.loads(project.confiture(*init, "--format", "json").stdout)
        assert (document["created"], document["role"]) == (False, "deployer")
        assert project.confiture(*init).stdout.splitlines() == document["grants"]
        admin.execute("GRANT USAGE, CREATE ON SCHEMA public TO deployer")
        for statement in document["grants"]:
            admin.execute(statement)
        project.database_url = conninfo_url(project.database_url, "deployer", "p")
        project.environment_file(
            webhooks={"outbox": "postgres", "endpoints": [{"name": "a", "url": receiver.url}]},
            **NO_HELPERS,
        )
        done = project.confiture("migrate", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "outbox" not in done.stderr
        assert [r.headers["X-Confiture-Event"] for r in receiver.requests] == ["migration_success"]
        rows = admin.execute("SELECT state FROM confiture_webhooks.deliveries").fetchall()
        assert rows == [("delivered",)]
        refused = project.confiture("webhooks", "outbox", "drop")
        owner = admin.info.user
        assert refused.returncode == 1
        assert "Add --yes" not in refused.stderr  # nothing is asked of a role that may not
        assert f"belongs to the role {owner}. Remove it as that role: `" in refused.stderr
        assert f"=postgres:postgresql://{owner}@" in refused.stderr
    finally:
        admin.execute("DROP OWNED BY deployer CASCADE")
        admin.execute("DROP ROLE deployer")
        admin.close()


@pytest.mark.survived("A role without rights on the outbox", "unharmed", "kept", "said")
@pytest.mark.timeout(240)
def test_without_rights_the_run_goes_on_and_says_what_to_do(project: Any, receiver: Any) -> None:
    """A role that may not create the outbox migrates, delivers from memory, and names the remedy."""
    admin = psycopg.connect(project.database_url, autocommit=True)
    admin.execute("DROP ROLE IF EXISTS powerless")
    admin.execute("CREATE ROLE powerless LOGIN PASSWORD 'p'")
    try:
        admin.execute("GRANT USAGE, CREATE ON SCHEMA public TO powerless")
        server = admin.info
        place = f"{quote(server.host, safe='')}:{server.port}/{server.dbname}"
        admins = f"CONFITURE_WEBHOOK_OUTBOX=postgres:postgresql://ADMIN@{place}"
        project.database_url = conninfo_url(project.database_url, "powerless", "p")
        project.environment_file("my staging", **NO_HELPERS)
        named = ("--config", "db/environments/my staging.yaml")
        init = (
            "confiture webhooks outbox init --role powerless --environment 'my staging' "
            "--config 'db/environments/my staging.yaml'"
        )
        project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, **ON}
        predicted = project.confiture("webhooks", "doctor", *named, env=env)
        assert predicted.returncode == 1
        assert "this role may not create it" in predicted.stdout
        assert f"`{admins} {init}`" in predicted.stdout
        done = project.confiture("migrate", "up", *named, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [one.method for one in receiver.requests] == ["HEAD", "POST"]  # the doctor's look
        assert f"`{admins} {init}`" in done.stderr
        refused = project.confiture("webhooks", "outbox", "init", *named, env=env)
        assert refused.returncode == 1
        assert f"`{admins} {init}`" in refused.stderr
        name, _, outbox = admins.replace("ADMIN", server.user).partition("=")
        owner = {name: outbox, "PGPASSWORD": server.password}
        granted = project.confiture(*shlex.split(init)[1:], env=env | owner)
        assert "does not exist" not in granted.stderr
        for statement in granted.stdout.splitlines():
            admin.execute(statement)
        project.migration("002", "item", up="CREATE TABLE tb_item (id int)", down="SELECT 1")
        done = project.confiture("migrate", "up", *named, env=env)
        assert "outbox" not in done.stderr
        project.environment_file("other", **NO_HELPERS)
        other = ("--config", "db/environments/other.yaml")
        predicted = project.confiture("webhooks", "doctor", *other, env=env)
        assert predicted.returncode == 1
        assert "this role may not read or write rows of environment other" in predicted.stdout
        assert "init --role powerless --environment other --config" in predicted.stdout
        rows = admin.execute("SELECT environment, state FROM confiture_webhooks.deliveries")
        assert rows.fetchall() == [("my staging", "delivered")]
    finally:
        admin.execute("DROP OWNED BY powerless CASCADE")
        admin.execute("DROP ROLE powerless")
        admin.close()


ALSO = ("--config", "db/environments/also.yaml")
"""A second environment of a role that has ``local``."""


@pytest.fixture
def limited(project: Any, receiver: Any) -> Iterator[tuple[Any, psycopg.Connection[Any]]]:
    """A project whose role has the outbox's rows of environment local only; an administrator."""
    block = {"outbox": "postgres", "endpoints": [{"name": "a", "url": receiver.url}]}
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS limited")
        admin.execute("CREATE ROLE limited LOGIN PASSWORD 'p'")
        try:
            admin.execute("GRANT USAGE, CREATE ON SCHEMA public TO limited")
            project.environment_file("admin", webhooks=block)
            grant(project, admin, "local")
            project.database_url = conninfo_url(project.database_url, "limited", "p")
            for name in ("local", "also"):
                project.environment_file(name, webhooks=block, **NO_HELPERS)
            yield project, admin
        finally:
            admin.execute("DROP OWNED BY limited CASCADE")
            admin.execute("DROP ROLE limited")


def grant(project: Any, admin: psycopg.Connection[Any], *words: str) -> str:
    """Run what ``outbox init`` prints for environment *words*, or for all; what it says."""
    init = ["webhooks", "outbox", "init", "--role", "limited"]
    init += ["--environment", *words] if words else []
    done = project.confiture(*init, "--config", "db/environments/admin.yaml")
    assert done.returncode == 0, done.stderr
    for statement in done.stdout.splitlines():
        admin.execute(statement)
    return str(done.stderr)


@pytest.mark.survived("A role that may see no row of its environment", "kept")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("words", [("status",), ("deliver",), ("deliver", "--watch"), ("list",)])
def test_a_command_that_sees_no_row_of_its_environment_says_so(
    limited: tuple[Any, Any], words: tuple[str, ...]
) -> None:
    """It fails with the remedy, and does not count zeros."""
    project, _ = limited
    done = project.confiture("webhooks", *words, *ALSO)
    assert (done.returncode, done.stdout) == (1, "")
    assert "this role may not read or write rows of environment also. Run this" in done.stderr
    assert "init --role limited --environment also --config" in done.stderr


@pytest.mark.timeout(240)
def test_two_environments_of_a_role_do_not_take_turns(limited: tuple[Any, Any]) -> None:
    """The remedy for one keeps the other; --replace takes it away."""
    project, admin = limited
    said = grant(project, admin, "also")
    kept = "it has the rows of local, also. To take away what it had before, add --replace"
    assert kept in said
    for config in ((), ALSO):
        assert project.confiture("webhooks", "status", *config).returncode == 0
    assert "it has the rows of also\n" in grant(project, admin, "also", "--replace")
    assert project.confiture("webhooks", "status").returncode == 1


HIDDEN = """DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT polname FROM pg_policy WHERE polrelid = 'confiture_webhooks.{0}'::regclass
    LOOP EXECUTE format('DROP POLICY %I ON confiture_webhooks.{0}', one); END LOOP; END $$"""


@pytest.mark.survived(
    "A role that lacks one right on the outbox", "unharmed", "kept", "true", "said"
)
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fault", "lacks"),
    [
        ("REVOKE INSERT ON confiture_webhooks.attempts FROM limited", "INSERT on attempts"),
        ("REVOKE INSERT ON confiture_webhooks.released FROM limited", "INSERT on released"),
        ("REVOKE DELETE ON confiture_webhooks.intents FROM limited", "DELETE on intents"),
        ("REVOKE SELECT ON confiture_webhooks.bodies FROM limited", "SELECT on bodies"),
        (HIDDEN.format("attempts"), "use rows on attempts"),
        (HIDDEN.format("released"), "use rows on released"),
    ],
)
def test_an_outbox_that_a_role_may_use_in_part_is_not_used(
    limited: tuple[Any, Any], receiver: Any, fault: str, lacks: str
) -> None:
    """Else a webhook is sent twice, or a run counts as killed. Every command names the right."""
    project, admin = limited
    admin.execute(fault)
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    problem = f"this role has no right to {lacks}"
    assert problem in done.stderr
    assert "init --role limited --environment local" in done.stderr
    for word in ("status", "deliver", "doctor"):
        found = project.confiture("webhooks", word)
        assert found.returncode == 1
        assert problem in found.stdout + found.stderr
    grant(project, admin, "local")
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert project.confiture("webhooks", "status").returncode == 0
    sent = [one.headers["X-Confiture-Event"] for one in receiver.requests if one.method == "POST"]
    assert sent == ["migration_success"]


@pytest.mark.timeout(240)
def test_a_role_that_may_delete_nothing_old_uses_the_outbox(
    limited: tuple[Any, Any], receiver: Any
) -> None:
    """Its run keeps and sends its events; the doctor names the rights, and how to give them."""
    project, admin = limited
    for table in ("released", "deliveries", "endpoints"):
        admin.execute(f"REVOKE DELETE ON confiture_webhooks.{table} FROM limited")
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    done = project.confiture("migrate", "up")
    assert "outbox" not in done.stderr
    rows = admin.execute("SELECT state FROM confiture_webhooks.deliveries").fetchall()
    assert rows == [("delivered",)]
    assert project.confiture("webhooks", "deliver").stderr == ""
    found = project.confiture("webhooks", "doctor")
    lacks = "this role has no right to DELETE on deliveries, endpoints, released, so nothing old is"
    assert (found.returncode, lacks in found.stdout) == (0, True)
    assert "init --role limited --environment local" in found.stdout
    grant(project, admin, "local")
    assert "has no right" not in project.confiture("webhooks", "doctor").stdout


@pytest.mark.timeout(240)
@pytest.mark.parametrize("words", [("migrate", "up"), ("webhooks", "deliver")])
def test_a_right_that_goes_under_an_attempt_is_no_other_workers_fault(
    limited: tuple[Any, Any], receiver: Any, words: tuple[str, ...]
) -> None:
    """The receiver has it, and the outbox could not record that."""
    project, admin = limited
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    if words[0] == "webhooks":
        receiver.script("/", ["hang"])
        env = {"CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0"}
        assert project.confiture("migrate", "up", env=env).returncode == 0
    receiver.script("/", ["slow"])
    before = len(receiver.requests)
    command = project.spawn(*words)
    until = time.monotonic() + 60
    while len(receiver.requests) == before:
        assert time.monotonic() < until
        time.sleep(0.01)
    admin.execute("REVOKE INSERT ON confiture_webhooks.attempts FROM limited")
    said = "".join(command.communicate(timeout=60))
    count = "1, " if words[0] == "migrate" else ""
    assert f"a: {count}the outbox could not record the outcome" in said
    assert "Another worker" not in said


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("had", "fault"),
    [
        ([[]], "REVOKE INSERT ON confiture_webhooks.attempts FROM limited"),
        ([["local"], ["also"]], HIDDEN.format("deliveries")),
    ],
)
def test_the_remedy_of_a_missing_right_takes_none_away(
    limited: tuple[Any, Any], had: list[list[str]], fault: str
) -> None:
    """It names one environment. A role that had all, or others too, keeps them."""
    project, admin = limited
    for words in had:
        grant(project, admin, *words, *(["--replace"] if words == ["local"] else []))
    admin.execute(fault)
    refused = project.confiture("webhooks", "status").stderr
    assert "outbox init --role limited --environment local`" in refused
    said = grant(project, admin, "local")
    assert f"it has the rows of {'every environment' if had == [[]] else 'local, also'}. " in said
    for config in ((), ALSO):
        assert project.confiture("webhooks", "status", *config).returncode == 0


@pytest.mark.timeout(240)
def test_who_must_create_the_outbox_is_said(limited: tuple[Any, Any]) -> None:
    """status and list promise nothing to a role whose run may not create it."""
    project, admin = limited
    admin.execute("DROP SCHEMA confiture_webhooks CASCADE")
    for word in ("status", "list"):
        done = project.confiture("webhooks", word)
        assert "and this role may not create it. Run this once as an administrator" in done.stderr
        assert "`confiture migrate up` that has" not in done.stderr


@pytest.mark.timeout(240)
def test_who_may_not_create_the_outbox_is_shown_the_command_that_was_given(
    limited: tuple[Any, Any],
) -> None:
    """For the role that it names, not for the one that tried."""
    project, admin = limited
    admin.execute("DROP SCHEMA confiture_webhooks CASCADE")
    options = ("--role", "deployer", "--environment", "a", "--environment", "b")
    refused = project.confiture("webhooks", "outbox", "init", *options)
    assert refused.returncode == 1
    assert f"confiture webhooks outbox init {' '.join(options)}`" in refused.stderr


@pytest.mark.survived("Deliveries in the SQLite outbox when the setting changes", "kept", "said")
def test_what_waits_in_the_outbox_before_is_named(project: Any, receiver: Any) -> None:
    """status and doctor name the command that sends it, and leave the file alone; a run does not."""
    receiver.script("/", [503, 503])
    for name in ("local", "also"):
        endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": [0.1, 300]}}
        project.environment_file(name, webhooks={"endpoints": [endpoint]})
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    assert project.confiture("migrate", "up").returncode == 0
    before = files(project)
    again = "CONFITURE_WEBHOOK_OUTBOX=sqlite confiture webhooks redeliver --pending --yes"
    assert project.confiture("webhooks", "status").returncode == 0
    for word in ("status", "doctor"):
        for config, file, code in (((), "", 1), (ALSO, " --config db/environments/local.yaml", 0)):
            found = project.confiture("webhooks", word, *config, env=ON)
            assert found.returncode == code  # another environment may still use the file
            assert "SQLite outbox of local: 1 delivery waits in it, and it is not" in found.stdout
            assert f"Send it: `{again}{file}`" in found.stdout
    other = {"CONFITURE_WEBHOOK_OUTBOX": "sqlite:elsewhere/other.db"}
    assert again in project.confiture("webhooks", "status", env=other).stdout
    assert project.confiture("migrate", "up", env=ON).returncode == 0
    assert files(project) == before
    variable, _, *words = again.split()
    assert project.confiture(*words, env=dict([variable.split("=")])).returncode == 0
    assert project.confiture("webhooks", "status", env=ON).returncode == 0


@pytest.mark.survived("Deliveries in the SQLite outbox when the setting changes", "kept", "said")
@pytest.mark.timeout(240)
def test_a_run_that_was_killed_before_the_switch_is_named(project: Any, receiver: Any) -> None:
    """Its end was not reported yet, and no run that follows opens the file."""
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    assert project.confiture("migrate", "up").returncode == 0
    with closing(SqliteOutbox(project.path / ".confiture" / "webhooks.db")) as outbox:
        outbox.stage(replace(intent(1), environment="local", committed=None))
    found = project.confiture("webhooks", "status", env=ON)
    assert found.returncode == 1
    assert "SQLite outbox of local: 1 killed run waits in it" in found.stdout
    report = "Report it: `CONFITURE_WEBHOOK_OUTBOX=sqlite confiture webhooks deliver`"
    assert report in found.stdout


def test_a_run_that_may_be_under_way_with_the_other_outbox_is_no_fault(
    project: Any, receiver: Any
) -> None:
    """It is named with the command that reports it, should it have been killed."""
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    project.migration("001", "order", up=TABLE, down="DROP TABLE tb_order")
    assert project.confiture("migrate", "up").returncode == 0
    fresh = replace(intent(1), environment="local", staged_at=datetime.now(UTC), committed=None)
    with closing(SqliteOutbox(project.path / ".confiture" / "webhooks.db")) as outbox:
        outbox.stage(fresh)
    found = project.confiture("webhooks", "status", env=ON)
    assert found.returncode == 0, found.stdout
    assert "SQLite outbox of local: 1 run is under way, or was killed. Report" in found.stdout


@pytest.mark.survived("Deliveries in the SQLite outbox when the setting changes", "said")
@pytest.mark.parametrize(
    ("before", "after", "name", "code"),
    [("sqlite", "postgres", "SQLite", 1), ("postgres", "sqlite", "PostgreSQL", 0)],
)
def test_what_failed_in_the_outbox_before_is_named(
    project: Any, receiver: Any, before: str, after: str, name: str, code: int
) -> None:
    """With its commands. Others may use an outbox in the database: it is no fault of this one."""
    receiver.script("/", [503, 410])
    endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": []}}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    for number in ("001", "002"):
        project.migration(number, "order", up="SELECT 1", down="SELECT 1")
    used = {"CONFITURE_WEBHOOK_OUTBOX": before}
    assert project.confiture("migrate", "up", env=used).returncode == 0
    again = f"Send it: `CONFITURE_WEBHOOK_OUTBOX={before} confiture webhooks redeliver"
    env = {"CONFITURE_WEBHOOK_OUTBOX": after}
    for word in ("status", "doctor"):
        found = project.confiture("webhooks", word, env=env)
        assert found.returncode == code
        assert (
            f"{name} outbox of local: 1 dead letter is in it, and it is not in use" in found.stdout
        )
        assert f"{name} outbox of local: 1 delivery with a 410 is in it, " in found.stdout
        assert f"{again} --dead --yes`" in found.stdout
        assert f"{again} --gone --yes`" in found.stdout
    for option in ("--dead", "--gone"):
        project.confiture("webhooks", "enable", "a", env=used)
        done = project.confiture("webhooks", "redeliver", option, "--yes", env=used)
        assert done.returncode == 0, done.stdout + done.stderr
    found = project.confiture("webhooks", "status", env=env)
    assert (found.returncode, f"{name} outbox" in found.stdout) == (0, False)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.write_bytes(b"rubbish" * 1000), "the file is damaged, and it is not"),
        (lambda file: file.chmod(0o666), "others may write it (mode 0666), and it is not"),
        (lambda file: file.write_bytes(b""), None),
        (lambda file: executed(file, "PRAGMA application_id = 1"), None),
    ],
)
def test_a_file_before_that_cannot_be_read_is_named(project: Any, spoil: Any, why: Any) -> None:
    """In one line, with the reason; another program's is none of ours."""
    SqliteOutbox(file := project.path / ".confiture" / "webhooks.db").close()
    spoil(file)
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": "http://127.0.0.1:1"}]})
    found = project.confiture("webhooks", "status", env=ON)
    said = f"SQLite outbox: {file}: {why} in use here. Correct that, or delete it if nothing"
    assert (found.returncode, said in found.stdout) == (int(why is not None), why is not None)
    assert ("SQLite" in found.stdout) is (why is not None)


def executed(file: Path, statement: str) -> None:
    """Run *statement* in the SQLite database *file*."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


def files(project: Any) -> dict[str, tuple[int, bytes]]:
    """Those of its SQLite outbox, with their times and contents."""
    found = (project.path / ".confiture").iterdir()
    return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in found}


@pytest.mark.lowest
def test_init_says_what_it_did(project: Any) -> None:
    """A dropped table is no new outbox."""
    init = ("webhooks", "outbox", "init")
    said = [project.confiture(*init, env=ON).stderr for _ in range(2)]
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute("DROP TABLE confiture_webhooks.attempts")
    said += [project.confiture(*init, env=ON).stderr]
    done = ("created", "already there", "what was missing of it is there now")
    for text, words in zip(said, done, strict=True):
        assert f": {words}\n" in text


def test_init_of_another_outbox_is_a_fault(project: Any) -> None:
    """An outbox that needs no setting up is refused with the host's code for configurations."""
    done = project.confiture("webhooks", "outbox", "init")
    assert done.returncode == 5
    assert "Set it, or CONFITURE_WEBHOOK_OUTBOX, to `postgres`" in done.stderr


def conninfo_url(url: str, user: str, password: str) -> str:
    """*url* with another user, as a URL."""
    parameters = conninfo.conninfo_to_dict(url)
    return (
        f"postgresql://{user}:{password}@/{parameters['dbname']}"
        f"?host={parameters['host']}&port={parameters['port']}"
    )


@pytest.mark.parametrize("option", ["--role", "--environment"])
def test_no_grant_is_printed_that_hides_something(project: Any, option: str) -> None:
    """What is to be pasted shows every character of a name."""
    env = {"CONFITURE_WEBHOOK_OUTBOX": "postgres"}
    done = project.confiture("webhooks", "outbox", "init", option, "a\x1b[8m\n", env=env)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"{option}: has characters that cannot be shown" in done.stderr
