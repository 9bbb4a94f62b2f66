"""``confiture webhooks enable`` and ``disable``: an endpoint in one environment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ..delivery import State
from ..errors import Fault
from ..outlook import again_lines, shown_environment
from ..remedy import shown
from .context import Context, opened
from .options import ConfigOpt, FormatOpt
from .tables import conclude, fail, refuse


def enable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Switch an endpoint on again, after a 410 or `disable`.

    EXAMPLES:
      confiture webhooks enable analytics
        ↳ The next `confiture webhooks deliver` sends the deliveries that wait

    EXIT CODES:
      0  It is on.
      1  It was not off.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, output) as context:
        outbox, environment = context.outbox, context.environment
        _check_name(context, name)
        if not outbox.enable(name, environment):
            fail(f"Endpoint {name} is not off", output)
        waiting = _waiting(context, name)
        found = outbox.deliveries(state=State.GONE, endpoint=name, environment=environment)
        gone = [row.delivery.id for row in found]
        waits = context.outlook({name: waiting}, {}, datetime.now(UTC))
    lines = [f"Endpoint {name} is on in environment {shown_environment(environment)}"]
    lines += [wait.line for wait in waits]
    if waiting and not waits:
        are = "delivery is" if waiting == 1 else "deliveries are"
        lines.append(f"{waiting} {are} waiting for it. Send now: {shown('deliver')}")
    lines += again_lines(0, len(gone), "--endpoint", name)
    conclude({"ok": True, "endpoint": name, "waiting": waiting, "gone": gone}, lines, output)


def disable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Switch an endpoint off: its events are recorded and wait.

    EXAMPLES:
      confiture webhooks disable analytics
        ↳ Before its receiver is taken down for long; `enable` switches it on again

    EXIT CODES:
      0  It is off.
      1  It was off already, or the outbox cannot be used.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, output, creates=True) as context:
        _check_name(context, name)
        if _is_off(context, name):
            on = shown("enable", name)
            fail(f"Endpoint {name} is off already. Switch it on: {on}", output)
        context.outbox.disable(name, context.environment, datetime.now(UTC))
        waiting = _waiting(context, name)
    where = shown_environment(context.environment)
    lines = [
        f"Endpoint {name} is off in environment {where}: its events are recorded and wait",
        f"Switch it on: {shown('enable', name)}",
    ]
    conclude({"ok": True, "endpoint": name, "waiting": waiting}, lines, output)


def _is_off(context: Context, name: str) -> bool:
    standing = context.outbox.standing(context.environment).get(name)
    return standing is not None and standing.off_since is not None


def _check_name(context: Context, name: str) -> None:
    names = context.names
    if name not in names and not _is_off(context, name):
        problem = f"no endpoint called {name!r} is configured"
        one_of = f"One of: {', '.join(names)}" if names else "None is configured"
        refuse([Fault("NAME", problem, one_of)], context.output)


def _waiting(context: Context, name: str) -> int:
    """How many deliveries to endpoint *name* wait in the environment."""
    summary = context.outbox.summaries().get(context.environment)
    return summary.undelivered.get(name, 0) if summary else 0
