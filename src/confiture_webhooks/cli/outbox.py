"""``confiture webhooks outbox init`` and ``drop``: the outbox created, and removed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from ..config import Settings
from ..config.variables import OUTBOX
from ..delivery import State
from ..errors import OutboxError
from ..outbox import postgres_rights, postgres_schema, sqlite_file
from ..outbox.postgres import PostgresOutbox
from ..outbox.postgres_refusal import ADMIN, as_role, by_admin, lacks_right
from ..outlook import listed, shown_environment
from ..remedy import shown
from ..terminal import counted, printable, say
from ..wiring import outbox_place, postgres_dsn, sqlite_path
from .context import Context, opened, refusal
from .options import ConfigOpt, FormatOpt, YesOpt, each, environment_of, not_empty
from .status import runs
from .tables import agree, conclude, with_exit_codes

outbox_app = typer.Typer(no_args_is_help=True, help="Create or remove the outbox")
INIT_S = 120.0
"""How long ``init`` may take; a run waits less."""


@outbox_app.command()
@with_exit_codes
def init(
    role: Annotated[
        str | None,
        typer.Option("--role", callback=not_empty, help="The role that migrates, for the GRANTs"),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            "--environment",
            callback=each(environment_of),
            help="With --role: the GRANTs are for this environment's rows only",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="With --environment: the role does not keep the environments it has"
        ),
    ] = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Create the PostgreSQL outbox, and print the rights that another role needs to use it.

    PROCESS:
      Connects as `database_url` says, or as CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn> does, and
      creates the schema confiture_webhooks, or what is missing of it. With --role it prints
      statements for psql, and nothing else, on standard output.

    EXAMPLES:
      CONFITURE_WEBHOOK_OUTBOX=postgres confiture webhooks outbox init --role deployer
        ↳ Create it, and print the GRANTs for the role called deployer

      CONFITURE_WEBHOOK_OUTBOX=postgres:postgresql://ADMIN@HOST/DB confiture webhooks outbox init
        ↳ Create it as another role, if that of `database_url` may not

      confiture webhooks outbox init --role staging --environment staging
        ↳ A role that reads and writes its own environment's rows, and no others. It keeps the
          environments that it had before, or all of them, unless --replace is given

    EXIT CODES:
      0  It is there.
      1  It could not be created, or there is no such role.
      2  --environment is given without --role, or --replace without --environment; or one is empty.
      5  The configuration is invalid, or names another outbox.
    """
    names = environment or []
    for option, name in (("--role", role or ""), *(("--environment", one) for one in names)):
        if not name.isprintable():  # it would be pasted into a terminal
            raise refusal(option, "has characters that cannot be shown", "Correct it")
    if names and role is None:
        raise typer.BadParameter("needs --role with the role's name", param_hint="--environment")
    if replace and not names:
        problem = "needs --role, and --environment with what the role is to have"
        raise typer.BadParameter(problem, param_hint="--replace")
    context = Context(config=config)
    settings = context.settings
    if settings.place.kind != "postgres":
        problem = f"is {settings.place.kind}, which needs no setting up"
        raise refusal("outbox", problem, f"Set it, or {OUTBOX}, to `postgres`")
    known = names[0] if names else settings.environment
    where = outbox_place(settings)
    try:
        dsn = postgres_dsn(settings)
        was_there = postgres_schema.is_there(dsn)
        with closing(PostgresOutbox(dsn, environment=known, making_s=INIT_S)) as outbox:
            is_made = outbox.is_made_anew()
            is_missing = role is not None and not outbox.has_role(role)
        all_of = names if replace or role is None else postgres_rights.added(dsn, role, names)
    except OutboxError as error:
        error.remedy = _by_admin(error, settings, role, names, replaces=replace)
        raise context.explained(error) from error
    if is_missing:
        problem = f"the outbox {where} is there, but the role {printable(role)} is not"
        raise OutboxError(problem, "Create the role, then run this again for its GRANTs")
    granted = postgres_rights.grants(role, *all_of) if role is not None else []

    def show() -> None:
        done = "what was missing of it is there now" if was_there else "created"
        say(f"✅ outbox {where}: {done if is_made else 'already there'}", style="green")
        if role is None:
            say("A role that may not create it needs GRANTs: name the role with --role")
            return
        say("Run these as the outbox's owner, so that the role can use it.")
        rows = ", ".join(map(shown_environment, all_of)) or "every environment"
        kept = ". To take away what it had before, add --replace" if all_of != names else ""
        say(f"Afterwards it has the rows of {rows}{kept}")
        print(*granted, sep="\n")

    made = {"outbox": where, "created": is_made and not was_there, "role": role, "grants": granted}
    conclude({"ok": True, **made}, show, output)


def _by_admin(
    error: OutboxError, settings: Settings, role: str | None, names: list[str], *, replaces: bool
) -> str | None:
    """The remedy of *error*; where a right is missing, the command that was given."""
    if role is None or not lacks_right(error):
        return error.remedy
    words = ["--role", role, *(["--replace"] if replaces else [])]
    words += [word for one in names for word in ("--environment", shown_environment(one))]
    variable = as_role(ADMIN, settings.place.rest)
    return by_admin(lambda **_: shown("outbox", "init", *words, variable=variable))


@outbox_app.command()
@with_exit_codes
def drop(yes: YesOpt = False, config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Remove the outbox with everything in it, of every environment.

    PROCESS:
      Asks first, unless --yes. Removes the SQLite file, or the schema confiture_webhooks of the
      database. The next run creates an empty outbox.

    EXAMPLES:
      confiture webhooks outbox drop
        ↳ Before `pip uninstall confiture-webhooks`

    EXIT CODES:
      0  It is removed, or there was none.
      1  It cannot be read or removed, the role does not own it, the answer was no, or there
         is no terminal.
      5  The configuration is invalid.
    """
    context, held = _held(config)
    agreed = ""
    while held and held != agreed:  # what comes while it is asked is asked about, too
        _check_owner(context.settings)
        agree(f"Remove the outbox {context.where} with {held}", yes=yes)
        agreed = held
        if not yes:
            context, held = _held(config)
    if held and context.settings.place.kind == "postgres":
        postgres_schema.drop(postgres_dsn(context.settings))
    elif held:
        sqlite_file.drop(sqlite_path(context.settings))
    removed = [f"Removed the outbox {context.where}"] if held else []
    conclude({"ok": True, "outbox": context.where, "dropped": bool(held)}, removed, output)


def _held(config: Path | None) -> tuple[Context, str]:
    """What is in the outbox, in words; empty if there is none."""
    with opened(config) as context:
        if not context.outbox.is_durable:
            return context, ""
        summaries = context.outbox.summaries()
        intents = len(context.outbox.intents())
    held = counted(sum(one.total for one in summaries.values()), "delivery", "deliveries")
    left = {
        name: count
        for name, one in summaries.items()
        if (count := one.total - one.counts.get(State.DELIVERED, 0))
    }
    if left:
        held += f", {sum(left.values())} not delivered ({listed(left)})"
    return context, held + (f" and {runs(intents)}" if intents else "")


def _check_owner(settings: Settings) -> None:
    """Raise OutboxError if the role may not remove the outbox, with the command of its owner."""
    if settings.place.kind != "postgres":
        return
    dsn = postgres_dsn(settings)
    name, may = postgres_schema.owner(dsn)
    if not may:
        command = shown("outbox", "drop", variable=as_role(name, dsn))
        problem = f"the outbox {settings.place.shown} belongs to the role {printable(name)}"
        raise OutboxError(problem, f"Remove it as that role: {command}")
