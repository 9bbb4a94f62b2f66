"""What ``confiture webhooks check`` warns of: settings that are there, and of no effect."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from project import Project

if TYPE_CHECKING:
    from pathlib import Path

DSN = "postgresql://nobody@127.0.0.1:1/nothing"
URL = "http://127.0.0.1:9/hook"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose usual file has an endpoint."""
    made = Project(tmp_path / "project", DSN)
    made.environment_file(webhooks={"endpoints": [{"name": "filed", "url": URL}]})
    return made


@pytest.mark.parametrize("command", [("check",), ("deliver",), ("test",)])
def test_a_block_that_is_not_read_is_named(project: Project, command: tuple[str, ...]) -> None:
    """Where nothing else is configured, the refusal names the variable and the file."""
    done = project.confiture("webhooks", *command, env={"CONFITURE_DATABASE_URL": DSN})
    assert done.returncode == 5
    assert "CONFITURE_DATABASE_URL: is set, so Confiture reads no environment file" in done.stderr
    assert "db/environments/local.yaml is not used" in done.stderr


READING = [("status",), ("list",), ("show", "evt_1"), ("redeliver", "evt_1")]


@pytest.mark.parametrize("words", READING)
def test_a_command_that_does_not_know_the_outbox_fails(
    project: Project, words: tuple[str, ...]
) -> None:
    """The block that may name the outbox is not read: exit 5, never an empty outbox."""
    env = {"CONFITURE_DATABASE_URL": DSN}
    done = project.confiture("webhooks", *words, env=env)
    assert (done.returncode, done.stdout) == (5, "")
    assert "db/environments/local.yaml is not used" in done.stderr
    done = project.confiture("webhooks", *words, "--format", "json", env=env)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (5, False)


def test_a_command_that_knows_the_outbox_warns_of_it(project: Project) -> None:
    """Where a variable names the outbox, list reads it, and names the block that is not read."""
    env = {"CONFITURE_DATABASE_URL": DSN, "CONFITURE_WEBHOOK_OUTBOX": "sqlite"}
    done = project.confiture("webhooks", "list", env=env)
    assert done.returncode == 0
    assert "db/environments/local.yaml is not used" in done.stderr


@pytest.mark.parametrize("words", [*READING, ("deliver",), ("check",), ("test",)])
def test_without_the_usual_file_the_others_are_named(
    project: Project, words: tuple[str, ...]
) -> None:
    """The remedy is the same command with a file that exists."""
    usual = project.environments / "local.yaml"
    usual.rename(project.environments / "staging.yaml")
    project.environment_file("production", webhooks={"endpoints": []})
    done = project.confiture("webhooks", *words, env={"CONFITURE_ENVIRONMENT": "production"})
    assert done.returncode == 5
    assert "db/environments/local.yaml: does not exist" in done.stderr
    shown = " ".join((*words, *(["--yes"] if words[0] == "redeliver" else [])))  # no terminal
    named = f"confiture webhooks {shown} --config db/environments/production.yaml"
    assert f"Name the file: `{named}` (or staging.yaml)" in done.stderr
    assert "CONFITURE_ENVIRONMENT" not in done.stderr
    (project.environments / "staging.yaml").unlink()
    alone = project.confiture("webhooks", *words, env={"CONFITURE_ENVIRONMENT": "production"})
    assert f"`{named}`" in alone.stderr
    assert "(or" not in alone.stderr


@pytest.mark.parametrize("words", [("status",), ("list",), ("show", "evt_1"), ("deliver",)])
def test_a_file_that_names_no_database_is_named(project: Project, words: tuple[str, ...]) -> None:
    """The outbox is in the migrated database, which only the missing variable names."""
    (project.environments / "production.yaml").write_text(
        f"webhooks: {{outbox: postgres, endpoints: [{{name: a, url: '{URL}'}}]}}\n",
        encoding="utf-8",
    )
    named = ("--config", "db/environments/production.yaml")
    done = project.confiture("webhooks", *words, *named)
    assert done.returncode == 5
    assert "db/environments/production.yaml: names no database" in done.stderr
    assert "Set CONFITURE_DATABASE_URL" in done.stderr
    done = project.confiture("webhooks", *words, *named, env={"CONFITURE_DATABASE_URL": DSN})
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr


def test_check_warns_of_it(project: Project) -> None:
    """With an endpoint from a variable too, the check holds, and names the block that is left out."""
    env = {"CONFITURE_DATABASE_URL": DSN, "CONFITURE_WEBHOOK_URL": URL}
    done = project.confiture("webhooks", "check", env=env)
    assert done.returncode == 0, done.stderr
    assert "`webhooks:` block of db/environments/local.yaml is not used" in done.stdout
    done = project.confiture("webhooks", "check", "--format", "json", env=env)
    (warning,) = json.loads(done.stdout)["warnings"]
    assert warning.startswith("CONFITURE_DATABASE_URL: is set")


def test_the_doctor_warns_of_it(project: Project) -> None:
    """The doctor has a line of its own for it."""
    env = {"CONFITURE_DATABASE_URL": DSN, "CONFITURE_WEBHOOK_URL": URL}
    done = project.confiture("webhooks", "doctor", "--format", "json", env=env)
    rows = {row["check"]: row for row in json.loads(done.stdout)["checks"]}
    assert rows["environment file"]["status"] == "warning"


def test_nothing_is_said_of_a_file_that_is_read(project: Project) -> None:
    """Without the variable there is no warning; with the file named, only of the two databases."""
    done = project.confiture("webhooks", "check", "--format", "json")
    assert json.loads(done.stdout)["warnings"] == []
    named = ("--config", "db/environments/local.yaml")
    env = {"CONFITURE_DATABASE_URL": DSN}
    done = project.confiture("webhooks", "check", *named, "--format", "json", env=env)
    (warning,) = json.loads(done.stdout)["warnings"]
    assert "`confiture migrate up` refuses the two" in warning


def test_two_databases_are_named_and_one_is_used(project: Project) -> None:
    """Confiture refuses --config beside the variable: the doctor says so, commands say which is used."""
    named, env = ("--config", "db/environments/local.yaml"), {"CONFITURE_DATABASE_URL": DSN}
    refused = project.confiture("migrate", "up", *named, env=env)
    assert refused.returncode != 0
    assert "CONFITURE_DATABASE_URL are set" in " ".join((refused.stdout + refused.stderr).split())
    said = project.confiture("webhooks", "list", *named, env=env).stderr
    assert "Commands of webhooks use the database of db/environments/local.yaml" in said
    assert "Unset the variable, or leave --config out" in said
    assert project.confiture("webhooks", "list", *named).stderr == ""
    doctor = project.confiture("webhooks", "doctor", *named, "-f", "json", env=env)
    rows = {row["check"]: row for row in json.loads(doctor.stdout)["checks"]}
    assert rows["commands"]["status"] == "problem"
    assert "confiture migrate up` refuses the two" in rows["commands"]["detail"]


def test_check_says_that_webhooks_are_off(project: Project) -> None:
    """What is switched off is still checked, and the check says that nothing is sent."""
    done = project.confiture("webhooks", "check", env={"CONFITURE_WEBHOOKS": "off"})
    assert done.returncode == 0, done.stderr
    assert "CONFITURE_WEBHOOKS: is off, so nothing is sent" in done.stdout


def test_a_module_shows_commands_that_exist(project: Project) -> None:
    """``python -m confiture_webhooks`` names the same command as ``confiture webhooks`` does."""
    (project.environments / "local.yaml").rename(project.environments / "other.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "confiture_webhooks", "check"],
        cwd=project.path,
        env=project.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "`confiture webhooks check --config db/environments/other.yaml`" in done.stderr


@pytest.mark.parametrize("output", [(), ("--format", "json")])
@pytest.mark.parametrize("command", ["check", "test", "deliver"])
def test_a_misspelt_name_of_the_address_is_named_where_no_endpoint_is(
    tmp_path: Path, command: str, output: tuple[str, ...]
) -> None:
    """The variable that was meant to have it is the likely reason."""
    empty = Project(tmp_path / "empty", DSN)
    done = empty.confiture("webhooks", command, *output, env={"CONFITURE_WEBHOK_URL": URL})
    assert done.returncode == 5
    said = done.stdout if output else done.stderr
    assert "no endpoint is configured" in said
    assert "CONFITURE_WEBHOK_URL" in said
    assert "Did you mean CONFITURE_WEBHOOK_URL?" in said


def test_check_names_misspelt_variables_beside_faults(project: Project) -> None:
    """All that is wrong is said at once, as a run says it."""
    env = {"CONFITURE_WEBHOOK_SECERT": "x", "CONFITURE_WEBHOOK_LOG": "jsn"}
    done = project.confiture("webhooks", "check", env=env)
    assert done.returncode == 5
    assert "CONFITURE_WEBHOOK_LOG: is not a kind of log" in done.stderr
    assert "CONFITURE_WEBHOOK_SECERT: is a variable that nothing reads" in done.stderr
