"""``confiture webhooks deliver``: the worker."""

from __future__ import annotations

import os
import signal
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..deliver import PassResult, deliver_due, deliver_until
from ..errors import OutboxError
from ..event import rfc3339
from ..run.summary import barred_line, by_environment, elsewhere_line, naming
from ..worker.lane import FAILING_AFTER
from .options import ConfigOpt, FormatOpt, is_json
from .output import FAILED, fail, print_json, say
from .project import ask_of, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Settings
    from ..run.settler import Ask

LEFT_ALONE = f", left alone after {FAILING_AFTER} failures in a row"


def deliver(
    watch: Annotated[  # noqa: FBT002
        bool, typer.Option("--watch", help="Go on until SIGTERM or Ctrl-C")
    ] = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Make every delivery that is due: once, or as a worker that goes on.

    PROCESS:
      Without --watch, everything that is due now is tried once; where five attempts of one
      endpoint fail in a row, the rest of its deliveries stay due. With it, also what becomes
      due and what other processes release. On SIGTERM or Ctrl-C the attempt under way comes to its
      end, what else was claimed goes back, telemetry is exported; asked twice, it ends at once.
      Without --watch the attempt under way is cut, and counts as none.

    EXAMPLES:
      confiture webhooks deliver
        ↳ After a run that left deliveries behind; or from a cron job

      confiture webhooks deliver --watch
        ↳ A worker, for systemd or Kubernetes

    EXIT CODES:
      0  Nothing is left due, or the worker was asked to end.
      1  Something failed (it is put off on its schedule, or dead), waits for an endpoint that
         is off or not configured, or the outbox cannot be used.
      5  The configuration is invalid.
    """
    settings = settings_of(config, output, is_sending=True)
    try:
        ask = ask_of(config)
        result = (_watch if watch else _once)(settings, ask)
    except OutboxError as error:
        fail(str(error), output)
    _tell(result, output, config)
    if not watch and not result.is_clean:
        raise typer.Exit(FAILED)


def _once(settings: Settings, ask: Ask | None) -> PassResult:
    """One pass. SIGTERM cuts it as Ctrl-C does: leases are given back, telemetry is exported."""

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    return deliver_due(settings, os.environ, ask)


def _watch(settings: Settings, ask: Ask | None) -> PassResult:
    stopped = threading.Event()

    def stop(*_: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if sys.stderr is not None and sys.stderr.isatty():
        say("Delivering what is due, and what becomes due. Ctrl-C ends it.")
    return deliver_until(stopped, settings, os.environ, ask)


def _tell(result: PassResult, output: str, config: Path | None) -> None:
    if is_json(output):
        print_json(
            {
                "ok": result.is_clean,
                "delivered": result.delivered,
                "dead_letter": result.dead,
                "left": result.left,
                "next_attempt_at": rfc3339(result.next_at) if result.next_at else None,
                "elsewhere": by_environment(result.elsewhere),
                "failures": dict(result.failures),
                "barred": dict(result.barred),
                "left_alone": list(result.left_alone),
            }
        )
        return
    failed = "".join(
        f"; {name}: {why}{LEFT_ALONE if name in result.left_alone else ''}"
        for name, why in result.failures.items()
    )
    done = f"{result.delivered} delivered, {result.dead} given up"
    due = _when(result.next_at) if result.next_at else ""
    left = "left" if result.barred else "left for later"
    print(f"{done}, {result.left} {left}{failed}{due}")
    for name, why in result.barred.items():
        print(naming(barred_line(name, why), config))
    if result.elsewhere:
        print(elsewhere_line(result.elsewhere))


def _when(next_at: datetime) -> str:
    """When the next is due: a worker that was asked to end leaves what is due already."""
    is_due = next_at <= datetime.now(UTC)
    return "; the next is due now" if is_due else f"; the next due at {rfc3339(next_at)}"
