"""The dashboard *Telemetry pipeline*: whether the other two can be believed."""

from __future__ import annotations

from alerts import LOST_ITEMS
from dialects import Dialect, LogStore
from panels import GREEN, RED, Column, Dashboard, Panel, Query, Row
from variables import owners, sources

COLLECTOR = 'job="otel-collector"'
SIGNALS = (
    ("spans", "spans"),
    ("metric_points", "metric points"),
    ("log_records", "log records"),
)


def own(name: str, where: str = COLLECTOR) -> str:
    """A counter of the collector's own; newer ones end in _total."""
    return f'{{__name__=~"otelcol_{name}(_total)?", {where}}}'


def lost(stage: str, labels: str) -> list[Query]:
    """How much was lost at *stage*, of each signal."""
    # A counter is there after its first failure: what has no earlier value, or a larger one, began at 0.
    return [
        Query(
            f"sum by ({labels}) ({counter} - {counter} offset $__range >= 0 or {counter}) > 0",
            f"{name} {{{{{labels}}}}}",
        )
        for signal, name in SIGNALS
        for counter in (own(f"{stage}_{signal}"),)
    ]


def health(dialect: Dialect) -> list[Panel | Row]:
    """Is it there, and is it losing anything?"""
    return [
        Row("Health"),
        Panel(
            title="Programs",
            about="Whether Prometheus can read each, those that are down first. Start them again; with the collector down, "
            "what runs report is lost. Runbook: OtelCollectorDown.",
            kind="table",
            width=8,
            height=5,
            when_empty="Prometheus has no targets",
            sort_by="State",
            is_ascending=True,
            queries=[
                Query('min by (job, instance) (up{job=~"confiture|otel-collector|backends"})'),
            ],
            columns=[
                Column("Value", "State", words=[("0", "down", RED), ("1", "up", GREEN)], width=80),
                Column("instance", "Program"),
                Column("job", "Job"),
            ],
        ),
        Panel(
            title="Lost in the collector",
            about="Everything refused, not queued, given up or not added up, in this time range. Not 0: the counts of the "
            "other dashboards are too low. Runbook: ConfitureTelemetryLost.",
            kind="stat",
            unit="locale",
            width=4,
            height=5,
            red_above=1,
            when_empty="the collector has not reported",
            queries=[Query(dialect.count(LOST_ITEMS), "lost")],
        ),
        Panel(
            title="Refused",
            about="Turned away at the door, by signal: the collector is short of memory. Raise memory_limiter.",
            kind="stat",
            unit="locale",
            width=4,
            height=5,
            red_above=1,
            when_empty="nothing",
            queries=lost("receiver_refused", "receiver"),
        ),
        Panel(
            title="Failed to send",
            about="Given up after five minutes of retries, by signal: Jaeger or the log store was away for too long.",
            kind="stat",
            unit="locale",
            width=4,
            height=5,
            red_above=1,
            when_empty="nothing",
            queries=lost("exporter_send_failed", "exporter"),
        ),
        Panel(
            title="Failed to queue",
            about="Dropped because a queue was full, by signal: the store behind it is away or too slow.",
            kind="stat",
            unit="locale",
            width=4,
            height=5,
            red_above=1,
            when_empty="nothing",
            queries=lost("exporter_enqueue_failed", "exporter"),
        ),
    ]


def flow(dialect: Dialect) -> list[Panel | Row]:
    """How much goes through."""
    accepted = [
        Query(
            dialect.count(own(f"receiver_accepted_{signal}"), dialect.along),
            name,
            is_instant=False,
        )
        for signal, name in SIGNALS
    ]
    sent = [
        Query(
            dialect.count(
                own(f"exporter_sent_{signal}", f'{COLLECTOR}, exporter!="debug"'),
                dialect.along,
                "exporter",
            ),
            f"{name} {{{{exporter}}}}",
            is_instant=False,
        )
        for signal, name in SIGNALS
    ]
    points = dialect.count(own("deltatocumulative_datapoints"), dialect.along, "error")
    return [
        Row("Flow"),
        Panel(
            title="Accepted",
            about="What runs sent, in each interval. Nothing although migrations ran: check their OTEL_EXPORTER_OTLP_ENDPOINT.",
            kind="timeseries",
            unit="locale",
            is_stacked=True,
            min_interval=dialect.shortest,
            queries=accepted,
        ),
        Panel(
            title="Sent on",
            about="What the collector handed to each store, in each interval. Accepted but not sent: look at the queue.",
            kind="timeseries",
            unit="locale",
            is_stacked=True,
            min_interval=dialect.shortest,
            queries=sent,
        ),
        Panel(
            title="Queue",
            about="Batches that wait for a store, as a part of what the queue holds. It fills while the store is away and "
            "drains when it is back; full, it drops.",
            kind="timeseries",
            unit="percentunit",
            red_above=0.8,
            queries=[
                Query(
                    f"otelcol_exporter_queue_size{{{COLLECTOR}}} / otelcol_exporter_queue_capacity{{{COLLECTOR}}}",
                    "{{exporter}} {{data_type}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Metric points added up",
            about="Points of one-shot runs turned into totals, by error. Any error is a wrong count: somebody changed "
            "transform/one_series, or mixes cumulative with delta.",
            kind="timeseries",
            unit="locale",
            is_stacked=True,
            min_interval=dialect.shortest,
            when_empty="no metric point yet",
            shades=RED,
            colors=[("added up", GREEN)],
            queries=[
                Query(
                    f'label_replace({points}, "error", "added up", "error", "")',
                    "{{error}}",
                    is_instant=False,
                )
            ],
        ),
    ]


def itself() -> list[Panel | Row]:
    """What it costs."""
    return [
        Row("The collector itself"),
        Panel(
            title="Memory",
            about="Resident memory. From about 300 MiB on, memory_limiter refuses what runs send.",
            kind="timeseries",
            unit="bytes",
            width=8,
            red_above=300 * 1024 * 1024,
            queries=[
                Query(
                    f"otelcol_process_memory_rss{{{COLLECTOR}}} or otelcol_process_memory_rss_bytes{{{COLLECTOR}}}",
                    "{{instance}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Metric streams",
            about="Series kept for adding up. It stands still however many runs report; when it grows with every run, a "
            "label differs between runs. At 10000 new ones are dropped.",
            kind="timeseries",
            unit="locale",
            width=8,
            red_above=9000,
            queries=[
                Query(
                    f"otelcol_deltatocumulative_streams_tracked{{{COLLECTOR}}}",
                    "{{instance}}",
                    is_instant=False,
                )
            ],
        ),
        Panel(
            title="Uptime",
            about="A fall to 0 is a restart: totals begin anew, and counts over a time range stay right.",
            kind="timeseries",
            unit="s",
            width=8,
            queries=[
                Query(
                    f"otelcol_process_uptime{{{COLLECTOR}}} or otelcol_process_uptime_seconds{{{COLLECTOR}}}",
                    "{{instance}}",
                    is_instant=False,
                )
            ],
        ),
    ]


def telemetry_pipeline(dialect: Dialect, store: LogStore) -> Dashboard:
    """The dashboard for a kind of server and a log store."""
    lines = Panel(
        title="Trouble reported by runs",
        about="Faults in configuration and outbox, and telemetry a run could not hand over.",
        kind="logs",
        width=24,
        height=8,
        when_empty="no run reported trouble",
        logs=store.lines(["webhooks[.].+", "telemetry[.].+"]),
    )
    return Dashboard(
        uid="confiture-telemetry-pipeline",
        title="Telemetry pipeline",
        store=store,
        about="Whether the collector receives, keeps and passes on what migrations report.",
        variables=[*sources(store)[:2], *owners()],
        parts=[*health(dialect), *flow(dialect), *itself(), Row("Logs"), lines],
    )
