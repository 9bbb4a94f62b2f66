"""The line a run ends with when it leaves deliveries behind."""

from __future__ import annotations

from confiture_webhooks.outbox import Summary
from confiture_webhooks.summary import leftover_line


def test_nothing_left_is_no_line() -> None:
    """When everything was told there is nothing to read."""
    assert leftover_line({None: Summary()}, None, {}, is_durable=True) is None


def test_the_line_tells_how_many_where_why_and_what_to_do() -> None:
    """One line holds the number, each endpoint with its reason, and the remedy."""
    left = Summary(undelivered={"ops": 1, "analytics": 3, "chat": 2})
    line = leftover_line(
        {None: left}, None, {"analytics": "503", "chat": "timeout"}, is_durable=True
    )
    assert line == (
        "confiture-webhooks: 6 deliveries not sent (analytics: 3, last answer 503, "
        "chat: 2, last attempt failed: timeout, ops: 1, waiting for the next attempt). They are kept and "
        "go out with the next 'confiture migrate' command, or now with 'confiture webhooks "
        "deliver'."
    )


def test_one_delivery_is_not_plural() -> None:
    """A single delivery is told as one."""
    line = leftover_line({None: Summary(undelivered={"ops": 1})}, None, {}, is_durable=True)
    assert line is not None
    assert "1 delivery not sent" in line


def test_what_is_in_memory_is_said_to_be_lost() -> None:
    """Without a durable outbox the line says so, and names the setting that keeps them."""
    line = leftover_line({None: Summary(undelivered={"ops": 1})}, None, {}, is_durable=False)
    assert line is not None
    assert "lost with this process" in line
    assert "CONFITURE_WEBHOOK_OUTBOX=sqlite" in line
    assert "deliver'" not in line


def test_it_is_one_line() -> None:
    """However many endpoints there are, the line has no line end."""
    line = leftover_line(
        {None: Summary(undelivered={f"e{n}": n for n in range(1, 50)})}, None, {}, is_durable=True
    )
    assert line is not None
    assert "\n" not in line


def test_other_environments_are_named_with_the_remedy() -> None:
    """What waits for another environment is not counted as this one's, and how to make it is said."""
    left = {name: Summary(undelivered={"ops": n}) for n, name in enumerate(["a", "b", None], 1)}
    line = leftover_line(left, "a", {}, is_durable=True)
    assert line is not None
    assert "1 delivery not sent (ops: 1," in line
    assert (
        "Waiting for other environments: b 2, (none) 3; 'confiture webhooks deliver --config'"
        in line
    )
    assert leftover_line(left, "c", {}, is_durable=True) is None
