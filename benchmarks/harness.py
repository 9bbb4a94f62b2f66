"""What every benchmark shares: a project on a local PostgreSQL, paired runs, ratios with spread."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import yaml

CONFITURE = Path(sys.executable).with_name("confiture")
REPETITIONS = 6


@dataclass(frozen=True)
class Comparison:
    """Paired measurements of ours and the alternative, in the same unit."""

    name: str
    unit: str
    ours: Sequence[float]
    alternative: Sequence[float]
    target: str

    @property
    def ratio(self) -> float:
        """The median of the pairwise ratios ours / alternative."""
        return statistics.median(a / b for a, b in zip(self.ours, self.alternative, strict=True))

    @property
    def difference(self) -> float:
        """The median of ours less the median of the alternative."""
        return statistics.median(self.ours) - statistics.median(self.alternative)

    def line(self) -> str:
        """One line for people: medians, ratio with its spread, difference, target."""
        ratios = sorted(a / b for a, b in zip(self.ours, self.alternative, strict=True))
        return (
            f"{self.name}: {statistics.median(self.ours):.4g} against "
            f"{statistics.median(self.alternative):.4g} {self.unit}; ratio {self.ratio:.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}, n={len(ratios)}), "
            f"difference {self.difference:+.4g} {self.unit}; target: {self.target}"
        )


def paired(
    name: str,
    ours: Callable[[], float],
    alternative: Callable[[], float],
    *,
    rounds: int,
    unit: str,
    target: str,
) -> Comparison:
    """Measure both in turn, *rounds* times after one warm-up each, changing who goes first."""
    ours(), alternative()
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second = alternative()
            pairs.append((ours(), second))
        else:
            pairs.append((ours(), alternative()))
    return Comparison(name, unit, [a for a, _ in pairs], [b for _, b in pairs], target)


def undisturbed(measure: Callable[[], float]) -> float:
    """What *measure* returns; measured again, a few times, where the machine was not all ours.

    A virtual machine's host gives its processors to others, too: "steal" in ``/proc/stat``, see
    proc(5). More than 1 % of it spoils a measurement; the last repetition counts in any case.
    """
    for left in reversed(range(REPETITIONS)):
        started, stolen_s = time.perf_counter(), _stolen_s()
        found = measure()
        took_s = (time.perf_counter() - started) * (os.cpu_count() or 1)
        if not left or _stolen_s() - stolen_s <= took_s / 100:
            break
    return found


def _stolen_s() -> float:
    """Seconds of processor time that others were given since the machine started."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def timed(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """Seconds a whole process takes; it must succeed."""
    started = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=environment(env), check=True, capture_output=True)
    return time.perf_counter() - started


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would configure the commands measured."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "CONFITURE_", "TRACE"))
    }
    return {**kept, **(extra or {})}


def peak_memory(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """The largest resident size of a whole process in MiB; it must succeed."""
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return usage.ru_maxrss / 1024


class Bench:
    """A project directory and a server on which each run gets a database of its own."""

    def __init__(self, path: Path, dsn: Callable[[str], str]) -> None:
        self.path = path
        self._dsn = dsn
        self._count = 0
        (path / "db" / "migrations").mkdir(parents=True)
        (path / "db" / "environments").mkdir(parents=True)

    def migrations(self, count: int, sql: Callable[[int], str]) -> None:
        """Write *count* SQL migrations."""
        for number in range(1, count + 1):
            stem = self.path / "db" / "migrations" / f"{number:05d}_m{number}"
            stem.with_name(stem.name + ".up.sql").write_text(sql(number))
            stem.with_name(stem.name + ".down.sql").write_text("SELECT 1;")

    def fresh_database(self) -> str:
        """A new empty database, which the project's environment file then names; its DSN."""
        self._count += 1
        name = f"bench_{self._count}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        dsn = self._dsn(name)
        file = self.path / "db" / "environments" / "local.yaml"
        file.write_text(yaml.safe_dump({"database_url": dsn}))
        return dsn

    def up(self, env: Mapping[str, str]) -> float:
        """Seconds of a whole ``confiture migrate up`` on a fresh database."""
        self.fresh_database()
        return timed([str(CONFITURE), "migrate", "up"], self.path, env)


@contextmanager
def bench(settings: Mapping[str, str] | None = None) -> Iterator[Bench]:
    """A project on a PostgreSQL from the wheel, with these server settings; gone afterwards."""
    from confiture_webhooks.local_postgres import LocalPostgres

    with tempfile.TemporaryDirectory() as directory, LocalPostgres(settings=settings) as server:
        yield Bench(Path(directory), server.dsn)
