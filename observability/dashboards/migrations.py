"""The dashboard *Migrations*."""

from __future__ import annotations

from panels import Dashboard, Panel, Query, Row, annotation
from variables import ENVIRONMENT, environment, log_query, sources

COUNT = "confiture_migration_duration_seconds_count"
BUCKET = "confiture_migration_duration_seconds_bucket"
CALLS = "traces_span_metrics_calls_total"


def count(where: str = "", by: str = "", window: str = "$__range", metric: str = COUNT) -> str:
    """How many migrations ended in *window*: an exact integer."""
    chosen = ", ".join(part for part in (where, ENVIRONMENT) if part)
    over = f"sum by ({by}) " if by else "sum"
    return f"{over}(increase({metric}{{{chosen}}}[{window}] anchored))"


def quantile(q: int, window: str) -> str:
    """A percentile of the migrations' duration, by direction."""
    rates = f"sum by (le, confiture_migration_direction) (increase({BUCKET}{{{ENVIRONMENT}}}[{window}] anchored))"
    return f"histogram_quantile(0.{q}, {rates})"


def numbers() -> list[Panel | Row]:
    """How many, and how many of them went wrong."""
    runs = count('span_name=~"confiture .+", span_kind="SPAN_KIND_INTERNAL"', metric=CALLS)
    applied = count('confiture_migration_direction="up", error_type=""')
    rolled_back = count('confiture_migration_direction="down", error_type=""')
    failed = count('error_type!="", error_type!="Interrupted"')
    interrupted = count('error_type="Interrupted"')
    return [
        Row("Outcome"),
        Panel(
            title="Runs",
            about="Commands that migrated something or failed to. None although a deployment ran: it found nothing "
            "to do, or had no telemetry configured.",
            kind="stat",
            unit="short",
            width=4,
            height=5,
            queries=[Query(f"{runs} or vector(0)", "runs")],
        ),
        Panel(
            title="Applied",
            about="Migrations that committed.",
            kind="stat",
            unit="short",
            width=5,
            height=5,
            queries=[Query(f"{applied} or vector(0)", "applied")],
        ),
        Panel(
            title="Rolled back",
            about="Migrations taken back on purpose with `confiture migrate down`. Not expected in production: ask who.",
            kind="stat",
            unit="short",
            width=5,
            height=5,
            queries=[Query(f"{rolled_back} or vector(0)", "rolled back")],
        ),
        Panel(
            title="Failed",
            about="Migrations and rollbacks that ended with an error. Red: the reason is in the table below. "
            "Runbook: ConfitureMigrationFailed.",
            kind="stat",
            unit="short",
            width=5,
            height=5,
            red_above=1,
            queries=[Query(f"{failed} or vector(0)", "failed")],
        ),
        Panel(
            title="Interrupted",
            about="Runs that were killed or lost their connection before their migration committed. Red: find who ended "
            "the job. Runbook: ConfitureRunInterrupted.",
            kind="stat",
            unit="short",
            width=5,
            height=5,
            red_above=1,
            queries=[Query(f"{interrupted} or vector(0)", "interrupted")],
        ),
        Panel(
            title="Migrations by direction and result",
            about="Ended in each interval; a result other than `committed` is the SQLSTATE or class of its error.",
            kind="timeseries",
            unit="short",
            width=14,
            is_stacked=True,
            min_interval="1m",
            queries=[
                Query(
                    count('error_type=""', "confiture_migration_direction", "$__interval"),
                    "{{confiture_migration_direction}} committed",
                    is_instant=False,
                ),
                Query(
                    count(
                        'error_type!=""', "confiture_migration_direction, error_type", "$__interval"
                    ),
                    "{{confiture_migration_direction}} {{error_type}}",
                    is_instant=False,
                ),
            ],
        ),
        Panel(
            title="Failures by reason",
            about="SQLSTATE or class, over the whole time range. 42xxx: the migration's SQL. 40P01, 55P03: locks; run it at "
            "another hour or with a lock timeout. 57014: cancelled. 08xxx: the connection.",
            kind="table",
            unit="short",
            width=10,
            when_empty="no migration failed",
            queries=[Query(count('error_type!=""', "confiture_migration_direction, error_type"))],
        ),
    ]


def durations() -> list[Panel | Row]:
    """How long migrations take."""
    return [
        Row("Duration"),
        Panel(
            title="Duration of migrations",
            about="Percentiles of the migrations that ended in each interval. What grows here is time that tables may be "
            "locked: consider `--online` or smaller batches.",
            kind="timeseries",
            unit="s",
            min_interval="5m",
            queries=[
                Query(
                    quantile(q, "$__interval"),
                    f"{{{{confiture_migration_direction}}}} p{q}",
                    is_instant=False,
                )
                for q in (50, 95, 99)
            ],
        ),
        Panel(
            title="Time spent migrating",
            about="Seconds of migration in this time range, by direction.",
            kind="bargauge",
            unit="s",
            width=6,
            queries=[
                Query(
                    count(
                        by="confiture_migration_direction",
                        metric="confiture_migration_duration_seconds_sum",
                    ),
                    "{{confiture_migration_direction}}",
                )
            ],
        ),
        Panel(
            title="Slowest migrations",
            about="p95 over the whole time range, by direction. Above five minutes a deployment waits noticeably.",
            kind="bargauge",
            unit="s",
            width=6,
            red_above=300,
            queries=[Query(quantile(95, "$__range"), "{{confiture_migration_direction}}")],
        ),
    ]


def migrations(logs: str) -> Dashboard:
    """The dashboard, its log panel for *logs*: victorialogs or loki."""
    dead = annotation(
        "Dead letters",
        "sum by (confiture_webhook_endpoint) (increase(confiture_webhook_deliveries_total{"
        f'confiture_webhook_outcome="dead_letter", {ENVIRONMENT}}}[1m] anchored)) > 0',
        "Webhook to {{confiture_webhook_endpoint}} given up",
        "orange",
    )
    lines = Panel(
        title="Log lines of migrations",
        about="One line per migration. Open a line and follow its trace_id into Jaeger.",
        kind="logs",
        unit="short",
        width=24,
        height=10,
        when_empty="no log line",
        logs=log_query(logs, "migration"),
    )
    return Dashboard(
        uid="confiture-migrations",
        title="Migrations",
        logs=logs,
        about="Which migrations ran, how long they took, and which failed.",
        variables=[*sources(logs), environment()],
        annotations=[dead],
        parts=[*numbers(), *durations(), Row("Logs"), lines],
    )
