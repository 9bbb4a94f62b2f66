"""The stack shows what happened: every panel, alert, trace and log line, against the receivers' counts."""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pages import blocks
from stack_scenario import CANARIES, ENDPOINTS, ENVIRONMENT, Deliveries, Scenario, until
from stack_views import DIALECTS, ROOT, Asked, Views, asked, choices, marks

SILENT = {
    "Trouble reported by runs",
    "Refused",
    "Failed to send",
    "Failed to queue",
}
"""Panels that show nothing as long as all is well."""
FIRING = {
    "ConfitureRunFailed",
    "ConfitureWebhookDeadLetter",
    "ConfitureWebhookEndpointGone",
    "ConfitureWebhookErrorBudgetBurnFast",
    "ConfitureWebhookErrorBudgetBurnSlow",
}
REPAIRED = {"ConfitureRunFailed", "ConfitureWebhookDeadLetter", "ConfitureWebhookEndpointGone"}
"""Alerts that clear as soon as somebody has repaired the cause."""
SHORT_OF = 1
"""What a bar of a `compatible` graph may miss at a test's pace, where a scrape is a large part of it."""


STATED_S = {"prometheus": 20, "prometheus-3.5": 180, "victoriametrics": 30}
"""How long after a run each server's counts are exact, as `docs/observability.md` says."""


def exact_in_time(test: Callable[..., None]) -> Callable[..., None]:
    """*test*, asked again until its counts are exact or the stated time is over."""

    @functools.wraps(test)
    def patient(shown: Views, **fixtures: Any) -> None:
        deadline = time.monotonic() + STATED_S[shown.server]
        while True:
            try:
                return test(shown=shown, **fixtures)
            except AssertionError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(2)

    return patient


@pytest.fixture(params=DIALECTS)
def shown(request: pytest.FixtureRequest, views: Views) -> Views:
    """What each server shows, on its own dashboards."""
    return views.on(request.param)


@pytest.fixture(scope="session")
def sent(scenario: Scenario) -> Deliveries:
    """What the receiver had when the forty runs were over."""
    assert scenario.runs == 40
    return Deliveries.to(scenario.receiver)


@pytest.mark.parametrize(
    "query",
    [query for server in DIALECTS for query in asked(server)],
    ids=lambda query: f"{query.server}: {query.dashboard}: {query.panel}",
)
def test_every_panel_has_data(views: Views, scenario: Scenario, query: Asked) -> None:
    """No query of a panel fails on its server, and none is empty that should show something."""
    shown = views.on(query.server).panel(query)
    assert shown or query.panel in SILENT


def test_every_annotation_marks_something(shown: Views, scenario: Scenario) -> None:
    """Each annotation's expression, from its file, has marks: all of it has happened."""
    for name, expr in marks(shown.server).items():
        assert shown.marks(expr) > 0, name


@pytest.mark.parametrize("name", sorted(choices()))
def test_every_variable_offers_what_there_is(shown: Views, scenario: Scenario, name: str) -> None:
    """Each variable's query, from its file, offers the services, the environments or the endpoints."""
    selector, label = choices()[name]
    expected = {
        "job": {"confiture"},
        "deployment_environment_name": {ENVIRONMENT},
        "confiture_webhook_endpoint": set(ENDPOINTS),
    }
    assert shown.choice(selector, label) == expected[label]


@exact_in_time
def test_deliveries_are_counted_exactly(shown: Views, sent: Deliveries, scenario: Scenario) -> None:
    """The dashboard's counts by endpoint and outcome are the receivers' own."""
    expected = sent.outcomes() + Counter({("late", "deferred"): scenario.deferred})
    found = shown.table(
        "Deliveries by endpoint", "confiture_webhook_endpoint", "confiture_webhook_outcome"
    )
    assert found == dict(expected)


@exact_in_time
def test_the_graph_and_the_numbers_agree_with_the_receivers(shown: Views, sent: Deliveries) -> None:
    """Summed over its intervals the graph shows each outcome once; the single numbers fit."""
    outcomes = Counter[str]()
    for (_, outcome), count in sent.outcomes().items():
        outcomes[outcome] += count
    graph = shown.table("Deliveries by outcome", "confiture_webhook_outcome")
    graph.pop("deferred")
    if shown.server == "prometheus-3.5":
        for outcome, count in outcomes.items():
            assert abs(graph[outcome] - count) <= SHORT_OF
    else:
        assert graph == dict(outcomes)
    assert shown.number("Deliveries") == outcomes.total()
    assert shown.number("Dead letters") == outcomes["dead_letter"]
    assert shown.number("Success ratio") == pytest.approx(outcomes["delivered"] / outcomes.total())


@exact_in_time
def test_failures_and_retries_are_counted_exactly(shown: Views, sent: Deliveries) -> None:
    """Failed attempts by reason, and retries, are what the receivers answered and saw."""
    labels = ("confiture_webhook_endpoint", "error_type")
    assert shown.table("Failures by endpoint and reason", *labels) == dict(sent.failures())
    retries = Counter[str]()
    for (endpoint, _), count in shown.table("Retries by endpoint and reason", *labels).items():
        retries[endpoint] += count
    in_run = sent.retries() - Counter({"late": 1})  # its second attempt was in another run
    assert retries in (in_run, sent.retries())
    attempts = shown.table("Attempts by server and status", "http_response_status_code")
    statuses = Counter(str(request.answer.status) for request in sent.requests)
    assert attempts == dict(statuses)


@exact_in_time
def test_migrations_are_counted_exactly(shown: Views, scenario: Scenario) -> None:
    """Runs, applied and failed migrations are what the commands did."""
    assert shown.number("Applied") == scenario.applied
    assert shown.number("Failed migrations") == scenario.failed
    assert shown.number("Runs") == scenario.runs
    assert shown.number("Failed runs") == scenario.failed
    assert shown.number("Interrupted") == 0
    reasons = shown.table("Failures by reason", "confiture_migration_direction", "error_type")
    assert reasons == {("up", "42703"): scenario.failed}


def test_what_the_outboxes_hold_has_an_owner(
    shown: Views, scenario: Scenario, sent: Deliveries
) -> None:
    """An outbox that holds something has a row, an empty one that reports later does not hide it."""
    (_, dead) = (query for query in asked(shown.server) if query.panel == "In the outboxes")
    rows = {
        series["metric"]["db_namespace"]: int(series["value"][1]) for series in shown.metrics(dead)
    }
    assert rows == {scenario.database_of(scenario.dead): sent.outcomes()[("dead", "dead_letter")]}
    every = {
        series["metric"]["db_namespace"]
        for series in shown.instant("outbox:confiture_webhook_outbox_size:last")
    }
    assert every == set(scenario.databases.values())


def test_no_label_grows(views: Views, scenario: Scenario) -> None:
    """After forty runs, a restart and an upgrade there are the series there were after four."""
    assert scenario.early_series
    assert views.series() == scenario.early_series


def test_nothing_was_lost_on_the_way(views: Views, scenario: Scenario) -> None:
    """The collector refused and dropped nothing, and added every point up."""
    assert views.number("Lost in the collector") == 0


def test_alerts_fire(shown: Views, scenario: Scenario) -> None:
    """Dead letters, a 410, a failed run and lost deliveries fire on every server, and nothing else does."""
    assert until(shown.firing, FIRING.issubset, 30, "firing") == FIRING


def test_alerts_reach_alertmanager(views: Views, scenario: Scenario) -> None:
    """Alertmanager has every alert, with a link to a server that answers."""
    assert until(views.routed, FIRING.issubset, 30, "routed") == FIRING
    assert all(link.startswith("http://127.0.0.1:") for link in views.links())


def test_every_run_is_one_trace(views: Views, sent: Deliveries) -> None:
    """Each event's trace holds its delivery and attempts, under its migration, under its run."""
    for (endpoint, event_id), answers in sent.answers.items():
        trace = views.trace(sent.trace_ids()[event_id])
        deliveries = [
            (span_id, span)
            for span_id, span in trace.items()
            if span["name"] == f"deliver webhook {endpoint}"
            and span["tags"]["confiture.webhook.event_id"] == event_id
        ]
        assert deliveries, (endpoint, trace)
        attempts = 0
        for span_id, span in deliveries:
            assert trace[span["parent"]]["name"] == "apply migration"
            run = trace[trace[span["parent"]]["parent"]]
            assert (run["name"], run["parent"]) == ("confiture migrate up", None)
            attempts += sum(
                (other["name"], other["kind"], other["parent"]) == ("POST", "client", span_id)
                for other in trace.values()
            )
        assert attempts == len(answers)


def test_a_late_delivery_continues_its_trace(views: Views, sent: Deliveries) -> None:
    """What `webhooks deliver` sends is in the trace of its run, and links to the pass that sent it."""
    (event_id,) = (
        event_id
        for (endpoint, event_id), answers in sent.answers.items()
        if (endpoint, answers) == ("late", [503, 200])
    )
    trace = views.trace(sent.trace_ids()[event_id])
    first, second = sorted(
        (span for span in trace.values() if span["name"] == "deliver webhook late"),
        key=lambda span: len(span["links"]),
    )
    assert first["tags"]["confiture.webhook.outcome"] == "deferred"
    assert (second["kind"], second["parent"]) == ("consumer", first["parent"])
    (link,) = second["links"]
    worker = views.trace(link["traceID"])[link["spanID"]]
    assert worker["name"] == "drain webhook outbox"


def test_a_retry_is_an_event_of_its_delivery(views: Views, sent: Deliveries) -> None:
    """A delivery that was retried says when and why."""
    retried = next(
        key for key, answers in sent.answers.items() if key[0] == "flaky" and len(answers) > 1
    )
    trace = views.trace(sent.trace_ids()[retried[1]])
    (span,) = (span for span in trace.values() if span["name"] == "deliver webhook flaky")
    events = [event for event in span["events"] if event["event"].endswith("retry_scheduled")]
    assert [event["error.type"] for event in events] == ["503", "503"]
    assert all(0 < event["delay_s"] <= 0.2 for event in events), events


def test_traces_are_found_by_what_the_docs_name(views: Views, sent: Deliveries) -> None:
    """Jaeger finds traces by endpoint, outcome, correlation id and error type."""
    by_event = sent.trace_ids()
    at_dead = {
        by_event[event_id]: answers[-1]
        for (name, event_id), answers in sent.answers.items()
        if name == "dead"
    }
    dead = {trace_id for trace_id, answer in at_dead.items() if answer == 500}
    assert views.search(**{"confiture.webhook.outcome": "dead_letter"}) == dead
    assert views.search(**{"confiture.webhook.endpoint": "dead"}) == set(at_dead)
    assert views.search(**{"error.type": "500"}) == dead
    one = next(iter(dead))
    assert views.search(**{"confiture.webhook.correlation_id": one}) == {one}


def test_the_monitor_tab_has_our_spans(views: Views, scenario: Scenario) -> None:
    """Jaeger's Monitor tab shows calls and latencies of client and internal spans."""
    for what in ("calls", "latencies", "errors"):
        operations = {
            label["value"]
            for metric in views.monitor(what)
            for label in metric["labels"]
            if label["name"] == "operation"
        }
        assert {"POST", "apply migration", "confiture migrate up"} <= operations, what


def test_the_monitor_tab_shows_milliseconds(views: Views, scenario: Scenario) -> None:
    """The page shows every latency as milliseconds: a delivery with two waits of 0.2 s has over 400."""
    (flaky,) = (
        metric
        for metric in views.monitor("latencies")
        if {"name": "operation", "value": "deliver webhook flaky"} in metric["labels"]
    )
    shown = [float(point["gaugeValue"]["doubleValue"]) for point in flaky["metricPoints"]]
    assert 400 < max(value for value in shown if not math.isnan(value)) < 60_000


def test_exemplars_lead_to_traces(views: Views, scenario: Scenario) -> None:
    """An exemplar of the latency panel names a trace that Jaeger has, with a delivery in it."""
    panels = {query.expr for query in asked() if query.has_exemplars}
    assert len(panels) == 3
    for expr in panels:
        found = [exemplar for series in views.exemplars(expr) for exemplar in series["exemplars"]]
        assert found
        trace = views.trace(found[-1]["labels"]["trace_id"])
        assert any(span["name"].startswith("deliver webhook") for span in trace.values())


def test_each_delivery_is_in_the_logs(views: Views, sent: Deliveries) -> None:
    """VictoriaLogs finds each delivery's end by its trace id, with every field."""
    for (endpoint, event_id), answers in sent.answers.items():
        lines = views.logs(f'{{service.name="confiture"}} trace_id:="{sent.trace_ids()[event_id]}"')
        ended = [
            line
            for line in lines
            if line.get("event_id") == event_id
            and line["endpoint"] == endpoint
            and line["event_name"] not in {"webhook.attempt_failed", "webhook.deferred"}
        ]
        assert len(ended) == 1, (endpoint, lines)
        assert ended[0]["severity_number"] == ("9" if answers[-1] < 300 else "17")
        assert ended[0]["span_id"] and ended[0]["correlation_id"] == ended[0]["trace_id"]
        assert ended[0]["environment"] == ENVIRONMENT


def documented(language: str) -> list[str]:
    """The queries that the docs show, one a line, and the runbooks within their text."""
    pages = [ROOT / "docs" / name for name in ("observability.md", "runbooks.md")]
    shown = [block.text for page in pages for block in blocks(page) if block.language == language]
    found = [line for text in shown for line in text.splitlines() if line.strip()]
    if language == "logsql":
        found += re.findall(r'`(\{service\.name="confiture"\} [^`]+)`', pages[1].read_text())
    return found


def test_the_queries_of_the_docs_find_what_they_say(views: Views, sent: Deliveries) -> None:
    """Every LogsQL query of the docs finds lines; of failed attempts, as many as there were."""
    trace_id = next(iter(sent.trace_ids().values()))
    queries = documented("logsql")
    assert len(queries) >= 6
    for query in queries:
        filled = re.sub(r'trace_id:="[^"]*"', f'trace_id:="{trace_id}"', query)
        filled = filled.replace('endpoint:="analytics"', 'endpoint:="dead"')
        lines = views.logs(filled)
        assert lines, query
        if "webhook.attempt_failed" in query:
            assert len(lines) == sent.failures()[("dead", "500")]
        if "stats by (endpoint, error_type)" in query:
            dead = str(sent.outcomes()[("dead", "dead_letter")])
            assert lines == [{"endpoint": "dead", "error_type": "500", "n": dead}]
    events = views.logs('_time:7d {service.name="confiture"} | stats by (_stream) count() n')
    assert len(events) == 1, "one stream for all runs"


def test_the_expressions_of_the_docs_give_something(views: Views, scenario: Scenario) -> None:
    """Every PromQL expression of the docs is accepted and has a result."""
    expressions = documented("promql")
    assert len(expressions) >= 3
    for expression in expressions:
        waiting = "> 0" if "oldest" not in expression else ">= 0"  # nothing waits any more
        assert views.instant(expression.replace("> 0", waiting)), expression


def test_the_stores_hold_no_secret(
    views: Views, scenario: Scenario, sent: Deliveries, stack: Any
) -> None:
    """Neither paths, queries, secrets, header values nor SQL are in any store or on any disk."""
    canaries = {**CANARIES, "sql": "nosuch_column", "password": scenario.password}
    traces = json.dumps([views.trace(trace_id) for trace_id in set(sent.trace_ids().values())])
    stores = {
        "traces": traces,
        "metrics": views.every_label(),
        "logs": json.dumps(views.logs("*")),
    }
    for store, text in stores.items():
        for part, canary in canaries.items():
            assert canary not in text, (store, part)
    for path in stack.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [part for part, canary in canaries.items() if canary.encode() in content], (
                path
            )


def test_alerts_clear_when_the_cause_is_gone(
    views: Views, scenario: Scenario, sent: Deliveries
) -> None:
    """A later success, redelivered dead letters and an endpoint that is well again end their alerts everywhere."""
    scenario.run(scenario.plain)
    scenario.webhooks(scenario.dead, "redeliver", "--dead", "--yes")
    scenario.webhooks(scenario.gone, "enable", "gone")
    scenario.run(scenario.gone)
    for server in DIALECTS:
        until(views.on(server).firing, REPAIRED.isdisjoint, 40, server)
