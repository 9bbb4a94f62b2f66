"""The examples of deployments parse, and say what a worker needs."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_group

from confiture_webhooks.cli import app
from confiture_webhooks.endpoint import DEFAULT_TIMEOUT

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
UNIT = EXAMPLES / "systemd" / "confiture-webhooks.service"
GRACE_S = DEFAULT_TIMEOUT.total_seconds() + 5
"""An attempt, what follows it, and two seconds of telemetry."""


def parsed(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / "kubernetes" / name).read_text())
    return document


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def check_command(words: list[str], *, is_watching: bool, config: str | None = None) -> None:
    """*words* are a ``confiture webhooks deliver`` that this version takes."""
    assert words[:2] == ["confiture", "webhooks"]
    command = get_group(app).commands[words[2]]
    context = command.make_context("deliver", words[3:], resilient_parsing=False)
    assert context.params["watch"] is is_watching
    assert context.params["config"] == (Path(config) if config else None)


def check_pod(pod: dict[str, Any]) -> None:
    """It ends in time, runs without rights, keeps the outbox elsewhere and has its secrets."""
    assert pod["terminationGracePeriodSeconds"] >= GRACE_S
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    env = {one["name"]: one for one in container["env"]}
    assert env["CONFITURE_WEBHOOK_OUTBOX"]["value"] == "postgres"
    assert env["CONFITURE_ENVIRONMENT"]["value"] == "production"
    for name in ("CONFITURE_DATABASE_URL", "CONFITURE_WEBHOOK_URL", "CONFITURE_WEBHOOK_SECRET"):
        assert set(env[name]["valueFrom"]["secretKeyRef"]) == {"name", "key"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert set(container["resources"]) == {"requests", "limits"}


def test_the_unit_says_what_a_worker_needs() -> None:
    """The service runs the watching worker, in the project, and lets it finish on SIGTERM."""
    service = unit()["Service"]
    path, *words = service["ExecStart"].split()
    assert path.startswith(service["WorkingDirectory"])
    file = "db/environments/production.yaml"
    check_command([Path(path).name, *words], is_watching=True, config=file)
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["TimeoutStopSec"]) >= GRACE_S
    assert service["ReadWritePaths"] == f"{service['WorkingDirectory']}/.confiture"
    assert service["RestartPreventExitStatus"].split() == ["2", "5"]
    assert unit()["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd finds nothing wrong with it, once its command is one that exists here."""
    path, _, _ = unit()["Service"]["ExecStart"].partition(" ")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(path, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_deployment_says_what_a_worker_needs() -> None:
    """The Deployment runs the watching worker and selects its own pods."""
    document = parsed("deployment.yaml")
    assert (document["apiVersion"], document["kind"]) == ("apps/v1", "Deployment")
    template = document["spec"]["template"]
    assert document["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    check_pod(template["spec"])
    check_command(template["spec"]["containers"][0]["command"], is_watching=True)


def test_the_cron_job_says_what_a_pass_needs() -> None:
    """The CronJob makes one pass at a time, and leaves trying again to the schedule."""
    document = parsed("cronjob.yaml")
    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "CronJob")
    spec, job = document["spec"], document["spec"]["jobTemplate"]["spec"]
    assert len(spec["schedule"].split()) == 5
    assert spec["concurrencyPolicy"] == "Forbid"
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    check_pod(job["template"]["spec"])
    check_command(job["template"]["spec"]["containers"][0]["command"], is_watching=False)


def test_the_job_migrates_once() -> None:
    """The Job runs the migrations, is not repeated by itself, and has what its worker has."""
    document = parsed("job.yaml")
    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "Job")
    template = document["spec"]["template"]
    assert document["spec"]["backoffLimit"] == 0
    check_pod(template["spec"])
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["confiture", "migrate", "up"]
    assert container["env"] == worker_env()


def worker_env() -> list[dict[str, Any]]:
    (container,) = parsed("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return list(container["env"])
