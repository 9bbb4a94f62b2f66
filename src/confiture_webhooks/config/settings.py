"""Settings from the environment and the ``webhooks:`` block of the file Confiture reads.

Importing this costs nothing but the standard library: pydantic and YAML come with ``load``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote, urlsplit

from ..endpoint import Endpoint
from ..errors import ConfigError, Fault
from . import variables

if TYPE_CHECKING:
    from .reader import EnvironmentReader, FileReader

Log = Literal["json", "console", "off"]

_BLOCK_KEY = re.compile(rb"""(?:^|[\r\n{,]|\xef\xbb\xbf)[ \t]*["']?webhooks["']?[ \t]*:""")
_HOSTS = re.compile(r"[\w.,:-]*|\[[0-9a-fA-F:]+\](:\d+)?")
_PLAIN_URL = re.compile(r"https?://[\w.:\[\]-]+(/[\x21-\x7e]*)?")
"""A web address without user and password, of printable characters."""
_DATABASE = re.compile(r"[\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was configured. Its ``repr`` shows no secret, address or DSN."""

    endpoints: tuple[Endpoint, ...] = ()
    outbox: str = field(default="sqlite", repr=False)
    """``sqlite[:path]``, ``postgres[:dsn]`` or ``memory``."""
    flush_timeout: timedelta = timedelta(seconds=10)
    hooks: tuple[str, ...] = ()
    """Modules to import for their hooks."""
    hook_timeout: timedelta = timedelta(seconds=30)
    """For one call of a hook, and for importing one file of them."""
    log: Log | None = None
    """``None``: JSON unless standard error is a terminal."""
    log_level: str | None = None
    """``None``: ``info``; lines in the console form from ``warning``."""
    environment: str | None = None
    sources: tuple[str, ...] = ()
    """Where the settings came from, in words for people."""
    trace_url: str | None = None
    """A link to a trace, with ``{trace_id}`` in it, for payloads and messages."""
    run_url: str | None = None
    """The CI run's address, for payloads and messages."""
    database_label: bool = True
    """Whether ``db.namespace`` is an attribute of the run's metrics."""
    faulty: tuple[Endpoint, ...] = ()
    """Endpoints with a name and a fault: their events are recorded and wait."""
    faults: tuple[Fault, ...] = ()
    """Everything that is wrong; each costs only what it is about."""
    warnings: tuple[Fault, ...] = ()
    """What is probably a slip, and costs nothing: a variable that nothing reads."""

    def trace_link(self, trace_id: str) -> str | None:
        """The link to a trace, if ``trace_url`` is set."""
        return self.trace_url and self.trace_url.replace("{trace_id}", trace_id)


def is_configured(environ: Mapping[str, str], config_file: Path | None) -> bool:
    """Whether webhooks may be wanted. Cheap; errs only on the yes side; never raises."""
    if environ.get(variables.SWITCH, "").strip().lower() in variables.OFF_WORDS:
        return False
    if environ.get(variables.URL):
        return True
    try:
        return config_file is not None and _BLOCK_KEY.search(config_file.read_bytes()) is not None
    except (OSError, ValueError):
        return False


def load(environ: Mapping[str, str], config_file: Path | None) -> Settings:
    """The settings. Raises ConfigError with every fault there is, not only the first.

    ``CONFITURE_WEBHOOKS=off`` does not empty them: what is switched off can still be checked.
    """
    from . import values  # noqa: PLC0415
    from .reader import EnvironmentReader, FileReader  # noqa: PLC0415

    variable, file = EnvironmentReader(environ), FileReader(config_file, environ)
    block = file.block()
    networks = block.allow_networks, block.deny_networks
    default = variable.endpoint(*networks)
    endpoints = [endpoint.endpoint(*networks) for endpoint in block.endpoints]
    if variable.given(variables.URL):
        file.refuse_default()
    flush_timeout = variable.value(variables.FLUSH_TIMEOUT, values.flush_timeout)
    settings = Settings(
        endpoints=tuple([default, *endpoints] if default else endpoints),
        outbox=variable.value(variables.OUTBOX, values.outbox) or block.outbox,
        flush_timeout=block.flush_timeout if flush_timeout is None else flush_timeout,
        hooks=tuple(block.hooks),
        hook_timeout=block.hook_timeout,
        log=cast("Log | None", variable.log()),
        log_level=variable.log_level(),
        environment=file.environment or variable.value(variables.ENVIRONMENT, values.text),
        sources=_sources(variable, file, config_file, is_on=variable.is_on()),
        trace_url=block.trace_url or None,
        run_url=run_url(environ),
        database_label=block.database_label,
    )
    faults = [*file.faults, *variable.faults]
    if not file.names and not variable.given(variables.URL) and variable.given(variables.SECRET):
        faults.append(_UNUSED_SECRET)
    if faults:
        raise ConfigError(tuple(dict.fromkeys(faults)))
    return settings


def run_url(environ: Mapping[str, str]) -> str | None:
    """The address of the CI run: OpenTelemetry's attribute, else GitHub's or GitLab's variables."""
    attributes = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    named = dict(part.partition("=")[::2] for part in attributes)
    found = unquote(named.get("cicd.pipeline.run.url.full", "").strip())
    if not found and environ.get("GITHUB_RUN_ID") and environ.get("GITHUB_REPOSITORY"):
        server = environ.get("GITHUB_SERVER_URL") or "https://github.com"
        run = environ["GITHUB_RUN_ID"]
        found = f"{server}/{environ['GITHUB_REPOSITORY']}/actions/runs/{run}"
    found = found or environ.get("CI_JOB_URL") or environ.get("CI_PIPELINE_URL") or ""
    found = found or environ.get("BUILD_URL") or ""
    is_plain = _PLAIN_URL.fullmatch(found) is not None
    return found if is_plain else None


def log_form(environ: Mapping[str, str]) -> tuple[Log | None, str | None]:
    """How lines are logged, and from which level, when the other settings are wrong.

    A variable that is wrong itself counts as not set.
    """
    from .reader import EnvironmentReader  # noqa: PLC0415

    reader = EnvironmentReader(environ)
    return cast("Log | None", reader.log()), reader.log_level()


_UNUSED_SECRET = Fault(
    variables.SECRET,
    "is set, but no endpoint uses it",
    f"Set {variables.URL} too, or write a `webhooks:` block with endpoints",
)


def _sources(
    variable: EnvironmentReader, file: FileReader, config_file: Path | None, *, is_on: bool
) -> tuple[str, ...]:
    """Where settings came from; the switch is named only when it is off."""
    names = variable.given(*(name for name in variables.ALL if name != variables.SWITCH))
    sources = [f"environment: {', '.join(names)}"] if names else []
    if file.has_block:
        sources.append(f"the webhooks: block of {config_file}")
    if not is_on:
        sources.append(f"{variables.SWITCH} is off: nothing is sent")
    return tuple(sources)


def redacted(settings: Settings) -> dict[str, Any]:
    """*settings* as ``confiture webhooks check --format json`` prints them: fit for any log."""
    return {
        "endpoints": [_redacted_endpoint(endpoint) for endpoint in settings.endpoints],
        "outbox": redacted_outbox(settings.outbox),
        "flush_timeout_s": settings.flush_timeout.total_seconds(),
        "hooks": list(settings.hooks),
        "hook_timeout_s": settings.hook_timeout.total_seconds(),
        "environment": settings.environment,
        "sources": list(settings.sources),
    }


def _redacted_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "url": redacted_url(endpoint.url),
        "events": sorted(event.value for event in endpoint.events),
        "environments": (None if endpoint.environments is None else sorted(endpoint.environments)),
        "migrations": list(endpoint.migrations) or None,
        "format": endpoint.format,
        "headers": sorted(endpoint.headers),
        "secrets": len(endpoint.secrets),
        "send_secret": endpoint.send_secret,
        "include_sql": endpoint.include_sql,
        "timeout_s": endpoint.timeout.total_seconds(),
        "retry": {
            "schedule_s": [wait.total_seconds() for wait in endpoint.retry.schedule],
            "jitter": endpoint.retry.jitter,
        },
    }


def redacted_url(url: str) -> str:
    """``scheme://host[:port]/…`` of *url*: no user, password, path or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def redacted_outbox(outbox: str) -> str:
    """*outbox*, its DSN cut down to host and database; to nothing when in doubt."""
    kind, _, rest = outbox.partition(":")
    if kind != "postgres" or not rest:
        return outbox
    _, is_url, tail = rest.partition("://")
    user, _, address = tail.rpartition("@")
    # A password with a bare "@", "/" or "?" would end up on the wrong side of these cuts.
    if not is_url or set(user) & set("@/?"):
        return f"{kind}:…"
    authority, _, path = address.partition("?")[0].partition("/")
    if not _HOSTS.fullmatch(authority) or not _DATABASE.fullmatch(path):
        return f"{kind}:…"
    return f"{kind}:postgresql://{authority}/{path}"
