"""Every outbox there is, for the one suite that all of them pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from confiture_webhooks.outbox import Outbox
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from outbox_databases import emptied


def sqlite(directory: Path) -> Callable[[], Outbox]:
    """Everybody who opens it has a connection of their own to one file."""
    return partial(SqliteOutbox, directory / "outbox" / "webhooks.db")


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Outbox]]:
    """Opens the store under test: each call is another worker's view of the same store."""
    if request.param == "postgres":
        opening = emptied(request.getfixturevalue("outbox_database"))
    else:
        opening = sqlite(tmp_path)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(opening()))


@pytest.fixture
def outbox(opened: Callable[[], Outbox]) -> Outbox:
    """The store under test."""
    return opened()
