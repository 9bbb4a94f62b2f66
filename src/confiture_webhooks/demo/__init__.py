"""``confiture webhooks demo``: the whole product on this machine, with nothing installed."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..errors import WebhooksError
from ..terminal import say

NOT_RECEIVED = 1
NOT_RUN = 2
INTERRUPTED = 130
NO_COLLECTOR = (
    "Start one, or give the http or https address at which one takes it, mostly port 4318"
)
ANSWERS = (200, 503)
"""The second webhook's first attempt is refused; everything after is accepted."""
COMMANDS = (("migrate", "up"), ("migrate", "down"))
SLOW = "SELECT pg_sleep(60);\n"
ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
END_SLEEP = ASLEEP.replace("SELECT 1", "SELECT pg_terminate_backend(pid, 10000)")
WAIT_S = 20.0
MIGRATIONS = {
    "001_create_customers": (
        """\
CREATE TABLE customers (id int PRIMARY KEY, email text NOT NULL);
INSERT INTO customers SELECT n, 'customer' || n FROM generate_series(1, 500) n;
""",
        "DROP TABLE customers;\n",
    ),
    "002_add_payment_table": (
        """\
CREATE TABLE payments (id int PRIMARY KEY, customer_id int REFERENCES customers);
INSERT INTO payments SELECT id, id FROM customers;
""",
        "DROP TABLE payments;\n",
    ),
    "003_add_refunds": ("ALTER TABLE refunds ADD COLUMN reason text;\n", "SELECT 1;\n"),
}
"""Names with their way up and down. The third fails: there is no such table."""
_INHERITED_NOT = ("CONFITURE_", "OTEL_", "PG", "TRACE", "BAGGAGE", "CORRELATION_ID", "DATABASE_URL")


@dataclass(frozen=True, slots=True)
class Ran:
    """One command of the host, run to its end."""

    arguments: tuple[str, ...]
    exit_code: int
    duration_s: float
    output: str


def demo(
    otlp: Annotated[
        str | None,
        typer.Option("--otlp", help="OTLP/HTTP URL of a running collector to send to as well"),
    ] = None,
    keep: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--keep", help="Keep the demo's project directory")
    ] = False,
) -> None:
    """Show everything on this machine: migrations, webhooks, a trace, metrics and logs.

    PROCESS:
      Starts a PostgreSQL from a wheel, a webhook receiver and an OTLP
      collector, all on 127.0.0.1. Then it runs the real `confiture`, set up by
      environment variables alone. Two migrations succeed (the webhook of the
      second is answered 503 at first), one fails, one is rolled back, and one
      run is killed and settled by the next command. Shows what arrived.

    EXAMPLES:
      confiture webhooks demo
        ↳ Needs the extra `demo` of confiture-webhooks

      confiture webhooks demo --otlp http://127.0.0.1:4318
        ↳ See it in your own Jaeger and Grafana too

    RELATED:
      confiture webhooks listen  - Receive your own migrations' webhooks
      confiture webhooks test    - Send a ping

    EXIT CODES:
      0    Everything was received.
      1    Something was not; it is named.
      2    The demo could not run: the extra is missing, or --otlp names no collector.
      130  Ended with Ctrl-C; everything is cleaned up.
    """
    stdout = Console()
    console = stdout if stdout.is_terminal else Console(width=120)
    try:
        lacking = _run(console, otlp, is_kept=keep)
    except WebhooksError as error:
        say(f"❌ {error}", style="red")
        raise typer.Exit(NOT_RUN) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if lacking:
        raise typer.Exit(NOT_RECEIVED)


def _run(console: Console, otlp: str | None, *, is_kept: bool) -> list[str]:
    from ..local_postgres import LocalPostgres  # noqa: PLC0415
    from ..receiver import LocalReceiver  # noqa: PLC0415
    from ..receiver.collector import LocalCollector  # noqa: PLC0415
    from .view import Seen, missing  # noqa: PLC0415

    refusal = None if otlp is None else _send_on(otlp, [("/v1/traces", b"")])
    if refusal:
        raise WebhooksError(f"--otlp: no collector takes OTLP there ({refusal}). {NO_COLLECTOR}")
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    killed = secrets.token_hex(16)
    with ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # all is tidied up
        stack.callback(signal.signal, signal.SIGTERM, before)
        project = stack.enter_context(_project(console, is_kept=is_kept))
        collector = stack.enter_context(LocalCollector())
        receiver = stack.enter_context(LocalReceiver(secret=secret, answers=ANSWERS))
        console.print(Text("Starting a PostgreSQL …", style="dim"))
        server = stack.enter_context(LocalPostgres())
        settings = {
            "CONFITURE_DATABASE_URL": server.dsn(),
            "CONFITURE_ENVIRONMENT": "demo",
            "CONFITURE_WEBHOOK_URL": f"{receiver.url}/webhooks/migrations",
            "CONFITURE_WEBHOOK_SECRET": secret,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        hidden = ("CONFITURE_DATABASE_URL", "CONFITURE_WEBHOOK_SECRET")
        for name, value in settings.items():
            shown = "…" if name in hidden else value
            console.print(f"export {name}={shown}", style="dim", soft_wrap=True)
        ran = [_confiture(arguments, project, settings) for arguments in COMMANDS]
        ran.append(_killed(project, {**settings, "TRACEPARENT": f"00-{killed}-{killed[:16]}-01"}))
        ran.append(_confiture(("webhooks", "deliver"), project, settings))
        receiver.close()
        collector.close()
        seen = Seen(collector.spans, collector.metrics, collector.logs, receiver.requests, killed)
        lacking = missing(seen)
        failure = None if otlp is None else _send_on(otlp, collector.bodies)
        if failure:
            lacking.append(f"at --otlp: {failure}")
        _show(console, ran, seen)
        _conclude(console, ran, lacking, otlp)
    return lacking


def _send_on(otlp: str, bodies: Iterable[tuple[str, bytes]]) -> str | None:
    """Send each of *bodies* to the collector at *otlp* until it takes one not; then why."""
    import requests  # noqa: PLC0415

    headers = {"Content-Type": "application/x-protobuf"}
    for path, body in bodies:
        url = otlp.rstrip("/") + path
        try:
            answer = requests.post(url, body, headers=headers, timeout=5)
        except requests.RequestException as error:
            return f"{path}: {type(error).__name__}"
        if not answer.ok:
            return f"{path}: HTTP {answer.status_code}"
    return None


@contextmanager
def _project(console: Console, *, is_kept: bool) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="confiture-webhooks-demo-"))
    try:
        migrations = path / "db" / "migrations"
        migrations.mkdir(parents=True)
        for name, (up, down) in MIGRATIONS.items():
            (migrations / f"{name}.up.sql").write_text(up, encoding="utf-8")
            (migrations / f"{name}.down.sql").write_text(down, encoding="utf-8")
        yield path
    finally:
        if is_kept:
            console.print(Text(f"Kept: {path}"), soft_wrap=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _confiture(
    arguments: tuple[str, ...],
    project: Path,
    settings: Mapping[str, str],
    until: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Ran:
    """The real console script in a process of its own, which is killed *until* has returned."""
    script = shutil.which("confiture", path=sysconfig.get_path("scripts"))
    if script is None:
        raise WebhooksError("no `confiture` command beside this Python")
    inherited = {k: value for k, value in os.environ.items() if not k.startswith(_INHERITED_NOT)}
    started = time.monotonic()
    with subprocess.Popen(
        [script, *arguments],
        cwd=project,
        env={**inherited, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            if until is not None:
                until(process)
                process.kill()
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired as error:
            raise WebhooksError(f"`confiture {' '.join(arguments)}` did not end") from error
        finally:
            process.kill()
    duration_s = time.monotonic() - started
    return Ran(arguments, process.returncode, duration_s, output.decode(errors="replace"))


def _killed(project: Path, settings: Mapping[str, str]) -> Ran:
    """The same, killed while its first migration sleeps; the server has ended that migration."""
    import psycopg  # noqa: PLC0415

    name = "002_add_payment_table"
    file = project / "db" / "migrations" / f"{name}.up.sql"
    file.write_text(MIGRATIONS[name][0] + SLOW, encoding="utf-8")
    with psycopg.connect(settings["CONFITURE_DATABASE_URL"], autocommit=True) as watch:

        def until_asleep(process: subprocess.Popen[bytes]) -> None:
            deadline = time.monotonic() + WAIT_S
            while watch.execute(ASLEEP).fetchone() is None:
                if time.monotonic() > deadline or process.poll() is not None:
                    return
                time.sleep(0.02)

        ran = _confiture(("migrate", "up"), project, settings, until_asleep)
        watch.execute(END_SLEEP)
    return ran


def _show(console: Console, ran: list[Ran], seen: Any) -> None:
    from . import view  # noqa: PLC0415

    def section(title: str, content: Any) -> None:
        console.print()
        console.print(Text(title, style="bold"))
        console.print(Padding(content, (0, 0, 0, 2)))

    console.print()
    for one in ran:
        line = f"$ confiture {' '.join(one.arguments)}"
        how = "killed" if one.exit_code < 0 else f"exit code {one.exit_code}"
        intended = ", as intended," if one.exit_code and one.arguments == ("migrate", "up") else ""
        ended = f"   {how}{intended} after {one.duration_s:.1f} s"
        console.print(Text(line, style="bold") + Text(ended, style="dim"))
    for name, trace_id in seen.runs:
        section(f"Trace of {name}", view.trace_table(seen, trace_id))
    section("Deliveries, attempt by attempt", view.deliveries_table(seen))
    section("Metrics", view.metrics_table(seen.points))
    section("Log lines", view.logs_table(seen.logs))
    section("One id ties them", view.ties(seen))


def _conclude(console: Console, ran: list[Ran], lacking: list[str], otlp: str | None) -> None:
    console.print()
    if not lacking:
        words = "✅ All of this was sent by the commands above and received here"
        words += f", and sent on to {otlp}" if otlp else ""
        console.print(Text(words, style="green"))
        return
    for one in ran:
        console.print(Text(f"--- output of confiture {' '.join(one.arguments)}", style="dim"))
        console.print(Text(one.output), soft_wrap=True)
    for thing in lacking:
        console.print(Text(f"❌ Not received: {thing}", style="red"), soft_wrap=True)
