"""The variables every dashboard has, and the filters made of them."""

from __future__ import annotations

from panels import LOGS_TYPES, Json, label_variable, source_variable

ENVIRONMENT = 'deployment_environment_name=~"$environment"'
OF_ENDPOINT = f'confiture_webhook_endpoint=~"$endpoint", {ENVIRONMENT}'
_NAMES = {"victorialogs": "VictoriaLogs", "loki": "Loki"}


def sources(logs: str) -> list[Json]:
    """Where metrics and logs come from."""
    return [
        source_variable("datasource", "Metrics", "prometheus", "Prometheus"),
        source_variable("logs", "Logs", LOGS_TYPES[logs], _NAMES[logs]),
    ]


def environment() -> Json:
    """Which environments."""
    metric = '{__name__=~"confiture_migration_duration_seconds_count|confiture_webhook_deliveries_total"}'
    return label_variable(
        "environment", "Environment", f"label_values({metric}, deployment_environment_name)"
    )


def endpoint() -> Json:
    """Which endpoints."""
    metric = f"confiture_webhook_deliveries_total{{{ENVIRONMENT}}}"
    return label_variable(
        "endpoint", "Endpoint", f"label_values({metric}, confiture_webhook_endpoint)"
    )


def log_query(logs: str, events: str, *, is_by_endpoint: bool = False) -> str:
    """The log lines whose event's name begins with *events*, of the chosen environments and endpoints."""
    if logs == "loki":
        query = (
            '{service_name="confiture", deployment_environment_name=~"$environment"} '
            f'|~ "^{events}[.]"'  # the line is the event's name; Loki 3.7 drops event_name itself
        )
        return query + (' | endpoint=~"$endpoint"' if is_by_endpoint else "")
    query = (
        f'{{service.name="confiture"}} event_name:~"^{events}[.]" '
        'deployment.environment.name:~"^(${environment:regex})$"'
    )
    return query + (' endpoint:~"^(${endpoint:regex})$"' if is_by_endpoint else "")
