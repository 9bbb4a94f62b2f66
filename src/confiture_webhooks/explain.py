"""Which endpoints would be told of an event, and why the others would not: a pure question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .endpoint import Endpoint
from .event import EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one endpoint would be told; ``None``: that depends on the migration."""

    endpoint: str
    is_told: bool | None
    reason: str

    def as_dict(self) -> dict[str, object]:
        """The verdict as ``--format json`` prints it."""
        return {"endpoint": self.endpoint, "told": self.is_told, "reason": self.reason}


def explain(
    endpoints: Sequence[Endpoint], kind: EventType, environment: str | None, migration: str | None
) -> list[Verdict]:
    """A verdict for each endpoint on an event of *kind* about *migration*, if one is named."""
    return [_verdict(endpoint, kind, environment, migration) for endpoint in endpoints]


def _verdict(
    endpoint: Endpoint, kind: EventType, environment: str | None, migration: str | None
) -> Verdict:
    is_open = migration is None and bool(endpoint.migrations)
    asked = replace(endpoint, migrations=()) if is_open else endpoint
    refusal = asked.refusal(kind, environment, [migration] if migration is not None else [])
    if refusal is not None:
        return Verdict(endpoint=endpoint.name, is_told=False, reason=refusal)
    if is_open:
        only = f"only of migrations like {', '.join(endpoint.migrations)}"
        return Verdict(endpoint=endpoint.name, is_told=None, reason=only)
    return Verdict(endpoint=endpoint.name, is_told=True, reason="it asks for this")
