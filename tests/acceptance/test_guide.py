"""The guide's own code, word for word: its hook files and receivers with the real command."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.serving import make_server

from confiture_webhooks.receiver import LocalReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = (Path(__file__).parent.parent / "guide.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
SECRET = "your_secret_key"
"""The one in the guide's receiver."""
UP = "CREATE TABLE payments (id int); INSERT INTO payments VALUES (1), (2)"


def block(start: str) -> str:
    """The one block of code in the guide that starts with *start*."""
    (found,) = [block for block in BLOCKS if block.startswith(start)]
    return str(found)


@pytest.fixture
def guided(project: Any) -> Any:
    """A project with one migration, into which a hook file of the guide is put by name."""
    project.migration("005", "add_payment_table", up=UP, down="DROP TABLE payments")
    hooks = project.path / "confiture_hooks"
    hooks.mkdir()

    def put(name: str) -> Any:
        (hooks / name).write_text(block(f"# confiture_hooks/{name}"), encoding="utf-8")
        return project

    return put


@contextmanager
def flask_receiver() -> Iterator[tuple[str, list[int]]]:
    """The guide's Flask receiver on loopback: its address, and the codes it answers."""
    namespace: dict[str, Any] = {"__name__": "guides_receiver"}
    exec(block("# Your webhook receiver"), namespace)
    app, answered = namespace["app"], list[int]()
    app.after_request(lambda response: answered.append(response.status_code) or response)
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/webhooks/migrations", answered
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_simple_hook_file_reports_success_and_failure(guided: Any, receiver: Any) -> None:
    """Both payloads of the guide arrive, once each; the built-in endpoint stands down."""
    project = guided("webhooks.py")
    project.migration("006", "broken", up="SELECT nosuch", down="SELECT 1")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_SECRET": SECRET}
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode
    success, failure = (request.payload for request in receiver.requests)
    assert success["event_type"] == "migration_success"
    assert success["migration"] == {
        "name": "005_add_payment_table",
        "version": "005",
        "environment": "local",
    }
    assert success["execution"]["rows_affected"] == 2
    assert success["execution"]["duration_seconds"] > 0
    assert success["database"]["schema"] == "public"
    assert success["database"]["host"].startswith(("127.0.0.1", "localhost", "%2F"))
    assert failure["event_type"] == "migration_error"
    assert failure["error"] == {
        "type": "UndefinedColumn",
        "message": 'column "nosuch" does not exist',
    }
    assert receiver.requests[0].headers["X-Confiture-Secret"] == SECRET
    assert "✅ Webhook sent: migration_success" in done.stderr
    assert "Webhook" not in done.stdout
    checked = project.confiture("webhooks", "check", env=env)
    assert checked.returncode == 0
    assert "webhooks.py reads CONFITURE_WEBHOOK_URL itself" in checked.stdout


def test_one_of_several_targets_failing_leaves_the_others_alone(guided: Any) -> None:
    """The guide's loop goes on to the next target, and says which one failed."""
    project = guided("multi_webhooks.py")
    with LocalReceiver() as analytics, LocalReceiver() as slack:
        done = project.confiture(
            "migrate",
            "up",
            env={
                "WEBHOOK_ANALYTICS": analytics.url,
                "WEBHOOK_DASHBOARD": "http://127.0.0.1:9/dashboard",
                "WEBHOOK_SLACK": slack.url,
            },
        )
        reported = [request.payload["webhook_target"] for request in analytics.requests]
        reported += [request.payload["webhook_target"] for request in slack.requests]
    assert done.returncode == 0
    assert reported == ["analytics", "slack"]
    assert "⚠️ Webhook dashboard failed" in done.stderr


@pytest.mark.parametrize(("secret", "code"), [(SECRET, 200), ("another", 401)])
def test_the_guides_flask_receiver_judges_its_signed_hook(
    guided: Any, secret: str, code: int
) -> None:
    """Signed with its secret the receiver accepts the hook's webhook, with another it refuses."""
    project = guided("secure_webhooks.py")
    with flask_receiver() as (url, answered):
        env = {"CONFITURE_WEBHOOK_URL": url, "CONFITURE_WEBHOOK_SECRET": secret}
        done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    assert answered == [code]
    assert ("✅ Signed webhook sent" in done.stderr) is (code == 200)


def test_the_guides_flask_receiver_accepts_the_built_in_webhook(project: Any) -> None:
    """Without any hook file the same receiver accepts what the plugin itself sends."""
    project.migration("005", "add_payment_table", up=UP, down="DROP TABLE payments")
    with flask_receiver() as (url, answered):
        env = {"CONFITURE_WEBHOOK_URL": url, "CONFITURE_WEBHOOK_SECRET": SECRET}
        assert project.confiture("migrate", "up", env=env).returncode == 0
    assert answered == [200]


def test_the_guides_retry_loop_gets_through(guided: Any) -> None:
    """Two refusals, 2 s and 4 s apart, and the third attempt is delivered, within the flush."""
    project = guided("webhook_retry.py")
    with LocalReceiver(answers=[503, 503]) as receiver:
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "30"}
        done = project.confiture("migrate", "up", env=env)
        assert len(receiver.requests) == 3
    assert done.returncode == 0
    assert "retry in 4s" in done.stderr
    assert "✅ Webhook delivered successfully" in done.stderr


def test_the_custom_headers_carry_the_runs_id(guided: Any, receiver: Any, collector: Any) -> None:
    """The bearer key and the trace id arrive, and the hook's POST is a span below the hook's."""
    project = guided("advanced_webhooks.py")
    address = f"{receiver.url}?token=CANARY"
    env = {
        "CONFITURE_WEBHOOK_URL": address,
        "API_KEY": "key-1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    assert project.confiture("migrate", "up", env=env).returncode == 0
    (request,) = receiver.requests
    assert request.headers["Authorization"] == "Bearer key-1"
    assert request.headers["X-Migration-Version"] == "005"
    assert request.headers["X-Environment"] == "local"
    spans = {span.span_id: span for span in collector.spans}
    (post,) = [span for span in spans.values() if span.name == "POST"]
    chain, current = [], post
    while current is not None:
        chain.append(current.name)
        current = spans.get(current.parent_id or "")
    hook = "run hook confiture_hooks.advanced_webhooks:webhook_with_custom_headers"
    assert chain == ["POST", hook, "apply migration", "confiture migrate up"]
    assert request.headers["X-Correlation-ID"] == post.trace_id
    assert request.headers["traceparent"].split("-")[1] == post.trace_id
    assert "CANARY" not in repr(collector.spans)


def test_the_guides_test_receiver_prints_what_arrives(guided: Any, tmp_path: Path) -> None:
    """The guide's test server, started as it says, prints the simple hook's event."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = tmp_path / "test_webhooks.py"
    source = block("# test_webhooks.py")
    script.write_text(source, encoding="utf-8")
    # Its main block waits on port 8000 without end: the function above it is what is used.
    starting = (
        f"import test_webhooks, time; test_webhooks.start_test_server({port}); time.sleep(60)"
    )
    server = subprocess.Popen(
        [sys.executable, "-u", "-c", starting],
        cwd=tmp_path,
        env={"LANG": "C.UTF-8", "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert "listening" in server.stdout.readline()
        _await_port(port)
        url = f"http://localhost:{port}/webhooks"
        done = guided("webhooks.py").confiture("migrate", "up", env={"CONFITURE_WEBHOOK_URL": url})
    finally:
        server.kill()
    printed = server.communicate()[0]
    assert done.returncode == 0
    assert "Event: migration_success" in printed
    assert "Migration: 005_add_payment_table" in printed
    assert re.search(r"Duration: \d", printed)


def _await_port(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("nobody listens")
