"""The dashboard *Migrations*."""

from __future__ import annotations

from alerts import FAILED, FAILURE, SUCCESS
from dialects import Dialect, LogStore
from panels import BLUE, GREEN, RED, Column, Dashboard, Panel, Query, Row, annotation
from variables import CHOSEN, OWNER, of_owner, of_trace, owners, sources

COUNT = f"confiture_migration_duration_seconds_count{{WHERE{CHOSEN}}}"
RUNS = f"confiture_runs_total{{WHERE{CHOSEN}}}"
ENDS = ("migration[.].+", "run[.]failed")
RESULTS = (
    ("migration.applied", "applied", GREEN),
    ("migration.rolled_back", "rolled back", BLUE),
    ("migration.failed", "migration failed", RED),
    ("run.failed", "run failed", RED),
)


def where(metric: str, *conditions: str) -> str:
    """A selector of this dashboard's, narrowed."""
    return metric.replace("WHERE", "".join(f"{condition}, " for condition in conditions))


def of_record(store: LogStore) -> list[Column]:
    """The columns of a migration's log record."""
    return [
        Column("Time", "When", width=180),
        Column(store.field("deployment.environment.name"), "Environment", width=100),
        Column(store.field("service.name"), "Service"),
        Column("database", "Database"),
        Column("migration_version", "Version", width=120),
        Column("migration_name", "Name", width=220),
        Column("event_name", "Result", words=RESULTS, width=125),
        Column("error_type", "Reason", width=160),
        Column("duration_ms", "Duration", "ms", width=100),
        of_trace(store),
    ]


def now(store: LogStore) -> list[Panel | Row]:
    """Where everything stands."""
    return [
        Row("Now"),
        Panel(
            title="Environments",
            about="A row for each service, environment and database, those whose last run failed first; whatever time range "
            "is chosen. Runbook: ConfitureRunFailed.",
            kind="table",
            width=24,
            height=6,
            when_empty="no run has reported",
            sort_by="Last run",
            queries=[
                Query(f"max by ({OWNER}) ({FAILED}{{{CHOSEN}}})"),
                Query(f"({SUCCESS}{{{CHOSEN}}} > 0) * 1000"),
                Query(f"({FAILURE}{{{CHOSEN}}} > 0) * 1000"),
            ],
            columns=[
                Column(
                    "Value #A",
                    "Last run",
                    width=100,
                    words=[("0", "succeeded", GREEN), ("1", "failed", RED)],
                ),
                *of_owner(store),
                Column("Value #B", "Last success", "dateTimeFromNow"),
                Column("Value #C", "Last failure", "dateTimeFromNow"),
            ],
        ),
        Panel(
            title="Last migrations and failed runs",
            about="The log records of this time range, the newest first. A run that failed before its first migration has "
            "no version. Click the trace to open it, or its log lines.",
            kind="table",
            width=24,
            height=9,
            when_empty="no migration ran",
            sort_by="When",
            limit=100,
            logs=store.lines(ENDS),
            columns=of_record(store),
        ),
    ]


def numbers(dialect: Dialect, store: LogStore) -> list[Panel | Row]:
    """How many, and how many of them went wrong."""
    count = dialect.count
    failed_runs = where(RUNS, 'confiture_run_outcome="failure"')

    def number(title: str, about: str, selector: str, *, is_bad: bool = False) -> Panel:
        return Panel(
            title=title,
            about=about,
            kind="stat",
            unit="locale",
            width=4,
            height=5,
            red_above=1 if is_bad else None,
            queries=[Query(f"{count(selector)} or vector(0)", title.lower())],
        )

    return [
        Row("Outcome"),
        number(
            "Failed runs",
            "Commands that ended with an error, also before their first migration. Red: the reason is in the table below. "
            "Runbook: ConfitureRunFailed.",
            failed_runs,
            is_bad=True,
        ),
        number(
            "Failed migrations",
            "Migrations and rollbacks that ended with an error. Red: the reason is in the table below. "
            "Runbook: ConfitureRunFailed.",
            where(COUNT, 'error_type!=""', 'error_type!="Interrupted"'),
            is_bad=True,
        ),
        number(
            "Interrupted",
            "Migrations whose run was killed or lost its connection before they committed. Red: find who ended the job. "
            "Runbook: ConfitureRunInterrupted.",
            where(COUNT, 'error_type="Interrupted"'),
            is_bad=True,
        ),
        number(
            "Runs",
            "Commands that migrate, those with nothing to do included. None although a deployment ran: it had no "
            "telemetry configured.",
            where(RUNS),
        ),
        number(
            "Applied",
            "Migrations that committed.",
            where(COUNT, 'confiture_migration_direction="up"', 'error_type=""'),
        ),
        number(
            "Rolled back",
            "Migrations taken back on purpose with `confiture migrate down`. Not expected in production: ask who.",
            where(COUNT, 'confiture_migration_direction="down"', 'error_type=""'),
        ),
        Panel(
            title="Runs by result",
            about="Ended in each interval. A run with nothing to do is a success.",
            kind="timeseries",
            unit="locale",
            is_stacked=True,
            min_interval=dialect.shortest,
            colors=[("success", GREEN), ("failure", RED)],
            queries=[
                Query(
                    count(where(RUNS), dialect.along, "confiture_run_outcome"),
                    "{{confiture_run_outcome}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Migrations by direction and result",
            about="Ended in each interval; a result other than `committed` is the SQLSTATE or class of its error, in red.",
            kind="timeseries",
            unit="locale",
            is_stacked=True,
            shades=RED,
            min_interval=dialect.shortest,
            colors=[("up committed", GREEN), ("down committed", BLUE)],
            queries=[
                Query(
                    count(
                        where(COUNT, 'error_type=""'),
                        dialect.along,
                        "confiture_migration_direction",
                    ),
                    "{{confiture_migration_direction}} committed",
                    is_instant=False,
                ),
                Query(
                    count(
                        where(COUNT, 'error_type!=""'),
                        dialect.along,
                        "confiture_migration_direction, error_type",
                    ),
                    "{{confiture_migration_direction}} {{error_type}}",
                    is_instant=False,
                ),
            ],
        ),
        Panel(
            title="Failed runs by reason",
            about="SQLSTATE or class, over the whole time range. OperationalError: no connection. 42xxx: the migration's SQL. "
            "40P01, 55P03: locks; run it at another hour or with a lock timeout. 57014: cancelled. "
            "LockAcquisitionError: another run holds the migration lock.",
            kind="table",
            when_empty="no run failed",
            sort_by="Runs",
            queries=[
                Query(f"{count(failed_runs, by=f'{OWNER}, confiture_command, error_type')} > 0")
            ],
            columns=[
                *of_owner(store),
                Column("confiture_command", "Command"),
                Column("error_type", "Reason"),
                Column("Value", "Runs", "locale", width=70),
            ],
        ),
        Panel(
            title="Failures by reason",
            about="Failed migrations and rollbacks over the whole time range, by the SQLSTATE or class of the error.",
            kind="table",
            when_empty="no migration failed",
            sort_by="Migrations",
            queries=[
                Query(
                    count(
                        where(COUNT, 'error_type!=""'),
                        by="job, deployment_environment_name, confiture_migration_direction, error_type",
                    )
                    + " > 0"
                )
            ],
            columns=[
                *of_owner(store)[:2],
                Column("confiture_migration_direction", "Direction"),
                Column("error_type", "Reason"),
                Column("Value", "Migrations", "locale", width=100),
            ],
        ),
    ]


def durations(dialect: Dialect, store: LogStore) -> list[Panel | Row]:
    """How long migrations take."""
    bucket = f"confiture_migration_duration_seconds_bucket{{{CHOSEN}}}"
    spent = f"confiture_migration_duration_seconds_sum{{{CHOSEN}}}"
    by = "confiture_migration_direction"
    slowest = " | sort by (duration_ms) desc limit 10"
    return [
        Row("Duration"),
        Panel(
            title="Slowest migrations",
            about="The longest of this time range, as their log records say (with Loki: of the last thousand). Above five "
            "minutes a deployment waits noticeably.",
            kind="table",
            width=24,
            height=6,
            when_empty="no migration ran",
            sort_by="Duration",
            limit=10,
            logs=store.lines(ENDS[:1], pipe=slowest),
            columns=of_record(store),
        ),
        Panel(
            title="Duration of migrations",
            about="Percentiles of the migrations that ended in each interval. What grows here is time that tables may be "
            "locked: consider `--online` or smaller batches.",
            kind="timeseries",
            unit="s",
            width=16,
            min_interval="5m",
            queries=[
                Query(
                    dialect.quantile(percent, bucket, dialect.along, by),
                    f"{{{{confiture_migration_direction}}}} p{percent}",
                    is_instant=False,
                )
                for percent in (50, 95, 99)
            ],
        ),
        Panel(
            title="Time spent migrating",
            about="Seconds of migration in this time range, by direction.",
            kind="bargauge",
            unit="s",
            width=8,
            queries=[Query(dialect.seconds(spent, by=by), "{{confiture_migration_direction}}")],
        ),
    ]


def migrations(dialect: Dialect, store: LogStore) -> Dashboard:
    """The dashboard for a kind of server and a log store."""
    dead = (
        f'confiture_webhook_deliveries_total{{confiture_webhook_outcome="dead_letter", {CHOSEN}}}'
    )
    mark = annotation(
        "Dead letters",
        f"{dialect.count(dead, dialect.along, 'confiture_webhook_endpoint')} > 0",
        "Webhook to {{confiture_webhook_endpoint}} given up",
        "orange",
    )
    lines = Panel(
        title="Log lines of migrations",
        about="One line per migration and per failed run. Open a line and follow its trace_id into Jaeger.",
        kind="logs",
        width=24,
        height=10,
        when_empty="no log line",
        logs=store.lines(ENDS),
    )
    return Dashboard(
        uid="confiture-migrations",
        title="Migrations",
        store=store,
        about="Which migrations ran, how long they took, and which failed.",
        variables=[*sources(store), *owners()],
        annotations=[mark],
        parts=[
            *now(store),
            *numbers(dialect, store),
            *durations(dialect, store),
            Row("Logs"),
            lines,
        ],
    )
