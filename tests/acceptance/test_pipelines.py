"""The pipelines of the recipes and the deployments of the examples do what their pages promise."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from pages import ROOT, blocks
from project import CONFITURE

EXAMPLES = ROOT / "examples"
SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
PIP = """#!/bin/sh
echo "$*" >> "$PIP_LOG"
"""


def block(title: str) -> str:
    """The block of the recipes called *title*."""
    (found,) = [one.text for one in blocks(ROOT / "docs" / "recipes.md") if one.title == title]
    return found


@pytest.fixture
def shop(project: Any, collector: Any, tmp_path: Path) -> Iterator[Any]:
    """A project with one migration, and a pipeline's machine on which pip installs nothing."""
    project.migration(
        "001", "create_users", up="CREATE TABLE users (id int)", down="DROP TABLE users"
    )
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin" / "pip"
    pip.write_text(PIP)
    pip.chmod(0o755)
    project.machine = {
        "PATH": f"{pip.parent}:{CONFITURE.parent}:{os.environ['PATH']}",
        "PIP_LOG": str(tmp_path / "pip.log"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    yield project
    assert "confiture-webhooks[otlp]" in (tmp_path / "pip.log").read_text()


def shell(project: Any, lines: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run *lines* as a runner does: one shell that stops at the first command that fails."""
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", lines],
        cwd=project.path,
        env=project.environ({**project.machine, **env}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_github_actions_reports_to_slack(shop: Any, receiver: Any, tmp_path: Path) -> None:
    """By variables alone: a chat message that links the run, in the trace of the job."""
    given = {
        "secrets.DATABASE_URL": shop.database_url,
        "secrets.SLACK_WEBHOOK_URL": receiver.url,
        "vars.OTLP_ENDPOINT": shop.machine["OTEL_EXPORTER_OTLP_ENDPOINT"],
        "secrets.OTLP_HEADERS": "api-key=k",
    }
    job = yaml.safe_load(block(".github/workflows/migrate.yml"))["jobs"]["migrate"]
    env = {
        name: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: given[found[1]], value)
        for name, value in job["env"].items()
    }
    for_later = tmp_path / "github_env"
    for_later.touch()
    env |= {
        "GITHUB_ACTIONS": "true",
        "GITHUB_ENV": str(for_later),
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "shop/shop",
        "GITHUB_RUN_ID": "4711",
    }
    for step in job["steps"]:
        if "run" in step:
            done = shell(shop, step["run"], env)
            assert done.returncode == 0, f"{step['run']}:\n{done.stdout}{done.stderr}"
            env |= dict(line.split("=", 1) for line in for_later.read_text().splitlines())
    (request,) = receiver.requests
    assert "001_create_users" in request.body.decode()
    assert request.headers["X-Correlation-ID"] == env["TRACEPARENT"].split("-")[1]


def test_gitlab_reads_the_endpoints_from_the_environments_file(shop: Any, receiver: Any) -> None:
    """The DSN from a variable, the endpoints from db/environments/production.yaml."""
    (shop.environments / "production.yaml").write_text(block("db/environments/production.yaml"))
    job = yaml.safe_load(block(".gitlab-ci.yml"))["migrate"]
    masked = {
        "CONFITURE_DATABASE_URL": shop.database_url,
        "WEBHOOK_ANALYTICS": receiver.url,
        "WEBHOOK_SECRET": SECRET,
    }
    done = shell(shop, "\n".join(job["script"]), {**job["variables"], **masked})
    assert done.returncode == 0, done.stdout + done.stderr
    (request,) = receiver.requests
    assert request.headers["X-Environment"] == "production"
    assert request.payload["migration"]["name"] == "001_create_users"


def containers(name: str) -> dict[str, Any]:
    """The one container of a manifest."""
    document = yaml.safe_load((EXAMPLES / "kubernetes" / name).read_text())["spec"]
    pod = document.get("jobTemplate", {}).get("spec", document)["template"]["spec"]
    (container,) = pod["containers"]
    return dict(container)


def variables(container: dict[str, Any], secrets: dict[str, str]) -> dict[str, str]:
    """The variables of *container*, with what its secrets hold."""
    found = {}
    for one in container["env"]:
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        key = f"{reference['name']}/{reference['key']}" if reference else one["name"]
        found[one["name"]] = secrets.get(key, one.get("value", ""))
    return found


def test_a_job_and_its_workers_fit_together(project: Any, receiver: Any, collector: Any) -> None:
    """What the Job of the examples could not send, the worker beside it sends."""
    project.migration(
        "001", "create_users", up="CREATE TABLE users (id int)", down="DROP TABLE users"
    )
    secrets = {
        "shop-database/url": project.database_url,
        "confiture-webhooks/url": receiver.url,
        "confiture-webhooks/secret": SECRET,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    job, worker = containers("job.yaml"), containers("cronjob.yaml")
    watching = containers("deployment.yaml")
    assert worker["env"] == watching["env"]
    assert worker["image"] == watching["image"] == job["image"]
    assert [*worker["command"], "--watch"] == watching["command"]
    away = {"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:9/", "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "1"}
    done = project.confiture(*job["command"][1:], env={**variables(job, secrets), **away})
    assert done.returncode == 0, done.stderr
    assert not (project.path / ".confiture").exists()
    for _ in range(60):  # a CronJob's passes
        sent = project.confiture(*worker["command"][1:], env=variables(worker, secrets))
        assert sent.returncode == 0, sent.stderr
        if receiver.requests:
            break
        time.sleep(1)
    (request,) = receiver.requests
    assert request.headers["X-Environment"] == "production"
    assert "webhook-signature" in request.headers
    with psycopg.connect(project.database_url) as connection:
        connection.execute("SELECT * FROM users")


def test_the_unit_runs_its_worker(project: Any, receiver: Any, tmp_path: Path) -> None:
    """The command line of the systemd service sends what a run left, and ends on SIGTERM with 0."""
    project.environment_file("production")
    project.migration(
        "001", "create_users", up="CREATE TABLE users (id int)", down="DROP TABLE users"
    )
    text = (EXAMPLES / "systemd" / "confiture-webhooks.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    _, *words = shlex.split(command)
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_SECRET": SECRET,
        **dict(re.findall(r"^Environment=(\w+)=(.+)$", text, re.MULTILINE)),
    }
    config = words[words.index("--config") + 1]
    left = {**env, "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "1"}
    receiver.script("/", [500])
    assert project.confiture("migrate", "up", "--config", config, env=left).returncode == 0
    worker = project.spawn(*words, env=env)
    receiver.wait_for(2, timeout=60)
    worker.terminate()
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 0, err
