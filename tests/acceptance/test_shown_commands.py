"""Commands that messages show, pasted into a shell as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.receiver import LocalReceiver

if TYPE_CHECKING:
    from collections.abc import Mapping

FAST = {"retry": {"schedule": []}}
OF_THE_SHELL = {"BASH_FUNC_confiture%%", "OLDPWD", "PWD", "SHLVL", "_"}
SHORT = {"CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0.5"}


def shown(said: str, verb: str) -> str:
    """The first command with *verb* in *said*."""
    return next(one for one in re.findall("`([^`]+)`", said) if f"webhooks {verb}" in one)


RECORD = r"""confiture() { printf '%s\0' "$@" "" && env -0; }; export -f confiture; """
"""A shell's reading of a command: its arguments, an empty one, its environment."""


def paste(project: Any, command: str, env: Mapping[str, str] | None = None) -> Any:
    """Run *command* in the project's directory, as a shell with the variables *env* reads it."""
    bash = shutil.which("bash") or "bash"
    read = subprocess.run(
        [bash, "-c", RECORD + command],
        env=project.environ(env),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    arguments, _, variables = read.stdout.removesuffix("\0").partition("\0\0")
    environ = dict(variable.split("=", 1) for variable in variables.split("\0"))
    kept = {name: value for name, value in environ.items() if name not in OF_THE_SHELL}
    return project.confiture(*arguments.split("\0"), env=kept)


def states(project: Any) -> list[str]:
    """The state of each delivery in the project's SQLite outbox."""
    done = project.confiture("webhooks", "list", "-f", "json")
    return [one["state"] for one in json.loads(done.stdout)["deliveries"]]


def test_the_file_of_another_environment_is_found_by_its_name(
    one_migration: Any, receiver: Any
) -> None:
    """prod-eu.yaml has `name: production`: its commands name that file."""
    project = one_migration
    receiver.script("/", [500])
    one = {"name": "ops", "url": receiver.url, **FAST}
    file = project.environment_file("prod-eu", webhooks={"endpoints": [one]})
    file.write_text(f"name: production\n{file.read_text()}")
    run = project.confiture("migrate", "up", "-c", "db/environments/prod-eu.yaml")
    assert run.returncode == 0, run.stderr
    for words in (("status",), ("redeliver", "--dead", "--yes")):
        again = shown(project.confiture("webhooks", *words).stdout, "redeliver")
        assert again.endswith(" --config db/environments/prod-eu.yaml"), words
    by_variable = {
        "CONFITURE_DATABASE_URL": project.database_url,
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite",
    }
    again = shown(project.confiture("webhooks", "status", env=by_variable).stdout, "redeliver")
    assert again.startswith("CONFITURE_ENVIRONMENT=prod-eu confiture ")
    file.rename(project.path / "prod-eu.yaml")
    status = project.confiture("webhooks", "status").stdout
    assert shown(status, "redeliver").endswith(" --config FILE")
    assert "(FILE: the one whose `name:` is production)" in status
    refused = paste(project, shown(status, "redeliver"))
    assert (refused.returncode, "FILE is no file" in refused.stderr) == (5, True)
    file = (project.path / "prod-eu.yaml").rename(file)
    assert paste(project, again, by_variable).returncode == 0
    assert states(project) == ["delivered"]


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize("has_variable", [True, False])
def test_a_run_without_a_file_shows_commands_without_one(
    one_migration: Any, receiver: Any, outbox: str, has_variable: bool
) -> None:
    """`-d DSN` beside a local.yaml: the commands of its end and of `show` find its deliveries."""
    project = one_migration
    receiver.script("/", [500])
    dsn, without = project.database_url, re.sub(r":[^/:@]*@", "@", project.database_url)
    project.environment_file("local", database_url="postgresql://nobody@127.0.0.1:1/none")
    env = {**SHORT, "CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": outbox}
    password = re.search(r":([^/:@]*)@", dsn)
    words: tuple[str, ...] = ("-d", dsn)
    if has_variable:
        env, words = {**env, "DATABASE_URL": dsn}, ("--no-config",)
    run = project.confiture("migrate", "up", *words, env=env)
    assert run.returncode == 0, run.stderr
    assert dsn == without or dsn not in run.stderr
    line = next(one for one in run.stderr.splitlines() if "Send all now" in one)
    again = shown(line, "redeliver")
    named = '"$DATABASE_URL"' if has_variable else without
    assert again.startswith(f"CONFITURE_DATABASE_URL={named} confiture webhooks ")
    done = paste(project, again, {**env, "PGPASSWORD": password[1] if password else ""})
    assert (done.returncode, "1 delivered" in done.stdout) == (0, True), done.stderr


def test_a_run_without_a_file_names_other_environments_by_a_variable(
    one_migration: Any, receiver: Any
) -> None:
    """Its commands read no file, either; (none) is reached from a file's environment."""
    project = one_migration
    receiver.script("/", [500, 500])
    env = {**SHORT, "CONFITURE_WEBHOOK_URL": receiver.url}
    dsn = ("-d", project.database_url)
    project.confiture("migrate", "up", *dsn, env={**env, "CONFITURE_ENVIRONMENT": "eu"})
    project.migration("002", "b", up="SELECT 1", down="SELECT 1")
    run = project.confiture("migrate", "up", *dsn, env=env)
    named = r"CONFITURE_DATABASE_URL=\S+ CONFITURE_ENVIRONMENT=eu confiture webhooks deliver"
    assert re.search(named, run.stderr)
    nothing = project.confiture("webhooks", "redeliver", "--pending", "--yes", env=env).stdout
    ways = re.findall("`(CONFITURE_[^`]+)`", nothing)
    assert ways == [
        "CONFITURE_DATABASE_URL=DSN CONFITURE_ENVIRONMENT='' confiture webhooks redeliver --pending --yes"
    ]
    assert "--config FILE` (FILE: the one whose `name:` is eu)" in nothing
    assert "1 delivered" in paste(project, ways[0], env).stdout


def test_what_comes_first_is_said_first(one_migration: Any, receiver: Any) -> None:
    """Ended deliveries of an endpoint that is removed, or off: no command fails as it is shown."""
    project = one_migration
    receiver.script("/", [410])
    former = {"name": "former", "url": receiver.url}
    project.environment_file(webhooks={"endpoints": [former]})
    project.confiture("migrate", "up")
    status = project.confiture("webhooks", "status").stdout
    first, again = shown(status, "enable"), shown(status, "redeliver")
    row = f"answered with 410: 1. former: Switch it on: `{first}`. Then send them again: `{again}`"
    assert row in status
    project.environment_file(webhooks={"endpoints": [{"name": "ops", "url": receiver.url}]})
    assert paste(project, first).returncode == 0
    status = project.confiture("webhooks", "status").stdout
    row = "answered with 410: 1. former: Configure it again, or discard its deliveries: "
    assert (
        f"{row}`{shown(status, 'discard')}`. If you keep them, then send them again: `{again}`"
        in status
    )
    project.environment_file(webhooks={"endpoints": [former]})
    assert f"answered with 410: 1. Send them again: `{again}`" in (
        project.confiture("webhooks", "status").stdout
    )
    assert paste(project, again).returncode == 0
    assert states(project) == ["delivered"]


def test_what_a_410_ended_elsewhere_is_named(one_migration: Any, receiver: Any) -> None:
    """As dead letters of other environments are."""
    project = one_migration
    receiver.script("/", [410])
    project.environment_file("eu", webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    project.confiture("migrate", "up", "-c", "db/environments/eu.yaml")
    done = project.confiture("webhooks", "status")
    again = "`confiture webhooks redeliver --gone --yes --config db/environments/eu.yaml`"
    assert f"answered with 410 in eu: 1. Send again: {again}" in done.stdout
    document = json.loads(project.confiture("webhooks", "status", "-f", "json").stdout)
    assert (document["gone_elsewhere"], document["dead_elsewhere"]) == ({"eu": 1}, {})


@pytest.mark.parametrize(
    ("words", "variables", "environment"),
    [
        (("-c", "db/environments/local.yaml"), {}, "local"),
        ((), {}, "local"),
        ((), {"CONFITURE_ENVIRONMENT": "eu"}, "local"),
        (("-d",), {}, None),
        (("-d",), {"CONFITURE_ENVIRONMENT": "eu"}, "eu"),
        ((), {"CONFITURE_DATABASE_URL": "", "CONFITURE_ENVIRONMENT": "eu"}, "eu"),
    ],
)
def test_a_shared_block_does_not_name_the_environment(
    one_migration: Any, words: tuple[str, ...], variables: dict[str, str], environment: str | None
) -> None:
    """It is named by the file that Confiture reads, else by the variable; for operators, too."""
    project = one_migration
    with LocalReceiver(answers=[500]) as receiver:
        file = project.path / "hooks.yaml"
        block = {"webhooks": {"endpoints": [{"name": "ops", "url": receiver.url, **FAST}]}}
        file.write_text(json.dumps(block), encoding="utf-8")
        env = {"CONFITURE_WEBHOOK_CONFIG": "hooks.yaml", **variables}
        if "CONFITURE_DATABASE_URL" in env:
            env["CONFITURE_DATABASE_URL"] = project.database_url
        given = (*words, project.database_url) if words == ("-d",) else words
        run = project.confiture("migrate", "up", *given, env=env)
        (request,) = receiver.requests
        assert json.loads(request.body)["migration"]["environment"] == environment
        again = paste(project, shown(run.stderr, "redeliver"), env)
    assert (again.returncode, "1 delivered" in again.stdout) == (0, True), again.stderr


def test_a_named_block_is_left_out_for_another_environment(
    one_migration: Any, receiver: Any
) -> None:
    """CONFITURE_WEBHOOK_CONFIG with a `name:` decides, so the command empties it."""
    receiver.script("/", [500])
    one = {"name": "ops", "url": receiver.url, **FAST}
    one_migration.environment_file(webhooks={"endpoints": [one]})
    one_migration.confiture("migrate", "up")
    env = {"CONFITURE_WEBHOOK_CONFIG": "hooks.yaml"}
    (one_migration.path / "hooks.yaml").write_text("name: eu\nwebhooks: {}\n", encoding="utf-8")
    again = shown(one_migration.confiture("webhooks", "status", env=env).stdout, "redeliver")
    assert again.startswith("CONFITURE_WEBHOOK_CONFIG='' confiture webhooks ")
    assert "1 delivered" in paste(one_migration, again, env).stdout
