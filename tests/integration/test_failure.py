"""Why a migration failed: the root cause, in words without SQL, value or address."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
import pytest
from confiture.core._migrator.state import _run_coroutine
from confiture.core.preconditions import CustomSQL, TableExists
from confiture.exceptions import (
    MigrationError,
    PreconditionValidationError,
    SQLError,
)
from psycopg import errors
from psycopg.pq import DiagnosticField

from confiture_webhooks.adapters.failure import explain

CANARY = "canary-4711"


def reported(kind: type[psycopg.Error], message: str, **fields: str) -> psycopg.Error:
    """An error as psycopg makes it of a server's report, with a value in every other field."""
    report: dict[int, bytes | None] = {
        DiagnosticField.MESSAGE_PRIMARY: message.encode(),
        DiagnosticField.SQLSTATE: (kind.sqlstate or "XX000").encode(),
        DiagnosticField.MESSAGE_DETAIL: CANARY.encode(),
        DiagnosticField.MESSAGE_HINT: CANARY.encode(),
        DiagnosticField.CONTEXT: CANARY.encode(),
        DiagnosticField.INTERNAL_QUERY: CANARY.encode(),
    }
    return kind(f"{message}\nLINE 1: SELECT {CANARY}\nDETAIL:  {CANARY}", info=report)


def by_the_host(error: Exception) -> Exception:
    """*error* raised in the host's own code, not in a migration's."""
    try:
        exec("raise error", {"__name__": "confiture.core.migrator", "error": error})
    except Exception as raised:  # noqa: BLE001
        return raised
    raise AssertionError


def as_the_host_raises(error: Exception) -> BaseException:
    """*error* with the host's wrapping around it: MigrationError ← SQLError ← the error."""
    try:
        try:
            try:
                raise error
            except Exception as inner:
                raise SQLError(f"INSERT INTO t VALUES ('{CANARY}')", None, inner) from inner
        except SQLError as middle:
            text = f"Failed to apply migration 005 (t): {middle}"
            raise MigrationError(text, "005", "t") from middle
    except MigrationError as outer:
        raised: BaseException = outer
    return raised


def test_a_servers_error_is_its_class_message_and_sqlstate() -> None:
    """Through the host's wrapping, the server's own error is what is reported."""
    info = explain(
        as_the_host_raises(reported(errors.UndefinedTable, 'relation "nosuch" does not exist'))
    )
    assert (info.type, info.sqlstate) == ("UndefinedTable", "42P01")
    assert info.message == 'relation "nosuch" does not exist'


def test_the_whole_text_is_kept_apart() -> None:
    """SQL and values are in ``detail`` alone, which no ``repr`` shows."""
    info = explain(as_the_host_raises(reported(errors.UndefinedTable, "no such relation")))
    assert info.detail is not None
    assert CANARY in info.detail
    assert CANARY not in repr(info)
    assert CANARY not in info.message


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidTextRepresentation,
        errors.NumericValueOutOfRange,
        errors.CharacterNotInRepertoire,
        errors.DivisionByZero,
        errors.ExternalRoutineException,
        errors.RaiseException,
        errors.InternalError_,
        errors.UndefinedFile,
    ],
)
def test_a_message_that_may_hold_a_value_is_left_out(kind: type[psycopg.Error]) -> None:
    """Outside the classes that hold names only, the class and SQLSTATE are all that is sent."""
    info = explain(reported(kind, f"in any language: {CANARY}"))
    assert info.message == (
        f"the migration raised {kind.__name__}; its text is left out, it may hold data"
    )
    assert info.sqlstate == kind.sqlstate


@pytest.mark.survived(
    "The text of RAISE, of a syntax error and of a COPY's command line", "private"
)
def test_a_syntax_error_is_sent_with_its_place() -> None:
    """The token it quotes may be a value: its place is sent in its stead."""
    info = explain(reported(errors.SyntaxError, f'syntax error at or near "{CANARY}"'))
    assert info.message == "syntax error at character ? of the statement"


def test_the_command_line_of_a_copy_is_left_out(database: str) -> None:
    """``COPY … PROGRAM`` that fails has its command line in the message."""
    with psycopg.connect(database) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(f"COPY (SELECT 1) TO PROGRAM 'exit 3 # {CANARY}'")
    assert CANARY not in explain(as_the_host_raises(caught.value)).message


@pytest.mark.parametrize("source", ["pl_exec.c", "plpy_elog.c", "dblink.c", "connection.c"])
def test_foreign_words_under_a_names_class_are_left_out(source: str) -> None:
    """What RAISE or another server reports is known by the server's source, in any language."""
    error = reported(errors.UniqueViolation, f"карта {CANARY}")
    error._info[DiagnosticField.SOURCE_FILE] = source.encode()  # type: ignore[index]
    assert CANARY not in explain(error).message


def test_a_long_text_is_cut_and_marked() -> None:
    """``include_sql`` sends 64 KiB at most, and how long it was."""
    info = explain(reported(errors.UndefinedTable, "é" * 1_000_000))
    assert info.detail is not None
    assert len(info.detail.encode()) < 64 * 1024 + 100
    assert info.detail.endswith("bytes in all]")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.UniqueViolation, 'duplicate key value violates unique constraint "users_email"'),
        (errors.UndefinedColumn, 'column "nosuch" does not exist'),
        (errors.LockNotAvailable, "canceling statement due to lock timeout"),
    ],
)
def test_names_are_reported(kind: type[psycopg.Error], message: str) -> None:
    """A message that names relations, columns or constraints is reported as it is."""
    assert explain(reported(kind, message)).message == message


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError(f'connection to "{CANARY}" failed: password of "{CANARY}"'),
        psycopg.InterfaceError(f"the connection is closed {CANARY}"),
        errors.ConnectionTimeout(CANARY),
    ],
)
def test_a_lost_connection_is_reported_without_its_address(error: psycopg.Error) -> None:
    """Where the server said nothing, the driver's text with host and user is left out."""
    info = explain(error)
    assert info.message == "the database connection failed"


@pytest.mark.parametrize(
    "error",
    [
        psycopg.ProgrammingError(f"the query has 1 placeholder but 2 values: {CANARY}"),
        psycopg.DataError(f"cannot dump {CANARY}"),
        errors.UndefinedTable(CANARY),
    ],
)
def test_the_drivers_own_complaint_is_no_lost_connection(error: psycopg.Error) -> None:
    """An error the driver raises by itself is reported as such, without its text."""
    info = explain(as_the_host_raises(error))
    assert info.type == type(error).__name__
    assert "connection" not in info.message
    assert CANARY not in info.message


def test_the_root_cause_is_reported_of_a_chain_of_server_errors() -> None:
    """Of several server errors the first that happened is reported, not its consequence."""
    try:
        try:
            raise reported(errors.CheckViolation, "new row violates check constraint")
        except psycopg.Error:
            raise reported(errors.InFailedSqlTransaction, "current transaction is aborted")  # noqa: B904
    except psycopg.Error as error:
        assert explain(error).type == "CheckViolation"


def test_what_a_migrations_python_raised_is_reported_by_its_class() -> None:
    """The text of a foreign exception may hold anything, so only its class is reported."""
    info = explain(as_the_host_raises(KeyError(CANARY)))
    assert (info.type, info.sqlstate) == ("KeyError", None)
    assert CANARY not in info.message
    assert "KeyError" in info.message


def test_the_hosts_own_words_are_reported() -> None:
    """A refusal that the host itself wrote is reported as it wrote it."""
    error = MigrationError("Migration 005 (t) has already been applied", "005", "t")
    info = explain(by_the_host(error))
    assert info.type == "MigrationError"
    assert "already been applied" in info.message


def test_the_hosts_class_alone_does_not_make_the_hosts_words() -> None:
    """A migration may raise the host's error with words of its own: they are left out."""
    try:
        raise MigrationError(f"row of alice: {CANARY}", "005", "t")
    except MigrationError as error:
        info = explain(error)
    assert info.type == "MigrationError"
    assert CANARY not in info.message
    assert CANARY in (info.detail or "")


@pytest.mark.parametrize("language", ["C", "de_DE.UTF-8", "zh_CN.UTF-8"])
@pytest.mark.parametrize("state", ["P0001", "P0004", "23514", "42P01"])
def test_what_a_function_raised_is_reported_by_its_class(
    database: str, state: str, language: str
) -> None:
    """The text of a RAISE may hold row values, whatever SQLSTATE it is raised under."""
    raising = f"RAISE EXCEPTION 'card % is bad', '{CANARY}' USING ERRCODE = '{state}'"
    with psycopg.connect(database) as connection:
        with suppress(psycopg.Error), connection.transaction():
            connection.execute(f"SET lc_messages = '{language}'")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(f"DO $$ BEGIN {raising}; END $$")
    info = explain(as_the_host_raises(caught.value))
    assert (info.type, info.sqlstate) == (type(caught.value).__name__, state)
    assert "card" not in info.message
    assert CANARY not in info.message


def test_a_failed_precondition_is_named() -> None:
    """A precondition that did not hold is reported with the host's description."""
    error = PreconditionValidationError([(TableExists("users"), "Table users does not exist")])
    assert "Table users does not exist" in explain(by_the_host(error)).message


def test_a_precondition_whose_check_broke_reports_no_sql() -> None:
    """The host pastes a broken check's own error into its text: that part is left out."""
    broken = (
        f'Check failed with error: column "x" does not exist\nLINE 1: SELECT {CANARY}\n  - {CANARY}'
    )
    error = PreconditionValidationError(
        [
            (CustomSQL("SELECT 1", "No pending users"), broken),
            (TableExists("users"), "Table users does not exist"),
        ]
    )
    info = explain(by_the_host(error))
    assert CANARY not in info.message
    assert "No pending users" in info.message
    assert "Table users does not exist" in info.message


def test_an_interruption_is_reported() -> None:
    """Ctrl-C is an error like others, reported by its name; the migration did not raise it."""
    info = explain(KeyboardInterrupt(CANARY))
    assert (info.type, info.message) == (
        "KeyboardInterrupt",
        "the command was ended by KeyboardInterrupt",
    )


def test_a_suppressed_context_is_no_cause() -> None:
    """What ``from None`` hid stays hidden."""
    try:
        try:
            raise KeyError(CANARY)
        except KeyError:
            raise RuntimeError from None
    except RuntimeError as error:
        assert explain(error).type == "RuntimeError"


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt])
def test_what_a_hook_of_the_host_raises_is_its_own_cause(kind: type[BaseException]) -> None:
    """The host runs hooks while it handles asyncio's word that no event loop runs."""

    async def hook() -> None:
        raise kind(CANARY)

    with pytest.raises(kind) as raised:
        _run_coroutine(hook())
    assert explain(raised.value).type == kind.__name__


def test_a_chain_that_bites_its_tail_ends() -> None:
    """An exception that is its own cause's cause does not go on for ever."""

    class Equal(Exception):
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = None  # type: ignore[assignment]

    first, second = Equal(), Equal()
    first.__cause__, second.__cause__ = second, first
    assert explain(first).type == "Equal"


def test_no_class_of_error_reports_what_it_should_not() -> None:
    """Whatever psycopg raises, no field but the primary message reaches what is reported."""
    kinds = [kind for kind in vars(errors).values() if _is_error(kind)]
    assert len(kinds) > 200
    for kind in kinds:
        for error in (reported(kind, "something is wrong"), kind(CANARY)):
            info = explain(as_the_host_raises(error))
            assert CANARY not in info.message
            assert info.type == kind.__name__
            assert info.sqlstate == error.sqlstate


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, psycopg.Error)
