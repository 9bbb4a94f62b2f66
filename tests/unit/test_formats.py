"""Every event in every format: what the provider accepts, within its limits, and no secret kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from confiture_webhooks import formats
from confiture_webhooks.delivery import Delivery
from confiture_webhooks.doctor.endpoints import signs
from confiture_webhooks.doctor.findings import Health
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import (
    OF_RUNS,
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
    payload,
)
from confiture_webhooks.formats import complete, render
from confiture_webhooks.formats.message import TITLES, cut, message
from confiture_webhooks.signature import body_signature
from confiture_webhooks.transport import Request, prepare
from providers import ROUTING_KEY, accept
from samples import AT, ERROR, delivery, endpoint, event

FORMATS = [name for name in formats.FORMATS if name != "confiture"]
WORDS = [name for name, one in formats.FORMATS.items() if one.make]
ROWS = [{"version": "005", "name": "005_a", "direction": "up", "status": "success"}]
NOTHING: dict[str, Any] = {"migration": None, "direction": None, "rows_affected": None}
EVENTS = {
    EventType.MIGRATION_SUCCESS: event(),
    EventType.MIGRATION_ERROR: event(type=EventType.MIGRATION_ERROR, error=ERROR),
    EventType.MIGRATION_ROLLBACK: event(
        type=EventType.MIGRATION_ROLLBACK, direction=Direction.DOWN
    ),
    EventType.MIGRATION_ROLLBACK_ERROR: event(
        type=EventType.MIGRATION_ROLLBACK_ERROR, direction=Direction.DOWN, error=ERROR
    ),
    EventType.MIGRATION_STARTED: event(
        type=EventType.MIGRATION_STARTED, ended_at=None, duration_s=None, rows_affected=None
    ),
    EventType.RUN_SUCCESS: event(type=EventType.RUN_SUCCESS, migrations=ROWS, **NOTHING),
    EventType.RUN_ERROR: event(
        type=EventType.RUN_ERROR, migrations=ROWS * 1700, error=ERROR, **NOTHING
    ),
    EventType.PING: Event(
        id="evt_2", type=EventType.PING, occurred_at=AT, trace_id="4bf9" * 8, environment=None
    ),
}
LONG = {
    "every kind": "\N{GRINNING FACE}é<!everyone> & \"'\\ \ud800\n" * 80,
    "the widest": "\N{GRINNING FACE}" * 1500,
}


def hostile(what: Event, text: str) -> Event:
    """*what*, with *text* wherever there is one."""
    return replace(
        what,
        environment=text,
        database=Database(host=text, name=text),
        migration=what.migration and MigrationRef(version=text, slug=text),
        error=what.error and ErrorInfo(type=text, message=text, sqlstate=text, detail=text),
        migrations=what.migrations and [{**row, "name": text} for row in what.migrations[:60]],
    )


def to(chosen: str, **changes: Any) -> Endpoint:
    """An endpoint of the format *chosen*, set up as its provider wants it."""
    own: dict[str, Any] = {
        "pagerduty": {"routing_key": ROUTING_KEY},
        "opsgenie": {
            "headers": {"Authorization": "GenieKey k3y"},
            "url": "https://api.invalid/v2/alerts",
        },
    }.get(chosen, {})
    return endpoint(format=chosen, **own | changes)


def stored(what: Event, where: Endpoint) -> Delivery:
    """The delivery of *what* as an outbox keeps it."""
    body, content_type = render(what, where)
    return delivery(event_id=what.id, body=body, content_type=content_type)


def sent(what: Event, where: Endpoint) -> Request:
    """The request of the first attempt."""
    return prepare(where, stored(what, where), attempt=1, at=AT)


def accepted(chosen: str, what: Event, **changes: Any) -> str:
    """What the provider does with *what*, which it accepts."""
    request = sent(what, to(chosen, **changes))
    parts = urlsplit(request.url)
    return accept(chosen, f"{parts.path}?{parts.query}", request.headers, request.body)


def test_every_event_has_a_title_and_a_sample_here() -> None:
    """No kind is left out, of the formats or of these tests, but a hook's own, sent as it is."""
    assert set(EVENTS) == set(TITLES) | OF_RUNS == set(EventType) - {EventType.CUSTOM}


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_the_provider_accepts(chosen: str, kind: EventType) -> None:
    """Each event in each format is valid by the provider's schema."""
    assert accepted(chosen, EVENTS[kind])


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("chosen", FORMATS)
def test_what_is_not_known_is_left_out(chosen: str, kind: EventType) -> None:
    """An event without environment, database, SQLSTATE or rows is valid too."""
    bare = replace(EVENTS[kind], environment=None, database=Database(), rows_affected=None)
    error = bare.error and ErrorInfo(type="E", message="")
    assert accepted(chosen, replace(bare, error=error, migrations=bare.migrations and []))


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("long", LONG)
@pytest.mark.parametrize("chosen", FORMATS)
def test_limits_are_kept_by_cutting_texts(chosen: str, long: str, kind: EventType) -> None:
    """Texts without end, of any characters, are cut: the JSON stays whole and small enough."""
    assert accepted(chosen, hostile(EVENTS[kind], LONG[long]), include_sql=True)


@pytest.mark.parametrize("chosen", FORMATS)
def test_what_a_hook_sends_goes_out_as_it_is(chosen: str) -> None:
    """A hook's own payload is changed by no format, though it looks like one of the format's."""
    document = payload(EVENTS[EventType.PING], "a") | {"event_action": "trigger", "alias": "x"}
    own = delivery(event_type=EventType.CUSTOM, body=json.dumps(document).encode())
    request = prepare(to(chosen), own, attempt=1, at=AT)
    assert (request.body, request.url) == (own.body, to(chosen).url)
    assert not [name for name in request.headers if name.startswith("ce-")]


@pytest.mark.parametrize("chosen", FORMATS)
def test_a_body_is_the_same_every_time(chosen: str) -> None:
    """The same event makes the same bytes, so that signatures over re-serialised JSON hold."""
    first, second = (sent(EVENTS[EventType.MIGRATION_ERROR], to(chosen)) for _ in range(2))
    assert first.body == second.body
    assert json.dumps(json.loads(first.body), sort_keys=True).encode() == first.body


@pytest.mark.parametrize("chosen", WORDS)
def test_a_failure_reports_what_why_and_where(chosen: str) -> None:
    """Migration, error, SQLSTATE, environment and trace are in every message of a failure."""
    content = sent(EVENTS[EventType.MIGRATION_ERROR], to(chosen)).body.decode().replace("\\", "")
    for word in ("005_add_payment_table", "UndefinedTable", "42P01", "production", "4bf92f35"):
        assert word in content


@pytest.mark.parametrize("chosen", WORDS)
def test_a_run_that_failed_reports_which_migration_did(chosen: str) -> None:
    """Of the migrations of a run, the one that failed is marked."""
    rows = [*ROWS, {**ROWS[0], "name": "006_b", "status": "error"}]
    run = event(type=EventType.RUN_ERROR, migrations=rows, error=ERROR, **NOTHING)
    content = sent(run, to(chosen)).body.decode().replace("\\", "")
    assert "005_a, 006_b (failed)" in content
    assert "Migration 006_b failed in production" in content


@pytest.mark.parametrize("chosen", ["slack", "discord", "teams"])
def test_a_run_that_rolled_back_is_announced_as_such(chosen: str) -> None:
    """It names what it rolled back and where, and is not green."""
    rows = [{**ROWS[0], "name": name, "direction": "down"} for name in ("011_b", "010_a")]
    run = event(type=EventType.RUN_SUCCESS, migrations=rows, **NOTHING)
    content = sent(run, to(chosen)).body.decode()
    title = "Rolled back 2 migrations in production: 011_b, 010_a"
    assert title in content.replace("\\", "")
    green = sent(EVENTS[EventType.RUN_SUCCESS], to(chosen)).body.decode()
    assert not {"#36a64f", "Good"} & set(re.findall(r'"(?:color)": "([^"]+)"', content))
    assert "Applied 1 migration in production: 005_a" in green.replace("\\", "")


@pytest.mark.parametrize("chosen", ["slack", "discord", "teams"])
def test_a_title_that_says_it_all_stands_there_once(chosen: str) -> None:
    """A run has no second line with the same words; what previews show is beside the card."""
    content = sent(EVENTS[EventType.RUN_SUCCESS], to(chosen)).body.decode().replace("\\", "")
    preview = chosen != "discord"
    assert content.count("Applied 1 migration in production: 005_a") == 1 + preview


LINKS = {"run_url": "https://ci.example/run/7?a=1", "trace_url": "https://jaeger.example/trace/4b"}


@pytest.mark.parametrize("chosen", [name for name in FORMATS if name != "cloudevents-binary"])
@pytest.mark.parametrize("kind", [EventType.MIGRATION_ERROR, EventType.RUN_ERROR])
def test_every_message_leads_to_the_ci_run_and_the_trace(chosen: str, kind: EventType) -> None:
    """Both addresses are in it, and the provider accepts them."""
    what = replace(EVENTS[kind], command="confiture migrate up", **LINKS)
    assert accepted(chosen, what)
    content = sent(what, to(chosen)).body.decode()
    assert all(url in content for url in LINKS.values())


@pytest.mark.parametrize("long", ["x" * 3000, "(" * 900, "x" * 900])
@pytest.mark.parametrize("chosen", FORMATS)
def test_an_address_without_end_costs_no_message(chosen: str, long: str) -> None:
    """One that no service would show is left out, whatever else is long."""
    links = dict.fromkeys(LINKS, f"https://ci.example/{long}")
    what = hostile(replace(EVENTS[EventType.MIGRATION_ERROR], **links), "é" * 1500)
    assert accepted(chosen, what, include_sql=True)


def test_discord_shows_marks_as_text() -> None:
    """What Discord's Markdown would underline, hide or embolden stays as it was written."""
    error = ErrorInfo(type="E", message="a__b__ ||c|| *d* ~~e~~ `f` [g](https://h)")
    content = json.loads(
        sent(event(type=EventType.MIGRATION_ERROR, error=error), to("discord")).body
    )
    (field,) = [one for one in content["embeds"][0]["fields"] if one["name"] == "Error"]
    assert not re.search(r"(?<!\\)[*_~`|\[]", field["value"])


def test_a_directory_of_sockets_does_not_look_like_the_path_of_a_file() -> None:
    """The host of a database may be one."""
    there = event(database=Database(host="/run/postgresql", name="shop"))
    fields = json.loads(sent(there, to("discord")).body)["embeds"][0]["fields"]
    (field,) = [one for one in fields if one["name"] == "Database"]
    assert field["value"] == "shop on /run/postgresql"


@pytest.mark.parametrize("chosen", WORDS)
def test_sql_is_sent_only_when_asked_for(chosen: str) -> None:
    """The whole error text, SQL and all, needs ``include_sql``."""
    failure = EVENTS[EventType.MIGRATION_ERROR]
    assert "SELECT" not in sent(failure, to(chosen)).body.decode()
    assert "SELECT" in sent(failure, to(chosen, include_sql=True)).body.decode()


def test_cloudevents_carry_the_default_payload() -> None:
    """Structured or binary, the data is the payload of the default format."""
    structured = json.loads(sent(event(), to("cloudevents")).body)
    binary = sent(event(), to("cloudevents-binary"))
    assert structured["data"] == json.loads(binary.body) == payload(event(), "analytics")
    assert structured["type"] == "com.github.fraiseql.confiture.migration_success"
    assert structured["source"] == "/confiture/production/shop"
    assert structured["subject"] == "005_add_payment_table"
    assert binary.headers["ce-source"] == "/confiture/production/shop"


def test_headers_of_cloudevents_are_escaped() -> None:
    """What a header cannot carry arrives percent-encoded, as the binding says."""
    odd = event(migration=MigrationRef(version="1", slug='é "%'))
    assert sent(odd, to("cloudevents-binary")).headers["ce-subject"] == "1_%C3%A9%20%22%25"


def test_attributes_of_cloudevents_hold_no_control_character() -> None:
    """The specification allows none, and the name of a file may."""
    odd = event(migration=MigrationRef(version="1", slug="a\nb\x85é"))
    assert json.loads(sent(odd, to("cloudevents")).body)["subject"] == r"1_a\nb\x85é"
    assert sent(odd, to("cloudevents-binary")).headers["ce-subject"] == r"1_a\nb\x85%C3%A9"


@pytest.mark.parametrize("chosen", WORDS)
def test_a_fact_that_is_blank_is_left_out(chosen: str) -> None:
    """Discord refuses a field without text; nothing is a number of rows, too."""
    error = ErrorInfo(type="Exception", message="m", detail=" \n")
    blank = event(type=EventType.MIGRATION_ERROR, error=error, rows_affected=0)
    body = sent(blank, to(chosen, include_sql=True)).body.decode()
    assert "Detail" not in body
    assert "Rows" in body


def test_nobody_is_mentioned() -> None:
    """A name or an error cannot call a whole channel."""
    loud = event(
        type=EventType.MIGRATION_ERROR,
        error=ErrorInfo(type="E", message="@everyone <!channel> <https://x|y>"),
    )
    assert "<" not in sent(loud, to("slack")).body.decode()
    assert json.loads(sent(loud, to("discord")).body)["allowed_mentions"] == {"parse": []}


# Paging


@pytest.mark.parametrize(
    ("chosen", "opened", "closed"),
    [("pagerduty", "trigger", "resolve"), ("opsgenie", "create", "close")],
)
@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (EventType.MIGRATION_ERROR, EventType.MIGRATION_SUCCESS),
        (EventType.MIGRATION_ROLLBACK_ERROR, EventType.MIGRATION_ROLLBACK),
        (EventType.RUN_ERROR, EventType.RUN_SUCCESS),
    ],
)
def test_the_next_success_closes_what_a_failure_opened(
    chosen: str, opened: str, closed: str, bad: EventType, good: EventType
) -> None:
    """A failure opens an alert; the next success, another event, closes that same one."""
    later = replace(EVENTS[good], id="evt_9", trace_id="0" * 32, occurred_at=AT + timedelta(days=1))
    verb, _, name = accepted(chosen, EVENTS[bad]).partition(" ")
    assert verb == opened
    assert accepted(chosen, later) == f"{closed} {name}"


@pytest.mark.parametrize("chosen", ["pagerduty", "opsgenie"])
@pytest.mark.parametrize(
    ("bad", "down"),
    [
        (
            EventType.MIGRATION_ERROR,
            event(type=EventType.MIGRATION_ROLLBACK, direction=Direction.DOWN),
        ),
        (
            EventType.RUN_ERROR,
            event(
                type=EventType.RUN_SUCCESS,
                migrations=[{**ROWS[0], "direction": "down"}],
                **NOTHING,
            ),
        ),
    ],
)
def test_a_rollback_closes_no_alert_of_an_up(chosen: str, bad: EventType, down: Event) -> None:
    """What failed on the way up is still to be done: only the next success of it closes it."""
    opened = accepted(chosen, EVENTS[bad]).partition(" ")[2]
    assert accepted(chosen, down).partition(" ")[2] != opened


@pytest.mark.parametrize("chosen", ["pagerduty", "opsgenie"])
@pytest.mark.parametrize(
    "other",
    [
        {"environment": "staging"},
        {"migration": MigrationRef(version="006", slug="add_payment_table")},
        {"database": Database(host="db.production.internal", name="other")},
        {"database": Database(host="elsewhere", name="shop")},
        {"type": EventType.MIGRATION_STARTED},
        {"type": EventType.PING, "migration": None},
        {"type": EventType.RUN_SUCCESS, "migration": None},
    ],
)
def test_nothing_else_closes_it(chosen: str, other: dict[str, Any]) -> None:
    """Another migration, environment or database, a start, a ping or a run leaves it open."""
    opened = accepted(chosen, EVENTS[EventType.MIGRATION_ERROR]).partition(" ")[2]
    assert accepted(chosen, event(**other)).partition(" ")[2] != opened


@pytest.mark.parametrize("chosen", ["pagerduty", "opsgenie"])
def test_long_names_stay_apart(chosen: str) -> None:
    """Two migrations whose names differ only beyond the limit are two alerts."""
    names = {
        accepted(
            chosen,
            event(type=EventType.RUN_ERROR, environment="e" * 600 + end, error=ERROR, **NOTHING),
        )
        for end in "ab"
    }
    assert len(names) == 2


def test_the_routing_key_is_not_stored() -> None:
    """The body an outbox keeps has no routing key; the one that is sent and signed has it."""
    where = to("pagerduty", secrets=("s",))
    kept = stored(EVENTS[EventType.MIGRATION_ERROR], where)
    request = prepare(where, kept, attempt=1, at=AT)
    assert ROUTING_KEY.encode() not in kept.body
    assert json.loads(request.body) == {**json.loads(kept.body), "routing_key": ROUTING_KEY}
    assert request.headers["X-Confiture-Signature"] == body_signature("s", request.body)
    assert ROUTING_KEY not in repr(where) + repr(request) + repr(kept)


def test_the_query_of_an_address_stays() -> None:
    """The address that closes an alert keeps what was in the configured one."""
    url = complete(
        to("opsgenie", url="https://api.invalid/v2/alerts/?proxy=1"),
        stored(event(), to("opsgenie")),
    ).url
    assert url.startswith("https://api.invalid/v2/alerts/confiture%3Aproduction%3A")
    assert url.endswith("/close?proxy=1&identifierType=alias")


@pytest.mark.parametrize("chosen", formats.FORMATS)
@pytest.mark.parametrize("content", [b'{"event_id": "evt_1"}', b"[1]", b"1", b'"text"'])
def test_a_body_of_another_format_is_sent_as_it_was_stored(chosen: str, content: bytes) -> None:
    """A delivery made before the format was changed is left alone."""
    completed = complete(to(chosen), delivery(body=content))
    assert (completed.body, completed.url) == (content, to(chosen).url)


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("\N{GRINNING FACE}" * 2, 4, "\N{GRINNING FACE}" * 2),
        ("\N{GRINNING FACE}" * 2, 3, "\N{GRINNING FACE}…"),
        ("\N{GRINNING FACE}" * 2, 2, "…"),
    ],
)
def test_cut(text: str, limit: int, shown: str) -> None:
    """A text is cut between characters, to so many UTF-16 units."""
    assert cut(text, limit) == shown


def test_a_summary_is_one_line_with_all_that_matters() -> None:
    """What a notification on a phone shows says which migration failed, where and why."""
    assert message(EVENTS[EventType.MIGRATION_ERROR]).summary == (
        "Migration failed: 005_add_payment_table (up) in production: "
        'UndefinedTable: relation "nosuch" does not exist'
    )


def test_every_format_is_documented() -> None:
    """The table of docs/formats.md has every format, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    table = page.partition("| `format` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(formats.FORMATS)


@pytest.mark.parametrize("chosen", formats.FORMATS)
def test_an_endpoint_without_a_secret_is_a_warning_where_a_receiver_checks_signatures(
    chosen: str,
) -> None:
    """Services know the sender by its address; every other receiver should get a signature."""
    plain = Endpoint(name="a", url="https://hooks.example.com/x", format=chosen)
    is_service = chosen in {"slack", "discord", "teams", "pagerduty", "opsgenie"}
    assert signs(plain).status == (Health.OK if is_service else Health.WARNING)
