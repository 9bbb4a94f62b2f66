"""What a full disk, a locked or a damaged file costs: an OutboxError, in time, nothing lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from confiture_webhooks.delivery import State
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import sqlite
from confiture_webhooks.outbox.sqlite import SqliteOutbox, open_outbox
from confiture_webhooks.outbox.sqlite_file import DamagedError, set_aside, translated
from contract.made import DELIVERED, LEASE, NOW, attempt, delivery, event_id, filled, intent

TESTS = Path(__file__).parents[1]
A_HANG_S = 20


def test_a_locked_file_is_an_error_in_time(
    outbox_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process keeps it locked, use and opening end as OutboxError."""
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.2)
    filled(outbox_path)
    with (
        closing(SqliteOutbox(outbox_path)) as outbox,
        closing(sqlite3.connect(outbox_path)) as other,
    ):
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        for refused in (
            lambda: outbox.stage(intent(1)),
            lambda: outbox.claim("a", environment="production", now=NOW, lease=LEASE),
            lambda: SqliteOutbox(outbox_path),
        ):
            started = time.monotonic()
            with pytest.raises(OutboxError, match="locked by another process"):
                refused()
            assert time.monotonic() - started < A_HANG_S
        other.execute("ROLLBACK")
        outbox.stage(intent(1))


@pytest.mark.survived("A disk that is full", "kept")
def test_a_full_disk_keeps_all_or_nothing(outbox_path: Path) -> None:
    """A release that runs out of space is an OutboxError and leaves no part of itself."""
    with closing(SqliteOutbox(outbox_path)) as outbox:
        outbox.stage(intent(1))
        connection = outbox._store._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        many = [delivery(1, f"endpoint{number}") for number in range(200)]
        with pytest.raises(OutboxError, match="the disk is full. Make room"):
            outbox.release(event_id(1), many)
        assert [one.event_id for one in outbox.intents()] == [event_id(1)]
        assert not outbox.deliveries()
        connection.execute("PRAGMA max_page_count = 100000")
        outbox.release(event_id(1), many)
        assert outbox.summary("production").counts == {State.PENDING: 200}


def test_a_disk_without_room_for_shared_memory_is_full(outbox_path: Path) -> None:
    """An outbox with room for nothing beside it: SQLite calls that a fault of the disk."""
    refused = sqlite3.OperationalError("disk I/O error")
    refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    with pytest.raises(OutboxError, match="disk is full, .* Make room"), translated(outbox_path):
        raise refused


@pytest.mark.survived("A limit on the size of files", "kept")
def test_a_file_that_may_not_grow_breaks_nothing(outbox_path: Path) -> None:
    """Writes that the system cuts off end as OutboxError; what was kept before is whole."""
    script = (
        "import resource, signal, sys\n"
        "from itertools import count\n"
        "from pathlib import Path\n"
        "from contract.made import delivery, event_id\n"
        "from confiture_webhooks.outbox.sqlite import SqliteOutbox\n"
        "from confiture_webhooks.errors import OutboxError\n"
        "outbox = SqliteOutbox(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "try:\n"
        "    for number in count():\n"
        "        outbox.release(event_id(number), [delivery(number)])\n"
        "except OutboxError:\n"
        "    print(number)\n"
        "    sys.stdout.flush()\n"
        "    outbox.close()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(outbox_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=A_HANG_S,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    with closing(SqliteOutbox(outbox_path)) as outbox:
        assert len(outbox.deliveries(limit=10**6)) == int(run.stdout) > 0


def test_a_read_only_directory_is_an_error(read_only_project: Path) -> None:
    """Neither a new file nor an existing one can be used where nothing can be written."""
    with pytest.raises(OutboxError):
        SqliteOutbox(read_only_project / "new.db")
    with pytest.raises(OutboxError):
        SqliteOutbox(read_only_project / "new" / "webhooks.db")
    with pytest.raises(OutboxError, match="cannot be"):
        SqliteOutbox(read_only_project / ".confiture" / "webhooks.db")
    with pytest.raises(OutboxError, match="Make it writable, or name another file: CONFITURE_"):
        open_outbox(read_only_project / "new.db", print)


@pytest.mark.survived("A file that is damaged while it is in use", "kept")
def test_a_corrupt_file_is_kept_aside_and_a_fresh_one_made(outbox_path: Path) -> None:
    """What is no database is renamed, byte for byte, and said; a new outbox takes its place."""
    outbox_path.parent.mkdir()
    outbox_path.write_bytes(b"not a database" * 1000)
    outbox_path.with_name("webhooks.db-wal").write_bytes(b"nor a log")
    notices: list[str] = []
    outbox = open_outbox(outbox_path, notices.append)
    with closing(outbox):
        assert outbox.is_durable
        assert not outbox.deliveries()
        outbox.release(event_id(1), [delivery(1)])
    [aside] = outbox_path.parent.glob("webhooks.db.corrupt-*[0-9]Z")
    assert aside.read_bytes() == b"not a database" * 1000
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"nor a log"
    [notice] = notices
    assert aside.name in notice
    open_outbox(outbox_path, notices.append).close()
    assert notices == [notice]


def test_a_command_names_the_repair_of_a_damaged_file(outbox_path: Path) -> None:
    """Who only looks sets nothing aside; the reason says who does."""
    outbox_path.parent.mkdir()
    outbox_path.write_bytes(b"not a database" * 1000)
    with pytest.raises(OutboxError, match="The next `confiture migrate up` keeps it aside"):
        SqliteOutbox(outbox_path)
    assert outbox_path.read_bytes() == b"not a database" * 1000


def test_a_file_that_another_process_set_aside_is_not_touched(outbox_path: Path) -> None:
    """Of two processes that find the damage, the slower leaves the fresh file where it is."""
    outbox_path.parent.mkdir()
    outbox_path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DamagedError) as slower:
        SqliteOutbox(outbox_path)
    outbox = open_outbox(outbox_path, print)
    outbox.release(event_id(1), [delivery(1)])
    outbox.close()
    assert set_aside(outbox_path, slower.value) is None
    with closing(SqliteOutbox(outbox_path)) as again:
        assert len(again.deliveries()) == 1


def test_two_corrupt_files_are_both_kept(outbox_path: Path) -> None:
    """A second one set aside in the same second does not replace the first."""
    outbox_path.parent.mkdir()
    for content in (b"one" * 99, b"two" * 99, b"six" * 99):
        outbox_path.write_bytes(content)
        open_outbox(outbox_path, print).close()
    kept = {file.read_bytes() for file in outbox_path.parent.glob("webhooks.db.corrupt-*")}
    assert kept == {b"one" * 99, b"two" * 99, b"six" * 99}


@pytest.mark.survived("A file that is damaged while it is in use", "kept")
def test_damage_found_in_use_is_dealt_with_at_the_next_opening(outbox_path: Path) -> None:
    """A broken page is an OutboxError now; the next to open sets the file aside."""
    filled(outbox_path, count=300)
    page = outbox_path.read_bytes().index(delivery(150).body) // 4096
    with outbox_path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 100)
    with closing(SqliteOutbox(outbox_path)) as outbox, pytest.raises(OutboxError, match="damaged"):
        outbox.deliveries(limit=1000)
    notices: list[str] = []
    outbox = open_outbox(outbox_path, notices.append)
    outbox.close()
    assert "webhooks.db.corrupt-" in "".join(notices)
    assert outbox.is_durable


def test_a_sound_file_that_was_noted_as_damaged_stays(outbox_path: Path) -> None:
    """A note of damage that an examination does not find is dropped."""
    filled(outbox_path)
    note = outbox_path.with_name("webhooks.db.damaged")
    note.touch()
    with closing(SqliteOutbox(outbox_path)) as outbox:
        assert len(outbox.deliveries()) == 1
    assert not note.exists()


def test_a_worker_goes_over_to_the_file_that_takes_the_place_of_its_own(outbox_path: Path) -> None:
    """Removed or set aside, the old one is used until there is a new one, which loses nothing."""
    aside = outbox_path.parents[1] / "aside"
    with closing(SqliteOutbox(outbox_path, follows=True)) as worker:
        worker.release(event_id(1), [delivery(1)])
        outbox_path.parent.rename(aside)
        assert [row.delivery.id for row in worker.deliveries()] == ["dlv_a_1"]
        with closing(SqliteOutbox(outbox_path)) as run:
            run.release(event_id(2), [delivery(2)])
            assert [row.delivery.id for row in worker.deliveries()] == ["dlv_a_2"]
            [claim] = worker.claim("a", environment="production", now=NOW, lease=LEASE)
            run.release(event_id(3), [delivery(3)])
        assert worker.record(claim, attempt(), DELIVERED)
    with closing(SqliteOutbox(outbox_path)) as run:
        assert [row.state for row in run.deliveries()] == [State.PENDING, State.DELIVERED]


def test_a_worker_waits_until_the_file_in_the_place_of_its_own_is_an_outbox(
    outbox_path: Path,
) -> None:
    """While it is none, every operation says so; afterwards it is used."""
    with closing(SqliteOutbox(outbox_path, follows=True)) as worker:
        shutil.rmtree(outbox_path.parent)
        outbox_path.parent.mkdir()
        outbox_path.write_bytes(b"not a database" * 500)
        for _ in range(2):
            with pytest.raises(OutboxError, match="damaged"):
                worker.deliveries()
        outbox = open_outbox(outbox_path, print)
        outbox.close()
        assert list(worker.deliveries()) == []


def test_a_run_keeps_the_file_it_began_with(outbox_path: Path) -> None:
    """What it has recorded is not out of its sight because somebody removed the file."""
    with closing(SqliteOutbox(outbox_path)) as run:
        run.release(event_id(1), [delivery(1)])
        shutil.rmtree(outbox_path.parent)
        filled(outbox_path)
        [claim] = run.claim("a", environment="production", now=NOW, lease=LEASE)
        assert claim.delivery == delivery(1)


def test_an_outbox_that_cannot_be_at_all_says_where_and_what_to_do(tmp_path: Path) -> None:
    """With a file where its directory should be, the path and the setting are named."""
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match="CONFITURE_WEBHOOK_OUTBOX=sqlite:") as refused:
        open_outbox(tmp_path / "file" / "webhooks.db", print)
    assert str(tmp_path / "file" / "webhooks.db") in str(refused.value)


def test_after_close_it_refuses(outbox_path: Path) -> None:
    """What is asked of a closed outbox is an OutboxError, never SQLite's own."""
    outbox = SqliteOutbox(outbox_path)
    outbox.close()
    with pytest.raises(OutboxError):
        outbox.summary("production")
    with pytest.raises(OutboxError):
        outbox.prune(before=NOW - timedelta(days=30), keep=0)


def test_a_file_with_a_trigger_of_others_is_refused(outbox_path: Path) -> None:
    """Before anything is written: it may keep rows out without an error."""
    SqliteOutbox(outbox_path).close()
    with closing(sqlite3.connect(outbox_path)) as other:
        keep_out = "BEFORE INSERT ON deliveries BEGIN SELECT RAISE(IGNORE); END"
        other.execute(f"CREATE TRIGGER mine {keep_out}")
    said = "somebody has put triggers in it: mine. Drop them, or name another file"
    with pytest.raises(OutboxError, match=said):
        SqliteOutbox(outbox_path)


def test_a_file_without_a_column_that_deliveries_need_is_refused(outbox_path: Path) -> None:
    """Nothing could be sent from it; what only other tables lack costs what they are for."""
    SqliteOutbox(outbox_path).close()
    with closing(sqlite3.connect(outbox_path)) as other:
        other.execute("ALTER TABLE intents RENAME COLUMN intent TO other")
        with closing(SqliteOutbox(outbox_path)) as outbox:
            assert outbox.deliveries() == []
            with pytest.raises(OutboxError, match="Undo what was changed in it, or name"):
                outbox.stage(intent(1))
        other.execute("ALTER TABLE deliveries RENAME COLUMN is_ready TO other")
    with pytest.raises(OutboxError, match=r"is_ready\). Undo what was changed in it, or name"):
        SqliteOutbox(outbox_path)


def test_a_constraint_of_others_has_a_remedy(outbox_path: Path) -> None:
    """An index that is unique keeps the second delivery out."""
    with closing(SqliteOutbox(outbox_path)) as outbox:
        with closing(sqlite3.connect(outbox_path)) as other:
            other.execute("CREATE UNIQUE INDEX mine ON deliveries (endpoint)")
        outbox.release(event_id(1), [delivery(1)])
        with pytest.raises(OutboxError, match="Undo what was changed in it, or name"):
            outbox.release(event_id(2), [delivery(2)])
