"""Command lines: which file the host reads, and what is meant to last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer.main
from confiture.cli.dsn import resolve_database_url
from confiture.cli.main import app
from confiture.exceptions import ConfigurationError

from confiture_webhooks.event import Direction
from confiture_webhooks.plugin import may_be_configured
from confiture_webhooks.run.invocation import DEFAULT_CONFIG, FILE_ONLY, Invocation, parse

DSN = "postgresql://canary@127.0.0.1/shop"
GIVEN = Path("conf/prod.yaml")
WRITTEN = (DEFAULT_CONFIG, GIVEN, Path("confiture.yaml"), Path("db/environments/prod.yaml"))
REPORTING = ("up", "down", "down-to", "apply-as", "steps", "squash-ledger")
"""The commands that take the migration lock in their own name."""


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory in which every file exists that a test may name."""
    for path in WRITTEN:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("webhooks: {}\n")
    monkeypatch.chdir(tmp_path)


def parsed(line: str, **environ: str) -> Invocation:
    """The invocation of ``confiture migrate`` with *line* after it."""
    invocation = parse(["migrate", *line.split()], environ)
    assert invocation is not None
    return invocation


@pytest.mark.parametrize("line", ["", "--version", "build", "webhooks check", "drift migrate"])
def test_another_command_is_no_invocation(line: str) -> None:
    """Only the ``migrate`` group is of interest."""
    assert parse(line.split(), {}) is None


@pytest.mark.parametrize(
    ("line", "command", "direction"),
    [
        ("up", "up", Direction.UP),
        ("down --steps 2", "down", Direction.DOWN),
        ("down-to 003", "down-to", Direction.DOWN),
        ("apply-as postgres 005", "apply-as", Direction.UP),
        ("", "", Direction.UP),
        ("--help", "", Direction.UP),
    ],
)
def test_the_command_gives_the_direction(line: str, command: str, direction: Direction) -> None:
    """The word after ``migrate`` is the command; those that go down say so."""
    invocation = parsed(line)
    assert (invocation.command, invocation.direction) == (command, direction)


SPELLINGS = [
    "up --config conf/prod.yaml",
    "up --config=conf/prod.yaml",
    "up -c conf/prod.yaml",
    "up -cconf/prod.yaml",
    "up -vc conf/prod.yaml",
    "up -vyc conf/prod.yaml",
    "up -vcconf/prod.yaml",
    "up --target 005 -c conf/prod.yaml --strict",
    "up -c db/environments/other.yaml -c conf/prod.yaml",
    "apply-as postgres 005 -c conf/prod.yaml",
]


@pytest.mark.parametrize("line", SPELLINGS)
@pytest.mark.usefixtures("_project")
def test_the_file_is_found_in_every_spelling(line: str) -> None:
    """Long, short, attached and grouped spellings of ``--config`` all name the file."""
    assert parsed(line).config_file == GIVEN


@pytest.mark.parametrize("line", SPELLINGS)
@pytest.mark.usefixtures("_project")
def test_the_host_reads_the_same_file(line: str) -> None:
    """The host's own parser takes the same file from the same command line."""
    _, *words = line.split()
    name = line.split(maxsplit=1)[0]
    migrate = typer.main.get_command(app).commands["migrate"]  # type: ignore[attr-defined]
    command = migrate.commands[name]
    context = command.make_context(name, list(words), resilient_parsing=True)
    assert context.params["config"] == GIVEN


@pytest.mark.usefixtures("_project")
def test_what_follows_a_double_dash_is_no_option() -> None:
    """After ``--`` a word that looks like an option is an argument."""
    assert parsed("down-to -- --config=conf/prod.yaml").config_file == DEFAULT_CONFIG


@pytest.mark.parametrize("no_config", [False, True])
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.usefixtures("_project")
def test_precedence_is_the_hosts(  # noqa: PLR0913
    monkeypatch: pytest.MonkeyPatch,
    *,
    flag: bool,
    explicit: bool,
    variable: bool,
    no_config: bool,
    exists: bool,
) -> None:
    """Without an explicit file, the default is read exactly where the host defers to it.

    An explicit file's settings count even when the DSN comes from elsewhere: it was named.
    """
    words = ["migrate", "up"]
    words += ["--database-url", DSN] if flag else []
    words += ["--config", str(GIVEN)] if explicit else []
    words += ["--no-config"] if no_config else []
    environ = {"CONFITURE_DATABASE_URL": DSN} if variable else {}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if not exists:
        (GIVEN if explicit else DEFAULT_CONFIG).unlink()
    invocation = parse(words, environ)
    assert invocation is not None
    if explicit:
        assert invocation.config_file == (GIVEN if exists else None)
        return
    try:
        host = resolve_database_url(
            DSN if flag else None,
            DEFAULT_CONFIG,
            no_config=no_config,
            require_intentional_source=True,
        )
    except ConfigurationError:
        host = "refused"
    is_read = host is None and exists
    assert invocation.config_file == (DEFAULT_CONFIG if is_read else None)


@pytest.mark.usefixtures("_project")
def test_apply_as_reads_the_file_of_its_environment() -> None:
    """``apply-as`` reads ``confiture.yaml``, or the file of ``--env``; never ``local.yaml``."""
    prod = Path("db/environments/prod.yaml")
    assert parsed("apply-as postgres 005").config_file == Path("confiture.yaml")
    assert parsed("apply-as postgres 005 --env prod").config_file == prod
    assert parsed("apply-as postgres 005 -eprod").config_file == prod


@pytest.mark.usefixtures("_project")
def test_a_command_in_a_message_names_the_file_that_it_needs() -> None:
    """A given file, also the usual one: with a DSN in the environment that would not be read."""
    given = f"up --config {DEFAULT_CONFIG}"
    assert parsed(given, CONFITURE_DATABASE_URL=DSN).named_file == DEFAULT_CONFIG
    assert parsed("apply-as postgres 005").named_file == Path("confiture.yaml")
    assert parsed("up").named_file is None
    assert parsed("up", CONFITURE_DATABASE_URL=DSN).named_file is None
    assert parsed("steps", CONFITURE_DATABASE_URL=DSN).named_file == DEFAULT_CONFIG
    assert parsed(f"up -d {DSN}", CONFITURE_DATABASE_URL=DSN).named_file is None
    named = 'CONFITURE_DATABASE_URL="$DATABASE_URL"'
    assert parsed("up --no-config", DATABASE_URL=DSN).named_file == named
    assert parsed(f"up -d {DSN}", DATABASE_URL=DSN).named_file == named


@pytest.mark.parametrize("name", REPORTING)
@pytest.mark.usefixtures("_project")
def test_defaults_are_the_hosts(name: str) -> None:
    """For every command that reports something, the default file is the host's own default."""
    migrate = typer.main.get_command(app).commands["migrate"]  # type: ignore[attr-defined]
    params = {param.name: param for param in migrate.commands[name].params}
    assert Path(params["config"].default) == parsed(name).config_file
    assert ("database_url" not in params) is (name in FILE_ONLY)


@pytest.mark.parametrize("name", sorted(FILE_ONLY - {"apply-as"}))
@pytest.mark.usefixtures("_project")
def test_a_command_without_a_dsn_option_reads_its_file(name: str) -> None:
    """Where the host ignores ``CONFITURE_DATABASE_URL``, it does not hide the file."""
    assert parsed(name, CONFITURE_DATABASE_URL=DSN).config_file == DEFAULT_CONFIG


@pytest.mark.usefixtures("_project")
def test_a_file_that_is_not_there_is_none() -> None:
    """A file that does not exist is not read: the host is to complain of it."""
    assert parsed("up -c nowhere.yaml").config_file is None


@pytest.mark.usefixtures("_project")
def test_a_pipe_is_left_to_the_host() -> None:
    """What can be read only once (``--config <(decrypt …)``) is opened neither here nor there."""
    for path in WRITTEN:
        path.write_text("database_url: x\n")
    os.mkfifo("secret.yaml")
    assert parsed("up -c secret.yaml").config_file is None
    assert not may_be_configured(["migrate", "up", "-c", "secret.yaml"], {})


@pytest.mark.parametrize(
    ("line", "is_rehearsal"),
    [
        ("up", False),
        ("up --dry-run", True),
        ("up --dry-run-execute --yes", True),
        ("down --dry-run", True),
        ("down-to 003 --dry-run", True),
        ("up --target dry-run", False),
    ],
)
def test_a_dry_run_is_a_rehearsal(line: str, is_rehearsal: bool) -> None:
    """Every kind of dry run is meant not to last."""
    assert parsed(line).is_rehearsal is is_rehearsal


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("steps", None),
        ("steps --resume 005", "005"),
        ("steps --resume=005 --allow-destructive", "005"),
        ("up --resume 005", None),
    ],
)
def test_steps_may_resume_a_migration(line: str, version: str | None) -> None:
    """``steps --resume`` names the version it continues; no other command does."""
    assert parsed(line).resumes == version


def test_the_directory_of_migrations() -> None:
    """``--migrations-dir`` names it, else it is the host's default."""
    assert parsed("up").migrations_dir == Path("db/migrations")
    assert parsed("up --migrations-dir a/b").migrations_dir == Path("a/b")
    assert parsed("up --migrations-dir=a/b").migrations_dir == Path("a/b")


@pytest.mark.parametrize("line", ["up", "up --config", "up -c", "steps --resume"])
def test_a_line_the_host_refuses_is_read_all_the_same(line: str) -> None:
    """A missing value is the host's to refuse, not ours to fail on."""
    assert parsed(line).resumes is None


@pytest.mark.parametrize("line", [*SPELLINGS, "apply-as postgres 005 --env prod", "up", "steps"])
@pytest.mark.usefixtures("_project")
def test_the_plugin_looks_at_whatever_file_is_read(line: str) -> None:
    """The cheap look at the start never misses the file that is read in the end."""
    read = parsed(line).config_file
    for path in WRITTEN:
        if path != read:
            path.write_text("database_url: x\n")
    assert may_be_configured(["migrate", *line.split()], {})
