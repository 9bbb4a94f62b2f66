"""A worker's memory over many deliveries, and over an endpoint that is never there.

The worker runs in a process of its own against the outbox it would have, with every signal
exported; what it holds is read after a tenth of the work and at its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml
from deliver import deliveries, fill
from harness import CONFITURE, environment
from peers import peer

from confiture_webhooks.delivery import State
from confiture_webhooks.outbox.sqlite import SqliteOutbox

COUNT = int(os.environ.get("DELIVERIES", "50000"))
DEAD = int(os.environ.get("ENDPOINTS", "20"))
DEAD_S = float(os.environ.get("SECONDS", "120"))
STEP = 10_000


def resident(pid: int) -> float:
    """What process *pid* holds in memory, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def worker(directory: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """``deliver --watch`` in *directory*, its log lines thrown away."""
    return subprocess.Popen(
        [str(CONFITURE), "webhooks", "deliver", "--watch"],
        cwd=directory,
        env=environment(env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def many() -> str:
    """From a tenth of the deliveries to all of them."""
    with (
        tempfile.TemporaryDirectory() as directory,
        peer("receiver") as receiver,
        peer("collector") as collector,
    ):
        path = Path(directory) / ".confiture" / "webhooks.db"
        for first in range(0, COUNT, STEP):
            fill(path, deliveries(min(STEP, COUNT - first), first=first))
        env = {
            "CONFITURE_WEBHOOK_URL": receiver.url,
            "CONFITURE_ENVIRONMENT": "production",  # the deliveries'
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        process, seen, done, begun = worker(directory, env), {}, 0, time.monotonic()
        while done < COUNT:
            time.sleep(1)
            done += receiver.reported()["count"]
            collector.reported()  # and forget it: the collector's memory is not the question
            if done >= COUNT / 10:
                seen.setdefault("tenth", resident(process.pid))
        rate = COUNT / (time.monotonic() - begun)
        seen["all"] = resident(process.pid)
        process.terminate()
        process.wait(30)
    return (
        f"{COUNT} deliveries at {rate:.0f}/s: {seen['tenth']:.1f} MiB after a tenth, "
        f"{seen['all']:.1f} MiB after all ({seen['all'] - seen['tenth']:+.1f})"
    )


def dead() -> str:
    """Endpoints that refuse every connection, each with a thousand deliveries waiting."""
    with tempfile.TemporaryDirectory() as directory, peer("collector") as collector:
        names = [f"e{number}" for number in range(DEAD)]
        endpoints = [{"name": name, "url": "http://127.0.0.1:9/hook"} for name in names]
        file = Path(directory) / "db" / "environments" / "local.yaml"
        file.parent.mkdir(parents=True)
        content = {
            "name": "production",
            "database_url": "postgresql:///none",
            "webhooks": {"endpoints": endpoints},
        }
        file.write_text(yaml.safe_dump(content))
        path = Path(directory) / ".confiture" / "webhooks.db"
        for place, name in enumerate(names):
            fill(path, deliveries(1000, endpoint=name, first=place * 1000))
        process = worker(directory, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        time.sleep(DEAD_S / 4)
        before, cpu = resident(process.pid), cpu_s(process.pid)
        time.sleep(DEAD_S * 3 / 4)
        after, cpu = resident(process.pid), cpu_s(process.pid) - cpu
        process.terminate()
        process.wait(30)
        outbox = SqliteOutbox(path)
        left = outbox.summary("production").counts.get(State.PENDING, 0)
        outbox.close()
    return (
        f"{DEAD} dead endpoints with 1000 deliveries each, {DEAD_S:.0f} s: {before:.1f} MiB, "
        f"then {after:.1f} MiB ({after - before:+.1f}), {cpu / (DEAD_S * 0.75):.1%} of a core, "
        f"{left} still waiting"
    )


def idle() -> str:
    """A worker with nothing to do."""
    with tempfile.TemporaryDirectory() as directory, peer("receiver") as receiver:
        fill(Path(directory) / ".confiture" / "webhooks.db", [])
        process = worker(directory, {"CONFITURE_WEBHOOK_URL": receiver.url})
        settle(process.pid)
        before = cpu_s(process.pid)
        time.sleep(60)
        spent = cpu_s(process.pid) - before
        process.terminate()
        process.wait(30)
    return f"an idle minute: {spent:.2f} s of processor time ({spent / 60:.2%} of a core)"


def settle(pid: int) -> None:
    """Wait until *pid* has started: it does nothing for two seconds."""
    before = -1.0
    while cpu_s(pid) - before > 0.02 or before < 0.1:
        before = cpu_s(pid)
        time.sleep(2)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that process *pid* has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for question in sys.argv[1:] or ("idle", "dead", "many"):
        print({"idle": idle, "dead": dead, "many": many}[question](), flush=True)
