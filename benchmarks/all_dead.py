"""A run whose receiver, collector and outbox server accept and never answer, and whose standard
error is a full pipe that nobody reads, against the same run with webhooks off.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import yaml
from harness import CONFITURE, Bench, Comparison, bench, environment, paired

ROUNDS = int(os.environ.get("ROUNDS", "3"))


@contextmanager
def never_answers() -> Iterator[int]:
    """The port of a listener whose queue takes connections that are never accepted."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


@contextmanager
def unread() -> Iterator[int]:
    """The end to write to of a pipe that is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(writing)
        os.close(reading)


def up(project: Bench, block: dict[str, object], env: dict[str, str]) -> float:
    """Seconds of a whole ``migrate up`` of five migrations."""
    dsn = project.fresh_database()
    file = project.path / "db" / "environments" / "local.yaml"
    file.write_text(yaml.safe_dump({"database_url": dsn, "webhooks": block}))
    with unread() as writing:
        started = time.perf_counter()
        subprocess.run(
            [str(CONFITURE), "migrate", "up"],
            cwd=project.path,
            env=environment(env),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=writing,
        )
        return time.perf_counter() - started


def compare(project: Bench, outbox: str, flush_s: int, receiver: int, collector: int) -> Comparison:
    """What such a run takes, with its webhooks and without."""
    endpoint = {"name": "silent", "url": f"http://127.0.0.1:{receiver}/"}
    block = {"outbox": outbox, "flush_timeout": flush_s, "log": "json", "endpoints": [endpoint]}
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}"}
    return paired(
        f"everything dead, {outbox.partition(':')[0]} outbox, flush_timeout {flush_s} s",
        lambda: up(project, block, env),
        lambda: up(project, block, {**env, "CONFITURE_WEBHOOKS": "off"}),
        rounds=ROUNDS,
        unit="s",
        target=f"difference at most {flush_s + 2} s",
    )


def main() -> None:
    """Print what is measured with each outbox."""
    with bench() as project, ExitStack() as dead:
        server, receiver, collector = (dead.enter_context(never_answers()) for _ in range(3))
        project.migrations(5, lambda n: f"CREATE TABLE t{n} (id int);")
        for outbox in ("sqlite", f"postgres:postgresql://a:b@127.0.0.1:{server}/c"):
            for flush_s in (0, 3):
                line = compare(project, outbox, flush_s, receiver, collector).line()
                print(line, flush=True)


if __name__ == "__main__":
    main()
