"""The variables every dashboard has, the filters made of them, and the links of tables."""

from __future__ import annotations

from dialects import DATABASE, ENDPOINT, ENVIRONMENT, SERVICE, LogStore
from panels import Column, Json, explore, label_variable, source_variable, text_variable

CHOSEN = f'{SERVICE}=~"$service", {ENVIRONMENT}=~"$environment"'
OF_ENDPOINT = f'{ENDPOINT}=~"$endpoint", {CHOSEN}'
OWNER = f"{SERVICE}, {ENVIRONMENT}, {DATABASE}"
"""Whose number it is: the service, its environment and the migrated database."""
_METRICS = (
    '__name__=~"confiture_runs_total|confiture_migration_duration_seconds_count|'
    'confiture_webhook_deliveries_total"'
)
_RUNBOOKS = "http://127.0.0.1:8000/runbooks/"


def sources(store: LogStore) -> list[Json]:
    """Where metrics, logs and traces come from, and where the runbooks are."""
    name = {"victorialogs": "VictoriaLogs", "loki": "Loki"}[store.name]
    return [
        source_variable("datasource", "Metrics", "prometheus", "Prometheus"),
        source_variable("logs", "Logs", store.source, name),
        source_variable("traces", "Traces", "jaeger", "Jaeger"),
        text_variable("runbooks", "Runbooks", _RUNBOOKS),
    ]


def owners() -> list[Json]:
    """Which services, and which of their environments."""
    environments = f'label_values({{{_METRICS}, {SERVICE}=~"$service"}}, {ENVIRONMENT})'
    return [
        label_variable("service", "Service", f"label_values({{{_METRICS}}}, {SERVICE})", ".+"),
        label_variable("environment", "Environment", environments, ".*"),
    ]


def endpoints() -> Json:
    """Which endpoints."""
    query = f"label_values(confiture_webhook_deliveries_total{{{CHOSEN}}}, {ENDPOINT})"
    return label_variable("endpoint", "Endpoint", query, ".*")


def runbook() -> Json:
    """A link to the runbooks, where the variable says they are."""
    return {"title": "Runbook", "url": "${runbooks}", "targetBlank": True}


def links(store: LogStore, *, is_by_endpoint: bool = False) -> list[Json]:
    """Of a row of numbers: the traces, the log lines and the runbook."""
    service = "${__data.fields.Service}"
    value = "${__data.fields.Endpoint}"
    tags = f"confiture.webhook.endpoint={value}" if is_by_endpoint else ""
    search = {"queryType": "search", "service": service}
    if store.name == "loki":
        lines = f'{{service_name="{service}"}}' + (
            f' | endpoint="{value}"' if is_by_endpoint else ""
        )
    else:
        lines = f'{{service.name="{service}"}}' + (
            f' endpoint:="{value}"' if is_by_endpoint else ""
        )
    return [
        explore("Traces", "traces", **search, **({"tags": tags} if tags else {})),
        explore("Log lines", "logs", expr=lines),
        runbook(),
    ]


def of_owner(store: LogStore) -> list[Column]:
    """The columns that say whose a row is."""
    return [
        Column(ENVIRONMENT, "Environment", width=100),
        Column(SERVICE, "Service", links=links(store)),
        Column(DATABASE, "Database"),
    ]


def of_endpoint(store: LogStore) -> list[Column]:
    """The columns that say to whom a row's deliveries went."""
    return [
        Column(ENVIRONMENT, "Environment", width=100),
        Column(SERVICE, "Service"),
        Column(ENDPOINT, "Endpoint", links=links(store, is_by_endpoint=True)),
    ]


def of_trace(store: LogStore) -> Column:
    """The column that opens a log record's trace and its other lines."""
    trace = "${__data.fields.Trace}"
    lines = f'{{service_name=~".+"}} | trace_id="{trace}"'
    if store.name == "victorialogs":
        lines = f'trace_id:="{trace}"'
    to = [
        explore("Trace", "traces", query=trace),
        explore("Log lines", "logs", expr=lines),
        runbook(),
    ]
    return Column("trace_id", "Trace", width=130, links=to)
