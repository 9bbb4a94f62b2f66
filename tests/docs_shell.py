"""Runs the code of the documentation in a real project, as a reader would who follows it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import yaml

from pages import ROOT, Block
from project import Project

NOT_CODE = {"text", "mermaid", "promql", "logsql"}
"""Output and diagrams; and queries, which the test of the stack runs."""
ENDLESS = ("listen", "--watch")
EXIT = re.compile(r"#.*\bexit (\d+)")
VARIABLE = re.compile(r"\$\{(\w+)\}")
PLACEHOLDER = re.compile(r"…$")


KNOWN = {"export", "confiture", "make", "pip", "docker", "cd", "mkdir", "git", "unset"}


def unknown(words: Sequence[str]) -> list[str]:
    """What a command that is not run here names and the project does not have."""
    match words:
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            known = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
            return [target for target in targets if "=" not in target and target not in known]
        case ["pip", "install", *requirements]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
            extras = project["project"]["optional-dependencies"]
            given = re.findall(r"confiture-webhooks\[([^\]]+)\]", " ".join(requirements))
            return [e for extra in given for e in extra.split(",") if e not in extras]
        case ["docker", "compose", *arguments]:
            files = re.findall(r"-f (\S+)", " ".join(arguments))
            return [file for file in files if not (ROOT / file).is_file()]
    return []


class Reader:
    """Somebody who does what a page says, block by block, in one project."""

    def __init__(self, project: Project, receiver_url: str, collector_url: str) -> None:
        self.project = project
        self.receiver_url = receiver_url.rstrip("/")
        self.collector_url = collector_url
        self.environ: dict[str, str] = {}
        self.is_reported = False
        self.has_block = False
        project.environment_file("production")
        project.migration(
            "001", "create_users", up="CREATE TABLE users (id int)", down="DROP TABLE users"
        )

    def do(self, block: Block) -> None:
        """Run *block*; AssertionError says what went wrong."""
        if block.why_not_run or block.language in NOT_CODE:
            return
        how = self._how().get(block.language)
        assert how is not None, f"{block}: nothing runs a block of {block.language!r}"
        how(block)

    def _how(self) -> dict[str, Callable[[Block], None]]:
        return {
            "console": self._console,
            "bash": self._console,
            "sh": self._console,
            "python": self._python,
            "yaml": self._yaml,
            "sql": self._sql,
            "json": lambda block: json.loads(block.text),
            "toml": lambda block: tomllib.loads(block.text) and None,
        }

    def _console(self, block: Block) -> None:
        lines = block.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            words = shlex.split(line, comments=True)
            if words:
                self._command(block, line, words)

    def _command(self, block: Block, line: str, words: list[str]) -> None:
        while words and re.fullmatch(r"\w+=.*", words[0]):
            self._export(words.pop(0))
        if not words:
            return
        assert words[0] in KNOWN, f"{block}: nothing runs {words[0]!r}"
        match words:
            case ["export", *assignments]:
                for assignment in assignments:
                    self._export(assignment)
            case ["confiture", *arguments]:
                self._confiture(block, line, arguments)
            case _:
                missing = unknown(words)
                assert not missing, f"{block}: there is no {', '.join(missing)}"

    def _export(self, assignment: str) -> None:
        name, _, value = assignment.partition("=")
        self.environ[name] = self._local(name, value)

    def _local(self, name: str, value: str) -> str:
        """*value* with what is elsewhere replaced by what is here."""
        if name.startswith("OTEL_") and "://" in value:
            return self.collector_url
        if "postgresql://" in value:
            return value.replace(
                value[value.index("postgresql://") :].split(maxsplit=1)[0],
                self.project.database_url,
            )
        if value.startswith(("http://", "https://")):
            path = urlsplit(value).path.replace("…", "x")
            return f"{self.receiver_url}{path or '/'}"
        return PLACEHOLDER.sub("a-secret", value)

    def _confiture(self, block: Block, line: str, arguments: list[str]) -> None:
        arguments = [self._argument(argument) for argument in arguments]
        if "--port" in arguments:
            arguments[arguments.index("--port") + 1] = "0"  # another may have the page's
        if "--role" in arguments:  # the page's is not here
            here = urlsplit(self.project.database_url).username or ""
            arguments[arguments.index("--role") + 1] = here
        expected = EXIT.search(line)
        if arguments == ["webhooks", "demo"]:
            return  # has acceptance tests of its own, and takes long
        if any(word in arguments for word in ENDLESS):
            self._endless(block, arguments)
            return
        if arguments[:1] == ["migrate"] and arguments[1:2] in (["up"], ["down"]):
            self.is_reported = True
        done = self.project.confiture(*arguments, env=self._with_endpoint(), stdin="y\n")
        wanted = int(expected[1]) if expected else 0
        assert done.returncode == wanted, (
            f"{block}: {shlex.join(arguments)} ended with {done.returncode}:\n"
            f"{done.stdout}{done.stderr}"
        )

    def _argument(self, word: str) -> str:
        if "postgresql://" in word:
            return self.project.database_url
        if word == "ID":
            return self._an_id()
        return word

    def _an_id(self) -> str:
        if not self.is_reported:
            self._confiture_up()
        done = self.project.confiture(
            "webhooks", "list", "--format", "json", env=self._with_endpoint()
        )
        identifier: str = json.loads(done.stdout)["deliveries"][0]["id"]
        return identifier

    def _confiture_up(self) -> None:
        self.project.confiture("migrate", "up", env=self._with_endpoint())
        self.is_reported = True

    def _with_endpoint(self) -> dict[str, str]:
        if self.has_block:
            return self.environ
        return {"CONFITURE_WEBHOOK_URL": f"{self.receiver_url}/hook", **self.environ}

    def _endless(self, block: Block, arguments: list[str]) -> None:
        """Start what goes on until Ctrl-C, and end it; a busy machine gets more time to start.

        A receiver takes a port that is free: the usual one may be somebody's.
        """
        if "listen" in arguments and "--port" not in arguments:
            arguments = [*arguments, "--port", "0"]
        for seconds in (0.3, 1, 3, 10, 30):
            process = self.project.spawn(*arguments, env=self._with_endpoint())
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=180)
            if process.returncode in (0, 130):
                return
        raise AssertionError(f"{block}: {process.returncode}\n{out}{err}")

    def _python(self, block: Block) -> None:
        name = block.title or "example.py"
        path = self.project.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        if path.parent.name == "confiture_hooks":
            address = {"CONFITURE_WEBHOOK_URL": f"{self.receiver_url}/hook"}
            done = self.project.confiture(
                "migrate", "up", "--force", env={**address, **self.environ}
            )
            assert done.returncode == 0, f"{block}:\n{done.stderr}"
            assert "hook.failed" not in done.stderr, f"{block}:\n{done.stderr}"
            path.unlink()
            return
        environ = self.project.environ(self._with_endpoint())
        run = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='docs')"
        done = subprocess.run(
            [sys.executable, "-c", run, name],
            cwd=self.project.path,
            env={**environ, "WEBHOOK_SECRET": "a-secret"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{block}:\n{done.stdout}{done.stderr}"

    def _sql(self, block: Block) -> None:
        """Ask the project's outbox, which a run has filled."""
        if not self.is_reported:
            self._confiture_up()
        if self.environ.get("CONFITURE_WEBHOOK_OUTBOX") == "postgres":
            with psycopg.connect(self.project.database_url) as connection:
                connection.execute(block.text)
            return
        with closing(sqlite3.connect(self.project.path / ".confiture/webhooks.db")) as outbox:
            made = block.text.replace("'webhooks-backup.db'", f"'{self.project.path / 'copy.db'}'")
            outbox.executescript(made) if "INTO" in made else outbox.execute(made).fetchall()

    def _yaml(self, block: Block) -> None:
        document: Any = yaml.safe_load(block.text)
        if not isinstance(document, dict) or "webhooks" not in document:
            assert document is not None, f"{block}: empty"
            return
        name = Path(block.title).name if block.title else "local.yaml"
        content = {**document, "database_url": self.project.database_url}
        path = self.project.environments / name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        address = f"{self.receiver_url}/hook"
        given = {
            name: address if re.search("URL|WEBHOOK|ANALYTICS|SLACK", name) else "a-secret"
            for name in VARIABLE.findall(block.text)
            if name not in self.environ
        }
        given |= {name: "a-secret" for name in given if "SECRET" in name}
        given |= {name: "0123456789abcdef" * 2 for name in given if name.endswith("ROUTING_KEY")}
        self.environ |= given
        self.has_block = True
        done = self.project.confiture(
            "webhooks", "check", "--config", f"db/environments/{name}", env=self.environ
        )
        assert done.returncode == 0, f"{block}:\n{done.stdout}{done.stderr}"
