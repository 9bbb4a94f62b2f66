"""A Confiture project in a temporary directory, and the real ``confiture`` command run in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

import forked

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFITURE = forked.CONFITURE


class Project:
    """Migrations, environment files, and commands that see nothing of this machine's settings."""

    def __init__(self, path: Path, database_url: str) -> None:
        self.path = path
        self.database_url = database_url
        self.home = path.with_name(path.name + "-home")
        self.migrations = path / "db" / "migrations"
        self.environments = path / "db" / "environments"
        self._spawned: list[subprocess.Popen[str]] = []
        for directory in (self.home, self.migrations, self.environments):
            directory.mkdir(parents=True)
        self.environment_file()

    def environment_file(
        self,
        name: str = "local",
        webhooks: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Path:
        """Write ``db/environments/<name>.yaml``; ``local`` is the one a command takes by itself."""
        content: dict[str, Any] = {"database_url": self.database_url, **settings}
        if webhooks is not None:
            content["webhooks"] = dict(webhooks)
        path = self.environments / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def migration(self, version: str, name: str, up: str, down: str | None = None) -> Path:
        """Write a SQL migration, without a way down if none is given; return the up file."""
        path = self.migrations / f"{version}_{name}.up.sql"
        path.write_text(up, encoding="utf-8")
        if down is not None:
            path.with_name(f"{version}_{name}.down.sql").write_text(down, encoding="utf-8")
        return path

    def python_migration(self, version: str, name: str, source: str) -> Path:
        """Write a Python migration module."""
        path = self.migrations / f"{version}_{name}.py"
        path.write_text(source, encoding="utf-8")
        return path

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what a command's environment is: this, and nothing inherited but PATH."""
        # Coverage follows the subprocess through variables of its own.
        measured = {name: value for name, value in os.environ.items() if "COVERAGE" in name}
        fixed = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            **forked.FIXED,
        }
        return {**fixed, **measured, **(extra or {})}

    def confiture(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run ``confiture`` to its end; the exit code is the caller's to judge."""
        return forked.run(
            [*arguments], timeout=timeout, stdin=stdin, cwd=self.path, env=self.environ(env)
        )

    def spawn(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[str] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start ``confiture`` in a session of its own; it is killed when the test ends."""
        process = forked.popen(
            [*arguments],
            cwd=self.path,
            env=self.environ(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._spawned.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._spawned:
            process.kill()
            process.communicate(timeout=10)
