"""How many rows a migration's own statements touched, from the server's command tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg.pq import ExecStatus
from psycopg.sql import Composable

from ..contained import containing

_DML = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"MERGE"})
_OPAQUE = frozenset({b"DO", b"CALL"})
"""Tags that do not say what was done inside."""
_COPY_FROM = re.compile(r"\s*+COPY\s++[^\s(]++\s*+(?:\([^)]*+\)\s*+)?FROM\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_COMMENT = re.compile(r"'(?:[^']|'')*+'|--[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)")
"""Comments, and the strings that may look like one."""
_WRITES_WITHIN = re.compile(r"\(\s*+(?:INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
"""A data-modifying WITH: the tag is of the statement around it. In a string it is none, but then
the total is only unknown."""
_WRITES_ITSELF = re.compile(
    r"\s*+(?:UPDATE|DELETE|MERGE|INSERT\s++INTO\s++[^\s(]++\s*+(?:\([^()]*+\)\s*+)?(?:VALUES|SELECT))\b",
    re.IGNORECASE,
)
"""A statement that has no WITH of its own: the server takes a data-modifying one nowhere else."""
LOOKED_THROUGH = 65_536
"""Characters of a text that are looked through for such a WITH."""
SEARCHED = 4_194_304
"""Of a longer text it is only asked whether it has the word; of one longer than this, nothing."""
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

    def hides(self, query: Any) -> Hides:
        """What *query*, about to be run, may write without a tag that says so."""
        return Hides() if self._is_paused else look_at(query)

    def add_results(self, cursor: Any, query: Any, hides: Hides) -> None:
        """Count every result *cursor* holds for *query*."""
        if self._is_paused:
            return
        # The public ways to the results move the user's cursor.
        results = [result for result in cursor._results if result is not None]  # noqa: SLF001
        is_one = len(results) == 1
        if hides.alone if is_one else hides.among_others:
            self._is_unknown = True
        # Of a text with several statements no tag says which was the COPY FROM.
        for result in results:
            if result.status in _RESULTS:
                self._add(result.command_status or b"", query if is_one else None)

    def add_stream(self, query: Any) -> None:
        """A ``stream`` has its rows one by one, and no sum."""
        if self._is_paused:
            return
        self._statements += 1
        text = _text(query)
        if len(text) > LOOKED_THROUGH or _WRITES.search(text):
            self._is_unknown = True

    def add_many(self, cursor: Any, hides: Hides) -> None:
        """Count an ``executemany``, whose ``rowcount`` is already the sum."""
        if self._is_paused:
            return
        if hides.alone:
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
            if isinstance(query, str) and _COPY_FROM.match(query[:LOOKED_THROUGH]):
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


@dataclass(frozen=True, slots=True)
class Hides:
    """Whether a text may write more than its tags say: if it is one statement, or several."""

    alone: bool = False
    among_others: bool = False


def look_at(query: Any) -> Hides:
    """What the text of *query* may hide, found in time that does not grow beyond its length.

    It is looked at before it runs: between a migration's last statement and its COMMIT is nothing.
    """
    text = _text(query)
    if len(text) <= LOOKED_THROUGH:
        hides = _WRITES_WITHIN.search(_COMMENT.sub(" ", text)) or _WRITES_WITHIN.search(text)
        return Hides(alone=hides is not None, among_others=hides is not None)
    begin = _COMMENT.sub(" ", text[:LOOKED_THROUGH])
    return Hides(
        alone=_WRITES_ITSELF.match(begin) is None,
        among_others=len(text) > SEARCHED or "with" in text.lower(),
    )


def _text(query: Any) -> str:
    """The SQL of *query*, as far as it is written out."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):  # of one that is too long to be searched, its beginning
        return query[: SEARCHED + 1].decode("latin-1")
    if isinstance(query, Composable):
        return query.as_string(None)
    return "".join(getattr(query, "strings", ()))


def _counting(factory: type[Any], tally: RowTally) -> type[Any]:
    """A cursor class like *factory* whose statements are counted; it never adds an error."""

    class CountingCursor(factory):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            hides = _contained(tally, tally.hides, query)
            result = super().execute(query, *args, **kwargs)
            _contained(tally, tally.add_results, self, query, hides)
            return result

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
            hides = _contained(tally, tally.hides, query)
            super().executemany(query, *args, **kwargs)
            _contained(tally, tally.add_many, self, hides)

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


def _contained(tally: RowTally, count: Any, *args: Any, **kwargs: Any) -> Any:
    """What *count* returns; a count that breaks never fails a migration."""
    with containing("counting rows", lambda *_: tally.give_up()):
        return count(*args, **kwargs)
    return None
