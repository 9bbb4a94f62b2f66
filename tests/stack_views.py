"""The live stack as a person sees it: panels and alerts taken from their files and executed."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
OBSERVABILITY = ROOT / "observability"
DIALECTS = {
    "prometheus": "prometheus",
    "prometheus-3.5": "compatible",
    "victoriametrics": "victoriametrics",
}
"""Which folder's dashboards and rules are for which server."""
SCRAPE_S = 10
SETTLED_S = (
    14  # two flushes of span_metrics, a scrape, an evaluation of the rules, at a test's pace
)
VARIABLES = {
    "${service:regex}": ".+",
    "${environment:regex}": r"eu\.prod",  # as Grafana writes the name with a dot
    "${endpoint:regex}": ".*",
    "$service": ".+",
    "$environment": r"eu\\.prod",
    "$endpoint": ".*",
}


@dataclass(frozen=True)
class Asked:
    """One query of a panel, as it is in the dashboard's file of one server."""

    server: str
    dashboard: str
    panel: str
    kind: str
    expr: str
    is_instant: bool
    step_s: int
    has_exemplars: bool
    is_logs: bool = False


def dashboards(server: str = "prometheus", store: str = "victorialogs") -> Iterator[dict[str, Any]]:
    """The dashboards that are for *server* and *store*."""
    for path in sorted((OBSERVABILITY / DIALECTS[server] / "dashboards" / store).glob("*.json")):
        yield json.loads(path.read_text())


def asked(server: str = "prometheus") -> Iterator[Asked]:
    """Every query of every panel of a server's dashboards."""
    for dashboard in dashboards(server):
        for panel in dashboard["panels"]:
            step_s = {"1m": 60, "5m": 300}.get(panel.get("interval", ""), 15)
            for target in panel.get("targets", ()):
                yield Asked(
                    server,
                    dashboard["title"],
                    panel["title"],
                    panel["type"],
                    target["expr"],
                    bool(target.get("instant")),
                    step_s,
                    bool(target.get("exemplar")),
                    target["datasource"]["uid"] == "${logs}",
                )


def marks(server: str = "prometheus") -> dict[str, str]:
    """Every annotation of every dashboard, by dashboard and name."""
    found = {}
    for dashboard in dashboards(server):
        for mark in dashboard["annotations"]["list"]:
            found[f"{dashboard['title']}: {mark['name']}"] = mark["expr"]
    return found


def choices() -> dict[str, tuple[str, str]]:
    """The variables that offer a label's values: selector and label, by dashboard and name."""
    found = {}
    for dashboard in dashboards():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                assert asked, variable
                found[f"{dashboard['title']}: {variable['name']}"] = (asked[1], asked[2])
    return found


def alerts(server: str = "prometheus") -> dict[str, str]:
    """Every alert's expression, by name and severity."""
    groups = (
        group
        for path in (OBSERVABILITY / DIALECTS[server] / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
    )
    return {
        f"{rule['alert']} {rule['labels']['severity']}": rule["expr"]
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    }


class Views:
    """Asks the stores what a person would."""

    def __init__(self, addresses: Mapping[str, Any], server: str = "prometheus") -> None:
        self._at = addresses
        self.server = server
        self._started_at = time.time()

    def on(self, server: str) -> Views:
        """The same, as *server* shows it."""
        other = Views(self._at, server)
        other._started_at = self._started_at
        return other

    def settle(self) -> None:
        """Wait until everything that was sent can be seen."""
        time.sleep(SETTLED_S)

    def panel(self, asked: Asked) -> list[Any]:
        """What a panel's query shows: series of a metric, or log lines."""
        if asked.is_logs:
            return self.logs(_filled(asked.expr, asked.step_s, self._window_s()))
        return [series for series in self.metrics(asked) if _has_number(series)]

    def marks(self, expr: str) -> int:
        """How many marks an annotation makes along the whole session."""
        asked = Asked("", "", "", "", expr, is_instant=False, step_s=60, has_exemplars=False)
        return sum(len(series["values"]) for series in self.metrics(asked))

    def choice(self, selector: str, label: str) -> set[str]:
        """What a variable offers."""
        selector = _filled(selector, 60, self._window_s())
        query = {"match[]": selector, "start": self._started_at}
        return set(self._prometheus(f"label/{label}/values", **query)["data"])

    def metrics(self, asked: Asked) -> list[Any]:
        """The series a panel's query shows: instant values, or values along the whole session."""
        expr = _filled(asked.expr, asked.step_s, self._window_s())
        if asked.is_instant:
            return self.instant(expr)
        first = self._started_at - self._started_at % asked.step_s
        last = time.time() + asked.step_s
        document = self._prometheus(
            "query_range", query=expr, start=first, end=last, step=asked.step_s
        )
        return list(document["data"]["result"])

    def table(self, title: str, *labels: str) -> dict[Any, int]:
        """A panel's values by some of its labels, without the zeros."""
        found = next(query for query in asked(self.server) if query.panel == title)
        rows: dict[Any, float] = {}
        for series in self.metrics(found):
            key = tuple(series["metric"].get(label, "") for label in labels)
            key = key[0] if len(key) == 1 else key
            if found.is_instant:
                value = float(series["value"][1])
            else:
                value = sum(float(text) for _, text in series["values"])
            rows[key] = rows.get(key, 0) + value
        return {key: _exact(value) for key, value in rows.items() if value}

    def number(self, title: str) -> float:
        """The one value of a panel."""
        (found,) = (query for query in asked(self.server) if query.panel == title)
        (series,) = self.metrics(found)
        return float(series["value"][1])

    def instant(self, expr: str) -> list[Any]:
        """What Prometheus answers now."""
        return list(self._prometheus("query", query=expr)["data"]["result"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire in Prometheus."""
        at = self._at["vmalert"] if self.server == "victoriametrics" else self._metrics_at
        found = self._json(f"{at}/api/v1/alerts")["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def routed(self) -> set[str]:
        """Names of the alerts that Alertmanager holds."""
        found = self._json(self._at["alertmanager"] + "/api/v2/alerts")
        return {alert["labels"]["alertname"] for alert in found}

    def links(self) -> set[str]:
        """Where the alerts that Alertmanager holds lead to."""
        return {
            alert["generatorURL"]
            for alert in self._json(self._at["alertmanager"] + "/api/v2/alerts")
        }

    def series(self) -> set[str]:
        """Every series of ours there ever was, for successes of endpoint analytics."""
        chosen = (
            '{__name__=~"confiture_webhook_.+", confiture_webhook_endpoint="analytics",'
            ' confiture_webhook_event_type!="migration_error"}'
        )
        found = self._prometheus("series", **{"match[]": chosen, "start": self._started_at})["data"]
        return {json.dumps(series, sort_keys=True) for series in found}

    def every_label(self) -> str:
        """All series with all labels, as text."""
        found = self._prometheus(
            "series", **{"match[]": '{__name__=~".+"}', "start": self._started_at}
        )
        return json.dumps(found)

    def exemplars(self, expr: str) -> list[Any]:
        """The exemplars of a panel's series."""
        expr = _filled(expr, 300, self._window_s())
        document = self._prometheus(
            "query_exemplars", query=expr, start=self._started_at, end=time.time()
        )
        return list(document["data"])

    def trace(self, trace_id: str) -> dict[str, dict[str, Any]]:
        """A trace's spans by their id, each with name, parent, kind, tags and events."""
        url = f"{self._at['jaeger']}/api/traces/{trace_id}"
        (trace,) = self._json(url)["data"]
        return {span["spanID"]: _span(span) for span in trace["spans"]}

    def search(self, **tags: str) -> set[str]:
        """Trace ids that Jaeger finds by tags."""
        written = urllib.parse.urlencode(
            {"service": "confiture", "limit": 200, "lookback": "1h", "tags": json.dumps(tags)}
        )
        found = self._json(f"{self._at['jaeger']}/api/traces?{written}")["data"]
        return {trace["traceID"] for trace in found}

    def monitor(self, what: str) -> list[Any]:
        """Jaeger's Monitor tab: calls, errors or latencies by operation."""
        query: dict[str, Any] = {
            "service": "confiture",
            "groupByOperation": "true",
            "lookback": 3600000,
            "step": 60000,
            "ratePer": 600000,
            "spanKind": ["client", "internal"],
        }
        if what == "latencies":
            query["quantile"] = 0.95
        written = urllib.parse.urlencode(query, doseq=True)
        return list(self._json(f"{self._at['jaeger']}/api/metrics/{what}?{written}")["metrics"])

    def logs(self, query: str) -> list[dict[str, str]]:
        """The log lines a LogsQL query finds."""
        written = urllib.parse.urlencode({"query": query, "start": self._started_at, "limit": 5000})
        url = f"{self._at['victorialogs']}/select/logsql/query?{written}"
        return [json.loads(line) for line in _read(url).splitlines()]

    def _window_s(self) -> int:
        return int(time.time() - self._started_at) + SCRAPE_S

    def _prometheus(self, path: str, **query: Any) -> Any:
        return self._json(f"{self._metrics_at}/api/v1/{path}?{urllib.parse.urlencode(query)}")

    @property
    def _metrics_at(self) -> str:
        return str(self._at["metrics"][self.server])

    def _json(self, url: str) -> Any:
        return json.loads(_read(url))


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        return bytes(response.read())


def _filled(expr: str, step_s: int, window_s: int) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    expr = expr.replace("$__range", f"{window_s}s").replace("$__interval", f"{step_s}s")
    return expr.replace("$__rate_interval", f"{step_s + 2}s")  # and a scrape, at a test's pace


def _has_number(series: Mapping[str, Any]) -> bool:
    """Whether a series has anything to show: a quantile of nothing is not a number."""
    samples = [series["value"]] if "value" in series else series["values"]
    return any(not math.isnan(float(text)) for _, text in samples)


def _exact(value: float) -> int:
    assert value == int(value), f"not an integer: {value}"
    return int(value)


def _span(span: Mapping[str, Any]) -> dict[str, Any]:
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    parents = [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]
    events = [
        {field["key"]: field["value"] for field in event["fields"]} for event in span["logs"] or ()
    ]
    return {
        "name": span["operationName"],
        "parent": parents[0] if parents else None,
        "links": [ref for ref in span["references"] if ref["refType"] != "CHILD_OF"],
        "kind": tags.get("span.kind"),
        "tags": tags,
        "events": events,
    }
