"""The hook files' API, its alias, and the threads hooks run on."""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from datetime import timedelta
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from confiture_webhooks.adapters.backend import masked_url
from confiture_webhooks.adapters.hook_files import find
from confiture_webhooks.endpoint import explain
from confiture_webhooks.errors import HookError
from confiture_webhooks.event import EventType
from confiture_webhooks.hooks import HookContext, Registry, hook_of, register_hook
from confiture_webhooks.run import hook_thread
from confiture_webhooks.run.hook_thread import HookThread, OutputGuard, end_running
from samples import endpoint


def python(code: str, path: Path) -> str:
    """What *code* prints in a process that looks in *path* first."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_alias_is_the_same_api(tmp_path: Path) -> None:
    """``confiture.hooks`` gives the very objects of ``confiture_webhooks.hooks``."""
    code = (
        "import confiture_webhooks; from confiture.hooks import HookContext, register_hook; "
        "from confiture_webhooks import hooks; "
        "print(HookContext is hooks.HookContext, register_hook is hooks.register_hook)"
    )
    assert python(code, tmp_path) == "True True\n"


def test_a_module_of_the_hosts_own_wins(tmp_path: Path) -> None:
    """Where the host has ``confiture.hooks`` itself, that is what an import finds."""
    (tmp_path / "confiture").mkdir()
    (tmp_path / "confiture" / "__init__.py").touch()
    (tmp_path / "confiture" / "hooks.py").write_text("whose = 'the host'")
    code = "import confiture_webhooks, confiture.hooks; print(confiture.hooks.whose)"
    assert python(code, tmp_path) == "the host\n"


def _yields(_: object) -> Any:
    yield


@pytest.mark.parametrize(
    ("event", "function", "said"),
    [
        ("on_eror", lambda _: None, "did you mean 'on_error'"),
        ("on_error", lambda: None, "one argument"),
        ("on_error", 7, "not a function"),
        ("on_error", _yields, "is a generator"),
    ],
)
def test_what_cannot_be_a_hook_is_refused(event: str, function: Any, said: str) -> None:
    """A wrong event, wrong arguments and what is no function say so at the decorator."""
    with pytest.raises(HookError, match=said):
        register_hook(event)(function)


def test_a_decorator_without_an_event_says_how() -> None:
    """``@register_hook`` without parentheses is explained."""
    with pytest.raises(HookError, match="post_execute"):
        register_hook(lambda _: None)  # type: ignore[arg-type, type-var]


def test_hooks_made_in_a_loop_are_each_their_own() -> None:
    """Closures, lambdas and partials share a name, and none takes another's place."""
    kept = Registry()
    hooks = [hook_of("on_error", made) for made in (*map(_closure, "ab"), *map(_partial, "ab"))]
    with kept.loading() as loaded:
        for hook in hooks:
            kept.add(hook)
    assert loaded == hooks
    with kept.loading(), pytest.raises(HookError, match="twice"):
        kept.add(hooks[0])


def _closure(word: str) -> Any:
    return lambda _: word


def _partial(word: str) -> Any:
    return functools.partial(print, word)


def test_a_file_left_behind_adds_nothing_to_the_next() -> None:
    """What another thread registers meanwhile is not of the file that is loaded here."""
    kept = Registry()
    other = threading.Thread(target=kept.add, args=(hook_of("on_error", _closure("a")),))
    with kept.loading() as loaded:
        other.start()
        other.join()
        kept.add(hook_of("on_error", _closure("b")))
    assert len(loaded) == 1


def test_sending_outside_a_run_is_an_error() -> None:
    """A context made in a user's own test sends nothing."""
    context = HookContext(event="on_error", migration_name="1_a", migration_version="1")
    with pytest.raises(HookError, match="nowhere else"):
        context.send({})


def test_a_database_url_has_no_password_and_no_usual_port() -> None:
    """User, host, other ports and database stay; odd characters are escaped."""
    info = SimpleNamespace(host="db", port=5432, dbname="shop", user="a@b", password="p4ss")
    assert masked_url(info) == "postgresql://a%40b:***@db/shop"
    info = SimpleNamespace(host="/run/pg", port=5433, dbname="shop", user="app", password="")
    assert masked_url(info) == "postgresql://app@%2Frun%2Fpg:5433/shop"


def test_files_are_found_in_order_and_read_without_running(tmp_path: Path) -> None:
    """Name order, private files left alone, syntax judged, and who reads the variable seen."""
    directory = tmp_path / "confiture_hooks"
    directory.mkdir()
    (directory / "b.py").write_text("raise RuntimeError")
    (directory / "a.py").write_text("import os; os.environ['CONFITURE_WEBHOOK_URL']")
    (directory / "c.py").write_text("def")
    (directory / "_shared.py").write_text("")
    found = find(tmp_path, ["json", "no.such"])
    assert [file.module for file in found] == [
        "confiture_hooks.a",
        "confiture_hooks.b",
        "confiture_hooks.c",
        "json",
        "no.such",
    ]
    assert [file.reads_url for file in found] == [True, False, False, False, False]
    assert [file.fault is not None for file in found] == [False, False, True, False, True]


@pytest.mark.parametrize("name", ["_shared", "__init__"])
def test_a_private_module_reads_the_variable_for_those_that_import_it(
    tmp_path: Path, name: str
) -> None:
    """The address may be read in what hook files share; it is reported once."""
    directory = tmp_path / "confiture_hooks"
    directory.mkdir()
    (directory / f"{name}.py").write_text("import os; URL = os.environ['CONFITURE_WEBHOOK_URL']")
    (directory / "a.py").write_text(f"from confiture_hooks.{name} import URL")
    (directory / "b.py").write_text("import os")
    reads = [file.reads_url for file in find(tmp_path)]
    assert reads == [True, name == "__init__"]


def test_a_name_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    """A file with a dot in its name is a fault with a remedy, not a missing module."""
    directory = tmp_path / "confiture_hooks"
    directory.mkdir()
    (directory / "my.hooks.py").write_text("")
    (file,) = find(tmp_path)
    assert file.fault is not None
    assert "has a dot in its name" in str(file.fault)


def test_a_module_is_found_as_an_import_would_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages that an editable install made known to a finder of its own are found too."""
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "notify.py").write_text("")

    class Finder:
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            return PathFinder.find_spec(name, [str(tmp_path)]) if name == "ops" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    found = find(tmp_path / "elsewhere", ["ops.notify", "ops.nosuch"])
    assert [file.fault is None for file in found] == [True, False]


@pytest.mark.parametrize("open_to_others", ["ops", "ops/__init__.py", "ops/sub/__pycache__"])
def test_a_module_below_a_package_that_others_may_write_is_not_used(
    tmp_path: Path, open_to_others: str
) -> None:
    """Importing ``ops.sub.notify`` runs its packages too: each has to be ours alone."""
    (tmp_path / "ops" / "sub" / "__pycache__").mkdir(parents=True)
    for name in ("ops/__init__.py", "ops/sub/__init__.py", "ops/sub/notify.py"):
        (tmp_path / name).write_text("")
    assert [file.is_trusted for file in find(tmp_path, ["ops.sub.notify"])] == [True]
    (tmp_path / open_to_others).chmod(0o777)
    assert [file.is_trusted for file in find(tmp_path, ["ops.sub.notify"])] == [False]


def test_reading_a_file_says_nothing(tmp_path: Path) -> None:
    """What Python warns of in a file is said when it is imported, and not before."""
    directory = tmp_path / "confiture_hooks"
    directory.mkdir()
    (directory / "a.py").write_text(r"PATTERN = '\d'")
    assert [file.fault for file in find(tmp_path)] == [None]


def test_what_is_left_behind_ends(capsys: Any) -> None:
    """A hook that prints without end is ended, for an interpreter that ends would abort."""

    def endless() -> None:
        while True:
            print("x")

    thread = HookThread(endless)
    assert not thread.ends_within(timedelta(seconds=0.1), threading.Event())
    end_running()
    thread.join(20)
    assert isinstance(thread.error, SystemExit)


def test_a_hooks_print_goes_to_stderr_the_commands_to_output(capsys: Any) -> None:
    """While hooks are loaded, only their threads are kept off standard output."""

    def of_a_thread() -> None:
        print("from a thread of the hook's")

    def hook() -> None:
        print("from the hook")
        thread = threading.Thread(target=of_a_thread)
        thread.start()
        thread.join()

    guard = OutputGuard()
    guard.modules.add(__name__)
    guard.start()
    try:
        thread = HookThread(hook)
        assert thread.ends_within(timedelta(seconds=20), threading.Event())
        print("from the command")
    finally:
        thread.join()
        guard.stop()
    captured = capsys.readouterr()
    assert captured.out == "from the command\n"
    assert captured.err == "from the hook\nfrom a thread of the hook's\n"


def test_a_stream_that_a_hook_replaces_is_its_threads_alone(capsys: Any) -> None:
    """A line that the command prints meanwhile is on its standard output."""
    replaced, printed, commands = threading.Event(), threading.Event(), sys.stdout

    def hook() -> None:
        with redirect_stdout(io.StringIO()) as text:
            with redirect_stdout(io.StringIO()):
                print("not kept")
            print("kept")
            replaced.set()
            printed.wait(20)
        print(f"from the hook: {text.getvalue()}", end="")
        sys.stdout = commands
        print("again")

    guard = OutputGuard()
    guard.start()
    try:
        thread = HookThread(hook)
        thread.start()
        assert replaced.wait(20)
        print("from the command")
        printed.set()
        thread.join()
    finally:
        guard.stop()
    assert type(sys) is ModuleType
    assert capsys.readouterr() == ("from the command\n", "from the hook: kept\nagain\n")


def test_a_class_that_somebody_else_has_given_sys_stays(monkeypatch: Any) -> None:
    """Hooks' output is kept apart without it."""
    theirs = type("Theirs", (ModuleType,), {})
    monkeypatch.setattr(sys, "__class__", theirs)
    guard = OutputGuard()
    guard.start()
    during = type(sys)
    guard.stop()
    assert (during, type(sys)) == (theirs, theirs)


def test_a_wrapper_that_a_hook_leaves_around_its_stream_closes_nothing(capfd: Any) -> None:
    """What a run says later, and the command's error, are still to be read."""

    def hook() -> None:
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("from the hook", flush=True)

    guard = OutputGuard()
    guard.start()
    try:
        thread = HookThread(hook)
        thread.start()
        thread.join()
    finally:
        guard.stop()
    assert not sys.stderr.buffer.closed
    print("from the command", file=sys.stderr)
    assert capfd.readouterr() == ("", "from the hook\nfrom the command\n")


def test_explaining_says_what_depends_on_the_migration() -> None:
    """An endpoint with patterns is sent an event, or not, or that is open."""
    one = endpoint(migrations=("*_billing_*",))
    kind = EventType.MIGRATION_SUCCESS

    def is_sent(migration: str | None) -> bool | None:
        return explain([one], kind, "production", migration)[0]["sent"]

    assert is_sent("1_billing_x") is True
    assert is_sent("1_other") is False
    assert is_sent(None) is None
    assert explain([one], EventType.RUN_SUCCESS, None, None)[0]["sent"] is False


def test_explaining_a_run_error_names_the_runs_that_send_it_by_default() -> None:
    """With the default events it is sent of a run that failed without a migration's event."""
    silent = "only of a run that failed without a migration's event to report it"
    everything = endpoint(events=frozenset(EventType))
    narrow = endpoint(events=frozenset({EventType.MIGRATION_ERROR}))
    rows = explain([endpoint(), everything, narrow], EventType.RUN_ERROR, None, None)
    assert [(row["sent"], row["reason"]) for row in rows] == [
        (None, silent),
        (True, "its `events` include run_error"),
        (False, "its `events` do not include run_error"),
    ]


def test_the_directory_is_put_back_where_a_thread_cannot_have_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container that forbids it, what a hook changed is changed back when it ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hook_thread, "_has_own_directory", lambda: False)
    thread = HookThread(lambda: os.chdir("/"))
    assert thread.ends_within(timedelta(seconds=5), threading.Event())
    assert Path.cwd() == tmp_path
