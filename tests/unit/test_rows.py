"""Counting rows: the sum of the command tags, or nothing when nobody can know."""

from __future__ import annotations

import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from psycopg.pq import ExecStatus, PipelineStatus

from confiture_webhooks.adapters.rows import RowTally, _read

if TYPE_CHECKING:
    from collections.abc import Iterator


class Result:
    """What a server answered to one statement."""

    def __init__(self, tag: str, status: ExecStatus = ExecStatus.COMMAND_OK) -> None:
        self.status = status
        self.command_status = tag.encode()


class Cursor:
    """A cursor whose statements answer with the tags that are in their text."""

    connection = SimpleNamespace(pgconn=SimpleNamespace(pipeline_status=PipelineStatus.OFF))

    def __init__(self) -> None:
        self._results: list[Result] = []
        self.pgresult: Result | None = None
        self.rowcount = -1
        self.statusmessage: str | None = None

    def execute(self, query: Any, params: Any = None) -> Cursor:
        """Answer with *params*, each a tag."""
        self._results = [Result(tag) for tag in params or ()]
        self.pgresult = self._results[0] if self._results else None
        return self

    def executemany(self, _: Any, params: list[str]) -> None:
        """Answer with *params*: the last tag, and the sum."""
        self.statusmessage = params[-1]
        self.rowcount = sum(int(tag.split()[-1]) for tag in params)

    def stream(self, query: str) -> Iterator[str]:
        """One row."""
        yield query

    @contextmanager
    def copy(self, status: ExecStatus, rows: int) -> Iterator[str]:
        """A COPY in the direction of *status*, over *rows*."""
        self.pgresult = Result("", status)
        yield "copy"
        self.rowcount = rows


class Connection:
    """Makes cursors of its class."""

    cursor_factory: type[Any] = Cursor

    def cursor(self) -> Any:
        """A new cursor."""
        return self.cursor_factory()


def counted(*statements: tuple[Any, list[str]], ledger: str = "tb_confiture") -> int | None:
    """The total after *statements*, each a text and the tags it is answered with."""
    tally, connection = RowTally(ledger), Connection()
    with tally.counting(connection):
        for query, tags in statements:
            connection.cursor().execute(query, tags)
    return tally.total


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        ("INSERT 0 5", 5),
        ("UPDATE 7", 7),
        ("DELETE 0", 0),
        ("MERGE 3", 3),
        ("SELECT 9", 0),
        ("CREATE TABLE", 0),
        ("SET", 0),
        ("REFRESH MATERIALIZED VIEW", 0),
        ("DO", None),
        ("CALL", None),
    ],
)
def test_a_tag_gives_the_rows(tag: str, rows: int | None) -> None:
    """DML counts its rows, other statements none, and what hides its work is unknown."""
    assert counted(("statement", [tag])) == rows


def test_statements_add_up() -> None:
    """The total is the sum over statements and over the statements of one text."""
    assert (
        counted(("a", ["INSERT 0 2", "UPDATE 3"]), ("b", ["CREATE TABLE"]), ("c", ["DELETE 4"]))
        == 9
    )


def test_nothing_run_is_unknown() -> None:
    """When nothing ran through the connection, nobody knows; it is not zero."""
    assert counted() is None


def test_one_opaque_statement_makes_the_total_unknown() -> None:
    """A ``DO`` block among countable statements leaves the sum unknown."""
    assert counted(("a", ["INSERT 0 2"]), ("b", ["DO"])) is None


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("COPY t FROM '/tmp/t.csv'", 8),
        ("  copy s.t (a, b) from '/tmp/t.csv'", 8),
        ("COPY t TO '/tmp/t.csv'", None),
        ("COPY (SELECT a FROM t) TO '/tmp/t.csv'", None),
        (b"COPY t FROM '/tmp/t.csv'", 8),
    ],
)
def test_a_servers_copy_counts_only_when_it_is_an_import(query: Any, rows: int | None) -> None:
    """A server-side COPY counts when its text says FROM; otherwise it is unknown."""
    assert counted((query, ["COPY 8"])) == rows


def test_a_copy_among_other_statements_is_unknown() -> None:
    """Of a text with several statements it is unknown which of them imported."""
    assert counted(("COPY t FROM 'a'; COPY t TO 'b'", ["COPY 8", "COPY 8"])) is None


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("WITH m AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM m", None),
        (b"with m as materialized ( insert into t values (1) returning *) select 1", None),
        (sql.SQL("WITH m AS (\n  UPDATE t SET a = 1 RETURNING a) DELETE FROM u"), None),
        ("WITH m AS ( -- first\n DELETE FROM t RETURNING *) INSERT INTO u TABLE m", None),
        ("WITH m AS /* a */ ( /* b */ MERGE INTO t USING v) INSERT INTO u TABLE m", None),
        ("WITH m AS (SELECT '(delete from t)') INSERT INTO u TABLE m", None),
        ("SELECT '(delete from t)'", 3),
        ("INSERT INTO t SELECT '(delete from t) with'", 3),
        ("WITH m AS (SELECT 1) INSERT INTO u TABLE m", 3),
        ("CREATE TABLE t (\n  -- keys\n  id int, deleted bool);\nINSERT INTO t VALUES (1)", 3),
        ("INSERT INTO t (updated_at) VALUES ('now')", 3),
    ],
)
def test_a_with_that_writes_is_unknown(query: Any, rows: int | None) -> None:
    """The tag counts the statement's own rows: those its WITH wrote are unknown."""
    assert counted((query, ["INSERT 0 3"])) == rows


@pytest.mark.parametrize(
    ("query", "rows"), [("INSERT INTO t VALUES (1) RETURNING id", None), ("SELECT 1", 0)]
)
def test_a_stream_that_writes_is_unknown(query: str, rows: int | None) -> None:
    """Of a ``stream`` there is no sum: one that only reads counts none, another is unknown."""
    tally, connection = RowTally(), Connection()
    with tally.counting(connection):
        assert list(connection.cursor().stream(query)) == [query]
    assert tally.total == rows


def test_a_failed_result_counts_nothing() -> None:
    """A result that is an error has no rows."""
    tally, connection = RowTally(), Connection()
    with tally.counting(connection):
        cursor = connection.cursor()
        cursor.execute("x", ["INSERT 0 5"])
        cursor._results = [Result("INSERT 0 5", ExecStatus.FATAL_ERROR)]
        tally.add_results(cursor, "x")
    assert tally.total == 5


@pytest.mark.parametrize(("tags", "rows"), [(["INSERT 0 1"] * 4, 4), (["SELECT 1"] * 2, 0)])
def test_executemany_counts_its_sum(tags: list[str], rows: int) -> None:
    """An ``executemany`` of DML counts the rows of all its sets of parameters."""
    tally, connection = RowTally(), Connection()
    with tally.counting(connection):
        connection.cursor().executemany("x", tags)
    assert tally.total == rows


@pytest.mark.parametrize(
    ("query", "rows"),
    [("insert\ninto t", 4), (" DELETE FROM t", 4), ("WITH x AS () DELETE", None), ("-- x", None)],
)
def test_executemany_without_a_status_is_known_by_its_verb(query: str, rows: int | None) -> None:
    """psycopg 3.1 keeps none: what its text does not say plainly is unknown, and not too few."""

    class Without(Cursor):
        statusmessage = property(lambda _: None, lambda *_: None)  # type: ignore[assignment]

    tally, connection = RowTally(), Connection()
    connection.cursor_factory = Without
    with tally.counting(connection):
        connection.cursor().executemany(query, ["INSERT 0 1"] * 4)
    assert tally.total == rows


def test_an_identifier_needs_no_connection() -> None:
    """With psycopg 3.1 its own text does: the total would be unknown."""
    query = sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier("s", 't"1'))
    assert counted((query, ["INSERT 0 1"])) == 1
    assert _read(query) == ('INSERT INTO "s"."t""1" VALUES (1)', True)


@pytest.mark.parametrize(("status", "rows"), [(ExecStatus.COPY_IN, 6), (ExecStatus.COPY_OUT, 0)])
def test_a_clients_copy_counts_when_it_is_an_import(status: ExecStatus, rows: int) -> None:
    """A client-side COPY counts its rows on the way in and none on the way out."""
    tally, connection = RowTally(), Connection()
    with tally.counting(connection), connection.cursor().copy(status, 6) as copy:
        assert copy == "copy"
    assert tally.total == rows


def test_only_what_runs_inside_is_counted() -> None:
    """Cursors made before and after the block count nothing, and the factory is put back."""
    tally, connection = RowTally(), Connection()
    before = connection.cursor()
    with tally.counting(connection):
        connection.cursor().execute("x", ["INSERT 0 1"])
        before.execute("x", ["INSERT 0 10"])
    connection.cursor().execute("x", ["INSERT 0 100"])
    assert tally.total == 1
    assert connection.cursor_factory is Cursor


def test_the_factory_is_put_back_when_the_migration_fails() -> None:
    """An error in the block leaves the connection as it was."""
    tally, connection = RowTally(), Connection()
    with pytest.raises(ZeroDivisionError), tally.counting(connection):
        raise ZeroDivisionError
    assert connection.cursor_factory is Cursor


def test_what_the_host_writes_for_itself_is_left_out() -> None:
    """Statements inside ``paused`` are not the migration's."""
    tally, connection = RowTally(), Connection()
    with tally.counting(connection):
        with tally.paused():
            connection.cursor().execute("ledger", ["INSERT 0 1"])
            connection.cursor().executemany("ledger", ["INSERT 0 1"])
            with connection.cursor().copy(ExecStatus.COPY_IN, 1):
                pass
        assert tally.total is None
        connection.cursor().execute("x", ["INSERT 0 2"])
    assert tally.total == 2


def test_the_hosts_checkpoints_are_left_out_and_the_users_sql_is_not() -> None:
    """A composed statement on the host's own table does not count; plain SQL always does."""
    checkpoint = sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier("tb_confiture_steps"))
    users = sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier("orders"))
    plain = "INSERT INTO orders SELECT * FROM tb_confiture_steps"
    tags = ["INSERT 0 1"]
    for ledger in ("tb_confiture", "ops.tb_confiture"):
        assert counted((checkpoint, tags), (users, tags), (plain, tags), ledger=ledger) == 2


@pytest.mark.parametrize("tag", ["INSERT rubbish", "UPDATE "])
def test_a_count_that_breaks_costs_the_migration_nothing(tag: str) -> None:
    """Whatever a server answers, the statement goes through and the total is unknown."""
    connection, tally = Connection(), RowTally()
    with tally.counting(connection):
        cursor = connection.cursor()
        assert cursor.execute("x", [tag]) is cursor
        cursor.execute("x", ["INSERT 0 1"])
    assert tally.total is None


def test_an_error_of_the_statement_is_the_migrations() -> None:
    """What a statement raises reaches the migration unchanged."""

    class Failing(Cursor):
        def execute(self, query: Any, params: Any = None) -> Cursor:
            raise ZeroDivisionError

    connection = Connection()
    connection.cursor_factory = Failing
    with RowTally().counting(connection), pytest.raises(ZeroDivisionError):
        connection.cursor().execute("x")


LONG = "".join(f"('{n}', '-- {n}'),\n" for n in range(6000))


@pytest.mark.parametrize(
    ("query", "tags", "rows"),
    [
        (f"INSERT INTO t (a, b) VALUES {LONG}(1, 2)", ["INSERT 0 6001"], 6001),
        (f"-- certificates\nINSERT INTO t SELECT * FROM (VALUES {LONG}(1, 2))", ["INSERT 0 6"], 6),
        (f"WITH m AS (SELECT 1) INSERT INTO t VALUES {LONG}(1, 2)", ["INSERT 0 6"], None),
        (f"SELECT 1; WITH m AS (DELETE FROM u) SELECT {LONG}", ["SELECT 1", "SELECT 6"], None),
        (f"CREATE FUNCTION f() AS $$ WITH m AS (DELETE FROM u) {LONG} $$", ["CREATE FUNCTION"], 0),
        (sql.SQL("INSERT INTO t VALUES ") + sql.SQL(LONG), ["INSERT 0 6"], 6),
        (sql.SQL("WITH m AS (DELETE FROM u)") + sql.SQL(LONG), ["INSERT 0 6"], None),
        (sql.SQL(",").join([sql.SQL("VALUES (1)")] * 3000), ["SELECT 1"], None),
        (f"INSERT INTO t VALUES {LONG}(1, 2); DELETE FROM t", ["INSERT 0 6", "DELETE 4"], 10),
        (f"INSERT INTO t VALUES {LONG}(1, 'with')", ["INSERT 0 6", "DELETE 4"], None),
        (f"{'-- ' * 30000}\nWITH m AS (DELETE FROM u) SELECT 1", ["SELECT 1"], None),
    ],
)
def test_a_long_text_is_counted_by_its_tags_or_unknown(
    query: str, tags: list[str], rows: int | None
) -> None:
    """Of a long text only the beginning is read: what that does not settle is unknown."""
    assert counted((query, tags)) == rows


@pytest.mark.parametrize(
    "piece", ["--", "/*", "'", "(", "( ", "-- '", "E'\\'", "WITH m AS (", "COPY t ", " ", "é", "😀"]
)
def test_only_the_beginning_of_a_long_text_is_read(piece: str) -> None:
    """Whatever 20 MB on one line repeat, counting them reads little of it."""
    text = piece * (20_000_000 // len(piece))
    composed = sql.Composed([sql.Literal(text[:1_000_000]), *[sql.Literal("x")] * 400_000])
    for query in (text, text.encode(), text[:16_384], sql.SQL(text), composed):
        started = time.thread_time()
        for tags in (["COPY 6"], ["SELECT 6"], ["INSERT 0 6", "SELECT 6"]):
            counted((query, tags))
        assert time.thread_time() - started < 0.5


def test_results_that_cannot_be_seen_are_unknown() -> None:
    """A cursor without what the tags are read from makes the total unknown, not smaller."""
    tally = RowTally()
    cursor = Cursor()
    cursor.execute("a", ["INSERT 0 2"])
    del cursor._results
    with tally.counting(Connection()):
        tally.count(tally.add_results, cursor, "a")
    assert tally.total is None
