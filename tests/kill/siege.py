"""SIGKILL at random instants of real ``confiture`` processes, and the count of what that cost.

``python tests/kill/siege.py --kills 1000`` prints what was lost, invented and told twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from project import Project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confiture_webhooks.receiver import LocalReceiver

VERSIONS = 12
STEPS = 5
"""How many migrations a killed run is given to do."""
LEASE_S = 31
"""A delivery whose worker was killed is sent again after its endpoint's timeout and 30 s."""
ANSWERS = (200, 200, 500, 200, 200, 200)
_HISTORY = """
    CREATE SCHEMA siege;
    CREATE TABLE siege.history (n bigserial, did text, version text);
    CREATE FUNCTION siege.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO siege.history (did, version) VALUES (TG_OP, coalesce(NEW.version, OLD.version));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR DELETE ON tb_confiture
    FOR EACH ROW EXECUTE FUNCTION siege.note();
"""
_COMMITTED = {"INSERT": "migration_success", "DELETE": "migration_rollback"}


@dataclass
class Toll:
    """What the kills cost; ``details`` says which."""

    kills: Counter[str] = field(default_factory=Counter)
    events: int = 0
    lost: int = 0
    invented: int = 0
    duplicated: int = 0
    """Webhooks accepted more than once, under the same webhook-id and with the same body."""
    details: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} x {what}" for what, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({kills}), {self.events} events: {self.lost} lost, "
            f"{self.invented} invented, {self.duplicated} duplicated (same webhook-id)"
        )


class Siege:
    """A project whose every command may be killed. The ledger's own history is the truth."""

    def __init__(
        self, project: Project, receiver: LocalReceiver, *, outbox: str, seed: int
    ) -> None:
        self._project = project
        self._receiver = receiver
        self._chance = random.Random(seed)
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
            connection.execute(_HISTORY)
            connection.execute("INSERT INTO siege.history (did, version) VALUES ('INSERT', '000')")
        for number in range(1, VERSIONS + 1):
            self._project.migration(
                f"{number:03}",
                "step",
                up=f"CREATE TABLE step_{number} (id int); SELECT pg_sleep(0.02)",
                down=f"SELECT pg_sleep(0.02); DROP TABLE step_{number}",
            )
        self._took = {what: self._run(*self._words(what)) for what in ("up", "down", "deliver")}

    def strike(self) -> None:
        """Start a command and kill it before it ends."""
        while True:
            what = self._choose()
            leave = {"CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0"} if self._chance.random() < 0.5 else {}
            process = self._project.spawn(*self._words(what), env={**self._env, **leave})
            self._wait(process, what)
            process.kill()
            process.communicate(timeout=60)
            if process.returncode == -9:
                self.toll.kills[what] += 1
                return

    def _wait(self, process: subprocess.Popen[str], what: str) -> None:
        """Until it has done some of its work, and a random instant longer.

        By what it has done, not by the clock: how fast this machine is changes all the time.
        """
        progress = self._answered if what == "deliver" else self._committed
        with psycopg.connect(self._project.database_url, autocommit=True) as watch:
            self._watch = watch
            steps = self._chance.randint(0, STEPS)
            goal = progress() + steps
            until = time.monotonic() + self._chance.uniform(0.2, 1.0) * self._took[what]
            while progress() < goal:
                if process.poll() is not None:
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
        """Run commands in peace until everything is told, and count."""
        until = time.monotonic() + 10 * LEASE_S
        self._run("migrate", "up")
        while not self._is_drained() and time.monotonic() < until:
            self._run("webhooks", "deliver")
            time.sleep(1)
        self._count()
        return self.toll

    def _choose(self) -> str:
        if self._chance.random() < 0.25:
            return "deliver"
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

    def _count(self) -> None:
        """Compare what the ledger did with what the receiver accepted."""
        told = self._accepted()
        with psycopg.connect(self._project.database_url) as connection:
            history = connection.execute("SELECT did, version FROM siege.history").fetchall()
        committed = Counter((_COMMITTED[did], version) for did, version in history)
        heard = Counter(kind for kind in told.values() if not kind[0].endswith("error"))
        status, toll = self._status(), self.toll
        toll.events = len(told)
        for kind in committed.keys() | heard.keys():
            missing = committed[kind] - heard[kind]
            toll.lost += max(0, missing)
            toll.invented += max(0, -missing)
            if missing:
                toll.details.append(f"{kind}: {committed[kind]} happened, {heard[kind]} were told")
        waiting = {name: count for name, count in status["counts"].items() if name != "delivered"}
        left = sum(waiting.values()) + status["unsettled"]
        toll.lost += left
        if left:
            toll.details.append(f"left: {waiting}, unsettled {status['unsettled']}")

    def _accepted(self) -> Mapping[str, tuple[str, str]]:
        """Event type and version by webhook-id; two bodies of one id are an invention."""
        bodies: defaultdict[str, list[bytes]] = defaultdict(list)
        told: dict[str, tuple[str, str]] = {}
        for request in self._receiver.requests:
            if request.answer.is_success:
                event_id = request.headers["webhook-id"]
                payload: Any = request.payload
                bodies[event_id].append(request.body)
                told[event_id] = (payload["event_type"], payload["migration"]["version"])
        for event_id, received in bodies.items():
            self.toll.duplicated += len(received) - 1
            if len(set(received)) > 1:
                self.toll.invented += 1
                self.toll.details.append(f"{event_id} came with {len(set(received))} bodies")
        return told


def besiege(siege: Siege, kills: int) -> Toll:
    """Kill *kills* processes, then count."""
    siege.prepare()
    for number in range(kills):
        siege.strike()
        if number % 50 == 49:
            print(f"{number + 1} kills", file=sys.stderr, flush=True)
    return siege.drain()


def is_available(outbox: str) -> bool:
    """Whether this version has the outbox."""
    from confiture_webhooks.config import Settings
    from confiture_webhooks.errors import ConfigError
    from confiture_webhooks.wiring import settings_from

    try:
        settings = settings_from({"CONFITURE_WEBHOOK_OUTBOX": outbox}, None)
    except ConfigError:
        return False
    return isinstance(settings, Settings)


def main() -> int:
    """The siege as a command."""
    from confiture_webhooks.postgres import LocalPostgres
    from confiture_webhooks.receiver import LocalReceiver

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--outbox", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    chosen = parser.parse_args()
    if not is_available(chosen.outbox):
        print(f"the {chosen.outbox} outbox is not part of this version", file=sys.stderr)
        return 2
    print(f"seed {chosen.seed}", file=sys.stderr)
    with ExitStack() as stack:
        server = stack.enter_context(LocalPostgres())
        answers = list(islice(cycle(ANSWERS), 100 * chosen.kills))
        receiver = stack.enter_context(LocalReceiver(answers=answers))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        project = Project(directory / "project", server.dsn())
        stack.callback(project.close)
        siege = Siege(project, receiver, outbox=chosen.outbox, seed=chosen.seed)
        toll = besiege(siege, chosen.kills)
    for line in (*toll.details, str(toll)):
        print(line)
    return 1 if toll.lost or toll.invented else 0


if __name__ == "__main__":
    sys.exit(main())
