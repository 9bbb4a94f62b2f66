"""Many at once: ten endpoints of one second, and 1,700 migrations in one run."""

from __future__ import annotations

import re
import statistics
import subprocess

import yaml
from harness import CONFITURE, Comparison, bench, environment, peak_memory

from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.receiver.collector import LocalCollector
from confiture_webhooks.receiver.server import Answer

FEW, MANY = 200, 1700
LAG = re.compile(r'"lag_ms": ([\d.]+)')


def ten_endpoints() -> Comparison:
    """From the event to the last of ten deliveries that take a second each, against one."""
    with bench() as project, LocalReceiver(answers=[Answer(delay_s=1.0)] * 1000) as receiver:
        project.migrations(1, lambda n: f"CREATE TABLE t{n} (id int);")

        def slowest(endpoints: int) -> float:
            dsn = project.fresh_database()
            block = {
                "endpoints": [{"name": f"e{n}", "url": receiver.url} for n in range(endpoints)]
            }
            file = project.path / "db" / "environments" / "local.yaml"
            file.write_text(yaml.safe_dump({"database_url": dsn, "webhooks": block}))
            done = subprocess.run(
                [str(CONFITURE), "migrate", "up"],
                cwd=project.path,
                env=environment(),
                check=True,
                capture_output=True,
                text=True,
            )
            return max(float(lag) for lag in LAG.findall(done.stderr)) / 1000

        pairs = [(slowest(10), slowest(1)) for _ in range(5)]
    return Comparison(
        "ten endpoints of one second, event to last delivery",
        "s",
        [ten for ten, _ in pairs],
        [one for _, one in pairs],
        "at most 1.2 s",
    )


def memory() -> list[str]:
    """What webhooks add to the peak memory of a run: with 200 migrations, and with 1,700."""
    added, lines = {}, []
    for count in (FEW, MANY):
        with bench() as project, LocalReceiver() as receiver, LocalCollector() as collector:
            project.migrations(count, lambda n: f"CREATE TABLE t{n} (id int);")
            on = {
                "CONFITURE_WEBHOOK_URL": receiver.url,
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            }
            sizes = {}
            for name, env in (("on", on), ("off", {**on, "CONFITURE_WEBHOOKS": "off"})):
                measured = []
                for _ in range(3):
                    project.fresh_database()
                    measured.append(
                        peak_memory([str(CONFITURE), "migrate", "up"], project.path, env)
                    )
                sizes[name] = statistics.median(measured)
            added[count] = sizes["on"] - sizes["off"]
            reported = len(receiver.requests) / 3
            spans = sum(1 for span in collector.spans if span.name == "apply migration") / 3
        lines.append(
            f"{count} migrations: peak {sizes['on']:.0f} MiB against {sizes['off']:.0f} MiB off, "
            f"{reported:.0f} webhooks, {spans:.0f} migration spans per run"
        )
    lines.append(
        f"growth of what webhooks add, {FEW} to {MANY}: {added[MANY] - added[FEW]:+.1f} MiB"
    )
    return lines


if __name__ == "__main__":
    print(ten_endpoints().line())
    print("\n".join(memory()))
