"""The instant before the COMMIT: which commit is meant, and that it is given back."""

from __future__ import annotations

import psycopg
import pytest

from confiture_webhooks.adapters.confiture import Commit


class Connection:
    """Commits by noting it."""

    def __init__(self, done: list[str]) -> None:
        self.done = done

    def commit(self) -> None:
        self.done.append("commit")


@pytest.fixture
def done() -> list[str]:
    """What was done, in order."""
    return []


def test_only_the_commit_that_is_due_is_reported(done: list[str]) -> None:
    """Others go through without a report; the one that is due is reported first, and once."""
    connection = Connection(done)
    commit = Commit(connection, lambda: done.append("before"))
    with commit.awaited():
        connection.commit()
        commit.is_due = True
        connection.commit()
        connection.commit()
    assert done == ["commit", "before", "commit", "commit"]


def test_the_connection_is_as_it_was_afterwards(done: list[str]) -> None:
    """After the block, also one that raised, commits are the connection's own."""
    connection = Connection(done)
    commit = Commit(connection, lambda: done.append("before"))
    with pytest.raises(ValueError, match="x"), commit.awaited():
        raise ValueError("x")
    commit.is_due = True
    connection.commit()
    assert done == ["commit"]
    assert "commit" not in vars(connection)


def test_what_others_put_there_stays_underneath(done: list[str]) -> None:
    """A commit that somebody else wrapped before is called, and put back."""
    connection = Connection(done)
    connection.commit = lambda: done.append("theirs")  # type: ignore[method-assign]
    theirs = connection.commit
    commit = Commit(connection, lambda: done.append("before"))
    with commit.awaited():
        commit.is_due = True
        connection.commit()
    assert done == ["before", "theirs"]
    assert connection.commit is theirs


@pytest.mark.parametrize(
    ("error", "is_open"),
    [(psycopg.errors.ForeignKeyViolation, False), (psycopg.OperationalError, True)],
)
def test_only_the_servers_answer_closes_it(
    done: list[str], error: type[Exception], is_open: bool
) -> None:
    """An error with a SQLSTATE is the server's refusal; after any other the ledger is asked."""
    connection = Connection(done)

    def refuse() -> None:
        raise error

    connection.commit = refuse  # type: ignore[method-assign]
    commit = Commit(connection, lambda: done.append("before"))
    with commit.awaited():
        commit.is_due = True
        with pytest.raises(error):
            connection.commit()
    assert commit.was_sent
    assert commit.is_open is is_open


def test_what_a_migration_puts_around_it_stays(done: list[str]) -> None:
    """A wrapper that a migration leaves on its connection is there afterwards, as without ours."""
    connection = Connection(done)
    commit = Commit(connection, lambda: done.append("before"))
    with commit.awaited():
        inner = connection.commit

        def wrapper() -> None:
            done.append("around")
            inner()

        connection.commit = wrapper  # type: ignore[method-assign]
    connection.commit()
    assert done == ["around", "commit"]
