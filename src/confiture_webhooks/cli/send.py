"""``confiture webhooks test`` and ``deliver``: webhooks sent now."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from ..config.variables import URL
from ..delivery import State
from ..doctor.endpoints import remedy_of
from ..errors import ConfigError, OutboxError
from ..event import EventType, rfc3339
from ..outbox import Row
from ..outlook import again_lines, by_environment, correct_first, shown_environment
from ..remedy import shown
from ..run.other_environment import elsewhere_line
from ..terminal import counted, is_terminal, say
from ..watch import Configuration, PassResult, deliver_due, deliver_until
from ..wiring import found_settings, operators_outbox
from ..worker.pace import FAILING_AFTER
from .context import Context
from .options import SUBSCRIBED, ConfigOpt, FormatOpt, one_event
from .status import open_document, open_lines
from .tables import CONFIG_INVALID, FAILED, conclude, fault_rows, line, print_facts, say_faults


def test(
    name: Annotated[str | None, typer.Argument(help="Endpoint (default: all of them)")] = None,
    event: Annotated[
        EventType | None,
        one_event("--event", among=SUBSCRIBED, what="A sample of this event type"),
    ] = None,
    show_answer: Annotated[
        bool, typer.Option("--show-answer", help="Show the beginning of each answer's body")
    ] = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Send a ping, or a sample of any event, to an endpoint now: signed, retried, traced.

    PROCESS:
      A sample is sent even if the endpoint's `events` leave it out. It names the migration
      `000_confiture_webhooks_test`. A sample of a failure alarms a pager like a real one; a sample
      of `migration_success` ends that alarm.

    EXAMPLES:
      confiture webhooks test
        ↳ Ping every endpoint

      confiture webhooks test pager --event migration_error
        ↳ Try the pager before it is needed

    EXIT CODES:
      0  Every webhook was delivered.
      1  One was not within the flush timeout.
      2  --event names no event type.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    from ..ping import ping  # noqa: PLC0415

    kind = event or EventType.PING
    context = Context(config=config, is_sending=True)
    settings = context.sending_settings
    names = [endpoint.name for endpoint in settings.endpoints]
    if faults := [fault for one in settings.faulty if one.name == name for fault in one.faults]:
        raise ConfigError(faults)
    if name is not None and name not in names:
        raise context.unknown_endpoint(name)
    if name is None and output == "text":
        say_faults(settings.faults)
    _warn_off(context, [name] if name is not None else names)
    results = ping(settings, name, kind)
    is_shown = show_answer or (output == "text" and is_terminal(sys.stdout))
    for result in results:
        answer, last = result.pop("answer"), result.pop("exchange")
        if is_shown and answer:
            result["answer"] = answer
        result["event_type"] = kind.value
        result["remedy"] = None if result["delivered"] else remedy_of(result["error_type"], last)
    is_valid = name is not None or not settings.faults
    document = {
        "ok": is_valid and all(result["delivered"] for result in results),
        "results": results,
        "faults": fault_rows(settings.faults),
    }
    code = FAILED if is_valid else CONFIG_INVALID
    conclude(document, partial(show_pings, results), output, code=code)


def _warn_off(context: Context, names: list[str]) -> None:
    """Say to which of *names* a run sends nothing: a test is sent all the same."""
    settings, here = context.settings, shown_environment(context.environment)
    of_run = {one.name for one in found_settings(context.invocation.settings_file)[0].endpoints}
    for one in settings.endpoints:
        why = "" if one.is_for(settings.environment) else f"its `environments` leave {here} out"
        why = why if one.name in of_run else f"a hook file reads {URL} itself"
        if why and one.name in names:
            say(f"Endpoint {one.name}: this test is sent, events are not, because {why}")
    with suppress(OutboxError), closing(operators_outbox(settings)) as outbox:
        statuses = outbox.statuses(settings.environment)
        for name in names:
            if name in statuses and statuses[name].off_since:
                remedy = f"Switch it on: {shown('enable', name)}"
                say(f"Endpoint {name} is off: this test is sent, events are not. {remedy}")


def show_pings(results: Iterable[Mapping[str, Any]]) -> None:
    """A block for each test: whether it arrived, and each fact of its JSON that is known."""
    for result in results:
        title = f"✅ {result['endpoint']}: delivered"
        if not result["delivered"]:
            title = f"❌ {result['endpoint']}: not delivered. A test is not sent again later"
        facts = {name: result[name] for name in result if name not in ("endpoint", "delivered")}
        known = ((name, str(value)) for name, value in facts.items() if value is not None)
        print_facts(known, title=title)


def deliver(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until SIGTERM or Ctrl-C")] = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Send every delivery that is due: once, or as a worker that goes on.

    PROCESS:
      Without --watch, each delivery that is due now is tried once. If five attempts of one endpoint
      fail in a row, the rest of its deliveries stay due. With --watch, deliveries that become due
      later or that other processes record are sent, too. On SIGTERM or Ctrl-C the attempt in flight
      ends (without --watch it is cut and not counted), and all other claims are given back. A
      second signal ends the worker at once.

    EXAMPLES:
      confiture webhooks deliver
        ↳ After a run that left deliveries behind; or from a cron job

      confiture webhooks deliver --watch
        ↳ A worker, for systemd or Kubernetes

    EXIT CODES:
      0  Nothing is left due, or the worker was asked to end.
      1  A delivery failed (it is retried on its schedule, or a dead letter), waits for an endpoint
         that is off, not configured or wrongly configured, or the outbox cannot be used.
      5  The file or the outbox's setting is invalid, or no endpoint is left. A fault of one
         endpoint does not stop the others; `check` exits with 5 for every fault.
    """
    context = Context(config=config, is_sending=True)
    settings = context.sending_settings
    if output == "text":
        say_faults((*settings.faults, *settings.warnings))
    configuration = Configuration(settings, context.ask, context.database)
    try:
        result = _watch(context, configuration) if watch else _once(configuration)
    except OutboxError as error:
        raise context.explained(error) from error
    document = {**_document(result), **open_document(result.open)}
    document["faults"] = fault_rows(settings.faults)
    conclude(document, _lines(result), output, code=0 if watch else FAILED)


def send_now(context: Context, rows: Sequence[Row], output: str) -> dict[str, Any]:
    """Send what is due to the endpoints of *rows*; the result, which counts *rows* alone.

    It is a document, and is shown as text.
    """
    settings, names = context.settings, {row.delivery.endpoint for row in rows}
    chosen = tuple(endpoint for endpoint in settings.endpoints if endpoint.name in names)
    result = _once(Configuration(replace(settings, endpoints=chosen), None, context.database))
    sent = context.outbox.named([row.delivery.id for row in rows])
    states = Counter(one.state for one in sent)
    unsent = {one.delivery.endpoint for one in sent if one.state is not State.DELIVERED}
    result = replace(
        result,
        delivered=states[State.DELIVERED],
        dead=states[State.DEAD_LETTER],
        gone=states[State.GONE],
        left=states[State.PENDING] + states[State.IN_FLIGHT],
        next_at=min(
            (one.next_attempt_at for one in sent if one.next_attempt_at),
            default=result.next_at if states[State.IN_FLIGHT] else None,
        ),
        failures={name: why for name, why in result.failures.items() if name in unsent},
        waits=[wait for wait in result.waits if wait.endpoint in unsent],
        open=[],
        elsewhere={},
    )
    if output == "text":
        for text in _lines(result):
            line(text)
    return _document(result)


def _once(given: Configuration) -> PassResult:
    """One pass. A signal cuts it as Ctrl-C does: leases are given back, telemetry is exported."""

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    for number in _asked_to_end():
        signal.signal(number, stop)
    return deliver_due(given)


def _asked_to_end() -> list[signal.Signals]:
    """The signals that ask a command to end: also that its terminal is gone, unless by nohup."""
    is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if is_kept else [signal.SIGTERM, signal.SIGHUP]


def _watch(context: Context, given: Configuration) -> PassResult:
    stopped = threading.Event()

    def stop(*_: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    for number in (signal.SIGINT, *_asked_to_end()):
        signal.signal(number, stop)
    where = f"environment {shown_environment(context.environment)}, outbox {context.where}"
    say(f"Sending deliveries as they become due ({where}). Ctrl-C or SIGTERM ends it.")
    return deliver_until(stopped, given, source=context.source())


def _document(result: PassResult) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "ok": result.is_clean,
        "delivered": result.delivered,
        "dead_letter": result.dead,
        "gone": result.gone,
        "left": result.left,
        "next_attempt_at": rfc3339(result.next_at) if result.next_at else None,
        "elsewhere": by_environment(result.elsewhere),
        "failures": dict(result.failures),
        "not_sent": {wait.endpoint: wait.why.value for wait in result.waits if wait.is_in_vain},
        "paused": list(result.paused),
        "resting": {
            wait.endpoint: rfc3339(until)
            for wait in result.waits
            if (until := wait.rests_until) and until > now
        },
    }


def _lines(result: PassResult) -> list[str]:
    done = f"{result.delivered} delivered, {counted(result.dead, 'dead letter', 'dead letters')}"
    done += f", {result.gone} gone" if result.gone else ""
    in_vain = [wait for wait in result.waits if wait.is_in_vain]
    left = "the outbox does not say how many are" if result.left is None else result.left
    done += f", {left} {'left' if in_vain or result.left is None else 'left for later'}"
    is_rest = result.left != 0 or result.dead or result.gone  # else all that failed was sent later
    for name, why in result.failures.items() if is_rest else ():
        done += f"; {name}: {why}{correct_first(why)}"
        done += f", paused after {FAILING_AFTER} failures in a row" if name in result.paused else ""
    later = []
    if result.next_at:  # a worker that was asked to end may leave some that are due
        is_due = result.next_at <= datetime.now(UTC)
        done += f"; the next is due {'now' if is_due else f'at {rfc3339(result.next_at)}'}"
        if not (is_due or any(wait.rests_until for wait in result.waits)):
            later = [f"Unless a worker runs, send them then: {shown('deliver')}"]
    return [
        done,
        *later,
        *(wait.line for wait in result.waits),
        *open_lines(open_document(result.open)),
        *again_lines(result.dead, result.gone),
        *([elsewhere_line(result.elsewhere)] if result.elsewhere else []),
    ]
