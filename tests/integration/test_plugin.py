"""The entry point: it adds a group and a watch, and costs nothing where nothing is configured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import typer.main
from typer.core import TyperGroup
from typer.testing import CliRunner

from confiture_webhooks import plugin
from confiture_webhooks.command_watch import sees_commands

HEAVY = (
    "psycopg",
    "structlog",
    "requests",
    "opentelemetry",
    "pydantic",
    "yaml",
    "standardwebhooks",
)
OURS_UNCONFIGURED = [
    "confiture_webhooks",
    "confiture_webhooks.command_watch",
    "confiture_webhooks.plugin",
]


class Greeting(TyperGroup):
    """Somebody else's root group, with a manner of its own."""

    def invoke(self, ctx: Any) -> Any:
        typer.echo("welcome")
        return super().invoke(ctx)


class Watch:
    """Stands in for the session of a command: notes that and how it ended."""

    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []

    def finish(self, error: BaseException | None) -> None:
        self.ends.append(error)


def host(cls: type[TyperGroup] | None = None) -> typer.Typer:
    """A host like Confiture: a root with one command and a ``migrate`` group."""
    app = typer.Typer(cls=cls) if cls else typer.Typer()
    migrate = typer.Typer()

    @app.command()
    def build() -> None:
        """Build."""
        typer.echo("built")

    @migrate.command()
    def up(code: int = 0) -> None:
        """Migrate."""
        typer.echo("migrated")
        raise typer.Exit(code)

    @migrate.command()
    def broken() -> None:
        """Break."""
        raise ZeroDivisionError

    app.add_typer(migrate, name="migrate")
    plugin.register(app)
    return app


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """The watch that is opened for ``migrate`` commands."""
    watch = Watch()
    monkeypatch.setattr(
        plugin, "_open", lambda arguments: watch.finish if arguments[:1] == ["migrate"] else None
    )
    return watch


def run(app: typer.Typer, *arguments: str) -> Any:
    """The result of the command line *arguments*."""
    return CliRunner().invoke(app, arguments)


def test_the_hosts_commands_stay() -> None:
    """After registering, the host's commands do what they did, beside the new group."""
    app = host()
    assert run(app, "build").output == "built\n"
    assert list(typer.main.get_group(app).commands) == ["build", "migrate", "webhooks"]


def test_a_root_class_of_the_hosts_own_stays_underneath() -> None:
    """A host whose root group has a class of its own keeps that class's manners."""
    app = host(Greeting)
    assert isinstance(typer.main.get_group(app), Greeting)
    assert run(app, "build").output == "welcome\nbuilt\n"


def test_registering_on_the_real_host_replaces_none_of_its_commands() -> None:
    """Confiture's own tree has all it had, and ``webhooks``."""
    from confiture.cli.main import app

    group = typer.main.get_group(app)
    names = list(group.commands)
    assert names[-1] == "webhooks"
    assert {"init", "build", "migrate", "hooks", "drift"} < set(names)
    assert isinstance(group.commands["webhooks"], plugin.LazyGroup)


def test_the_group_lists_its_commands() -> None:
    """``confiture webhooks --help`` lists the commands, which are imported only then."""
    result = run(host(), "webhooks", "--help")
    assert result.exit_code == 0
    for name in ("check", "test", "listen", "verify", "demo"):
        assert name in result.output


def test_a_command_of_the_group_is_found_and_an_unknown_one_is_refused() -> None:
    """``webhooks check --help`` works, ``webhooks nosuch`` is a usage error."""
    assert run(host(), "webhooks", "check", "--help").exit_code == 0
    assert run(host(), "webhooks", "nosuch").exit_code == 2


def test_installed_under_two_names_a_command_is_watched_once(watch: Watch) -> None:
    """Two distributions that name this plugin make no second event of each."""
    app = host()
    plugin.register(app)
    assert run(app, "migrate", "up").output == "migrated\n"
    assert len(watch.ends) == 1


def test_a_command_that_succeeds_is_finished_once(watch: Watch) -> None:
    """The watch ends after the command has, with no error."""
    result = run(host(), "migrate", "up")
    assert (result.output, result.exit_code) == ("migrated\n", 0)
    assert len(watch.ends) == 1


@pytest.mark.parametrize("code", [0, 1, 3, 8])
def test_the_exit_code_is_the_hosts(watch: Watch, code: int) -> None:
    """With the watch on, a command exits as it did."""
    result = run(host(), "migrate", "up", "--code", str(code))
    assert (result.output, result.exit_code) == ("migrated\n", code)
    assert len(watch.ends) == 1


def test_an_error_goes_through_the_watch(watch: Watch) -> None:
    """What a command raises reaches the host, and the watch gets it."""
    result = run(host(), "migrate", "broken")
    assert isinstance(result.exception, ZeroDivisionError)
    assert [type(end) for end in watch.ends] == [ZeroDivisionError]


@pytest.mark.parametrize("arguments", [["--help"], ["--nosuch"], ["--code", "word"]])
def test_a_command_line_that_does_not_parse_is_no_command(
    watch: Watch, arguments: list[str]
) -> None:
    """Help and usage errors open no watch: nothing has begun."""
    run(host(), "migrate", "up", *arguments)
    assert watch.ends == []


def test_a_tree_that_is_used_again_is_watched_once(watch: Watch) -> None:
    """Two commands of one process are two watches."""
    group = typer.main.get_group(host())
    for _ in range(2):
        group.main(["migrate", "up"], standalone_mode=False)
    assert len(watch.ends) == 2


def test_the_real_host_lets_its_commands_be_seen() -> None:
    """The proof dispatches the real ``migrate up``, and runs nothing of it."""
    assert sees_commands()


def test_a_host_without_the_watch_fails_the_proof() -> None:
    """Where the root has lost our class, the proof says so."""
    app = host()
    app.info.cls = TyperGroup
    assert not sees_commands(app)


def test_other_commands_are_not_watched(watch: Watch) -> None:
    """Only ``migrate`` commands are watched."""
    run(host(), "build")
    run(host(), "--help")
    assert watch.ends == []


@pytest.mark.parametrize(
    "broken", ["command_watch.is_watched", "plugin.may_be_configured", "session.open_session"]
)
def test_a_watch_that_cannot_be_opened_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    """A fault of our own in starting costs the run its webhooks and one line, nothing else."""
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "https://canary.invalid")
    monkeypatch.setattr(f"confiture_webhooks.{broken}", _fail)
    assert plugin._open(["migrate", "up"]) is None
    reported = capsys.readouterr()
    assert reported.out == ""
    assert reported.err.count("\n") == 1
    assert "RuntimeError" in reported.err
    assert "canary" not in reported.err


def test_a_watch_that_cannot_be_closed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of our own at the end of a command leaves its result as it is."""
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "https://canary.invalid")
    session = SimpleNamespace(finish=_fail)
    monkeypatch.setattr("confiture_webhooks.session.open_session", lambda _: session)
    finish = plugin._open(["migrate", "up"])
    assert finish is not None
    finish(None)
    assert capsys.readouterr().err == (
        "confiture-webhooks: cannot end (RuntimeError); webhooks of this run may be missing\n"
    )


@pytest.mark.parametrize("name", ["resolve_command", "invoke"])
def test_a_command_that_cannot_be_watched_runs(watch: Watch, name: str) -> None:
    """A host whose groups and commands take no attributes, say: its commands go on."""
    tree: Any = typer.main.get_command(host())
    group = tree.commands["migrate"]
    rigid = group if name == "resolve_command" else group.commands["up"]

    class Rigid(type(rigid)):  # type: ignore[misc]
        def __setattr__(self, attribute: str, value: object) -> None:
            if attribute == name:
                raise AttributeError(attribute)
            super().__setattr__(attribute, value)

    rigid.__class__ = Rigid
    assert tree.main(["migrate", "up", "--code", "3"], standalone_mode=False) == 3
    assert watch.ends == []


def _fail(*_: object) -> None:
    raise RuntimeError("the secret is canary")


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When one of our packages is not installed, the line says which."""
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "https://a.invalid")
    monkeypatch.setitem(sys.modules, "confiture_webhooks.session", None)
    assert plugin._open(["migrate", "up"]) is None
    assert "ModuleNotFoundError confiture_webhooks.session" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["off", "OFF", " 0 ", "false", "no"])
def test_off_beats_everything(word: str) -> None:
    """Switched off, nothing is configured, whatever else is set."""
    environ = {"CONFITURE_WEBHOOKS": word, "CONFITURE_WEBHOOK_URL": "https://a.invalid"}
    assert not plugin.may_be_configured(["migrate", "up"], environ)


@pytest.mark.parametrize("name", ["db/environments/local.yaml", "confiture.yaml"])
@pytest.mark.parametrize(
    ("text", "may_be"),
    [
        ("webhooks: {}\n", True),
        ("a: {webhok: {}}\n", True),
        ("database_url: postgresql:///webshop\nlock_timeout: 1\n# webhooks are elsewhere\n", False),
        (None, False),
    ],
)
def test_a_block_in_the_default_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, name: str, *, may_be: bool
) -> None:
    """Without a variable, what counts is whether a file that the host may read has a block."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert plugin.may_be_configured(["migrate", "up"], {}) is may_be


def test_words_that_are_no_paths_are_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments that no file can be named like are looked past."""
    monkeypatch.chdir(tmp_path)
    assert not plugin.may_be_configured(["migrate", "up", "a\0b", "x" * 5000, "", "--", "-"], {})


def modules_after(code: str, cwd: Path) -> list[str]:
    """The modules a fresh interpreter has loaded after *code*."""
    tail = "import json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{textwrap.dedent(code)}\n{tail}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: list[str] = json.loads(done.stderr.splitlines()[-1])
    return found


def ours(modules: list[str]) -> list[str]:
    return [name for name in modules if name.partition(".")[0] == "confiture_webhooks"]


def test_importing_the_plugin_loads_nothing_heavy(tmp_path: Path) -> None:
    """In a fresh interpreter the entry point's module brings Typer and nothing else."""
    loaded = modules_after("import confiture_webhooks.plugin", tmp_path)
    assert ours(loaded) == OURS_UNCONFIGURED
    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []


def test_commands_with_nothing_configured_load_none_of_it(tmp_path: Path) -> None:
    """Unconfigured, a command loads the entry point's module and not one module more of ours."""
    code = """
        import contextlib
        import sys
        from confiture.cli.main import app
        for arguments in (["--version"], ["migrate", "status"], ["migrate", "--help"]):
            sys.argv = ["confiture", *arguments]
            with contextlib.suppress(SystemExit):
                app()
    """
    loaded = modules_after(code, tmp_path)
    assert ours(loaded) == OURS_UNCONFIGURED
    assert not {"structlog", "requests", "opentelemetry", "standardwebhooks"} & set(loaded)


def test_the_package_runs_from_a_zip_file(tmp_path: Path) -> None:
    """As in a zipapp: the SQL beside the modules is read from the archive."""
    package = Path(plugin.__file__).parent
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", package.parent, package.name)
    code = "from confiture_webhooks.outbox.sqlite import InMemoryOutbox, __file__ as file; "
    code += "print(file, InMemoryOutbox().summaries())"
    env = {"PYTHONPATH": archive, "PATH": os.defpath}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(archive), done.stderr
