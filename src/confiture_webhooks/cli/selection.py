"""Which deliveries, and which killed runs, the words on a command line name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..delivery import State
from ..event import rfc3339
from ..outlook import listed, shown_environment
from ..remedy import shown, shown_for
from ..settlement import Ending
from ..terminal import say
from .context import Context
from .options import SHORTEST
from .status import judged
from .tables import CommandError

if TYPE_CHECKING:
    from ..delivery import Delivery
    from ..outbox import Intent, Outbox, Row
    from ..run.settling import Judged
    from ..settlement import Verdict

EVERY = 10_000
"""So many are read at once: a year of dead letters fits into no memory."""
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an id names."""

    rows: Sequence[Row]
    ids: Collection[str]
    """The whole ids that begin so; several: the beginning is ambiguous."""

    def candidates(self) -> list[str]:
        """A line for each delivery that may be meant."""
        lines = []
        for row in self.rows[:MOST_SHOWN]:
            one = row.delivery
            ids = f"{one.id}  {one.event_id}  {one.event_type.value}  {one.migration_name or '-'}"
            where = f"{one.endpoint}  {shown_environment(one.environment)}  {row.state.value}"
            lines.append(f"{ids}  {where}  {rfc3339(one.created_at)}")
        left = len(self.rows) - len(lines)
        return [*lines, f"and {left} more"] if left > 0 else lines


def find(outbox: Outbox, given: str) -> Found:
    """The deliveries that *given* names; a whole id is never ambiguous."""
    rows = outbox.look_up(given, limit=EVERY)
    if whole := [row for row in rows if given in _ids(row.delivery)]:
        return Found(rows=whole, ids={given})
    ids = {one for row in rows for one in _ids(row.delivery) if one.startswith(given)}
    return Found(rows=rows, ids=ids)


def is_unsettled(context: Context, given: str) -> bool:
    """Whether *given* is the event of a migration whose end is not known yet."""
    return any(intent.event_id.startswith(given) for intent in context.outbox.intents())


def is_short(given: str) -> bool:
    """Whether *given* is too short a beginning to change what it names."""
    return len(given.removeprefix("dlv_").removeprefix("evt_")) < SHORTEST


def _ids(one: Delivery) -> tuple[str, str, str]:
    return one.id, one.event_id, one.correlation_id


def named(
    context: Context, verb: str, ids: Sequence[str], endpoint: str | None, everywhere: bool
) -> list[Row]:
    """The deliveries to *verb* called *ids*. Raises CommandError if one cannot be had."""
    rows: dict[str, Row] = {}
    refused, candidates = [], []
    for given in ids:
        found = find(context.outbox, given)
        meant = [row for row in found.rows if endpoint in (None, row.delivery.endpoint)]
        why = _why_unclear(context, given, found)
        if why is None and not meant:
            why = f"not to {endpoint}"
        for row in meant:
            name = row.delivery.environment
            if why is None and not everywhere and name != context.environment:
                why = f"of environment {shown_environment(name)}: {_ways([name], verb, given)}"
            if why is None and verb != "discard" and row.state is State.IN_FLIGHT:
                why = "in flight"
            rows[row.delivery.id] = row
        if why is not None:
            refused.append(f"{given} ({why})")
            candidates += found.candidates() if len(found.ids) > 1 else []
    if refused:
        problem = f"Not possible: {', '.join(refused)}. Nothing was changed"
        raise CommandError(problem, candidates=candidates)
    return list(rows.values())


def _why_unclear(context: Context, given: str, found: Found) -> str | None:
    """Why *given* does not say which deliveries are meant; ``None``: it does."""
    if len(found.ids) > 1:
        return f"the beginning of {len(found.ids)} ids"
    if not found.rows:
        is_open = is_unsettled(context, given)
        return "its end is not known yet" if is_open else f"unknown. See {shown('list')}"
    if is_short(given) and given not in found.ids:
        least = f"give {SHORTEST} characters of the id or more"
        return f"too short: {least}, as in {', '.join(found.ids)}"
    return None


def in_states(
    context: Context, states: Iterable[State], endpoint: str | None, everywhere: bool
) -> list[Row]:
    """The newest deliveries in *states*, to *endpoint* or to all of them."""
    named: dict[str, Any] = {} if everywhere else {"environment": context.environment}
    rows = [
        row
        for state in states
        for row in context.outbox.deliveries(state=state, endpoint=endpoint, limit=EVERY, **named)
    ]
    if len(rows) >= EVERY:
        say(f"These are the newest {EVERY}. Run the command again for the others")
    return rows


def nothing_to(context: Context, verb: str, states: Iterable[State], endpoint: str | None) -> str:
    """That there is nothing to *verb* here, and which other environments have something."""
    others = environments(in_states(context, states, endpoint, everywhere=True))
    if not others:
        return f"Nothing to {verb}"
    words = [f"--{state.value.partition('_')[0]}" for state in states if verb == "redeliver"]
    words += ["--endpoint", endpoint] if endpoint is not None else []
    return (
        f"Nothing to {verb} in environment {shown_environment(context.environment)}. "
        f"Others have some ({listed(others)}): {_ways(others, verb, *words)}"
    )


def _ways(environments: Iterable[str | None], *words: str) -> str:
    """The commands that do it in *environments*, or all at once."""
    found = [shown_for(name, *words) for name in environments]
    return "".join([*(f"use {one}, or " for one in found if one), "add --all-environments"])


def environments(rows: Iterable[Row]) -> Counter[str | None]:
    """How many of *rows* each environment has."""
    return Counter(row.delivery.environment for row in rows)


def intents_of(context: Context, ids: Sequence[str]) -> tuple[list[str], Judged, list[str]]:
    """Those of *ids* that name deliveries, the intents of the others, and unreadable intents."""
    intents, unreadable = context.outbox.intents(), context.outbox.unreadable_intents()
    known = {one.event_id for one in intents} | {one.event_id for one in unreadable}
    whole = []
    for given in ids:
        found = [] if is_short(given) else [one for one in known if one.startswith(given)]
        whole.append(found[0] if len(found) == 1 else given)
    killed = judged([intent for intent in intents if intent.event_id in whole], context)
    refused = [
        f"{intent.event_id} ({why})"
        for intent, verdict in killed
        if (why := _why_kept(intent, verdict, context))
    ]
    if refused:
        raise CommandError(f"Not possible: {', '.join(refused)}. Nothing was changed")
    mine = {one.event_id for one in unreadable if one.environment == context.environment}
    events = {intent.event_id for intent, _ in killed}
    others = [one for one in whole if one not in mine | events]
    return others, killed, [one for one in whole if one in mine]


def _why_kept(intent: Intent, verdict: Verdict, context: Context) -> str | None:
    """Why the intent is not to be discarded; ``None``: it may be."""
    if intent.environment != context.environment:
        there = shown_for(intent.environment, "discard", intent.event_id)
        name = shown_environment(intent.environment)
        return f"of environment {name}" + (f": use {there}" if there else "")
    if verdict.ending is Ending.OPEN:
        return verdict.reason
    return f"its end is known: {shown('deliver')} reports it" if verdict.is_settled else None


def check_endpoint(context: Context, name: str | None) -> None:
    """Refuse *name* unless it is an endpoint's, configured or only in the outbox."""
    configured = {endpoint.name for endpoint in context.settings.recorded}
    if name is None or name in configured or context.outbox.deliveries(endpoint=name, limit=1):
        return
    raise context.unknown_endpoint("endpoint", name)
