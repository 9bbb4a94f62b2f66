"""How a command's telemetry ends: with all arrived, or in time and with one line about it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

import forked
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.receiver.collector import LocalCollector
from confiture_webhooks.receiver.server import Answer

BUDGET_S = 0.5
PATIENT_S = 60.0
"""The budget where all is answered, so that a busy machine changes nothing."""
BOUND_S = 28.0
"""The budget, and what a busy machine adds. An export that is waited for takes 30 s or more."""
SLOW = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"

COMMAND = """
import os, sys, time
from datetime import UTC, datetime, timedelta
from confiture_webhooks.delivery import Attempt, Delivery
from confiture_webhooks.event import Database, Direction, EventType, MigrationRef
{before}
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.telemetry.providers import for_command
telemetry = Telemetry(
    for_command(os.environ, "production"), environment="production", endpoints=["analytics"],
    log="json", log_level="info",
)
telemetry.start_run("confiture migrate up", Database(name="shop"))
migration = telemetry.migration(MigrationRef(version="1", slug="one"), Direction.UP)
migration.finish(duration_s=0.1, rows_affected=1, error=None)
delivery = telemetry.delivery(
    Delivery(
        id="dlv_1", event_id="evt_1", event_type=EventType.MIGRATION_SUCCESS,
        endpoint="analytics", body=b"x", content_type="application/json",
        trace=migration.trace, correlation_id=telemetry.correlation_id,
        created_at=datetime.now(UTC),
    ),
)
{during}
attempt = Attempt(
    number=1, started_at=datetime.now(UTC), duration=timedelta(seconds=0.1), status_code=200
)
delivery.finish("delivered", last=attempt, attempts=1, at=datetime.now(UTC))
telemetry.end_run(applied=1, failed=0, error_type=None)
print(time.monotonic(), flush=True)
telemetry.shutdown(timedelta(seconds={budget_s}))
telemetry.shutdown(timedelta(seconds={budget_s}))
"""
HOOK = """
hook = telemetry.hook("notify:send", "post_execute", migration.trace)
with hook.current():
    {}
hook.finish()
"""


class Finished:
    """A command that has ended well and in time; *done* began with the instant its end began."""

    def __init__(self, done: subprocess.CompletedProcess[str], ended_at: float) -> None:
        assert done.returncode == 0, done.stderr
        began_at, _, self.stdout = done.stdout.partition("\n")
        self.seconds = ended_at - float(began_at)
        self.stderr = done.stderr

    def lines(self) -> list[dict[str, Any]]:
        """Every line of stderr, each a JSON document."""
        return [json.loads(line) for line in self.stderr.splitlines()]

    def events(self) -> list[str]:
        """The events in order."""
        return [line["event"] for line in self.lines()]


def run(
    before: str = "", during: str = "", budget_s: float = PATIENT_S, **environ: str
) -> Finished:
    """Run the command in a process of its own, *during* in a hook of the user's."""
    during = HOOK.format(during) if during else ""
    done = forked.run(
        [],
        code=COMMAND.format(before=before, during=during, budget_s=budget_s),
        cwd=Path.cwd(),
        env={"PATH": os.defpath, "HOME": os.environ["HOME"], **forked.FIXED, **environ},
        timeout=120,
    )
    return Finished(done, time.monotonic())


@contextmanager
def refusing() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[str]:
    """A server that answers *status* to everything."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with LocalReceiver(answers=[(status, named, body)] * 100) as receiver:
        yield receiver.url


def unavailable() -> AbstractContextManager[str]:
    """A collector that answers 503 to everything."""
    return answering(503)


@pytest.mark.survived("A collector that is dead, silent or refuses", "unharmed", "said")
@pytest.mark.parametrize(
    ("collector", "reason"),
    [
        (answering(401), "the collector answers 401. Check OTEL_EXPORTER_OTLP_HEADERS"),
        (answering(404), f"the collector answers 404. Check {ENDPOINT}"),
        (answering(500), "the collector answers 500. Check its log"),
        *(
            (
                answering(status, b"invalid temporality and type combination for metric x"),
                f"this collector refuses delta metrics. Set {TEMPORALITY}=cumulative, or send to an OpenTelemetry collector with deltatocumulative",
            )
            for status in (400, 500)  # Prometheus answers 500
        ),
        (
            answering(301, Location="https://CANARY/"),
            f"no collector answers there (HTTP 301). Check {ENDPOINT}",
        ),
        *(
            (
                answering(200, body, Content_Type=kind),
                f"no collector answers there (HTTP 200). Check {ENDPOINT}",
            )
            for body, kind in [
                (b"hello", "Text/HTML; charset=utf-8"),
                (b"\n<!doctype html>hello", "text/plain"),
            ]
        ),
    ],
    ids=["401", "404", "500", "temporality", "temporality-500", "redirect", "page", "plain-page"],
)
def test_what_is_refused_is_one_line(collector: AbstractContextManager[str], reason: str) -> None:
    """A collector that refuses, or is none, is one line with the reason and all that was lost."""
    with collector as address:
        ended = run(**{ENDPOINT: address})
    assert ended.events() == [
        "migration.applied",
        "webhook.delivered",
        "telemetry.flush_incomplete",
    ]
    assert ended.lines()[-1]["reason"] == reason
    assert ended.lines()[-1]["lost_spans"] == 3


@pytest.mark.parametrize(
    ("rejected", "message", "reason"),
    [
        (2, "CANARY is too old", "the collector took a part. Check its log"),
        (
            1,
            "delta temporality is not supported",
            f"this collector refuses delta metrics. Set {TEMPORALITY}=cumulative, or send to an OpenTelemetry collector with deltatocumulative",
        ),
    ],
)
def test_what_is_refused_in_part_is_lost(rejected: int, message: str, reason: str) -> None:
    """An answer of success that rejects items is no success for them."""
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    with answering(200, body, Content_Type="application/x-protobuf") as address:
        ended = run(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=address)
    line = ended.lines()[-1]
    assert (line["event"], line["lost_spans"], line["lost"]) == (
        "telemetry.flush_incomplete",
        rejected,
        rejected,
    )
    assert line["reason"] == reason


def test_what_a_full_queue_drops_is_not_the_collectors_fault() -> None:
    """It takes all that it is sent: the variable to change is that of the queue."""
    sizes = {"OTEL_BSP_MAX_QUEUE_SIZE": "1", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}
    one = 'telemetry.migration(MigrationRef(version="1", slug="one"), Direction.UP)'
    during = f"for _ in range(50): {one}.finish(duration_s=0.1, rows_affected=1, error=None)"
    with LocalReceiver(answers=[Answer(delay_s=0.2)] * 100) as collector:
        ended = run(during=during, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.url, **sizes)
    line = ended.lines()[-1]
    assert line["lost_spans"] > 1
    assert line["reason"] == (
        f"{line['lost_spans']} dropped, because their queue was full. Raise OTEL_BSP_MAX_QUEUE_SIZE"
    )


def test_each_signals_reason_is_named() -> None:
    """Two collectors that refuse for two reasons are two variables to check, in one line."""
    with answering(401) as first, answering(404) as second:
        traces, logs = (f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT" for name in ("TRACES", "LOGS"))
        ended = run(**{traces: first, logs: second})
    assert ended.lines()[-1]["reason"] == (
        "the collector answers 401. Check OTEL_EXPORTER_OTLP_HEADERS; "
        "the collector answers 404. Check OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"
    )


@pytest.mark.parametrize(
    ("address", "environ", "reason"),
    [
        ("http://127.0.0.1:9", {}, f"no collector answers (ConnectionError). Check {ENDPOINT}"),
        (
            "https://127.0.0.1:9",
            {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nosuch.pem"},
            "no collector answers (OSError). Check OTEL_EXPORTER_OTLP_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_*",
        ),
        (
            "http://127.0.0.1:9",
            {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=a%0d%0aCANARY"},
            "no collector answers (InvalidHeader). Check OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (
            "http://collector.example",
            {"http_proxy": "http://127.0.0.1:1"},
            "no collector answers (ProxyError). Check http_proxy and NO_PROXY",
        ),
    ],
    ids=["address", "certificate", "header", "proxy"],
)
def test_a_collector_that_is_not_reached(
    address: str, environ: dict[str, str], reason: str
) -> None:
    """Why nothing arrived is named, with the variable to check."""
    ended = run(**{ENDPOINT: address, **environ})
    assert ended.lines()[-1]["reason"] == reason
    assert "CANARY" not in ended.stderr


@pytest.mark.survived("A collector that is dead, silent or refuses", "unharmed", "said")
@pytest.mark.parametrize("collector", [refusing, silent, unavailable])
def test_a_dead_collector(collector: Any) -> None:
    """A collector that refuses, hangs or is unavailable costs its budget and one line, nothing else.

    A time-out of the user's own does not lengthen the end.
    """
    with collector() as address:
        ended = run(budget_s=BUDGET_S, **{ENDPOINT: address}, **SLOW)
    assert ended.seconds < BOUND_S
    assert ended.stdout == ""
    assert ended.events() == [
        "migration.applied",
        "webhook.delivered",
        "telemetry.flush_incomplete",
    ]
    line = ended.lines()[-1]
    assert (line["level"], line["budget_s"]) == ("warning", BUDGET_S)
    assert line["reason"]
    kinds = [line[f"lost_{what}"] for what in ("spans", "metric_points", "log_records")]
    assert all(kinds)
    assert line["lost"] == sum(kinds)


@pytest.mark.parametrize("proxy", ["HTTP_PROXY=http", "ALL_PROXY=socks5h"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
def test_a_collector_on_this_machine_is_never_proxied(host: str, proxy: str) -> None:
    """Whatever the proxy and however the host is written, all telemetry arrives."""
    name, _, scheme = proxy.partition("=")
    with LocalCollector() as collector:
        address = collector.url.replace("127.0.0.1", host)
        ended = run(**{ENDPOINT: address, name: f"{scheme}://127.0.0.1:9"})
        assert len(collector.spans) == 3, ended.stderr
    assert lost(ended) == 0


def test_a_worker_reports_losses_while_it_runs() -> None:
    """A dead collector is reported long before a worker ends, and no item of it twice."""
    during = (
        "telemetry._providers.tracer_provider.force_flush(); "
        "telemetry.report_losses(); telemetry.report_losses()"
    )
    with refusing() as address:
        ended = run(during=during, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=address)
    first, last = (one for one in ended.lines() if one["event"] == "telemetry.flush_incomplete")
    assert (first["budget_s"], first["lost"], last["lost"]) == (None, 1, 3)
    assert ended.lines().index(first) < len(ended.lines()) - 2


def test_a_host_that_logs() -> None:
    """Where the host has configured logging, the SDK still prints nothing of its own."""
    with refusing() as address:
        ended = run(before="import logging; logging.basicConfig()", **{ENDPOINT: address})
    assert ended.events()[-1] == "telemetry.flush_incomplete"


def test_all_arrives() -> None:
    """With a living collector everything arrives, and no line says otherwise."""
    with LocalCollector() as collector:
        ended = run(**{ENDPOINT: collector.url})
        assert ended.events() == ["migration.applied", "webhook.delivered"], ended.stderr
        names = {span.name for span in collector.spans}
    assert names == {"confiture migrate up", "apply migration", "deliver webhook analytics"}


def test_requests_of_users_are_traced() -> None:
    """A ``requests`` call of a hook is a span of the run's trace, with the stable names."""
    with LocalCollector() as collector, unavailable() as receiver:
        during = f"import requests; requests.post({receiver!r}, data=b'x', timeout=5)"
        run(during=during, **{ENDPOINT: collector.url})
        spans = {span.name: span for span in collector.spans}
        (metric,) = [one for one in collector.metrics if one.name == "http.client.request.duration"]
    assert spans["POST"].trace_id == spans["confiture migrate up"].trace_id
    assert spans["POST"].parent_id == spans["run hook notify:send"].span_id
    assert spans["POST"].attributes["http.request.method"] == "POST"
    assert metric.unit == "s"


@pytest.mark.parametrize(
    ("environ", "setting", "remedy"),
    [
        ({ENDPOINT: "http://127.0.0.1:9"}, ENDPOINT, "pip install 'confiture-webhooks[otlp]'"),
        (
            {ENDPOINT: "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        (
            {"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
            "pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
    ],
)
def test_a_missing_exporter(environ: dict[str, str], setting: str, remedy: str) -> None:
    """A package that is not installed is one line with the remedy, and the run goes on."""
    before = "sys.modules['opentelemetry.exporter'] = None"
    ended = run(before, PYTHONHASHSEED="0", **environ)  # a cold start: it is not imported yet
    (line,) = [one for one in ended.lines() if one["event"] == "webhooks.config_invalid"]
    (fault,) = line["faults"]
    assert fault.startswith(f"{setting}: ")
    assert remedy in fault
    assert "telemetry.flush_incomplete" not in ended.events()


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "CANARY", "OTEL_BSP_MAX_QUEUE_SIZE"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "OTEL_BSP_MAX_QUEUE_SIZE"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "99999", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "OTEL_METRIC_EXPORT_INTERVAL"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "CANARY", "OTEL_METRICS_EXEMPLAR_FILTER"),
        ("OTEL_PYTHON_EXCLUDED_URLS", "(CANARY", "OTEL_PYTHON_EXCLUDED_URLS"),
        ("OTEL_TRACES_SAMPLER", "CANARY", "OTEL_TRACES_SAMPLER"),
        ("OTEL_TRACES_SAMPLER_ARG", "CANARY", "OTEL_TRACES_SAMPLER_ARG"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "OTEL_TRACES_SAMPLER_ARG"),
        ("OTEL_RESOURCE_ATTRIBUTES", "CANARY", "OTEL_RESOURCE_ATTRIBUTES"),
        (DETECTORS, "CANARY", DETECTORS),
        ("OTEL_EXPORTER_OTLP_HEADERS", "CANARY", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "CANARY", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "CANARY", "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "CANARY", "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ("OTEL_PROPAGATORS", "tracecontext,CANARY", "OTEL_PROPAGATORS"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "CANARY", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1", "OTEL_SPAN_EVENT_COUNT_LIMIT"),
        (TEMPORALITY, "CANARY", TEMPORALITY),
        ("OTEL_BSP_SCHEDULE_DELAY", "99999999999999999999", "OTEL_BSP_SCHEDULE_DELAY"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "99999999999999999999", "OTEL_BLRP_SCHEDULE_DELAY"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "99999999999999999999", "OTEL_METRIC_EXPORT_INTERVAL"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "nan", "OTEL_METRIC_EXPORT_INTERVAL"),
    ],
)
def test_a_wrong_variable(setting: str, value: str, named: str) -> None:
    """A value OpenTelemetry does not take is one line that names it and does not quote it."""
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio"}  # it has an argument
    with LocalCollector() as collector:
        ended = run(**{**sampler, ENDPOINT: collector.url, setting: value})
    (line,) = [one for one in ended.lines() if one["event"] == "webhooks.config_invalid"]
    assert [fault.partition(":")[0] for fault in line["faults"]] == [named]
    assert "CANARY" not in ended.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", ""),
        ("OTEL_METRIC_EXPORT_INTERVAL", " "),
        ("OTEL_TRACES_SAMPLER", ""),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_EXPORTER_OTLP_HEADERS", ""),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", " "),
        ("OTEL_METRICS_EXEMPLAR_FILTER", ""),
        ("OTEL_PROPAGATORS", " "),
        ("OTEL_PYTHON_METER_PROVIDER", ""),
        ("OTEL_SERVICE_NAME", " "),
        (TEMPORALITY, ""),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "999999999999"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "sdk_tracer_provider"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "CANARY"),
        ("TRACEPARENT", "x" * 1000),
    ],
)
def test_a_variable_that_costs_nothing(setting: str, value: str) -> None:
    """An empty variable is one that is not set; no library writes a line of its own about others."""
    with LocalCollector() as collector:
        ended = run(**{ENDPOINT: collector.url, setting: value})
        assert (len(collector.spans), len(collector.logs)) == (3, 2)
        assert [point for point in collector.metrics if point.name == "confiture.runs"]
        assert collector.spans[0].resource["service.name"] == "confiture"
    assert ended.events() == ["migration.applied", "webhook.delivered"]


def test_an_empty_choice_of_names_is_none() -> None:
    """OTEL_SEMCONV_STABILITY_OPT_IN="" leaves the names that dashboards are made for."""
    with LocalReceiver() as receiver, LocalCollector() as collector:
        call = f"import requests; requests.get({receiver.url!r})"
        run(during=call, **{ENDPOINT: collector.url, "OTEL_SEMCONV_STABILITY_OPT_IN": ""})
        assert "http.client.request.duration" in {point.name for point in collector.metrics}


@pytest.mark.parametrize(
    "setting", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS"]
)
def test_a_header_that_cannot_be_sent_is_named(setting: str) -> None:
    """No header carries U+FFFD, which %FF stands for."""
    with LocalCollector() as collector:
        ended = run(**{ENDPOINT: collector.url, setting: "x=%ff"})
    (line,) = [one for one in ended.lines() if one["event"] == "telemetry.flush_incomplete"]
    assert line["reason"].endswith(f"Check {setting}")


def test_the_console_is_stderr() -> None:
    """Console exporters write to stderr, a JSON line each: stdout belongs to Confiture."""
    signals = ("TRACES", "METRICS", "LOGS")
    ended = run(**{f"OTEL_{signal}_EXPORTER": "console" for signal in signals})
    assert ended.stdout == ""
    assert ended.lines()
    assert '"name": "apply migration"' in ended.stderr
    assert "confiture.webhook.deliveries" in ended.stderr
    assert '"event_name": "webhook.delivered"' in ended.stderr


OWNED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
owner = TracerProvider(shutdown_on_exit=False)
owner.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
trace.set_tracer_provider(owner)
"""


def test_somebody_elses_provider() -> None:
    """A provider that is set is used; nothing is set up, instrumented or shut down beside it."""
    with refusing() as address:
        check = (
            "from opentelemetry.instrumentation.requests import RequestsInstrumentor as R; "
            "assert not R().is_instrumented_by_opentelemetry"
        )
        ended = run(before=OWNED, during=check, **{ENDPOINT: address})
    assert '"name": "apply migration"' in ended.stderr
    assert "flush_incomplete" not in ended.stderr


def test_delta_and_resource() -> None:
    """Counters leave as deltas, from a service with its environment and its CI run."""
    with LocalCollector() as collector:
        run(
            **{
                ENDPOINT: collector.url,
                "GITHUB_ACTIONS": "true",
                "GITHUB_RUN_ID": "42",
                "OTEL_RESOURCE_ATTRIBUTES": "team=db",
            }
        )
        deliveries = {
            one.attributes["confiture.webhook.outcome"]: (one.value, one.temporality)
            for one in collector.metrics
            if one.name == "confiture.webhook.deliveries"
        }
        resource = collector.spans[0].resource
    assert deliveries == {
        "delivered": (1, "delta"),
        "deferred": (0, "delta"),
        "dead_letter": (0, "delta"),
        "gone": (0, "delta"),
    }
    assert resource["service.name"] == "confiture"
    assert resource["deployment.environment.name"] == "production"
    assert resource["cicd.pipeline.run.id"] == "42"
    assert resource["team"] == "db"


@pytest.mark.survived("Odd resource attributes, two certificate variables", "kept")
@pytest.mark.parametrize("given", ["caf\udce9=\udce9,team=db", "peer.service.name=db", "=,team=db"])
def test_odd_resource_attributes(given: str) -> None:
    """Attributes that are no UTF-8, or look like others, cost neither a batch nor the name."""
    with LocalCollector() as collector:
        ended = run(**{ENDPOINT: collector.url, "OTEL_RESOURCE_ATTRIBUTES": given})
        assert "telemetry.flush_incomplete" not in ended.events()
        resource = collector.spans[0].resource
    assert resource["service.name"] == "confiture"


@pytest.mark.survived("Odd resource attributes, two certificate variables", "kept")
def test_both_certificates_hold_as_documented(tmp_path: Path) -> None:
    """OTLP's own certificate variable wins over REQUESTS_CA_BUNDLE, which holds without it."""
    ours, others = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    others.cert_pem.write_to_path(str(tmp_path / "others.pem"))
    bundle = {"REQUESTS_CA_BUNDLE": str(tmp_path / "others.pem")}
    own = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ours.pem")}
    with over_tls(ours) as address:
        assert lost(run(**{ENDPOINT: address}, **bundle, **own)) == 0
        assert lost(run(**{ENDPOINT: address}, **bundle)) > 0
    with over_tls(others) as address:
        assert lost(run(**{ENDPOINT: address}, **bundle)) == 0


def lost(ended: Finished) -> int:
    return sum(line.get("lost", 0) for line in ended.lines())


@contextmanager
def over_tls(ca: trustme.CA) -> Iterator[str]:
    """A collector whose certificate *ca* has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with LocalReceiver(tls=context) as receiver:
        yield receiver.url
