"""``confiture webhooks outbox init`` and ``drop``: the outbox created, and removed."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import Fault, OutboxError
from ..terminal import say
from ..wiring import postgres_dsn
from .context import settings_of
from .options import ConfigOpt, FormatOpt, is_json
from .output import fail, print_json, refuse

PLACEHOLDER = "the_role"

outbox_app = typer.Typer(no_args_is_help=True, help="Create or remove the outbox")


@outbox_app.callback()
def _outbox() -> None:
    """Create or remove the outbox."""


@outbox_app.command()
def init(
    role: Annotated[
        str, typer.Option("--role", help="The role that migrates, for the GRANTs")
    ] = PLACEHOLDER,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Create the PostgreSQL outbox, and print what a role that may not needs to use it.

    PROCESS:
      Connects as `database_url` says, or as CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn> does, and
      creates the schema confiture_webhooks. What is there already is left as it is.

    EXAMPLES:
      CONFITURE_WEBHOOK_OUTBOX=postgres confiture webhooks outbox init --role deployer
        ↳ Create it, and print the GRANTs for the role called deployer

    EXIT CODES:
      0  It is there.
      1  It could not be made.
      5  The configuration is invalid, or names another outbox.
    """
    settings = settings_of(config, output, needs_endpoint=False)
    kind = settings.outbox.partition(":")[0]
    if kind != "postgres":
        fault = Fault("outbox", f"is {kind}, which needs no setting up", "Set it to `postgres`")
        refuse([fault], output)
    from ..outbox.postgres import grants  # noqa: PLC0415

    try:
        where, is_made = _made(postgres_dsn(settings))
    except OutboxError as error:
        fail(str(error), output)
    if is_json(output):
        print_json({"ok": True, "outbox": where, "created": is_made, "grants": grants(role)})
        return
    done = "created" if is_made else "already there, nothing to do"
    say(f"✅ outbox {where}: {done}", style="green")
    say("A role that may not create it needs:")
    for statement in grants(role):
        print(statement)


def _made(dsn: str) -> tuple[str, bool]:
    """Make the outbox at *dsn*; how to name it, and whether there was anything to make."""
    from ..outbox.postgres import PostgresOutbox  # noqa: PLC0415

    outbox = PostgresOutbox(dsn)
    outbox.close()
    return outbox.where, outbox.has_made
