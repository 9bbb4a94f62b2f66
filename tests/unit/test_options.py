"""The values of options: ``--since``, an instant or how long ago; ``--environment``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from confiture_webhooks.cli.options import each, environment_of, not_empty, since

NOW = datetime(2026, 1, 9, 14, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("90min", NOW - timedelta(minutes=90)),
        ("30 s", NOW - timedelta(seconds=30)),
        ("2H", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(days=14)),
        ("2026-01-08", datetime(2026, 1, 8, tzinfo=UTC)),
        ("2026-01-08T10:30", datetime(2026, 1, 8, 10, 30, tzinfo=UTC)),
        ("2026-01-08T10:30:00Z", datetime(2026, 1, 8, 10, 30, tzinfo=UTC)),
        ("2026-01-08T10:30+02:00", datetime(2026, 1, 8, 8, 30, tzinfo=UTC)),
        ("999999w", datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_what_it_means(text: str, instant: datetime) -> None:
    """An age counts back from now; an instant without an offset is UTC."""
    assert since(text, NOW) == instant


@pytest.mark.parametrize("text", ["", "yesterday", "7", "d", "-2h", "2026-13-01", "1y"])
def test_what_it_is_not(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(typer.BadParameter, match="neither an instant"):
        since(text, NOW)


def test_an_offset_is_kept() -> None:
    """An instant with an offset is the same instant."""
    assert since("2026-01-08T10:30+02:00", NOW).tzinfo == timezone(timedelta(hours=2))


def test_the_environment_without_a_name() -> None:
    """It is ``(none)`` to people, also where several are named."""
    assert (environment_of("(none)"), environment_of("a")) == ("", "a")
    assert environment_of(None) is None
    assert each(environment_of)(["a", "(none)"]) == ["a", ""]


def test_an_option_that_may_be_repeated_is_a_list_if_it_is_not_given() -> None:
    """Typer 0.12 cannot take ``None``."""
    assert each(not_empty)(None) == []
    with pytest.raises(typer.BadParameter):
        each(not_empty)(["a", ""])
