"""The programs of the observability stack, built once from their Go modules into the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

OTELCOL = "0.155.0"
JAEGER = "2.13.0"
JAEGER_MODULE = "github.com/jaegertracing/jaeger@v1.76.0"
PROMETHEUS = "3.16.0"
PROMETHEUS_MODULE = "github.com/prometheus/prometheus/cmd/{}@v0.316.0"
PROMETHEUS_LTS = "3.5.1"
PROMETHEUS_LTS_MODULE = "github.com/prometheus/prometheus@v0.305.1"
VICTORIA_METRICS = "1.151.0"
VICTORIA_METRICS_MODULE = "github.com/VictoriaMetrics/VictoriaMetrics@v1.151.0"
VICTORIA_LOGS = "1.51.1"
VICTORIA_LOGS_PROGRAM = "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs"
ALERTMANAGER = "0.28.1"
ALERTMANAGER_MODULE = "github.com/prometheus/alertmanager/cmd/alertmanager@v0.28.1"
COMPOSE = "2.40.3"
COMPOSE_PROGRAM = "github.com/docker/compose/v2/cmd"
BUILDER_MODULE = f"go.opentelemetry.io/collector/cmd/builder@v{OTELCOL}"

NO_GO = (
    "Go is not installed. The stack's programs are built from their Go modules: install Go 1.26.6 "
    "or newer and run this again, or use `docker compose up`, which needs no Go."
)
COMPILER = {"GOGC": "400"}
"""A compiler lives for seconds: it need not collect its garbage often."""
STRIPPED = ("-trimpath", "-ldflags", "-s -w")


REFUSED = re.compile(
    r"dial tcp|no such host|connection refused|i/o timeout|TLS handshake|proxyconnect|unexpected EOF"
    r"|: (403|404|407|410|429|5\d\d) |disabled by GOPROXY=off|requires go >=|toolchain not available"
)
"""What ``go`` says when it cannot have a module or a toolchain; anything else is a fault of ours."""


class BuildError(Exception):
    """A program could not be built; the text says which, and what to do."""


class UnavailableError(BuildError):
    """This machine cannot build: Go is missing or too old, or its registry refuses a module."""


class Go:
    """The Go command, run in one folder, with its output kept for when it fails."""

    def __init__(self, folder: Path) -> None:
        command = shutil.which("go")
        if command is None:
            raise UnavailableError(NO_GO)
        self._command = command
        self.folder = folder

    def __call__(self, *arguments: str, **environment: str) -> str:
        """Run ``go`` with *arguments*; its standard output."""
        return self.run(self._command, *arguments, **environment)

    def run(self, command: str, *arguments: str, **environment: str) -> str:
        """Run any *command* in the folder; its standard output, or BuildError with the last lines."""
        done = subprocess.run(  # noqa: S603  fixed commands, no shell
            [command, *arguments],
            cwd=self.folder,
            env={**COMPILER, **os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = [text for text in done.stderr.splitlines() if "downloading" not in text]
            what = " ".join([Path(command).name, *arguments])
            kind = UnavailableError if REFUSED.search(done.stderr) else BuildError
            raise kind(f"`{what}` failed:\n  " + "\n  ".join(lines[-12:]))
        return done.stdout


def build_otelcol(go: Go) -> None:
    """Generate the collector's sources from its manifest and compile them."""
    manifest = (HERE / "otelcol" / "builder.yaml").read_text()
    (go.folder / "builder.yaml").write_text(manifest)
    go("install", BUILDER_MODULE, GOBIN=str(go.folder))
    flags = ("--config", "builder.yaml", "--skip-get-modules", "--skip-compilation")
    go.run(str(go.folder / "builder"), *flags)
    # The builder's own `go mod tidy` also wants modules that only tests need; these are enough.
    required = [
        *re.findall(r"gomod: (\S+ \S+)", manifest),
        f"go.opentelemetry.io/collector/otelcol v{OTELCOL}",
    ]
    lines = "".join(f"\t{module}\n" for module in required)
    (go.folder / "go.mod").write_text(
        f"module confiture-webhooks/otelcol\n\ngo 1.25.0\n\nrequire (\n{lines})\n"
    )
    go("build", "-mod=mod", *STRIPPED, "-o", "otelcol", ".")


def build_jaeger(go: Go) -> None:
    """Compile Jaeger with the checksums it publishes itself."""
    shutil.copy(HERE / "jaeger" / "go.mod", go.folder)
    module = json.loads(go("mod", "download", "-json", JAEGER_MODULE))["Dir"]
    (go.folder / "go.sum").write_bytes((Path(module) / "go.sum").read_bytes())
    program = f"{JAEGER_MODULE.partition('@')[0]}/cmd/jaeger"
    go("build", "-mod=mod", *STRIPPED, "-o", "jaeger", program)


def build_prometheus(go: Go) -> None:
    """Compile Prometheus and promtool without the service discovery of cloud providers."""
    modules = [PROMETHEUS_MODULE.format(name) for name in ("prometheus", "promtool")]
    go("install", "-tags", "remove_all_sd", *STRIPPED, *modules, GOBIN=str(go.folder))


def build_prometheus_lts(go: Go) -> None:
    """Compile the Prometheus of long-term support; it has no build tag that leaves the cloud providers out."""
    module = json.loads(go("mod", "download", "-json", PROMETHEUS_LTS_MODULE))["Dir"]
    sources = go.folder / "sources"
    shutil.copytree(module, sources, ignore=shutil.ignore_patterns("plugins.go"))
    for path in (sources, sources / "go.mod", sources / "go.sum"):
        path.chmod(0o755)
    for name in ("prometheus", "promtool"):
        output = str(go.folder / f"{name}-3.5")
        Go(sources)("build", "-mod=mod", *STRIPPED, "-o", output, f"./cmd/{name}")


def build_victoria_metrics(go: Go) -> None:
    """Compile VictoriaMetrics and vmalert, which evaluates its rules, with the checksums they publish."""
    shutil.copy(HERE / "victoria-metrics" / "go.mod", go.folder)
    module = json.loads(go("mod", "download", "-json", VICTORIA_METRICS_MODULE))["Dir"]
    (go.folder / "go.sum").write_bytes((Path(module) / "go.sum").read_bytes())
    for name in ("victoria-metrics", "vmalert"):
        program = f"{VICTORIA_METRICS_MODULE.partition('@')[0]}/app/{name}"
        go("build", "-mod=mod", *STRIPPED, "-o", name, program)


def build_victoria_logs(go: Go) -> None:
    """Compile VictoriaLogs with the checksums kept beside this file."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / "victoria-logs" / name, go.folder)
    go("build", *STRIPPED, "-o", "victoria-logs", VICTORIA_LOGS_PROGRAM)


def build_alertmanager(go: Go) -> None:
    """Compile Alertmanager."""
    go("install", *STRIPPED, ALERTMANAGER_MODULE, GOBIN=str(go.folder))


def build_compose(go: Go) -> None:
    """Compile Docker Compose, which reads and checks a compose file without an engine."""
    shutil.copy(HERE / "compose" / "go.mod", go.folder)
    go("build", "-mod=mod", *STRIPPED, "-o", "docker-compose", COMPOSE_PROGRAM)


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the stack: which files its build makes, from which inputs."""

    name: str
    version: str
    build: Callable[[Go], None]
    makes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its build is kept; another input, another folder."""
        inputs = hashlib.sha256()
        for path in sorted((HERE / self.name).glob("*")):
            inputs.update(path.read_bytes())
        return cache() / f"{self.name}-{self.version}-{inputs.hexdigest()[:8]}"


PROGRAMS = (
    Program("victoria-logs", VICTORIA_LOGS, build_victoria_logs, ("victoria-logs",)),
    Program("prometheus", PROMETHEUS, build_prometheus, ("prometheus", "promtool")),
    Program("alertmanager", ALERTMANAGER, build_alertmanager, ("alertmanager",)),
    Program("otelcol", OTELCOL, build_otelcol, ("otelcol",)),
    Program("jaeger", JAEGER, build_jaeger, ("jaeger",)),
)
BACKENDS = {
    "prometheus": (),
    "prometheus-3.5": (
        Program(
            "prometheus-lts",
            PROMETHEUS_LTS,
            build_prometheus_lts,
            ("prometheus-3.5", "promtool-3.5"),
        ),
    ),
    "victoriametrics": (
        Program(
            "victoria-metrics",
            VICTORIA_METRICS,
            build_victoria_metrics,
            ("victoria-metrics", "vmalert"),
        ),
    ),
}
"""What may keep the metrics, and what it needs beside PROGRAMS."""
CHECKERS = (
    *(program for programs in BACKENDS.values() for program in programs),
    Program("compose", COMPOSE, build_compose, ("docker-compose",)),
)
"""Not part of the stack that starts by itself: its tests need them."""


def cache() -> Path:
    """The folder of everything built: under ``XDG_CACHE_HOME``, else ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "confiture-webhooks" / "stack"


def built(programs: Sequence[Program] = PROGRAMS) -> dict[str, Path] | None:
    """Every program's path, or None when one of them has yet to be built."""
    paths = {name: program.folder / name for program in programs for name in program.makes}
    return paths if all(path.exists() for path in paths.values()) else None


def build(programs: Sequence[Program] = PROGRAMS) -> Mapping[str, Path]:
    """Build what is missing, one process at a time; every program's path."""
    paths = built(programs)
    if paths is not None:
        return paths
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "lock"):
        for number, program in enumerate(programs, 1):
            if not program.folder.exists():
                place = f"{number} of {len(programs)}; once, some minutes in all"
                print(f"building {program.name} {program.version} ({place}) …", file=sys.stderr)
                build_one(program)
    paths = built(programs)
    assert paths is not None  # noqa: S101  (build_one raised otherwise)
    return paths


def build_one(program: Program) -> None:
    """Build *program* in a scratch folder; its own folder appears only when it is whole."""
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f"{program.name}.") as scratch:
        program.build(Go(Path(scratch)))
        finished = Path(scratch) / "finished"
        finished.mkdir()
        for name in program.makes:
            (Path(scratch) / name).rename(finished / name)
        finished.rename(program.folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold *path* as a lock between processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
