"""The shipped files, read by the programs they are for."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from project import CONFITURE
from stack_scenario import until
from stack_views import ROOT, Views

OBSERVABILITY = ROOT / "observability"
REAL_HOME = Path.home()
"""Where the build is kept; inside a test HOME is an empty folder."""
PROMETHEUS = OBSERVABILITY / "prometheus"
COMPOSE_FILES = {
    "default": ["docker-compose.yml"],
    "loki": ["docker-compose.yml", "observability/loki/docker-compose.yml"],
}
OWN_ADDRESSES = re.compile(r"listen|external-url|^-httpListenAddr|storage|^--config|^-config")
"""Flags that differ between a container and this machine."""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *command* at the top of the project."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def composed(compose: Path, variant: str) -> dict[str, Any]:
    """The compose file as Docker Compose understands it, with the demo."""
    files = [argument for name in COMPOSE_FILES[variant] for argument in ("-f", name)]
    done = run(compose, *files, "--profile", "demo", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("dialect", "promtool", "left_out"),
    [("prometheus", "promtool", ""), ("compatible", "promtool-3.5", "objective.yml")],
)
def test_the_rules_pass_their_tests(
    programs: dict[str, Path], tmp_path: Path, dialect: str, promtool: str, left_out: str
) -> None:
    """promtool of that server accepts its configuration and rules, and the rule tests pass (months take long)."""
    shutil.copytree(OBSERVABILITY / "tests", tmp_path / "tests")
    shutil.copytree(OBSERVABILITY / dialect, tmp_path / "prometheus", dirs_exist_ok=True)
    shutil.copytree(PROMETHEUS / "targets", tmp_path / "prometheus" / "targets", dirs_exist_ok=True)
    shutil.copy(PROMETHEUS / "prometheus.yml", tmp_path / "prometheus")
    tests = [path for path in (tmp_path / "tests").glob("*.yml") if path.name != left_out]
    assert tests
    for arguments in (
        ("check", "config", tmp_path / "prometheus" / "prometheus.yml"),
        ("test", "rules", *tests),
    ):
        done = run(programs[promtool], *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_vmalert_takes_its_rules(programs: dict[str, Path]) -> None:
    """vmalert accepts every rule, and VictoriaMetrics the scrape configuration."""
    rules = OBSERVABILITY / "victoriametrics"
    done = run(programs["vmalert"], "-dryRun", f"-rule={rules}/rules*/*.yml")
    assert done.returncode == 0, done.stderr
    config = f"-promscrape.config={rules / 'scrape.yml'}"
    done = run(programs["victoria-metrics"], "-dryRun", config, "-promscrape.config.strictParse")
    assert done.returncode == 0, done.stderr


def test_the_wrong_folder_is_said(programs: dict[str, Path]) -> None:
    """Rules for Prometheus 3.16 are refused by 3.5 with the file and the word it does not know."""
    done = run(programs["promtool-3.5"], "check", "rules", PROMETHEUS / "rules" / "webhooks.yml")
    assert done.returncode != 0
    assert "anchored" in done.stderr + done.stdout


def test_the_dashboards_are_what_grafana_takes() -> None:
    """Every dashboard compiles against the types of Grafana's own schema."""
    script = OBSERVABILITY / "preview" / "check_types.py"
    done = run(CONFITURE.with_name("python"), script, HOME=str(REAL_HOME))
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_containers_script_says_when_there_is_no_engine(tmp_path: Path) -> None:
    """Without a Docker engine `make test-compose` says so in one line and is no failure."""
    script = OBSERVABILITY / "native" / "containers.py"
    nowhere = f"unix://{tmp_path}/docker.sock"
    done = run(CONFITURE.with_name("python"), script, DOCKER_HOST=nowhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "no Docker engine" in done.stdout


@pytest.mark.parametrize("with_queue", [False, True])
def test_the_collector_takes_its_configuration(
    programs: dict[str, Path], tmp_path: Path, *, with_queue: bool
) -> None:
    """The collector's file is valid as it is, with no variable set, and with the queue on disk."""
    files = ["otel-collector.yaml", *["observability/otel-collector-queue.yaml"] * with_queue]
    configs = [f"--config={name}" for name in files]
    done = run(programs["otelcol"], "validate", *configs, COLLECTOR_QUEUE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("variant", COMPOSE_FILES)
def test_compose_reads_the_file(compose: Path, variant: str) -> None:
    """Docker Compose accepts it; images are pinned, ports on loopback, files there, health known."""
    services = composed(compose, variant)["services"]
    for name, service in services.items():
        image = service["image"]
        assert re.search(r":v?\d+\.\d+[^@]*(@sha256:[0-9a-f]{64})?$", image) or "build" in service
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), volume["source"]
                assert volume["read_only"], volume["source"]
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], needed
        check = service.get("healthcheck", {}).get("test", ["CMD"])
        assert check[0] == "CMD", f"{name}: a shell is not there in every image"


def test_the_variant_has_no_victorialogs(compose: Path) -> None:
    """With Loki nothing waits for VictoriaLogs or sends to it."""
    assert "victorialogs" not in json.dumps(composed(compose, "loki"))
    assert "loki" not in composed(compose, "default")["services"]


def test_containers_and_the_native_stack_run_the_same_command(
    compose: Path, programs: dict[str, Path], tmp_path: Path
) -> None:
    """A program's flags are the same in both, addresses and folders apart."""
    from stack import Stack  # of observability/native

    services = composed(compose, "default")["services"]
    names = {"victoria-logs": "victorialogs", "otelcol": "otel-collector"}
    for server in Stack(programs, tmp_path).servers.values():
        container = services[names.get(server.name, server.name)]["command"]
        assert _essence(container) == _essence(_joined(server.command[1:])), server.name


def _essence(flags: list[str]) -> set[str]:
    return {flag for flag in flags if not OWN_ADDRESSES.search(flag)}


def _joined(words: list[str]) -> list[str]:
    """Flags whose value is a word of its own, as one word."""
    joined: list[str] = []
    for word in words:
        if word.startswith("-"):
            joined.append(word)
        else:
            joined[-1] += f"={word}"
    return joined


def test_the_demo_migrates_in_the_stack(
    other_stack: Any, database: str, receiver: Any, tmp_path: Path
) -> None:
    """The demo's own script sends its migrations, a failing one too, and leaves nothing that grows."""
    views = Views(other_stack.addresses)
    script = (OBSERVABILITY / "demo" / "migrate.sh").read_text()
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{receiver.port}")
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{CONFITURE.parent}:{os.defpath}",
            "HOME": str(tmp_path),
            "DATABASE_URL": database,
            "OTEL_EXPORTER_OTLP_ENDPOINT": other_stack.url("otlp_http"),
            "ROUNDS": "2",
            "ROUNDS_FROM": "5",
            "PAUSE": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    reported = [request.payload["event_type"] for request in receiver.requests]
    assert reported.count("migration_success") == 4, done.stderr
    assert reported.count("migration_error") == 1
    assert reported.count("migration_rollback") == 4
    assert "not found" not in done.stderr
    lines = '{service.name="confiture"} environment:="demo" event_name:="migration.applied"'
    until(lambda: views.logs(lines), lambda found: len(found) == 4, 20, "log lines")
    with psycopg.connect(database) as connection:
        left = connection.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'demo_%'")
        assert not left.fetchall()


def test_the_vector_snippet_gives_lines_the_fields_they_have_over_otlp(
    other_stack: Any, project: Any, receiver: Any
) -> None:
    """Sent to the address and with the fields of the Vector configuration, lines are found alike."""
    views = Views(other_stack.addresses)
    vector = yaml.safe_load((OBSERVABILITY / "vector.yaml").read_text())
    added = dict(
        re.findall(
            r"^\.\"?([a-z_.]+)\"? = (\S+)$", vector["transforms"]["lines"]["source"], re.MULTILINE
        )
    )
    lines = [json.loads(line) for line in logged(project, receiver) if line.startswith("{")]
    for line in lines:
        for name, value in added.items():
            line[name] = line[value[1:]] if value.startswith(".") else json.loads(value)
    uri = vector["sinks"]["victorialogs"]["uri"]
    uri = uri.replace("http://victorialogs:9428", other_stack.addresses["victorialogs"])
    body = "\n".join(map(json.dumps, lines)).encode()
    headers = {"Content-Type": "application/x-ndjson"}  # as Vector says it
    urllib.request.urlopen(urllib.request.Request(uri, body, headers), timeout=10).close()
    found = delivered(views, receiver)
    assert found["endpoint"] == "default"
    assert found["deployment.environment.name"] == "local"


def test_an_agent_reads_the_file(
    programs: dict[str, Path], other_stack: Any, project: Any, receiver: Any, tmp_path: Path
) -> None:
    """A collector beside a log file sends its JSON lines on, with the fields they have over OTLP."""
    views = Views(other_stack.addresses)
    file = tmp_path / "migrate.log"
    over_otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": other_stack.url("otlp_http")}
    written = logged(project, receiver, OTEL_LOGS_EXPORTER="none", **over_otlp)
    file.write_text("\n".join(["a line for people", '{"of": "somebody else"}', *written, ""]))
    said = tmp_path / "agent.log"
    with said.open("w") as log:
        agent = subprocess.Popen(
            [programs["otelcol"], f"--config={OBSERVABILITY / 'otel-files.yaml'}"],
            env={
                **over_otlp,
                "CONFITURE_LOG_FILES": str(file),
                "COLLECTOR_QUEUE_DIR": str(tmp_path / "places"),
            },
            stderr=log,
        )
    try:
        from_file = delivered(views, receiver)
    finally:
        agent.terminate()
        agent.wait(20)
    assert "warn" not in said.read_text(), said.read_text()
    project.migration("002", "step", up="CREATE TABLE other (id int)", down="DROP TABLE other")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, **over_otlp}
    assert project.confiture("migrate", "up", env=env).returncode == 0
    direct = delivered(views, receiver)
    own = {name for name in direct if not name.startswith(("scope.", "telemetry.", "process."))}
    assert {name for name in own if name not in from_file} <= {"observed_timestamp"}
    alike = ("_stream", "event_name", "severity_number", "endpoint", "environment")
    assert {name: from_file[name] for name in alike} == {name: direct[name] for name in alike}
    lines = views.logs(f'trace_id:="{from_file["trace_id"]}"')
    assert {line["event_name"] for line in lines} == {"migration.applied", "webhook.delivered"}


def logged(project: Any, receiver: Any, **environment: str) -> list[str]:
    """The lines a run with one delivery writes to standard error."""
    project.migration("001", "step", up="CREATE TABLE step (id int)", down="DROP TABLE step")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_LOG": "json", **environment}
    lines: list[str] = project.confiture("migrate", "up", env=env).stderr.splitlines()
    return lines


def delivered(views: Views, receiver: Any) -> dict[str, str]:
    """The one line that reports the last delivery, in the log store."""
    trace_id = receiver.requests[-1].headers["X-Correlation-ID"]
    query = f'_time:5m {{service.name="confiture"}} event_name:="webhook.delivered" trace_id:="{trace_id}"'
    (line,) = until(lambda: views.logs(query), bool, 20, "the line")
    return dict(line)


def test_the_launcher_says_when_go_is_missing(tmp_path: Path) -> None:
    """Without Go and without a build the launcher ends with one clear line."""
    python = shlex.quote(str(CONFITURE.with_name("python")))
    launcher = OBSERVABILITY / "native" / "stack.py"
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {python} {launcher} --build-only"],
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Go is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusing_registry_is_no_fault_of_ours(tmp_path: Path) -> None:
    """A module that cannot be had says so, and is distinguished from one that does not compile."""
    import programs as native  # of observability/native

    go = native.Go(tmp_path)
    (tmp_path / "main.go").write_text("package main\n\nfunc main() { nosuch() }\n")
    with pytest.raises(native.BuildError) as broken:
        go("build", "main.go")
    assert not isinstance(broken.value, native.UnavailableError)
    nothing = {"GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modules")}
    with pytest.raises(native.UnavailableError, match="alertmanager"):
        go("install", native.ALERTMANAGER_MODULE, **nothing)


def test_the_launcher_starts_and_ends_with_its_programs(programs: dict[str, Path]) -> None:
    """``--json`` prints where everything answers; at SIGTERM all of it ends, and the exit code is 0."""
    launcher = subprocess.Popen(
        [CONFITURE.with_name("python"), OBSERVABILITY / "native" / "stack.py", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HOME": str(REAL_HOME)},
    )
    try:
        assert launcher.stdout
        addresses = json.loads(launcher.stdout.readline())
        with urllib.request.urlopen(addresses["prometheus"] + "/-/ready", timeout=10) as ready:
            assert ready.status == 200
    finally:
        launcher.terminate()
        code = launcher.wait(60)
        launcher.communicate()
    assert code == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(addresses["prometheus"] + "/-/ready", timeout=10)
