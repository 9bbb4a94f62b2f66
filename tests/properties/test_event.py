"""For every document: a receiver that parses and serialises again gets the same bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from confiture_webhooks.event import body, rfc3339

texts = st.text(alphabet=st.characters(exclude_categories=()))
"""Lone surrogates too."""
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda children: st.lists(children) | st.dictionaries(texts, children),
    max_leaves=20,
)
documents = st.dictionaries(texts, values)


@given(documents)
def test_the_body_can_be_made_again(document: dict[str, object]) -> None:
    """Parsing a body and dumping it with sorted keys gives the same bytes."""
    made = body(document)
    assert json.dumps(json.loads(made), sort_keys=True).encode() == made


@given(documents)
def test_the_body_is_ascii(document: dict[str, object]) -> None:
    """A body is ASCII whatever the text in it, so no receiver can misread it."""
    assert body(document).isascii()


@given(
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1)),
    st.integers(-14, 14),
)
def test_an_instant_is_written_in_utc_and_read_back(naive: datetime, hours: int) -> None:
    """The text of an instant is the same in every zone and loses less than a millisecond."""
    instant = naive.replace(tzinfo=UTC)
    text = rfc3339(instant.astimezone(timezone(timedelta(hours=hours))))
    assert text == rfc3339(instant)
    assert timedelta() <= instant - datetime.fromisoformat(text) < timedelta(milliseconds=1)
