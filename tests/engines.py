"""A migration engine without a database, as far as a watch over it looks."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from psycopg.pq import PipelineStatus, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeCursor:
    """Answers which process it is, before a migration, and refuses to say more."""

    connection = SimpleNamespace(pgconn=SimpleNamespace(pipeline_status=PipelineStatus.OFF))

    pgresult = None
    answer: tuple[object, ...] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, query: Any, params: Any = None, **_: Any) -> FakeCursor:
        self.answer = (
            ("public", 7, None, None, None, None) if "current_schema" in str(query) else None
        )
        return self

    def fetchone(self) -> tuple[object, ...] | None:
        return self.answer


class FakeConnection:
    """A connection that is there, until it is broken."""

    cursor_factory: type[Any] = FakeCursor

    def __init__(self) -> None:
        self.info = SimpleNamespace(
            host="127.0.0.1",
            port=5432,
            dbname="shop",
            user="app",
            password="canary",
            backend_pid=7,
            transaction_status=TransactionStatus.IDLE,
        )
        # Nothing listens there: a question to the ledger is not answered.
        found = {b"host": b"127.0.0.1", b"port": b"1", b"dbname": b"shop", b"password": b"canary"}
        options = [SimpleNamespace(keyword=k, val=v, compiled=None) for k, v in found.items()]
        self.pgconn = SimpleNamespace(info=options)

    @property
    def closed(self) -> bool:
        """As libpq has it: a closed or broken one has no transaction status."""
        return bool(self.info.transaction_status == TransactionStatus.UNKNOWN)

    @closed.setter
    def closed(self, is_closed: bool) -> None:
        now = TransactionStatus.UNKNOWN if is_closed else TransactionStatus.IDLE
        self.info.transaction_status = now

    def cursor(self, **_: Any) -> Any:
        return self.cursor_factory()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield


class FakeEngine:
    """Applies and rolls back by noting it, or by raising *error*."""

    migration_table = "tb_confiture"

    def __init__(self, error: BaseException | None = None) -> None:
        self.connection = FakeConnection()
        self.error = error
        self.applied: list[tuple[str, bool, dict[str, Any]]] = []
        self.rolled_back: list[str] = []

    def apply(self, migration: Any, force: bool = False, *_: Any, **options: Any) -> str:  # noqa: FBT001, FBT002
        self.applied.append((migration.version, force, options))
        if self.error is not None:
            raise self.error
        return "applied"

    def rollback(self, migration: Any, skip_preconditions: bool = False) -> str:  # noqa: FBT001, FBT002, ARG002
        self.rolled_back.append(migration.version)
        if self.error is not None:
            raise self.error
        return "rolled back"


def a_migration(version: str = "005") -> Any:
    """A migration, as far as a watch looks at it."""
    return SimpleNamespace(version=version, name="add_payment_table")
