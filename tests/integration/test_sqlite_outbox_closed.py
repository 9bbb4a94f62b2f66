"""An outbox of the project that another user keeps closed: reported, never passed over."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from confiture_webhooks.config import Settings
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox.sqlite import SqliteOutbox, open_outbox
from confiture_webhooks.outbox.sqlite_file import default_path
from confiture_webhooks.wiring import operators_outbox
from contract.made import filled

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user whom modes hold back: for root, somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture(params=["directory", "file"])
def closed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The outbox of the project in the current directory; it, or its directory, is closed."""
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        project.chmod(0o755)
        path = default_path(project, {})
        filled(path)
        path.parent.chmod(0o755)
        shut = path if request.param == "file" else path.parent
        before = shut.stat().st_mode
        shut.chmod(0)
        monkeypatch.chdir(project)
        with without_rights():
            yield path
        shut.chmod(before)


def test_the_users_state_does_not_take_its_place(closed: Path) -> None:
    """Its deliveries are not passed over for an empty file elsewhere."""
    assert default_path(closed.parents[1], {"HOME": "/home/ada"}) == closed


def test_opening_it_says_whose_it_is(closed: Path) -> None:
    """The reason names the owner and what to do."""
    owner = closed.parents[1].owner()
    with pytest.raises(OutboxError, match=f"closed to this user; it belongs to {owner}. Run this"):
        SqliteOutbox(closed)


def test_a_run_is_refused_it_too(closed: Path) -> None:
    """What a run opens sets nothing aside that is only closed."""
    with pytest.raises(OutboxError, match="closed to this user"):
        open_outbox(closed, print)
    assert list(closed.parent.parent.rglob("*.corrupt-*")) == []


@pytest.mark.usefixtures("closed")
def test_a_command_of_the_operator_refuses_it() -> None:
    """It is not taken for an empty one, of which a check would say that all is well."""
    settings = Settings(endpoints=(), environment="local")
    with pytest.raises(OutboxError, match="closed to this user"):
        operators_outbox(settings)
