"""Nothing is lost and nothing invented, whatever instant a process is killed at."""

from __future__ import annotations

import random
from itertools import cycle, islice
from typing import Any

import pytest

from confiture_webhooks.receiver import LocalReceiver
from kill.siege import ANSWERS, Siege, besiege, is_available

KILLS = 50


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_fifty_kills_lose_and_invent_nothing(project: Any, outbox: str) -> None:
    """SIGKILL at random instants of up, down and deliver: every commit is told, and told once."""
    if not is_available(outbox):
        pytest.skip(f"the {outbox} outbox is not part of this version")
    seed = random.randrange(2**32)
    with LocalReceiver(answers=list(islice(cycle(ANSWERS), 100 * KILLS))) as receiver:
        toll = besiege(Siege(project, receiver, outbox=outbox, seed=seed), KILLS)
    assert (toll.lost, toll.invented) == (0, 0), (seed, toll.details)
    assert toll.kills.total() == KILLS
    assert set(toll.kills) == {"up", "down", "deliver"}
    assert toll.events > KILLS
