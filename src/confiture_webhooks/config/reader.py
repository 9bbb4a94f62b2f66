"""Reads the two places settings come from; a fault costs only the setting or endpoint it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .. import command_watch
from ..endpoint import DEFAULT_FORMAT, Endpoint, Tls
from ..errors import Fault
from ..event import DEFAULT_SUBSCRIPTION, stored_text
from ..formats import format_of
from ..networks import Networks, is_loopback
from ..outlook import shown_environment
from ..signature import signing_key
from . import rules, variables
from .block import DEFAULT_ENDPOINT, ENDPOINT, VARIABLES, WEBHOOKS, Place, Reading, Table, shown
from .file import BLOCK, File
from .rules import Invalid, TooMany, Unset

SAFE_SECRET = 24
"""Bytes of a signing key, at least; the standard's own secrets have 24 to 64."""
_NETWORKS = ("allow_networks", "deny_networks")


def _given(environ: Mapping[str, str], table: Table) -> dict[str, Any]:
    """The settings of *table* that variables hold; an empty variable holds none."""
    return {key: environ[one.variable] for key, one in table.items() if environ.get(one.variable)}


def _default_endpoint(environ: Mapping[str, str], reading: Reading) -> dict[str, Any]:
    at = DEFAULT_ENDPOINT
    raw = {"name": "default", **_given(environ, ENDPOINT)}
    current, previous = environ.get(variables.SECRET), environ.get(variables.SECRET_PREVIOUS)
    if current is not None:
        raw["secret"] = [current, previous] if current and previous else current
    if "events" in raw:
        raw["events"] = [name.strip() for name in raw["events"].split(",") if name.strip()]
    if "headers" in raw:
        raw["headers"] = reading.value(_headers, raw["headers"], (*at, "headers"), "") or {}
    found = reading.table(ENDPOINT, raw, at)
    if previous and not current:
        invalid = Invalid("needs a current secret", f"Set {variables.SECRET}")
        reading.fault((*at, "secret", 1), invalid)
    return found


def _slips(environ: Mapping[str, str], texts: Sequence[str], *, is_used: bool) -> list[Fault]:
    """Variables that are set and that nothing reads, not even the *texts* of the block."""
    known = (*variables.ALL, variables.MIGRATION_SPANS)
    found = []
    for name in sorted(environ.keys() - known):
        # No other program's variable is so like one of these.
        near = get_close_matches(name, known, 1, 0.9) if name.startswith("CONF") else []
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
        if not (equals and value.strip()):
            problem = "has a part that is not `name=value`"
            raise Invalid(problem, "Write `name=value`, with commas between")
        if name in found:
            raise Invalid("has a header twice", "Keep one of them")
        found[name] = unquote(value.strip())
    return found


def _block(file: File, reading: Reading) -> Mapping[str, Any]:
    if BLOCK in file.content:
        given = file.content[BLOCK]
        inside = given if isinstance(given, dict) else {}
        for key in sorted(WEBHOOKS.keys() & file.content.keys() - inside.keys()):
            problem = f"stands beside `{BLOCK}`, where nothing reads it"
            reading.fault((BLOCK, key), Invalid(problem, f"Indent it under `{BLOCK}`"))
        return reading.value(WEBHOOKS, given, (BLOCK,), "a mapping") or {}
    for key, value in file.content.items():
        is_block = isinstance(value, dict) and not value.keys().isdisjoint(WEBHOOKS)
        if is_block and (meant := rules.did_you_mean(key, [BLOCK])):
            problem = f"is a key of {file.path} that nothing reads"
            file.faults.append(Fault(str(key), problem, meant.strip()))
    return {}


def endpoint(
    reading: Reading,
    at: Place,
    found: Mapping[str, Any],
    block: Mapping[str, Any],
    misspelt: Sequence[Place],
) -> Endpoint | None:
    """The endpoint of the settings *found* at a place; ``None``: it has no good name.

    A setting that is wrong or not there has its default; a filter, also if one item is wrong.
    A wrong list of the file's networks is a fault of each endpoint that it would protect, also one
    that is *misspelt*; so is a block that was not read to its end.
    """
    url, basic_auth = found.get("url", ("", None))
    events = DEFAULT_SUBSCRIPTION | found.get("events", frozenset())
    wide = {"events": events, "environments": None, "migrations": ()}
    allowed, denied = (found.get(key) or block.get(key, ()) for key in _NETWORKS)
    made = Endpoint(
        **{
            "name": "",
            **{one.name: found[one.name] for one in fields(Endpoint) if one.name in found},
            **{key: value for key, value in wide.items() if reading.faults_in((*at, key))},
            "url": url,
            "basic_auth": basic_auth,
            "secrets": found.get("secret", ()),
            "networks": Networks(allowed=allowed, denied=denied),
        }
    )
    if made.name and at != DEFAULT_ENDPOINT:
        reading.names[at] = made.name
    for keys, problem, remedy in _contradictions(made, found, at):
        if not any(reading.faults_in((*at, key)) for key in keys):
            reading.fault((*at, keys[0]), Invalid(problem, remedy))
    shared: list[Place] = [(BLOCK, key) for key in _NETWORKS if key not in found]
    shared += misspelt if shared else ()
    faults = [reading.faults_in((BLOCK,), TooMany), *map(reading.faults_in, (at, *shared))]
    return replace(made, faults=tuple(chain(*faults))) if made.name else None


def _contradictions(
    made: Endpoint, found: Mapping[str, Any], at: Place
) -> Iterator[tuple[Sequence[str], str, str]]:
    """The faults of settings that are right each by itself: the one to change comes first."""
    is_http = made.url.startswith("http:")
    is_default = at == DEFAULT_ENDPOINT
    if is_http and not (found.get("allow_http") or is_loopback(urlsplit(made.url).hostname or "")):
        way = f"{variables.ALLOW_HTTP}=true" if is_default else "allow_http: true"
        remedy = f"Use https, or allow it: `{way}`"
        yield ("url", "allow_http"), "is plain http to another machine", remedy
    if made.send_secret and is_http:
        yield ("send_secret",), "needs https", "Use https, or remove `send_secret`"
    elif made.send_secret and not made.secrets:
        yield ("send_secret", "secret"), "needs a secret", "Set `secret`, or remove `send_secret`"
    elif made.send_secret and not rules.is_latin(made.secrets[0]):
        remedy = "Use a secret of printable Latin-1 characters, or remove `send_secret`"
        yield ("send_secret", "secret"), "needs a secret that a header can carry", remedy
    if made.format == "pagerduty" and not made.routing_key:
        in_block = "No variable holds one: write the endpoint into a `webhooks:` block"
        remedy = in_block if is_default else "Set `routing_key` to the integration key"
        yield ("format", "routing_key"), "needs a `routing_key`", remedy
    if made.format != "pagerduty" and made.routing_key:
        remedy = "Remove it, or set that format"
        yield ("routing_key", "format"), "is only for `format: pagerduty`", remedy
    if made.basic_auth and "authorization" in map(str.lower, made.headers):
        problem = "has `Authorization`, and the URL has a user or password"
        yield ("headers",), problem, "Keep one of the two"
    if made.tls != Tls() and is_http:
        yield ("tls",), "needs https", "Use https, or remove `tls`"
    if made.tls.client_key and not made.tls.client_certificate:
        yield ("tls",), "has a key without a certificate", "Set `client_certificate`"


def _astray(endpoints: Sequence[Endpoint], environment: str | None) -> list[Fault]:
    """Advice about endpoints that are not for *environment*, where a misspelt name may be why.

    It is not where each of their environments has a file, and another endpoint is for this one.
    """
    strays = [one for one in endpoints if not (one.faults or one.is_for(environment))]
    if not strays:
        return []
    files = {path.stem for path in Path(command_watch.ENVIRONMENTS).glob("*.yaml")}
    names = files | ({environment} if environment else set())
    is_served = any(one.is_for(environment) for one in endpoints)
    here = shown_environment(environment)
    advice = []
    for one in strays:
        only = sorted(one.environments or ())
        if is_served and names.issuperset(only):
            continue
        problem = f"is sent nothing in environment {here}: its environments are {', '.join(only)}"
        meant = "".join(rules.did_you_mean(word, names) for word in only if word not in names)
        advice.append(Fault(one.name, problem, meant.strip() or f"Add {here} if it should be"))
    return advice


def _endpoints(
    reading: Reading,
    rows: Mapping[Place, Mapping[str, Any]],
    block: Mapping[str, Any],
    environment: str | None,
) -> tuple[list[Endpoint], list[Fault], dict[Fault, Fault]]:
    """The endpoints of *rows* that have a name of their own, good and bad, and advice about them.

    The third: faults that cost nothing here, variables of other environments, each as advice.
    """
    places: dict[str, Place] = {}
    endpoints: list[Endpoint] = []
    advice: list[Fault] = []
    elsewhere: dict[Fault, Fault] = {}
    ours = (one for one in reading.unknown if one[:-1] == (BLOCK,))
    misspelt = [one for one in ours if rules.did_you_mean(one[-1], _NETWORKS)]
    for at, row in rows.items():
        made = endpoint(reading, at, row, block, misspelt)
        if made is None:
            continue
        if (first := places.setdefault(made.name, at)) != at:
            problem = f"is the name of {shown(first)} already"
            remedy = "Give each endpoint a name of its own"
            reading.fault((*at, "name"), Invalid(problem, remedy))
            continue
        endpoints.append(made)
        if any(len(signing_key(secret)) < SAFE_SECRET for secret in made.secrets):
            problem = f"is shorter than {SAFE_SECRET} bytes, so it could be guessed"
            remedy = "Use a long random one: `openssl rand -base64 32`"
            advice.append(Fault(shown((*at, "secret")), problem, remedy, reading.names.get(at)))
        wanted = format_of(made.url) if made.format == DEFAULT_FORMAT else None
        if wanted is not None:
            problem = f"is `{DEFAULT_FORMAT}`, which the service of this `url` does not read"
            place, remedy = shown((*at, "format")), f"Set it to `{wanted}`"
            advice.append(Fault(place, problem, remedy, reading.names.get(at)))
        if not (made.is_for(environment) or reading.faults_in((*at, "environments"))):
            only = ", ".join(sorted(made.environments or ()))
            for fault in reading.faults_in(at, Unset):
                problem = f"{fault.problem}; the endpoint is only for {only}"
                remedy = f"{fault.remedy} there"
                elsewhere[fault] = replace(fault, problem=problem, remedy=remedy)
    return endpoints, advice, elsewhere


def gathered(environ: Mapping[str, str], config_file: Path | None) -> dict[str, Any]:
    """Every setting by its name, the fields of ``Settings`` among them, with every fault there is.

    ``CONFITURE_WEBHOOKS=off`` does not empty them: what is switched off can still be checked.
    """
    file, reading = File(config_file, environ), Reading(environ)
    block = _block(file, reading)
    environment = file.environment
    rows = block.get("endpoints", {})
    is_used = bool(rows)
    if environ.get(variables.URL):
        rows = {DEFAULT_ENDPOINT: _default_endpoint(environ, reading), **rows}
    endpoints, advice, elsewhere = _endpoints(reading, rows, block, environment)
    given = _given(environ, VARIABLES)
    if environment:
        given.pop("environment", None)
    own = reading.table(VARIABLES, given, ("",))
    environment = environment or own.get("environment")
    environment = environment and stored_text(environment)
    found = (*file.faults, *reading.faults_in())
    faults = [fault for fault in found if fault not in elsewhere]
    if environ.get(variables.SECRET) and not rows:
        remedy = f"Set {variables.URL} too, or write a `webhooks:` block with endpoints"
        faults.append(Fault(variables.SECRET, "is set, but no endpoint uses it", remedy))
    outbox_at = ("" if environ.get(variables.OUTBOX) else BLOCK, "outbox")
    outbox_fault = next(iter(reading.faults_in(outbox_at)), None)
    return {
        **block,
        **own,
        "endpoints": tuple(one for one in endpoints if not one.faults),
        "faulty": tuple(one for one in endpoints if one.faults),
        **({"outbox": "memory"} if outbox_fault else {}),
        "environment": environment,
        "sources": _sources(environ, file, is_on=own.get("switch", True)),
        "run_url": variables.run_url(environ),
        "outbox_fault": outbox_fault,
        "faults": tuple(dict.fromkeys(faults)),
        "warnings": tuple(_slips(environ, reading.texts, is_used=is_used)),
        "advice": (*advice, *_astray(endpoints, environment), *elsewhere.values()),
    }


def _sources(environ: Mapping[str, str], file: File, *, is_on: bool) -> tuple[str, ...]:
    """Where settings came from; the switch is named only when it is off."""
    names = [name for name in variables.ALL if name != variables.SWITCH and environ.get(name)]
    sources = [f"variables: {', '.join(names)}"] if names else []
    if BLOCK in file.content:
        sources.append(f"the webhooks: block of {file.path}")
    if not is_on:
        sources.append(f"{variables.SWITCH} is off: nothing is sent")
    return tuple(sources)
