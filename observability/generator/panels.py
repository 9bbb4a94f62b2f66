"""The parts a dashboard is made of: panels, rows, variables, annotations, as Grafana's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from dialects import LogStore

Json = dict[str, Any]

PROMETHEUS: Json = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE, PURPLE = "green", "yellow", "red", "blue", "purple"
WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel: over the whole time range as one value, or along it."""

    expr: str
    legend: str = "__auto"
    is_instant: bool = True
    has_exemplars: bool = False

    def target(self, number: int, *, is_table: bool) -> Json:
        """The query as Grafana keeps it."""
        target: Json = {"refId": chr(ord("A") + number), "datasource": PROMETHEUS}
        target |= {"expr": self.expr, "legendFormat": self.legend}
        target["instant" if self.is_instant else "range"] = True
        if is_table:
            target["format"] = "table"
        if self.has_exemplars:
            target["exemplar"] = True
        return target


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the field it shows, its heading, and how it is written."""

    field: str
    heading: str
    unit: str = ""
    width: int = 0
    links: Sequence[Json] = ()
    words: Sequence[tuple[str, str, str]] = ()
    """What is shown for a value, and in which colour."""

    def override(self) -> Json | None:
        """How Grafana is to write the column, if not as it would."""
        properties: list[Json] = []
        if self.unit:
            properties.append({"id": "unit", "value": self.unit})
        if self.width:
            properties.append({"id": "custom.width", "value": self.width})
        if self.links:
            properties.append({"id": "links", "value": list(self.links)})
        if self.words:
            options = {
                value: {"text": text, "color": color, "index": number}
                for number, (value, text, color) in enumerate(self.words)
            }
            properties += [
                {"id": "mappings", "value": [{"type": "value", "options": options}]},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ]
        return override("byName", self.heading, *properties) if properties else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; *about* says what it shows and what to do when it is red."""

    title: str
    about: str
    kind: str
    unit: str = ""
    queries: Sequence[Query] = ()
    width: int = 12
    height: int = 8
    when_empty: str = "nothing in this time range"
    yellow_above: float | None = None
    red_above: float | None = None
    red_below: float | None = None
    is_stacked: bool = False
    min_interval: str = ""
    colors: Sequence[tuple[str, str]] = ()
    """The colour of a series, by its name in the legend."""
    shades: str = ""
    """One colour for all series, in shades."""
    columns: Sequence[Column] = ()
    sort_by: str = ""
    """The heading a table is sorted by, the largest first, unless *is_ascending*."""
    is_ascending: bool = False
    limit: int = 0
    logs: str = ""
    """The query of a log store; a table of its records has its fields as columns."""

    def json(self, store: LogStore) -> Json:
        """The panel as Grafana keeps it, without its place."""
        is_table = self.kind == "table"
        panel: Json = {
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "datasource": PROMETHEUS,
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": _OPTIONS[self.kind],
            "targets": [
                query.target(number, is_table=is_table) for number, query in enumerate(self.queries)
            ],
        }
        if self.logs:
            source = {"type": store.source, "uid": "${logs}"}
            target: Json = {"refId": "A", "datasource": source, "expr": self.logs}
            target |= {"queryType": store.query_type, "maxLines": 1000 if is_table else 200}
            panel |= {"datasource": source, "targets": [target]}
        if self.min_interval:
            panel["interval"] = self.min_interval
        if self.kind == "stat" and len(self.queries) > 1:
            panel["options"] = panel["options"] | {"textMode": "value_and_name"}
        if is_table:
            panel["transformations"] = self._transformations()
        return panel

    def _transformations(self) -> list[Json]:
        steps: list[Json] = []
        if self.logs:
            steps.append({"id": "extractFields", "options": {"source": "labels", "format": "json"}})
        elif len(self.queries) > 1:
            steps.append({"id": "merge", "options": {}})
        names = [column.field for column in self.columns]
        steps.append({"id": "filterFieldsByName", "options": {"include": {"names": names}}})
        if self.logs:
            numbers = [
                {"targetField": column.field, "destinationType": "number"}
                for column in self.columns
                if column.unit == "ms"
            ]
            steps.append({"id": "convertFieldType", "options": {"conversions": numbers}})
        organized = {
            "indexByName": {name: number for number, name in enumerate(names)},
            "renameByName": {column.field: column.heading for column in self.columns},
        }
        steps.append({"id": "organize", "options": organized})
        if self.sort_by:
            by = {"sort": [{"field": self.sort_by, "desc": not self.is_ascending}]}
            steps.append({"id": "sortBy", "options": by})
        if self.limit:
            steps.append({"id": "limit", "options": {"limitField": self.limit}})
        return steps

    def _overrides(self) -> list[Json]:
        found = [
            override("byName", name, {"id": "color", "value": fixed(color)})
            for name, color in self.colors
        ]
        if self.kind == "table":
            # A table's defaults are for its numbers: a string that looks like one stays as it is.
            plain = [{"id": "unit", "value": "string"}, {"id": "noValue", "value": "-"}]
            found.append(override("byType", "string", *plain))
            found.append(override("byType", "number", plain[1]))
        return found + [made for column in self.columns if (made := column.override())]

    def _defaults(self) -> Json:
        is_graph = self.kind == "timeseries"
        defaults: Json = {
            "noValue": self.when_empty,
            "thresholds": {"mode": "absolute", "steps": self._steps()},
            "color": self._color(),
        }
        if self.unit:
            defaults["unit"] = self.unit
        if self.unit == "percentunit" and not is_graph:
            defaults |= {"min": 0, "max": 1}
        if self.unit == "locale":
            defaults |= {"decimals": 0}
        if self.kind in {"timeseries", "bargauge"}:
            defaults |= {"min": 0}
        if self.kind == "table":
            defaults["custom"] = {"minWidth": 70}
        if is_graph:
            defaults["custom"] = {
                "drawStyle": "bars" if self.is_stacked else "line",
                "fillOpacity": 60 if self.is_stacked else 10,
                "showPoints": "auto",
                "stacking": {"mode": "normal" if self.is_stacked else "none", "group": "A"},
            }
            if self.unit == "percentunit":
                defaults["custom"]["axisSoftMax"] = 1  # nothing but zeros would be up to 10000 %
            if len(self._steps()) > 1:
                defaults["custom"]["thresholdsStyle"] = {"mode": "dashed"}
        return defaults

    def _color(self) -> Json:
        if self.shades:
            return {"mode": "shades", "fixedColor": self.shades}
        return {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"}

    def _steps(self) -> list[Json]:
        if self.red_below is not None:
            return [{"color": RED, "value": None}, {"color": GREEN, "value": self.red_below}]
        steps: list[Json] = [{"color": GREEN, "value": None}]
        for color, above in ((YELLOW, self.yellow_above), (RED, self.red_above)):
            if above is not None:
                steps.append({"color": color, "value": above})
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
    store: LogStore
    parts: Sequence[Panel | Row]
    variables: Sequence[Json]
    annotations: Sequence[Json] = field(default_factory=tuple)

    def text(self) -> str:
        """The dashboard as Grafana imports it, one panel, variable or annotation a line."""
        head = {
            "uid": self.uid,
            "title": self.title,
            "description": self.about,
            "tags": ["confiture"],
            "schemaVersion": 41,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-24h", "to": "now"},
            "links": [_LINK],
        }
        lists = {
            '"annotations": {"list": ': (self.annotations, "]},"),
            '"templating": {"list": ': (self.variables, "]},"),
            '"panels": ': (list(self._placed()), "]"),
        }
        lines = ["{", *(f"{_line(name)}: {_line(value)}," for name, value in head.items())]
        for opening, (items, closing) in lists.items():
            rows = ",\n".join(map(_line, items))
            lines.append(f"{opening}[\n{rows}\n{closing}" if rows else f"{opening}[{closing}")
        return "\n".join([*lines, "}", ""])

    def _placed(self) -> Iterable[Json]:
        x = y = tallest = 0
        for number, part in enumerate(self.parts, 1):
            is_row = isinstance(part, Row)
            width, height = (WIDTH, 1) if isinstance(part, Row) else (part.width, part.height)
            if is_row or x + width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            place = {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
            if isinstance(part, Row):
                yield place | {"type": "row", "title": part.title, "panels": []}
            else:
                yield place | part.json(self.store)
            x, tallest = x + width, max(tallest, height)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def override(by: str, options: str, *properties: Json) -> Json:
    """What differs for the fields that match."""
    return {"matcher": {"id": by, "options": options}, "properties": list(properties)}


def fixed(color: str) -> Json:
    """A colour that does not depend on the order of series."""
    return {"mode": "fixed", "fixedColor": color}


def explore(title: str, source: str, **query: str) -> Json:
    """A link to Grafana's Explore that asks the data source of variable *source*."""
    pane = {
        "datasource": f"${{{source}}}",
        "queries": [{"refId": "A", **query}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    written = quote(json.dumps({"a": pane}), safe="${}:.")
    return {"title": title, "url": f"/explore?schemaVersion=1&panes={written}", "targetBlank": True}


def source_variable(name: str, label: str, kind: str, prefer: str) -> Json:
    """A variable that chooses a data source of *kind*."""
    return {
        "name": name,
        "label": label,
        "type": "datasource",
        "query": kind,
        "current": {"text": prefer, "value": prefer},
        "refresh": 1,
    }


def text_variable(name: str, label: str, value: str) -> Json:
    """A variable that a person may overwrite."""
    current = {"text": value, "value": value}
    return {"name": name, "label": label, "type": "textbox", "query": value, "current": current}


def label_variable(name: str, label: str, query: str, all_of_it: str) -> Json:
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
        "allValue": all_of_it,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }


def annotation(name: str, expr: str, title: str, color: str) -> Json:
    """Marks on every graph where *expr* has a value."""
    return {
        "name": name,
        "datasource": PROMETHEUS,
        "enable": True,
        "iconColor": color,
        "expr": expr,
        "step": "60s",
        "titleFormat": title,
    }


_LINK: Json = {
    "type": "dashboards",
    "title": "Confiture",
    "tags": ["confiture"],
    "icon": "external link",
    "tooltip": "",
    "targetBlank": False,
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
}
_REDUCE: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, Json] = {
    "stat": {"reduceOptions": _REDUCE, "colorMode": "value", "graphMode": "none"},
    "bargauge": {
        "reduceOptions": _REDUCE,
        "orientation": "horizontal",
        "displayMode": "basic",
        "namePlacement": "top",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
    "logs": {"showTime": True, "enableLogDetails": True, "wrapLogMessage": True},
}
