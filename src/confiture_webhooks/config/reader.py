"""Reads the two places settings come from; a fault costs only the setting or endpoint it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .. import command_watch
from ..endpoint import Endpoint, Tls
from ..errors import Fault
from ..event import EventType
from ..networks import Networks
from ..outlook import shown_environment
from ..retry import RetryPolicy
from ..signature import signing_key
from . import rules, variables
from .block import AT, ENDPOINT, TLS, VARIABLES, WEBHOOKS, Place, Reading, Table
from .file import BLOCK, File
from .rules import Invalid, Unset

DEFAULT_NAME = "default"
"""The name of the endpoint that ``CONFITURE_WEBHOOK_URL`` makes."""
SAFE_SECRET = 24
"""Bytes of a signing key, at least; the standard's own secrets have 24 to 64."""
_NEAR = 0.9
"""How like a known variable's name another program's would not be."""
_VARIABLE_OF = {
    "url": variables.URL,
    "secret": variables.SECRET,
    "format": variables.FORMAT,
    "events": variables.EVENTS,
    "headers": variables.HEADERS,
    "allow_http": variables.ALLOW_HTTP,
    "outbox": variables.OUTBOX,
    "flush_timeout": variables.FLUSH_TIMEOUT,
    "log": variables.LOG,
    "log_level": variables.LOG_LEVEL,
    "switch": variables.SWITCH,
    "environment": variables.ENVIRONMENT,
}
_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _variable(at: Place) -> str:
    """The variable that the setting at *at* comes from."""
    if at[:2] == ("secret", 1):
        return variables.SECRET_PREVIOUS
    return _VARIABLE_OF[str(at[0])]


def _given(environ: Mapping[str, str], table: Table) -> dict[str, Any]:
    """What variables hold of the settings in *table*; one that is set to nothing holds none."""
    return {
        key: environ[name]
        for key, name in _VARIABLE_OF.items()
        if key in table and environ.get(name)
    }


def _default_endpoint(environ: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    """The settings of the endpoint that variables alone make."""
    raw = {"name": DEFAULT_NAME, **_given(environ, ENDPOINT)}
    current, previous = environ.get(variables.SECRET), environ.get(variables.SECRET_PREVIOUS)
    if current is not None:
        raw["secret"] = [current, previous] if current and previous else current
    if "events" in raw:
        raw["events"] = [name.strip() for name in raw["events"].split(",") if name.strip()]
    if "headers" in raw:
        headers = reading.value(_headers, raw["headers"], ("headers",), "")
        raw["headers"] = headers if isinstance(headers, dict) else {}
    found = reading.table(ENDPOINT, raw)
    if previous and not current:
        invalid = Invalid("needs a current secret", f"Set {variables.SECRET}")
        reading.fault(("secret", 1), invalid)
    return found


def _slips(environ: Mapping[str, str], texts: Sequence[str], *, is_used: bool) -> list[Fault]:
    """Variables that are set and that nothing reads, not even the *texts* of the block."""
    known = (*variables.ALL, variables.MIGRATION_SPANS)
    found = []
    for name in sorted(environ.keys() - known):
        near = get_close_matches(name, known, 1, _NEAR) if name.startswith("CONF") else []
        is_ours = near or name.startswith(command_watch.PREFIX)
        if is_ours and not any(f"${{{name}}}" in text for text in texts):
            near = near or get_close_matches(name, known, 1)
            remedy = f"Did you mean {near[0]}?" if near else "Remove it"
            found.append(Fault(name, "is a variable that nothing reads", remedy))
    if not environ.get(variables.URL):
        found += [
            Fault(name, "is set, but no endpoint uses it", f"Set {variables.URL} too")
            for name in variables.OF_DEFAULT
            if environ.get(name) and (is_used or name != variables.SECRET)
        ]
    return found


def _headers(given: str) -> dict[str, str]:
    """``name=value`` with commas, percent-decoded: the form of OTEL_EXPORTER_OTLP_HEADERS."""
    found: dict[str, str] = {}
    for part in filter(str.strip, rules.text(given).split(",")):
        name, equals, value = part.partition("=")
        name = unquote(name.strip())
        if not equals:
            raise Invalid("has a part without `=`", "Write `name=value`, with commas between")
        if name in found:
            raise Invalid("has a header twice", "Keep one of them")
        found[name] = unquote(value.strip())
    return found


def setting(at: Place) -> str:
    """The place *at* of the block as the user would write it: ``webhooks.endpoints[0].url``."""
    shown = BLOCK
    for step in at:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += f".{step if _SHOWABLE.fullmatch(step) else '(unnamed)'}"
    return shown


def _block(file: File, reading: Reading) -> Mapping[str, Any]:
    """The settings of the block; those that are wrong or absent have their defaults."""
    if BLOCK in file.content:
        found = reading.value(WEBHOOKS, file.content[BLOCK], (), "a mapping")
        return found if isinstance(found, dict) else reading.table(WEBHOOKS, {})
    for key, value in file.content.items():
        is_block = isinstance(value, dict) and not value.keys().isdisjoint(WEBHOOKS)
        if is_block and rules.did_you_mean(key, [BLOCK]):
            remedy = f"Did you mean `{BLOCK}`?"
            file.faults.append(Fault(str(key), "is a key that nothing reads", remedy))
    return reading.table(WEBHOOKS, {})


def endpoint(
    reading: Reading, found: Mapping[str, Any], file: Mapping[str, Any], allow_http_as: str
) -> Endpoint | None:
    """The endpoint of the settings *found*, its faults in it; ``None``: it has no good name.

    *file* has what holds for all endpoints; *allow_http_as* is how plain http is allowed here.
    """
    at: Place = found[AT]
    for keys, problem, remedy in _contradictions(found, allow_http_as):
        if not any(reading.faults_in((*at, key)) for key in keys):
            reading.fault((*at, keys[0]), Invalid(problem, remedy))
    if found["name"] is None:
        return None
    if at:
        reading.names[at] = found["name"]
    url, retry = found["url"], found["retry"]
    return Endpoint(
        url=url.url if url else "",
        basic_auth=url.basic_auth if url else None,
        secrets=found["secret"],
        events=frozenset(map(EventType, found["events"])),
        environments=frozenset(found["environments"]) or None,
        retry=RetryPolicy(schedule=tuple(retry["schedule"]), jitter=retry["jitter"]),
        tls=Tls(**{key: found["tls"][key] for key in TLS}),
        networks=Networks(
            allowed=found["allow_networks"] or file["allow_networks"],
            denied=found["deny_networks"] or file["deny_networks"],
        ),
        faults=reading.faults_in(at),
        **{key: found[key] for key in _AS_THEY_ARE},
    )


_AS_THEY_ARE = (
    *("name", "send_secret", "headers", "signatures", "migrations", "routing_key", "format"),
    *("timeout", "concurrency", "rate", "include_sql"),
)


def _contradictions(
    found: Mapping[str, Any], allow_http_as: str
) -> Iterator[tuple[Sequence[str], str, str]]:
    """What is wrong with settings that are right each by itself: the one to change comes first."""
    url, secrets = found["url"], found["secret"]
    is_https = url is None or url.is_https
    if not (is_https or url.is_loopback or found["allow_http"]):
        remedy = f"Use https, or allow it: `{allow_http_as}`"
        yield ("url", "allow_http"), "is plain http to another machine", remedy
    if found["send_secret"] and not is_https:
        yield ("send_secret",), "needs https", "Use https, or remove `send_secret`"
    elif found["send_secret"] and not secrets:
        yield ("send_secret", "secret"), "needs a secret", "Set `secret`, or remove `send_secret`"
    elif found["send_secret"] and not rules.is_latin(secrets[0]):
        remedy = "Use a secret of printable Latin-1 characters, or remove `send_secret`"
        yield ("send_secret", "secret"), "needs a secret that a header can carry", remedy
    if found["format"] == "pagerduty" and not found["routing_key"]:
        remedy = "Set `routing_key` to the integration key"
        yield ("format", "routing_key"), "needs a `routing_key`", remedy
    if found["format"] != "pagerduty" and found["routing_key"]:
        remedy = "Remove it, or set that format"
        yield ("routing_key", "format"), "is only for `format: pagerduty`", remedy
    if url and url.basic_auth and "authorization" in map(str.lower, found["headers"]):
        problem = "has `Authorization`, and the URL has a user or password"
        yield ("headers",), problem, "Keep one of the two"
    files = {key for key in TLS if found["tls"][key]}
    if files and not is_https:
        yield ("tls",), "needs https", "Use https, or remove `tls`"
    if "client_key" in files and "client_certificate" not in files:
        yield ("tls",), "has a key without a certificate", "Set `client_certificate`"


def _astray(endpoints: Sequence[Endpoint], environment: str | None) -> list[Fault]:
    """Advice about endpoints that are not for *environment*, if a misspelt name may be why.

    It is not if each of theirs has a file, unless no endpoint at all is for *environment*.
    """
    strays = [one for one in endpoints if not (one.is_for(environment) or one.faults)]
    if not strays:
        return []
    names = {path.stem for path in Path(command_watch.ENVIRONMENTS).glob("*.yaml")}
    names |= {environment} if environment else set()
    is_served = any(one.is_for(environment) for one in endpoints)
    here = shown_environment(environment)
    return [
        Fault(
            one.name,
            f"is sent nothing in environment {here}: its environments are {', '.join(only)}",
            "".join(rules.did_you_mean(one, names) for one in only if one not in names).strip()
            or f"Add {here} if it should be",
        )
        for one in strays
        if (only := sorted(one.environments or ())) and not (is_served and names.issuperset(only))
    ]


Row = tuple[Reading, Mapping[str, Any], str]
"""Who read an endpoint's settings, they themselves, and how plain http is allowed there."""


def _endpoints(
    rows: Sequence[Row], block: Mapping[str, Any], environment: str | None
) -> tuple[list[Endpoint], list[Fault], dict[Fault, Fault]]:
    """The endpoints of *rows* that have a name of their own, good and bad, and advice about them.

    The third: faults that cost nothing here, variables of other environments, each as advice.
    """
    first: dict[str, str] = {}
    endpoints: list[Endpoint] = []
    advice: list[Fault] = []
    elsewhere: dict[Fault, Fault] = {}
    for reading, row, allow_http_as in rows:
        made, at = endpoint(reading, row, block, allow_http_as), row[AT]
        if made is None:
            continue
        if made.name in first:
            problem = f"is the name of {first[made.name]} already"
            invalid = Invalid(problem, "Give each endpoint a name of its own")
            reading.fault((*at, "name"), invalid)
            continue
        first[made.name] = setting(at) if at else f"the endpoint that {variables.URL} makes"
        endpoints.append(made)
        if any(len(signing_key(secret)) < SAFE_SECRET for secret in made.secrets):
            shown = reading.shown((*at, "secret"))
            problem = f"is shorter than {SAFE_SECRET} bytes, so it could be guessed"
            remedy = "Use a long random one: `openssl rand -base64 32`"
            advice.append(Fault(shown, problem, remedy, reading.names.get(at)))
        if not (made.is_for(environment) or reading.faults_in((*at, "environments"))):
            only = ", ".join(sorted(made.environments or ()))
            for fault in reading.faults_in(at, Unset):
                problem = f"{fault.problem}; the endpoint is only for {only}"
                remedy = f"{fault.remedy} there"
                elsewhere[fault] = replace(fault, problem=problem, remedy=remedy)
    return endpoints, advice, elsewhere


def gathered(environ: Mapping[str, str], config_file: Path | None) -> dict[str, Any]:
    """The fields of ``Settings``, with every fault there is.

    ``CONFITURE_WEBHOOKS=off`` does not empty them: what is switched off can still be checked.
    """
    file = File(config_file, environ)
    reading, variable = Reading(setting, environ), Reading(_variable)
    block = _block(file, reading)
    environment = file.environment
    rows: list[Row] = [(reading, row, "allow_http: true") for row in block["endpoints"]]
    if environ.get(variables.URL):
        row = _default_endpoint(environ, variable)
        rows.insert(0, (variable, row, f"{variables.ALLOW_HTTP}=true"))
    endpoints, advice, elsewhere = _endpoints(rows, block, environment)
    given = _given(environ, VARIABLES)
    if environment:
        given.pop("environment", None)
    own = variable.table(VARIABLES, given)
    environment = environment or own["environment"]
    chosen = {**block, **{key: value for key, value in own.items() if value is not None}}
    faults = [*file.faults, *reading.faults_in(), *variable.faults_in()]
    faults = [fault for fault in faults if fault not in elsewhere]
    if environ.get(variables.SECRET) and not rows:
        remedy = f"Set {variables.URL} too, or write a `webhooks:` block with endpoints"
        faults.append(Fault(variables.SECRET, "is set, but no endpoint uses it", remedy))
    outbox_reading = variable if environ.get(variables.OUTBOX) else reading
    outbox_fault = next(iter(outbox_reading.faults_in(("outbox",))), None)
    is_used = bool(block["endpoints"])
    return {
        **{key: chosen.get(key) for key in _CHOSEN},
        "endpoints": tuple(one for one in endpoints if not one.faults),
        "faulty": tuple(one for one in endpoints if one.faults),
        "outbox": "memory" if outbox_fault else chosen["outbox"],
        "environment": environment,
        "sources": _sources(environ, file, is_on=own["switch"]),
        "run_url": run_url(environ),
        "outbox_fault": outbox_fault,
        "faults": tuple(dict.fromkeys(faults)),
        "warnings": tuple(_slips(environ, reading.texts, is_used=is_used)),
        "advice": (*advice, *_astray(endpoints, environment), *elsewhere.values()),
    }


_CHOSEN = (
    *("flush_timeout", "hooks", "hook_timeout", "trace_url", "database_label", "log", "log_level"),
)


def _sources(environ: Mapping[str, str], file: File, *, is_on: bool) -> tuple[str, ...]:
    """Where settings came from; the switch is named only when it is off."""
    names = [name for name in variables.ALL if name != variables.SWITCH and environ.get(name)]
    sources = [f"environment: {', '.join(names)}"] if names else []
    if BLOCK in file.content:
        sources.append(f"the webhooks: block of {file.path}")
    if not is_on:
        sources.append(f"{variables.SWITCH} is off: nothing is sent")
    return tuple(sources)


def run_url(environ: Mapping[str, str]) -> str | None:
    """The address of the CI run: OpenTelemetry's attribute, else the CI's own variables."""
    key = "cicd.pipeline.run.url.full"
    candidates = (
        variables.resource_attributes(environ).get(key),
        environ.get("CI_JOB_URL"),
        variables.ci_run(environ).get(key),
    )
    found = next(filter(None, candidates), "")
    return found if variables.PLAIN_URL.fullmatch(found) else None
