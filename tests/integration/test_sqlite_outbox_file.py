"""The SQLite outbox's file: where it is, who may read it, which versions, what it holds."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from confiture_webhooks.config import Settings
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import schema, sqlite_file
from confiture_webhooks.outbox.sqlite import SqliteOutbox, left_behind_in, open_outbox
from confiture_webhooks.outbox.sqlite_file import default_path
from confiture_webhooks.wiring import left_in_file
from contract.made import (
    DEAD,
    DELIVERED,
    GONE,
    LEASE,
    NOW,
    attempt,
    delivery,
    event_id,
    filled,
    intent,
)


def mode(path: Path) -> int:
    """The permission bits of *path*."""
    return path.stat().st_mode & 0o777


# Where it is, and who may read it


def test_what_waits_is_counted_beside_its_writer(outbox_path: Path, tmp_path: Path) -> None:
    """Also in the log of a writer that lives, or was killed; nothing is made, taken or written."""
    assert left_behind_in(outbox_path) == {}
    assert not outbox_path.parent.exists()
    killed = tmp_path / "killed.db"
    with closing(SqliteOutbox(outbox_path)) as outbox:
        for number, environment in enumerate(("production", "", "")):
            one = delivery(number, environment=environment)
            outbox.release(one.event_id, [one, delivery(number, "b", environment=environment)])
            staged = dataclasses.replace(intent(number + 10), environment=environment or None)
            outbox.stage(staged)
            count = max(number, 1)
            assert left_behind_in(outbox_path)[environment or None] == (2 * count, 0, 0, count, 0)
        for suffix in ("", "-wal"):
            written = outbox_path.with_name(outbox_path.name + suffix).read_bytes()
            killed.with_name(killed.name + suffix).write_bytes(written)
        assert left_behind_in(killed) == {"production": (2, 0, 0, 1, 0), None: (4, 0, 0, 2, 0)}
        assert killed.read_bytes() == outbox_path.read_bytes()
        for endpoint, decision in (("a", DEAD), ("b", GONE)):
            claims = outbox.claim(endpoint, environment="production", now=NOW, lease=LEASE)
            outbox.record(claims[0], attempt(), decision)
        assert left_behind_in(outbox_path) == {"production": (0, 1, 1, 1, 0), None: (4, 0, 0, 2, 0)}
    killed.with_name(f"{killed.name}-wal").unlink()
    killed.write_bytes(b"no outbox")
    with pytest.raises(OutboxError, match="this file is not an outbox"):
        left_behind_in(killed)
    assert killed.read_bytes() == b"no outbox"


def test_only_the_owner_may_read_it(outbox_path: Path) -> None:
    """The file and those beside it are 0600, their directory 0700, whatever the umask."""
    before = os.umask(0)
    try:
        with closing(SqliteOutbox(outbox_path)) as outbox:
            outbox.stage(intent(1))
            files = {file.name: mode(file) for file in outbox_path.parent.glob("webhooks.db*")}
    finally:
        os.umask(before)
    assert files == dict.fromkeys(("webhooks.db", "webhooks.db-wal", "webhooks.db-shm"), 0o600)
    assert mode(outbox_path.parent) == 0o700


def test_a_readable_file_is_made_private(outbox_path: Path) -> None:
    """A file that others may read is closed to them when it is opened."""
    filled(outbox_path)
    outbox_path.chmod(0o644)
    filled(outbox_path)
    assert mode(outbox_path) == 0o600


def test_a_directory_of_its_own_is_out_of_version_control(outbox_path: Path) -> None:
    """A new directory ignores all it holds; one of the project's only the outbox."""
    filled(outbox_path)
    assert (outbox_path.parent / ".gitignore").read_text() == "*\n"
    other = outbox_path.parents[1] / "project" / ".confiture" / "webhooks.db"
    other.parent.mkdir(parents=True)
    filled(other)
    assert (other.parent / ".gitignore").read_text() == "webhooks.db*\n"


def test_no_file_is_written_in_the_locales_encoding(outbox_path: Path) -> None:
    """Where Python makes an error of that (PEP 597), there is an outbox all the same."""
    code = (
        "import pathlib, sys; from confiture_webhooks.outbox.sqlite import SqliteOutbox; "
        "SqliteOutbox(pathlib.Path(sys.argv[1])).close()"
    )
    strict = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    subprocess.run([sys.executable, *strict, "-c", code, outbox_path], check=True)
    assert (outbox_path.parent / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_a_directory_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    """A directory that was there and is not ours keeps its mode and gets no .gitignore."""
    tmp_path.chmod(0o755)
    filled(tmp_path / "mine.db")
    assert mode(tmp_path) == 0o755
    assert not (tmp_path / ".gitignore").exists()


def test_it_lies_in_the_project(tmp_path: Path) -> None:
    """Where the project can be written, the outbox is its .confiture/webhooks.db."""
    assert default_path(tmp_path, {}) == tmp_path / ".confiture" / "webhooks.db"


@pytest.mark.survived("A directory that cannot be written", "kept")
def test_it_lies_in_the_users_state_when_the_project_is_read_only(read_only_project: Path) -> None:
    """A project that cannot be written has its outbox in the user's state, one per project."""
    there = default_path(read_only_project, {"HOME": "/home/ada"})
    assert there.parents[1] == Path("/home/ada/.local/state/confiture-webhooks")
    assert there.name == "webhooks.db"
    given = default_path(read_only_project, {"XDG_STATE_HOME": "/state", "HOME": "/home/ada"})
    assert given == Path("/state/confiture-webhooks") / there.parent.name / "webhooks.db"
    assert (
        default_path(read_only_project, {"XDG_STATE_HOME": "state", "HOME": "/home/ada"}) == there
    )


def test_what_waits_in_a_project_that_became_read_only_is_named(
    read_only_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command is shown for it: none can send it before it can be written."""
    monkeypatch.chdir(read_only_project)
    with pytest.raises(OutboxError, match="what it holds waits until it can be written"):
        left_in_file(Settings())


def test_what_waits_in_the_usual_place_is_named_by_the_short_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command for it is then right in every copy of the project."""
    monkeypatch.chdir(tmp_path)
    with closing(SqliteOutbox(default_path(tmp_path, {}))) as outbox:
        outbox.release(delivery(1).event_id, [delivery(1)])
        setting, left = left_in_file(Settings(outbox="memory"))
    assert (setting, sum(one.waiting for one in left.values())) == ("sqlite", 1)
    assert left_in_file(Settings()) == ("sqlite", {})


# Versions


def test_what_is_stored_outlives_the_process(outbox_path: Path) -> None:
    """Closed and opened again, it holds what it held, and leaves no log behind."""
    filled(outbox_path)
    assert not outbox_path.with_name("webhooks.db-wal").exists()
    with closing(SqliteOutbox(outbox_path)) as outbox:
        [claim] = outbox.claim("a", environment="production", now=NOW, lease=LEASE)
    assert claim.delivery == delivery(0)


@pytest.mark.survived("A file of an older version", "kept")
def test_an_older_file_is_brought_forward(
    outbox_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of an earlier version gets the later migrations and keeps what it holds."""
    filled(outbox_path)
    later = schema.VERSION + 1
    monkeypatch.setattr(
        schema, "LATER", (*schema.LATER, "ALTER TABLE intents ADD COLUMN note TEXT")
    )
    monkeypatch.setattr(schema, "VERSION", later)
    with closing(SqliteOutbox(outbox_path)) as outbox:
        assert len(outbox.deliveries()) == 1
    with closing(sqlite3.connect(outbox_path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (later,)
        assert connection.execute("SELECT note FROM intents").fetchall() == []


@pytest.mark.survived("A file of a newer version", "kept", "said")
def test_a_newer_file_is_refused_and_left_alone(outbox_path: Path) -> None:
    """A file of a later version is named with a remedy, not changed and not set aside."""
    filled(outbox_path)
    with closing(sqlite3.connect(outbox_path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    content = outbox_path.read_bytes()
    with pytest.raises(OutboxError, match=r"webhooks\.db.*newer.*Upgrade confiture-webhooks"):
        SqliteOutbox(outbox_path)
    with pytest.raises(OutboxError, match="newer"):
        open_outbox(outbox_path, print)
    assert outbox_path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(outbox_path: Path) -> None:
    """No table is added to a database that is not an outbox."""
    outbox_path.parent.mkdir()
    with closing(sqlite3.connect(outbox_path)) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    with pytest.raises(OutboxError, match="another program"):
        SqliteOutbox(outbox_path)
    with closing(sqlite3.connect(outbox_path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_an_empty_file_becomes_an_outbox(outbox_path: Path) -> None:
    """A process killed between making the file and filling it leaves nothing in the way."""
    outbox_path.parent.mkdir()
    outbox_path.touch()
    filled(outbox_path)


# Without a WAL


def test_without_shared_memory_it_does_without_a_wal(
    outbox_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files beside it cannot be shared, two processes still share it, also one from a WAL."""
    filled(outbox_path)
    # A directory stands for a file system without shared memory; as a file beside it, it is refused.
    monkeypatch.setattr(sqlite_file, "_check", lambda *_, **__: None)
    outbox_path.with_name("webhooks.db-shm").mkdir()
    with closing(SqliteOutbox(outbox_path)) as first, closing(SqliteOutbox(outbox_path)) as second:
        first.release(event_id(7), [delivery(7)])
        claims = second.claim("a", environment="production", now=NOW, lease=LEASE, limit=5)
        assert [claim.delivery.id for claim in claims] == ["dlv_a_0", "dlv_a_7"]
        assert first.record(claims[0], attempt(), DELIVERED)
    with closing(sqlite3.connect(outbox_path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


# What it holds


def test_text_that_utf8_cannot_carry_does_not_stop_a_release(outbox_path: Path) -> None:
    """A migration whose file name is not UTF-8 is reported, with its bad bytes escaped."""
    bad = dataclasses.replace(delivery(1), migration_name="001_caf\udce9")
    with closing(SqliteOutbox(outbox_path)) as outbox:
        outbox.release(event_id(1), [bad])
        [row] = outbox.deliveries()
        assert row.delivery.migration_name == "001_caf\\udce9"
        assert not outbox.deliveries(id="\udce9")


def test_it_keeps_no_answer_and_no_address(outbox_path: Path) -> None:
    """The tables have no column for a URL, a secret, a header or the body of an answer."""
    filled(outbox_path)
    with closing(sqlite3.connect(outbox_path)) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        columns = {
            column[1]
            for table in tables
            for column in connection.execute(f"PRAGMA table_info({table})")
        }
    assert not [
        name
        for name in columns
        if any(word in name for word in ("url", "secret", "header", "answer", "response", "auth"))
    ]
