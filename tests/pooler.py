"""A real PgBouncer in front of a test's database: loopback, trusting, not as root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import conninfo

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")

_INI = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {size}
logfile = {log}
ignore_startup_parameters = extra_float_digits
"""


class PgBouncer:
    """Pools connections to the server of *dsn*, *size* at most; ``url`` goes through it.

    *more*: settings of PgBouncer's own.
    """

    def __init__(
        self, dsn: str, directory: Path, *, mode: str, size: int = 1, **more: object
    ) -> None:
        given = conninfo.conninfo_to_dict(dsn)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        directory.mkdir()
        users, log = directory / "users.txt", directory / "log"
        users.write_text(f'"{given["user"]}" "{given["password"]}"\n')
        log.touch()
        self._ini = directory / "pgbouncer.ini"
        self._ini.write_text(
            _INI.format(
                host=given["host"],
                port=given["port"],
                listen=port,
                users=users,
                mode=mode,
                size=size,
                log=log,
            )
            + "".join(f"{name} = {value}\n" for name, value in more.items())
        )
        if os.geteuid() == 0:
            for path in (directory, users, log, self._ini):
                shutil.chown(path, "nobody")
            for parent in directory.parents:  # a temporary directory of root's is closed to others
                with suppress(OSError):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self.url = f"postgresql://{given['user']}@127.0.0.1:{port}/{given['dbname']}"

    def __enter__(self) -> Self:
        user = {"user": "nobody"} if os.geteuid() == 0 else {}
        self._process = subprocess.Popen(
            [str(PROGRAM), "-q", str(self._ini)], stderr=subprocess.DEVNULL, **user
        )
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, autocommit=True).close()
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self._ini.parent / "log").read_text()
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(20)
