"""The address of the migrated database: from its connection, or as Confiture would find it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg import conninfo

from ..config_file import expand, read
from ..config_values import Invalid

VARIABLES = ("CONFITURE_DATABASE_URL", "DATABASE_URL")


def dsn_of(connection: Any) -> str:
    """What *connection* (open: afterwards libpq no longer tells) was made with."""
    info = connection.info
    password = {"password": info.password} if info.password else {}
    return conninfo.make_conninfo(**info.get_parameters(), **password)


def project_dsn(config_file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The database Confiture would use here; ``None``: none is named.

    *config_file* is the environment file, ``None`` where the address comes from a variable.
    """
    from confiture.core.connection import dsn_from_config  # noqa: PLC0415

    if config_file is None:
        return next((environ[name] for name in VARIABLES if environ.get(name)), None)
    try:
        content = read(config_file)
    except Invalid:
        return None
    named = {key: content[key] for key in ("database_url", "database") if content.get(key)}
    found, findings = expand(named, environ)
    return dsn_from_config(found) if named and not findings else None
