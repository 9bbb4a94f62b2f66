"""Forty real migrations sent into the live stack, and what their receivers counted."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from confiture_webhooks.receiver import LocalReceiver, Received
from project import Project

ENVIRONMENT = "eu.prod"
QUICK = {"schedule": [0.2, 0.2], "jitter": 0}
CANARIES = {
    part: f"canary{part}{secrets.token_hex(8)}" for part in ("path", "query", "secret", "header")
}
ENDPOINTS = ("analytics", "flaky", "dead", "gone", "late")
TIMEOUT_S = 180
"""Of a command: ten at once on a busy machine take long."""


@dataclass
class Deliveries:
    """Deliveries as their receiver saw them: one per endpoint and event, with its answers."""

    answers: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    requests: list[Received] = field(default_factory=list)

    @classmethod
    def to(cls, receiver: LocalReceiver) -> Deliveries:
        """Everything *receiver* has had so far."""
        sent = cls(requests=list(receiver.requests))
        for request in sent.requests:
            key = (endpoint_of(request), request.headers["webhook-id"])
            sent.answers.setdefault(key, []).append(request.answer.status)
        return sent

    def outcomes(self) -> Counter[tuple[str, str]]:
        """How many deliveries of each endpoint ended how."""
        return Counter((endpoint, _end(answers)) for (endpoint, _), answers in self.answers.items())

    def failures(self) -> Counter[tuple[str, str]]:
        """How many attempts of each endpoint failed, by status."""
        return Counter(
            (endpoint, str(status))
            for (endpoint, _), answers in self.answers.items()
            for status in answers
            if status >= 300
        )

    def retries(self) -> Counter[str]:
        """How many attempts of each endpoint came after a first one."""
        counted = Counter[str]()
        for (endpoint, _), answers in self.answers.items():
            counted[endpoint] += len(answers) - 1
        return +counted

    def trace_ids(self) -> dict[str, str]:
        """Each event's trace id, by its webhook id."""
        return {
            request.headers["webhook-id"]: request.headers["X-Correlation-ID"]
            for request in self.requests
        }


def endpoint_of(request: Received) -> str:
    """Which endpoint a request was for: the last part of its path."""
    return request.path.partition("?")[0].rpartition("/")[2]


def _end(answers: list[int]) -> str:
    if answers[-1] < 300:
        return "delivered"
    return "gone" if answers[-1] == 410 else "dead_letter"


class Scenario:
    """Projects on databases of their own that all send to one receiver and one collector."""

    def __init__(
        self,
        folder: Path,
        new_database: Callable[[], str],
        receiver: LocalReceiver,
        environment: dict[str, str],
    ) -> None:
        self._folder = folder
        self._new_database = new_database
        self.receiver = receiver
        self.environment = environment
        self.password = "no password"
        self._lock = threading.Lock()
        self.started_at = time.time()
        self.runs = 0
        self.applied = 0
        self.failed = 0
        self.deferred = 0
        self.early_series: set[str] = set()
        self.databases: dict[Path, str] = {}
        self.plain: Project
        self.dead: Project
        self.gone: Project
        self.outputs: list[subprocess.CompletedProcess[str]] = []

    def project(self, *endpoints: str, retry: Any = QUICK, **settings: Any) -> Project:
        """A new project on a new database that sends to *endpoints*."""
        folder = self._folder / f"project{len(list(self._folder.iterdir()))}"
        url = self._new_database()
        self.password = urlsplit(url).password or self.password
        project = Project(folder, url)
        self.databases[project.path] = urlsplit(url).path.strip("/")
        block = {"endpoints": [self._endpoint(name, retry) for name in endpoints], **settings}
        project.environment_file(ENVIRONMENT, block)
        return project

    def database_of(self, project: Project) -> str:
        """The name of *project*'s database."""
        return self.databases[project.path]

    def run(self, project: Project, sql: str | None = None, **environment: str) -> None:
        """One more migration, applied by the real command."""
        version = f"{len(list(project.migrations.glob('*.up.sql'))) + 1:03}"
        table = f"step_{version}"
        up = sql or f"CREATE TABLE {table} (id int)"
        project.migration(version, "step", up=up, down=f"DROP TABLE {table}")
        config = f"db/environments/{ENVIRONMENT}.yaml"
        env = {**self.environment, **environment}
        done = project.confiture("migrate", "up", "--config", config, env=env, timeout=TIMEOUT_S)
        assert (done.returncode == 0) is (sql is None), done.stderr
        with self._lock:
            self.outputs.append(done)
            self.runs += 1
            self.applied += sql is None
            self.failed += sql is not None

    def deliver(self, project: Project) -> None:
        """Deliver what *project* has left over, by the operator's command."""
        self.webhooks(project, "deliver")

    def webhooks(self, project: Project, *command: str) -> None:
        """An operator's command in *project*, which succeeds."""
        config = f"db/environments/{ENVIRONMENT}.yaml"
        done = project.confiture("webhooks", *command, "--config", config, env=self.environment)
        assert done.returncode == 0, done.stderr

    def run_at_once(self, projects: list[Project]) -> None:
        """One migration in each of *projects*, all at the same time."""
        with ThreadPoolExecutor(len(projects)) as pool:
            list(pool.map(self.run, projects))

    def script(self, endpoint: str, *answers: int) -> None:
        """What *endpoint* answers next; 200 when that is used up."""
        self.receiver.script(self._path(endpoint), answers)

    def _path(self, endpoint: str) -> str:
        return f"/{CANARIES['path']}/{endpoint}"

    def _endpoint(self, name: str, retry: Any) -> dict[str, Any]:
        return {
            "name": name,
            "url": f"{self.receiver.url}{self._path(name)}?token={CANARIES['query']}",
            "secret": CANARIES["secret"],
            "headers": {"X-Api-Key": CANARIES["header"]},
            "retry": retry,
        }


def version_of_the_plugin(folder: Path, version: str) -> dict[str, str]:
    """The environment in which the installed plugin says that it is of another *version*."""
    info = folder / f"confiture_webhooks-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: confiture-webhooks\nVersion: {version}\n"
    )
    installed = metadata.distribution("confiture-webhooks").read_text("entry_points.txt")
    (info / "entry_points.txt").write_text(installed or "")
    return {"PYTHONPATH": str(folder)}


def until(
    question: Callable[[], Any], is_enough: Callable[[Any], bool], within_s: float, what: str
) -> Any:
    """The answer to *question* once it is enough; AssertionError with the last one after *within_s*."""
    deadline = time.monotonic() + within_s
    while True:
        answer = question()
        if is_enough(answer):
            return answer
        assert time.monotonic() < deadline, f"{what}: {answer!r}"
        time.sleep(1)
