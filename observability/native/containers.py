"""Brings docker-compose.yml up, uses it and takes it down: ``python observability/native/containers.py``.

Needs a Docker engine (and says so where there is none). Images are pulled; with ``--local`` they are made from the
programs that ``make stack`` builds, and for the demo from Debian's packages (needs debootstrap), under the names in the
file, without their digests: for machines that cannot pull. Grafana is left out then, as there is no program of its.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from programs import CHECKERS, BuildError, build

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "confiture-observability-test"
NO_ENGINE = "There is no Docker engine here: docker-compose.yml was not brought up. Start one and run this again."
IMAGES = {
    "otel/opentelemetry-collector-contrib": ("otelcol", ["/bin/otelcol"]),
    "prom/prometheus": ("prometheus", ["/bin/prometheus"]),
    "jaegertracing/jaeger": ("jaeger", ["/bin/jaeger"]),
    "victoriametrics/victoria-logs": ("victoria-logs", ["/bin/victoria-logs"]),
    "prom/alertmanager": ("alertmanager", ["/bin/alertmanager"]),
}
"""Which program is in an image, and how the image starts it."""
DEMO = ("demo-postgres", "demo-receiver", "demo-migrations")
PACKAGES = "ca-certificates,postgresql,python3,python3-pip"
START_POSTGRES = """#!/bin/sh
# What the official image does of its start: a cluster with the user and the database that the environment names.
set -e
bin=$(echo /usr/lib/postgresql/*/bin) data=/var/lib/postgresql/local
as_postgres() { exec setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -e "$data/PG_VERSION" ]; then
    install -d -o postgres -g postgres -m 0700 "$data" /var/run/postgresql
    (as_postgres "$bin/initdb" -D "$data" -U "$POSTGRES_USER" -A trust)
    echo "host all all all trust" >> "$data/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | (as_postgres "$bin/postgres" --single -D "$data" postgres)
fi
as_postgres "$bin/postgres" -D "$data" -c "listen_addresses=*"
"""
OTLP = "http://127.0.0.1:4318/v1/metrics"
PROMETHEUS = "http://127.0.0.1:9090/api/v1/query?query="
COUNTED = "increase(confiture_webhook_deliveries_total{{{}}}[1h] anchored)"
TRIED_S = 60


class ContainersError(Exception):
    """The stack in containers did not do what it should; the text says which part."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run *command*; its standard output, or ContainersError with the end of its standard error."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shown = " ".join(map(str, command))
        raise ContainersError(f"`{shown}` failed:\n{done.stderr[-2000:]}")
    return done.stdout


class Compose:
    """docker-compose.yml as a project of its own."""

    def __init__(self, program: Path, files: Sequence[Path], services: Sequence[str]) -> None:
        named = [part for file in files for part in ("-f", file)]
        self._command: list[str | Path] = [program, "-p", PROJECT, *named]
        self.services = services

    def __call__(self, *arguments: str) -> str:
        """Run a command of Docker Compose."""
        return run(*self._command, *arguments)

    def up(self) -> None:
        """Start what is not running, and wait until all that can be asked is healthy."""
        self("up", "-d", "--wait", "--wait-timeout", "120", *self.services)

    def healths(self) -> dict[str, str]:
        """Each service's state, and its health if it has one."""
        lines = self("ps", "--all", "--format", "json").splitlines()
        found = [json.loads(line) for line in lines]
        return {one["Service"]: one.get("Health") or one["State"] for one in found}


def local_images(images: dict[str, str], folder: Path) -> Path:
    """Make the images from the native programs; the file that takes the digests off."""
    programs = build()
    services: dict[str, Any] = {}
    for service, image in images.items():
        tag = image.partition("@")[0]
        services[service] = {"image": tag}
        name, entrypoint = IMAGES[tag.rpartition(":")[0]]
        context = folder / name
        if context.exists():
            continue
        shutil.copytree(base(folder), context, symlinks=True)
        for program in [name, *(["promtool"] if name == "prometheus" else [])]:
            with_libraries(programs[program], context)
        lines = [
            "FROM scratch",
            "COPY . /",
            "ENV PATH=/bin",
            f"ENTRYPOINT {json.dumps(entrypoint)}",
        ]
        if name in {"prometheus", "alertmanager"}:
            lines.append("USER 65534")
            (context / name).mkdir()
            (context / name).chmod(0o777)  # a new volume gets the mode of this folder
        (context / "Dockerfile").write_text("\n".join(lines))
        run("docker", "build", "-q", "-t", tag, context)
    override = folder / "local.json"
    override.write_text(json.dumps({"services": services}))
    return override


def demo_images(composed: dict[str, Any], folder: Path) -> None:
    """Make the images that the demo starts from, of Debian's packages: PostgreSQL's, and Python's."""
    if shutil.which("debootstrap") is None:
        raise ContainersError("debootstrap is not installed: the demo's images need it")
    root, pip = folder / "debian", []
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
    for name, value in os.environ.items():  # this machine's way to the packages
        if name.startswith("PIP_"):
            pip.append(f"ENV {name}={json.dumps(value)}")
    certificates = Path("etc/ssl/certs/ca-certificates.crt")
    for file in (certificates, Path("etc/pip.conf")):
        if (Path("/") / file).exists():
            shutil.copy(Path("/") / file, root / file)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (root / "start-postgres").write_text(START_POSTGRES)
    dockerfile = folder / "Dockerfile"
    python = (ROOT / "observability/demo/Dockerfile").read_text().split()[1]
    for tag, last in (
        (
            composed["demo-postgres"]["image"].partition("@")[0],
            ['ENTRYPOINT ["sh", "/start-postgres"]'],
        ),
        (python, [*pip, "RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED"]),
    ):
        dockerfile.write_text("\n".join(["FROM scratch", "COPY . /", *last]))
        run("docker", "build", "-q", "-t", tag, "-f", dockerfile, root)


def base(folder: Path) -> Path:
    """What every image has: busybox for the health checks."""
    root = folder / "base"
    if not root.exists():
        (root / "bin").mkdir(parents=True)
        (root / "etc").mkdir()
        (root / "tmp").mkdir(mode=0o777)
        (root / "etc" / "passwd").write_text(
            "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        )
        busybox = shutil.which("busybox")
        if busybox is None:
            raise ContainersError(
                "busybox is missing, and the health checks need it. Run: apt-get install busybox-static"
            )
        with_libraries(Path(busybox), root)
        for name in ("sh", "sleep", "wget"):
            (root / "bin" / name).symlink_to("busybox")
    return root


def with_libraries(program: Path, root: Path) -> None:
    """Copy *program* and the libraries it is linked to."""
    shutil.copy(program.resolve(), root / "bin" / program.name)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for word in listed.split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(word).resolve(), target)


def send(service: str) -> None:
    """Report one dead letter of *service*, as a run does."""
    now = time.time_ns()
    point = {
        "asInt": "1",
        "startTimeUnixNano": str(now - 1),
        "timeUnixNano": str(now),
        "attributes": [
            {"key": "confiture.webhook.outcome", "value": {"stringValue": "dead_letter"}}
        ],
    }
    metric = {
        "name": "confiture.webhook.deliveries",
        "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": [point]},
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    metrics = [{"scope": {"name": "confiture_webhooks"}, "metrics": [metric]}]
    body = json.dumps({"resourceMetrics": [{"resource": resource, "scopeMetrics": metrics}]})
    request = urllib.request.Request(OTLP, body.encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def wait_for(labels: str, *, is_exact: bool = True) -> None:
    """Return once Prometheus counted one delivery with these *labels*; not *is_exact*: one or more."""
    url = PROMETHEUS + urllib.request.quote(f"sum({COUNTED.format(labels)})")
    deadline = time.monotonic() + TRIED_S
    found: Any = None
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except (urllib.error.URLError, OSError) as error:
            found = error
        counts = [float(one["value"][1]) for one in found] if isinstance(found, list) else []
        if counts == [1] or (counts and counts[0] >= 1 and not is_exact):
            return
        time.sleep(1)
    raise ContainersError(f"Prometheus does not count a delivery with {labels}: {found}")


def check(compose: Compose) -> None:
    """The story: up, healthy, counted; a killed collector comes back; down and up keeps what was stored."""
    compose.up()
    healths = compose.healths()
    wrong = {
        name: health for name, health in healths.items() if health not in {"healthy", "running"}
    }
    if wrong:
        raise ContainersError(f"not well: {wrong}")
    print(f"{len(healths)} services are up: {json.dumps(healths)}")
    send("before")
    wait_for('job="before"')
    print("a run's metric went through the collector into Prometheus")
    compose("kill", "otel-collector")
    compose.up()
    send("killed")
    wait_for('job="killed"')
    print("the killed collector came back and counts")
    compose("down")
    compose.up()
    wait_for('job="before"')
    print("what was stored outlives down and up")
    compose("--profile", "demo", "up", "-d", "--build", "--wait", *DEMO)
    for endpoint, outcome in (("analytics", "delivered"), ("nobody", "dead_letter")):
        labels = f'confiture_webhook_endpoint="{endpoint}", confiture_webhook_outcome="{outcome}"'
        wait_for(labels, is_exact=False)
    print("the demo's migrations are reported, and what nobody receives becomes a dead letter")


def main() -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--local", action="store_true", help="make the images, pull none")
    options = parser.parse_args()
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "version"], capture_output=True, check=False).returncode
    ):
        print(NO_ENGINE)
        return 0
    try:
        program = build(CHECKERS[-1:])["docker-compose"]
        compose = Compose(program, [ROOT / "docker-compose.yml"], [])
        with tempfile.TemporaryDirectory(prefix="confiture-containers.") as scratch:
            if options.local:
                composed = compose("--profile", "demo", "config", "--format", "json")
                services = json.loads(composed)["services"]
                demo_images(services, Path(scratch))
                made = {
                    name: service["image"]
                    for name, service in services.items()
                    if service["image"].partition("@")[0].rpartition(":")[0] in IMAGES
                }
                override = local_images(made, Path(scratch))
                compose = Compose(program, [ROOT / "docker-compose.yml", override], list(made))
            try:
                check(compose)
            except ContainersError:
                print(compose("logs", "--no-color", "--tail", "5"), file=sys.stderr)
                raise
            finally:
                compose("--profile", "demo", "down", "--volumes")
    except (BuildError, ContainersError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
