"""Nothing is lost and nothing invented, whatever instant a process is killed at."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from confiture_webhooks.local_postgres import LocalPostgres
from confiture_webhooks.receiver import LocalReceiver
from kill.siege import ANSWERS, WAVE, Siege, besiege, keeping_server
from often import IS_CI
from project import Project


@pytest.fixture
def server() -> Iterator[LocalPostgres]:
    """A server of this test's own."""
    with tempfile.TemporaryDirectory() as above, keeping_server(Path(above)) as server:
        yield server


KILLS = {"sqlite": 50, "postgres": 20} if IS_CI else {"sqlite": 12, "postgres": 8}


@pytest.mark.survived("SIGKILL of a run, a rollback or a worker at random instants", "kept", "true")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("outbox", "kills"), KILLS.items())
def test_kills_lose_and_invent_nothing(
    server: LocalPostgres, tmp_path: Path, outbox: str, kills: int
) -> None:
    """Of up, down, deliver, a watching worker and the server: every commit is reported, and reported once."""
    seed = random.randrange(2**32)
    project = Project(tmp_path / "project", server.dsn())
    answers = list(islice(cycle(ANSWERS), 100 * kills))
    try:
        with LocalReceiver(answers=answers) as receiver:
            siege = Siege(project, receiver, server, outbox=outbox, seed=seed)
            toll = besiege(siege, kills)
    finally:
        project.close()
    assert (toll.lost, toll.invented) == (0, 0), (seed, toll.details)
    assert toll.kills.total() == kills
    assert toll.events
    if kills > len(WAVE):  # each of them is struck; deliver may be too quick
        assert toll.kills.keys() >= {"up", "down", "watch", "server"}
        assert toll.events > kills
