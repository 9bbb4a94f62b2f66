"""Each ``confiture`` command as a fork of one process that has imported the host.

Importing the host and building its commands takes 0.9 s of a processor, a fork 0.02 s. Arguments,
environment, working directory, user, the three streams, exit codes and signals are those of a real
process. Its shutdown is Python's own too: threads are joined, exit handlers run and streams are
flushed. Only the modules and strings that all forks share are not taken apart at the end, which
takes 0.1 s.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import pkgutil
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFITURE = Path(sys.executable).with_name("confiture")
"""The console script of the environment the tests run in."""

READ_LATE = re.compile(
    r"PATH|HOME|TERM|TMPDIR|PYTHONIOENCODING|XDG_\w+|CONFITURE_\w+|OTEL_(EXPORTER|SERVICE|RESOURCE|SDK)_\w+"
    r"|OTEL_(BSP|BLRP|TRACES|METRICS?|LOGS)_\w+|TRACEPARENT|TRACESTATE"
    r"|BAGGAGE|CORRELATION_ID|DATABASE_URL|PG\w+|\w+_proxy|\w+_PROXY|REQUESTS_CA_BUNDLE"
    r"|RES_OPTIONS|SSL_CERT_\w+|CURL_CA_BUNDLE|CI|CI_\w+|GITHUB_\w+|GITLAB_\w+|(WEBHOOK|HOOK|SLACK|TEAMS|CHAT|API|DB)\w*|\w+_KEY"
)
"""Variables that are first read when a command runs; with any other, a command starts cold."""
FIXED = {"LANG": "C.UTF-8", "COLUMNS": "100"}
"""What the importing process has, and each of its commands too."""
FOREIGN = (
    "confiture.cli.main",
    "grp",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.instrumentation.requests",
    "opentelemetry.sdk._logs.export",
    "opentelemetry.sdk.metrics.export",
    "opentelemetry.sdk.trace.export",
    "psycopg.types.json",
    "pwd",
    "requests",
    "structlog",
    "typer._adapters",
)
STATUS = struct.Struct("i")


class Forked(subprocess.Popen[str]):
    """A ``Popen`` whose process a :class:`Template` forks and waits for."""

    def __init__(
        self, template: Template, arguments: list[str], *, code: str | None, **options: Any
    ) -> None:
        self._template = template
        self._code = code
        super().__init__(arguments, text=True, **options)

    def _execute_child(self, *given: Any) -> None:
        names = list(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]
        asked = dict(zip(names, given, strict=True))
        streams = []
        for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
            streams.append(number if asked[name] == -1 else asked[name])
        self._status, theirs = socket.socketpair()
        with theirs:
            what = {
                "arguments": asked["args"],
                "code": self._code,
                "cwd": os.fspath(asked["cwd"]),
                "env": asked["env"],
                "new_session": asked["start_new_session"],
                **{name: asked[name] for name in ("gids", "gid", "uid")},
            }
            self._template.ask(json.dumps(what).encode(), [*streams, theirs.fileno()])
        self.pid = STATUS.unpack(self._status.recv(STATUS.size))[0]
        self._child_created = True
        self._close_pipe_fds(
            *(asked[name] for name in names if name.startswith(("p2c", "c2p", "err")))
        )

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        with self._status:
            return self.pid, STATUS.unpack(self._status.recv(STATUS.size))[0]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
        return self.returncode


class Template:
    """The client of one process that has imported the host; it ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={"PATH": os.environ.get("PATH", os.defpath), **FIXED},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the process; what it forked goes on."""
        self._socket.close()
        self._process.wait(10)

    def ask(self, what: bytes, descriptors: list[int]) -> None:
        """Have a command forked, with its three streams and where to report."""
        with self._lock:
            socket.send_fds(self._socket, [what], descriptors)


_template: Template | None = None
_started = threading.Lock()


def can_fork(env: dict[str, str]) -> bool:
    """Whether *env* holds nothing that is read while the host is imported.

    A planted ``sitecustomize`` patches the host, and does that as well in a fork.
    """
    others = {name: value for name, value in env.items() if not READ_LATE.fullmatch(name)}
    planted = others.pop("PYTHONPATH", None)
    return others == FIXED and (planted is None or Path(planted, "sitecustomize.py").is_file())


def popen(
    arguments: list[str],
    *,
    cwd: Path,
    env: dict[str, str],
    code: str | None = None,
    **options: Any,
) -> subprocess.Popen[str]:
    """Start ``confiture`` with *arguments*: a fork, or a cold start where *env* needs one.

    With *code* it is an interpreter that runs it, and in which every warning is an error.
    """
    if not can_fork(env) or "preexec_fn" in options:
        program = [CONFITURE] if code is None else [sys.executable, "-W", "error", "-c", code]
        return subprocess.Popen([*program, *arguments], cwd=cwd, env=env, text=True, **options)
    global _template  # noqa: PLW0603  one for the whole session
    with _started:
        _template = _template or Template()
    return Forked(_template, arguments, code=code, cwd=cwd, env=env, **options)


def run(
    arguments: list[str], *, timeout: float, stdin: str = "", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``confiture`` to its end; the exit code is the caller's to judge."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with popen(arguments, **{**pipes, **options}) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess([*arguments], process.returncode, out, err)


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request; return what was asked in the fork, and never here."""
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)  # noqa: FBT003
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    while True:
        if woken in select.select([requests, woken], [], [])[0]:
            woken.recv(4096)
            report(running)
            continue
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not data:
            os._exit(0)
        *streams, status = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for one in (requests, woken, wakes, *running.values()):
                one.detach()
            os.closerange(3, 65536)
            return dict(json.loads(data))
        for stream in streams:
            os.close(stream)
        running[pid] = socket.socket(fileno=status)
        running[pid].send(STATUS.pack(pid))


def report(running: dict[int, socket.socket]) -> None:
    """Pass on the status of each process that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with running.pop(pid) as listener, contextlib.suppress(OSError):
                listener.send(STATUS.pack(status))


def become(asked: dict[str, Any]) -> None:
    """Take on the arguments, environment and directory of the command, and run it to its end."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    if asked["new_session"]:
        os.setsid()
    if asked["gids"] is not None:
        os.setgroups(asked["gids"])
    if asked["gid"] is not None:
        os.setregid(asked["gid"], asked["gid"])
    if asked["uid"] is not None:
        os.setreuid(asked["uid"], asked["uid"])
    sys.argv[:] = [str(CONFITURE), *asked["arguments"]]
    sys.path[0] = str(CONFITURE.parent)
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdout = open(1, "w", encoding=encoding)  # noqa: PTH123, SIM115
        sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace")  # noqa: PTH123, SIM115
    if planted := os.environ.get("PYTHONPATH"):
        sys.path.insert(1, planted)
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    try:
        if asked["code"] is None:
            from confiture.cli.main import app

            sys.exit(app())
        warnings.simplefilter("error")
        exec(asked["code"], {"__name__": "__main__"})  # noqa: S102
        sys.exit()
    except SystemExit as ended:
        vars(sys)["end"].code = ended.code or 0
        raise


class End:
    """The last object that Python takes apart before its strings, of which forks have 20 MB.

    The process ends with it, unless how it exits is not settled yet: a text or a signal.
    """

    code: object = None

    def __del__(self, leave: Callable[[int], None] = os._exit, integer: type = int) -> None:
        if isinstance(self.code, integer):
            leave(self.code)


def share(names: set[str]) -> None:
    """Let go of the modules *names* without taking them apart: other forks have them as well."""
    modules = [sys.modules.pop(name) for name in names & sys.modules.keys()]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(modules))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        vars(sys)["end"].code = None  # Python says so, and exits with 120


def import_the_host() -> None:
    """Everything that a command may need; nothing of it runs yet, and no thread starts."""
    import typer.main

    import confiture_webhooks

    ours = pkgutil.walk_packages(confiture_webhooks.__path__, "confiture_webhooks.")
    for name in (*FOREIGN, *(module.name for module in ours)):
        if not name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(name)
    from confiture.cli.main import app

    commands = typer.main.get_command(app)
    commands.commands["webhooks"].list_commands(None)  # builds ours, which is lazy
    typer.main.get_command = lambda _: commands
    with contextlib.suppress(SystemExit):
        app(["--version"])  # compiles the patterns of the host's output
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork of several threads is not safe"
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    given = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(CONFITURE.parent)
    shared: set[str] = set()
    vars(sys)["end"] = End()
    atexit.register(share, shared)  # the first registered runs last
    import_the_host()
    shared |= sys.modules.keys() - {"__main__", "builtins", "sys"}
    become(serve(given))
