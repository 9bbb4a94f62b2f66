"""Settings from the environment and the ``webhooks:`` block, read and checked, every fault at once.

Importing this costs nothing but the standard library: YAML comes with ``read``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from ..endpoint import Endpoint, Tls
from ..errors import ConfigError, Fault
from ..networks import origin

Log = Literal["json", "console", "off"]

_HOSTS = re.compile(r"[\w.,:-]*|\[[0-9a-fA-F:]+\](:\d+)?")
_DATABASE = re.compile(r"[\w.-]*")


@dataclass(frozen=True, slots=True)
class OutboxPlace:
    """The setting ``outbox`` in its two parts."""

    kind: str
    """``sqlite``, ``postgres`` or ``memory``."""
    rest: str = field(repr=False)
    """The path or the DSN; empty: the project's own file, the migrated database."""

    @property
    def shown(self) -> str:
        """The setting, its DSN cut down to host and database; to nothing when in doubt."""
        if self.kind != "postgres" or not self.rest:
            return f"{self.kind}:{self.rest}".removesuffix(":")
        _, is_url, tail = self.rest.partition("://")
        user, _, address = tail.rpartition("@")
        authority, _, path = address.partition("?")[0].partition("/")
        # A password with a bare "@", "/" or "?" would end up on the wrong side of these cuts.
        is_doubtful = not is_url or set(user) & set("@/?")
        if is_doubtful or not (_HOSTS.fullmatch(authority) and _DATABASE.fullmatch(path)):
            return f"{self.kind}:…"
        return f"{self.kind}:postgresql://{authority}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration. Its ``repr`` shows no secret, address or DSN."""

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
    """Whether metrics of runs and of the outbox, and log events, name the database."""
    outbox_fault: Fault | None = None
    """Why ``outbox`` is memory although something else was meant."""
    faulty: tuple[Endpoint, ...] = ()
    """Endpoints with a name and a fault: their events are recorded and wait."""
    faults: tuple[Fault, ...] = ()
    """Everything that is wrong; each costs only what it is about."""
    warnings: tuple[Fault, ...] = ()
    """Probable slips that cost nothing: a variable that nothing reads."""
    advice: tuple[Fault, ...] = ()
    """Possible improvements: a secret that could be guessed."""

    @property
    def place(self) -> OutboxPlace:
        """Where the outbox lies."""
        kind, _, rest = self.outbox.partition(":")
        return OutboxPlace(kind, rest)

    @property
    def is_logged(self) -> bool:
        """Whether an error is a log line; else it is said in words."""
        return self.log != "off" and self.log_level != "critical"

    @property
    def recorded(self) -> tuple[Endpoint, ...]:
        """The endpoints whose events are recorded: the faulty ones', too."""
        return self.endpoints + self.faulty

    def trace_link(self, trace_id: str) -> str | None:
        """The link to a trace, if ``trace_url`` is set."""
        return self.trace_url and self.trace_url.replace("{trace_id}", trace_id)


def read(environ: Mapping[str, str], config_file: Path | None) -> Settings:
    """The settings as far as they are right; what is wrong is in ``faults``. Raises nothing.

    *config_file* is Confiture's; CONFITURE_WEBHOOK_CONFIG comes before it.
    """
    from .reader import gathered  # noqa: PLC0415

    found = gathered(environ, config_file)
    return Settings(**{one.name: found[one.name] for one in fields(Settings) if one.name in found})


def load(environ: Mapping[str, str], config_file: Path | None) -> Settings:
    """The settings. Raises ConfigError with every fault there is, not only the first."""
    settings = read(environ, config_file)
    if settings.faults:
        raise ConfigError(settings.faults)
    return settings


def redacted(settings: Settings) -> dict[str, Any]:
    """*settings* as ``confiture webhooks check --format json`` prints them: fit for any log."""
    return {
        "endpoints": list(map(_redacted_endpoint, settings.endpoints)),
        "outbox": settings.place.shown,
        "flush_timeout_s": settings.flush_timeout.total_seconds(),
        "hooks": list(settings.hooks),
        "hook_timeout_s": settings.hook_timeout.total_seconds(),
        "environment": settings.environment,
        "sources": list(settings.sources),
    }


def _redacted_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """Its settings; those in *seldom* are shown when they are set to something."""
    plain = Endpoint(name="", url="")
    seldom = {
        "signatures": endpoint.signatures != plain.signatures and list(endpoint.signatures),
        "concurrency": endpoint.concurrency != plain.concurrency and endpoint.concurrency,
        "rate": endpoint.rate and f"1 request in {endpoint.rate.total_seconds():g} s",
        "tls": [one.name for one in fields(Tls) if getattr(endpoint.tls, one.name)],
        "allow_networks": list(endpoint.networks.allowed),
        "deny_networks": list(endpoint.networks.denied),
    }
    return {
        "name": endpoint.name,
        "url": f"{origin(endpoint.url)}/…",
        "events": sorted(event.value for event in endpoint.events),
        "environments": None if endpoint.environments is None else sorted(endpoint.environments),
        "migrations": list(endpoint.migrations) or None,
        "format": endpoint.format,
        "headers": sorted(endpoint.headers),
        "secrets": len(endpoint.secrets),
        "send_secret": endpoint.send_secret,
        "include_sql": endpoint.include_sql,
        **{key: value for key, value in seldom.items() if value},
        "timeout_s": endpoint.timeout.total_seconds(),
        "retry": {
            "schedule_s": [wait.total_seconds() for wait in endpoint.retry.schedule],
            "jitter": endpoint.retry.jitter,
        },
    }
