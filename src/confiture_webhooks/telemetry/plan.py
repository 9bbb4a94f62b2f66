"""The exporters that ``OTEL_*`` variables ask for, and their faults."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ..config.variables import RESOURCE
from ..errors import Fault

TEMPORALITY: Final = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
SIGNALS: Final = ("traces", "metrics", "logs")
HTTP: Final = "http/protobuf"
GRPC: Final = "grpc"
CONSOLE: Final = "console"
_OTLP = {"otlp": None, "otlp_proto_http": HTTP, "otlp_proto_grpc": GRPC}
TEMPORALITIES: Final = ("delta", "cumulative", "lowmemory")
DEFAULT_TIMEOUT_S: Final = 2.0
LONGEST_S: Final = 3600.0
"""A socket refuses much longer ones, and no run waits so long."""
_SETTING = re.compile(r"OTEL_[A-Z_]+[A-Z]")
_HINTS = (
    ("ompression", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    ("eader", "OTEL_EXPORTER_OTLP_HEADERS"),
    ("export interval", "OTEL_METRIC_EXPORT_INTERVAL"),
    ("export timeout", "OTEL_METRIC_EXPORT_TIMEOUT"),
    ("TRACES_SAMPLER_ARG", "OTEL_TRACES_SAMPLER_ARG"),
    ("sampler", "OTEL_TRACES_SAMPLER"),
    ("resource attribute", RESOURCE),
    ("resource detector", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"),
)
INSTALL: Final = "Run: pip install 'confiture-webhooks[otlp]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exporter of one signal."""

    signal: str
    protocol: str
    """``http/protobuf``, ``grpc`` or ``console``."""
    setting: str = ""
    """The variable that gives its address, whether it is set or not; a console's asks for it."""
    endpoint: str | None = field(default=None, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Plan:
    """The exporters to set up, and the faults of the variables."""

    exports: tuple[Export, ...] = ()
    faults: tuple[Fault, ...] = ()


def plan(environ: Mapping[str, str]) -> Plan:
    """The plan; an empty one without an exporter in *environ*, or with the SDK disabled."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    faults: list[Fault] = []
    exports: list[Export] = []
    for signal in SIGNALS:
        given = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
        if not given and _either(environ, signal, "ENDPOINT")[1]:
            given = "otlp"
        named = dict.fromkeys(name.strip().lower() for name in given.split(","))
        wanted = [name for name in named if name not in ("", "none")]
        exports += filter(None, (_export(environ, signal, name, faults) for name in wanted))
    if exports and environ.get(TEMPORALITY, "").strip().lower() not in ("", *TEMPORALITIES):
        problem = "is not a temporality, so delta is used"
        faults.append(Fault(TEMPORALITY, problem, f"Use one of: {', '.join(TEMPORALITIES)}"))
    return Plan(tuple(exports), tuple(dict.fromkeys(faults)))


def _export(
    environ: Mapping[str, str], signal: str, name: str, faults: list[Fault]
) -> Export | None:
    exporter = f"OTEL_{signal.upper()}_EXPORTER"
    if name == CONSOLE:
        return Export(signal=signal, protocol=CONSOLE, setting=exporter)
    if name not in _OTLP:
        problem = "names an exporter this command does not have"
        faults.append(Fault(exporter, problem, "Use otlp, console or none"))
        return None
    timeout_s = _timeout(environ, signal, faults)
    setting, given = _either(environ, signal, "PROTOCOL")
    protocol = _OTLP[name] or given.lower() or HTTP
    if protocol not in (HTTP, GRPC):
        problem = "is not a protocol this command has"
        faults.append(Fault(setting, problem, f"Use {HTTP} or {GRPC}"))
        return None
    setting, endpoint = _either(environ, signal, "ENDPOINT")
    if protocol == HTTP and endpoint and not _is_address(endpoint):
        problem = "is not a URL that starts with http:// or https:// and a host"
        faults.append(Fault(setting, problem, "Correct it"))
        return None
    if protocol == HTTP and endpoint and setting == "OTEL_EXPORTER_OTLP_ENDPOINT":
        endpoint = f"{endpoint.removesuffix('/')}/v1/{signal}"
    return Export(
        signal=signal,
        protocol=protocol,
        setting=setting,
        endpoint=endpoint or None,
        timeout_s=timeout_s,
    )


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:  # brackets or a port that are none
        return False


def _either(environ: Mapping[str, str], signal: str, suffix: str) -> tuple[str, str]:
    """The variable of *signal* ending in *suffix*, else the shared one, and its value."""
    setting = held(f"OTEL_EXPORTER_OTLP_{suffix}", environ, signal)
    return setting, environ.get(setting, "").strip()


def held(shared: str, environ: Mapping[str, str], *signals: str) -> str:
    """The variable of one of *signals* that holds a value for *shared*, else *shared* itself."""
    own = (shared.replace("_OTLP_", f"_OTLP_{signal.upper()}_") for signal in signals)
    return next((name for name in own if environ.get(name, "").strip()), shared)


def _timeout(environ: Mapping[str, str], signal: str, faults: list[Fault]) -> float:
    setting, given = _either(environ, signal, "TIMEOUT")
    with suppress(ValueError):
        seconds = float(given or DEFAULT_TIMEOUT_S)
        if 0 < seconds < math.inf:
            return min(seconds, LONGEST_S)
    faults.append(Fault(setting, "is not a number of seconds above 0", "Correct or unset it"))
    return DEFAULT_TIMEOUT_S


@contextmanager
def complaints() -> Iterator[list[Fault]]:
    """The log lines of ``opentelemetry`` about settings in the block, as faults. None is shown.

    Nor are its later ones: the tally of exports reports a dead collector, not a traceback.
    """
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    faults: list[Fault] = []

    def collect(record: logging.LogRecord) -> None:
        """Keep the setting *record* is about, never its text: that quotes values."""
        with suppress(Exception):  # a message that cannot be formatted names nothing
            hints = (setting for hint, setting in _HINTS if hint in str(record.msg))
            setting = setting_in(record.getMessage()) or next(hints, "")
            if not os.environ.get(setting, "").strip():
                setting = held(setting, os.environ, *SIGNALS)
            if os.environ.get(setting, "").strip():  # a default is complained of, too
                problem = "has a value OpenTelemetry does not accept, so its default is used"
                faults.append(Fault(setting, problem, "Correct or unset it"))

    collecting = logging.Handler(logging.WARNING)
    collecting.emit = collect  # type: ignore[method-assign]
    logger.addHandler(collecting)
    try:
        yield faults
    finally:
        logger.removeHandler(collecting)


def culprit(failed: Exception, again: Callable[[], object]) -> str | None:
    """The variable whose value makes the difference: without it *again* does not fail so."""
    if named := setting_in(str(failed)):
        return named
    for name in sorted(name for name in os.environ if name.startswith("OTEL_")):
        value = os.environ.pop(name)
        try:
            again()
        except Exception as error:  # noqa: BLE001  another fault, if this one is gone
            if str(error) == str(failed):
                continue
        finally:
            os.environ[name] = value
        return name
    return None


def setting_in(text: str) -> str | None:
    """The variable of OpenTelemetry's that *text* names."""
    found = _SETTING.search(text)
    return found.group() if found else None
