"""How many rows a migration's own statements touched, from the server's command tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg.pq import ExecStatus
from psycopg.sql import Composable

_DML = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"MERGE"})
_OPAQUE = frozenset({b"DO", b"CALL"})
"""Tags that do not say what was done inside."""
_COPY_FROM = re.compile(r"^\s*COPY\s+[^\s(]+\s*(\([^)]*\))?\s*FROM\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_WRITES_WITHIN = re.compile(
    r"\(\s*(INSERT|UPDATE|DELETE|MERGE)\b"
    r"|(\bAS|\bMATERIALIZED|\*/|--[^\n]*\n)\s*\(\s*(--|/\*)",
    re.IGNORECASE,
)
"""A data-modifying WITH: the tag is of the statement around it. One that begins with a comment
may be one; in a string or a comment it is none, but then the total is only unknown."""
_RESULTS = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class RowTally:
    """The sum of the command tags of one migration's INSERT, UPDATE, DELETE, MERGE and COPY FROM.

    It counts what runs through the migration's connection between ``counting`` and its end.
    ``total`` is ``None`` when nothing ran through it, or when a statement hides what it
    does (``DO``, ``CALL``, a data-modifying WITH, a ``stream`` that writes, a server-side COPY
    that cannot be told from an export).
    """

    def __init__(self, hosts_table: str = "") -> None:
        """*hosts_table*: where the host keeps notes of its own while a migration runs."""
        self._hosts_table = hosts_table
        self._rows = 0
        self._statements = 0
        self._is_unknown = False
        self._is_paused = False

    @property
    def total(self) -> int | None:
        """Rows so far, or ``None`` when nobody can know."""
        return None if self._is_unknown or self._statements == 0 else self._rows

    @contextmanager
    def counting(self, connection: Any) -> Iterator[None]:
        """Count everything *connection*'s cursors run inside the block."""
        factory = connection.cursor_factory
        connection.cursor_factory = _counting(factory, self)
        try:
            yield
        finally:
            connection.cursor_factory = factory

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what the host writes for itself inside the block."""
        self._is_paused, before = True, self._is_paused
        try:
            yield
        finally:
            self._is_paused = before

    def add_results(self, cursor: Any, query: Any) -> None:
        """Count every result *cursor* holds for *query*."""
        if self._is_paused:
            return
        if _WRITES_WITHIN.search(_text(query)):
            self._is_unknown = True
        results = getattr(cursor, "_results", None) or [cursor.pgresult]
        # Of a text with several statements nobody knows which one was the COPY FROM.
        told = query if len(results) == 1 else None
        for result in results:
            if result is not None and result.status in _RESULTS:
                self._add(result.command_status or b"", told)

    def add_stream(self, query: Any) -> None:
        """Nothing tells the sum of a ``stream``, which has its rows one by one."""
        if self._is_paused:
            return
        self._statements += 1
        if _WRITES.search(_text(query)):
            self._is_unknown = True

    def add_many(self, cursor: Any, query: Any) -> None:
        """Count an ``executemany``, whose ``rowcount`` is already the sum."""
        if self._is_paused:
            return
        if _WRITES_WITHIN.search(_text(query)):
            self._is_unknown = True
        tag = (cursor.statusmessage or "").encode()
        verb = tag.split(b" ", 1)[0]
        self._statements += 1
        if verb in _DML:
            self._rows += max(cursor.rowcount, 0)
        elif verb in _OPAQUE:
            self._is_unknown = True

    def add_copy(self, cursor: Any, *, is_import: bool) -> None:
        """Count a client-side COPY once it has ended."""
        if self._is_paused:
            return
        self._statements += 1
        if is_import:
            self._rows += max(cursor.rowcount, 0)

    def give_up(self) -> None:
        """Something could not be counted: the total stays unknown."""
        self._is_unknown = True

    def _add(self, tag: bytes, query: Any) -> None:
        verb, _, rest = tag.partition(b" ")
        self._statements += 1
        if verb in _DML and not self._is_hosts(query):
            self._rows += int(rest.rpartition(b" ")[2])
        elif verb == b"COPY":
            if isinstance(query, str) and _COPY_FROM.match(query):
                self._rows += int(rest)
            else:
                self._is_unknown = True
        elif verb in _OPAQUE:
            self._is_unknown = True

    def _is_hosts(self, query: Any) -> bool:
        """Whether a composed statement writes the host's own table. Plain SQL is the user's."""
        if not self._hosts_table or isinstance(query, str | bytes):
            return False
        if isinstance(query, Composable):
            return self._hosts_table in query.as_string(None)
        return any(self._hosts_table in str(value) for value in getattr(query, "values", ()))


def _text(query: Any) -> str:
    """The SQL of *query*, as far as it is written out."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, Composable):
        return query.as_string(None)
    return "".join(getattr(query, "strings", ()))


def _counting(factory: type[Any], tally: RowTally) -> type[Any]:
    """A cursor class like *factory* whose statements are counted; it never adds an error."""

    class CountingCursor(factory):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            result = super().execute(query, *args, **kwargs)
            _contained(tally, tally.add_results, self, query)
            return result

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
            super().executemany(query, *args, **kwargs)
            _contained(tally, tally.add_many, self, query)

        def stream(self, query: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            _contained(tally, tally.add_stream, query)
            return super().stream(query, *args, **kwargs)  # type: ignore[no-any-return]

        @contextmanager
        def copy(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            with super().copy(*args, **kwargs) as copy:
                is_import = self.pgresult is not None and (
                    self.pgresult.status == ExecStatus.COPY_IN
                )
                yield copy
            _contained(tally, tally.add_copy, self, is_import=is_import)

    return CountingCursor


def _contained(tally: RowTally, count: Any, *args: Any, **kwargs: Any) -> None:
    try:
        count(*args, **kwargs)
    except Exception:  # noqa: BLE001  a count that breaks must never fail a migration
        tally.give_up()
