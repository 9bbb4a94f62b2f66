"""What the receivers of this folder do with an event: yours does something of use."""

from __future__ import annotations

from confiture_webhooks.receiver import Verified


def handle(event: Verified) -> None:
    """Called once for each authentic event; what it raises makes the sender try again."""
    migration = event.migration.name if event.migration else "-"
    print(f"{event.type} {migration} {event.environment or '-'}", flush=True)
