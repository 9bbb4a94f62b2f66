"""The ``webhooks:`` block as tables of settings, and how a mapping is read by its table.

Each row is in the documentation: the values of the setting, a colon, its meaning. If a rule has no
remedy of its own, the row is its remedy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from ..endpoint import SIGNATURES, Tls
from ..errors import Fault
from ..event import SUBSCRIBABLE, EventType
from ..formats import FORMATS
from ..retry import RetryPolicy
from . import rules, variables
from .file import BLOCK, MOST, expand
from .rules import Invalid, TooMany

Rule = Callable[[Any], Any]
Place = tuple[str | int, ...]
"""``("webhooks", "endpoints", 0, "url")``; of a variable, where it stands for a setting."""
DEFAULT_ENDPOINT: Place = (variables.URL,)
"""The place of the endpoint that variables alone make."""
_EVENTS = [kind.value for kind in EventType if kind in SUBSCRIBABLE]
_FORMATS = [f"`{name}`" for name in FORMATS]
_WORD = partial(rules.one_of, in_any_case=True)
_LOGS, _LEVELS = ("json", "console", "off"), ("debug", "info", "warning", "error", "critical")
_LINK = r"(?=.*\{trace_id\})https?://[^\s/@]+/.*"
_EXAMPLE = "https://jaeger.example/trace/{trace_id}"
_COPY_KEY = "Copy the integration key of an Events API v2 integration"
_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Many:
    """A list, each item by *rule*. A list of tables is read as a mapping with their places."""

    rule: Kind
    most: int | None = None
    may_be_empty: bool = False
    may_be_one: bool = False
    """Whether a value alone is a list of one; empty text among others then counts as not there."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """A mapping of the user's own keys."""

    key: Rule
    value: Rule


Table = Mapping[str, "Setting"]
Kind = Rule | Many | Pairs | Table


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a mapping."""

    kind: Kind
    row: str = ""
    default: str = ""
    """As the documentation shows it, where it is not the field's. ``required``: there is none."""
    variable: str = ""
    into: Callable[[Any], Any] = lambda found: found
    """Makes the setting of a value that is right."""


@dataclass(eq=False, repr=False)
class Reading:
    """One reading of settings by their tables; keeps what is wrong, and where."""

    _environ: Mapping[str, str]
    texts: list[str] = field(default_factory=list)
    """Every text of the block, as it was written."""
    names: dict[Place, str] = field(default_factory=dict)
    """The names of the block's endpoints, by place: faults in it have them."""
    unknown: list[Place] = field(default_factory=list)
    _found: dict[tuple[Any, ...], list[tuple[Place, Invalid, str]]] = field(default_factory=dict)
    """What is wrong, by each place that it is in and by kind."""
    _left: int = MOST

    def fault(self, at: Place, invalid: Invalid, row: str = "") -> None:
        """Keep what is wrong at a place; *row* is the setting's in the documentation."""
        remedy = invalid.remedy or f"It takes: {row.partition(': ')[0]}"
        for depth, kind in product(range(len(at) + 1), {Invalid, type(invalid)}):
            self._found.setdefault((at[:depth], kind), []).append((at, invalid, remedy))

    def faults_in(self, at: Place = (), kind: type[Invalid] = Invalid) -> tuple[Fault, ...]:
        """The faults at a place, or in it; the block's come first."""
        found = sorted(self._found.get((at, kind), ()), key=lambda one: one[0][0] != BLOCK)
        faults = (
            Fault(shown(place), invalid.problem, remedy, self.names.get(place[:3]))
            for place, invalid, remedy in found
        )
        return tuple(dict.fromkeys(faults))

    def table(self, table: Table, raw: object, at: Place) -> dict[str, Any]:
        """The settings of a mapping that are there and right."""
        if not isinstance(raw, dict):
            self.fault(at, Invalid("must be a mapping", "Write `key: value` lines"))
            return {}
        given = {_key(key): value for key, value in raw.items()}
        for key in given:
            if key not in table:
                self.fault((*at, key), Invalid("is not a known setting", _where(key, table, at)))
                self.unknown.append((*at, key))
        found: dict[str, Any] = {}
        for key, one in table.items():
            if key in given:
                value = self.value(one.kind, given[key], (*at, key), one.row)
                found |= {key: one.into(value)} if value is not None else {}
            elif one.default == "required":
                self.fault((*at, key), Invalid("is missing", "Add it"))
        return found

    def value(self, kind: Kind, raw: object, at: Place, row: str) -> Any:
        """*raw* as its kind has it; ``None``, and a fault, if it cannot be."""
        if at[0] == BLOCK:
            self._left -= 1
            if self._left == 0:
                problem = f"holds more than {MOST} values"
                self.fault((BLOCK,), TooMany(problem, "Write fewer, or remove aliases (`*name`)"))
            if self._left <= 0:
                return None
        try:
            if isinstance(raw, str) and at[0] == BLOCK:
                self.texts.append(raw)
                raw = expand(raw, self._environ)
            if raw is None:
                raise Invalid("is empty", "Give it a value (indent its lines), or remove it")  # noqa: TRY301
            if isinstance(kind, Many):
                return self._many(kind, raw, at, row)
            if isinstance(kind, Pairs):
                return self._pairs(kind, raw, at, row)
            return self.table(kind, raw, at) if isinstance(kind, Mapping) else kind(raw)
        except Invalid as invalid:
            self.fault(at, invalid, row)
            return None

    def _many(self, many: Many, raw: object, at: Place, row: str) -> Any:
        if many.may_be_one and not isinstance(raw, list):
            one = self.value(many.rule, raw, at, row)
            return None if one is None else (one,)
        if not isinstance(raw, list):
            raise Invalid("must be a list", "Write each item after a dash, or all as `[a, b]`")
        if not raw and not many.may_be_empty:
            raise Invalid("is an empty list", "Put something in it, or remove it")
        if many.most is not None and len(raw) > many.most:
            raise Invalid("has too many items", f"Use {many.most} at most")
        items = [((*at, index), item) for index, item in enumerate(raw)]
        if many.may_be_one:
            items = [(place, item) for place, item in items if not self._is_empty(item)] or items
        found = {place: self.value(many.rule, item, place, row) for place, item in items}
        good = {place: item for place, item in found.items() if item is not None}
        if found and not good:
            return None
        return good if isinstance(many.rule, Mapping) else tuple(good.values())

    def _is_empty(self, raw: object) -> bool:
        with suppress(Invalid):
            return isinstance(raw, str) and expand(raw, self._environ) == ""
        return False

    def _pairs(self, pairs: Pairs, raw: object, at: Place, row: str) -> Any:
        if not isinstance(raw, dict):
            raise Invalid("must be a mapping", "Write `key: value` lines")
        found = {}
        for key, value in raw.items():
            place = (*at, _key(key))
            name = self.value(pairs.key, _key(key), place, row)
            if name is not None:
                found[name] = self.value(pairs.value, value, place, row)
        if len({name.lower() for name in found}) < len(found):
            raise Invalid("has a header twice in different case", "Keep one of them")
        return None if None in found.values() else found


def _key(key: object) -> str:
    """A key as text: YAML makes booleans, numbers and dates of some."""
    return key if isinstance(key, str) else str(key).lower()


def _where(key: str, table: Table, at: Place) -> str:
    """Where a setting belongs that *table* does not know, or which one was meant."""
    for name, one in table.items():
        inner = one.kind.rule if isinstance(one.kind, Many) else one.kind
        if isinstance(inner, Mapping) and key in inner:
            item = "" if inner is one.kind else ", as part of an item (`- name: …`)"
            return f"Indent it under `{name}`{item}"
    outer = zip((WEBHOOKS, ENDPOINT), at[1::2], strict=False)
    if levels := [level for known, level in outer if key in known]:
        return f"Indent it less: as far as `{levels[-1]}`"
    return f"{rules.did_you_mean(key, table)}Known here: {', '.join(table)}"


def shown(at: Place) -> str:
    """The setting at a place, as the user wrote it: its path in the block, or its variable."""
    if at == DEFAULT_ENDPOINT:
        return f"the endpoint that {variables.URL} makes"
    if at[0] != BLOCK:
        if at[1:3] == ("secret", 1):
            return variables.SECRET_PREVIOUS
        return {**ENDPOINT, **VARIABLES}[str(at[1])].variable
    text = BLOCK
    for step in at[1:]:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step if _SHOWABLE.fullmatch(step) else '(unnamed)'}"
    return text


RETRY: Table = {
    "schedule": Setting(
        Many(partial(rules.seconds, rules.LONGEST_WAIT), most=100, may_be_empty=True),
        "list of seconds, each above 0, up to 604800: the waits between attempts, at most 100; "
        "`[]` is one attempt and no more",
    ),
    "jitter": Setting(
        partial(rules.number, 0, 1),
        "number, 0 to 1: spreads each wait evenly over ± this share of it",
    ),
}
TLS: Table = {
    "client_certificate": Setting(
        rules.text,
        "path: a PEM file with the certificate that is shown to the receiver, and its chain",
    ),
    "client_key": Setting(rules.text, "path: a PEM file with its key, if that is in another file"),
    "ca_bundle": Setting(
        rules.text, "path: a PEM file with the authorities to trust in place of the system's"
    ),
}
ENDPOINT: Table = {
    "name": Setting(
        rules.name,
        "name: the endpoint's only name in logs, traces, metrics and commands: up to 64 letters, "
        "digits, `.`, `-` and `_`, a letter or digit first; no two alike",
        default="required",
    ),
    "url": Setting(
        rules.address,
        "URL: `https://…`, or `http://…` as `allow_http` says; no fragment. A user and password in "
        "it are percent-decoded, sent as Basic authentication and shown nowhere",
        default="required",
        variable=variables.URL,
    ),
    "allow_http": Setting(
        rules.flag,
        "true or false: plain http to other machines; to `localhost`, `127.0.0.0/8` and `::1` it "
        "is always allowed",
        "`false`",
        variable=variables.ALLOW_HTTP,
    ),
    "secret": Setting(
        Many(rules.secret, may_be_one=True),
        "text, or list of text: signs every request. A list while a secret is rotated, the current "
        "one first; an empty one among others is skipped. After `whsec_` comes base64. 24 bytes or "
        "more are safe",
        variable=variables.SECRET,
    ),
    "send_secret": Setting(
        rules.flag,
        "true or false: also sends the current secret itself, as `X-Confiture-Secret`; needs https",
    ),
    "signatures": Setting(
        Many(partial(rules.one_of, SIGNATURES, "a signature")),
        "list of signatures: those that are sent if there is a secret: `standard` "
        "(`webhook-signature`, over id, time and body), `confiture` (`X-Confiture-Signature`, over "
        "the body alone). `[standard]` is for receivers that check the time",
    ),
    "events": Setting(
        Many(partial(rules.one_of, _EVENTS, "an event"), most=100),
        "list of events: the events that are sent; `migration_started`, `run_success` and "
        "`run_error` can be added. Without a list, `run_error` reports a run that failed before a "
        "migration",
        variable=variables.EVENTS,
        into=lambda found: frozenset(map(EventType, found)),
    ),
    "environments": Setting(
        Many(rules.text),
        "list of text: only migrations of these environments",
        default="all",
        into=frozenset,
    ),
    "migrations": Setting(
        Many(rules.text),
        'list of patterns: only migrations whose `<version>_<name>` fits one, as in `["*_billing_*'
        '"]`: `*`, `?` and `[…]`; case matters. An event of a run is sent if one of its migrations '
        "fits",
        default="all",
    ),
    "routing_key": Setting(
        partial(rules.matching, "[A-Za-z0-9]{32}", "is not 32 letters and digits", _COPY_KEY),
        "text: the integration key of a PagerDuty service: 32 letters and digits, for `format: "
        "pagerduty`",
    ),
    "format": Setting(
        partial(rules.one_of, [*FORMATS], "a format"),
        f"format: the shape of the body: {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}, see "
        "[payload](payload.md) and [formats](formats.md)",
        variable=variables.FORMAT,
    ),
    "headers": Setting(
        Pairs(rules.header_name, rules.header_value),
        "mapping of text: sent with every request",
        variable=variables.HEADERS,
    ),
    "timeout": Setting(
        partial(rules.seconds, 300),
        "seconds, above 0, up to 300: for a whole attempt: name resolution, connecting, TLS, and "
        "the answer to its end",
    ),
    "retry": Setting(
        RETRY,
        "mapping: when a failed attempt is repeated",
        "see below",
        into=lambda found: RetryPolicy(**found),
    ),
    "concurrency": Setting(
        partial(rules.number, 1, 64, is_whole=True),
        "whole number, 1 to 64: how many runs' deliveries a process sends at once; those of one "
        "run keep their order. If one process sends, `1` keeps the order of all",
    ),
    "rate": Setting(
        rules.rate,
        "rate, as in `1/s`, `30/m` or `100/h`: the most requests in a second, minute or hour",
    ),
    "tls": Setting(
        TLS,
        "mapping: files for TLS; they are read again when they change",
        "see below",
        into=lambda found: Tls(**found),
    ),
    "allow_networks": Setting(
        Many(rules.network),
        "list of networks: the only addresses that may be dialled, checked after the name is "
        "resolved: `10.0.0.0/8`, `2001:db8::1`, `private`, `link-local`, `metadata`. Takes the "
        "place of the file's",
        default="all",
    ),
    "deny_networks": Setting(
        Many(rules.network),
        "list of networks: addresses that are never dialled, even if allowed. Takes the place of "
        "the file's",
    ),
    "include_sql": Setting(
        rules.flag,
        "true or false: failures carry the whole error text, with its SQL and values, up to 64 KiB",
    ),
}
WEBHOOKS: Table = {
    "endpoints": Setting(
        Many(ENDPOINT, may_be_empty=True), "list of endpoints: where events are sent"
    ),
    "outbox": Setting(
        rules.outbox,
        "text: where deliveries are kept until they are sent: `sqlite`, `sqlite:<path>`, `postgres`"
        " (the migrated database), `postgres:<dsn>` (another one; see [The PostgreSQL outbox]"
        "(outbox-postgres.md)), or `memory` (lost when the command ends)",
        variable=variables.OUTBOX,
    ),
    "flush_timeout": Setting(
        partial(rules.seconds, 3600, may_be_zero=True),
        "seconds, 0 to 3600: how long a command waits for deliveries when its migrations are over; "
        "the rest is sent later",
        variable=variables.FLUSH_TIMEOUT,
    ),
    "hooks": Setting(
        Many(rules.module, may_be_empty=True),
        "list of module names: Python modules that hold [hooks](hooks.md), beside the files in "
        "`confiture_hooks/`",
    ),
    "hook_timeout": Setting(
        partial(rules.seconds, 300),
        "seconds, above 0, up to 300: for one call of a hook, and for the import of one hook file",
    ),
    "allow_networks": Setting(
        Many(rules.network),
        "list of networks: for every endpoint that has no such list of its own",
        default="all",
    ),
    "deny_networks": Setting(
        Many(rules.network), "list of networks: for every endpoint that has no such list of its own"
    ),
    "trace_url": Setting(
        partial(rules.matching, _LINK, "is not a link to a trace", f"Write it as `{_EXAMPLE}`"),
        f"URL: a link to a trace for payloads and messages, as in `{_EXAMPLE}`",
    ),
    "database_label": Setting(
        rules.flag,
        "true or false: whether metrics of runs and of the outbox, and log events of runs and "
        "migrations, name the database; false for a database per tenant",
    ),
}
VARIABLES: Table = {
    **{key: one for key, one in WEBHOOKS.items() if one.variable},
    "switch": Setting(rules.flag, variable=variables.SWITCH),
    "environment": Setting(rules.text, variable=variables.ENVIRONMENT),
    "log": Setting(partial(_WORD, _LOGS, "a kind of log"), variable=variables.LOG),
    "log_level": Setting(partial(_WORD, _LEVELS, "a log level"), variable=variables.LOG_LEVEL),
}
"""The settings of variables beside an endpoint; their rows stand below their names."""
