"""The dashboard *Webhook delivery*."""

from __future__ import annotations

from alerts import AGE, DELIVERIES, ENDED, LEFT_30D, RATIO_30D, SIZE, lost_in, spent_in
from dialects import ENDPOINT, Dialect, LogStore
from panels import (
    BLUE,
    GREEN,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Dashboard,
    Panel,
    Query,
    Row,
    annotation,
)
from variables import (
    CHOSEN,
    OF_ENDPOINT,
    OWNER,
    endpoints,
    of_endpoint,
    of_owner,
    owners,
    runbook,
    sources,
)

SPANS = "traces_span_metrics_duration_milliseconds_bucket"
WHO = f"job, deployment_environment_name, {ENDPOINT}"
HAS_REASON = 'error_type!=""'  # without: the zeros that every run begins with
OUTCOMES = (
    ("delivered", GREEN),
    ("deferred", BLUE),
    ("dead_letter", RED),
    ("gone", PURPLE),
)
OUTCOME_WORDS = tuple((name, name.replace("_", " "), color) for name, color in OUTCOMES)


def chosen(metric: str, *where: str) -> str:
    """The series of *metric* of the chosen services, environments and endpoints."""
    return f"{metric}{{{', '.join((*where, OF_ENDPOINT))}}}"


def _held(state: str) -> str:
    """How many deliveries in *state* each outbox holds that is not empty."""
    of_state = f'sum by ({OWNER}) ({SIZE}{{confiture_webhook_state="{state}", {CHOSEN}}})'
    return f"{of_state} and on ({OWNER}) (sum by ({OWNER}) ({SIZE}{{{CHOSEN}}}) > 0)"


def now(store: LogStore) -> list[Panel | Row]:
    """What needs somebody."""
    return [
        Row("Now"),
        Panel(
            title="Alerts",
            about="What fires now, of the chosen services and environments and of the collector. An alert's name is a "
            "section of the runbooks.",
            kind="table",
            width=14,
            height=8,
            when_empty="no alert fires",
            sort_by="Severity",
            is_ascending=True,
            queries=[
                Query(
                    f'ALERTS{{alertname=~"ConfitureRun.+|ConfitureWebhook.+", alertstate="firing", {CHOSEN}}} '
                    'or ALERTS{alertname=~"ConfitureTelemetry.+|OtelCollector.+", alertstate="firing"}'
                )
            ],
            columns=[
                Column("alertname", "Alert", width=270, links=[runbook()]),
                Column(
                    "severity",
                    "Severity",
                    width=80,
                    words=[
                        ("critical", "critical", RED),
                        ("warning", "warning", YELLOW),
                        ("info", "info", BLUE),
                    ],
                ),
                *of_owner(store),
                Column(ENDPOINT, "Endpoint"),
            ],
        ),
        Panel(
            title="Objective: 99 % delivered over 30 days",
            about="Of the deliveries that ended in the last 30 days, whatever time range is chosen. The budget is the part "
            "that may be lost, one delivery at least. Below 0: runbook ConfitureWebhookErrorBudgetBurnSlow.",
            kind="table",
            width=10,
            height=8,
            when_empty="no delivery ended in 30 days",
            sort_by="Budget left",
            is_ascending=True,
            queries=[
                Query(f"max by ({WHO}) ({recorded}{{{OF_ENDPOINT}}})")
                for recorded in (RATIO_30D, LEFT_30D, lost_in("30d"))
            ],
            columns=[
                *of_endpoint(store),
                Column("Value #A", "Delivered", "percentunit", width=85),
                Column("Value #B", "Budget left", "percentunit", width=90),
                Column("Value #C", "Lost", "locale", width=60),
            ],
        ),
    ]


def outcome(dialect: Dialect, store: LogStore) -> list[Panel | Row]:
    """How deliveries ended."""
    count = dialect.count
    ended = count(chosen(DELIVERIES, ENDED))
    delivered = count(chosen(DELIVERIES, 'confiture_webhook_outcome="delivered"'))
    dead = count(chosen(DELIVERIES, 'confiture_webhook_outcome="dead_letter"'))
    return [
        Row("Outcome"),
        Panel(
            title="Success ratio",
            about="Delivered, of all deliveries that ended in this time range; a deferred one has not ended. "
            "Red: look at the deliveries by endpoint below, then at the reasons.",
            kind="stat",
            unit="percentunit",
            width=3,
            height=5,
            red_below=0.99,
            when_empty="no delivery ended",
            queries=[Query(f"{delivered} / ({ended} > 0)", "success")],
        ),
        Panel(
            title="Deliveries",
            about="Deliveries that ended in this time range, however they ended. None although migrations ran: "
            "run `confiture webhooks check`.",
            kind="stat",
            unit="locale",
            width=3,
            height=5,
            queries=[Query(f"{ended} or vector(0)", "ended")],
        ),
        Panel(
            title="Dead letters",
            about="Given up in this time range. How many are left, the panel beside it says. Red: repair the receiver, then "
            "`confiture webhooks redeliver --dead`. Runbook: ConfitureWebhookDeadLetter.",
            kind="stat",
            unit="locale",
            width=3,
            height=5,
            red_above=1,
            queries=[Query(f"{dead} or vector(0)", "dead letters")],
        ),
        Panel(
            title="Oldest undelivered",
            about="How long the oldest entry of an outbox has waited; it grows while no process reports. Yellow after an hour, "
            "red after a day, when the default schedule is used up. Runbook: ConfitureWebhookOutboxStuck.",
            kind="stat",
            unit="s",
            width=3,
            height=5,
            yellow_above=3600,
            red_above=86400,
            queries=[Query(f"max({AGE}{{{CHOSEN}}}) or vector(0)", "oldest")],
        ),
        Panel(
            title="In the outboxes",
            about="What the last process of each service, environment and database left there. The next run or "
            "`confiture webhooks deliver` sends what is pending; a dead letter is sent when you redeliver it.",
            kind="table",
            height=5,
            when_empty="nothing waits",
            sort_by="Dead letters",
            queries=[Query(_held("pending")), Query(_held("dead_letter"))],
            columns=[
                *of_owner(store),
                Column("Value #A", "Pending", "locale"),
                Column("Value #B", "Dead letters", "locale"),
            ],
        ),
        Panel(
            title="Deliveries by outcome",
            about="Counted where they ended; `deferred` was put off to a later run or worker and is counted again "
            "when it ends. `gone`: the receiver answered 410 and the endpoint is off.",
            kind="timeseries",
            unit="locale",
            width=12,
            is_stacked=True,
            min_interval=dialect.shortest,
            colors=OUTCOMES,
            queries=[
                Query(
                    count(chosen(DELIVERIES), dialect.along, "confiture_webhook_outcome"),
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
            sort_by="Outcome",
            is_ascending=True,
            queries=[
                Query(f"{count(chosen(DELIVERIES), by=f'{WHO}, confiture_webhook_outcome')} > 0")
            ],
            columns=[
                *of_endpoint(store),
                Column("confiture_webhook_outcome", "Outcome", words=OUTCOME_WORDS),
                Column("Value", "Deliveries", "locale", width=100),
            ],
        ),
        Panel(
            title="Error budget spent",
            about="The part of a month's error budget that was lost in the last day and in the last three. Above 100 % in "
            "a day it is critical, above 50 % in three days a warning.",
            kind="timeseries",
            unit="percentunit",
            width=24,
            height=6,
            when_empty="no delivery was lost",
            yellow_above=0.5,
            red_above=1,
            queries=[
                Query(
                    f"{spent_in(window)}{{{OF_ENDPOINT}}} > 0",
                    f"{{{{confiture_webhook_endpoint}}}} ({{{{deployment_environment_name}}}}, {{{{job}}}}), {window}",
                    is_instant=False,
                )
                for window in ("1d", "3d")
            ],
        ),
    ]


def latency(dialect: Dialect, store: LogStore) -> list[Panel | Row]:
    """How long it took."""
    of_span = f'{SPANS}{{confiture_webhook_outcome!="", {OF_ENDPOINT}}}'
    legend = "{{confiture_webhook_endpoint}} ({{deployment_environment_name}}, {{job}})"
    attempts = f"http_client_request_duration_seconds_count{{{CHOSEN}}}"
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
                Query(
                    dialect.quantile(percent, of_span, dialect.along),
                    f"p{percent}",
                    is_instant=False,
                    has_exemplars=True,
                )
                for percent in (50, 95, 99)
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
                    dialect.quantile(
                        95,
                        chosen("confiture_webhook_delivery_duration_seconds_bucket"),
                        "$__range",
                        WHO,
                    ),
                    legend,
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
                    dialect.quantile(
                        95,
                        chosen("confiture_webhook_delivery_lag_seconds_bucket"),
                        "$__range",
                        WHO,
                    ),
                    legend,
                )
            ],
        ),
        Panel(
            title="Attempt latency by server",
            about="p95 of single HTTP requests, by the server that answered. Compare with the delivery latency: the "
            "difference is waiting for a retry.",
            kind="timeseries",
            unit="s",
            width=10,
            min_interval="5m",
            queries=[
                Query(
                    dialect.quantile(
                        95,
                        f"http_client_request_duration_seconds_bucket{{{CHOSEN}}}",
                        dialect.along,
                        "server_address, server_port",
                    ),
                    "{{server_address}}:{{server_port}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Attempts by server and status",
            about="Single HTTP requests over the whole time range, by server and status code or error.",
            kind="table",
            width=14,
            sort_by="Error",
            is_ascending=True,
            queries=[
                Query(
                    dialect.count(
                        attempts,
                        by="job, deployment_environment_name, server_address, server_port, "
                        "http_response_status_code, error_type",
                    )
                    + " > 0"
                )
            ],
            columns=[
                *of_owner(store)[:2],
                Column("server_address", "Server"),
                Column("server_port", "Port", width=70),
                Column("http_response_status_code", "Status", width=70),
                Column("error_type", "Error"),
                Column("Value", "Attempts", "locale", width=90),
            ],
        ),
    ]


def retries(dialect: Dialect, store: LogStore) -> list[Panel | Row]:
    """Why attempts failed."""
    failures = chosen("confiture_webhook_failures_total", HAS_REASON)
    again = chosen("confiture_webhook_retries_total", HAS_REASON)

    def graph(title: str, about: str, when_empty: str, selector: str) -> Panel:
        return Panel(
            title=title,
            about=about,
            kind="timeseries",
            unit="locale",
            is_stacked=True,
            shades=RED if selector == failures else YELLOW,
            min_interval=dialect.shortest,
            when_empty=when_empty,
            queries=[
                Query(
                    dialect.count(selector, dialect.along, "error_type"),
                    "{{error_type}}",
                    is_instant=False,
                )
            ],
        )

    def table(title: str, about: str, when_empty: str, selector: str, heading: str) -> Panel:
        return Panel(
            title=title,
            about=about,
            kind="table",
            when_empty=when_empty,
            sort_by=heading,
            queries=[Query(f"{dialect.count(selector, by=f'{WHO}, error_type')} > 0")],
            columns=[
                *of_endpoint(store),
                Column("error_type", "Reason"),
                Column("Value", heading, "locale", width=90),
            ],
        )

    return [
        Row("Retries and failures"),
        graph(
            "Failed attempts by reason",
            "A status code, or what went wrong before there was one. `dns`, `tls`, `connection_refused`, `proxy`: the way "
            "there. `timeout`, `too_slow`, 5xx: the receiver. 401, 403: the secret.",
            "no attempt failed",
            failures,
        ),
        graph(
            "Retries by reason",
            "Attempts that were scheduled again. More than three per delivery is a storm. "
            "Runbook: ConfitureWebhookRetryStorm.",
            "no retry",
            again,
        ),
        table(
            "Failures by endpoint and reason",
            "Failed attempts over the whole time range: the table to read first in an incident.",
            "no attempt failed",
            failures,
            "Attempts",
        ),
        table(
            "Retries by endpoint and reason",
            "Retries over the whole time range. `429`: the receiver limits the rate; ask for more, or "
            "subscribe to fewer events.",
            "no retry",
            again,
            "Retries",
        ),
    ]


def webhook_delivery(dialect: Dialect, store: LogStore) -> Dashboard:
    """The dashboard for a kind of server and a log store."""
    migrated = "confiture_migration_duration_seconds_count"
    succeeded = f'{migrated}{{error_type="", {CHOSEN}}}'
    failed = f'{migrated}{{error_type!="", {CHOSEN}}}'
    direction = "confiture_migration_direction"
    marks = [
        annotation(
            "Migrations",
            f"{dialect.count(succeeded, dialect.along, direction)} > 0",
            "Migrated {{confiture_migration_direction}}",
            BLUE,
        ),
        annotation(
            "Failed migrations",
            f"{dialect.count(failed, dialect.along, f'{direction}, error_type')} > 0",
            "Migration {{confiture_migration_direction}} failed: {{error_type}}",
            RED,
        ),
    ]
    lines = Panel(
        title="Log lines of deliveries",
        about="One line per ended delivery and per failed attempt. Open a line and follow its trace_id into Jaeger.",
        kind="logs",
        width=24,
        height=10,
        when_empty="no log line",
        logs=store.lines(["webhook[.].+"], ["endpoint"]),
    )
    return Dashboard(
        uid="confiture-webhook-delivery",
        title="Webhook delivery",
        store=store,
        about="Whether the webhooks of Confiture's migrations arrive, how fast, and why not.",
        variables=[*sources(store), *owners(), endpoints()],
        annotations=marks,
        parts=[
            *now(store),
            *outcome(dialect, store),
            *latency(dialect, store),
            *retries(dialect, store),
            Row("Logs"),
            lines,
        ],
    )
