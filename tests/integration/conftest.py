"""An outbox's file, a directory that cannot be written, a database with a ledger, a transport."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from confiture_webhooks.adapters import http_exchange, http_way
from confiture_webhooks.adapters.http import HttpTransport
from contract.made import filled
from ledgers import LEDGER
from observed import Observed

NOBODY = 65534


@pytest.fixture
def outbox_path(tmp_path: Path) -> Path:
    """Where an outbox can be made, in a directory that is not there yet."""
    return tmp_path / ".confiture" / "webhooks.db"


@pytest.fixture
def read_only_project() -> Iterator[Path]:
    """A directory that cannot be written, with an outbox in one that cannot, either."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    inner = directory / ".confiture"
    filled(inner / "webhooks.db")
    for one in (inner, directory):
        one.chmod(0o555)
    (inner / "webhooks.db").chmod(0o644)
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    yield directory
    if is_root:
        os.setresuid(0, 0, 0)
    for one in (directory, inner):
        one.chmod(0o755)
    for file in inner.iterdir():
        file.unlink()
    inner.rmdir()
    directory.rmdir()


@pytest.fixture
def shop(database: str) -> str:
    """A database with an empty ledger."""
    with psycopg.connect(database) as connection:
        connection.execute(LEDGER.format("tb_confiture"))
    return database


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    """A transport that is closed afterwards."""
    transport = HttpTransport()
    yield transport
    transport.abort()
    transport.close()


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Observed]:
    """What attempts export while requests is instrumented."""
    observed = Observed(monkeypatch)
    yield observed
    observed.close()


@pytest.fixture
def leaves_bodies_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport waits a tenth of a second, not a whole one, for what follows a status line."""
    assert http_exchange.ANSWER_BODY_S == 1
    monkeypatch.setattr(http_exchange, "ANSWER_BODY_S", 0.1)


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport looks before each request for what changed around it, not once a second."""
    monkeypatch.setattr(http_way, "LOOKS_AROUND_EVERY_S", -1.0)
