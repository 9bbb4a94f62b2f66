"""The dashboard *Webhook delivery*."""

from __future__ import annotations

from panels import Dashboard, Json, Panel, Query, Row, annotation
from variables import ENVIRONMENT, OF_ENDPOINT, endpoint, environment, log_query, sources

DELIVERIES = "confiture_webhook_deliveries_total"
ENDED = 'confiture_webhook_outcome=~"delivered|dead_letter|gone"'
SPANS = "traces_span_metrics_duration_milliseconds_bucket"
HAS_REASON = 'error_type!=""'  # without: the zeros that every run begins with


def count(metric: str, window: str = "$__range", by: str = "", where: str = "") -> str:
    """How much *metric* grew in *window*: an exact integer."""
    chosen = ", ".join(part for part in (where, OF_ENDPOINT) if part)
    over = f"sum by ({by}) " if by else "sum"
    return f"{over}(increase({metric}{{{chosen}}}[{window}] anchored))"


def quantiles(
    metric: str, window: str, where: str = OF_ENDPOINT, by: str = ""
) -> list[tuple[str, str]]:
    """The 50th, 95th and 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    rates = f"sum by ({labels}) (increase({metric}{{{where}}}[{window}] anchored))"
    return [(f"p{q}", f"histogram_quantile(0.{q}, {rates})") for q in (50, 95, 99)]


def _last_word(gauge: str) -> str:
    """What the last process said of *gauge*, also after a restart of the collector, which forgets it."""
    over = "max by (confiture_webhook_state, deployment_environment_name)"
    shown = f"{gauge}{{{ENVIRONMENT}}}"
    return f"{over} ({shown}) or {over} (last_over_time({shown}[$__range]))"


def outcome() -> list[Panel | Row]:
    """What became of the deliveries."""
    delivered = count(DELIVERIES, where='confiture_webhook_outcome="delivered"')
    dead = count(DELIVERIES, where='confiture_webhook_outcome="dead_letter"')
    return [
        Row("Outcome"),
        Panel(
            title="Success ratio",
            about="Delivered, of all deliveries that ended in this time range; one put off has not ended. "
            "Red: look at the dead letters by endpoint below, then at the reasons.",
            kind="stat",
            unit="percentunit",
            width=5,
            height=5,
            red_below=0.99,
            when_empty="no delivery ended",
            queries=[Query(f"{delivered} / ({count(DELIVERIES, where=ENDED)} > 0)", "success")],
        ),
        Panel(
            title="Deliveries",
            about="Deliveries that ended in this time range, however they ended. None although migrations ran: "
            "run `confiture webhooks check`.",
            kind="stat",
            unit="short",
            width=4,
            height=5,
            queries=[Query(f"{count(DELIVERIES, where=ENDED)} or vector(0)", "ended")],
        ),
        Panel(
            title="Dead letters",
            about="Given up in this time range, and kept in the outbox. Red: repair the receiver, then "
            "`confiture webhooks redeliver --dead`. Runbook: ConfitureWebhookDeadLetter.",
            kind="stat",
            unit="short",
            width=5,
            height=5,
            red_above=1,
            queries=[Query(f"{dead} or vector(0)", "dead letters")],
        ),
        Panel(
            title="Oldest undelivered",
            about="How long the oldest entry of the outbox has waited; it grows while nobody reports. Red: no run and "
            "no worker came to send it, or its endpoint keeps failing. Runbook: ConfitureWebhookOutboxStuck.",
            kind="stat",
            unit="s",
            width=5,
            height=5,
            red_above=900,
            queries=[
                Query(
                    f"max(environment:confiture_webhook_outbox:oldest_age_seconds{{{ENVIRONMENT}}}) or vector(0)",
                    "oldest",
                )
            ],
        ),
        Panel(
            title="In the outbox",
            about="What the last process that reported left there. Pending goes out with the next run or "
            "`confiture webhooks deliver`; a dead letter only when you redeliver it.",
            kind="stat",
            unit="short",
            width=5,
            height=5,
            when_empty="no outbox has reported",
            queries=[
                Query(
                    f"sum by (confiture_webhook_state) ({_last_word('confiture_webhook_outbox_size')})",
                    "{{confiture_webhook_state}}",
                )
            ],
        ),
        Panel(
            title="Deliveries by outcome",
            about="Counted where they ended; `deferred` was put off to a later run or worker and is counted again "
            "when it ends. `gone`: the receiver answered 410 and the endpoint is off.",
            kind="timeseries",
            unit="short",
            width=14,
            is_stacked=True,
            min_interval="1m",
            queries=[
                Query(
                    count(DELIVERIES, "$__interval", "confiture_webhook_outcome"),
                    "{{confiture_webhook_outcome}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Deliveries by endpoint",
            about="Every endpoint's outcomes over the whole time range. One endpoint with dead letters: its receiver. "
            "All of them: the network of the machine that migrates.",
            kind="table",
            unit="short",
            width=10,
            queries=[
                Query(count(DELIVERIES, by="confiture_webhook_endpoint, confiture_webhook_outcome"))
            ],
        ),
        Panel(
            title="Error budget burn",
            about="The part of the ended deliveries that was lost, over the last hour and six hours; the objective is "
            "1 % over 30 days. Above 14.4 % (hour) it pages, above 6 % (six hours) it makes a ticket.",
            kind="timeseries",
            unit="percentunit",
            width=24,
            height=6,
            when_empty="no delivery ended",
            queries=[
                Query(
                    f"endpoint:confiture_webhook_lost:ratio{window}{{{OF_ENDPOINT}}}",
                    f"{{{{confiture_webhook_endpoint}}}} {window}",
                    is_instant=False,
                )
                for window in ("1h", "6h")
            ],
        ),
    ]


def latency() -> list[Panel | Row]:
    """How long it took."""
    of_span = f'confiture_webhook_outcome!="", {OF_ENDPOINT}'
    return [
        Row("Latency"),
        Panel(
            title="Delivery latency",
            about="From the first attempt's start to the end, retries included, of the deliveries in each interval. "
            "The dots are exemplars: click one to open its trace in Jaeger.",
            kind="timeseries",
            unit="ms",
            min_interval="5m",
            queries=[
                Query(expr, name, is_instant=False, has_exemplars=True)
                for name, expr in quantiles(SPANS, "$__interval", of_span)
            ],
        ),
        Panel(
            title="Delivery latency by endpoint",
            about="p95 over the whole time range. A slow endpoint costs only itself: none waits for another.",
            kind="bargauge",
            unit="s",
            width=6,
            red_above=30,
            queries=[
                Query(
                    quantiles(
                        "confiture_webhook_delivery_duration_seconds_bucket",
                        "$__range",
                        by="confiture_webhook_endpoint",
                    )[1][1],
                    "{{confiture_webhook_endpoint}}",
                )
            ],
        ),
        Panel(
            title="Lag by endpoint",
            about="p95 of the time from the event to its delivery, over the whole time range. High although the latency is "
            "low: deliveries wait for the next run. Run `confiture webhooks deliver` from cron.",
            kind="bargauge",
            unit="s",
            width=6,
            red_above=900,
            queries=[
                Query(
                    quantiles(
                        "confiture_webhook_delivery_lag_seconds_bucket",
                        "$__range",
                        by="confiture_webhook_endpoint",
                    )[1][1],
                    "{{confiture_webhook_endpoint}}",
                )
            ],
        ),
        Panel(
            title="Attempt latency by server",
            about="p95 of single HTTP requests, by the server that answered. Compare with the delivery latency: the "
            "difference is waiting for a retry.",
            kind="timeseries",
            unit="s",
            min_interval="5m",
            queries=[
                Query(
                    quantiles(
                        "http_client_request_duration_seconds_bucket",
                        "$__interval",
                        ENVIRONMENT,
                        "server_address, server_port",
                    )[1][1],
                    "{{server_address}}:{{server_port}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Attempts by server and status",
            about="Single HTTP requests over the whole time range, by server and status code or error.",
            kind="table",
            unit="short",
            queries=[
                Query(
                    "sum by (server_address, server_port, http_response_status_code, error_type) "
                    f"(increase(http_client_request_duration_seconds_count{{{ENVIRONMENT}}}[$__range] anchored))",
                )
            ],
        ),
    ]


def retries() -> list[Panel | Row]:
    """Why attempts failed."""
    return [
        Row("Retries and failures"),
        Panel(
            title="Failed attempts by reason",
            about="A status code, or what went wrong before there was one. `dns`, `tls`, `connection_refused`: the way "
            "there. `timeout`, `too_slow`, 5xx: the receiver. 401, 403: the secret.",
            kind="timeseries",
            unit="short",
            is_stacked=True,
            min_interval="1m",
            when_empty="no attempt failed",
            queries=[
                Query(
                    count(
                        "confiture_webhook_failures_total", "$__interval", "error_type", HAS_REASON
                    ),
                    "{{error_type}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Retries by reason",
            about="Attempts that were scheduled again. More than three per delivery is a storm. "
            "Runbook: ConfitureWebhookRetryStorm.",
            kind="timeseries",
            unit="short",
            is_stacked=True,
            min_interval="1m",
            when_empty="no retry",
            queries=[
                Query(
                    count(
                        "confiture_webhook_retries_total", "$__interval", "error_type", HAS_REASON
                    ),
                    "{{error_type}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Failures by endpoint and reason",
            about="Failed attempts over the whole time range: the table to read first in an incident.",
            kind="table",
            unit="short",
            when_empty="no attempt failed",
            queries=[
                Query(
                    count(
                        "confiture_webhook_failures_total",
                        by="confiture_webhook_endpoint, error_type",
                        where=HAS_REASON,
                    )
                )
            ],
        ),
        Panel(
            title="Retries by endpoint and reason",
            about="Retries over the whole time range. `429`: the receiver limits the rate; ask for more, or "
            "subscribe to fewer events.",
            kind="table",
            unit="short",
            when_empty="no retry",
            queries=[
                Query(
                    count(
                        "confiture_webhook_retries_total",
                        by="confiture_webhook_endpoint, error_type",
                        where=HAS_REASON,
                    )
                )
            ],
        ),
    ]


def webhook_delivery(logs: str) -> Dashboard:
    """The dashboard, its log panel for *logs*: victorialogs or loki."""
    marks: list[Json] = [
        annotation(
            "Migrations",
            "sum by (confiture_migration_direction) (increase("
            f'confiture_migration_duration_seconds_count{{error_type="", {ENVIRONMENT}}}[1m] anchored)) > 0',
            "Migrated {{confiture_migration_direction}}",
            "blue",
        ),
        annotation(
            "Failed migrations",
            "sum by (confiture_migration_direction, error_type) (increase("
            f'confiture_migration_duration_seconds_count{{error_type!="", {ENVIRONMENT}}}[1m] anchored)) > 0',
            "Migration {{confiture_migration_direction}} failed: {{error_type}}",
            "red",
        ),
    ]
    lines = Panel(
        title="Log lines of deliveries",
        about="One line per ended delivery and per failed attempt. Open a line and follow its trace_id into Jaeger.",
        kind="logs",
        unit="short",
        width=24,
        height=10,
        when_empty="no log line",
        logs=log_query(logs, "webhook", is_by_endpoint=True),
    )
    return Dashboard(
        uid="confiture-webhook-delivery",
        title="Webhook delivery",
        logs=logs,
        about="Whether the webhooks of Confiture's migrations arrive, how fast, and why not.",
        variables=[*sources(logs), environment(), endpoint()],
        annotations=marks,
        parts=[*outcome(), *latency(), *retries(), Row("Logs"), lines],
    )
