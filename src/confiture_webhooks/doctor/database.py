"""The migrated database, as far as a run and its outbox depend on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, LiteralString

from ..bounded import bounded
from .health import Check, ok, skipped, wrong

WAIT_S = 5
_RIGHTS = """
SELECT DISTINCT right_ FROM pg_class JOIN pg_namespace AS home ON home.oid = relnamespace,
unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_
WHERE home.nspname = 'confiture_webhooks' AND relname = 'deliveries' AND NOT CASE
  WHEN has_schema_privilege(home.oid, 'USAGE') THEN has_table_privilege(pg_class.oid, right_) END
ORDER BY right_
"""
_STANDBY = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"


def database(config_file: Path | None, environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether it takes writes; one that is not reached is the host's to report."""
    from ..adapters.database import project_dsn  # noqa: PLC0415

    try:
        dsn = project_dsn(config_file, environ)
    except Exception:  # noqa: BLE001  an address that libpq cannot read
        dsn = None
    if dsn is None:
        yield skipped("database", "no address is configured")
        return
    try:
        [[is_standby, read_only]] = bounded(lambda: _asked(dsn, _STANDBY), WAIT_S + 1)
    except Exception as error:  # noqa: BLE001  its text may hold the address
        yield skipped("database", f"not reached: {type(error).__name__}")
        return
    if is_standby:
        yield wrong(
            "database",
            "it is a standby, which takes no writes: no migration and no event in it",
            "Set the address of the primary, or target_session_attrs=read-write",
        )
    elif read_only == "on":
        yield wrong(
            "database",
            "its sessions are read-only for this role",
            "Reset default_transaction_read_only for the role or the database",
        )
    else:
        yield ok("database", "takes writes")


def missing_rights(dsn: str) -> list[str]:
    """The rights on deliveries that the role of *dsn* lacks; none if it cannot be asked."""
    try:
        return [row[0] for row in bounded(lambda: _asked(dsn, _RIGHTS), WAIT_S + 1)]
    except Exception:  # noqa: BLE001  the outbox's own check names the fault
        return []


def _asked(dsn: str, question: LiteralString) -> list[tuple[Any, ...]]:
    import psycopg  # noqa: PLC0415

    with psycopg.connect(dsn, autocommit=True, connect_timeout=WAIT_S) as connection:
        return connection.execute(question, prepare=False).fetchall()
