"""What the environment asks for: exporters, resource, whose providers, and clear complaints."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from confiture_webhooks.config.variables import ci_run
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.telemetry import sdk
from confiture_webhooks.telemetry.context import made_here
from confiture_webhooks.telemetry.plan import Export, complaints, plan
from confiture_webhooks.telemetry.providers import (
    MIGRATION_SPANS,
    Providers,
    Tally,
    for_command,
    has_owner,
)
from confiture_webhooks.telemetry.sdk import CollectorSession, _resource

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
COLLECTOR = "http://collector:4318"


def exports(**environ: str) -> dict[str, str | None]:
    """The endpoints by signal."""
    return {export.signal: export.endpoint for export in plan(environ).exports}


class TestPlan:
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {ENDPOINT: " "},
            {ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "True"},
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "None"},
        ],
    )
    def test_nothing(self, environ: dict[str, str]) -> None:
        """Nothing asked for, or the SDK disabled: nothing to set up, nothing to complain about."""
        assert plan(environ).exports == ()
        assert plan(environ).faults == ()

    def test_one_endpoint_is_for_all_signals(self) -> None:
        """The shared endpoint is the base of each signal's path."""
        assert exports(OTEL_EXPORTER_OTLP_ENDPOINT=f"{COLLECTOR}/") == {
            "traces": f"{COLLECTOR}/v1/traces",
            "metrics": f"{COLLECTOR}/v1/metrics",
            "logs": f"{COLLECTOR}/v1/logs",
        }

    def test_own_endpoint(self) -> None:
        """A signal's own endpoint is taken as it is, and switches on that signal alone."""
        assert exports(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{COLLECTOR}/x") == {
            "traces": f"{COLLECTOR}/x"
        }

    def test_an_exporter_without_an_endpoint(self) -> None:
        """``otlp`` alone means the library's own default address."""
        assert exports(OTEL_LOGS_EXPORTER="otlp") == {"logs": None}
        (export,) = plan({"OTEL_LOGS_EXPORTER": "otlp"}).exports
        assert export.setting == ENDPOINT, "what to check when nobody answers there"

    def test_one_signal_off(self) -> None:
        """``none`` takes one signal out."""
        found = exports(OTEL_EXPORTER_OTLP_ENDPOINT=COLLECTOR, OTEL_METRICS_EXPORTER="none")
        assert set(found) == {"traces", "logs"}

    def test_several(self) -> None:
        """Exporters of a signal are listed with commas."""
        given = {"OTEL_TRACES_EXPORTER": "console, otlp", ENDPOINT: COLLECTOR}
        found = [one.protocol for one in plan(given).exports if one.signal == "traces"]
        assert found == ["console", "http/protobuf"]

    def test_grpc(self) -> None:
        """gRPC takes the endpoint as it is, with or without a scheme."""
        given = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", ENDPOINT: "collector:4317"}
        assert {(one.protocol, one.endpoint) for one in plan(given).exports} == {
            ("grpc", "collector:4317")
        }

    @pytest.mark.parametrize(("given", "seconds"), [("", 2.0), ("0.5", 0.5), ("30", 30.0)])
    def test_timeout(self, given: str, seconds: float) -> None:
        """The time-out is in seconds, and short unless asked otherwise."""
        found = plan({ENDPOINT: COLLECTOR, "OTEL_EXPORTER_OTLP_TIMEOUT": given})
        assert {one.timeout_s for one in found.exports} == {seconds}

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            (ENDPOINT, "collector:4318"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "-1"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://["),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999"),
        ],
    )
    def test_faults(self, setting: str, value: str) -> None:
        """A wrong variable is one fault, named, and does not repeat its value."""
        (fault,) = plan({ENDPOINT: COLLECTOR, setting: value}).faults
        assert fault.setting == setting
        assert value not in (fault.problem, fault.remedy)

    def test_repr(self) -> None:
        """A collector's address can hold a token, so it is shown nowhere."""
        export = Export(signal="traces", protocol="grpc", endpoint="https://CANARY")
        assert "CANARY" not in repr(export)


class TestResource:
    def test_environment(self) -> None:
        """The environment's name is the deployment's."""
        made = _resource({}, "production", Providers()).attributes
        assert made["deployment.environment.name"] == "production"

    def test_nothing_known(self) -> None:
        """What is not known is left out."""
        assert ci_run({"GITHUB_ACTIONS": "true"}) == {}
        assert "deployment.environment.name" not in _resource({}, "", Providers()).attributes

    @pytest.mark.parametrize(
        "environ",
        [
            {
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKFLOW": "deploy",
                "GITHUB_RUN_ID": "42",
                "GITHUB_SERVER_URL": "https://ci.example",
                "GITHUB_REPOSITORY": "shop/db",
                "GITHUB_SHA": "abc",
            },
            {
                "GITLAB_CI": "true",
                "CI_PIPELINE_NAME": "deploy",
                "CI_PIPELINE_ID": "42",
                "CI_PIPELINE_URL": "https://ci.example/shop/db/actions/runs/42",
                "CI_COMMIT_SHA": "abc",
            },
            {
                "JENKINS_URL": "https://ci.example",
                "JOB_NAME": "deploy",
                "BUILD_NUMBER": "42",
                "BUILD_URL": "https://ci.example/shop/db/actions/runs/42",
                "GIT_COMMIT": "abc",
            },
        ],
    )
    def test_pipeline(self, environ: dict[str, str]) -> None:
        """GitHub, GitLab and Jenkins report pipeline, run and revision."""
        assert ci_run(environ) == {
            "cicd.pipeline.name": "deploy",
            "cicd.pipeline.run.id": "42",
            "cicd.pipeline.run.url.full": "https://ci.example/shop/db/actions/runs/42",
            "vcs.ref.head.revision": "abc",
        }

    def test_a_password_in_the_url_of_a_run(self) -> None:
        """An address with a user in it is left out."""
        environ = {"JENKINS_URL": "x", "BUILD_URL": "https://me:CANARY@ci/1"}
        assert ci_run(environ) == {}

    @pytest.mark.parametrize(
        ("environ", "name"),
        [
            ({}, "confiture"),
            ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
            ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name=shop"}, "shop"),
            ({"OTEL_RESOURCE_ATTRIBUTES": "a=b"}, "confiture"),
        ],
    )
    def test_service(
        self, environ: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The service is ``confiture`` unless the environment names it."""
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)
        assert _resource(environ, None, Providers()).attributes["service.name"] == name

    def test_service_beside_a_broken_detector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the resource cannot be read, the name that the environment gives stays."""
        monkeypatch.setattr(sdk.Resource, "create", lambda: 1 // 0)
        found = Providers()
        environ = {"OTEL_SERVICE_NAME": "shop"}
        assert _resource(environ, None, found).attributes["service.name"] == "shop"
        assert [fault.setting for fault in found.faults] == ["OTEL_RESOURCE_ATTRIBUTES"]


class TestProviders:
    def test_the_proxy_has_no_owner(self) -> None:
        """Nobody has set a provider yet."""
        assert not has_owner(trace.ProxyTracerProvider())

    def test_somebody_elses(self) -> None:
        """A provider that was set is its owner's, also one that does nothing."""
        assert has_owner(TracerProvider(shutdown_on_exit=False))
        assert has_owner(trace.NoOpTracerProvider())

    def test_an_earlier_run(self) -> None:
        """What an earlier run in this process set is nobody's."""
        provider = TracerProvider(shutdown_on_exit=False)
        made_here.add(provider)
        assert not has_owner(provider)

    @pytest.mark.parametrize(("given", "cap"), [("", MIGRATION_SPANS), ("0", 0), (" 12 ", 12)])
    def test_cap(self, given: str, cap: int) -> None:
        """The cap of migration spans is a setting."""
        found = for_command({"CONFITURE_WEBHOOK_MIGRATION_SPANS": given}, None)
        assert (found.migration_spans, found.faults) == (cap, [])

    @pytest.mark.parametrize("given", ["-1", "many", "²", "1.5"])
    def test_a_wrong_cap(self, given: str) -> None:
        """A cap that is no number is a fault, and the default holds."""
        found = for_command({"CONFITURE_WEBHOOK_MIGRATION_SPANS": given}, None)
        assert found.migration_spans == MIGRATION_SPANS
        assert [fault.setting for fault in found.faults] == ["CONFITURE_WEBHOOK_MIGRATION_SPANS"]


class TestSession:
    @pytest.mark.parametrize(
        ("host", "is_proxied"),
        [("[::1]", False), ("localhost.", False), ("127.1", False), ("collector.example", True)],
    )
    def test_only_other_hosts_are_proxied(
        self, host: str, is_proxied: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """This machine, however it is written, is reached without the environment's proxy."""
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        session = CollectorSession(Tally(Export(signal="logs", protocol="http/protobuf"), ""))
        merged = session.merge_environment_settings(f"http://{host}:1/", {}, None, None, None)
        assert bool(merged["proxies"]) is is_proxied

    @pytest.mark.parametrize(
        ("user", "sent"),
        [("", "Bearer own"), ("me:mine@", "Basic bWU6bWluZQ=="), ("me:@", "Basic bWU6")],
    )
    def test_netrc_is_not_read(
        self, user: str, sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Credentials are those of the headers or of the address; requests prefers a .netrc's."""
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        with LocalReceiver() as receiver:
            address = receiver.url.replace("//", f"//{user}")
            export = Export(signal="logs", protocol="http/protobuf", endpoint=address)
            with CollectorSession(Tally(export, "")) as session:
                session.headers["Authorization"] = "Bearer own"
                session.post(address, data=b"")
        assert receiver.requests[0].headers["Authorization"] == sent


def test_a_variable_that_names_a_provider_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What users' hooks start gets it as it was."""
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "nosuch")
    assert for_command({}, None).error is None
    assert os.environ["OTEL_PYTHON_TRACER_PROVIDER"] == "nosuch"


def test_no_redirect_is_followed() -> None:
    """Older exporters follow one, and their headers would reach a stranger."""
    there = {"Location": "http://127.0.0.1:9/"}
    tally = sdk.Tally(Export(signal="traces", protocol="http/protobuf", setting="X"), "")
    with LocalReceiver(answers=[(307, there)]) as receiver, CollectorSession(tally) as session:
        with pytest.raises(ValueError, match="HTTP 307"):
            session.post(receiver.url, data=b"", headers={"x-api-key": "CANARY"})
        assert tally.reason == "no collector answers there (HTTP 307). Check X"


def test_why_grpc_refused_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused header comes at once: "not in time" would send its user to the wrong place."""
    monkeypatch.setattr(sdk, "maker_of", lambda _: lambda **_: None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=b")
    export = Export(signal="logs", protocol="grpc", setting="OTEL_EXPORTER_OTLP_ENDPOINT")
    assert sdk.exporter_for(export)[1].reason == (
        "the collector did not take them. "
        "Check OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_LOGS_HEADERS and its log"
    )


class TestComplaints:
    @pytest.mark.parametrize(
        ("text", "setting"),
        [
            ("Unable to parse value for %s as integer.", "OTEL_BSP_MAX_QUEUE_SIZE"),
            ("Header format invalid! CANARY %s", "OTEL_EXPORTER_OTLP_HEADERS"),
        ],
    )
    def test_name_the_setting_and_quote_nothing(
        self, text: str, setting: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the SDK says about a variable becomes a fault without the variable's value."""
        monkeypatch.setenv(setting, "CANARY")
        with complaints() as faults:
            logging.getLogger("opentelemetry.sdk").warning(text, setting)
        (fault,) = faults
        assert fault.setting == setting
        assert "CANARY" not in str(fault)

    def test_other_talk(self) -> None:
        """What is not about a setting is dropped, also when it cannot be formatted."""
        with complaints() as faults:
            collecting = logging.getLogger("opentelemetry").handlers[-1]
            for text, given in (("collector is down", ()), ("%d", ("no number",))):
                collecting.emit(logging.LogRecord("x", logging.ERROR, "", 0, text, given, None))
        assert faults == []


IMPORTS = """
import sys
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.telemetry.providers import for_command
telemetry = Telemetry(
    for_command({}, None), endpoints=["a"], log=sys.argv[1], log_level="info"
)
telemetry.outbox_failed("disk full")
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation",
         "opentelemetry._logs", "requests", "structlog")
print([name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize(("log", "loaded"), [("off", "[]"), ("json", "['structlog']")])
def test_nothing_heavy_is_imported_without_need(log: str, loaded: str) -> None:
    """Without an exporter the SDK is not imported, and without lines structlog is not."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, log], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == loaded


def test_a_library_without_handlers_is_silent() -> None:
    """An owner who has set up no logging sees nothing on standard error."""
    code = (
        "from confiture_webhooks.telemetry import Telemetry\n"
        "Telemetry(is_library=True, log=None).outbox_failed('disk full')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
