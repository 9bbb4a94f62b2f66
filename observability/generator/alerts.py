"""The rules: what panels and alerts share, the alerts, and what they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from dialects import DATABASE, ENDPOINT, ENVIRONMENT, SERVICE, Dialect
from variables import OWNER

Json = dict[str, Any]

OF = f"{SERVICE}, {ENVIRONMENT}, {ENDPOINT}"
DELIVERIES = "confiture_webhook_deliveries_total"
LOST = 'confiture_webhook_outcome=~"dead_letter|gone"'
ENDED = 'confiture_webhook_outcome=~"delivered|dead_letter|gone"'
OBJECTIVE_LOST = 0.01
REMEMBERED = "7d"
"""For how long a gauge's last word counts when the collector has forgotten it."""

SIZE = "outbox:confiture_webhook_outbox_size:last"
OLDEST = "outbox:confiture_webhook_outbox_oldest_timestamp_seconds:last"
AGE = "outbox:confiture_webhook_outbox_oldest_age_seconds:last"
SUCCESS = "run:confiture_run_last_success_timestamp_seconds:last"
FAILURE = "run:confiture_run_last_failure_timestamp_seconds:last"
FAILED = "run:confiture_run_failed:bool"
GONE = "endpoint:confiture_webhook_gone_timestamp_seconds:last"
DELIVERED = "endpoint:confiture_webhook_delivered_timestamp_seconds:last"
LOST_ITEMS = "collector:otelcol_lost_items:sum"
ENDED_30D = "endpoint:confiture_webhook_ended:increase30d"
RATIO_30D = "endpoint:confiture_webhook_delivered:ratio30d"
LEFT_30D = "endpoint:confiture_webhook_budget_left:ratio30d"

WHERE = (
    "environment {{ or $labels.deployment_environment_name `(none)` }}, "
    "service {{ $labels.job }}, database {{ or $labels.db_namespace `(not named)` }}"
)
WHO = "endpoint {{ $labels.confiture_webhook_endpoint }}"
WHICH = (
    "environment {{ or $labels.deployment_environment_name `(none)` }}, service {{ $labels.job }}"
)


def lost_in(window: str) -> str:
    """The recorded number of deliveries lost in *window*."""
    return f"endpoint:confiture_webhook_lost:increase{window}"


def spent_in(window: str) -> str:
    """The recorded part of a month's error budget that was spent in *window*."""
    return f"endpoint:confiture_webhook_budget_spent:ratio{window}"


def record(name: str, expr: str) -> Json:
    """A recording rule."""
    return {"record": name, "expr": expr}


def alert(
    name: str, expr: str, severity: str, summary: str, description: str, lasting: str = ""
) -> Json:
    """An alert, with the section of the runbooks that has its name."""
    rule: Json = {"alert": name, "expr": expr}
    if lasting:
        rule["for"] = lasting
    return rule | {
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"docs/runbooks.md#{name.lower()}",
        },
    }


def last_word(gauge: str, by: str) -> str:
    """The last value of *gauge*, also after a restart of the collector, which forgets it."""
    return f"max by ({by}) ({gauge}) or max by ({by}) (last_over_time({gauge}[{REMEMBERED}]))"


def latest(time: str) -> str:
    """The latest value of the gauge *time*: of a killed run it may be set late, and to an earlier one."""
    return f"max by ({OWNER}) (max_over_time({time}[{REMEMBERED}]))"


def last_time(dialect: Dialect, name: str, outcome: str) -> str:
    """When a delivery of *outcome* was last counted; the rule remembers its own last value."""
    grown = dialect.count(f'{DELIVERIES}{{confiture_webhook_outcome="{outcome}"}}', "2m", OF)
    return f"time() * ({grown} > bool 0) > 0 or last_over_time({name}[{REMEMBERED}])"


def webhooks(dialect: Dialect) -> list[Json]:
    """Deliveries: what is shared, the objective, and the alerts."""
    return [
        {
            "name": "confiture-webhook-records",
            "rules": [
                record(
                    SIZE,
                    last_word("confiture_webhook_outbox_size", f"{OWNER}, confiture_webhook_state"),
                ),
                record(
                    OLDEST, last_word("confiture_webhook_outbox_oldest_timestamp_seconds", OWNER)
                ),
                record(AGE, f"time() - ({OLDEST} > 0) or {OLDEST} * 0"),
                record(GONE, last_time(dialect, GONE, "gone")),
                record(DELIVERED, last_time(dialect, DELIVERED, "delivered")),
            ],
        },
        {
            "name": "confiture-webhook-objective",
            "interval": "5m",  # of thirty days
            "rules": list(objective(dialect)),
        },
        {"name": "confiture-webhooks", "rules": webhook_alerts(dialect)},
    ]


def objective(dialect: Dialect) -> Iterable[Json]:
    """99 % of the deliveries that end are delivered, over 30 days; one lost delivery is always allowed."""
    yield record(ENDED_30D, dialect.count(f"{DELIVERIES}{{{ENDED}}}", "30d", OF))
    allowed = f"clamp_min({OBJECTIVE_LOST} * {ENDED_30D}, 1)"
    for window in ("1h", "6h", "1d", "3d", "30d"):
        yield record(lost_in(window), dialect.count(f"{DELIVERIES}{{{LOST}}}", window, OF))
        yield record(spent_in(window), f"{lost_in(window)} / {allowed}")
    yield record(RATIO_30D, f"1 - {lost_in('30d')} / ({ENDED_30D} > 0) or ({ENDED_30D} > 0) ^ 0")
    yield record(LEFT_30D, f"1 - {spent_in('30d')} or ({ENDED_30D} > 0) ^ 0")


def webhook_alerts(dialect: Dialect) -> list[Json]:
    """What on-call sees of deliveries."""
    retries = dialect.count("confiture_webhook_retries_total", "1h", OF)
    deliveries = dialect.count(DELIVERIES, "1h", OF)
    burn = (
        f"{WHO[0].upper()}{WHO[1:]} of {WHICH} lost that part of the deliveries which the objective "
        "(99 % over 30 days) allows in a month."
    )
    return [
        alert(
            "ConfitureWebhookDeadLetter",
            f'{SIZE}{{confiture_webhook_state="dead_letter"}} > 0',
            "warning",
            f"{{{{ $value }}}} dead letter(s): {WHERE}",
            "Every attempt to deliver these webhooks failed. They stay in the outbox: repair the receiver, then "
            "redeliver or discard them. The alert stays until none is left.",
        ),
        alert(
            "ConfitureWebhookOutboxStuck",
            f"{AGE} > 3600",
            "warning",
            f"A webhook has waited for {{{{ humanizeDuration $value }}}}: {WHERE}",
            "The first four attempts of the default schedule are over after 35 minutes. Either the endpoint keeps "
            "failing, or no run and no worker has sent what is due.",
            "5m",
        ),
        alert(
            "ConfitureWebhookOutboxStuck",
            f"{AGE} > 86400",
            "critical",
            f"A webhook has waited for {{{{ humanizeDuration $value }}}}: {WHERE}",
            "The default schedule is used up after 21 hours at most. No run and no worker sends what is due.",
            "5m",
        ),
        alert(
            "ConfitureWebhookEndpointGone",
            f"{GONE} > {DELIVERED} or {GONE} unless {DELIVERED}",
            "warning",
            f"{WHO[0].upper()}{WHO[1:]} answered 410 and is off: {WHICH}",
            "The receiver says it is gone for good. Nothing is sent there until an operator enables it. The alert stays "
            "until a delivery succeeds, or for seven days.",
        ),
        alert(
            "ConfitureWebhookRetryStorm",
            f"{retries} / {deliveries} > 3 and {deliveries} >= 10",
            "info",
            f'{{{{ printf "%.1f" $value }}}} retries for each webhook: {WHO}, {WHICH}',
            "More than three retries for each delivery over the last hour. The receiver is ill, or it limits the rate.",
        ),
        alert(
            "ConfitureWebhookErrorBudgetBurnFast",
            f"({spent_in('1h')} > 0.05 and {lost_in('1h')} >= 5) or "
            f"({spent_in('1d')} > 1 and {lost_in('1d')} >= 2 and {lost_in('6h')} > 0)",
            "critical",
            f"{{{{ humanizePercentage $value }}}} of the month's error budget spent: {WHO}, {WHICH}",
            f"{burn} In an hour more than 5 %, or in a day all of it.",
        ),
        alert(
            "ConfitureWebhookErrorBudgetBurnSlow",
            f"{spent_in('3d')} > 0.5 and {lost_in('3d')} >= 2 and {lost_in('1d')} > 0",
            "warning",
            f"{{{{ humanizePercentage $value }}}} of the month's error budget spent: {WHO}, {WHICH}",
            f"{burn} In three days more than half of it.",
        ),
    ]


def migrations(dialect: Dialect) -> list[Json]:
    """Runs: what is shared, and the alerts."""
    whose = f"{SERVICE}, {ENVIRONMENT}"
    # What failed before its database was known is over when any of them succeeds.
    unnamed = f'{FAILURE}{{{DATABASE}=""}} > bool on ({whose}) max by ({whose}) ({SUCCESS})'
    interrupted = dialect.count('confiture_runs_total{error_type="Interrupted"}', "1h", OWNER)
    return [
        {
            "name": "confiture-run-records",
            "rules": [
                record(
                    SUCCESS,
                    latest("confiture_run_last_success_timestamp_seconds"),
                ),
                record(
                    FAILURE,
                    latest("confiture_run_last_failure_timestamp_seconds"),
                ),
                record(
                    FAILED,
                    f"{FAILURE} > bool {SUCCESS} or {unnamed} or ({FAILURE} > bool 0 unless {SUCCESS}) or {SUCCESS} * 0",
                ),
            ],
        },
        {
            "name": "confiture-migrations",
            "rules": [
                alert(
                    "ConfitureRunFailed",
                    f"time() - {FAILURE} and {FAILED} == 1",
                    "warning",
                    f"The last run failed {{{{ humanizeDuration $value }}}} ago: {WHERE}",
                    "No run has succeeded since. A transactional migration left nothing behind; runs that failed before "
                    "their first migration count, too. The alert stays until a later run succeeds.",
                ),
                alert(
                    "ConfitureRunInterrupted",
                    f"{interrupted} > 0",
                    "info",
                    f"{{{{ $value }}}} run(s) were cut off in the last hour: {WHERE}",
                    "A run ended before it could report: its process was killed or lost its connection. Whether its "
                    "migration committed is in its log event: migration.applied or migration.failed.",
                ),
            ],
        },
    ]


def missing_run(_dialect: Dialect) -> list[Json]:
    """For databases that are migrated regularly; not loaded unless copied beside the other rules."""
    return [
        {
            "name": "confiture-optional",
            "rules": [
                alert(
                    "ConfitureRunMissing",
                    f"time() - {SUCCESS} > 7 * 86400",
                    "warning",
                    f"No successful run for {{{{ humanizeDuration $value }}}}: {WHERE}",
                    "Nothing was migrated, not even a run with nothing to do. Raise the seven days if that is usual here.",
                )
            ],
        }
    ]


def telemetry(dialect: Dialect) -> list[Json]:
    """The way of the numbers themselves."""
    counters = (
        'sum by (job, instance) ({__name__=~"otelcol_(receiver_refused|exporter_send_failed|exporter_enqueue_failed)'
        '_(spans|metric_points|log_records)(_total)?"} '
        'or {__name__=~"otelcol_deltatocumulative_datapoints(_total)?", error!=""})'
    )
    down = 'up{job="otel-collector"} == 0 or absent(up{job="otel-collector"})'
    return [
        {
            "name": "confiture-telemetry-records",
            # The counters exist after their first failure: until then this is 0, so that the first is an increase.
            "rules": [record(LOST_ITEMS, f'{counters} or 0 * (up{{job="otel-collector"}} == 1)')],
        },
        {
            "name": "confiture-telemetry",
            "rules": [
                alert(
                    "ConfitureTelemetryLost",
                    f"{dialect.grown(LOST_ITEMS, '15m')} > 0",
                    "warning",
                    'The collector at {{ $labels.instance }} lost {{ printf "%.0f" $value }} spans, points or log records',
                    "It refused or dropped telemetry in the last 15 minutes. Webhooks are not touched by it; dashboards "
                    "and counts are too low.",
                ),
                alert(
                    "OtelCollectorDown",
                    down,
                    "critical",
                    "The collector does not answer",
                    "It could not be read for five minutes. What runs report meanwhile is lost; each run says so in one "
                    "line (telemetry.flush_incomplete). Webhooks are delivered all the same.",
                    "5m",
                ),
            ],
        },
    ]


def files(dialect: Dialect) -> dict[str, str]:
    """Every rule file of a dialect."""
    head = f"# Written by observability/generator/generate.py for {dialect.name}: change that.\n"
    made = {
        "rules/webhooks.yml": webhooks,
        "rules/migrations.yml": migrations,
        "rules/telemetry.yml": telemetry,
        "rules-optional/missing-run.yml": missing_run,
    }
    return {
        name: head + yaml.safe_dump({"groups": groups(dialect)}, sort_keys=False, width=10_000)
        for name, groups in made.items()
    }
