"""The providers a run uses: its own, its process's, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from opentelemetry import trace

from ..config.variables import MIGRATION_SPANS as CAP_SETTING
from ..contained import containing
from ..delivery import TraceContext
from ..errors import Fault
from ..transport import version
from .context import PROPAGATORS, ensure_propagators, from_stored, made_here
from .logs import Records, records
from .plan import Plan, complaints, plan, setting_in

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanContext, TracerProvider

    from .sdk import Sdk

MIGRATION_SPANS = 200


@dataclass(slots=True, kw_only=True)
class Providers:
    """Where the signals of a run go. What is ``None`` is silent; ids are real all the same."""

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    records: Records | None = None
    sdk: Sdk | None = None
    """Set up here, so it has to be shut down."""
    inherited: SpanContext | None = None
    """The trace the environment asks to join."""
    migration_spans: int = MIGRATION_SPANS
    faults: list[Fault] = field(default_factory=list)
    error: BaseException | None = None
    """A fault while finding out; the run then goes on with the providers found."""

    def keep(self, _: str, error: Exception) -> None:
        """Keep *error* until there is a log: a run without telemetry is still a run."""
        self.error = error


def for_command(environ: Mapping[str, str], environment: str | None) -> Providers:
    """The owner's providers where there is one, else what ``OTEL_*`` ask for. Never raises."""
    found = Providers()
    with containing("finding providers", found.keep):
        if traceparent := environ.get("TRACEPARENT"):
            stored = TraceContext(traceparent=traceparent, tracestate=environ.get("TRACESTATE"))
            found.inherited = from_stored(stored, is_remote=True)
        _read_cap(environ, found)
        if has_owner(trace.get_tracer_provider()):
            _use_global(found)
            return found
        if environ.get(PROPAGATORS):
            found.faults += filter(None, [ensure_propagators()])
        asked = plan(environ)
        found.faults += asked.faults
        if asked.exports:
            _set_up(found, asked, environ, environment)
    return found


def for_library(environ: Mapping[str, str]) -> Providers:
    """The global providers; nothing is set up. Never raises."""
    found = Providers()
    with containing("finding providers", found.keep):
        _read_cap(environ, found)
        _use_global(found)
    return found


def has_owner(provider: TracerProvider) -> bool:
    """Whether *provider* was set by ``opentelemetry-instrument`` or by the user."""
    return not isinstance(provider, trace.ProxyTracerProvider) and provider not in made_here


def _use_global(found: Providers) -> None:
    from opentelemetry.metrics import get_meter_provider  # noqa: PLC0415

    found.tracer_provider = trace.get_tracer_provider()
    found.meter_provider = get_meter_provider()
    found.records = records(None, version())


def _set_up(
    found: Providers, asked: Plan, environ: Mapping[str, str], environment: str | None
) -> None:
    with complaints() as complained:  # the import complains, too
        try:
            # Unlike the statement, it tries anew where the import failed in another thread.
            set_up = import_module(".sdk", __package__).set_up  # a tenth of a second
        except ValueError as error:  # its text may quote the value
            problem = "has a value OpenTelemetry refuses, so there is no telemetry"
            setting = setting_in(str(error)) or "OTEL_*"
            found.faults.append(Fault(setting, problem, "Correct or unset it"))
            return
        sdk: Sdk = set_up(asked, environ, environment)
        found.sdk = sdk
    found.faults += sdk.faults
    known = {fault.setting for fault in found.faults}
    found.faults += (one for one in dict.fromkeys(complained) if one.setting not in known)
    found.tracer_provider = sdk.providers.get("traces")
    found.meter_provider = sdk.providers.get("metrics")
    if "logs" in sdk.providers:
        found.records = records(sdk.providers["logs"], version())


def _read_cap(environ: Mapping[str, str], found: Providers) -> None:
    """Read the number of migration spans a run may have."""
    given = environ.get(CAP_SETTING, "").strip()
    if given.isascii() and given.isdigit():
        found.migration_spans = int(given)
    elif given:
        problem = f"is not a whole number, so {MIGRATION_SPANS} is used"
        found.faults.append(Fault(CAP_SETTING, problem, "Correct or unset it"))
