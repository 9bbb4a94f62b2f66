"""``confiture webhooks doctor``: the faults of a set-up, each with its remedy."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..doctor import diagnose
from ..doctor.health import Check, Health
from .context import invocation_of
from .options import ConfigOpt, FormatOpt, is_json
from .output import CONFIG_INVALID, FAILED, line, print_json

_MARKS = {
    Health.OK: ("✅", "green"),
    Health.WARNING: ("⚠️ ", "yellow"),
    Health.PROBLEM: ("❌", "red"),
    Health.SKIPPED: ("-", "dim"),
}


def doctor(
    is_pinging: Annotated[  # noqa: FBT002  an option
        bool, typer.Option("--ping", help="Also send a ping to every endpoint")
    ] = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Find the faults of this project's webhooks, each with its remedy.

    PROCESS:
      Says what a run here would do: checks the configuration, the hook files and whether the host
      shows its commands; for each endpoint name resolution, connection, proxy, TLS, signature,
      format and clock; then the database, the outbox, the telemetry exporter and its collector.
      Sends receivers a bare HEAD request, and a ping only with --ping.

    EXAMPLES:
      confiture webhooks doctor
        ↳ Check everything that can be checked without sending a webhook

      confiture webhooks doctor --ping --format json
        ↳ Send a ping too, and print the result for a script

    EXIT CODES:
      0  Nothing is wrong; there may be warnings.
      1  Something is.
      5  The configuration is invalid, or nothing is configured.
    """
    as_json = is_json(output)
    invocation = invocation_of(config, output)
    checks: list[Check] = []
    for check in diagnose(os.environ, invocation, config, is_pinging=is_pinging):
        checks.append(check)
        if not as_json:
            _show(check)
    wrong = [check for check in checks if check.health is Health.PROBLEM]
    if as_json:
        print_json({"ok": not wrong, "checks": [check.as_dict() for check in checks]})
    if any(check.name == "configuration" for check in wrong):
        raise typer.Exit(CONFIG_INVALID)
    if wrong:
        raise typer.Exit(FAILED)


def _show(check: Check) -> None:
    mark, style = _MARKS[check.health]
    line(f"{mark} {check.name}: {check.detail}", style)
    if check.remedy is not None:
        line(f"   {check.remedy}")
