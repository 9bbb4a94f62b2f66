"""Time between a migration's last statement and its COMMIT, by the server's own clock.

Three endpoints that accept and never answer, against ``CONFITURE_WEBHOOKS=off``, with either
outbox. The server's log says when the migration's last statement came and when the COMMIT did, in
whole milliseconds: the mean of many says more than that, their median does not.
And the processor time that webhooks cost a run whose SQL is one line of 20 MB.
"""

from __future__ import annotations

import re
import resource
import statistics
from pathlib import Path

import psycopg
import yaml
from harness import CONFITURE, Bench, Comparison, bench, timed

from confiture_webhooks.receiver import LocalReceiver

LINE = re.compile(r"^(\d+\.\d+) .*?(?:statement|execute [^:]*): (.*)$")
MARK = "last_statement"


def gaps(
    project: Bench, env: dict[str, str], urls: list[str], outbox: str = "sqlite"
) -> list[float]:
    """Milliseconds from the last statement's arrival to COMMIT's, one per migration of one run."""
    dsn = project.fresh_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        log = connection.execute("SELECT pg_current_logfile()").fetchone()
        directory = connection.execute("SHOW data_directory").fetchone()
        assert log is not None
        assert directory is not None
    path = Path(directory[0]) / log[0]
    begins = path.stat().st_size
    block = {
        "endpoints": [
            {"name": f"silent{n}", "url": url, "timeout": 2} for n, url in enumerate(urls)
        ],
        "flush_timeout": 0.5,
        "outbox": outbox,
    }
    file = project.path / "db" / "environments" / "local.yaml"
    file.write_text(yaml.safe_dump({"database_url": dsn, "webhooks": block}))
    timed([str(CONFITURE), "migrate", "up"], project.path, env)
    found, last = [], None
    with path.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begins)
        for line in lines:
            match = LINE.match(line)
            if match is None:
                continue
            if MARK in match[2]:
                last = float(match[1])
            elif last is not None and match[2].strip().rstrip(";").upper() == "COMMIT":
                found.append((float(match[1]) - last) * 1000)
                last = None
    return found


def usual(found: list[float]) -> float:
    """The mean of *found* without the tenth that was longest: it waited for something else."""
    return statistics.fmean(sorted(found)[: len(found) * 9 // 10])


def silent(outbox: str) -> Comparison:
    """The means of several runs of sixty migrations each."""
    logged = {"log_statement": "all", "log_line_prefix": "%n ", "logging_collector": "on"}
    with (
        bench(logged) as project,
        LocalReceiver(answers=["hang"] * 1000) as one,
        LocalReceiver(answers=["hang"] * 1000) as two,
        LocalReceiver(answers=["hang"] * 1000) as three,
    ):
        project.migrations(60, lambda n: f"CREATE TABLE t{n} (id int); SELECT '{MARK}';")
        urls = [one.url, two.url, three.url]
        pairs = [
            (
                usual(gaps(project, {}, urls, outbox)),
                usual(gaps(project, {"CONFITURE_WEBHOOKS": "off"}, urls, outbox)),
            )
            for _ in range(8)
        ]
    return Comparison(
        f"last statement to COMMIT, three silent endpoints, {outbox} outbox",
        "ms",
        [ours for ours, _ in pairs],
        [off for _, off in pairs],
        "difference at most 1 ms",
    )


def processor_s(project: Bench, env: dict[str, str]) -> float:
    """Seconds of processor time of a whole ``migrate up``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    project.up(env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost_of_webhooks(line: str) -> list[float]:
    """What webhooks add to a run of one migration that inserts *line*, in processor time."""
    with bench() as project, LocalReceiver() as receiver:
        project.migrations(1, lambda _: f"CREATE TABLE t (a text); INSERT INTO t VALUES ('{line}')")
        url = {"CONFITURE_WEBHOOK_URL": receiver.url}
        off = {**url, "CONFITURE_WEBHOOKS": "off"}
        return [processor_s(project, url) - processor_s(project, off) for _ in range(6)]


def one_long_line() -> Comparison:
    """One INSERT of 20 MB on one line that holds ``--``, against one of 27 characters."""
    pem = "-----BEGIN CERTIFICATE-----"
    return Comparison(
        "processor time that webhooks cost: 20 MB of SQL on one line against 27 bytes",
        "s",
        cost_of_webhooks(pem * (20_000_000 // len(pem))),
        cost_of_webhooks(pem),
        "difference at most 0.05 s",
    )


if __name__ == "__main__":
    print(silent("sqlite").line(), flush=True)
    print(silent("postgres").line(), flush=True)
    print(one_long_line().line(), flush=True)
