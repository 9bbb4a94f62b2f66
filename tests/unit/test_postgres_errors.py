"""Why a server refuses a connection: the few kinds are named, and nothing is quoted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from confiture_webhooks import wiring
from confiture_webhooks.adapters.backend import named
from confiture_webhooks.config import Settings
from confiture_webhooks.event import Database
from confiture_webhooks.outbox.postgres_refusal import as_role, reason_of
from confiture_webhooks.outbox.postgres_session import described, is_at
from confiture_webhooks.wiring import parts

FATAL = 'connection to server at "db.internal", port 5432 failed: FATAL:  {}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('password authentication failed for user "CANARY"', "the password is wrong"),
        ("fe_sendauth: no password supplied", "the password is wrong"),
        (
            'no pg_hba.conf entry for host "10.0.0.1", user "CANARY", database "x", no encryption',
            "pg_hba.conf does not let this role in from here",
        ),
        ('role "CANARY" does not exist', "the role does not exist"),
        ('database "CANARY" does not exist', "the database does not exist"),
        ("sorry, too many clients already", "the server, role or database has no connection left"),
        (
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "the server, role or database has no connection left",
        ),
        ('too many connections for role "CANARY"', "the server, role or database has no connect"),
        ("server does not support SSL, but SSL was required", "the server does not speak TLS"),
        ("SSL error: certificate verify failed", "the TLS certificates do not fit"),
        ('root certificate file "/CANARY" does not exist', "the TLS certificates do not fit"),
        ("connection requires a valid client certificate", "the TLS certificates do not fit"),
        ("channel binding is required, but server did not offer", "the server has another way to"),
        ('authentication method requirement "CANARY" failed', "the server has another way to"),
        ('could not translate host name "CANARY"', "the server's host name does not resolve"),
        ("server is in hot standby mode", "the server is a standby"),
        ('database "CANARY" is not currently accepting connections', "the role may not log in"),
        ('role "CANARY" is not permitted to log in', "the role may not log in to the database"),
        ('permission denied for database "CANARY"', "the role may not log in to the database"),
        ("Connection refused", "the server does not answer"),
    ],
)
def test_the_kind_of_a_refusal_is_named(text: str, reason: str) -> None:
    """With what to do about it, and without a name that the server quotes."""
    found, remedy = reason_of(psycopg.OperationalError(FATAL.format(text)))
    assert found.startswith(reason)
    assert remedy
    assert "CANARY" not in found + remedy


@pytest.mark.parametrize(
    "option",
    ["sslmode=CANARY", "target_session_attrs=CANARY", "port=CANARY", "keepalives_idle=CANARY"],
)
def test_a_wrong_value_in_a_dsn_is_no_server_that_is_down(option: str) -> None:
    """libpq refuses it before it dials; its words differ for each kind."""
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(f"host=127.0.0.1 {option}")
    found, remedy = reason_of(refused.value)
    assert found == "an option of its DSN has a wrong value"
    assert "CANARY" not in remedy
    text = "could not match 2 port numbers to 3 hosts"
    assert reason_of(psycopg.OperationalError(text)) == (found, remedy)


def test_a_refusal_in_another_language_is_one_all_the_same() -> None:
    """What no rule knows is the server that does not answer or has closed the connection."""
    error = psycopg.OperationalError(FATAL.format("Passwort-Authentifizierung fehlgeschlagen"))
    assert "closed the connection" in reason_of(error)[0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (psycopg.errors.InsufficientPrivilege, "the role may not use or create it"),
        (psycopg.errors.UndefinedTable, "its tables are not there"),
        (psycopg.errors.TooManyConnections, "the server, role or database has no connection left"),
        (psycopg.errors.RaiseException, "somebody has changed its tables, or put a trigger"),
        (psycopg.errors.LockNotAvailable, "another session keeps its tables locked"),
        (psycopg.errors.ReadOnlySqlTransaction, "the server is a standby"),
        (psycopg.errors.FeatureNotSupported, "the server is a standby"),
        (psycopg.errors.UntranslatableCharacter, "its database's encoding cannot hold a name"),
        (psycopg.errors.DiskFull, "the server refuses (DiskFull, 53100)"),
    ],
)
def test_the_kind_of_an_answer_is_named(error: type[psycopg.Error], reason: str) -> None:
    """By its SQLSTATE, in whatever language its text is."""
    assert reason_of(error("CANARY"))[0].startswith(reason)


class Info:
    """What a connection says of itself."""

    def __init__(self, host: str, port: int, dbname: str) -> None:
        self.host, self.port, self.dbname = host, port, dbname


@pytest.mark.parametrize(
    ("dsn", "is_same"),
    [
        ("host=db port=5433 dbname=shop", True),
        ("postgresql://u:p@db:5433/shop?sslmode=require", True),
        ("host=other,db port=5432,5433 dbname=shop", True),
        ("host=db port=5432 dbname=shop", False),
        ("host=db port=5433 dbname=other", False),
        ("host=db2 port=5433 dbname=shop", False),
    ],
)
def test_a_connection_is_to_the_database_of_a_dsn(dsn: str, is_same: bool) -> None:
    """By host, port and name, without asking anybody."""
    assert is_at(dsn, Info("db", 5433, "shop")) == is_same
    assert is_at("host=localhost dbname=x port=1", Info("127.0.0.1", 1, "x"))


def test_an_outbox_without_an_address_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq would dial what its own variables name."""
    monkeypatch.setattr(wiring.postgres_schema, "is_there", lambda dsn: 1 // 0)  # noqa: ARG005
    assert not wiring.outbox_exists(Settings(outbox="postgres"), is_asked=True)


@pytest.mark.parametrize(
    ("outbox", "is_in"),
    [
        ("postgres", True),
        ("postgres:postgresql://u@db/shop", True),
        ("postgres:postgresql://u@db/other", False),
    ],
)
def test_an_outbox_is_found_in_the_migrated_database(outbox: str, is_in: bool) -> None:
    """A DSN that leaves the port out is of the usual one."""
    connection = SimpleNamespace(info=Info("db", 5432, "shop"))
    nothing: Any = None
    made = parts(Settings(outbox=outbox), nothing, lambda: "postgresql://u@db/shop", nothing)
    assert (made.outbox(nothing).over(connection) is not None) == is_in


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        ("postgresql://dep@db:5433/shop", "postgresql://ADMIN@db:5433/shop"),
        ("postgresql://dep@db:5433", "postgresql://ADMIN@db:5433/dep"),
        ("service=shop", "DSN"),
        ("postgresql://dep@one,two/shop", "DSN"),
    ],
)
def test_an_administrators_command_leads_to_the_same_database(dsn: str, address: str) -> None:
    """Where its name is left out it is that of the role; what a service names is not known here."""
    assert as_role("ADMIN", dsn) == f"CONFITURE_WEBHOOK_OUTBOX=postgres:{address}"


def test_no_password_is_shown() -> None:
    """Host, port and database name the server; a socket's directory is no path of a file."""
    assert described("postgresql://u:CANARY@db:1/shop") == "postgres db:1/shop"
    assert described("postgresql:///shop?host=/run/postgresql") == "postgres (local)/shop"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:a@CANARY@db/shop",
        "postgresql://u:a/CANARY@db/shop",
        "postgresql://u:1/CANARY@db/shop",
        "host=u@CANARY dbname=shop",
    ],
)
def test_a_part_of_a_password_is_no_place(dsn: str) -> None:
    """Where a bare character of it moved the parts of a DSN, none of them is shown or sent."""
    assert described(dsn) == "postgres …"
    assert named(dsn) == Database()
