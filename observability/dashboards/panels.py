"""The parts a dashboard is made of: panels, rows, variables, annotations, as Grafana's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

PROMETHEUS: Json = {"type": "prometheus", "uid": "${datasource}"}
LOGS_TYPES = {"victorialogs": "victoriametrics-logs-datasource", "loki": "loki"}
GREEN, YELLOW, RED = "green", "yellow", "red"
WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel. Over the whole time range as one value, or along it."""

    expr: str
    legend: str = "__auto"
    is_instant: bool = True
    has_exemplars: bool = False

    def target(self, number: int, *, is_table: bool) -> Json:
        """The query as Grafana keeps it."""
        kind = (
            {"instant": True, "range": False}
            if self.is_instant
            else {"instant": False, "range": True}
        )
        return {
            "refId": chr(ord("A") + number),
            "datasource": PROMETHEUS,
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend,
            "format": "table" if is_table else "time_series",
            "exemplar": self.has_exemplars,
            **kind,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; *about* says what it shows and what to do when it is red."""

    title: str
    about: str
    kind: str
    unit: str
    queries: Sequence[Query] = ()
    width: int = 12
    height: int = 8
    when_empty: str = "nothing in this time range"
    red_above: float | None = None
    red_below: float | None = None
    is_stacked: bool = False
    min_interval: str | None = None
    logs: str = ""

    def json(self) -> Json:
        """The panel as Grafana keeps it, without its place."""
        panel: Json = {
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "datasource": {"type": "${logs}", "uid": "${logs}"} if self.logs else PROMETHEUS,
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [
                query.target(number, is_table=self.kind == "table")
                for number, query in enumerate(self.queries)
            ],
        }
        if self.min_interval:
            panel["interval"] = self.min_interval
        if self.kind == "table":
            panel["transformations"] = [
                {"id": "organize", "options": {"excludeByName": {"Time": True}}}
            ]
        return panel

    def _defaults(self) -> Json:
        defaults: Json = {
            "unit": self.unit,
            "noValue": self.when_empty,
            "thresholds": {"mode": "absolute", "steps": self._steps()},
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
        }
        if self.unit == "percentunit":
            defaults |= {"min": 0, "max": 1}
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "bars" if self.is_stacked else "line",
                "fillOpacity": 60 if self.is_stacked else 10,
                "lineWidth": 1,
                "showPoints": "auto",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.is_stacked else "none", "group": "A"},
            }
        return defaults

    def _steps(self) -> list[Json]:
        if self.red_below is not None:
            return [{"color": RED, "value": None}, {"color": GREEN, "value": self.red_below}]
        steps: list[Json] = [{"color": GREEN, "value": None}]
        if self.red_above is not None:
            steps.append({"color": RED, "value": self.red_above})
        return steps


@dataclass(frozen=True, slots=True)
class Row:
    """A heading over the panels that follow it."""

    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A whole dashboard, laid out from left to right and top to bottom."""

    uid: str
    title: str
    about: str
    parts: Sequence[Panel | Row]
    variables: Sequence[Json]
    annotations: Sequence[Json] = ()
    logs: str = "victorialogs"
    links: Sequence[Json] = field(default_factory=tuple)

    def json(self) -> Json:
        """The dashboard as Grafana imports it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["confiture"],
            "schemaVersion": 41,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-24h", "to": "now"},
            "timezone": "browser",
            "fiscalYearStartMonth": 0,
            "links": [_LINK, *self.links],
            "annotations": {"list": list(self.annotations)},
            "templating": {"list": list(self.variables)},
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterable[Json]:
        x = y = tallest = 0
        for number, part in enumerate(self.parts, 1):
            is_row = isinstance(part, Row)
            width, height = (WIDTH, 1) if isinstance(part, Row) else (part.width, part.height)
            if is_row or x + width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            place = {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
            if isinstance(part, Row):
                yield place | {"type": "row", "title": part.title, "collapsed": False, "panels": []}
            else:
                yield place | self._with_logs(part)
            x, tallest = x + width, max(tallest, height)

    def _with_logs(self, panel: Panel) -> Json:
        json = panel.json()
        if panel.logs:
            source = {"type": LOGS_TYPES[self.logs], "uid": "${logs}"}
            target: Json = {"refId": "A", "datasource": source, "expr": panel.logs}
            target |= {"queryType": "range" if self.logs == "loki" else "instant", "maxLines": 200}
            json |= {"datasource": source, "targets": [target]}
        return json


def source_variable(name: str, label: str, kind: str, prefer: str) -> Json:
    """A variable that chooses a data source of *kind*."""
    return {
        "name": name,
        "label": label,
        "type": "datasource",
        "query": kind,
        "current": {"text": prefer, "value": prefer},
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "options": [],
    }


def label_variable(name: str, label: str, query: str) -> Json:
    """A variable with the values of a label; all of them at first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "definition": query,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "options": [],
    }


def annotation(name: str, expr: str, title: str, color: str) -> Json:
    """Marks on every graph where *expr* has a value."""
    return {
        "name": name,
        "datasource": PROMETHEUS,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": "60s",
        "titleFormat": title,
        "useValueForTime": False,
    }


_LINK: Json = {
    "type": "dashboards",
    "title": "Confiture",
    "tags": ["confiture"],
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
}
_REDUCE: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_LEGEND: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
_OPTIONS: dict[str, Json] = {
    "stat": {
        "reduceOptions": _REDUCE,
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
    },
    "bargauge": {
        "reduceOptions": _REDUCE,
        "orientation": "horizontal",
        "displayMode": "basic",
        "showUnfilled": True,
    },
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "table": {"showHeader": True, "cellHeight": "sm"},
    "logs": {
        "showTime": True,
        "sortOrder": "Descending",
        "enableLogDetails": True,
        "wrapLogMessage": True,
        "prettifyLogMessage": False,
        "dedupStrategy": "none",
    },
}
