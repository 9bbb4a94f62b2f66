"""The address of the migrated database: from its connection, or as Confiture would find it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg import ProgrammingError, conninfo

from ..config.file import expand, read
from ..config.rules import Invalid
from ..event import Database
from ..outbox.postgres_session import is_plain

KEYS = ("database_url", "database")
VARIABLES = ("CONFITURE_DATABASE_URL", "DATABASE_URL")


def dsn_of(connection: Any) -> str:
    """What *connection* (open: afterwards libpq forgets it) was made with.

    psycopg's own list of it needs a home directory, which not every user has.
    """
    options = [one for one in connection.pgconn.info if one.val not in (None, one.compiled)]
    return conninfo.make_conninfo(**{one.keyword.decode(): one.val.decode() for one in options})


def named(dsn: str | None) -> Database:
    """The database that *dsn* names, without asking it."""
    try:
        named = conninfo.conninfo_to_dict(dsn or "")
    except ProgrammingError:
        return Database()
    if not is_plain(named):
        return Database()
    given = {key: str(value) for key, value in named.items() if value}
    port = given.get("port", "")
    return Database(
        host=given.get("host"),
        port=int(port) if port.isdecimal() else None,
        name=given.get("dbname"),
    )


def project_dsn(config_file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The database Confiture would use here; ``None``: none can be made out.

    *config_file* is the environment file, ``None`` where the address comes from a variable.
    """
    from confiture.core.connection import dsn_from_config  # noqa: PLC0415

    if config_file is None:
        return next((environ[name] for name in VARIABLES if environ.get(name)), None)
    try:
        content, _ = read(config_file)
        if not any(map(content.get, KEYS)) and environ.get(VARIABLES[0]):
            return environ[VARIABLES[0]]
        # No more than this: a variable of another part that is not set is no fault of the address.
        found = expand({key: content.get(key) for key in KEYS}, environ)
        return str(dsn_from_config(found) or "") or None
    except Exception:  # noqa: BLE001  what the host cannot use, either
        return None


def names_database(config_file: Path | None, environ: Mapping[str, str]) -> bool:
    """Whether the file, or a variable, names the database; otherwise it is the host's default."""
    if config_file is None or environ.get(VARIABLES[0]):
        return any(map(environ.get, VARIABLES))
    try:
        content, _ = read(config_file)
    except Invalid:
        return False
    return any(map(content.get, KEYS))
