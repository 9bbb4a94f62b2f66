"""The rule that settles an intent, branch by branch."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from confiture_webhooks.event import Direction, EventType
from confiture_webhooks.outbox import NO_ROW, Committed, Intent
from confiture_webhooks.settlement import (
    INTERRUPTED,
    ITS_RUNS_FOR,
    LATE,
    UNSEEN_FOR,
    Ending,
    Known,
    LedgerRow,
    Verdict,
    judge,
    settled_event,
)
from samples import AT, DATABASE, REF, TRACE, TRACE_ID

OPEN, COMMITTED, NOT_COMMITTED, UNSETTLED = Ending
STARTED = AT - timedelta(minutes=5)
A_SECOND = timedelta(seconds=1)
ROW = LedgerRow(id="new", applied_at=AT, execution_time_ms=1500)
MARKED = LedgerRow(id="new", applied_at=AT, execution_time_ms=0, is_marked=True)
SOON = AT + timedelta(minutes=10)
ADDRESS = replace(DATABASE, schema=None)

_UP = Intent(
    event_id="evt_1",
    direction=Direction.UP,
    migration=REF,
    environment="production",
    ledger_table="public.tb_confiture",
    database_host=DATABASE.host,
    database_port=DATABASE.port,
    database_name=DATABASE.name,
    database_schema=DATABASE.schema,
    database_identity="7/16384",
    timeline=1,
    ledger_oid=16400,
    ledger_before=NO_ROW,
    ledger_read_at=AT,
    has_lock=True,
    backend_pid=4711,
    backend_started_at=STARTED,
    traceparent=TRACE.traceparent,
    tracestate=None,
    correlation_id=TRACE_ID,
    staged_at=AT,
)
_GONE = Known(
    identity="7/16384",
    timeline=1,
    database=ADDRESS,
    ledger_oid=16400,
)


def up(**changes: Any) -> Intent:
    """The intent of a migration up of a version that was not applied."""
    return replace(_UP, **changes)


def down(**changes: Any) -> Intent:
    """The intent of a rollback of what the row ``old`` records."""
    return replace(_UP, **({"direction": Direction.DOWN, "ledger_before": "old"} | changes))


def known(**changes: Any) -> Known:
    """What a server says that has no such backend and no row."""
    return replace(_GONE, **changes)


POOLED = up(backend_pid=None, backend_started_at=None)
"""Behind a pooler, under the migration lock."""


def alive(**changes: Any) -> Known:
    """What a server says where a backend has the intent's pid."""
    return known(has_pid=True, row=ROW, **changes)


@pytest.mark.parametrize(
    ("intent", "seen", "ending"),
    [
        pytest.param(up(), alive(pid_started_at=STARTED), OPEN, id="the backend lives"),
        pytest.param(up(), known(row=ROW), COMMITTED, id="no such pid"),
        pytest.param(up(), alive(pid_started_at=AT), COMMITTED, id="the pid is another's"),
        pytest.param(up(), alive(lock_holders={4711}), OPEN, id="hidden, it has the lock"),
        pytest.param(up(), alive(lock_holders={1}), COMMITTED, id="hidden, another has the lock"),
        pytest.param(up(), alive(), COMMITTED, id="hidden, nobody has the lock"),
        pytest.param(
            up(backend_started_at=None),
            alive(pid_started_at=STARTED, lock_holders={4711}),
            OPEN,
            id="its own start was hidden, it has the lock",
        ),
        pytest.param(
            up(has_lock=False),
            known(has_pid=True),
            UNSETTLED,
            id="hidden, it never had the lock",
        ),
        pytest.param(up(has_lock=False), alive(), COMMITTED, id="hidden, the ledger has it"),
        pytest.param(up(has_lock=False), known(row=ROW), COMMITTED, id="no lock, no such pid"),
        pytest.param(POOLED, known(row=ROW), COMMITTED, id="a pooler, the ledger has it"),
        pytest.param(POOLED, known(), NOT_COMMITTED, id="a pooler, the lock is free"),
        pytest.param(
            POOLED,
            known(lock_holders={1}, is_lock_ours=True),
            NOT_COMMITTED,
            id="a pooler, the next run has the lock",
        ),
        pytest.param(POOLED, known(lock_holders={1}), UNSETTLED, id="a pooler, locked"),
        pytest.param(
            replace(POOLED, has_lock=False), known(), UNSETTLED, id="a pooler, no lock, young"
        ),
        pytest.param(
            replace(POOLED, has_lock=False),
            known(lock_holders={1}, is_lock_ours=True),
            UNSETTLED,
            id="a pooler, no lock, and the next run's proves nothing",
        ),
    ],
)
def test_whether_it_is_over(intent: Intent, seen: Known, ending: Ending) -> None:
    """Its backend shows it; where that is hidden, the migration lock; else it is unsettled."""
    assert judge(intent, seen, SOON).ending is ending


@pytest.mark.parametrize("intent", [up(backend_pid=None, has_lock=False), up(has_lock=False)])
def test_what_cannot_be_seen_is_over_after_a_day(intent: Intent) -> None:
    """A day old and no lock held it is over, to the second; a held lock keeps it unsettled."""
    seen = known(has_pid=intent.backend_pid is not None)
    assert judge(intent, seen, AT + UNSEEN_FOR - A_SECOND).ending is UNSETTLED
    assert judge(intent, seen, AT + UNSEEN_FOR).ending is NOT_COMMITTED
    locked = replace(seen, lock_holders=frozenset({1}))
    assert judge(intent, locked, AT + UNSEEN_FOR).ending is UNSETTLED


@pytest.mark.parametrize(
    ("intent", "seen", "is_killed"),
    [
        pytest.param(up(), known(), True, id="over"),
        pytest.param(down(), known(row=None, is_ledger_read=False), True, id="no ledger"),
        pytest.param(up(), alive(pid_started_at=STARTED), False, id="its run goes on"),
        pytest.param(POOLED, known(row=ROW, lock_holders={1}), False, id="it may go on"),
        pytest.param(up(), known(identity="8/1"), False, id="another database"),
        pytest.param(up(), None, False, id="no answer"),
    ],
)
@pytest.mark.parametrize("ago", [timedelta(), ITS_RUNS_FOR, -timedelta(days=9999)])
def test_an_event_that_its_transaction_recorded_is_believed(
    intent: Intent, seen: Known | None, is_killed: bool, ago: timedelta
) -> None:
    """Whatever the ledger says; a run that may go on has a minute for it, by a clock that is right."""
    ended_at = SOON - ago
    committed = Committed(
        started_at=ended_at - A_SECOND, ended_at=ended_at, duration_s=1.5, rows_affected=7
    )
    intent = replace(intent, committed=committed)
    verdict = judge(intent, seen, SOON)
    assert verdict.ending is (COMMITTED if is_killed or ago else OPEN)
    assert verdict.may_go_on is (not is_killed and bool(ago))
    reported = settled_event(intent, verdict, SOON)
    assert (reported.occurred_at, reported.ended_at) == (ended_at, ended_at)
    assert (reported.started_at, reported.duration_s) == (ended_at - A_SECOND, 1.5)
    assert reported.rows_affected == 7


@pytest.mark.survived("A clock that jumps while a killed run is judged", "true")
@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_clock_that_jumps_settles_nothing_early(jump: timedelta) -> None:
    """An hour either way leaves what nobody can see unsettled, and what is over settled."""
    assert judge(replace(POOLED, has_lock=False), known(), AT + jump).ending is UNSETTLED
    assert judge(up(), known(row=ROW), AT + jump).ending is COMMITTED


@pytest.mark.parametrize(
    ("intent", "seen", "why"),
    [
        pytest.param(up(), None, "does not answer", id="no answer"),
        pytest.param(up(), known(is_standby=True), "standby", id="a standby"),
        pytest.param(up(), known(identity="7/9"), "another database", id="another database"),
        pytest.param(up(), known(identity=None), "another database", id="it hides its identity"),
        pytest.param(
            up(database_identity=None), known(), "another database", id="it hid its identity"
        ),
        pytest.param(
            up(database_identity=None),
            known(identity=None, database=replace(ADDRESS, port=6432)),
            "another database",
            id="another address",
        ),
        pytest.param(up(), known(timeline=2), "restored", id="another timeline"),
        pytest.param(up(), known(is_ledger_read=False), "cannot be read", id="no ledger"),
        pytest.param(up(), known(ledger_oid=16999), "made anew", id="another ledger"),
        pytest.param(up(), known(ledger_oid=None), "made anew", id="the ledger is gone"),
        pytest.param(up(), known(written_anew_at=SOON), "made anew", id="up, written anew"),
        pytest.param(down(), known(written_anew_at=SOON), "made anew", id="down, written anew"),
        pytest.param(
            up(ledger_before=None),
            known(row=MARKED),
            "could not be read before",
            id="marked, maybe before",
        ),
        pytest.param(up(ledger_before="old"), known(), "before", id="forced, and gone"),
        pytest.param(up(ledger_before="old"), known(row=ROW), "before", id="forced"),
        pytest.param(
            up(ledger_before=None), known(row=ROW), "could not be read before", id="up, not known"
        ),
        pytest.param(
            up(ledger_read_at=None), known(row=ROW), "could not be read before", id="no time"
        ),
        pytest.param(down(), known(row=ROW), "again", id="down, and applied again"),
        pytest.param(
            down(ledger_before=None), known(), "could not be read before", id="down, not known"
        ),
    ],
)
def test_what_cannot_be_reported_is_not_guessed(
    intent: Intent, seen: Known | None, why: str
) -> None:
    """It stays unsettled, with the reason, and no event follows."""
    verdict = judge(intent, seen, SOON)
    assert (verdict.ending, verdict.is_settled) == (UNSETTLED, False)
    assert why in verdict.reason


@pytest.mark.parametrize(
    ("intent", "row", "ending"),
    [
        pytest.param(up(), None, NOT_COMMITTED, id="up, no row"),
        pytest.param(up(), ROW, COMMITTED, id="up, a row"),
        pytest.param(up(), MARKED, NOT_COMMITTED, id="up, a row that no run wrote"),
        pytest.param(up(ledger_before=None), None, NOT_COMMITTED, id="up, not known, no row"),
        pytest.param(down(), None, COMMITTED, id="down, no row"),
        pytest.param(down(), replace(ROW, id="old"), NOT_COMMITTED, id="down, the row"),
        pytest.param(down(ledger_before=NO_ROW), None, NOT_COMMITTED, id="down, of nothing"),
    ],
)
def test_the_ledger_reports_how_it_ended(
    intent: Intent, row: LedgerRow | None, ending: Ending
) -> None:
    """Over, a migration up committed when the ledger has it, one down when it has it no more."""
    assert judge(intent, known(row=row), SOON).ending is ending


@pytest.mark.parametrize(
    ("after", "took_ms", "ending"),
    [
        pytest.param(timedelta(hours=-1), 5, COMMITTED, id="in a transaction begun before"),
        pytest.param(LATE, None, COMMITTED, id="a minute later"),
        pytest.param(LATE + A_SECOND, 999, UNSETTLED, id="later"),
        pytest.param(LATE + A_SECOND, 1000, COMMITTED, id="non-transactional, recorded at its end"),
    ],
)
def test_a_later_runs_row_is_not_taken_for_its_own(
    after: timedelta, took_ms: int | None, ending: Ending
) -> None:
    """A row whose migration began more than a minute after the intent is somebody else's."""
    row = LedgerRow(id="new", applied_at=AT + after, execution_time_ms=took_ms)
    assert judge(up(), known(row=row), SOON).ending is ending


def test_what_was_written_anew_before_it_changes_nothing() -> None:
    """A ledger that was emptied before the run says of it what it always says."""
    assert judge(up(), known(row=ROW, written_anew_at=AT), SOON).ending is COMMITTED
    assert judge(up(ledger_read_at=None), known(written_anew_at=AT), SOON).ending is NOT_COMMITTED


def test_without_any_identity_the_address_decides() -> None:
    """Where the role may not ask who the server is, host, port and name must agree."""
    seen = known(identity=None, timeline=None, row=ROW)
    assert judge(up(database_identity=None, timeline=None), seen, SOON).ending is COMMITTED


def test_the_event_of_a_commit_has_the_ledgers_time_and_duration() -> None:
    """The instant is ``applied_at``, the duration ``execution_time_ms``; all else the intent's."""
    verdict = judge(up(), known(row=ROW), SOON)
    event = settled_event(up(), verdict, SOON)
    assert (event.id, event.type) == ("evt_1", EventType.MIGRATION_SUCCESS)
    assert (event.occurred_at, event.duration_s, event.error) == (AT, 1.5, None)
    assert (event.started_at, event.ended_at) == (AT, AT + timedelta(seconds=1.5))
    assert (event.trace_id, event.environment) == (TRACE_ID, "production")
    assert (event.database, event.migration, event.direction) == (DATABASE, REF, Direction.UP)


@pytest.mark.parametrize(
    ("intent", "kind"),
    [(up(), EventType.MIGRATION_ERROR), (down(), EventType.MIGRATION_ROLLBACK_ERROR)],
)
def test_the_event_of_what_did_not_commit(intent: Intent, kind: EventType) -> None:
    """It is an error of type ``Interrupted``, reported as of now, that never says rolled back."""
    verdict = Verdict(ending=NOT_COMMITTED, reason="")
    event = settled_event(intent, verdict, SOON)
    assert (event.id, event.type, event.occurred_at) == ("evt_1", kind, SOON)
    assert (event.error, event.duration_s, event.ended_at) == (INTERRUPTED, None, None)
    assert "rolled back" not in INTERRUPTED.message


def test_the_event_of_a_rollback_that_committed() -> None:
    """The ledger has nothing of it any more: it is reported as of now, without a duration."""
    verdict = judge(down(), known(), SOON)
    event = settled_event(down(), verdict, SOON)
    assert (event.type, event.occurred_at) == (EventType.MIGRATION_ROLLBACK, SOON)
    assert (event.duration_s, event.error) == (None, None)
