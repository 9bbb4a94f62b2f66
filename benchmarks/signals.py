"""What traces, metrics and logs over OTLP cost a run of 1,000 deliveries.

One ``migrate up`` of 1,000 migrations with one endpoint, three times in turn: exporting all
three signals, exporting none, and with webhooks off. The last one is what a run costs
without deliveries; what is above it, by delivery, is compared. Receiver and collector are in
a process of their own: theirs is not the run's time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness import CONFITURE, Bench, Comparison, bench, environment

from confiture_webhooks.collector import LocalCollector
from confiture_webhooks.receiver import LocalReceiver

DELIVERIES = 1000
ROUNDS = 5


@contextmanager
def peers() -> Iterator[Mapping[str, str]]:
    """The URLs of a receiver and a collector in another process."""
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout is not None
        yield json.loads(served.stdout.readline())


def serve() -> None:
    """Receive until standard input ends; then say what came."""
    with LocalReceiver() as receiver, LocalCollector() as collector:
        print(json.dumps({"receiver": receiver.url, "collector": collector.url}), flush=True)
        sys.stdin.read()


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
    told = done.stderr.count('"webhook.delivered"')
    expected = 0 if "CONFITURE_WEBHOOKS" in env else DELIVERIES
    if told != expected or "flush_incomplete" in done.stderr:
        raise RuntimeError(f"{told} of {expected} delivered: {done.stderr[-500:]}")
    return took_s


def main() -> tuple[Comparison, Comparison]:
    """By delivery, and for the whole run."""
    with bench() as project, peers() as urls:
        project.migrations(DELIVERIES, lambda n: f"CREATE TABLE t{n} (id int);")
        silent = {
            "CONFITURE_WEBHOOK_URL": urls["receiver"],
            "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "300",
            "CONFITURE_WEBHOOK_LOG": "json",
        }
        arms = {
            "export": {**silent, "OTEL_EXPORTER_OTLP_ENDPOINT": urls["collector"]},
            "silent": silent,
            "off": {**silent, "CONFITURE_WEBHOOKS": "off"},
        }
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(ROUNDS):
            for name in sorted(arms, reverse=bool(number % 2)):
                taken[name].append(seconds(project, arms[name]))
    bare = statistics.median(taken["off"])
    above = {
        name: [(took_s - bare) / DELIVERIES * 1000 for took_s in taken[name]]
        for name in ("export", "silent")
    }
    return (
        Comparison(
            "all three signals exported, above webhooks off, by delivery",
            "ms",
            above["export"],
            above["silent"],
            "ratio at most 1.10",
        ),
        Comparison(
            "all three signals exported, the whole run of 1,000",
            "s",
            taken["export"],
            taken["silent"],
            "ratio at most 1.10",
        ),
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        for compared in main():
            print(compared.line())
