"""What the ``OTEL_*`` variables ask for, decided without importing the SDK."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import Fault

SIGNALS: Final = ("traces", "metrics", "logs")
HTTP: Final = "http/protobuf"
GRPC: Final = "grpc"
CONSOLE: Final = "console"
_OTLP = {"otlp": None, "otlp_proto_http": HTTP, "otlp_proto_grpc": GRPC}
DEFAULT_TIMEOUT_S: Final = 2.0
INSTALL: Final = "Run: pip install 'confiture-webhooks[otlp]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exporter of one signal."""

    signal: str
    protocol: str
    """``http/protobuf``, ``grpc`` or ``console``."""
    setting: str = ""
    """The variable that asked for it."""
    endpoint: str | None = field(default=None, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Plan:
    """The exporters to set up, and what is wrong with the variables."""

    exports: tuple[Export, ...] = ()
    faults: tuple[Fault, ...] = ()


def plan(environ: Mapping[str, str]) -> Plan:
    """What to export where. Without an exporter asked for, or with the SDK disabled: nothing."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    faults: list[Fault] = []
    exports = [
        export
        for signal in SIGNALS
        for name in _names(environ, signal)
        if (export := _export(environ, signal, name, faults)) is not None
    ]
    return Plan(tuple(exports), tuple(dict.fromkeys(faults)))


def _names(environ: Mapping[str, str], signal: str) -> list[str]:
    given = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not given:
        return ["otlp"] if _endpoint(environ, signal)[1] else []
    named = [name.strip().lower() for name in given.split(",")]
    return [name for name in dict.fromkeys(named) if name and name != "none"]


def _endpoint(environ: Mapping[str, str], signal: str) -> tuple[str, str | None]:
    """The variable that names the collector for *signal*, and its value."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    if environ.get(own, "").strip():
        return own, environ[own].strip()
    shared = "OTEL_EXPORTER_OTLP_ENDPOINT"
    return shared, environ.get(shared, "").strip() or None


def _export(
    environ: Mapping[str, str], signal: str, name: str, faults: list[Fault]
) -> Export | None:
    exporter = f"OTEL_{signal.upper()}_EXPORTER"
    if name == CONSOLE:
        return Export(signal=signal, protocol=CONSOLE, setting=exporter)
    if name not in _OTLP:
        faults.append(
            Fault(exporter, "names an exporter this command does not have", "Use otlp or none")
        )
        return None
    protocol = _OTLP[name] or _protocol(environ, signal, faults)
    setting, endpoint = _endpoint(environ, signal)
    timeout_s = _timeout(environ, signal, faults)
    if protocol is None:
        return None
    if protocol == HTTP and endpoint and not endpoint.lower().startswith(("http://", "https://")):
        faults.append(
            Fault(setting, "is not a URL that starts with http:// or https://", "Correct it")
        )
        return None
    if protocol == HTTP and endpoint and setting == "OTEL_EXPORTER_OTLP_ENDPOINT":
        endpoint = f"{endpoint.removesuffix('/')}/v1/{signal}"
    return Export(
        signal=signal,
        protocol=protocol,
        setting=setting if endpoint else exporter,
        endpoint=endpoint,
        timeout_s=timeout_s,
    )


def _either(environ: Mapping[str, str], signal: str, suffix: str) -> tuple[str, str]:
    """The variable of *signal* ending in *suffix*, else the shared one, and its value."""
    own, shared = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"
    setting = own if environ.get(own, "").strip() else shared
    return setting, environ.get(setting, "").strip()


def _protocol(environ: Mapping[str, str], signal: str, faults: list[Fault]) -> str | None:
    setting, given = _either(environ, signal, "PROTOCOL")
    protocol = given.lower() or HTTP
    if protocol in (HTTP, GRPC):
        return protocol
    faults.append(Fault(setting, "is not a protocol this command has", f"Use {HTTP} or {GRPC}"))
    return None


def _timeout(environ: Mapping[str, str], signal: str, faults: list[Fault]) -> float:
    setting, given = _either(environ, signal, "TIMEOUT")
    if not given:
        return DEFAULT_TIMEOUT_S
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds > 0:
        return seconds
    faults.append(Fault(setting, "is not a number of seconds above 0", "Correct or unset it"))
    return DEFAULT_TIMEOUT_S
