"""How many rows a migration's own statements touched, from the server's command tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg.pq import ExecStatus, PipelineStatus
from psycopg.sql import SQL, Composable, Composed, Identifier

from ..bounded import containing
from ..outbox.postgres_session import identifier

_DML = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"MERGE"})
_OPAQUE = frozenset({b"COPY", b"DO", b"CALL", b"EXPLAIN"})
"""Tags that do not say what was done: of several statements, none says which was a COPY FROM."""
_MAY_HIDE = _DML | {b"SELECT", b"PREPARE"}
"""Tags of statements that may have a data-modifying WITH, which they do not count."""
_COPY_FROM = re.compile(r"\s*+COPY\s++[^\s(]++\s*+(?:\([^)]*+\)\s*+)?FROM\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_COMMENT = re.compile(r"'(?:[^']|'')*+'|--[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)")
"""Comments, and the strings that may look like one."""
_WRITES_WITHIN = re.compile(r"\(\s*+(?:INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
"""A data-modifying WITH. In a string it is none, but then the total is only unknown."""
_WRITES_ITSELF = re.compile(r"\s*+(?:INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
"""A statement without a WITH of its own: the server takes a data-modifying one nowhere else."""
LOOKED_THROUGH = 16_384
"""Characters of a text that are looked through, in a third of a millisecond."""
SEARCHED = 262_144
"""Characters that are searched for the word ``with``, as quickly; a longer text is not read."""
PIECE = 256
"""One piece of a composed text counts for this at least: many pieces take time, too."""
_RESULTS = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


@dataclass(eq=False)
class RowTally:
    """The sum of the command tags of one migration's INSERT, UPDATE, DELETE, MERGE and COPY FROM.

    It counts what runs through the migration's connection between ``counting`` and its end.
    ``total`` is ``None`` when nothing ran through it, or when a statement hides its work: ``DO``,
    ``CALL``, a data-modifying WITH, a ``stream`` that writes, a server-side COPY that may be an
    export, a pipeline, whose answers come later.
    """

    ledger: str = "tb_confiture"
    """The host's table of migrations, with or without its schema."""
    is_paused: bool = False
    """Whether what runs now is no work of the migration."""
    _rows: int = 0
    _has_run: bool = False
    _is_unknown: bool = False

    @property
    def total(self) -> int | None:
        """Rows so far, or ``None`` when they cannot be known."""
        return self._rows if self._has_run and not self._is_unknown else None

    @contextmanager
    def counting(self, connection: Any) -> Iterator[None]:
        """Count everything *connection*'s cursors run inside the block; no cursor raises more."""
        factory, tally = connection.cursor_factory, self

        class CountingCursor(factory):  # type: ignore[misc, valid-type]
            def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                result = super().execute(query, *args, **kwargs)
                tally.count(tally.add_results, self, query)
                return result

            def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
                super().executemany(query, *args, **kwargs)
                tally.count(tally.add_many, self, query)

            def stream(self, query: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
                tally.count(tally.add_stream, self, query)
                return super().stream(query, *args, **kwargs)  # type: ignore[no-any-return]

            @contextmanager
            def copy(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
                with super().copy(*args, **kwargs) as copy:
                    begun = self.pgresult
                    is_import = begun is not None and begun.status == ExecStatus.COPY_IN
                    yield copy
                tally.count(tally.add_copy, self, is_import=is_import)

        connection.cursor_factory = CountingCursor
        try:
            yield
        finally:
            if connection.cursor_factory is CountingCursor:  # else the migration chose its own
                connection.cursor_factory = factory

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what the host writes for itself inside the block."""
        self.is_paused, before = True, self.is_paused
        try:
            yield
        finally:
            self.is_paused = before

    def count(self, add: Callable[..., None], cursor: Any, *what: Any, **facts: Any) -> None:
        """Have *add* count what *cursor* did; if that breaks, no migration fails: it is unknown."""
        if not self.is_paused:
            self._has_run = True
            with containing("counting rows", self._give_up):
                self._is_unknown |= cursor.connection.pgconn.pipeline_status != PipelineStatus.OFF
                add(cursor, *what, **facts)

    def _give_up(self, *_: object) -> None:
        self._is_unknown = True

    def add_results(self, cursor: Any, query: Any) -> None:
        # The public ways to the results move the user's cursor.
        """Count every result *cursor* holds for *query*."""
        results = [result for result in cursor._results if result is not None]  # noqa: SLF001
        tags = [one.command_status or b"" for one in results if one.status in _RESULTS]
        is_one = len(results) == 1
        for tag in tags:
            verb, _, rest = tag.partition(b" ")
            if verb in _DML and not (is_one and self._is_hosts(query)):
                self._rows += int(rest.rpartition(b" ")[2])
            elif verb == b"COPY" and is_one and _COPY_FROM.match(_read(query)[0][:LOOKED_THROUGH]):
                self._rows += int(rest)
            elif verb in _OPAQUE:
                self._is_unknown = True
        self._note_hidden(query, tags, is_one=is_one)

    def _is_hosts(self, query: Any) -> bool:
        """Whether a composed statement writes the host's own table. Plain SQL is the user's.

        There the host keeps the checkpoints of ``--online`` migrations while one runs.
        """
        theirs = f"{self.ledger.rpartition('.')[2]}_steps"
        return not isinstance(query, str | bytes) and theirs in _read(query)[0]

    def add_stream(self, _: Any, query: Any) -> None:
        """A ``stream`` has its rows one by one, and no sum."""
        text, is_whole = _read(query)
        if not is_whole or len(text) > LOOKED_THROUGH or _WRITES.search(text):
            self._is_unknown = True

    def add_many(self, cursor: Any, query: Any) -> None:
        """Count an ``executemany``, whose ``rowcount`` is already the sum."""
        known = cursor.statusmessage  # older psycopgs keep none
        [verb, *_] = (known or _read(query)[0]).upper().encode().split(None, 1)
        if verb in _DML:
            self._rows += max(cursor.rowcount, 0)
        elif verb in _OPAQUE or not known:
            self._is_unknown = True
        self._note_hidden(query, [verb], is_one=True)

    def add_copy(self, cursor: Any, *, is_import: bool) -> None:
        """Count a client-side COPY once it has ended."""
        if is_import:
            self._rows += max(cursor.rowcount, 0)

    def _note_hidden(self, query: Any, tags: Sequence[bytes], *, is_one: bool) -> None:
        """Give the total up if *query*, answered with *tags*, may have written more than they say.

        The transaction is open: what is looked at is little, however long the text is.
        """
        if _MAY_HIDE.isdisjoint(tag.partition(b" ")[0] for tag in tags):
            return
        text, is_whole = _read(query)
        if is_whole and "with" not in text.lower():
            return
        begin = text[:LOOKED_THROUGH]
        bare = _COMMENT.sub(" ", begin)
        if is_one and _WRITES_ITSELF.match(bare):
            return
        is_seen = is_whole and len(text) <= LOOKED_THROUGH
        if not is_seen or _WRITES_WITHIN.search(bare) or _WRITES_WITHIN.search(begin):
            self._is_unknown = True


def _read(query: Any) -> tuple[str, bool]:
    """The SQL of *query* without its values, and whether that is all of it; a bounded part of it.

    A composed text is not put together: that would take as long as it takes psycopg.
    """
    read, left = [], SEARCHED
    for piece in _pieces(query):
        read.append(piece[:left])
        left -= max(len(piece), PIECE)
        if left < 0:
            return "".join(read), False
    return "".join(read), True


def _pieces(query: Any) -> Iterator[str]:
    if isinstance(query, str):
        yield query
    elif isinstance(query, bytes):
        yield query[: SEARCHED + 1].decode("latin-1")
    elif isinstance(query, Composed):
        for part in query:
            yield from _pieces(part)
    elif isinstance(query, SQL):
        yield query.as_string(None)
    elif isinstance(query, Identifier):
        yield identifier(*query._obj)  # noqa: SLF001  before 3.2 psycopg needs a connection for it
    elif isinstance(query, Composable):
        yield " "
    elif hasattr(query, "interpolations"):  # a template string
        for part in query:
            is_sql = isinstance(part, str) or part.format_spec in ("i", "q")
            yield from _pieces(getattr(part, "value", part)) if is_sql else " "
