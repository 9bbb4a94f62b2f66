"""The environment variables that are read, by name.

What stands below one is its row in the documentation: what it takes, the default, what it means.
"""

from __future__ import annotations

URL = "CONFITURE_WEBHOOK_URL"
"""URL (none): makes an endpoint named `default`, before those of the block"""
SECRET = "CONFITURE_WEBHOOK_SECRET"  # noqa: S105  a variable's name
"""text (none): its secret"""
ALLOW_HTTP = "CONFITURE_WEBHOOK_ALLOW_HTTP"
"""true or false (`false`): its `allow_http`"""
OUTBOX = "CONFITURE_WEBHOOK_OUTBOX"
"""text (`sqlite`): `outbox`; wins over the block"""
FLUSH_TIMEOUT = "CONFITURE_WEBHOOK_FLUSH_TIMEOUT"
"""seconds, 0 to 3600 (`10`): `flush_timeout`; wins over the block"""
LOG = "CONFITURE_WEBHOOK_LOG"
"""`json`, `console` or `off` (json, console on a terminal): how log lines are written to standard
error
"""
LOG_LEVEL = "CONFITURE_WEBHOOK_LOG_LEVEL"
"""`debug`, `info`, `warning`, `error` or `critical` (info; in the console form warning): the least
that is logged
"""
MIGRATION_SPANS = "CONFITURE_WEBHOOK_MIGRATION_SPANS"
ENVIRONMENT = "CONFITURE_ENVIRONMENT"
"""text (none): the environment's name when no file is read"""
SWITCH = "CONFITURE_WEBHOOKS"
"""true or false (`on`): `off` (or `false`, `no`, `0`): nothing is sent, whatever else is set.
`check` still checks
"""

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
