"""The environment variables that are read, by name."""

from __future__ import annotations

URL = "CONFITURE_WEBHOOK_URL"
SECRET = "CONFITURE_WEBHOOK_SECRET"  # noqa: S105  a variable's name
ALLOW_HTTP = "CONFITURE_WEBHOOK_ALLOW_HTTP"
OUTBOX = "CONFITURE_WEBHOOK_OUTBOX"
FLUSH_TIMEOUT = "CONFITURE_WEBHOOK_FLUSH_TIMEOUT"
LOG = "CONFITURE_WEBHOOK_LOG"
LOG_LEVEL = "CONFITURE_WEBHOOK_LOG_LEVEL"
MIGRATION_SPANS = "CONFITURE_WEBHOOK_MIGRATION_SPANS"
ENVIRONMENT = "CONFITURE_ENVIRONMENT"
SWITCH = "CONFITURE_WEBHOOKS"

ALL = (
    URL,
    SECRET,
    ALLOW_HTTP,
    OUTBOX,
    FLUSH_TIMEOUT,
    LOG,
    LOG_LEVEL,
    ENVIRONMENT,
    SWITCH,
)
"""Those that settings come from; ``MIGRATION_SPANS`` is telemetry's own."""

ON_WORDS = frozenset({"true", "yes", "on", "1"})
OFF_WORDS = frozenset({"false", "no", "off", "0"})
