"""Writes the tables of settings, events and telemetry into their pages; ``--check`` only compares.

A table stands below a line ``<!-- made by scripts/reference_tables.py: NAME -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from attributes import described
from span_table import SPAN_EVENTS, SPANS

from confiture_webhooks.config import Settings, variables
from confiture_webhooks.config.block import ENDPOINT, RETRY, TLS, WEBHOOKS, Table
from confiture_webhooks.endpoint import Endpoint, Tls
from confiture_webhooks.event import DEFAULT_SUBSCRIPTION, SUBSCRIBABLE, EventType
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.telemetry import names

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARK = "<!-- made by scripts/reference_tables.py: {} -->\n\n"
OLD_TABLE = re.compile(r"\A(?:\|[^\n]*\n)*")
VARIABLE = re.compile(r"(?P<takes>.+?) \((?P<default>.+?)\): (?P<meaning>.+)")
Rows = Iterable[Sequence[str]]


def settings(table: Table, plain: object) -> Rows:
    """A row for each setting of *table*; *plain* has the defaults."""
    yield "setting", "type", "default", "meaning"
    for name, one in table.items():
        takes, _, meaning = one.row.partition(": ")
        value = getattr(plain, name, None)
        default = "none" if value is None else f"`{_written(value)}`"
        yield f"`{name}`", takes, one.default or default, meaning


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    if isinstance(value, frozenset):
        value = [kind for kind in EventType if kind in value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)


def environment() -> Rows:
    """A row for each variable that settings come from."""
    words = described(variables)
    by_value = {getattr(variables, name): text for name, text in words.items() if name != "ALL"}
    yield "variable", "type", "default", "meaning"
    for variable in variables.ALL:
        parts = VARIABLE.fullmatch(by_value[variable])
        assert parts is not None, variable
        yield f"`{variable}`", parts["takes"], parts["default"], parts["meaning"]


def events() -> Rows:
    """A row for each kind of event."""
    words = described(EventType)
    yield "`event_type`", "when", "sent by default"
    for kind in EventType:
        asked = "yes" if kind in DEFAULT_SUBSCRIPTION else "no"
        yield f"`{kind}`", words[kind.name], asked if kind in SUBSCRIBABLE else "only then"


def _coded(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def spans() -> Rows:
    """A row for each span."""
    yield "span", "name", "kind", "parent", "attributes", "status and events"
    for name, spec in SPANS.items():
        events = f"{'Event' if len(spec.events) == 1 else 'Events'}: {_coded(spec.events)}"
        note = f"{spec.note}. {events}" if spec.events else spec.note
        attributes = _coded(spec.attributes)
        yield name, _coded(spec.name.split(", ")), spec.kind, spec.parent, attributes, note


def span_events() -> Rows:
    """A row for each event of a span."""
    yield "span event", "on", "attributes"
    for event, attributes in SPAN_EVENTS.items():
        (on,) = (span for span, spec in SPANS.items() if event in spec.events)
        yield f"`{event}`", on, _coded(attributes)


def metrics() -> Rows:
    """A row for each metric."""
    yield "metric", "instrument", "unit", "attributes", "buckets"
    for spec in names.METRICS:
        buckets = " ".join(f"{bound:g}" for bound in spec.buckets)
        yield f"`{spec.name}`", spec.instrument, spec.unit, _coded(spec.attributes), buckets


def log_events() -> Rows:
    """A row for each log event."""
    yield "event", "level", "fields"
    for spec in names.LOG_EVENTS:
        yield f"`{spec.event}`", spec.level, _coded(spec.fields)


PAGES: Mapping[str, Mapping[str, Callable[[], Rows]]] = {
    "configuration.md": {
        "webhooks": lambda: settings(WEBHOOKS, Settings()),
        "endpoints": lambda: settings(ENDPOINT, Endpoint(name="", url="")),
        "retry": lambda: settings(RETRY, RetryPolicy()),
        "tls": lambda: settings(TLS, Tls()),
        "variables": environment,
    },
    "payload.md": {"events": events},
    "telemetry.md": {
        "spans": spans,
        "span events": span_events,
        "metrics": metrics,
        "log events": log_events,
    },
}


def lines(rows: Rows) -> Iterator[str]:
    """*rows*, the first of them the header, as Markdown."""
    for number, row in enumerate(rows):
        yield "|" + "".join(f" {cell} |" if cell else " |" for cell in row)
        if number == 0:
            yield f"|{'---|' * len(row)}"


def page(name: str) -> str:
    """The page called *name* as it should be."""
    text = (DOCS / name).read_text(encoding="utf-8")
    for table, rows in PAGES[name].items():
        before, mark, after = text.partition(MARK.format(table))
        assert mark, f"{name} has no place for {table}"
        made = "".join(f"{line}\n" for line in lines(rows()))
        text = f"{before}{mark}{made}{OLD_TABLE.sub('', after, count=1)}"
    return text


def main() -> int:
    """Write the pages, or say which are not current."""
    stale = [name for name in PAGES if (DOCS / name).read_text(encoding="utf-8") != page(name)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name} is not current: run scripts/reference_tables.py", file=sys.stderr)
        return int(bool(stale))
    for name in stale:
        (DOCS / name).write_text(page(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
