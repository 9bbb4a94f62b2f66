"""``confiture webhooks …``: the commands by their names, in the host's style."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ..demo import demo
from .act import disable, discard, enable, redeliver
from .check import check, doctor
from .look import list_deliveries, show
from .outbox import outbox_app
from .receive import listen, verify_command
from .send import deliver, test
from .status import status
from .tables import with_exit_codes

app = typer.Typer(no_args_is_help=True)
COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "test": test,
    "demo": demo,
    "doctor": doctor,
    "deliver": deliver,
    "list": list_deliveries,
    "show": show,
    "status": status,
    "redeliver": redeliver,
    "discard": discard,
    "enable": enable,
    "disable": disable,
    "listen": listen,
    "verify": verify_command,
}
for name, command in COMMANDS.items():
    app.command(name)(with_exit_codes(command))
app.add_typer(outbox_app, name="outbox")
