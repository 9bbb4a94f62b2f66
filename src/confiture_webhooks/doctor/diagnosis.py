"""``confiture webhooks doctor``: the troubleshooting table, run against a user's own set-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.variables import OFF_WORDS, SWITCH
from ..delivery import Delivery, State, TraceContext
from ..errors import ConfigError, OutboxError, SignatureError
from ..event import EventType, body, rfc3339
from ..outbox import Summary
from ..telemetry.plan import CONSOLE, GRPC, INSTALL, Export, plan
from ..transport import prepare
from ..verification import verify
from ..wiring import (
    command_settings,
    in_database,
    operators_outbox,
    postgres_dsn,
    spare_outbox,
    unread_block,
    user_agent,
)
from .health import Check, ok, skipped, warn, wrong
from .obstacles import PATIENCE, obstacle, remedy_of, way_to
from .standing import stuck

if TYPE_CHECKING:
    from ..adapters.hook_files import HookFile
    from ..config import Settings
    from ..endpoint import Endpoint
    from ..outbox import Outbox

_PACKAGES = {
    GRPC: "opentelemetry.exporter.otlp.proto.grpc",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http",
}
_COLLECTORS = {GRPC: "http://localhost:4317", "http/protobuf": "http://localhost:4318"}


def diagnose(
    environ: Mapping[str, str],
    config_file: Path | None,
    settings_file: Path | None,
    *,
    is_pinging: bool,
) -> Iterator[Check]:
    """One check after the other; with *is_pinging* every endpoint is sent a ping."""
    if environ.get(SWITCH, "").strip().lower() in OFF_WORDS:
        yield wrong("configuration", f"{SWITCH} is off: nothing is sent", "Unset it")
    try:
        settings, files = command_settings(environ, settings_file)
    except ConfigError as error:
        for fault in error.faults:
            yield wrong("configuration", f"{fault.setting}: {fault.problem}", fault.remedy)
        return
    yield _configured(settings, files)
    if unread := unread_block(environ, settings_file):
        yield warn("environment file", f"{unread.setting} {unread.problem}", unread.remedy)
    yield from _hook_files(files)
    for endpoint in settings.endpoints:
        yield from way_to(endpoint)
        yield _signs(endpoint)
    if settings.endpoints:
        yield from _outbox(settings, environ, config_file)
        yield from _pings(settings, environ, is_pinging=is_pinging)
    yield from _collector(environ)


def _configured(settings: Settings, files: list[HookFile]) -> Check:
    counts = f"endpoints: {len(settings.endpoints)}, hook files: {len(files)}"
    if settings.endpoints or files:
        return ok("configuration", f"{counts}; {'; '.join(settings.sources) or 'hook files'}")
    remedy = "Set CONFITURE_WEBHOOK_URL, or write a `webhooks:` block into the environment file"
    return wrong("configuration", "no endpoint and no hook file: nothing is told", remedy)


def _hook_files(files: list[HookFile]) -> Iterator[Check]:
    for file in files:
        if file.fault is not None:
            yield wrong(
                "hook file", f"{file.fault.setting} {file.fault.problem}", file.fault.remedy
            )
        elif file.reads_url:
            yield ok(
                "hook file", f"{file.shown}; tells CONFITURE_WEBHOOK_URL in place of `default`"
            )
        else:
            yield ok("hook file", file.shown)


def _signs(endpoint: Endpoint) -> Check:
    name = f"{endpoint.name}: signs"
    if not endpoint.secrets:
        return warn(name, "no secret: anybody can send what you send", "Set `secret`")
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
        return wrong(name, "a sample does not verify", "Set another secret, and report this")
    return ok(
        name, f"a sample verifies with {'each' if len(endpoint.secrets) > 1 else 'the'} secret"
    )


def _outbox(
    settings: Settings, environ: Mapping[str, str], config_file: Path | None
) -> Iterator[Check]:
    """Whether it can be used, and what of this environment's waits in it for an operator."""
    notices: list[str] = []
    if settings.outbox == "postgres":
        from ..adapters.database import project_dsn  # noqa: PLC0415

        settings = in_database(settings, project_dsn(config_file, environ))
    try:
        with closing(_opened(settings, environ, notices.append)) as outbox:
            summary = outbox.summaries().get(settings.environment, Summary())
            off, is_durable = outbox.disabled(settings.environment), outbox.is_durable
            due = [outbox.next_due_at(one.name, settings.environment) for one in settings.endpoints]
        is_in_reach = not notices or _may_make(settings)
    except OutboxError as error:
        yield wrong("outbox", error.problem, error.remedy or _outbox_remedy(settings))
        return
    if not is_in_reach:
        missing = "there is none in the database, and this role may not make it"
        yield wrong("outbox", missing, f"{_outbox_remedy(settings)}, as a role that may")
        return
    next_at = min((at for at in due if at is not None), default=None)
    yield _kept(summary, next_at, is_durable=is_durable, notices=notices)
    configured = [endpoint.name for endpoint in settings.endpoints]
    for name, reason in stuck(summary, configured, off=off, late={}).items():
        remedy = (
            f"Once its receiver is mended, run `confiture webhooks enable {name}`"
            if name in off
            else "Configure it again, or drop them with `confiture webhooks discard`"
        )
        yield wrong(f"{name}: outbox", reason, remedy)


def _opened(
    settings: Settings, environ: Mapping[str, str], notice: Callable[[str], None]
) -> Outbox:
    """The outbox as it is: a damaged file is not set aside, and nothing made in a database."""
    if settings.outbox == "memory":
        return spare_outbox()
    makes = settings.outbox.startswith("sqlite")
    return operators_outbox(settings, environ, makes=makes, notice=notice)


def _may_make(settings: Settings) -> bool:
    """Whether the first run can make the outbox that is not there yet."""
    from ..adapters.pgmq import may_make  # noqa: PLC0415

    return may_make(postgres_dsn(settings))


def _kept(
    summary: Summary, next_at: datetime | None, *, is_durable: bool, notices: Sequence[str]
) -> Check:
    waiting = sum(summary.undelivered.values())
    dead = summary.counts.get(State.DEAD_LETTER, 0)
    counts = f"{waiting} waiting, {dead} given up"
    if notices:
        return warn("outbox", "; ".join(notices), "Make it before a run whose role may not")
    if not is_durable:
        return warn("outbox", f"in memory; {counts}", "Use `sqlite`: memory ends with the command")
    if dead:
        return warn("outbox", counts, "Run `confiture webhooks redeliver --dead`")
    if waiting and next_at is not None and next_at > datetime.now(UTC):
        return warn(
            "outbox",
            f"{counts}; the next is due at {rfc3339(next_at)}",
            "Run `confiture webhooks deliver` then, or `confiture webhooks redeliver --pending`",
        )
    if waiting:
        return warn("outbox", counts, "Run `confiture webhooks deliver`")
    return ok("outbox", f"writable; {counts}")


def _outbox_remedy(settings: Settings) -> str:
    if settings.outbox.startswith("postgres"):
        return "Make it with `confiture webhooks outbox init`, which prints a role's GRANTs too"
    return "Make it writable, or set CONFITURE_WEBHOOK_OUTBOX"


def _pings(settings: Settings, environ: Mapping[str, str], *, is_pinging: bool) -> Iterator[Check]:
    if not is_pinging:
        yield skipped("ping", "not asked for; --ping sends one to every endpoint")
        return
    from ..ping import ping  # noqa: PLC0415

    for result in ping(settings, environ, None):
        name = f"{result.endpoint}: ping"
        row = result.as_dict()
        if result.is_delivered:
            yield ok(name, f"delivered with {row['status_code']} in {row['duration_ms']} ms")
        else:
            reason = str(row["error_type"] or "timeout")
            yield wrong(name, f"not delivered: {reason}", remedy_of(reason))


def _collector(environ: Mapping[str, str]) -> Iterator[Check]:
    wanted = plan(environ)
    for fault in wanted.faults:
        yield wrong("collector", f"{fault.setting}: {fault.problem}", fault.remedy)
    if not wanted.exports:
        yield skipped("collector", "nothing is exported; OTEL_EXPORTER_OTLP_ENDPOINT would")
    by_address: dict[tuple[str, str], list[str]] = {}
    for export in wanted.exports:
        if export.protocol != CONSOLE:
            by_address.setdefault((export.protocol, _address(export)), []).append(export.signal)
    for (protocol, address), signals in by_address.items():
        bundle = environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
        yield _exporter(protocol, address, ", ".join(signals), bundle)


def _address(export: Export) -> str:
    """Scheme, host and port of the collector *export* goes to."""
    address = export.endpoint or _COLLECTORS[export.protocol]
    address = address if "://" in address else f"http://{address}"
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def _exporter(protocol: str, address: str, signals: str, ca_bundle: str | None) -> Check:
    from ..adapters.reach import reach  # noqa: PLC0415

    name = f"collector: {signals}"
    if not _is_installed(_PACKAGES[protocol]):
        remedy = INSTALL if protocol != GRPC else "Install opentelemetry-exporter-otlp-proto-grpc"
        return wrong(name, "the exporter's package is not installed", remedy)
    found = reach(address, PATIENCE, ca_bundle, is_export=True)
    if stopped := obstacle(found, address.partition(":")[0]):
        symptom, remedy = stopped
        if not found.is_proxied and found.reason is None:
            remedy = "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT"
        return wrong(name, f"{address} is not reached: {symptom}", remedy)
    return ok(name, f"{address} takes connections")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
