"""Where events are sent: an ``Endpoint``, its subscription, and why an event is not for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from .errors import Fault
from .event import DEFAULT_SUBSCRIPTION, Event, EventType
from .networks import Networks
from .retry import RetryPolicy

DEFAULT_FORMAT = "confiture"
DEFAULT_TIMEOUT = timedelta(seconds=10)
SILENT_ERROR = "only of a run that failed without a migration's event to report it"
SIGNATURES = ("standard", "confiture")
"""``webhook-signature`` over id, time and body; ``X-Confiture-Signature`` over the body alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files for TLS, by path. They are read at each new connection: they may be renewed."""

    client_certificate: str | None = None
    """PEM, with its chain; the key may be in it."""
    client_key: str | None = None
    ca_bundle: str | None = None
    """PEM; takes the place of the system's authorities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A receiver's address, secrets and subscription. Its ``repr`` shows none of them."""

    name: str
    """The only name of this endpoint in telemetry, logs and the outbox."""
    url: str = field(repr=False)
    """Without user and password: those are in ``basic_auth``."""
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Current first; more than one during a rotation."""
    send_secret: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    events: frozenset[EventType] = DEFAULT_SUBSCRIPTION
    environments: frozenset[str] | None = None
    """``None``: all of them."""
    migrations: tuple[str, ...] = ()
    """Patterns of ``<version>_<name>``, where case matters; none: every migration."""
    routing_key: str | None = field(default=None, repr=False)
    """PagerDuty's, for the format of that name: put into a body when it is sent."""
    format: str = DEFAULT_FORMAT
    include_sql: bool = False
    timeout: timedelta = DEFAULT_TIMEOUT
    """For the whole attempt, from name resolution to the end of the answer."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    concurrency: int = 4
    """How many runs' deliveries are sent at once; those of one run keep their order."""
    rate: timedelta | None = None
    """The least time between the beginnings of two requests; ``None``: no limit."""
    tls: Tls = field(default_factory=Tls)
    networks: Networks = field(default_factory=Networks)
    """Which addresses may be dialled."""
    signatures: tuple[str, ...] = SIGNATURES
    """Which signatures are sent when there is a secret."""
    faults: tuple[Fault, ...] = ()
    """Its faults: its events are recorded and wait, and nothing is sent."""

    def wants(self, event: Event) -> bool:
        """Whether *event* is sent here. A ping always is."""
        if event.type is EventType.PING:
            return True
        names = [str(row["name"]) for row in event.migrations or ()]
        if event.migration is not None:
            names = [event.migration.name]
        return self.refusal(event.type, event.environment, names) is None

    def for_silent_run(self) -> Endpoint:
        """As it is for a run whose failure no migration's event reports.

        With the default events it is sent ``run_error``, too.
        """
        if not self.events >= DEFAULT_SUBSCRIPTION:
            return self
        return replace(self, events=self.events | {EventType.RUN_ERROR})

    def is_for(self, environment: str | None) -> bool:
        """Whether it gets events of *environment*."""
        return self.environments is None or environment in self.environments

    def refusal(self, kind: EventType, environment: str | None, names: Sequence[str]) -> str | None:
        """Why an event of *kind* is not sent here, ``None`` when it is.

        *names* are the migrations it is about: one, or all of a run's, any of which will do.
        """
        if kind not in self.events:
            return f"its `events` do not include {kind.value}"
        if not self.is_for(environment):
            return f"its `environments` do not include {environment or 'an unnamed one'}"
        fits = any(fnmatchcase(name, one) for name in names for one in self.migrations)
        if self.migrations and not fits:
            return f"none of its `migrations` fits {', '.join(names) or 'a run without migrations'}"
        return None


def explain(
    endpoints: Sequence[Endpoint], kind: EventType, environment: str | None, migration: str | None
) -> list[dict[str, Any]]:
    """Whether an event of *kind* is sent to each endpoint, and why, as ``--format json`` has it.

    ``sent`` is ``None`` where that depends on the migration, and *migration* names none, or on
    the run: a ``run_error`` stands in for the event of a migration.
    """
    verdicts = []
    for endpoint in endpoints:
        depends = []
        asked = endpoint
        if migration is None and endpoint.migrations:
            asked = replace(asked, migrations=())
            depends.append(f"only of migrations like {', '.join(endpoint.migrations)}")
        if kind is EventType.RUN_ERROR and kind not in endpoint.events:
            asked = asked.for_silent_run()
            depends += [SILENT_ERROR] if kind in asked.events else []
        refusal = asked.refusal(kind, environment, [migration] if migration is not None else [])
        is_sent = None if depends and refusal is None else refusal is None
        reason = refusal or " and ".join(depends) or f"its `events` include {kind.value}"
        verdicts.append({"endpoint": endpoint.name, "sent": is_sent, "reason": reason})
    return verdicts
