"""Which files are used as an outbox: ours, closed to others; every other is left as it is."""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox.sqlite import SqliteOutbox, open_outbox
from confiture_webhooks.outbox.sqlite_file import drop, own
from contract.made import filled

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def refused(path: Path, words: str) -> None:
    """Whoever opens *path* is refused with *words*, and nothing beside it changes."""
    before = snapshot(path.parent)
    for opening in (SqliteOutbox, lambda it: open_outbox(it, pytest.fail)):
        with pytest.raises(OutboxError, match=words) as error:
            opening(path)
        assert str(path) in str(error.value)
        assert error.value.remedy
    assert snapshot(path.parent) == before


def snapshot(directory: Path) -> dict[str, object]:
    """Name, mode, owner and content of all that is in *directory*."""
    return {
        file.name: (file.lstat().st_mode, file.lstat().st_uid, file.read_bytes())
        for file in directory.iterdir()
        if file.is_file()
    }


@pytest.mark.survived("The setting names a file that is no outbox", "unharmed")
@pytest.mark.parametrize(
    "content", [b"name: local\ndatabase_url: postgresql://x\n", b"x", b"SQLite format 3\0"]
)
def test_a_file_that_is_no_outbox_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A slip in the setting renames no environment file and changes no mode."""
    path = tmp_path / "local.yaml"
    path.write_bytes(content)
    path.chmod(0o644)
    refused(path, "this file is not an outbox")


@pytest.mark.survived("The setting names another program's database", "unharmed")
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_another_programs_database_is_left_as_it_is(tmp_path: Path, journal: str) -> None:
    """Neither its mode nor its journal changes, and no file appears beside it."""
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE theirs (id)")
    path.chmod(0o644)
    refused(path, "another program's SQLite database")


@pytest.mark.survived("A symbolic link in the outbox's place, or in its log's", "private")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Neither to a file, nor for the file's own directory."""
    filled(tmp_path / "real" / "webhooks.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "webhooks.db")
    refused(tmp_path / "link.db", "it is a symbolic link")
    (tmp_path / ".confiture").symlink_to(tmp_path / "real")
    refused(tmp_path / ".confiture" / "webhooks.db", ".confiture is a symbolic link")


def grant(path: Path, uid: int) -> None:
    """What ``setfacl -m u:UID:rwx`` leaves: an entry of that user's, and a mask."""
    unnamed = 0xFFFFFFFF
    entries = [(1, 7, unnamed), (2, 7, uid), (4, 5, unnamed), (16, 7, unnamed), (32, 5, unnamed)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except OSError:
        pytest.skip("this file system has no access lists")


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="Linux's access lists")
@pytest.mark.parametrize("which", [".", "webhooks.db"])
def test_an_access_list_is_seen(outbox_path: Path, which: str) -> None:
    """Another user who may write by ``setfacl`` is one, though the group is this user's own."""
    filled(outbox_path)
    granted = outbox_path.parent / which
    grant(granted, NOBODY)
    assert granted.stat().st_mode & 0o022 == 0o020
    refused(outbox_path, "others may write")


@pytest.mark.parametrize("beside", ["-wal", "-journal"])
def test_a_pipe_in_a_logs_place_is_refused(outbox_path: Path, beside: str) -> None:
    """SQLite would wait for it."""
    filled(outbox_path)
    log = outbox_path.with_name(outbox_path.name + beside)
    log.unlink(missing_ok=True)
    os.mkfifo(log)
    refused(outbox_path, f"{beside} is not a regular file")


@pytest.mark.survived("A symbolic link in the outbox's place, or in its log's", "private")
def test_a_log_that_is_a_link_is_not_followed(outbox_path: Path) -> None:
    """SQLite would replay it into the outbox."""
    filled(outbox_path)
    (outbox_path.parent / "webhooks.db-wal").symlink_to("/dev/null")
    refused(outbox_path, "webhooks.db-wal is a symbolic link")


@pytest.mark.survived("An outbox of another user, or one that others may write", "private")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o707])
def test_a_directory_that_others_may_write_is_not_used(outbox_path: Path, mode: int) -> None:
    """They could put another file in the outbox's place, or a log beside it."""
    filled(outbox_path)
    outbox_path.parent.chmod(mode)
    refused(outbox_path, r"others may write .*\.confiture \(mode ")


@pytest.mark.survived("An outbox of another user, or one that others may write", "private")
def test_a_file_that_others_may_write_is_not_used(outbox_path: Path) -> None:
    """Its rows may be anybody's."""
    filled(outbox_path)
    outbox_path.chmod(0o666)
    refused(outbox_path, r"others may write it \(mode 0666\)")


@pytest.mark.survived("An outbox of another user, or one that others may write", "private")
@needs_root
@pytest.mark.parametrize("place", ["file", "directory", "log"])
def test_what_belongs_to_another_user_is_not_used(outbox_path: Path, place: str) -> None:
    """Root, too, sends nothing that another user has stored."""
    filled(outbox_path)
    log = outbox_path.with_name("webhooks.db-wal")
    log.touch()
    os.chown({"file": outbox_path, "directory": outbox_path.parent, "log": log}[place], NOBODY, -1)
    refused(outbox_path, "belongs to another user")


@pytest.mark.survived("A pipe in the outbox's place", "unharmed")
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("pipe", "it is not a regular file. Name another file"),
        ("", "it is not a regular file. Name another file"),
        ("/dev/full", "it is not a regular file. Name another file"),
        ("file/x.db", r"it cannot be opened or made \(Not a directory\). Name another file"),
        ("n" * 300, r"it cannot be opened or made \(File name too long\). Name another file"),
        ("directory/" * 200 + "x", "its path is longer than 504 bytes. Name another file"),
        ("dangling", "it is a symbolic link. Name what it points to, or name another file"),
    ],
    ids=["pipe", "directory", "device", "below a file", "long name", "long path", "link"],
)
def test_what_is_not_a_file_is_not_used(tmp_path: Path, place: str, reason: str) -> None:
    """A pipe is not waited for. No remedy changes a device, or what cannot be made writable."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutboxError, match=f"{reason}: CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>$"):
        SqliteOutbox(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_the_longest_path_that_sqlite_opens_is_used(tmp_path: Path) -> None:
    """One byte more is refused by us, in words."""
    directory = tmp_path / ("d" * 120) / ("d" * 120)
    longest = directory / ("x" * (504 - len(os.fsencode(directory)) - 1))
    filled(longest)
    with pytest.raises(OutboxError, match="its path is longer than 504 bytes"):
        SqliteOutbox(longest.with_name(f"{longest.name}x"))


def test_a_dropped_outbox_leaves_nothing(outbox_path: Path) -> None:
    """Its files go, and its directory when nothing else is in it; what is no outbox stays."""
    filled(outbox_path)
    drop(outbox_path)
    assert not outbox_path.parent.exists()
    drop(outbox_path)
    other = outbox_path.parents[1] / "notes.txt"
    other.write_text("x")
    with pytest.raises(OutboxError, match="not an outbox"):
        drop(other)
    assert other.read_text() == "x"


def test_where_files_have_no_owners_only_the_header_counts(
    outbox_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: an outbox is made and used, and another file is left as it is."""
    monkeypatch.setattr("confiture_webhooks.outbox.sqlite_file.os.name", "nt")
    outbox_path.parent.mkdir()
    own(outbox_path, makes=True)
    assert outbox_path.exists()
    outbox_path.with_name("notes.txt").write_text("x")
    with pytest.raises(OutboxError, match="not an outbox"):
        own(outbox_path.with_name("notes.txt"), makes=True)
