"""``confiture webhooks doctor``: the troubleshooting table, run against a user's own set-up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .delivery import Delivery, State, TraceContext
from .errors import ConfigError, OutboxError, SignatureError
from .event import EventType, body
from .telemetry.plan import CONSOLE, GRPC, INSTALL, Export, plan
from .transport import prepare
from .variables import OFF_WORDS, SWITCH
from .verification import verify
from .wiring import command_settings, in_database, make_outbox, user_agent

if TYPE_CHECKING:
    from .adapters.hook_files import HookFile
    from .config import Settings
    from .endpoint import Endpoint

CLOCK_OFF = timedelta(seconds=60)
CLOCK_WRONG = timedelta(minutes=5)
"""Receivers refuse a timestamp that is further off."""
PATIENCE = timedelta(seconds=5)
_PACKAGES = {
    GRPC: "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_COLLECTORS = {GRPC: "http://localhost:4317", "http/protobuf": "http://localhost:4318"}
_SECRETS = "Compare the secret on both sides; `confiture webhooks verify` checks a request"
_REMEDIES = {
    "dns": "Check the host's name in `url`, and that this machine can resolve it",
    "connection_refused": "Start the receiver, or correct host and port in `url`",
    "connection_reset": "Something on the way closes connections: check proxy and firewall",
    "timeout": "Check firewall and network; a receiver that is only slow needs a higher `timeout`",
    "tls": "Check the certificate; for a private authority set REQUESTS_CA_BUNDLE to its file",
    "protocol": "Something else than an HTTP server answers there: check the port in `url`",
    "401": _SECRETS,
    "403": _SECRETS,
    "404": "Check the path in `url`",
    "410": "The receiver wants nothing more; `confiture webhooks enable` takes it up again",
}
_OTHER = "Look into the receiver's own log; `confiture webhooks test` tries again"


class Health(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table, against this set-up."""

    name: str
    health: Health
    detail: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The row as ``--format json`` prints it."""
        return {
            "check": self.name,
            "status": self.health.value,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, health=Health.OK, detail=detail)


def _warn(name: str, detail: str, remedy: str) -> Check:
    return Check(name=name, health=Health.WARNING, detail=detail, remedy=remedy)


def _wrong(name: str, detail: str, remedy: str) -> Check:
    return Check(name=name, health=Health.PROBLEM, detail=detail, remedy=remedy)


def _skipped(name: str, detail: str) -> Check:
    return Check(name=name, health=Health.SKIPPED, detail=detail)


def diagnose(
    environ: Mapping[str, str], config_file: Path | None, *, is_pinging: bool
) -> Iterator[Check]:
    """One check after the other; with *is_pinging* every endpoint is sent a ping."""
    if environ.get(SWITCH, "").strip().lower() in OFF_WORDS:
        yield _wrong("configuration", f"{SWITCH} is off: nothing is sent", "Unset it")
    try:
        settings, files = command_settings(environ, config_file)
    except ConfigError as error:
        for fault in error.faults:
            yield _wrong("configuration", f"{fault.setting}: {fault.problem}", fault.remedy)
        return
    yield _configured(settings, files)
    yield from _hook_files(files)
    for endpoint in settings.endpoints:
        yield from _endpoint(endpoint)
    if settings.endpoints:
        yield _outbox(settings, environ, config_file)
        yield from _pings(settings, environ, is_pinging=is_pinging)
    yield from _collector(environ)


def _configured(settings: Settings, files: list[HookFile]) -> Check:
    counts = f"{len(settings.endpoints)} endpoints, {len(files)} hook files"
    if settings.endpoints or files:
        return _ok("configuration", f"{counts}; {'; '.join(settings.sources) or 'hook files'}")
    remedy = "Set CONFITURE_WEBHOOK_URL, or write a `webhooks:` block into the environment file"
    return _wrong("configuration", "no endpoint and no hook file: nothing is told", remedy)


def _hook_files(files: list[HookFile]) -> Iterator[Check]:
    for file in files:
        if file.fault is not None:
            yield _wrong(
                "hook file", f"{file.fault.setting} {file.fault.problem}", file.fault.remedy
            )
        elif file.reads_url:
            yield _ok(
                "hook file", f"{file.shown}; tells CONFITURE_WEBHOOK_URL in place of `default`"
            )
        else:
            yield _ok("hook file", file.shown)


def _endpoint(endpoint: Endpoint) -> Iterator[Check]:
    """Whether *endpoint* can be reached, and whether what it is sent can be verified."""
    from .adapters.reach import reach  # noqa: PLC0415

    found = reach(endpoint.url, min(endpoint.timeout, PATIENCE))
    steps = ["resolves", "connects", *(["tls"] if endpoint.url.startswith("https:") else [])]
    way = " (the proxy)" if found.is_proxied else ""
    if found.is_proxied:
        steps = steps[:2]
    for step in steps:
        name = f"{endpoint.name}: {step}"
        if found.error_type is not None and found.step == step:
            remedy = _REMEDIES.get(found.error_type, _OTHER)
            yield _wrong(name, f"{found.error_type}{way}", remedy)
            break
        yield _ok(name, f"yes{way}")
    yield _signs(endpoint)
    yield _clock(endpoint.name, found.skew)


def _clock(endpoint: str, skew: timedelta | None) -> Check:
    name = f"{endpoint}: clock"
    if skew is None:
        return _skipped(name, "no answer told the time")
    off_s = round(skew.total_seconds())
    if abs(skew) < CLOCK_OFF:
        return _ok(name, f"{off_s} s apart")
    remedy = "Set this machine's clock, or the receiver's: timestamps are part of the signature"
    make = _wrong if abs(skew) > CLOCK_WRONG else _warn
    return make(name, f"{off_s} s apart", remedy)


def _signs(endpoint: Endpoint) -> Check:
    name = f"{endpoint.name}: signs"
    if not endpoint.secrets:
        return _warn(name, "no secret: anybody can send what you send", "Set `secret`")
    at = datetime.now(UTC)
    trace = TraceContext(traceparent=f"00-{'1' * 32}-{'1' * 16}-01")
    sample = Delivery(
        id="dlv_doctor",
        event_id="evt_doctor",
        event_type=EventType.PING,
        endpoint=endpoint.name,
        body=body({"event_id": "evt_doctor", "event_type": "ping"}),
        content_type="application/json",
        trace=trace,
        correlation_id="1" * 32,
        created_at=at,
    )
    request = prepare(endpoint, sample, attempt=1, at=at, user_agent=user_agent())
    try:
        for secret in endpoint.secrets:
            verify(request.headers, request.body, secret, require_timestamp=True)
    except (SignatureError, ConfigError):
        return _wrong(name, "a sample does not verify", "Set another secret, and report this")
    return _ok(
        name, f"a sample verifies with {'each' if len(endpoint.secrets) > 1 else 'the'} secret"
    )


def _outbox(settings: Settings, environ: Mapping[str, str], config_file: Path | None) -> Check:
    notices: list[str] = []
    if settings.outbox == "postgres":
        from .adapters.database import project_dsn  # noqa: PLC0415

        settings = in_database(settings, project_dsn(config_file, environ))
    try:
        with closing(make_outbox(settings, environ, notices.append)) as outbox:
            summary, is_durable = outbox.summary(), outbox.is_durable
    except OutboxError as error:
        return _wrong("outbox", str(error), _outbox_remedy(settings))
    waiting = sum(summary.undelivered.values())
    dead = summary.counts.get(State.DEAD_LETTER, 0)
    counts = f"{waiting} waiting, {dead} given up"
    if not is_durable:
        return _warn("outbox", f"in memory; {counts}", "Use `sqlite`: memory ends with the command")
    if notices:
        return _warn("outbox", "; ".join(notices), "Make its directory writable")
    if dead or waiting:
        again = "redeliver --dead" if dead else "deliver"
        return _warn("outbox", counts, f"Run `confiture webhooks {again}`")
    return _ok("outbox", f"writable; {counts}")


def _outbox_remedy(settings: Settings) -> str:
    if settings.outbox.startswith("postgres"):
        return "Make it with `confiture webhooks outbox init`, which prints a role's GRANTs too"
    return "Make it writable, or set CONFITURE_WEBHOOK_OUTBOX"


def _pings(settings: Settings, environ: Mapping[str, str], *, is_pinging: bool) -> Iterator[Check]:
    if not is_pinging:
        yield _skipped("ping", "not asked for; --ping sends one to every endpoint")
        return
    from .ping import ping  # noqa: PLC0415

    for result in ping(settings, environ, None):
        name = f"{result.endpoint}: ping"
        row = result.as_dict()
        if result.is_delivered:
            yield _ok(name, f"delivered with {row['status_code']} in {row['duration_ms']} ms")
        else:
            reason = str(row["error_type"] or "timeout")
            yield _wrong(name, f"not delivered: {reason}", _REMEDIES.get(reason, _OTHER))


def _collector(environ: Mapping[str, str]) -> Iterator[Check]:
    wanted = plan(environ)
    for fault in wanted.faults:
        yield _wrong("collector", f"{fault.setting}: {fault.problem}", fault.remedy)
    if not wanted.exports:
        yield _skipped("collector", "nothing is exported; OTEL_EXPORTER_OTLP_ENDPOINT would")
    by_address: dict[tuple[str, str], list[str]] = {}
    for export in wanted.exports:
        if export.protocol != CONSOLE:
            by_address.setdefault((export.protocol, _address(export)), []).append(export.signal)
    for (protocol, address), signals in by_address.items():
        yield _exporter(protocol, address, ", ".join(signals))


def _address(export: Export) -> str:
    """Scheme, host and port of the collector *export* goes to."""
    address = export.endpoint or _COLLECTORS[export.protocol]
    address = address if "://" in address else f"http://{address}"
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _exporter(protocol: str, address: str, signals: str) -> Check:
    from .adapters.reach import reach  # noqa: PLC0415

    name = f"collector: {signals}"
    if not _is_installed(_PACKAGES[protocol]):
        remedy = INSTALL if protocol != GRPC else "Install opentelemetry-exporter-otlp-proto-grpc"
        return _wrong(name, "the exporter's package is not installed", remedy)
    found = reach(address, PATIENCE)
    if found.error_type is not None:
        remedy = "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
        return _wrong(name, f"{address} is not reached: {found.error_type}", remedy)
    return _ok(name, f"{address} takes connections")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
