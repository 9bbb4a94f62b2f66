"""The lines that ``confiture webhooks deliver`` ends with."""

from __future__ import annotations

import pytest

from confiture_webhooks.cli.send import _lines
from confiture_webhooks.watch import PassResult


@pytest.mark.parametrize(
    ("left", "line"),
    [
        (1, "0 delivered, 0 dead letters, 1 left for later; a: 500"),
        (0, "0 delivered, 0 dead letters, 0 left for later"),
        (None, "0 delivered, 0 dead letters, the outbox does not say how many are left; a: 500"),
    ],
)
def test_a_failure_is_named_unless_all_was_sent_later(left: int | None, line: str) -> None:
    """Also if the outbox does not say whether all was."""
    result = PassResult(
        delivered=0,
        dead=0,
        gone=0,
        left=left,
        next_at=None,
        elsewhere={},
        failures={"a": "500"},
        waits=[],
        paused=[],
        open=[],
        is_done=False,
    )
    assert _lines(result) == [line]
