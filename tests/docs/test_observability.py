"""Dashboards, alerts, runbooks and configuration agree with each other and with the names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from confiture_webhooks.telemetry import names

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "observability"
PROMETHEUS = OBSERVABILITY / "prometheus"
DIALECTS = ("prometheus", "compatible", "victoriametrics")
LOG_STORES = ("victorialogs", "loki")
DASHBOARDS = sorted(
    path
    for dialect in DIALECTS
    for path in (OBSERVABILITY / dialect / "dashboards").glob("*/*.json")
)
EVERYWHERE = {"job", "instance", "deployment_environment_name"}
METRIC = re.compile(r"(?<!:)\b((?:confiture|http_client|traces_span|otelcol)_[a-z_]+?)\b(?!:)")
RECORDED = re.compile(r"\b[a-z]+:[a-z_]+:\w+")
BUILT_IN = {"__range", "__interval", "__rate_interval", "__all", "__data", "__from", "__to"}


def named(path: Path) -> str:
    """A dashboard's file as a test's name."""
    return f"{path.parent.parent.parent.name}-{path.parent.name}-{path.stem}"


def underscored(name: str) -> str:
    """A name as Prometheus has it."""
    return name.replace(".", "_")


def series_of(spec: names.MetricSpec) -> set[str]:
    """The names under which Prometheus stores a metric of ours."""
    name = underscored(spec.name) + ("_seconds" if spec.unit == "s" else "")
    if spec.instrument == "histogram":
        return {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return {f"{name}_total" if spec.instrument == "counter" else name}


@cache
def known() -> dict[str, set[str]]:
    """Every series there is, with its own labels."""
    found = {
        series: {underscored(attribute) for attribute in spec.attributes} | {"le"}
        for spec in names.METRICS
        for series in series_of(spec)
    }
    span_metrics = yaml.safe_load((ROOT / "otel-collector.yaml").read_text())["connectors"][
        "span_metrics"
    ]
    dimensions = {underscored(dimension["name"]) for dimension in span_metrics["dimensions"]}
    spans = dimensions | {"service_name", "span_name", "span_kind", "status_code", "le"}
    for part in ("bucket", "sum", "count"):
        found[f"traces_span_metrics_duration_milliseconds_{part}"] = spans
    return found | {"traces_span_metrics_calls_total": spans}


def is_gauge(selector: str) -> bool:
    """Whether a metric is a state, not a count."""
    gauges = {
        series
        for spec in names.METRICS
        if "gauge" in spec.instrument or spec.instrument.startswith("observable")
        for series in series_of(spec)
    }
    name = selector.partition("{")[0].strip()
    if RECORDED.fullmatch(name):
        return True
    return selector.partition("{")[0].strip() in gauges


def rules(dialect: str = "prometheus") -> list[dict[str, Any]]:
    """Every rule of a dialect's files."""
    files = [
        yaml.safe_load(path.read_text())
        for path in sorted((OBSERVABILITY / dialect).glob("rules*/*.yml"))
    ]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def panels(dashboard: Any) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dialect: str) -> Iterator[tuple[str, str]]:
    """Every PromQL expression of a dialect's dashboards and rules, with where it is."""
    for rule in rules(dialect):
        yield rule.get("alert", rule.get("record")), rule["expr"]
    for path in DASHBOARDS:
        if dialect not in path.parts:
            continue
        dashboard = json.loads(path.read_text())
        for mark in dashboard["annotations"]["list"]:
            yield f"{path.name}: {mark['name']}", mark["expr"]
        for panel in panels(dashboard):
            for target in panel["targets"]:
                if target["datasource"]["type"] == "prometheus":
                    yield f"{path.name}: {panel['title']}", target["expr"]


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_every_panel_explains_itself(path: Path) -> None:
    """Each panel has a title of its own, a description, a unit (of numbers) and a word for no data."""
    dashboard = json.loads(path.read_text())
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in panels(dashboard):
        assert len(panel["description"]) > 25, panel["title"]
        if panel["type"] not in {"table", "logs"}:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_panels_do_not_overlap(path: Path) -> None:
    """No two panels share a place, and none leaves the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
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


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_a_name_with_a_dot_is_found(path: Path) -> None:
    """Grafana escapes it for a regex, and LogsQL reads a backslash as itself between backticks only."""
    for panel in panels(json.loads(path.read_text())):
        for target in panel["targets"]:
            variables = re.findall(r"\$\{\w+:regex\}", target["expr"])
            assert variables == re.findall(r"`[^`]*?(\$\{\w+:regex\})[^`]*`", target["expr"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_tables_are_for_people(path: Path) -> None:
    """Columns have headings of their own in words, rows an order, strings stay strings, and no row is all zeros."""
    for panel in panels(json.loads(path.read_text())):
        if panel["type"] != "table":
            continue
        steps = {step["id"]: step["options"] for step in panel["transformations"]}
        shown = steps["filterFieldsByName"]["include"]["names"]
        renamed = steps["organize"]["renameByName"]
        assert set(renamed) == set(shown), panel["title"]
        assert all(re.fullmatch(r"[A-Z][a-z ]+", heading) for heading in renamed.values())
        assert len(set(renamed.values())) == len(renamed)
        assert steps["sortBy"]["sort"], panel["title"]
        overrides = panel["fieldConfig"]["overrides"]
        strings = [
            one for one in overrides if one["matcher"] == {"id": "byType", "options": "string"}
        ]
        assert {"id": "unit", "value": "string"} in strings[0]["properties"]
        assert "unit" not in panel["fieldConfig"]["defaults"]
        for target in panel["targets"]:
            if "increase(" in target["expr"]:
                assert target["expr"].endswith(" > 0"), panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_tables_fit_their_panels(path: Path) -> None:
    """On a page 1440 pixels wide, a column without a width of its own has room for a name of 15 letters."""
    for panel in panels(json.loads(path.read_text())):
        if panel["type"] == "table":
            steps = {step["id"]: step["options"] for step in panel["transformations"]}
            widths = [
                part["value"]
                for one in panel["fieldConfig"]["overrides"]
                for part in one["properties"]
                if part["id"] == "custom.width"
            ]
            free = len(steps["organize"]["renameByName"]) - len(widths)
            assert panel["gridPos"]["w"] * 60 - 26 - sum(widths) >= 110 * free, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_a_number_says_whose_it_is_and_a_graph_where_it_is_bad(path: Path) -> None:
    """A panel of several numbers names each, and a graph with a limit draws it."""
    for panel in panels(json.loads(path.read_text())):
        if panel["type"] == "stat":
            is_named = panel["options"].get("textMode") == "value_and_name"
            assert is_named is (len(panel["targets"]) > 1), panel["title"]
        if panel["type"] == "timeseries":
            defaults = panel["fieldConfig"]["defaults"]
            has_limit = len(defaults["thresholds"]["steps"]) > 1
            assert ("thresholdsStyle" in defaults["custom"]) is has_limit, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_the_first_loss_of_the_collector_counts(path: Path) -> None:
    """Its counters of losses begin with their first loss: an increase would leave that out."""
    for panel in panels(json.loads(path.read_text())):
        for target in panel["targets"]:
            if re.search(r"otelcol_\w+_(refused|failed)_", target["expr"]):
                assert "increase(" not in target["expr"], panel["title"]


OF_RUNS = [path for path in DASHBOARDS if path.stem != "telemetry-pipeline"]


@pytest.mark.parametrize("path", OF_RUNS, ids=named)
def test_every_table_leads_on(path: Path) -> None:
    """From each row of migrations and webhooks to its traces, its log lines and the runbook."""
    for panel in panels(json.loads(path.read_text())):
        if panel["type"] == "table":
            found = {
                link["title"].removesuffix("s")
                for one in panel["fieldConfig"]["overrides"]
                for part in one["properties"]
                if part["id"] == "links"
                for link in part["value"]
            }
            assert found == {"Trace", "Log line", "Runbook"}, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=named)
def test_no_two_lines_of_a_graph_look_the_same(path: Path) -> None:
    """The legend has every label that tells two series of a query apart."""
    of_endpoint = {"job", "deployment_environment_name", "confiture_webhook_endpoint"}
    for panel in panels(json.loads(path.read_text())):
        if panel["type"] in {"timeseries", "bargauge"}:
            for target in panel["targets"]:
                grouped = re.search(r"by \(([^)]*)\)", target["expr"])
                apart = set(grouped[1].split(", ")) - {"le"} if grouped else set()
                if apart & {"confiture_webhook_endpoint"} or target["expr"].startswith("endpoint:"):
                    apart = of_endpoint
                legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert apart <= legend, (panel["title"], apart - legend)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_alerts_are_those_of_what_is_chosen(dialect: str) -> None:
    """The list of alerts is narrowed as every other panel is; the collector's are everybody's."""
    (expr,) = {expr for _, expr in expressions(dialect) if "ALERTS" in expr}
    chosen, _, shared = expr.partition(" or ")
    assert 'job=~"$service", deployment_environment_name=~"$environment"' in chosen
    is_shared = re.compile(re.findall(r'alertname=~"([^"]+)"', shared)[0])
    for alert in (rule["alert"] for rule in rules(dialect) if "alert" in rule):
        of_collector = alert.startswith(("ConfitureTelemetry", "OtelCollector"))
        assert bool(is_shared.fullmatch(alert)) is of_collector


def test_outcomes_have_colours_of_their_own() -> None:
    """A delivered webhook is green and a dead letter red, whatever else the graph shows."""
    for path in DASHBOARDS:
        if path.stem == "webhook-delivery":
            (graph,) = (
                panel
                for panel in panels(json.loads(path.read_text()))
                if panel["title"] == "Deliveries by outcome"
            )
            colors = {
                one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
                for one in graph["fieldConfig"]["overrides"]
            }
            assert set(colors) == set(names.OUTCOMES)
            assert (colors["delivered"], colors["dead_letter"]) == ("green", "red")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_dashboards_can_be_filtered(dialect: str) -> None:
    """Every metric of a migration or a webhook is asked for the chosen services and environments only."""
    asked = [(where, expr) for where, expr in expressions(dialect) if ".json" in where]
    assert asked
    for where, expr in asked:
        for name in {*(set(METRIC.findall(expr)) & set(known())), *RECORDED.findall(expr)}:
            if "otelcol" not in name:
                assert re.search(rf"{name}\{{[^}}]*job=~\"\$service\"", expr), (where, expr)
                assert re.search(rf"{name}\{{[^}}]*=~\"\$environment\"", expr), (where, expr)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_expressions_use_names_that_exist(dialect: str) -> None:
    """Every metric and every label of dashboards and rules is in the contract."""
    recorded = {rule["record"] for rule in rules(dialect) if "record" in rule}
    series = known()
    own = set().union(*series.values()) | EVERYWHERE | {"receiver", "exporter", "error"}
    for where, expr in expressions(dialect):
        bare = re.sub(r'"[^"]*"|by \([^)]*\)|[{,]\s*\w+(?=[=!])', "", expr)
        for name in METRIC.findall(RECORDED.sub("", bare)):
            assert name in series or name.startswith("otelcol_"), (where, name)
        assert set(RECORDED.findall(expr)) <= recorded, where
        for name, selected in re.findall(r"(\w+)\{([^}]*)\}", expr):
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", selected):
                if name in series:
                    assert label in series[name] | EVERYWHERE, (where, name, label)
        grouped = {
            label.strip()
            for found in re.findall(r"by \(([^)]*)\)", expr)
            for label in found.split(",")
        }
        assert grouped <= own, (where, grouped - own)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_server_is_asked_in_its_own_words(dialect: str) -> None:
    """Counts are asked as this server counts them; none is a rate: traffic is sparse."""
    for where, expr in expressions(dialect):
        ranges = re.findall(
            r"(increase|last_over_time|max_over_time)\(([^\[]*)\[[^\]]*\]( anchored)?", expr
        )
        assert len(ranges) == expr.count("["), where
        for function, selector, anchored in ranges:
            if function == "increase":
                assert bool(anchored) is (dialect == "prometheus"), where
                is_seconds = "_seconds_sum{" in selector
                is_rounded = f"round(increase({selector}[" in expr
                assert is_rounded is (dialect == "compatible" and not is_seconds), where
            else:
                assert is_gauge(selector), where
        assert "rate(" not in expr, where


def test_the_dialects_differ_in_nothing_else() -> None:
    """Panels, alerts and what they say are the same for every server."""
    for dialect in DIALECTS[1:]:
        for ours, theirs in zip(rules(), rules(dialect), strict=True):
            assert {**ours, "expr": ""} == {**theirs, "expr": ""}
        for store in LOG_STORES:
            for path in (PROMETHEUS / "dashboards" / store).glob("*.json"):
                other = OBSERVABILITY / dialect / "dashboards" / store / path.name
                assert [panel["title"] for panel in json.loads(path.read_text())["panels"]] == [
                    panel["title"] for panel in json.loads(other.read_text())["panels"]
                ]


def test_log_panels_use_fields_that_exist() -> None:
    """Log panels ask for event names and fields of the contract."""
    fields = {field for spec in names.LOG_EVENTS for field in spec.fields} | {"event_name"}
    fields |= {"name", "service_name", "deployment_environment_name"}
    prefixes = {spec.event.partition(".")[0] for spec in names.LOG_EVENTS}
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel["targets"]:
                if target["datasource"]["uid"] != "${logs}":
                    continue
                is_loki = path.parent.name == "loki"
                wanted = re.search(
                    r'event_name=~"([^"]+)"' if is_loki else r'event_name:~"\^\(([^"]+)\)\$"',
                    target["expr"],
                )
                assert wanted, target["expr"]
                asked = {part.partition("[")[0] for part in wanted[1].split("|")}
                assert asked <= prefixes, asked
                found = set(re.findall(r"[ |{](\w+)(?::~|=~)", target["expr"]))
                assert found <= fields, found - fields


def test_every_alert_has_all_a_person_needs() -> None:
    """Severity, a summary that names whose it is, a description, and a runbook whose heading exists."""
    alerts = [rule for rule in rules() if "alert" in rule]
    anchors = headings(ROOT / "docs" / "runbooks.md")
    assert len(alerts) == 12
    for alert in alerts:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbooks.md"
        assert anchor == alert["alert"].lower()
        assert anchor in anchors
        assert len(alert["annotations"]["description"]) > 40
        summary = alert["annotations"]["summary"]
        if not alert["alert"].startswith(("ConfitureTelemetry", "OtelCollector")):
            assert "$labels.deployment_environment_name" in summary
            assert "$labels.job" in summary
            is_of_endpoint = "endpoint:" in alert["expr"] or "_endpoint" in alert["expr"]
            whose = "confiture_webhook_endpoint" if is_of_endpoint else "db_namespace"
            assert f"$labels.{whose}" in summary


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in rules() if "alert" in rule}))
def test_every_alert_is_tested(alert: str) -> None:
    """Some rule test has it silent, then firing, then silent; after a restart, and from a birth."""
    documents = [
        yaml.safe_load(path.read_text()) for path in (OBSERVABILITY / "tests").glob("*.yml")
    ]
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
    """What a runbook names is there."""
    text = (ROOT / "docs" / "runbooks.md").read_text()
    titles = {
        title
        for path in (PROMETHEUS / "dashboards" / "victorialogs").glob("*.json")
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
    assert "transform/event_name" in config["service"]["pipelines"]["logs"]["processors"]
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


def test_lines_from_a_file_are_of_a_service_that_can_be_named() -> None:
    """The agent beside a log file gives its lines the service that the runs have."""
    agent = yaml.safe_load((OBSERVABILITY / "otel-files.yaml").read_text())
    operators = agent["receivers"]["file_log/confiture"]["operators"]
    (added,) = [one for one in operators if one["type"] == "add"]
    assert added["field"] == 'resource["service.name"]'
    assert added["value"] == "${env:OTEL_SERVICE_NAME:-confiture}"


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
    rows = re.findall(
        r"^\| `((?:confiture|http)_\w+(?:\{[a-z,]+\})?)` \| (.+?) \|", text, re.MULTILINE
    )
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


def test_the_docs_have_the_fields_of_every_line() -> None:
    """The fields every line has are in the docs, in order."""
    text = (ROOT / "docs" / "telemetry.md").read_text()
    sentence = re.search(r"Every JSON line has (.+?), in this order", text)
    assert sentence is not None
    assert tuple(re.findall(r"`([^`]+)`", sentence[1])) == names.COMMON_FIELDS
