"""Which deliveries, and which killed runs, the words on a command line name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..delivery import State
from ..event import rfc3339
from ..outbox import Intent, Outbox, Row, Unreadable, UnreadableIntent
from ..outlook import EndpointStatus, is_possible, listed, rest_of, shown_environment
from ..remedy import shown
from ..run.other_environment import shown_for
from ..run.settling import Judged
from ..settlement import Ending, Verdict
from ..terminal import say
from .context import Context
from .options import SHORTEST
from .status import judged
from .tables import CommandError

EVERY = 10_000
"""So many are read at once: a year of dead letters fits into no memory."""
MOST_SHOWN = 20


def documents(context: Context, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Deliveries as JSON has them; of one that waits for an endpoint that rests, until when.

    One that a clock that was wrong put off is due now, as it is for a worker.
    """
    now = datetime.now(UTC)
    environments = {row.delivery.environment for row in rows}
    statuses = {one: context.outbox.statuses(one) for one in environments}
    own = {(context.environment, one.name): one for one in context.settings.recorded}
    found = []
    for row in rows:
        one = row.delivery
        status = statuses[one.environment].get(one.endpoint, EndpointStatus(None, None))
        endpoint = own.get((one.environment, one.endpoint))
        until = rest_of(status, endpoint, now)
        is_resting = row.state is State.PENDING and until is not None and until > now
        due_at = row.next_attempt_at
        if due_at and (row.is_ready or not is_possible(due_at, endpoint, now)):
            due_at = min(due_at, now)
        found.append(
            {
                "id": one.id,
                "event_id": one.event_id,
                "event_type": one.event_type.value,
                "endpoint": one.endpoint,
                "environment": one.environment,
                "migration_version": one.migration_version,
                "migration_name": one.migration_name,
                "state": row.state.value,
                "attempts": row.attempts,
                "last_answer": row.last_answer,
                "created_at": rfc3339(one.created_at),
                "next_attempt_at": rfc3339(due_at) if due_at else None,
                "correlation_id": one.correlation_id,
                **({"rests_until": rfc3339(until)} if until and is_resting else {}),
                **({"unreadable": one.reason} if isinstance(one, Unreadable) else {}),
            }
        )
    return found


def find(outbox: Outbox, given: str) -> tuple[Sequence[Row], set[str]]:
    """The deliveries that *given* names, and the whole ids that begin so.

    Several ids: it is ambiguous, which a whole id never is.
    """
    rows: Sequence[Row] = []
    ids: set[str] = set()
    for spelt in _spellings(given):
        rows = outbox.look_up(spelt, limit=EVERY)
        ids = {one for row in rows for one in _ids(row) if one.startswith(spelt)}
        if spelt in ids:
            return [row for row in rows if spelt in _ids(row)], {spelt}
        if ids:
            break
    return rows, ids


def _spellings(given: str) -> dict[str, None]:
    """As it is given, and as ids of ours are: a viewer may show capitals, a copy have blanks."""
    return dict.fromkeys((given, given.strip().lower()))


def _ids(row: Row) -> tuple[str, str, str]:
    return row.delivery.id, row.delivery.event_id, row.delivery.correlation_id


def ambiguous(context: Context, problem: str, rows: Sequence[Row]) -> CommandError:
    """The error *problem*, with the *rows* that may be meant: a line for each, and in JSON."""
    meant = documents(context, rows[:MOST_SHOWN])
    shown_of = ("id", "event_id", "migration_name", "endpoint", "environment", "created_at")
    lines = ["  ".join(str(one[key] or "-") for key in shown_of) for one in meant]
    if len(rows) > MOST_SHOWN:
        lines.append(f"and {len(rows) - MOST_SHOWN} more")
    return CommandError(problem, lines=lines, candidates=meant)


def is_short(given: str) -> bool:
    """Whether *given* is too short a beginning to change what it names."""
    return len(given.strip().lower().removeprefix("dlv_").removeprefix("evt_")) < SHORTEST


def chosen(
    context: Context,
    verb: str,
    ids: Sequence[str] | None,
    states: Sequence[State],
    endpoint: str | None,
    everywhere: bool,
) -> tuple[list[Row], Counter[str | None], str]:
    """The deliveries to *verb*, by *ids* or *states*.

    If there are none: how many other environments have, and a line about it. Raises CommandError
    if one of *ids* cannot be had.
    """
    check_endpoint(context, endpoint)
    if not states:
        return _named(context, verb, ids or (), endpoint, everywhere), Counter(), ""
    rows = _in_states(context, states, endpoint, everywhere)
    return (rows, Counter(), "") if rows else ([], *_nothing(context, verb, states, endpoint))


def _named(
    context: Context, verb: str, ids: Sequence[str], endpoint: str | None, everywhere: bool
) -> list[Row]:
    rows: dict[str, Row] = {}
    refused: list[str] = []
    unclear: list[Row] = []
    for given in dict.fromkeys(ids):
        found, whole = find(context.outbox, given)
        meant = {row.delivery.id: row for row in found if endpoint in (None, row.delivery.endpoint)}
        away = {row.delivery.environment for row in meant.values()} - {context.environment}
        why = None
        if not whole:
            why = f"unknown. See {shown('list')}, or {shown('status')} for killed runs"
        elif len(whole) > 1:
            why = f"the beginning of {len(whole)} ids"
            unclear += found
        elif is_short(given) and given not in whole:
            least = f"give {SHORTEST} characters of the id or more"
            why = f"too short: {least}, as in {', '.join(whole)}"
        elif not meant:
            why = f"not to {endpoint}"
        elif away and not everywhere:
            names = ", ".join(map(shown_environment, away))
            why = f"of environment {names}: {_ways(away, verb, given)}"
        elif verb != "discard" and any(
            # The outbox decides about one that cannot be read.
            row.state is State.IN_FLIGHT and not isinstance(row.delivery, Unreadable)
            for row in meant.values()
        ):
            why = "in flight"
        refused += [f"{given} ({why})"] if why else []
        rows |= meant
    if refused:
        problem = f"Not possible: {', '.join(refused)}. Nothing was changed"
        raise ambiguous(context, problem, unclear)
    return list(rows.values())


def _in_states(
    context: Context, states: Iterable[State], endpoint: str | None, everywhere: bool
) -> list[Row]:
    named: dict[str, Any] = {} if everywhere else {"environment": context.environment}
    rows: list[Row] = []
    for state in states:
        left = EVERY - len(rows)
        rows += context.outbox.deliveries(state=state, endpoint=endpoint, limit=left, **named)
    if len(rows) == EVERY:
        say(f"At most {EVERY} are taken at once. Run the command again for the others")
    return rows


def _nothing(
    context: Context, verb: str, states: Iterable[State], endpoint: str | None
) -> tuple[Counter[str | None], str]:
    others = environments(_in_states(context, states, endpoint, everywhere=True))
    if not others:
        return others, f"Nothing to {verb}"
    words = [f"--{state.value.partition('_')[0]}" for state in states if verb == "redeliver"]
    words += ["--endpoint", endpoint] if endpoint is not None else []
    nothing = f"Nothing to {verb} in environment {shown_environment(context.environment)}"
    ways = _ways(others, verb, *words)
    return others, f"{nothing}. Others have some ({listed(others)}): {ways}"


def _ways(environments: Iterable[str | None], *words: str) -> str:
    """The commands that do it in *environments*, or all at once."""
    added = "--all-environments --later" if words[0] == "redeliver" else "--all-environments"
    each = (f"use {shown_for(name, *words)}, or " for name in environments)
    return f"{''.join(each)}add {added}"


def environments(rows: Iterable[Row]) -> Counter[str | None]:
    """How many of *rows* each environment has."""
    return Counter(row.delivery.environment for row in rows)


def intents_of(
    context: Context, ids: Sequence[str]
) -> tuple[list[str], Judged, list[UnreadableIntent]]:
    """Those of *ids* that name deliveries, the intents of the others, and unreadable intents."""
    intents, unreadable = context.outbox.intents(), context.outbox.unreadable_intents()
    known = {one.event_id for one in intents} | {one.event_id for one in unreadable}
    whole = []
    for given in ids:
        spelt = () if is_short(given) else tuple(_spellings(given))
        found = [one for one in known if one.startswith(spelt)]
        whole.append(found[0] if len(found) == 1 else given)
    killed = judged([intent for intent in intents if intent.event_id in whole], context)
    broken = [one for one in unreadable if one.event_id in whole]
    named: list[tuple[Intent | UnreadableIntent, Verdict | None]] = [*killed]
    named += [(one, None) for one in broken]
    refused = [
        f"{one.event_id} ({why})"
        for one, verdict in named
        if (why := _why_kept(one, verdict, context))
    ]
    if refused:
        raise CommandError(f"Not possible: {', '.join(refused)}. Nothing was changed")
    events = {one.event_id for one in broken} | {intent.event_id for intent, _ in killed}
    return [one for one in whole if one not in events], killed, broken


def _why_kept(
    intent: Intent | UnreadableIntent, verdict: Verdict | None, context: Context
) -> str | None:
    """Why the intent is not to be discarded; ``None``: it may be. *verdict*: if it is readable."""
    if intent.environment != context.environment:
        there = shown_for(intent.environment, "discard", intent.event_id)
        return f"of environment {shown_environment(intent.environment)}: use {there}"
    if verdict is None:
        return None
    if verdict.ending is Ending.OPEN:
        return verdict.reason
    return f"its end is known: {shown('deliver')} reports it" if verdict.is_settled else None


def check_endpoint(context: Context, name: str | None) -> None:
    """Refuse *name* unless it is an endpoint's, configured or only in the outbox."""
    configured = {endpoint.name for endpoint in context.settings.recorded}
    if name is None or name in configured or context.outbox.deliveries(endpoint=name, limit=1):
        return
    waiting = {one for each in context.outbox.summaries().values() for one in each.undelivered}
    raise context.unknown_endpoint(name, sorted(waiting - configured))
