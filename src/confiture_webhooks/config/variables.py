"""The environment variables that are read, by name.

The text below a variable is its row in the documentation: type, default and meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from .. import command_watch

DSN = "CONFITURE_DATABASE_URL"
"""Confiture's own: with it, it reads no environment file."""

URL = "CONFITURE_WEBHOOK_URL"
"""URL (none): an endpoint named `default`, before those of the block"""
SECRET = "CONFITURE_WEBHOOK_SECRET"  # noqa: S105  a variable's name
"""text (none): its secret"""
SECRET_PREVIOUS = "CONFITURE_WEBHOOK_SECRET_PREVIOUS"  # noqa: S105  a variable's name
"""text (none): the secret before, while receivers change to the new one"""
FORMAT = "CONFITURE_WEBHOOK_FORMAT"
"""format (`confiture`): its `format`"""
EVENTS = "CONFITURE_WEBHOOK_EVENTS"
"""events with commas (the four of migrations): its `events`"""
HEADERS = "CONFITURE_WEBHOOK_HEADERS"
"""`name=value` with commas, percent-encoded (none): its `headers`"""
ALLOW_HTTP = "CONFITURE_WEBHOOK_ALLOW_HTTP"
"""true or false (`false`): its `allow_http`"""
CONFIG = "CONFITURE_WEBHOOK_CONFIG"
"""path (none): the file that holds the `webhooks:` block; before any other file"""
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
"""text (none): the environment's name when no file is read. With `CONFITURE_DATABASE_URL` set, the
block comes from `db/environments/<it>.yaml`
"""
SWITCH = command_watch.SWITCH
"""true or false (`on`): `off` (or `false`, `no`, `0`): nothing is sent, whatever else is set.
`check` still checks
"""

OF_DEFAULT = (URL, SECRET, SECRET_PREVIOUS, FORMAT, EVENTS, HEADERS, ALLOW_HTTP)
"""Those that describe the endpoint named ``default``."""
ALL = (*OF_DEFAULT, CONFIG, OUTBOX, FLUSH_TIMEOUT, LOG, LOG_LEVEL, ENVIRONMENT, SWITCH)
"""Those that settings come from; ``MIGRATION_SPANS`` is telemetry's own."""


def outbox_setting(environ: Mapping[str, str]) -> str:
    """What names the outbox: its variable, else the setting of the block."""
    return OUTBOX if environ.get(OUTBOX) else f"{command_watch.BLOCK}.outbox"


ON_WORDS = frozenset({"true", "yes", "on", "1"})

RESOURCE = "OTEL_RESOURCE_ATTRIBUTES"
_RUN_URL = "cicd.pipeline.run.url.full"
# A web address without user and password, of printable characters.
_PLAIN_URL = re.compile(r"https?://[\w.:\[\]-]+(/[\x21-\x7e]*)?")
# By the variable that marks it: those of a pipeline's name, its run, its page, and the commit.
_CI = {
    "GITHUB_ACTIONS": ("GITHUB_WORKFLOW", "GITHUB_RUN_ID", "", "GITHUB_SHA"),
    "GITLAB_CI": ("CI_PIPELINE_NAME", "CI_PIPELINE_ID", "CI_PIPELINE_URL", "CI_COMMIT_SHA"),
    "JENKINS_URL": ("JOB_NAME", "BUILD_NUMBER", "BUILD_URL", "GIT_COMMIT"),
}


def ci_run(environ: Mapping[str, str]) -> dict[str, str]:
    """``cicd.pipeline.*`` and ``vcs.ref.head.revision`` from GitHub, GitLab or Jenkins."""
    mark = next((mark for mark in _CI if environ.get(mark)), None)
    if mark is None:
        return {}
    name, run_id, url, revision = (environ.get(variable, "") for variable in _CI[mark])
    server, repository = environ.get("GITHUB_SERVER_URL"), environ.get("GITHUB_REPOSITORY", "")
    if mark == "GITHUB_ACTIONS" and server and run_id:
        url = f"{server}/{repository}/actions/runs/{run_id}"
    if mark == "GITLAB_CI":
        name = name or environ.get("CI_PROJECT_PATH", "")
    about = {
        "cicd.pipeline.name": name,
        "cicd.pipeline.run.id": run_id,
        _RUN_URL: url if _PLAIN_URL.fullmatch(url) else "",
        "vcs.ref.head.revision": revision,
    }
    return {key: value for key, value in about.items() if value}


def run_url(environ: Mapping[str, str]) -> str | None:
    """The address of the CI run: OpenTelemetry's attribute, else the CI's own variables."""
    pairs = (pair.partition("=") for pair in environ.get(RESOURCE, "").split(","))
    given = {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs}
    found = given.get(_RUN_URL) or environ.get("CI_JOB_URL") or ci_run(environ).get(_RUN_URL, "")
    return found if _PLAIN_URL.fullmatch(found) else None
