"""Dashboards, alerts, runbooks and configuration agree with each other and with the names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from confiture_webhooks.telemetry import names

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "observability"
PROMETHEUS = OBSERVABILITY / "prometheus"
DASHBOARDS = sorted(
    [
        *(OBSERVABILITY / "dashboards").glob("*.json"),
        *(OBSERVABILITY / "loki" / "dashboards").glob("*.json"),
    ]
)
EVERYWHERE = {"job", "instance", "deployment_environment_name"}
METRIC = re.compile(r"\b((?:confiture|http_client|traces_span|otelcol)_[a-z_]+?)\b(?!:)")
BUILT_IN = {"__range", "__interval", "__all"}


def underscored(name: str) -> str:
    """A name as Prometheus has it."""
    return name.replace(".", "_")


def series_of(spec: names.MetricSpec) -> set[str]:
    """The names under which Prometheus stores a metric of ours."""
    name = underscored(spec.name) + ("_seconds" if spec.unit == "s" else "")
    if spec.instrument == "histogram":
        return {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return {f"{name}_total" if spec.instrument == "counter" else name}


def known() -> dict[str, set[str]]:
    """Every series there is, with its own labels."""
    found = {
        series: {underscored(attribute) for attribute in spec.attributes} | {"le"}
        for spec in names.METRICS
        for series in series_of(spec)
    }
    http = {
        "http_request_method",
        "http_response_status_code",
        "server_address",
        "server_port",
        "error_type",
        "le",
    }
    span_metrics = yaml.safe_load((ROOT / "otel-collector.yaml").read_text())["connectors"][
        "span_metrics"
    ]
    dimensions = {underscored(dimension["name"]) for dimension in span_metrics["dimensions"]}
    spans = dimensions | {"service_name", "span_name", "span_kind", "status_code", "le"}
    for part in ("bucket", "sum", "count"):
        found[f"http_client_request_duration_seconds_{part}"] = http
        found[f"traces_span_metrics_duration_milliseconds_{part}"] = spans
    return found | {"traces_span_metrics_calls_total": spans}


def is_gauge(selector: str) -> bool:
    """Whether a metric is a state, not a count."""
    gauges = {
        series
        for spec in names.METRICS
        if spec.instrument.startswith("observable")
        for series in series_of(spec)
    }
    return selector.partition("{")[0].strip() in gauges


def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    files = [
        yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
    ]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def panels(dashboard: Any) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of dashboards and rules, with where it is."""
    for rule in rules():
        yield rule.get("alert", rule.get("record")), rule["expr"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        for mark in dashboard["annotations"]["list"]:
            yield f"{path.name}: {mark['name']}", mark["expr"]
        for panel in panels(dashboard):
            for target in panel["targets"] if panel["type"] != "logs" else ():
                yield f"{path.name}: {panel['title']}", target["expr"]


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_dashboards_are_current() -> None:
    """The committed JSON is what the generator makes now."""
    generator = OBSERVABILITY / "dashboards" / "generate.py"
    done = subprocess.run(
        [sys.executable, str(generator), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "path", DASHBOARDS, ids=lambda path: f"{path.parent.parent.name}-{path.stem}"
)
def test_every_panel_explains_itself(path: Path) -> None:
    """Each panel has a title of its own, a description, a unit and a word for no data."""
    dashboard = json.loads(path.read_text())
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels(dashboard):
        assert len(panel["description"]) > 25, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize(
    "path", DASHBOARDS, ids=lambda path: f"{path.parent.parent.name}-{path.stem}"
)
def test_panels_do_not_overlap(path: Path) -> None:
    """No two panels share a place, and none leaves the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    "path", DASHBOARDS, ids=lambda path: f"{path.parent.parent.name}-{path.stem}"
)
def test_no_data_source_is_fixed(path: Path) -> None:
    """Dashboards name data sources by variable only, and use no variable they do not have."""
    text = path.read_text()
    assert set(re.findall(r'"uid": "(\$[^"]*)"', text)) == {"${datasource}", "${logs}"}
    fixed = re.findall(r'"datasource": \{[^}]*"uid": "([^$][^"]*)"', text)
    assert not fixed
    dashboard = json.loads(text)
    own = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]\w*)", text)) - BUILT_IN
    assert used == own


def test_the_dashboards_can_be_filtered() -> None:
    """Every metric of a migration or a webhook is asked for the chosen environments only."""
    asked = [(where, expr) for where, expr in expressions() if ".json" in where]
    assert asked
    for where, expr in asked:
        for name in set(METRIC.findall(expr)) & set(known()):
            assert re.search(rf"{name}\{{[^}}]*=~\"\$environment\"", expr), (where, expr)


@pytest.mark.parametrize(("where", "expr"), sorted(set(expressions())))
def test_expressions_use_names_that_exist(where: str, expr: str) -> None:
    """Every metric and every label of dashboards and rules is in the contract."""
    recorded = {rule["record"]: rule for rule in rules() if "record" in rule}
    series = known()
    for name in METRIC.findall(
        re.sub(
            r"[a-z]+:[a-z_]+:\w+", "", re.sub(r'"[^"]*"|by \([^)]*\)|[{,]\s*\w+(?=[=!])', "", expr)
        )
    ):
        assert name in series or name.startswith("otelcol_"), (where, name)
    for name in re.findall(r"[a-z]+:[a-z_]+:\w+", expr):
        assert name in recorded, (where, name)
    for name, selected in re.findall(r"(\w+)\{([^}]*)\}", expr):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", selected):
            if name in series:
                assert label in series[name] | EVERYWHERE, (where, name, label)
    grouped = {
        label.strip() for found in re.findall(r"by \(([^)]*)\)", expr) for label in found.split(",")
    }
    own = set().union(*series.values()) | EVERYWHERE | {"receiver", "exporter", "error"}
    assert grouped <= own, (where, grouped - own)


def test_counts_are_exact() -> None:
    """No increase is extrapolated, and none is a rate: traffic is sparse."""
    for where, expr in expressions():
        ranges = re.findall(r"(increase|last_over_time)\(([^\[]*)\[[^\]]*\]( anchored)?", expr)
        assert len(ranges) == expr.count("["), where
        for function, selector, anchored in ranges:
            assert anchored if function == "increase" else is_gauge(selector), where
        assert "rate(" not in expr, where


def test_log_panels_use_fields_that_exist() -> None:
    """Log panels ask for event names and fields of the contract; Loki's for the line, not a lost field."""
    fields = {field for spec in names.LOG_EVENTS for field in spec.fields} | {"event_name"}
    prefixes = {spec.event.partition(".")[0] for spec in names.LOG_EVENTS}
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            if panel["type"] == "logs":
                (target,) = panel["targets"]
                where = r"[|]~ " if "loki" in path.parts else "event_name:~"
                wanted = re.search(where + r"\"\^\(?([a-z|]+)\)?\[", target["expr"])
                assert wanted
                assert set(wanted[1].split("|")) <= prefixes
                found = set(re.findall(r"[ |](\w+)[:=]~", target["expr"]))
                assert found <= fields | {"name", "deployment_environment_name"}, path


def test_every_alert_has_all_a_person_needs() -> None:
    """Severity, summary, description, and a runbook whose heading exists."""
    alerts = [rule for rule in rules() if "alert" in rule]
    anchors = headings(ROOT / "docs" / "runbooks.md")
    assert len(alerts) == 10
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbooks.md"
        assert anchor == alert["alert"].lower()
        assert anchor in anchors
        assert alert["annotations"]["summary"]
        assert len(alert["annotations"]["description"]) > 40
        about = alert["annotations"]["summary"] + alert["annotations"]["description"]
        if "confiture_webhook_endpoint" in alert["expr"] or "endpoint:" in alert["expr"]:
            assert "$labels.confiture_webhook_endpoint" in about


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules() if "alert" in rule])
def test_every_alert_is_tested(alert: str) -> None:
    """Some rule test has it silent, then firing, then silent; after a restart, and from a birth."""
    documents = [yaml.safe_load(path.read_text()) for path in (PROMETHEUS / "tests").glob("*.yml")]
    whole = False
    for test in (test for document in documents for test in document["tests"]):
        asked = [
            (int(one["eval_time"].rstrip("mh")) * (60 if "h" in one["eval_time"] else 1), one)
            for one in test.get("promql_expr_test", ())
            if "ALERTS" in one["expr"] and (alert in one["expr"] or "count(ALERTS)" in one["expr"])
        ]
        fires = [at for at, one in asked if one["exp_samples"]]
        silent = [at for at, one in asked if not one["exp_samples"]]
        values = [series["values"] for series in test["input_series"]]
        is_restarted = any(re.search(r"\d _|stale|\b0 0 1", value) for value in values)
        is_born = any(value.startswith("_x") for value in values)
        if fires and silent and min(silent) < min(fires) < max(silent):
            whole |= is_restarted and is_born
    assert whole


def test_runbooks_name_panels_that_exist() -> None:
    """What a runbook tells to look at is there."""
    text = (ROOT / "docs" / "runbooks.md").read_text()
    titles = {
        title
        for path in (OBSERVABILITY / "dashboards").glob("*.json")
        for dashboard in [json.loads(path.read_text())]
        for title in [dashboard["title"], *(panel["title"] for panel in panels(dashboard))]
    }
    seen = re.findall(r"^\*\*See it\.\*\*(.+?)\n\n", text, re.MULTILINE | re.DOTALL)
    named = {
        " ".join(title.split())
        for part in seen
        for title in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", part)
        if "→" not in title
    }
    assert named
    assert named <= titles, named - titles


def test_the_collector_keeps_its_promises() -> None:
    """What counts rest on is there, in the order it needs, and listens in a container."""
    config = yaml.safe_load((ROOT / "otel-collector.yaml").read_text())
    members = {
        kind: set(config[kind]) for kind in ("receivers", "processors", "exporters", "connectors")
    }
    for pipeline in config["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= members["receivers"] | members["connectors"]
        assert set(pipeline["exporters"]) <= members["exporters"] | members["connectors"]
        assert set(pipeline.get("processors", ())) <= members["processors"]
    assert config["service"]["pipelines"]["metrics"]["processors"] == [
        "memory_limiter",
        "batch",
        "transform/one_series",
        "deltatocumulative",
    ]
    protocols = config["receivers"]["otlp"]["protocols"]
    assert all(":-0.0.0.0:" in protocol["endpoint"] for protocol in protocols.values())
    scrape_s, flush_s = (
        10,
        int(config["connectors"]["span_metrics"]["metrics_flush_interval"].strip("s")),
    )
    assert flush_s > scrape_s


def test_the_queue_is_laid_over_the_same_exporters() -> None:
    """The overlay names exporters and extensions that the collector's file has."""
    config = yaml.safe_load((ROOT / "otel-collector.yaml").read_text())
    over = yaml.safe_load((OBSERVABILITY / "otel-collector-queue.yaml").read_text())
    assert set(over["exporters"]) == set(config["exporters"]) - {"debug", "prometheus"}
    assert set(over["service"]["extensions"]) == {
        *config["service"]["extensions"],
        *over["extensions"],
    }


@pytest.mark.parametrize("folder", ["grafana/provisioning/datasources", "loki/grafana"])
def test_grafana_connects_traces_logs_and_exemplars(folder: str) -> None:
    """Exemplars and log lines lead to Jaeger, traces to the logs, by uids that are fixed."""
    path = OBSERVABILITY / folder / "datasources.yml"
    sources = {source["uid"]: source for source in yaml.safe_load(path.read_text())["datasources"]}
    exemplars = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplars[0]["datasourceUid"] == "jaeger"
    assert sources["jaeger"]["jsonData"]["tracesToLogsV2"]["datasourceUid"] == "logs"
    assert sources["logs"]["jsonData"]["derivedFields"][0]["datasourceUid"] == "jaeger"
    assert "$${__trace.traceId}" in sources["jaeger"]["jsonData"]["tracesToLogsV2"]["query"]


def test_containers_and_native_programs_are_of_one_version() -> None:
    """What runs in the tests is what compose starts."""
    text = (OBSERVABILITY / "native" / "programs.py").read_text()
    versions = dict(re.findall(r'^([A-Z_]+) = "([\d.]+)"$', text, re.MULTILINE))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    def tag(name: str) -> str:
        tagged = str(services[name]["image"]).partition("@")[0]
        return tagged.partition(":")[2].removeprefix("v")

    assert tag("otel-collector") == versions["OTELCOL"]
    assert tag("jaeger") == versions["JAEGER"]
    assert tag("prometheus") == tag("otel-collector-health") == versions["PROMETHEUS"]
    assert tag("alertmanager") == versions["ALERTMANAGER"]
    assert tag("victorialogs").split(".")[:2] == versions["VICTORIA_LOGS"].split(".")[:2]
    manifest = (OBSERVABILITY / "native" / "otelcol" / "builder.yaml").read_text()
    components = re.findall(r"gomod: (\S+) v(\S+)", manifest)
    assert {version for name, version in components if "confmap" not in name} == {
        versions["OTELCOL"]
    }


def test_the_page_names_series_as_they_are() -> None:
    """The table of docs/observability.md has every series of ours, and no other."""
    text = (ROOT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(confiture_\w+(?:\{[a-z,]+\})?)` \| (.+?) \|", text, re.MULTILINE)
    shown: dict[str, set[str]] = {}
    for name, labels in rows:
        stem, _, parts = name.rstrip("}").partition("{")
        for part in parts.split(",") if parts else [""]:
            shown[stem + part] = set(re.findall(r"`(\w+)`", labels))
    expected = {
        series: {underscored(attribute) for attribute in spec.attributes}
        for spec in names.METRICS
        for series in series_of(spec)
    }
    assert shown == expected
