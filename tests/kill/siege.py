"""SIGKILL at random instants of real ``confiture`` processes, and the count of what that cost.

Among them is a worker that watches, while the others are at work. Now and then it is the server that
goes, at once and without a word, and is started again.

``python tests/kill/siege.py --kills 1000`` prints what was lost, invented and sent twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill.toll import HISTORY, Toll
from project import Project

if TYPE_CHECKING:
    from confiture_webhooks.local_postgres import LocalPostgres
    from confiture_webhooks.receiver import LocalReceiver

VERSIONS = 12
STEPS = 5
"""How many migrations a killed run is given to do."""
LEASE_S = 31
"""A delivery whose worker was killed is sent again after its endpoint's timeout and 30 s."""
ANSWERS = (200, 200, 500, 200, 200, 200)
WAVE = ["run"] * 6 + ["deliver"] * 3 + ["watch"] * 2 + ["server"]
"""What is struck, in an order of chance; a run goes up or down, as the ledger allows."""


class Siege:
    """A project on *server* whose every command may be killed, and the server with it.

    The ledger's own history is the truth. *server* keeps its data, and what it has committed.
    """

    def __init__(
        self,
        project: Project,
        receiver: LocalReceiver,
        server: LocalPostgres,
        *,
        outbox: str,
        seed: int,
    ) -> None:
        self._project = project
        self._receiver = receiver
        self._server = server
        self._chance = random.Random(seed)
        self._wave: list[str] = []
        self._worker: subprocess.Popen[str] | None = None
        self._spared: subprocess.Popen[str] | None = None
        self._env = {"CONFITURE_WEBHOOK_OUTBOX": outbox}
        self._took: dict[str, float] = {}
        self._watch: psycopg.Connection[Any]
        self.toll = Toll()
        retry = {"schedule": [0.2] * 20, "jitter": 0}
        endpoint = {"name": "a", "url": receiver.url, "timeout": 1, "retry": retry}
        project.environment_file(webhooks={"endpoints": [endpoint]})

    def prepare(self) -> None:
        """Have the ledger note its own history, and take the time of every command."""
        self._project.migration("000", "first", up="SELECT 1", down="SELECT 1")
        self._run("migrate", "up")
        with psycopg.connect(self._project.database_url) as connection:
            connection.execute(HISTORY)
            connection.execute("INSERT INTO siege.history (did, version) VALUES ('INSERT', '000')")
        for number in range(1, VERSIONS + 1):
            self._project.migration(
                f"{number:03}",
                "step",
                up=f"CREATE TABLE step_{number} (id int); SELECT pg_sleep(0.02)",
                down=f"SELECT pg_sleep(0.02); DROP TABLE step_{number}",
            )
        self._took = {what: self._run(*self._words(what)) for what in ("up", "down", "deliver")}
        self._took["watch"] = 3 * self._took["deliver"]

    def strike(self) -> None:
        """Start a command and kill it before it ends, or the server under it."""
        while True:
            blow = self._next_blow()
            what = self._direction() if blow in ("run", "server") else blow
            process = self._started(what)
            self._wait(process, what)
            if blow == "watch" and process is not self._spared and self._chance.random() < 0.5:
                self._spared = process  # it works beside others until its turn comes again
                continue
            if blow == "server":
                self._fell(process)
                self.toll.kills["server"] += 1
                return
            process.kill()
            process.communicate(timeout=60)
            if process.returncode == -9:
                self.toll.kills[what] += 1
                return

    def _next_blow(self) -> str:
        if not self._wave:
            self._wave = self._chance.sample(WAVE, len(WAVE))
        return self._wave.pop()

    def _started(self, what: str) -> subprocess.Popen[str]:
        if what == "watch" and self._worker is not None and self._worker.poll() is None:
            return self._worker
        leave = {"CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0"} if self._chance.random() < 0.5 else {}
        process = self._project.spawn(*self._words(what), env={**self._env, **leave})
        if what == "watch":
            self._worker = process
        return process

    def _fell(self, process: subprocess.Popen[str]) -> None:
        """What ``pg_ctl stop -m immediate`` sends, with or without *process*; and start again."""
        os.kill(self._server.pid, signal.SIGQUIT)
        if self._chance.random() < 0.5:
            process.kill()
        process.communicate(timeout=60)
        self._server.stop()
        self._server.start()
        assert self._project.database_url == self._server.dsn()

    def _wait(self, process: subprocess.Popen[str], what: str) -> None:
        """Until it has done some of its work, and a random instant longer.

        By what it has done, not by the clock: how fast this machine is changes all the time. But a
        worker may have nothing to do.
        """
        progress = self._committed if what in ("up", "down") else self._answered
        with psycopg.connect(self._project.database_url, autocommit=True) as watch:
            self._watch = watch
            steps = self._chance.randint(0, STEPS)
            goal = progress() + steps
            until = time.monotonic() + self._chance.uniform(0.2, 1.0) * self._took[what]
            while progress() < goal:
                if process.poll() is not None or (what == "watch" and time.monotonic() > until):
                    return
                time.sleep(0.002)
            if steps == 0 or self._chance.random() < 0.3:
                time.sleep(max(0.0, until - time.monotonic()))
            time.sleep(self._chance.uniform(0, 0.05))

    def _committed(self) -> int:
        """How many migrations up and down have committed."""
        row = self._watch.execute("SELECT count(*) FROM siege.history").fetchone()
        assert row is not None
        return int(row[0])

    def _answered(self) -> int:
        """How many webhooks were received."""
        return len(self._receiver.requests)

    def drain(self) -> Toll:
        """Run commands in peace until everything is reported, and count."""
        if self._worker is not None and self._worker.poll() is None:
            self._worker.terminate()
            assert self._worker.wait(60) == 0
        until = time.monotonic() + 10 * LEASE_S
        self._run("migrate", "up")
        while not self._is_drained() and time.monotonic() < until:
            self._run("webhooks", "deliver")
            time.sleep(3)  # most of the time a lease has to run out
        with psycopg.connect(self._project.database_url) as connection:
            history = connection.execute("SELECT did, version FROM siege.history").fetchall()
        self.toll.count(history, self._receiver.requests, self._status())
        return self.toll

    def _direction(self) -> str:
        """Up or down, whichever has something to do."""
        with psycopg.connect(self._project.database_url) as connection:
            applied = connection.execute("SELECT count(*) FROM tb_confiture").fetchone()
        assert applied is not None
        return "up" if applied[0] <= VERSIONS + 1 - STEPS else "down"

    @staticmethod
    def _words(what: str) -> tuple[str, ...]:
        return {
            "up": ("migrate", "up"),
            "down": ("migrate", "down", "--steps", str(STEPS)),
            "deliver": ("webhooks", "deliver"),
            "watch": ("webhooks", "deliver", "--watch"),
        }[what]

    def _run(self, *words: str) -> float:
        started = time.monotonic()
        self._project.confiture(*words, env=self._env, timeout=120)
        return time.monotonic() - started

    def _is_drained(self) -> bool:
        status = self._status()
        waiting = status["counts"]["pending"] + status["counts"]["in_flight"]
        return not waiting and not status["unsettled"]

    def _status(self) -> dict[str, Any]:
        done = self._project.confiture("webhooks", "status", "--format", "json", env=self._env)
        return dict(json.loads(done.stdout))


def besiege(siege: Siege, kills: int) -> Toll:
    """Kill *kills* processes, then count."""
    siege.prepare()
    for number in range(kills):
        siege.strike()
        if number % 50 == 49:
            print(f"{number + 1} kills", file=sys.stderr, flush=True)
    return siege.drain()


def keeping_server(directory: Path) -> LocalPostgres:
    """A server under *directory* that can be killed and started again, and keeps what it says.

    This machine does not lose its power: what is written need not be on the disk.
    """
    from confiture_webhooks.local_postgres import LocalPostgres

    directory.chmod(0o755)  # where tests run as root, the server does not
    return LocalPostgres(directory / "server", settings={"synchronous_commit": "on"})


def main() -> int:
    """The siege as a command."""
    from confiture_webhooks.receiver import LocalReceiver

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--outbox", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", file=sys.stderr)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(keeping_server(directory))
        answers = list(islice(cycle(ANSWERS), 100 * chosen.kills))
        receiver = stack.enter_context(LocalReceiver(answers=answers))
        project = Project(directory / "project", server.dsn())
        stack.callback(project.close)
        siege = Siege(project, receiver, server, outbox=chosen.outbox, seed=chosen.seed)
        toll = besiege(siege, chosen.kills)
    for line in (*toll.details, str(toll)):
        print(line)
    return 1 if toll.lost or toll.invented else 0


if __name__ == "__main__":
    sys.exit(main())
