"""The migrated database, as far as a run and its outbox depend on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..bounded import bounded
from .health import Check, ok, skipped, wrong

WAIT_S = 5
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
        is_standby, read_only = bounded(lambda: _asked(dsn), WAIT_S + 1)
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


def _asked(dsn: str) -> tuple[bool, str]:
    import psycopg  # noqa: PLC0415

    with psycopg.connect(dsn, autocommit=True, connect_timeout=WAIT_S) as connection:
        connection.prepare_threshold = None
        row = connection.execute(_STANDBY).fetchone()
    assert row is not None
    return bool(row[0]), str(row[1])


def may_make(dsn: str) -> bool:
    """Whether the role of *dsn* may create the outbox there. Raises OutboxError."""
    from ..outbox.postgres import may_make as asked  # noqa: PLC0415

    return asked(dsn)
