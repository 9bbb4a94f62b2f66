"""What traces, metrics and logs over OTLP cost a run of 1,000 deliveries.

One ``migrate up`` of 1,000 migrations with one endpoint, three times in turn: exporting all
three signals, exporting none, and with webhooks off. The last one is what a run costs
without deliveries; what is above it, by delivery, is compared. Receiver and collector are in
a process of their own: theirs is not the run's time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping
from functools import partial

from harness import CONFITURE, Bench, Comparison, bench, environment, undisturbed
from peers import peer

DELIVERIES = 1000
ROUNDS = int(os.environ.get("ROUNDS", "3"))
AWAY_MS = (5.0, 0.0)
"""A receiver as they are met, and one where all that counts is how much Python runs."""


def seconds(project: Bench, env: Mapping[str, str]) -> float:
    """How long a whole run takes that delivers everything and loses no telemetry."""
    project.fresh_database()
    started = time.perf_counter()
    done = subprocess.run(
        [str(CONFITURE), "migrate", "up"],
        cwd=project.path,
        env=environment(env),
        check=True,
        capture_output=True,
        text=True,
    )
    took_s = time.perf_counter() - started
    reported = done.stderr.count('"webhook.delivered"')
    expected = 0 if "CONFITURE_WEBHOOKS" in env else DELIVERIES
    if reported != expected or "flush_incomplete" in done.stderr:
        raise RuntimeError(f"{reported} of {expected} delivered: {done.stderr[-500:]}")
    return took_s


def compare(project: Bench, away_ms: float) -> tuple[Comparison, Comparison]:
    """By delivery and for the whole run, to a receiver a round trip of *away_ms* away."""
    with peer("receiver", away_ms=away_ms) as receiver, peer("collector") as collector:
        silent = {
            "CONFITURE_WEBHOOK_URL": receiver.url,
            "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "300",
            "CONFITURE_WEBHOOK_LOG": "json",
        }
        arms = {
            "export": {**silent, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
            "silent": silent,
            "off": {**silent, "CONFITURE_WEBHOOKS": "off"},
        }
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(ROUNDS):
            for name in sorted(arms, reverse=bool(number % 2)):
                taken[name].append(undisturbed(partial(seconds, project, arms[name])))
    bare = statistics.median(taken["off"])
    above = {
        name: [(took_s - bare) / DELIVERIES * 1000 for took_s in taken[name]]
        for name in ("export", "silent")
    }
    about = f"all three signals exported, receiver {away_ms:g} ms away"
    return (
        Comparison(
            f"{about}, above webhooks off, by delivery",
            "ms",
            above["export"],
            above["silent"],
            "ratio at most 1.10",
        ),
        Comparison(
            f"{about}, the whole run of {DELIVERIES}",
            "s",
            taken["export"],
            taken["silent"],
            "ratio at most 1.05",
        ),
    )


def main() -> None:
    """Print what is measured with either receiver."""
    with bench() as project:
        project.migrations(DELIVERIES, lambda n: f"CREATE TABLE t{n} (id int);")
        for away_ms in AWAY_MS:
            for compared in compare(project, away_ms):
                print(compared.line(), flush=True)


if __name__ == "__main__":
    main()
