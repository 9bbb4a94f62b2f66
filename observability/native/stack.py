"""The observability stack on this machine, without containers: ``python observability/native/stack.py``.

Builds the programs once, starts them on loopback with the shipped configuration files and ports of their own,
prints the addresses, and stops them on Ctrl-C or SIGTERM. ``--json`` prints the addresses as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from programs import BACKENDS, CHECKERS, HERE, PROGRAMS, BuildError, build

ROOT = HERE.parent.parent
OBSERVABILITY = HERE.parent
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
PORTS = (
    "otlp_grpc otlp_http collector_health collector_self collector_prometheus "
    "jaeger_grpc jaeger_http jaeger_query jaeger_query_grpc jaeger_health jaeger_self "
    "prometheus prometheus-3.5 victoriametrics vmalert victorialogs alertmanager"
).split()
DIALECTS = {
    "prometheus": "prometheus",
    "prometheus-3.5": "compatible",
    "victoriametrics": "victoriametrics",
}
"""Which folder's rules and dashboards fit which keeper of metrics."""
QUICK = {"10s": "2s", "5m": "4s", "15s": "3s"}
"""How often things are read and written in a test that cannot wait."""


class StackError(Exception):
    """The stack did not start or one of its programs ended; the text says which and why."""


@dataclass(slots=True)
class Server:
    """One program of the stack, as a process that can be stopped and started again."""

    name: str
    command: list[str]
    ready_url: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program; ``wait_ready`` says when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own build, no shell
                self.command,
                env=self.environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours: we stop them in order
            )

    def wait_ready(self) -> None:
        """Return once the program answers; StackError with its last words if it ends or is too slow."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not answers(self.ready_url):
            if not self.is_alive():
                raise StackError(f"{self.name} ended at its start:\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} is not ready:\n{self.last_words()}")
            time.sleep(0.1)

    def stop(self, *, kill: bool = False) -> None:
        """End the program: asked first, unless *kill*."""
        if self.process is None:
            return
        if not kill:
            self.process.terminate()
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                pass
        if self.is_alive():
            self.process.kill()
        self.process.wait()

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-12:])


class Stack:
    """All programs with the shipped files, on loopback; a context manager that leaves none behind."""

    def __init__(
        self,
        programs: Mapping[str, Path],
        data: Path,
        backends: Sequence[str] = ("prometheus",),
        *,
        is_quick: bool = False,
    ) -> None:
        self.data = data
        self.backends = backends
        self._is_quick = is_quick
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._programs = programs
        self.servers = {server.name: server for server in self._servers()}

    def __enter__(self) -> Stack:
        try:
            for backend in self.backends:
                self._write_configuration(backend)
            for server in self.servers.values():
                server.start()
            for server in self.servers.values():
                server.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every program, the collector first so that what it holds can still go out."""
        for server in reversed(self.servers.values()):
            server.stop()

    def restart(self, name: str, *, kill: bool = False) -> None:
        """Stop and start one program; returns when it answers again."""
        self.servers[name].stop(kill=kill)
        self.servers[name].start()
        self.servers[name].wait_ready()

    @property
    def addresses(self) -> dict[str, Any]:
        """Where each program answers."""
        return {
            "otlp_http": self.url("otlp_http"),
            "otlp_grpc": self.address("otlp_grpc"),
            "jaeger": self.url("jaeger_query"),
            "prometheus": self.url(self.backends[0]),
            "metrics": {backend: self.url(backend) for backend in self.backends},
            "vmalert": self.url("vmalert"),
            "victorialogs": self.url("victorialogs"),
            "alertmanager": self.url("alertmanager"),
            "collector_metrics": self.url("collector_prometheus") + "/metrics",
            "collector_self_metrics": self.url("collector_self") + "/metrics",
            "dialect": DIALECTS[self.backends[0]],
            "promtool": str(self._programs["promtool"]),
            "logs": str(self.data),
        }

    def address(self, port: str) -> str:
        """The host and number of a named port."""
        return f"127.0.0.1:{self.ports[port]}"

    def url(self, port: str) -> str:
        """The http URL of a named port."""
        return f"http://{self.address(port)}"

    def _servers(self) -> list[Server]:
        """Stores first, the collector last."""
        at, url, data = self.address, self.url, self.data
        logs = ["-storageDataPath", str(data / "victorialogs"), "-retentionPeriod=30d"]
        alerts = ["--storage.path", str(data / "alertmanager"), "--cluster.listen-address="]
        collector = [f"--config={ROOT / 'otel-collector.yaml'}"]
        collector += [f"--config={OBSERVABILITY / 'otel-collector-queue.yaml'}"]
        if self._is_quick:
            flush = f"connectors::span_metrics::metrics_flush_interval: {self._pace('15s')}"
            collector.append(f"--config=yaml:{flush}")
        return [
            self._server(
                "victoria-logs",
                [*logs, "-httpListenAddr", at("victorialogs")],
                url("victorialogs") + "/health",
            ),
            self._server(
                "alertmanager",
                [
                    f"--config.file={OBSERVABILITY / 'alertmanager' / 'alertmanager.yml'}",
                    *alerts,
                    f"--web.listen-address={at('alertmanager')}",
                    f"--web.external-url={url('alertmanager')}",
                ],
                url("alertmanager") + "/-/ready",
            ),
            *(server for backend in self.backends for server in self._metrics(backend)),
            self._server(
                "jaeger",
                [f"--config={OBSERVABILITY / 'jaeger.yaml'}"],
                url("jaeger_health") + "/status",
            ),
            self._server("otelcol", collector, url("collector_health")),
        ]

    def _metrics(self, backend: str) -> list[Server]:
        """What keeps the metrics and evaluates the rules."""
        at, url, data = self.address, self.url, self.data
        config = data / "config" / backend
        if backend == "victoriametrics":
            store = [
                f"-promscrape.config={config / 'scrape.yml'}",
                "-storageDataPath",
                str(data / "victoriametrics"),
                "-retentionPeriod=30d",
                "-search.latencyOffset=5s",  # a person who looks now wants what is there now
                "-httpListenAddr",
                at(backend),
            ]
            rules = [
                f"-rule={config / 'rules'}/*.yml",
                f"-datasource.url={url(backend)}",
                f"-remoteRead.url={url(backend)}",
                f"-remoteWrite.url={url(backend)}",
                f"-notifier.url={url('alertmanager')}",
                f"-external.url={url('vmalert')}",
                f"-evaluationInterval={self._pace('10s')}",
                "-rule.evalDelay=5s",
                "-remoteWrite.flushInterval=1s",
                f"-httpListenAddr={at('vmalert')}",
            ]
            return [
                self._server("victoria-metrics", store, url(backend) + "/health"),
                self._server("vmalert", rules, url("vmalert") + "/health"),
            ]
        arguments = [
            f"--config.file={config / 'prometheus.yml'}",
            "--storage.tsdb.path",
            str(data / backend),
            "--storage.tsdb.retention.time=30d",
            "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion",
            f"--web.listen-address={at(backend)}",
            f"--web.external-url={url(backend)}",
        ]
        return [self._server(backend, arguments, url(backend) + "/-/ready")]

    def _server(self, name: str, arguments: list[str], ready_url: str) -> Server:
        command = [str(self._programs[name]), *arguments]
        return Server(name, command, ready_url, self.data / f"{name}.log", self._environment())

    def _environment(self) -> dict[str, str]:
        """The addresses of stack's files; no OTEL_* of the caller reaches a server."""
        ours = {
            "COLLECTOR_OTLP_GRPC_LISTEN": self.address("otlp_grpc"),
            "COLLECTOR_OTLP_HTTP_LISTEN": self.address("otlp_http"),
            "COLLECTOR_HEALTH_LISTEN": self.address("collector_health"),
            "COLLECTOR_SELF_METRICS_HOST": "127.0.0.1",
            "COLLECTOR_SELF_METRICS_PORT": str(self.ports["collector_self"]),
            "COLLECTOR_PROMETHEUS_LISTEN": self.address("collector_prometheus"),
            "COLLECTOR_QUEUE_DIR": str(self.data / "queue"),
            "JAEGER_OTLP_GRPC_LISTEN": self.address("jaeger_grpc"),
            "JAEGER_OTLP_HTTP_LISTEN": self.address("jaeger_http"),
            "JAEGER_QUERY_HTTP_LISTEN": self.address("jaeger_query"),
            "JAEGER_QUERY_GRPC_LISTEN": self.address("jaeger_query_grpc"),
            "JAEGER_HEALTH_LISTEN": self.address("jaeger_health"),
            "JAEGER_SELF_METRICS_HOST": "127.0.0.1",
            "JAEGER_SELF_METRICS_PORT": str(self.ports["jaeger_self"]),
            "JAEGER_STORAGE_EPHEMERAL": "false",
            "JAEGER_STORAGE_DIR": str(self.data / "jaeger"),
            "JAEGER_OTLP_GRPC_ENDPOINT": self.address("jaeger_grpc"),
            "PROMETHEUS_URL": self.url(self.backends[0]),
            "VICTORIALOGS_OTLP_ENDPOINT": self.url("victorialogs")
            + "/insert/opentelemetry/v1/logs",
            "OTEL_TRACES_SAMPLER": "always_off",  # Jaeger would trace itself
        }
        theirs = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        return theirs | ours

    def _pace(self, shipped: str) -> str:
        """How often something happens."""
        return QUICK[shipped] if self._is_quick else shipped

    def _write_configuration(self, backend: str) -> None:
        """Copy a server's files; only targets and pace differ, as Prometheus expands no variables."""
        config = self.data / "config" / backend
        shutil.rmtree(config, ignore_errors=True)
        (config / "targets").mkdir(parents=True)
        shutil.copytree(OBSERVABILITY / DIALECTS[backend] / "rules", config / "rules")
        for name in ("prometheus/prometheus.yml", "victoriametrics/scrape.yml"):
            shutil.copy(OBSERVABILITY / name, config)
        for path in (*config.glob("*.yml"), *config.glob("rules/*.yml")):
            for key, shipped in (("interval", "10s"), ("interval", "5m")):
                text = path.read_text()
                path.write_text(text.replace(f"{key}: {shipped}", f"{key}: {self._pace(shipped)}"))
        targets = {
            "confiture": ["collector_prometheus"],
            "otel-collector": ["collector_self"],
            "backends": ["jaeger_self", "victorialogs", "alertmanager", backend],
            "alertmanager": ["alertmanager"],
        }
        for name, ports in targets.items():
            listed = json.dumps([{"targets": [self.address(port) for port in ports]}])
            (config / "targets" / f"{name}.yml").write_text(listed)


def answers(url: str) -> bool:
    """Whether *url* answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  our own loopback URLs
            return bool(response.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in held]
    for server in held:
        server.close()
    return ports


def describe(stack: Stack) -> str:
    """What a person needs: how to fill it and where to look."""
    otlp, prometheus = stack.url("otlp_http"), stack.url(stack.backends[0])
    rows = {
        "log lines": f"{stack.url('victorialogs')}/select/vmui",
        "alerts": stack.url("alertmanager"),
        "traces (API)": f"{stack.url('jaeger_query')}/api/traces/<trace id>",
        "metrics (API)": f"{prometheus}/api/v1/query?query=<expression>",
        "OTLP over HTTP": otlp,
        "OTLP over gRPC": stack.address("otlp_grpc"),
        "stored in": str(stack.data),
    }
    return "\n".join(
        [
            "The stack is up:",
            *(f"  {name:16}{where}" for name, where in rows.items()),
            f"Dashboards and rules for it: observability/{DIALECTS[stack.backends[0]]}. Jaeger and Prometheus, built from their modules, have no pages.",
            "",
            "Fill it from another terminal:",
            f"  make demo OTLP={otlp}",
            "or with migrations of your own:",
            f"  export OTEL_EXPORTER_OTLP_ENDPOINT={otlp}",
            "  confiture migrate up",
            "",
            "Ctrl-C stops it.",
        ]
    )


def serve(stack: Stack, ended: threading.Event) -> None:
    """Hold until *ended*, or until a program of the stack ends by itself."""
    while not ended.wait(0.5):
        for server in stack.servers.values():
            if not server.is_alive():
                raise StackError(f"{server.name} ended:\n{server.last_words()}")


def main() -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the addresses as one JSON line")
    parser.add_argument("--build-only", action="store_true", help="build the programs and stop")
    parser.add_argument(
        "--checkers", action="store_true", help="build what only the tests need, too"
    )
    parser.add_argument(
        "--backend", choices=list(BACKENDS), default="prometheus", help="what keeps the metrics"
    )
    parser.add_argument("--data", type=Path, help="keep everything stored in this folder")
    options = parser.parse_args()
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    try:
        programs = dict(build((*PROGRAMS, *BACKENDS[options.backend])))
        if options.checkers:
            build(CHECKERS)
        if options.build_only:
            return 0
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        with tempfile.TemporaryDirectory(prefix="confiture-stack.") as scratch:
            data = (options.data or Path(scratch)).resolve()
            data.mkdir(parents=True, exist_ok=True)
            with Stack(programs, data, [options.backend]) as stack:
                print(json.dumps(stack.addresses) if options.json else describe(stack), flush=True)
                serve(stack, ended)
    except (BuildError, StackError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
