"""The ``webhooks:`` block as pydantic models; ``Endpoint`` is what comes out.

Fields are in the order of their checks: a rule about two settings sits on the later one and
is left out when the earlier is wrong already. A field's docstring is its row in the
documentation: what it takes, a colon, what it means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..endpoint import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, SIGNATURES, Endpoint, Tls
from ..event import DEFAULT_SUBSCRIPTION, EventType
from ..networks import Networks
from ..retry import DEFAULT_JITTER, DEFAULT_SCHEDULE, RetryPolicy
from . import values
from .address import Address, address
from .file import Finding
from .values import Invalid

DEFAULT_OUTBOX = "sqlite"
DEFAULT_FLUSH_TIMEOUT = timedelta(seconds=10)
DEFAULT_HOOK_TIMEOUT = timedelta(seconds=30)

T = TypeVar("T")
M = TypeVar("M", bound="Block")
Text = Annotated[str, PlainValidator(values.text)]
Flag = Annotated[bool, PlainValidator(values.flag)]
Network = Annotated[str, PlainValidator(values.network)]
Signature = Annotated[
    str, PlainValidator(lambda value: values.one_of(value, SIGNATURES, "a signature"))
]
Some = Annotated[list[T], Field(min_length=1)]


class Block(BaseModel):
    """A mapping whose keys are all known; its errors never show what was in it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class RetryBlock(Block):
    """``retry:`` of an endpoint."""

    schedule: Annotated[
        list[Annotated[timedelta, PlainValidator(values.wait)]],
        Field(max_length=values.MOST_WAITS),
    ] = list(DEFAULT_SCHEDULE)
    """list of seconds, each above 0, to 604800: the waits between attempts, at most 100; `[]` is
    one attempt and no more
    """
    jitter: Annotated[float, PlainValidator(values.jitter)] = DEFAULT_JITTER
    """number, 0 to 1: spreads each wait evenly over ± this share of it"""


class TlsBlock(Block):
    """``tls:`` of an endpoint."""

    client_certificate: Text = ""
    """path: a PEM file with the certificate, and its chain, that is shown to the receiver"""
    client_key: Text = ""
    """path: a PEM file with its key, when that is not in the same file"""
    ca_bundle: Text = ""
    """path: a PEM file with the authorities that are believed, in place of the system's"""


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


class EndpointBlock(Block):
    """One of ``endpoints:``."""

    name: Annotated[str, PlainValidator(values.name)]
    """name: the endpoint's only name in logs, traces, metrics and commands: up to 64 letters,
    digits, `.`, `-` and `_`, a letter or digit first; no two alike
    """
    url: Annotated[Address, PlainValidator(address)]
    """URL: `https://…`, or `http://…` as `allow_http` says; no fragment. A user and password in it
    are percent-decoded, sent as Basic authentication and shown nowhere
    """
    allow_http: Flag = Field(default=False, validate_default=True)
    """true or false: plain http to other machines; to `localhost`, `127.0.0.0/8` and `::1` it is
    always allowed
    """
    secret: Annotated[
        Some[Annotated[str, PlainValidator(values.secret)]], BeforeValidator(_as_list)
    ] = Field(default=[], repr=False)
    """text, or list of text: signs every request. A list while a secret is rotated, the current one
    first. After `whsec_` comes base64
    """
    send_secret: Flag = False
    """true or false: also sends the current secret itself, as `X-Confiture-Secret`; needs https"""
    events: Some[Annotated[EventType, PlainValidator(values.event)]] = [
        kind for kind in EventType if kind in DEFAULT_SUBSCRIPTION
    ]
    """list of events: what it is told: also `migration_started`, `run_success`, `run_error`"""
    environments: Some[Text] = []
    """list of text: only migrations of these environments"""
    migrations: Some[Text] = []
    """list of patterns: only migrations whose `<version>_<name>` fits one, as in `["*_billing_*"]`:
    `*`, `?` and `[…]`, case and all. A run's own event is told when one of its migrations fits
    """
    routing_key: Annotated[str, PlainValidator(values.routing_key)] = Field(default="", repr=False)
    """text: the integration key of a PagerDuty service: 32 letters and digits, for `format:
    pagerduty`
    """
    format: Annotated[
        str, PlainValidator(lambda value: values.one_of(value, values.FORMATS, "a format"))
    ] = Field(default=values.FORMATS[0], validate_default=True)
    """format: the shape of the body: `confiture`, `cloudevents`, `cloudevents-binary`, `slack`,
    `discord`, `teams`, `pagerduty` or `opsgenie`, see [payload](payload.md) and
    [formats](formats.md)
    """
    headers: dict[
        Annotated[str, PlainValidator(values.header_name)],
        Annotated[str, PlainValidator(values.header_value)],
    ] = Field(default={}, repr=False)
    """mapping of text: sent with every request"""
    timeout: Annotated[timedelta, PlainValidator(values.timeout)] = DEFAULT_TIMEOUT
    """seconds, above 0, to 300: for a whole attempt: name resolution, connecting, TLS, and the
    answer to its end
    """
    retry: RetryBlock = RetryBlock()
    """mapping: when a failed attempt is made again"""
    concurrency: Annotated[int, PlainValidator(values.concurrency)] = DEFAULT_CONCURRENCY
    """whole number, 1 to 64: how many runs' deliveries are sent at once; those of one run keep
    their order. `1` keeps the order of all
    """
    rate: Annotated[timedelta, PlainValidator(values.rate)] | None = None
    """rate: the most requests in a time, as in `1/s`, `30/m` or `100/h`"""
    tls: TlsBlock = TlsBlock()
    """mapping: files for TLS; they are read again when they change"""
    allow_networks: Some[Network] = []
    """list of networks: the only addresses that may be dialled: `10.0.0.0/8`, `2001:db8::1`,
    `private`, `link-local` or `metadata`. In place of the file's
    """
    deny_networks: Some[Network] = []
    """list of networks: addresses that are never dialled. In place of the file's"""
    signatures: Some[Signature] = list(SIGNATURES)
    """list: the signatures that are sent when there is a secret: `standard` (`webhook-signature`,
    which covers the time) and `confiture` (`X-Confiture-Signature`, which covers the body alone)
    """
    include_sql: Flag = False
    """true or false: failures carry the whole error text, with its SQL and values"""

    @field_validator("allow_http")
    @classmethod
    def _is_private(cls, is_allowed: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        url = info.data.get("url")
        if is_allowed or url is None or url.is_https or url.is_loopback:
            return is_allowed
        way = (info.context or {}).get("allow_http_as", "allow_http: true")
        raise Invalid(
            "is plain http to another machine", f"Use https, or allow it: `{way}`", of="url"
        )

    @field_validator("send_secret")
    @classmethod
    def _can_send_secret(cls, is_sent: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if not is_sent:
            return False
        url, secrets = info.data.get("url"), info.data.get("secret")
        if url is not None and not url.is_https:
            raise Invalid("needs https", "Use https, or remove `send_secret`")
        if secrets is not None and not secrets:
            raise Invalid("needs a secret", "Set `secret`, or remove `send_secret`")
        if secrets:
            try:
                values.header_value(secrets[0])
            except Invalid:
                raise Invalid(
                    "needs a secret that a header can carry",
                    "Use a secret of printable Latin-1 characters, or remove `send_secret`",
                ) from None
        return True

    @field_validator("format")
    @classmethod
    def _has_its_key(cls, chosen: str, info: ValidationInfo) -> str:
        key = info.data.get("routing_key")
        if chosen == "pagerduty" and key == "":
            raise Invalid("needs a `routing_key`", "Set `routing_key` to the integration key")
        if chosen != "pagerduty" and key:
            raise Invalid(
                "is only for `format: pagerduty`", "Remove it, or set that format", of="routing_key"
            )
        return chosen

    @field_validator("headers")
    @classmethod
    def _are_distinct(cls, headers: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        names = [name.lower() for name in headers]
        if len(set(names)) < len(names):
            raise Invalid("has a header twice in different case", "Keep one of them")
        url = info.data.get("url")
        if "authorization" in names and url is not None and url.basic_auth:
            raise Invalid(
                "has `Authorization`, and the URL has a user or password", "Keep one of the two"
            )
        return headers

    def endpoint(self, allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> Endpoint:
        """The endpoint that was described; networks that it does not name are the file's."""
        return Endpoint(
            name=self.name,
            url=self.url.url,
            basic_auth=self.url.basic_auth,
            secrets=tuple(self.secret),
            send_secret=self.send_secret,
            headers=dict(self.headers),
            events=frozenset(self.events),
            environments=frozenset(self.environments) or None,
            migrations=tuple(self.migrations),
            routing_key=self.routing_key or None,
            format=self.format,
            include_sql=self.include_sql,
            timeout=self.timeout,
            retry=RetryPolicy(schedule=tuple(self.retry.schedule), jitter=self.retry.jitter),
            concurrency=self.concurrency,
            rate=self.rate,
            tls=Tls(
                client_certificate=self.tls.client_certificate or None,
                client_key=self.tls.client_key or None,
                ca_bundle=self.tls.ca_bundle or None,
            ),
            networks=Networks(
                allowed=tuple(self.allow_networks or allowed),
                denied=tuple(self.deny_networks or denied),
            ),
            signatures=tuple(self.signatures),
        )


class WebhooksBlock(Block):
    """``webhooks:`` itself."""

    endpoints: list[EndpointBlock] = []
    """list of endpoints: who is told"""
    outbox: Annotated[str, PlainValidator(values.outbox)] = Field(
        default=DEFAULT_OUTBOX, repr=False
    )
    """text: where deliveries are kept until they are made: `sqlite`, `sqlite:<path>`, `postgres`
    (the migrated database), `postgres:<dsn>` (another one; see [The PostgreSQL
    outbox](outbox-postgres.md)), or `memory` (lost when the command ends)
    """
    flush_timeout: Annotated[timedelta, PlainValidator(values.flush_timeout)] = (
        DEFAULT_FLUSH_TIMEOUT
    )
    """seconds, 0 to 3600: how long a command waits for deliveries when its migrations are over;
    what is left goes out later
    """
    hooks: list[Annotated[str, PlainValidator(values.module)]] = []
    """list of module names: Python modules that hold [hooks](hooks.md), beside the files in
    `confiture_hooks/`
    """
    hook_timeout: Annotated[timedelta, PlainValidator(values.timeout)] = DEFAULT_HOOK_TIMEOUT
    """seconds, above 0, to 300: for one call of a hook, and for importing one file of them"""
    allow_networks: Some[Network] = []
    """list of networks: the only addresses that endpoints may be at, see the same setting there"""
    deny_networks: Some[Network] = []
    """list of networks: addresses that are never dialled"""
    trace_url: Annotated[str, PlainValidator(values.trace_url)] = ""
    """URL: a link to a trace for payloads and messages, as in
    `https://jaeger.example/trace/{trace_id}`
    """
    database_label: Flag = True
    """true or false: whether the database's name is an attribute of the run's metrics"""


_PROBLEMS = {
    "missing": ("is missing", "Add it"),
    "list_type": ("must be a list", "Write it as `[a, b]` or with a dash before each item"),
    "dict_type": ("must be a mapping", "Write `key: value` lines"),
    "model_type": ("must be a mapping", "Write `key: value` lines"),
    "too_short": ("is an empty list", "Put something in it, or remove it"),
    "too_long": ("has too many items", f"Use {values.MOST_WAITS} at most"),
}
_OTHER = ("is not valid", "See the documentation of this setting")
_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def checked(
    model: type[M], raw: Any, *, allow_http_as: str = "allow_http: true"
) -> tuple[M | None, list[Finding]]:
    """*raw* as *model*, or everything that is wrong with it.

    *allow_http_as* is how plain http is allowed in the place that *raw* was read from.
    """
    try:
        return model.model_validate(raw, context={"allow_http_as": allow_http_as}), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    return None, [_finding(model, raw, detail) for detail in details]


def _finding(model: type[Block], raw: Any, detail: Mapping[str, Any]) -> Finding:
    at, value = _place(raw, detail["loc"])
    cause = detail.get("ctx", {}).get("error")
    if detail["type"] == "extra_forbidden":
        known = _keys(model, detail["loc"][:-1])
        remedy = f"{values.did_you_mean(detail['loc'][-1], known)}Known here: {', '.join(known)}"
        return Finding(detail["loc"], "is not a known setting", remedy)
    if isinstance(cause, Invalid) and cause.of:
        return Finding((*at[:-1], cause.of), cause.problem, cause.remedy)
    if value is None and detail["type"] != "missing":
        return Finding(at, "is empty", "Give it a value, or remove it")
    if isinstance(cause, Invalid):
        return Finding(at, cause.problem, cause.remedy)
    return Finding(at, *_PROBLEMS.get(detail["type"], _OTHER))


def _place(raw: Any, loc: Sequence[str | int]) -> tuple[tuple[str | int, ...], Any]:
    """The part of *loc* that the user wrote, and what stands there."""
    at: tuple[str | int, ...] = ()
    value = raw
    for step in loc:
        if isinstance(value, dict) and isinstance(step, str) and step != "[key]":
            at, value = (*at, step), value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            at, value = (*at, step), value[step]
        else:
            break
    return at, value


def _keys(model: type[Block], at: Sequence[str | int]) -> list[str]:
    """The keys that may stand at the place *at* of *model*."""
    if "retry" in at:
        model = RetryBlock
    elif "tls" in at:
        model = TlsBlock
    elif at:
        model = EndpointBlock
    return list(model.model_fields)


def setting(at: Sequence[str | int]) -> str:
    """The place *at* as the user would write it: ``webhooks.endpoints[0].url``."""
    shown = "webhooks"
    for step in at:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += f".{step if _SHOWABLE.fullmatch(step) else '(unnamed)'}"
    return shown
