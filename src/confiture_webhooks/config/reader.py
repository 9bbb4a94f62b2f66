"""Reads the two places settings come from; a fault costs only the setting or endpoint it is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .. import command_watch
from ..endpoint import Endpoint, Tls
from ..errors import Fault
from ..networks import Networks
from ..outlook import shown_environment
from ..retry import RetryPolicy
from ..signature import signing_key
from . import rules, variables
from .block import ENDPOINT, TLS, WEBHOOKS
from .file import BLOCK, read
from .reading import AT, Place, Reading
from .rules import Invalid, Unset

DEFAULT_NAME = "default"
"""The name of the endpoint that ``CONFITURE_WEBHOOK_URL`` makes."""
SAFE_SECRET = 24
"""Bytes of a signing key, at least; the standard's own secrets have 24 to 64."""
_NEAR = 0.9
"""How like a known variable's name another program's would not be."""
_VARIABLE_OF = {
    "url": variables.URL,
    "format": variables.FORMAT,
    "events": variables.EVENTS,
    "headers": variables.HEADERS,
    "allow_http": variables.ALLOW_HTTP,
}
_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FLUSH: Any = WEBHOOKS["flush_timeout"].kind
_TAKES = {variables.FLUSH_TIMEOUT: WEBHOOKS["flush_timeout"].takes}


class EnvironmentReader:
    """The environment's part of the settings. ``faults`` grows as it is read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[Fault] = []

    def value(self, variable: str, rule: Callable[[str], Any]) -> Any:
        """The variable's value as *rule* has it; ``None`` when unset, empty or wrong."""
        given = self._environ.get(variable)
        if not given:
            return None
        try:
            return rule(given)
        except Invalid as invalid:
            remedy = invalid.remedy or f"It takes {_TAKES[variable]}"
            self.faults.append(Fault(variable, invalid.problem, remedy))
            return None

    def given(self, *names: str) -> list[str]:
        """Those of the variables that are set to something."""
        return [name for name in names if self._environ.get(name)]

    def endpoint(self, file: Mapping[str, Any]) -> Endpoint | None:
        """The endpoint that variables alone make, good or bad; ``None``: there is no address."""
        if not self.given(variables.URL):
            return None
        get = self._environ.get
        raw: dict[str, Any] = {
            "name": DEFAULT_NAME,
            **{key: get(name) for key, name in _VARIABLE_OF.items() if get(name)},
        }
        secrets = [get(variables.SECRET), get(variables.SECRET_PREVIOUS)]
        if secrets[0] is not None:
            raw["secret"] = secrets if all(secrets) else secrets[0]
        if "events" in raw:
            raw["events"] = [name.strip() for name in raw["events"].split(",") if name.strip()]
        if "headers" in raw:
            raw["headers"] = self.value(variables.HEADERS, _headers) or {}
        reading = Reading(_variable)
        found = reading.table(ENDPOINT, raw)
        if secrets[1] and not secrets[0]:
            invalid = Invalid("needs a current secret", f"Set {variables.SECRET}")
            reading.fault(("secret", 1), invalid)
        made = endpoint(reading, found, file, f"{variables.ALLOW_HTTP}=true")
        faults = tuple(dict.fromkeys([*self.faults, *reading.faults_in()]))
        self.faults = list(faults)
        own = tuple(fault for fault in faults if fault.setting in variables.OF_DEFAULT)
        return made and replace(made, faults=own)

    def slips(self, texts: Sequence[str], *, is_used: bool) -> list[Fault]:
        """Variables that are set and that nothing reads, not even the *texts* of the block."""
        known = (*variables.ALL, variables.MIGRATION_SPANS)
        found = []
        for name in sorted(self._environ.keys() - known):
            near = get_close_matches(name, known, 1, _NEAR) if name.startswith("CONF") else []
            is_ours = near or name.startswith(command_watch.PREFIX)
            if is_ours and not any(f"${{{name}}}" in text for text in texts):
                near = near or get_close_matches(name, known, 1)
                remedy = f"Did you mean {near[0]}?" if near else "Remove it"
                found.append(Fault(name, "is a variable that nothing reads", remedy))
        if not self.given(variables.URL):
            found += [
                Fault(name, "is set, but no endpoint uses it", f"Set {variables.URL} too")
                for name in self.given(*variables.OF_DEFAULT)
                if is_used or name != variables.SECRET
            ]
        return found

    def word(self, variable: str, known: Sequence[str], kind: str) -> str | None:
        """The variable's word out of *known*."""
        rule = rules.one_of(known, kind)
        found: str | None = self.value(variable, lambda text: rule(text.strip().lower()))
        return found


def _variable(at: Place) -> str:
    """The variable that the setting at *at* comes from."""
    if at[:2] == ("secret", 1):
        return variables.SECRET_PREVIOUS
    return {**_VARIABLE_OF, "secret": variables.SECRET}[str(at[0])]


def _headers(given: str) -> dict[str, str]:
    """``name=value`` with commas, percent-decoded: the form of OTEL_EXPORTER_OTLP_HEADERS."""
    found: dict[str, str] = {}
    for part in rules.text(given).split(","):
        name, equals, value = part.partition("=")
        if not equals and part.strip():
            raise Invalid("has a part without `=`", "Write `name=value`, with commas between")
        if equals and (name := unquote(name.strip())) in found:
            raise Invalid("has a header twice", "Keep one of them")
        if equals:
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


class FileReader:
    """The file's part of the settings: its ``webhooks:`` block and its name."""

    def __init__(self, config_file: Path | None, environ: Mapping[str, str]) -> None:
        given = environ.get(variables.CONFIG)
        self._environ = environ
        self._host_file = config_file
        self._is_named = bool(given)
        self.path = Path(given) if given else config_file
        self._document: Mapping[str, Any] = {}
        self.reading = Reading(setting, environ)
        self.faults: list[Fault] = []
        """Of the file itself; the block's are in ``reading``."""
        self.elsewhere: list[Fault] = []
        """Those of the block's that cost nothing here: variables of other environments."""
        if self.path is None:
            return
        try:
            self._document = read(self.path, needs=BLOCK if given else None)
        except Invalid as invalid:
            problem = f"names a file that {invalid.problem}" if given else invalid.problem
            name = variables.CONFIG if given else str(self.path)
            self.faults.append(Fault(name, problem, invalid.remedy))
        if line := getattr(self._document, "repeated", None):
            problem = f"a key of `{BLOCK}:` stands there twice: the last one counts"
            self.faults.append(Fault(f"{self.path}:{line}", problem, "Remove one of them"))

    @property
    def has_block(self) -> bool:
        """Whether the file has a ``webhooks:`` block, good or bad."""
        return BLOCK in self._document

    @property
    def environment(self) -> str | None:
        """The file's ``name:``, else its stem.

        A file that holds nothing but the block is named for itself: then the file that Confiture
        was given comes before it, and CONFITURE_ENVIRONMENT.
        """
        if self.path is None:
            return None
        name = self._document.get("name")
        if isinstance(name, str) and name.strip():
            return name
        if self._is_named and self._host_file not in {None, Path(command_watch.USUAL_FILE)}:
            return FileReader(self._host_file, {}).environment
        named = self._environ.get(variables.ENVIRONMENT, "").strip() if self._is_named else ""
        return named or self.path.stem or None

    def block(self) -> Mapping[str, Any]:
        """The settings of the block; those that are wrong or absent have their defaults."""
        if not self.has_block:
            self._look_for_near_miss()
            return self.reading.table(WEBHOOKS, {})
        found = self.reading.value(WEBHOOKS, self._document[BLOCK], (), "a mapping")
        return found if isinstance(found, dict) else self.reading.table(WEBHOOKS, {})

    def endpoints(
        self, block: Mapping[str, Any], default: Endpoint | None
    ) -> tuple[list[Endpoint], list[Fault]]:
        """The endpoints that have a name of their own, good and bad, and advice about them."""
        first: dict[str, str] = {}
        if default is not None:
            first[DEFAULT_NAME] = f"the endpoint that {variables.URL} makes"
        found, advice = [], []
        for row in block["endpoints"]:
            made = endpoint(self.reading, row, block, "allow_http: true")
            at = row[AT]
            if made is not None and made.name in first:
                problem = f"is the name of {first[made.name]} already"
                remedy = "Give each endpoint a name of its own"
                self.reading.fault((*at, "name"), Invalid(problem, remedy))
            elif made is not None:
                first[made.name] = setting(at)
                found.append(made)
                advice += weak(made, setting((*at, "secret")))
                if not (
                    made.is_for(self.environment) or self.reading.faults_in((*at, "environments"))
                ):
                    self.elsewhere += self.reading.faults_in(at, Unset)
        return found, advice

    def _look_for_near_miss(self) -> None:
        for key, value in self._document.items():
            is_block = isinstance(value, dict) and not value.keys().isdisjoint(WEBHOOKS)
            if is_block and rules.did_you_mean(key, [BLOCK]):
                remedy = f"Did you mean `{BLOCK}`?"
                self.faults.append(Fault(str(key), "is a key that nothing reads", remedy))


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
    reading.names[at] = found["name"]
    url, retry = found["url"], found["retry"]
    return Endpoint(
        url=url.url if url else "",
        basic_auth=url.basic_auth if url else None,
        secrets=found["secret"],
        events=frozenset(found["events"]),
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
    elif found["send_secret"] and not _is_latin(secrets[0]):
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


def _is_latin(value: str) -> bool:
    try:
        return bool(value.encode("latin-1"))
    except UnicodeEncodeError:
        return False


def weak(endpoint: Endpoint, setting: str) -> list[Fault]:
    """Advice if a secret of *endpoint* could be guessed."""
    if all(len(signing_key(secret)) >= SAFE_SECRET for secret in endpoint.secrets):
        return []
    problem = f"is shorter than {SAFE_SECRET} bytes, so it could be guessed"
    remedy = "Use a long random one: `openssl rand -base64 32`"
    name = None if setting == variables.SECRET else endpoint.name
    return [Fault(setting, problem, remedy, name)]


def astray(endpoints: Sequence[Endpoint], environment: str | None) -> list[Fault]:
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


def gathered(environ: Mapping[str, str], config_file: Path | None) -> dict[str, Any]:
    """The fields of ``Settings``, with every fault there is.

    ``CONFITURE_WEBHOOKS=off`` does not empty them: what is switched off can still be checked.
    """
    variable, file = EnvironmentReader(environ), FileReader(config_file, environ)
    block = file.block()
    default = variable.endpoint(block)
    endpoints, advice = file.endpoints(block, default)
    if default is not None:
        endpoints = [default, *endpoints]
        advice = weak(default, variables.SECRET) + advice
    outbox = variable.value(variables.OUTBOX, rules.outbox)
    flush_timeout = variable.value(variables.FLUSH_TIMEOUT, _FLUSH)
    is_on = variable.value(variables.SWITCH, rules.flag) is not False
    environment = file.environment or variable.value(variables.ENVIRONMENT, rules.text)
    advice += astray(endpoints, environment)
    settings = {
        "endpoints": tuple(one for one in endpoints if not one.faults),
        "faulty": tuple(one for one in endpoints if one.faults),
        "outbox": outbox or block["outbox"],
        "flush_timeout": block["flush_timeout"] if flush_timeout is None else flush_timeout,
        "log": variable.word(variables.LOG, rules.LOGS, "a kind of log"),
        "log_level": variable.word(variables.LOG_LEVEL, rules.LOG_LEVELS, "a log level"),
        "environment": environment,
        "sources": _sources(variable, file, is_on=is_on),
        "run_url": run_url(environ),
        **{key: block[key] for key in ("hooks", "hook_timeout", "trace_url", "database_label")},
    }
    faults = [*file.faults, *file.reading.faults_in(), *variable.faults]
    faults = [fault for fault in faults if fault not in file.elsewhere]
    only = {one.name: ", ".join(sorted(one.environments or ())) for one in endpoints}
    advice += [
        replace(
            fault,
            problem=f"{fault.problem}; the endpoint is only for {only[str(fault.endpoint)]}",
            remedy=f"{fault.remedy} there",
        )
        for fault in file.elsewhere
    ]
    named = {variables.OUTBOX} if variable.given(variables.OUTBOX) else {setting(("outbox",))}
    outbox_fault = next((fault for fault in faults if fault.setting in named), None)
    if outbox_fault is not None:
        settings["outbox"] = "memory"
    is_used = bool(block["endpoints"])
    if variable.given(variables.SECRET) and not (is_used or default):
        remedy = f"Set {variables.URL} too, or write a `webhooks:` block with endpoints"
        faults.append(Fault(variables.SECRET, "is set, but no endpoint uses it", remedy))
    return {
        **settings,
        "outbox_fault": outbox_fault,
        "faults": tuple(dict.fromkeys(faults)),
        "warnings": tuple(variable.slips(file.reading.texts, is_used=is_used)),
        "advice": tuple(advice),
    }


def _sources(variable: EnvironmentReader, file: FileReader, *, is_on: bool) -> tuple[str, ...]:
    """Where settings came from; the switch is named only when it is off."""
    names = variable.given(*(name for name in variables.ALL if name != variables.SWITCH))
    sources = [f"environment: {', '.join(names)}"] if names else []
    if file.has_block:
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
