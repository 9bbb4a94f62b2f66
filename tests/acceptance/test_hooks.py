"""Hook files under stress: bad ones, slow ones, what they send, and what is asked about it all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import forked
from confiture_webhooks import verify

TABLE = "CREATE TABLE a (id int)"
HEAD = "from confiture.hooks import register_hook\n"


@pytest.fixture
def hooked(project: Any) -> Any:
    """A project with one migration, into which hook files are put by name and source."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    (project.path / "confiture_hooks").mkdir()

    def put(**files: str) -> Any:
        for name, source in files.items():
            path = project.path / "confiture_hooks" / f"{name}.py"
            path.write_text(source, encoding="utf-8")
        return project

    return put


def events(stderr: str, name: str) -> list[dict[str, Any]]:
    """The log events called *name*."""
    lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.mark.survived(
    "Hook files that raise, exit, hang or print without end", "unharmed", "kept", "said"
)
def test_bad_hook_files_are_one_line_each_and_the_good_one_runs(hooked: Any) -> None:
    """Each fault is reported with file, line and reason; the migration and the last file go on."""
    project = hooked(
        a_syntax="x = (\n",
        b_missing="import os\nimport nosuchpackage\n",
        c_event=f"{HEAD}@register_hook('post_exec')\ndef f(context): ...\n",
        d_arguments=f"{HEAD}@register_hook('post_execute')\ndef f(): ...\n",
        e_twice=f"{HEAD}@register_hook('on_error')\n@register_hook('on_error')\ndef f(c): ...\n",
        f_exit="raise SystemExit(7)\n",
        g_good=f"{HEAD}@register_hook('post_execute')\ndef f(c): print('good', c.event)\n",
    )
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    assert "good post_execute" in done.stderr
    assert "good" not in done.stdout
    reasons = {
        "a_syntax.py:1": "is not valid Python",
        "b_missing.py:2": "imports nosuchpackage, which is not installed",
        "c_event.py:2": "unknown hook event 'post_exec' (did you mean 'post_execute'?); the events "
        "are pre_execute, post_execute, on_error, post_rollback; its hooks do not run",
        "d_arguments.py:2": "f cannot be called with one argument",
        "e_twice.py:2": "f is registered for on_error twice",
        "f_exit.py:1": "raised SystemExit when it was imported",
    }
    failed = events(done.stderr, "hook.failed")
    assert [f"{one['file']}:{one['line']}" for one in failed] == [
        f"confiture_hooks/{place}" for place in reasons
    ]
    for one, reason in zip(failed, reasons.values(), strict=True):
        assert one["reason"].startswith(reason)
        assert one["reason"].endswith("; its hooks do not run")
        assert done.stderr.count(one["hook"]) == 1
    for way, unlogged in (("down", ("LOG", "off")), ("up", ("LOG_LEVEL", "critical"))):
        done = project.confiture(
            "migrate", way, env={f"CONFITURE_WEBHOOK_{unlogged[0]}": unlogged[1]}
        )
        for place, reason in reasons.items():
            said = f"confiture-webhooks: confiture_hooks/{place}: {reason}"
            assert done.stderr.count(said) == 1, said
    checked = project.confiture("webhooks", "check", "--format", "json")
    assert checked.returncode == 5
    assert json.loads(checked.stdout)["faults"][0]["setting"] == "confiture_hooks/a_syntax.py:1"


@pytest.mark.survived("A hook file that is too large", "unharmed", "kept", "said")
def test_a_hook_file_that_is_too_large_is_not_read(hooked: Any, receiver: Any) -> None:
    """One line names it, the migration does not wait for it, and the other hooks run."""
    project = hooked(
        a_large="print('large')\n" + "x = 1\n" * 200_000,
        b_good=f"{HEAD}@register_hook('post_execute')\ndef f(c): print('good', c.event)\n",
    )
    done = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    assert done.returncode == 0
    assert done.stderr.count("confiture_hooks/a_large.py: is larger than 256 KiB") == 1
    assert "good post_execute" in done.stderr
    assert "large" not in done.stderr.splitlines()
    assert len(receiver.requests) == 1
    checked = project.confiture("webhooks", "check")
    assert checked.returncode == 5
    assert "is larger than 256 KiB" in checked.stderr


@pytest.mark.survived(
    "Hook files that raise, exit, hang or print without end", "unharmed", "kept", "said"
)
def test_what_hooks_raise_or_take_too_long_is_theirs(hooked: Any) -> None:
    """Exits, interrupts and a hook that hangs are log lines; later hooks run, the end is bounded.

    What a thread of a hook prints is on standard error, too. The line is where it was raised.
    """
    prints = "one = Thread(target=lambda: print('last')); one.start(); one.join()"
    body = "".join(
        f"@register_hook('post_execute')\ndef h{n}(context):\n    {line}\n"
        for n, line in enumerate(("leave()", "raise KeyboardInterrupt", "time.sleep(60)", prints))
    )
    helper = f"def leave():\n    raise SystemExit(3)\n{prints.replace('last', 'first')}\n"
    project = hooked(many=f"import time; from threading import Thread\n{HEAD}{body}{helper}")
    project.environment_file(webhooks={"hook_timeout": 1.5})
    plain = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOKS": "off"})
    project.confiture("migrate", "down")
    started = time.monotonic()
    done = project.confiture("migrate", "up")
    assert time.monotonic() - started < 50
    assert done.returncode == plain.returncode == 0
    for text in ("first", "last"):
        assert f"{text}\n" in done.stderr
        assert f"{text}\n" not in done.stdout
    failed = events(done.stderr, "hook.failed")
    assert [one["error_type"] for one in failed] == ["SystemExit", "KeyboardInterrupt", "timeout"]
    assert failed[0]["hook"] == "confiture_hooks.many:h0"
    assert failed[0]["file"].endswith("many.py")
    assert failed[0]["line"] == 16


@pytest.mark.survived(
    "Hook files that raise, exit, hang or print without end", "unharmed", "kept", "said"
)
def test_a_hook_that_prints_without_end_leaves_the_exit_code_alone(hooked: Any) -> None:
    """Left behind at its limit, it still writes when the command ends: that aborts nothing."""
    project = hooked(
        a=f"{HEAD}@register_hook('post_execute')\ndef f(c):\n    while True: print('x' * 2000)\n"
    )
    project.environment_file(webhooks={"hook_timeout": 0.3})
    ended = [project.confiture("migrate", way).returncode for way in ("up", "down", "up")]
    assert ended == [0, 0, 0]


def test_a_line_that_a_hook_leaves_open_is_no_part_of_a_log_event(hooked: Any) -> None:
    """``print(…, end="")``, flushed or not, is a line of its own: the next event stays readable."""
    body = "def f(c):\n    print('half', end='', flush={flush})\n    1 / 0\n"
    project = hooked(
        **{
            f"flush_{flush}".lower(): f"{HEAD}@register_hook('post_execute')\n{body.format(flush=flush)}"
            for flush in (True, False)
        }
    )
    done = project.confiture("migrate", "up")
    assert [line for line in done.stderr.splitlines() if "half" in line] == ["half"] * 2
    assert len(events(done.stderr, "hook.failed")) == 2


def test_hook_files_share_what_they_like(hooked: Any, receiver: Any) -> None:
    """A file that another imports is reported once; an address in a private module is reported once."""
    project = hooked(
        _shared="import os\nURL = os.environ['CONFITURE_WEBHOOK_URL']\n",
        a="from confiture_hooks import b\n",
        b=f"import requests\nfrom confiture_hooks._shared import URL\n{HEAD}"
        "@register_hook('post_execute')\ndef f(c): requests.post(URL, json={'own': 1})\n",
    )
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    assert project.confiture("migrate", "up", env=env).returncode == 0
    assert [one.payload for one in receiver.requests] == [{"own": 1}]
    assert (
        "b.py reads CONFITURE_WEBHOOK_URL" in project.confiture("webhooks", "check", env=env).stdout
    )


def test_a_package_that_raises_is_each_files_trouble(hooked: Any) -> None:
    """What ``__init__.py`` raises is reported with its own line, and the migration goes on."""
    project = hooked(
        __init__="\nraise RuntimeError\n", a="print('a runs')\n", b="print('b runs')\n"
    )
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    for one in (reported := events(done.stderr, "hook.failed")):
        assert (one["file"], one["line"]) == ("confiture_hooks/__init__.py", 2)
        assert one["reason"].startswith("raised RuntimeError")
    assert len(reported) == 2
    assert " runs" not in done.stderr


def test_every_event_reaches_its_hook_and_a_rehearsal_none(hooked: Any) -> None:
    """Up, a failure and down are reported in order; a dry run does not even import the files."""
    body = "".join(
        f"@register_hook('{event}')\ndef {event}(c): print('reported', c.event, c.migration_name)\n"
        for event in ("pre_execute", "post_execute", "on_error", "post_rollback")
    )
    project = hooked(all=f"print('imported')\n{HEAD}{body}")
    project.migration("002", "b", up="SELECT nosuch", down="SELECT 1")
    rehearsed = project.confiture("migrate", "up", "--dry-run")
    assert "imported" not in rehearsed.stderr + rehearsed.stdout
    up = project.confiture("migrate", "up")
    down = project.confiture("migrate", "down")
    reported = [
        line.removeprefix("reported ")
        for line in (up.stderr + down.stderr).splitlines()
        if line.startswith("reported")
    ]
    assert reported == [
        "pre_execute 001_a",
        "post_execute 001_a",
        "pre_execute 002_b",
        "on_error 002_b",
        "pre_execute 001_a",
        "post_rollback 001_a",
    ]
    assert up.stderr.count("imported") == 1


def test_a_refused_payload_says_why(hooked: Any) -> None:
    """What ``context.send`` refuses is one line with reason and place; what else is raised is not."""
    project = hooked(
        own=f"{HEAD}@register_hook('post_execute')\ndef f(c):\n    c.send({{}}, endpoint='b')\n"
        "@register_hook('post_execute')\ndef g(c):\n"
        "    c.send({}, endpoint='https://CANARY.invalid/')\n"
        "@register_hook('post_execute')\ndef h(c):\n"
        "    from confiture.hooks import HookError\n    raise HookError('CANARY')\n"
    )
    endpoint = {"name": "a", "url": "http://127.0.0.1:9/", "events": ["run_error"]}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    reported = [(one["line"], one["reason"]) for one in events(done.stderr, "hook.failed")]
    assert [reason for _, reason in reported] == [
        "no endpoint is called 'b'; there are: a; the payload is not sent",
        "no endpoint is called that; there are: a; the payload is not sent",
        None,
    ]
    assert [line for line, _ in reported][:2] == [4, 7]
    assert "confiture-webhooks:" not in done.stderr
    assert "CANARY" not in done.stderr


def test_a_payload_of_ones_own_takes_the_built_in_path(hooked: Any, receiver: Any) -> None:
    """``context.send`` is signed, retried and traced; what is not JSON is refused at the call."""
    receiver.script("/hook", [503])
    project = hooked(
        own=f"{HEAD}@register_hook('post_execute')\ndef f(c):\n"
        "    for bad, name in (({'x': object()}, 'a'), ({'x': float('nan')}, 'a'), ({}, 'b')):\n"
        "        try:\n            c.send(bad, endpoint=name)\n"
        "        except Exception as error:\n            print('refused:', error)\n"
        "    print('id', c.send({'z': 1, 'a': [c.migration_name]}, endpoint='a'))\n"
    )
    url = receiver.url.rstrip("/") + "/hook"
    endpoint = {"name": "a", "url": url, "secret": "s3cret", "events": ["run_error"]}
    endpoint["retry"] = {"schedule": [0.1]}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    assert "refused: the payload is not JSON (TypeError)" in done.stderr
    assert "refused: the payload is not JSON (ValueError)" in done.stderr
    assert "refused: no endpoint is called 'b'; there are: a" in done.stderr
    first, second = receiver.requests
    assert first.body == second.body == b'{"a": ["001_a"], "z": 1}'
    assert second.headers["X-Confiture-Event"] == "custom"
    assert second.headers["X-Migration-Version"] == "001"
    assert f"id {second.headers['webhook-id']}" in done.stderr
    (delivered,) = events(done.stderr, "webhook.delivered")
    assert second.headers["X-Correlation-ID"] == delivered["correlation_id"]
    verify(second.headers, second.body, "s3cret")


def test_filters_decide_who_is_sent_an_event(project: Any, receiver: Any) -> None:
    """Only fitting migrations are reported, and ``check --explain`` says the same with reasons."""
    project.migration("001", "add_billing_table", up=TABLE, down="DROP TABLE a")
    project.migration("002", "other", up="CREATE TABLE b (id int)", down="DROP TABLE b")
    endpoints = [
        {"name": "billing", "url": receiver.url, "migrations": ["*_billing_*"]},
        {"name": "runs", "url": receiver.url, "events": ["run_error"]},
        {"name": "elsewhere", "url": receiver.url, "environments": ["production"]},
    ]
    project.environment_file(webhooks={"endpoints": endpoints})
    assert project.confiture("migrate", "up").returncode == 0
    assert [one.payload["migration"]["name"] for one in receiver.requests] == [
        "001_add_billing_table"
    ]
    explain = ("webhooks", "check", "--explain", "migration_success", "--format", "json")
    rows = json.loads(project.confiture(*explain).stdout)["explain"]["endpoints"]
    assert [row["sent"] for row in rows] == [None, False, False]
    rows = json.loads(project.confiture(*explain, "--migration", "002_other").stdout)
    assert [row["reason"] for row in rows["explain"]["endpoints"]] == [
        "none of its `migrations` fits 002_other",
        "its `events` do not include migration_success",
        "its `environments` do not include local",
    ]
    assert project.confiture("webhooks", "check", "--explain", "nosuch").returncode == 2


@pytest.mark.parametrize("then", [("webhooks", "deliver"), ("migrate", "up")])
def test_hooks_that_use_up_the_flush_lose_no_webhook(
    hooked: Any, receiver: Any, then: tuple[str, ...]
) -> None:
    """What no time was left for, built-in or a hook's own, goes out with ``deliver`` or a run."""
    receiver.script("/hook", ["hang"])
    project = hooked(
        a=f"import time\n{HEAD}@register_hook('post_execute')\ndef f(c):\n"
        "    c.send({'own': c.migration_name})\n    time.sleep(60)\n"
    )
    endpoint = {"name": "a", "url": f"{receiver.url}/hook"}
    project.environment_file(webhooks={"endpoints": [endpoint], "flush_timeout": 1.5})
    started = time.monotonic()
    done = project.confiture("migrate", "up")
    assert time.monotonic() - started < 50
    assert done.returncode == 0
    assert "hooks ran out of time (flush_timeout" in done.stderr
    (hung,) = receiver.requests
    assert "2 deliveries not sent" in done.stderr
    listed = json.loads(project.confiture("webhooks", "list", "--format", "json").stdout)
    waiting = {row["event_id"]: row["state"] for row in listed["deliveries"]}
    assert len(waiting) == 2
    assert waiting[hung.headers["webhook-id"]] == "pending"
    assert project.confiture(*then).returncode == 0
    answered = {
        one.headers["webhook-id"]: one.headers["X-Confiture-Event"]
        for one in receiver.requests
        if one.answer.is_success
    }
    assert set(answered) == set(waiting)
    assert sorted(answered.values()) == ["custom", "migration_success"]


def test_only_events_that_a_hook_is_for_are_missed(hooked: Any) -> None:
    """Two migrations ended without the hook; that they began is of no concern to it."""
    project = hooked(
        a=f"import time\n{HEAD}@register_hook('post_execute')\ndef f(_):\n    time.sleep(60)\n"
    )
    project.migration("002", "b", up="SELECT 1", down="SELECT 1")
    project.environment_file(webhooks={"flush_timeout": 0.5})
    done = project.confiture("migrate", "up")
    assert "hooks ran out of time (flush_timeout 0.5 s): 2 events did not" in done.stderr


@pytest.mark.parametrize("closed", [None, 2, 1])
def test_a_stream_that_takes_nothing_is_no_hooks_trouble(
    hooked: Any, receiver: Any, closed: int | None
) -> None:
    """With a full or closed stream a hook that prints and logs runs on, and changes no exit code."""
    project = hooked(
        a=f"import logging, sys\nimport requests\n{HEAD}@register_hook('post_execute')\n"
        "def f(c):\n    print('before')\n    print('there', file=sys.stderr)\n"
        f"    logging.error('and there')\n    requests.post('{receiver.url}', json={{}})\n"
        "    print('after')\n"
    )

    def ended(**env: str) -> int:
        options = {"cwd": project.path, "env": project.environ(env), "timeout": 60}
        if closed is not None:
            options["preexec_fn"] = partial(os.close, closed)
        with Path("/dev/full").open("w") as full:
            stderr = subprocess.DEVNULL if closed else full
            return forked.run(["migrate", "up", "--force"], stderr=stderr, **options).returncode

    plain = ended(CONFITURE_WEBHOOKS="off")
    project.confiture("migrate", "down", env={"CONFITURE_WEBHOOKS": "off"})
    assert ended(CONFITURE_WEBHOOK_FLUSH_TIMEOUT="60") == plain
    assert len(receiver.requests) == 1


WRITES = (
    f"{HEAD}open('ran', 'w').close()\n@register_hook('post_execute')\ndef f(c): print('hooked')\n"
)


@pytest.mark.survived("Hook files of another user", "unharmed", "private", "said")
@pytest.mark.parametrize(
    ("path", "mode", "owner"),
    [
        ("confiture_hooks", 0o777, None),
        ("confiture_hooks/a.py", 0o666, None),
        ("confiture_hooks", 0o755, 65534),
        ("confiture_hooks/a.py", 0o644, 65534),
        ("confiture_hooks/_shared.py", 0o644, 65534),
        ("confiture_hooks/sub", 0o777, None),
    ],
)
def test_hook_files_of_others_are_not_used(
    hooked: Any, receiver: Any, path: str, mode: int, owner: int | None
) -> None:
    """One line says why, nothing of it is run, and the built-in endpoint does not stand down.

    The command that the line shows settles it.
    """
    project = hooked(a=WRITES + "import os\nos.environ.get('CONFITURE_WEBHOOK_URL')\n", _shared="")
    (project.path / "confiture_hooks" / "sub").mkdir()
    (project.path / "confiture_hooks" / "sub" / "__init__.py").touch()
    (project.path / path).chmod(mode)
    if owner is not None:
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(project.path / path, owner, owner)
    done = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    assert done.returncode == 0
    why = "belongs to another user" if owner else "may be written by others"
    assert done.stderr.count(f"{path}: {why}") == 1
    assert "hooked" not in done.stderr
    assert not (project.path / "ran").exists()
    assert len(receiver.requests) == 1
    checked = project.confiture("webhooks", "check")
    assert checked.returncode == 5
    assert why in checked.stderr
    command = checked.stderr.split("if you trust it, `")[1].split("`")[0]
    subprocess.run(["sh", "-c", command], cwd=project.path, check=True)  # noqa: S603, S607
    done = project.confiture("migrate", "down")
    assert (project.path / "ran").exists(), done.stderr


@pytest.mark.survived("Hook files of another user", "unharmed", "private", "said")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_another_users_link_to_hook_files_of_ours_is_not_followed(project: Any) -> None:
    """In a directory where others may write, a link would choose what of ours runs."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    elsewhere = project.path.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "a.py").write_text(WRITES, encoding="utf-8")
    link = project.path / "confiture_hooks"
    link.symlink_to(elsewhere)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    assert done.stderr.count("confiture_hooks: belongs to another user") == 1
    assert not (project.path / "ran").exists()


def test_that_the_default_endpoint_stands_down_is_said(hooked: Any, receiver: Any) -> None:
    """The run names the file that reads the variable itself; a test is sent, and says so."""
    reads = f"{HEAD}import os\nos.environ.get('CONFITURE_WEBHOOK_URL')\n"
    project = hooked(a=reads, b=reads)
    done = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    assert done.returncode == 0
    assert "confiture_hooks/a.py reads CONFITURE_WEBHOOK_URL itself" in done.stderr
    assert done.stderr.count("so the endpoint default is not used") == 1
    assert receiver.requests == ()
    tested = project.confiture("webhooks", "test", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    said = "Endpoint default: this test is sent, events are not, because a hook file reads "
    assert f"{said}CONFITURE_WEBHOOK_URL itself\n" in tested.stderr
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "change",
    [
        "import io, sys\nsys.stdout = sys.stderr = io.StringIO()",
        "import json\njson.dumps = json.loads = lambda *a, **k: 1 / 0",
        "import logging, sys\nlogging.basicConfig(stream=sys.stdout, level=0)\nlogging.warning('w')",
    ],
    ids=["streams", "json", "logging"],
)
def test_what_a_hook_file_changes_for_everyone_changes_no_run(
    hooked: Any, receiver: Any, change: str
) -> None:
    """Standard output is as without the file, and every webhook is sent."""
    project = hooked(a=f"{change}\n")
    project.environment_file(migration={"view_helpers": "off"})
    project.migration("002", "b", up="SELECT nosuch", down="SELECT 1")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    done = project.confiture("migrate", "up", env=env)
    sent = [request.payload["event_type"] for request in receiver.requests]
    assert sent == ["migration_success", "migration_error"]
    project.confiture("migrate", "down", env={"CONFITURE_WEBHOOKS": "off"})
    off = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOKS": "off"})
    timeless = [re.sub(r"[\d.]+ ?m?s\b", "", one.stdout) for one in (done, off)]
    assert (done.returncode, timeless[0]) == (off.returncode, timeless[1])


def test_what_a_process_of_a_hook_prints_is_not_the_commands(hooked: Any) -> None:
    """A process that a hook forks prints to standard error, as the hook does."""
    process = "get_context('fork').Process(target=print, args=['from a child'])"
    call = f"@register_hook('post_execute')\ndef f(c): p = {process}; p.start(); p.join()\n"
    done = hooked(a=f"{HEAD}from multiprocessing import get_context\n{call}").confiture(
        "migrate", "up"
    )
    assert done.returncode == 0, done.stderr
    assert "from a child" in done.stderr
    assert "from a child" not in done.stdout


@pytest.mark.newest
@pytest.mark.skipif(sys.version_info < (3, 14), reason="an earlier Python needs what they name")
@pytest.mark.parametrize("annotation", ["HookContext", "int | 'Later'"])
def test_a_hook_runs_whatever_its_annotations_name(hooked: Any, annotation: str) -> None:
    """Nobody looks up what an annotation names: it may be imported for type checkers alone."""
    function = f"@register_hook('post_execute')\ndef f(c: {annotation}): print('ran', c.event)\n"
    done = hooked(a=f"{HEAD}{function}").confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    assert "ran post_execute" in done.stderr


@pytest.mark.survived("A hook that changes the working directory", "unharmed")
@pytest.mark.parametrize("where", ["import", "call"])
def test_a_hook_that_changes_the_directory_changes_its_own(hooked: Any, where: str) -> None:
    """The host's relative paths hold, whenever a hook leaves for another directory."""
    call = "@register_hook('pre_execute')\ndef f(c): os.chdir('/'); print('in', os.getcwd())\n"
    at_import = "os.chdir('/')\n" if where == "import" else ""
    project = hooked(a=f"{HEAD}import os\n{at_import}{call}")
    project.migration("002", "b", up="SELECT 1", down="SELECT 1")
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    assert "in /" in done.stderr


@pytest.mark.survived("A hook file that replaces parts of the standard library", "unharmed", "said")
@pytest.mark.parametrize(
    "replaced",
    ["socket.socket", "select.epoll", "threading.Thread.start", "time.sleep", "json.dumps"],
)
def test_what_a_hook_file_replaces_is_put_back(hooked: Any, receiver: Any, replaced: str) -> None:
    """The migrations commit, every webhook is sent, and one line names what was replaced."""
    module = replaced.partition(".")[0]
    call = "@register_hook('post_execute')\ndef f(c): print('hooked', c.migration_name)\n"
    project = hooked(a=f"{HEAD}import {module}\n{replaced} = None\n{call}")
    for version in ("002", "003"):
        project.migration(version, "b", up="SELECT pg_sleep(0.2)", down="SELECT 1")
    done = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(receiver.requests) == 3
    assert done.stderr.count("hooked ") == 3
    name = ".".join(replaced.split(".")[-2:])
    assert f"confiture_hooks.a replaced {name}. It was put back" in done.stderr


def test_what_a_migration_replaces_stays_while_hooks_run(hooked: Any) -> None:
    """A hook that ends meanwhile takes nothing from it, and is not blamed."""
    call = "@register_hook('pre_execute')\ndef f(c): time.sleep(0.1); print('hooked')\n"
    project = hooked(a=f"{HEAD}import time\n{call}")
    source = (
        "import json, time\n"
        "from confiture.models.migration import Migration\n"
        "class B(Migration):\n"
        "    version, name = '002', 'b'\n"
        "    def up(self):\n"
        "        json.dumps, before = str, json.dumps\n"
        "        time.sleep(0.5)\n"
        "        assert json.dumps is str\n"
        "        json.dumps = before\n"
        "    def down(self): pass\n"
    )
    project.python_migration("002", "b", source)
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hooked" in done.stderr
    assert "replaced" not in done.stderr


def test_a_payload_without_any_endpoint_says_so(hooked: Any) -> None:
    """In words, and not as the name of an endpoint."""
    project = hooked(a=f"{HEAD}@register_hook('post_execute')\ndef f(c):\n    c.send({{}})\n")
    done = project.confiture("migrate", "up")
    [failed] = events(done.stderr, "hook.failed")
    assert failed["reason"] == (
        "no endpoint is configured, so context.send has none to send to; the payload is not sent"
    )
