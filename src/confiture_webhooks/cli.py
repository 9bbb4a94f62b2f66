"""``confiture webhooks …``: the commands, in the host's style."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .cli_deliver import deliver
from .cli_operate import discard, enable, redeliver
from .cli_outbox import list_deliveries, say, show, status
from .cli_receiver import listen, verify_command
from .cli_settings import FAILED, ConfigOpt, FormatOpt, is_json, print_json, refuse, settings_of
from .config import Settings, redacted
from .demo import demo
from .errors import Fault, OutboxError
from .session import operators_outbox

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Validate the configuration and show the endpoints, secrets and addresses hidden.

    PROCESS:
      Reads the environment and the file's `webhooks:` block as `confiture migrate` would.
      Sends nothing.

    EXAMPLES:
      confiture webhooks check
        ↳ Check what a migration here would use

      confiture webhooks check --config db/environments/production.yaml
        ↳ Check another environment

    EXIT CODES:
      0  The configuration is valid.
      5  It is not, or no endpoint is configured; every fault is printed.
    """
    settings = settings_of(config, output)
    document = redacted(settings)
    if is_json(output):
        print_json({"ok": True, **document})
        return
    table = Table("endpoint", "address", "events", "environments", "secrets", "timeout")
    for endpoint in document["endpoints"]:
        table.add_row(
            escape(endpoint["name"]),
            escape(endpoint["url"]),
            ", ".join(endpoint["events"]),
            ", ".join(endpoint["environments"] or ["all"]),
            str(endpoint["secrets"]),
            f"{endpoint['timeout_s']:g} s",
        )
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"environment: {escape(str(settings.environment or '(none)'))}   "
        f"outbox: {escape(document['outbox'])}   "
        f"flush timeout: {document['flush_timeout_s']:g} s"
    )
    console.print("[green]✅ The configuration is valid[/green]")


@app.command()
def test(
    name: Annotated[str | None, typer.Argument(help="Endpoint (default: all of them)")] = None,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Send a ping to an endpoint now, through the real path: signed, retried, traced.

    EXAMPLES:
      confiture webhooks test
        ↳ Ping every endpoint

      confiture webhooks test analytics --format json
        ↳ Ping one, for a script

    EXIT CODES:
      0  Every ping was delivered.
      1  One was not within the flush timeout.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    settings = settings_of(config, output, is_sending=True)
    names = [endpoint.name for endpoint in settings.endpoints]
    if name is not None and name not in names:
        refuse(
            [Fault("NAME", f"no endpoint is called {name!r}", f"One of: {', '.join(names)}")],
            output,
        )
    from .ping import ping  # noqa: PLC0415

    _warn_off(settings, [name] if name is not None else names)
    results = ping(settings, os.environ, name)
    is_delivered = all(result.is_delivered for result in results)
    if is_json(output):
        print_json({"ok": is_delivered, "results": [result.as_dict() for result in results]})
    else:
        _show_pings([result.as_dict() for result in results])
    if not is_delivered:
        raise typer.Exit(FAILED)


def _warn_off(settings: Settings, names: list[str]) -> None:
    """Say which of *names* are off: a ping goes out all the same, events do not."""
    with suppress(OutboxError):
        outbox = operators_outbox(settings, os.environ)
        try:
            for name in names:
                if name in outbox.disabled(settings.environment):
                    say(
                        f"Endpoint {name} is off since it answered 410: the ping goes out, "
                        f"events do not. 'confiture webhooks enable {name}' switches it on"
                    )
        finally:
            outbox.close()


def _show_pings(rows: list[dict[str, Any]]) -> None:
    table = Table("endpoint", "result", "status", "latency", "attempts", "trace id")
    for row in rows:
        table.add_row(
            escape(row["endpoint"]),
            "[green]delivered[/green]" if row["delivered"] else "[red]not delivered[/red]",
            str(row["status_code"] or row["error_type"] or "-"),
            f"{row['duration_ms']:g} ms" if row["duration_ms"] is not None else "-",
            str(row["attempts"]),
            row["trace_id"],
        )
    Console(soft_wrap=True).print(table)


app.command("demo")(demo)
app.command("deliver")(deliver)
app.command("list")(list_deliveries)
app.command()(show)
app.command()(status)
app.command()(redeliver)
app.command()(discard)
app.command()(enable)
app.command("listen")(listen)
app.command("verify")(verify_command)
