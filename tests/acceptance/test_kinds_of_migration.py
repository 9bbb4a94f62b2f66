"""Every kind of migration the host can run, through the stock command, and what is reported of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

PYTHON = """
from confiture.models.migration import Migration


class M(Migration):
    version = "{version}"
    name = "{name}"
    {attributes}

    def up(self):
        {up}

    def down(self):
        {down}
"""


def python(version: str, name: str, up: str, down: str = "pass", attributes: str = "") -> str:
    """The source of a Python migration."""
    return PYTHON.format(version=version, name=name, up=up, down=down, attributes=attributes)


def reported(receiver: Any) -> list[tuple[str, str | None, int | None]]:
    """Event type, migration name and rows of every webhook received, in order."""
    return [
        (
            request.payload["event_type"],
            request.payload.get("migration", {}).get("name"),
            request.payload["execution"]["rows_affected"],
        )
        for request in receiver.requests
    ]


@pytest.fixture
def up(project: Any, receiver: Any) -> Any:
    """Runs ``confiture migrate up …`` with the receiver as the only endpoint."""

    def run(*arguments: str, fails: bool = False) -> Any:
        done = project.confiture(
            "migrate", *(arguments or ("up",)), env={"CONFITURE_WEBHOOK_URL": receiver.url}
        )
        # Which code a failure has differs between the host's versions.
        assert bool(done.returncode) is fails, done.stderr + done.stdout
        return done

    return run


def test_sql_file(project: Any, receiver: Any, up: Any) -> None:
    """A SQL file is reported with the sum of its INSERT, UPDATE and DELETE tags."""
    project.migration(
        "001",
        "create_users",
        up=(
            "CREATE TABLE users (id int, name text);"
            "INSERT INTO users SELECT n, 'x' FROM generate_series(1, 10) n;"
            "UPDATE users SET name = 'y' WHERE id <= 4; DELETE FROM users WHERE id > 7;"
        ),
        down="DROP TABLE users",
    )
    up()
    assert reported(receiver) == [("migration_success", "001_create_users", 17)]


def test_ddl_only_touches_no_rows(project: Any, receiver: Any, up: Any) -> None:
    """DDL alone is reported with 0 rows: the server said so."""
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    up()
    assert reported(receiver) == [("migration_success", "001_t", 0)]


def test_a_do_block_hides_its_rows(project: Any, receiver: Any, up: Any) -> None:
    """What a DO block does nobody can count, so rows_affected is null."""
    project.migration("001", "t", up="DO $$ BEGIN PERFORM 1; END $$", down="SELECT 1")
    up()
    assert reported(receiver) == [("migration_success", "001_t", None)]


@pytest.mark.lowest
def test_python_migration_with_parameters_executemany_and_copy(
    project: Any, receiver: Any, up: Any
) -> None:
    """A Python migration's execute, executemany and COPY FROM STDIN are all counted."""
    body = """
        self.execute("CREATE TABLE p (id int)")
        self.execute("INSERT INTO p VALUES (%s)", (1,))
        with self.connection.cursor() as cur:
            cur.executemany("INSERT INTO p VALUES (%s)", [(2,), (3,), (4,)])
            with cur.copy("COPY p FROM STDIN") as copy:
                for n in range(10):
                    copy.write_row((n,))
            with cur.copy("COPY p TO STDOUT") as copy:
                list(copy)
    """.strip()
    project.python_migration("001", "p", python("001", "p", body))
    up()
    assert reported(receiver) == [("migration_success", "001_p", 14)]


@pytest.mark.parametrize("many", [True, False])
def test_rows_of_a_pipeline_are_not_known(
    project: Any, receiver: Any, up: Any, *, many: bool
) -> None:
    """In a pipeline the server's answers come later, so rows_affected is null and not 0."""
    insert = 'cur.execute("INSERT INTO p VALUES (1)")'
    if many:
        insert = 'cur.executemany("INSERT INTO p VALUES (%s)", [(1,), (2,)])'
    body = f"""
        self.execute("CREATE TABLE p (id int)")
        with self.connection.pipeline(), self.connection.cursor() as cur:
            {insert}
    """
    project.python_migration("001", "p", python("001", "p", body))
    up()
    assert reported(receiver) == [("migration_success", "001_p", None)]


def test_python_migration_that_touches_no_database(project: Any, receiver: Any, up: Any) -> None:
    """A migration that runs nothing through the connection has unknown rows."""
    project.python_migration("001", "p", python("001", "p", "pass"))
    up()
    assert reported(receiver) == [("migration_success", "001_p", None)]


@pytest.mark.survived("A migration that leaves its connection changed", "unharmed", "kept")
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("change", "proof"),
    [
        (
            "self.kept = self.connection.pipeline(); self.kept.__enter__()",
            "self.execute('CREATE TABLE b ()')",
        ),
        (
            "import psycopg; self.connection.cursor_factory = psycopg.ClientCursor",
            "import psycopg; assert isinstance(self.connection.cursor(), psycopg.ClientCursor)",
        ),
    ],
)
def test_what_a_migration_does_to_its_connection_stays(
    project: Any, receiver: Any, outbox: str, change: str, proof: str
) -> None:
    """Later migrations have a pipeline that is open, or cursors of another class, as without us."""
    for version, up in (("001", change), ("002", proof), ("003", "pass")):
        project.python_migration(version, "p", python(version, "p", up))
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": outbox}
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    assert [one[:2] for one in reported(receiver)] == [
        ("migration_success", f"{version}_p") for version in ("001", "002", "003")
    ]


FOR_THE_PROCESS = """
        import psycopg
        from psycopg.types.string import StrDumper

        class Nothing(psycopg.adapt.Loader):
            def load(self, data):
                return None

        class Other(StrDumper):
            def dump(self, value):
                return b"other"

        for name in ("bool", "int8", "numeric", "text"):
            psycopg.adapters.register_loader(name, Nothing)
        psycopg.adapters.register_dumper(str, Other)
"""


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_what_a_migration_registers_for_the_process_is_not_ours(
    project: Any, receiver: Any, outbox: str
) -> None:
    """Connections made after it read and write their values as before, and all is sent."""
    project.python_migration("001", "p", python("001", "p", FOR_THE_PROCESS.strip()))
    project.python_migration("002", "p", python("002", "p", "self.execute('SELECT 1')"))
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": outbox}
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    assert [one[1] for one in reported(receiver)] == ["001_p", "002_p"]


AFTER_THE_COMMIT = """
        connection, commit = self.connection, self.connection.commit

        def late():
            del connection.commit
            commit()
            raise RuntimeError("late")

        connection.commit = late
"""


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_an_error_after_the_commit_is_no_failed_migration(
    project: Any, receiver: Any, outbox: str
) -> None:
    """The migration is in the ledger, so it is a success; that the run failed is said as well."""
    project.python_migration("001", "p", python("001", "p", AFTER_THE_COMMIT.strip()))
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": outbox}
    assert project.confiture("migrate", "up", env=env).returncode != 0
    events = [one[:2] for one in reported(receiver)]
    assert events == [("migration_success", "001_p"), ("run_error", None)]


PROCESSES = """
        import multiprocessing, os, signal, time

        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join()
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        codes = process.exitcode, os.waitpid(child, 0)[1]
        with fork.Pool(2) as pool:
            pool.map(abs, [1, 2])
        assert codes == (-signal.SIGTERM, signal.SIGTERM), codes
"""


def test_sigterm_ends_the_processes_of_a_migration_and_no_run(
    project: Any, receiver: Any, up: Any
) -> None:
    """What a migration forks dies of the signal as without us: in silence, and nothing is said."""
    project.python_migration("001", "p", python("001", "p", PROCESSES.strip()))
    done = up()
    assert "SIGTERM" not in done.stderr
    assert [one[:2] for one in reported(receiver)] == [("migration_success", "001_p")]


SLOW_IMPORT = """
import importlib.machinery, os, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name != "structlog._base":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def slowly(module):
            ends_at = time.monotonic() + 20
            while not os.path.exists("forks") and time.monotonic() < ends_at:
                time.sleep(0.02)
            time.sleep(0.5)
            execute(module)

        spec.loader.exec_module = slowly
        return spec

sys.meta_path.insert(0, Slow())
for name in [one for one in sys.modules if one.partition(".")[0] == "structlog"]:
    del sys.modules[name]
"""
IMPORTS = """
        import os, signal, time

        open("forks", "w").close()
        child = os.fork()
        if not child:
            import structlog
            os._exit(0)
        ends_at = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > ends_at:
                os.kill(child, signal.SIGKILL)
                raise RuntimeError("what the migration has forked hangs")
            time.sleep(0.02)
"""
UNWINDS = """
        import os, sys

        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
        raise ValueError("of the migration")
"""


@pytest.mark.survived("A migration that forks", "unharmed")
def test_a_process_that_a_migration_forks_can_import(
    project: Any, receiver: Any, tmp_path: Path
) -> None:
    """Also what a thread of ours was importing at that moment: it does not hang."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(SLOW_IMPORT, encoding="utf-8")
    project.python_migration("001", "p", python("001", "p", IMPORTS.strip()))
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "PYTHONPATH": str(planted)}
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    assert [one[:2] for one in reported(receiver)] == [("migration_success", "001_p")]


@pytest.mark.survived("A migration that forks", "unharmed", "true")
def test_a_process_that_a_migration_forks_reports_nothing(
    project: Any, receiver: Any, up: Any
) -> None:
    """It leaves the migration by an exception: the run goes on in the process that forked it."""
    project.python_migration("001", "p", python("001", "p", UNWINDS.strip()))
    up(fails=True)
    assert [one[:2] for one in reported(receiver)] == [("migration_error", "001_p")]
    # The connection that both have was closed by the one that left.
    assert receiver.requests[0].payload["error"]["type"] == "OperationalError"


@pytest.mark.survived("20 MB of SQL on one line", "unharmed")
@pytest.mark.timeout(120)
def test_a_statement_of_20_mb_is_counted_and_not_read(project: Any, receiver: Any, up: Any) -> None:
    """4,000 certificates on one line cost the migrating thread what they do with webhooks off."""
    body = """
        import time
        certificate = "-----BEGIN CERTIFICATE-----" + "x" * 5000 + "-- with (delete from it)"
        rows = ",".join(f"({n}, '{certificate}')" for n in range(4000))
        self.execute("CREATE TABLE c (id int, pem text)")
        started = time.thread_time()
        self.execute(f"INSERT INTO c VALUES {rows}")
        self.execute(f"/* {certificate} */ WITH v AS (VALUES {rows}) SELECT count(*) FROM v")
        with open("seconds.txt", "a") as file:
            print(time.thread_time() - started, file=file)
    """.strip()
    project.python_migration("001", "c", python("001", "c", body, 'self.execute("DROP TABLE c")'))
    off = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOKS": "off"})
    assert off.returncode == 0, off.stderr
    project.confiture("migrate", "down", env={"CONFITURE_WEBHOOKS": "off"})
    up()
    before, seconds = map(float, (project.path / "seconds.txt").read_text().split())
    assert seconds - before < 1
    assert reported(receiver) == [("migration_success", "001_c", None)]


def test_sql_class(project: Any, receiver: Any, up: Any) -> None:
    """An SQLMigration class is reported like any other."""
    project.python_migration(
        "001",
        "s",
        "from confiture.models.migration import SQLMigration\n"
        "class S(SQLMigration):\n"
        "    version = '001'\n    name = 's'\n"
        "    up_sql = 'CREATE TABLE s (id int); INSERT INTO s VALUES (1), (2)'\n"
        "    down_sql = 'DROP TABLE s'\n",
    )
    up()
    assert reported(receiver) == [("migration_success", "001_s", 2)]


def test_non_transactional_sql(project: Any, receiver: Any, up: Any) -> None:
    """CREATE INDEX CONCURRENTLY runs outside a transaction and is reported when it is recorded."""
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    project.migration(
        "002", "i", up="CREATE INDEX CONCURRENTLY i ON t (id)", down="DROP INDEX CONCURRENTLY i"
    )
    up()
    assert [row[:2] for row in reported(receiver)] == [
        ("migration_success", "001_t"),
        ("migration_success", "002_i"),
    ]


def test_non_transactional_failure_is_an_error(project: Any, receiver: Any, up: Any) -> None:
    """A non-transactional migration that fails half way is an error; nothing says rolled back."""
    project.python_migration(
        "001",
        "half",
        python(
            "001",
            "half",
            'self.execute("CREATE TABLE stays (id int)"); self.execute("SELECT nosuch")',
            attributes="transactional = False",
        ),
    )
    up(fails=True)
    assert reported(receiver) == [("migration_error", "001_half", None)]
    assert receiver.requests[0].payload["error"]["sqlstate"] == "42703"


@pytest.mark.parametrize("then", ["SELECT 1", "SELECT nosuch"])
def test_a_begin_in_a_non_transactional_migration(
    project: Any, receiver: Any, up: Any, then: str
) -> None:
    """The host fails at it, and commits it with its lock's release: the ledger says how it ended."""
    body = f'self.execute("BEGIN"); self.execute("CREATE TABLE b (a int)"); self.execute("{then}")'
    source = python("001", "b", body, attributes="transactional = False")
    project.python_migration("001", "b", source)
    up(fails=True)
    with psycopg.connect(project.database_url) as connection:
        has_it = connection.execute("SELECT 1 FROM tb_confiture").fetchone() is not None
    kind = "migration_success" if has_it else "migration_error"
    assert (kind, "001_b") in [one[:2] for one in reported(receiver)]
    assert has_it is (then == "SELECT 1")


def test_online_migration_counts_its_backfill_and_not_the_checkpoints(
    project: Any, receiver: Any, up: Any
) -> None:
    """``--online`` is reported once, with the rows its backfill wrote."""
    project.migration(
        "001",
        "t",
        up="CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50)",
        down="DROP TABLE t",
    )
    project.migration(
        "002",
        "not_null",
        up="ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT (random() * 10)::int;",
        down="ALTER TABLE t DROP COLUMN c",
    )
    up("up", "--online", "--allow-destructive")
    rows = reported(receiver)
    assert [row[:2] for row in rows] == [
        ("migration_success", "001_t"),
        ("migration_success", "002_not_null"),
    ]
    assert rows[0][2] == 50
    assert rows[1][2] in (0, 50)


def test_failed_precondition(project: Any, receiver: Any, up: Any) -> None:
    """A precondition that fails is reported as an error although no hook of the host fires."""
    source = python(
        "001",
        "p",
        'self.execute("SELECT 1")',
        attributes="up_preconditions = [TableExists('nosuch')]",
    )
    project.python_migration(
        "001", "p", "from confiture.core.preconditions import TableExists\n" + source
    )
    up(fails=True)
    assert reported(receiver) == [("migration_error", "001_p", None)]


def test_a_migration_that_cannot_be_loaded(project: Any, receiver: Any, up: Any) -> None:
    """A file with a syntax error is a migration that failed."""
    project.python_migration("001", "broken", "this is not python")
    up(fails=True)
    assert [
        (r.payload["event_type"], r.payload["migration"]["name"]) for r in receiver.requests
    ] == [("migration_error", "001_broken")]


def test_superuser_halt_reports_what_ran_before(project: Any, receiver: Any, up: Any) -> None:
    """A migration that needs a superuser is not run: only the run's end is reported of it."""
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    project.python_migration(
        "002", "s", python("002", "s", "pass", attributes="requires_superuser = True")
    )
    up(fails=True)
    assert [row[:2] for row in reported(receiver)] == [
        ("migration_success", "001_t"),
        ("run_error", None),
    ]


def test_forced_reapplication_is_reported_again(project: Any, receiver: Any, up: Any) -> None:
    """``--force`` runs the body again, and that is reported again under a new event id."""
    project.migration("001", "t", up="CREATE TABLE IF NOT EXISTS t (id int)", down="DROP TABLE t")
    up()
    up("up", "--force")
    assert [row[1] for row in reported(receiver)] == ["001_t", "001_t"]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 2


@pytest.mark.survived("A COMMIT that fails", "true")
def test_failed_commit(project: Any, receiver: Any, up: Any) -> None:
    """A COMMIT that fails (a deferred constraint) is one error and never a success."""
    project.migration(
        "001",
        "deferred",
        up=(
            "CREATE TABLE parent (id int PRIMARY KEY);"
            "CREATE TABLE child (p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
            "INSERT INTO child VALUES (1);"
        ),
        down="SELECT 1",
    )
    up(fails=True)
    assert reported(receiver) == [("migration_error", "001_deferred", None)]
    assert receiver.requests[0].payload["error"]["sqlstate"] == "23503"


@pytest.mark.lowest
def test_rollback_and_its_failure(project: Any, receiver: Any, up: Any) -> None:
    """``down`` reports a rollback with its rows, and a failed one as a rollback error."""
    project.migration(
        "001",
        "t",
        up="CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2), (3)",
        down="DELETE FROM t; DROP TABLE t",
    )
    project.migration("002", "bad", up="SELECT 1", down="SELECT nosuch")
    up()
    done = project.confiture("migrate", "down", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    assert done.returncode != 0
    project.migration("002", "bad", up="SELECT 1", down="SELECT 1")
    up("down", "--steps", "2")
    assert reported(receiver)[2:] == [
        ("migration_rollback_error", "002_bad", None),
        ("migration_rollback", "002_bad", 0),
        ("migration_rollback", "001_t", 3),
    ]


def test_down_to(project: Any, receiver: Any, up: Any) -> None:
    """``down-to`` reports each migration it rolls back, newest first."""
    for number in (1, 2, 3):
        project.migration(f"00{number}", "t", up="SELECT 1", down="SELECT 1")
    up()
    up("down-to", "001")
    assert [row[:2] for row in reported(receiver)[3:]] == [
        ("migration_rollback", "003_t"),
        ("migration_rollback", "002_t"),
    ]


@pytest.mark.survived("A rehearsal, and a rehearsal that fails", "true")
def test_rehearsals_and_questions_report_nothing(project: Any, receiver: Any) -> None:
    """No rehearsal, also one that fails, and no question about migrations is ever reported."""
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    for arguments in (
        ("up", "--dry-run"),
        ("up", "--dry-run-execute", "--yes"),
        ("preflight",),
        ("status",),
        ("validate",),
    ):
        project.confiture("migrate", *arguments, env=env)
        assert receiver.requests == (), arguments
    project.migration("001", "t", up="SELECT nosuch", down="SELECT 1")
    project.confiture("migrate", "up", "--dry-run-execute", "--yes", env=env)
    assert receiver.requests == ()


def test_bookkeeping_commands_report_nothing(project: Any, receiver: Any, up: Any) -> None:
    """Marking migrations as applied runs none, so nothing is reported of it."""
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    project.confiture(
        "migrate", "baseline", "--through", "001", env={"CONFITURE_WEBHOOK_URL": receiver.url}
    )
    up()
    assert receiver.requests == ()


def test_a_resumed_online_migration_is_reported(project: Any, receiver: Any, up: Any) -> None:
    """``steps --resume`` finishes what ``--online`` left half way, and that is reported."""
    project.migration(
        "001",
        "t",
        up="CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 9) g",
        down="DROP TABLE t",
    )
    project.migration(
        "002", "widen", up="ALTER TABLE t ALTER COLUMN n TYPE bigint;", down="SELECT 1"
    )
    up("up", "--online", fails=True)
    up("steps", "--resume", "002", "--allow-destructive")
    assert [row[:2] for row in reported(receiver)] == [
        ("migration_success", "001_t"),
        ("migration_error", "002_widen"),
        ("migration_success", "002_widen"),
    ]


def test_apply_as_is_reported(project: Any, receiver: Any, up: Any) -> None:
    """``apply-as`` reports the one migration that it applies."""
    project.python_migration(
        "001",
        "s",
        python(
            "001",
            "s",
            'self.execute("CREATE TABLE s (id int)")',
            attributes="requires_superuser = True",
        ),
    )
    project.environment_file(apply_as={"postgres": {"url": project.database_url}})
    up("apply-as", "postgres", "001", "--config", "db/environments/local.yaml")
    assert [row[:2] for row in reported(receiver)] == [("migration_success", "001_s")]


def test_a_run_that_fails_before_its_first_migration_says_where(
    project: Any, receiver: Any, up: Any
) -> None:
    """No migration names the database of such a ``run_error``: its connection does."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    up()
    project.environment_file(
        apply_as={"postgres": {"url": project.database_url}},
        webhooks={"endpoints": [{"name": "r", "url": receiver.url, "events": ["run_error"]}]},
    )
    failed = ("apply-as", "postgres", "001", "--config", "db/environments/local.yaml")
    assert project.confiture("migrate", *failed).returncode
    payload = receiver.requests[-1].payload
    address = conninfo_to_dict(project.database_url)
    assert payload["event_type"] == "run_error"
    assert payload["migrations"] == []
    assert payload["database"] == {
        "host": address["host"],
        "name": address["dbname"],
        "schema": None,
    }
