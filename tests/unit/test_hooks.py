"""The hook files' API, its alias, and the threads hooks run on."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.adapters.backend import masked_url
from confiture_webhooks.adapters.hook_files import find
from confiture_webhooks.errors import HookError
from confiture_webhooks.event import EventType
from confiture_webhooks.explain import explain
from confiture_webhooks.hook_thread import HookThread, StdoutGuard
from confiture_webhooks.hooks import HookContext, register_hook
from samples import endpoint

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    ("event", "function", "said"),
    [
        ("on_eror", lambda _: None, "Did you mean 'on_error'"),
        ("on_error", lambda: None, "one argument"),
        ("on_error", 7, "not a function"),
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


def test_a_hooks_print_goes_to_stderr_the_commands_to_stdout(capsys: Any) -> None:
    """While hooks are loaded, only their threads are kept off standard output."""

    def of_a_thread() -> None:
        print("from a thread of the hook's")

    def hook() -> None:
        print("from the hook")
        thread = threading.Thread(target=of_a_thread)
        thread.start()
        thread.join()

    guard = StdoutGuard()
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


def test_explaining_tells_what_depends_on_the_migration() -> None:
    """An endpoint with patterns is told, not told, or open, as the migration is known."""
    one = endpoint(migrations=("*_billing_*",))
    kind = EventType.MIGRATION_SUCCESS

    def told(migration: str | None) -> bool | None:
        return explain([one], kind, "production", migration)[0].is_told

    assert told("1_billing_x") is True
    assert told("1_other") is False
    assert told(None) is None
    assert explain([one], EventType.RUN_ERROR, None, None)[0].is_told is False
