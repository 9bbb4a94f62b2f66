"""A local PostgreSQL starts, answers, and never outlives who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from confiture_webhooks.errors import WebhooksError
from confiture_webhooks.local_postgres import LocalPostgres, find_binaries

HOLDER = """
import sys, time
from confiture_webhooks.local_postgres import LocalPostgres
with LocalPostgres() as server:
    print(server.pid, server.log, flush=True)
    sys.stdin.read()
"""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_gone(pid: int, directory: Path) -> None:
    deadline = time.monotonic() + 30
    while _is_running(pid) or directory.exists():
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.02)


def test_it_answers_and_leaves_nothing_behind() -> None:
    """A started server answers who has its password; a stopped one has left no process and no file.

    As root the server belongs to an existing account, only its data directory is that account's,
    and no directory's mode is changed.
    """
    watched = [*find_binaries().parents, Path("/tmp"), Path.home()]
    before = [path.stat().st_mode for path in watched]
    accounts = Path("/etc/passwd").read_bytes()
    with LocalPostgres() as server:
        with psycopg.connect(server.dsn()) as connection:
            row = connection.execute("SELECT current_setting('fsync')").fetchone()
        assert row == ("off",)
        wrong = f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        assert _is_running(server.pid)
        home = server.log.parent
        if os.geteuid() == 0:
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0
            owners = {path.name: path.stat().st_uid for path in home.iterdir()}
            assert home.stat().st_uid == 0
            assert home.stat().st_mode & 0o022 == 0
            assert owners.pop("data") != 0
            assert set(owners.values()) == {0}
    assert not _is_running(server.pid)
    assert not home.exists()
    assert [path.stat().st_mode for path in watched] == before
    assert Path("/etc/passwd").read_bytes() == accounts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_owner(number: signal.Signals) -> None:
    """However the process that asked for a server is ended, the server and its files go too."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid, log = holder.stdout.readline().split()
        assert _is_running(int(pid))
        holder.send_signal(number)
        holder.wait(timeout=30)
    _wait_until_gone(int(pid), Path(log).parent)


def test_control_c_ends_it() -> None:
    """Ctrl-C reaches the whole process group, and the server is stopped in order."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as holder:
        assert holder.stdout is not None
        pid, log = holder.stdout.readline().split()
        os.killpg(holder.pid, signal.SIGINT)
        holder.wait(timeout=30)
    _wait_until_gone(int(pid), Path(log).parent)


def test_a_kept_directory_keeps_its_data() -> None:
    """A server started again on its directory has the same data, password and port.

    Durable keeps fsync, and settings are the server's.
    """
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        Path(above).chmod(0o755)
        settings = {"log_min_duration_statement": "7"}
        server = LocalPostgres(Path(above) / "kept", durable=True, settings=settings)
        with server, psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
            address = server.dsn()
        with server, psycopg.connect(address) as connection:
            row = connection.execute(
                "SELECT n, current_setting('fsync'), current_setting('log_min_duration_statement')"
                " FROM kept"
            ).fetchone()
        assert row == (42, "on", "7ms")


def test_a_server_that_cannot_start_says_why_in_one_line() -> None:
    """A setting the server refuses is the error, and nothing is left running."""
    with pytest.raises(WebhooksError, match="no_such_setting") as caught:
        LocalPostgres(settings={"no_such_setting": "1"}).start()
    assert "\n" not in str(caught.value)


def test_a_directory_without_binaries_is_named(tmp_path: Path) -> None:
    """A wrong binary directory is named in the error."""
    with pytest.raises(WebhooksError, match="no initdb and postgres in"):
        LocalPostgres(bin_dir=tmp_path).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """A kept directory that belongs to somebody else is named, and stays as it is."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        Path(above).chmod(0o755)
        theirs = Path(above) / "kept"
        theirs.mkdir()
        os.chown(theirs, 65534, 65534)
        with pytest.raises(WebhooksError, match="belongs to another user"):
            LocalPostgres(theirs).start()
        assert list(theirs.iterdir()) == []
