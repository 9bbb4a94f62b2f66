"""Time between a migration's last statement and its COMMIT, by the server's own clock.

Three endpoints that accept and never answer, against ``CONFITURE_WEBHOOKS=off``, with either
outbox. The server's log says when the migration's last statement came and when the COMMIT did.
And a whole run whose SQL is one line of 20 MB.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import psycopg
import yaml
from harness import CONFITURE, Bench, Comparison, bench, paired, timed

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


def silent(outbox: str) -> Comparison:
    """The medians of several runs of twenty migrations each."""
    logged = {"log_statement": "all", "log_line_prefix": "%n ", "logging_collector": "on"}
    with (
        bench(logged) as project,
        LocalReceiver(answers=["hang"] * 1000) as one,
        LocalReceiver(answers=["hang"] * 1000) as two,
        LocalReceiver(answers=["hang"] * 1000) as three,
    ):
        project.migrations(20, lambda n: f"CREATE TABLE t{n} (id int); SELECT '{MARK}';")
        urls = [one.url, two.url, three.url]
        pairs = [
            (
                statistics.median(gaps(project, {}, urls, outbox)),
                statistics.median(gaps(project, {"CONFITURE_WEBHOOKS": "off"}, urls, outbox)),
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


def one_long_line() -> Comparison:
    """A whole ``migrate up`` of one INSERT of 20 MB on one line that holds ``--``."""
    pems = "-----BEGIN CERTIFICATE-----" * (20_000_000 // 27)
    with bench() as project, LocalReceiver() as receiver:
        project.migrations(1, lambda _: f"CREATE TABLE t (a text); INSERT INTO t VALUES ('{pems}')")
        url = {"CONFITURE_WEBHOOK_URL": receiver.url}
        return paired(
            "migrate up, 20 MB of SQL on one line",
            lambda: project.up(url),
            lambda: project.up({**url, "CONFITURE_WEBHOOKS": "off"}),
            rounds=4,
            unit="s",
            target="difference at most 0.150 s, as with three small migrations",
        )


if __name__ == "__main__":
    print(silent("sqlite").line(), flush=True)
    print(silent("postgres").line(), flush=True)
    print(one_long_line().line(), flush=True)
