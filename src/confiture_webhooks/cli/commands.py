"""``confiture webhooks …``: the commands, in the host's style."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated

import typer

from ..config import Settings
from ..demo import demo
from ..errors import Fault, OutboxError
from ..wiring import operators_outbox
from .check import check
from .deliver import deliver
from .deliveries import list_deliveries, show
from .doctor import doctor
from .endpoint import show_pings
from .operate import discard, enable, redeliver
from .options import ConfigOpt, FormatOpt, is_json
from .outbox_init import outbox_app
from .output import FAILED, print_json, refuse, say
from .project import settings_of
from .receiver import listen, verify_command
from .status import status

app = typer.Typer(no_args_is_help=True)
app.command()(check)


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
    from ..ping import ping  # noqa: PLC0415

    _warn_off(settings, [name] if name is not None else names)
    results = ping(settings, os.environ, name)
    is_delivered = all(result.is_delivered for result in results)
    if is_json(output):
        print_json({"ok": is_delivered, "results": [result.as_dict() for result in results]})
    else:
        show_pings([result.as_dict() for result in results])
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


app.command("demo")(demo)
app.command()(doctor)
app.command("deliver")(deliver)
app.command("list")(list_deliveries)
app.command()(show)
app.command()(status)
app.command()(redeliver)
app.command()(discard)
app.command()(enable)
app.add_typer(outbox_app, name="outbox")
app.command("listen")(listen)
app.command("verify")(verify_command)
