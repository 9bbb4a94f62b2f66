"""What one run asks its database: how its own and killed runs' migrations ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..event import Direction
from ..outbox import Intent
from ..settlement import INTERRUPTED, Ending
from .migration import UNKNOWN, Conclude, Migration
from .settler import Ask, answered, seconds_left, settle

if TYPE_CHECKING:
    from ..telemetry import Telemetry
    from .outgoing import Outgoing

PARTING_S = 1.0
PARTING_STEP_S = 0.02
"""A server process lets go of the migration lock some milliseconds before it is seen gone."""


class Settling:
    """What of a run is still to be asked, and what was staged by it."""

    def __init__(
        self, conclude: Conclude, say: Callable[[str], None], environment: str | None
    ) -> None:
        self._conclude = conclude
        self._say = say
        self._own: set[str] = set()
        self.environment = environment
        """Killed runs of another one are left to it: whom they tell is configured there."""
        self.ask: Ask | None = None
        self.ask_here: Ask | None = None
        """Over the connection that migrates, and while it is there only."""
        self.deadline: float | None = None
        """Until when answers are waited for (monotonic); ``None``: the longest time."""
        self.unsettled: list[Migration] = []
        self.has_unknown = False

    def stage(
        self, migration: Migration, outgoing: Outgoing, *, environment: str | None, run_id: str
    ) -> None:
        """Have *outgoing* remember that *migration* is under way in the run *run_id*."""
        self._own.add(migration.event_id)
        outgoing.stage(intent_of(migration, environment=environment, run_id=run_id))

    def end(self, migration: Migration) -> None:
        """Conclude *migration*, one of this run's, by what the ledger says of it."""
        is_recorded = answered(migration.ask_ledger, seconds_left(self.deadline))
        if is_recorded is None:
            self.has_unknown = True
            self._say(
                f"confiture-webhooks: how {migration.ref.name} ended is not known (the "
                "database does not answer), so nothing is told of it now"
            )
            migration.stop_clock()
            migration.span.finish(
                duration_s=migration.duration_s, rows_affected=None, error=UNKNOWN
            )
        elif is_recorded is (migration.direction is Direction.UP):
            self._conclude(migration, None, None)
        else:
            self._conclude(migration, None, migration.error or INTERRUPTED)

    def tell_killed(self, outgoing: Outgoing, telemetry: Telemetry) -> None:
        """Tell how the migrations of killed runs ended."""
        if self.ask is not None:
            seconds = seconds_left(self.deadline)
            settle(self._killed(outgoing), self.ask, outgoing.tell, telemetry, seconds=seconds)

    def tell_earlier(
        self, version: str, outgoing: Outgoing, telemetry: Telemetry, *, has_lock: bool
    ) -> None:
        """Tell how *version* ended in killed runs, before it runs again; *has_lock*: ours holds it.

        What is not told now may be told wrong: the row that is about to be written looks like
        theirs. So the connection is asked that will write it, which is there in any case. It has
        no limit of its own: where somebody keeps the ledger locked, the host waits for it next.
        """
        left = [one for one in self._killed(outgoing) if one.migration.version == version]
        until = time.monotonic() + PARTING_S
        while left and self.ask_here is not None:
            judged = settle(left, self.ask_here, outgoing.tell, telemetry, seconds=None)
            left = [intent for intent, _ in judged]
            is_parting = has_lock and any(
                intent.has_lock and verdict.ending is Ending.OPEN for intent, verdict in judged
            )
            if not is_parting or time.monotonic() >= until:
                break
            time.sleep(PARTING_STEP_S)
        if left and self.ask is not None:
            settle(left, self.ask, outgoing.tell, telemetry, seconds=seconds_left(self.deadline))

    def _killed(self, outgoing: Outgoing) -> list[Intent]:
        """What killed runs of this environment staged."""
        return [
            intent
            for intent in outgoing.intents()
            if intent.event_id not in self._own and intent.environment == self.environment
        ]


def intent_of(migration: Migration, *, environment: str | None, run_id: str) -> Intent:
    """What is to be known of *migration* by whoever settles it, should its process be killed."""
    backend, trace = migration.backend, migration.span.trace
    return Intent(
        event_id=migration.event_id,
        direction=migration.direction,
        migration=migration.ref,
        environment=environment,
        ledger_table=backend.ledger_table,
        database_host=backend.database.host,
        database_port=backend.database.port,
        database_name=backend.database.name,
        database_schema=backend.database.schema,
        database_identity=backend.identity,
        timeline=backend.timeline,
        ledger_oid=backend.ledger_oid,
        ledger_before=backend.ledger_before,
        ledger_read_at=backend.ledger_read_at,
        has_lock=backend.has_lock,
        backend_pid=backend.pid,
        backend_started_at=backend.started_at,
        traceparent=trace.traceparent,
        tracestate=trace.tracestate,
        correlation_id=run_id,
        staged_at=migration.started_at,
    )
