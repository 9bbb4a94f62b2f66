"""What one setting may be, wherever it was written: each function returns it or says why not.

No message here holds what the user wrote: it may be a secret, or an address with one in it.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches

from ..event import SUBSCRIBABLE, EventType
from ..networks import NAMED, members
from ..signature import signing_key
from .variables import OFF_WORDS, ON_WORDS

FORMATS = (
    "confiture",
    "cloudevents",
    "cloudevents-binary",
    "slack",
    "discord",
    "teams",
    "pagerduty",
    "opsgenie",
)
LOGS = ("json", "console", "off")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
OUTBOXES = ("sqlite", "postgres", "memory")


LONGEST_WAIT = timedelta(days=7)
MOST_WAITS = 100

RESERVED_HEADERS = frozenset(
    {
        "baggage",
        "connection",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-correlation-id",
        "x-environment",
        "x-migration-version",
    }
)
RESERVED_PREFIX = "x-confiture-"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*(s|m|h)")
_ROUTING_KEY = re.compile(r"[A-Za-z0-9]{32}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Invalid(ValueError):  # noqa: N818  a rule's answer: it never leaves the reading
    """A value that will not do: what is wrong with it, and the remedy."""

    def __init__(self, problem: str, remedy: str, *, of: str | None = None) -> None:
        self.problem = problem
        self.remedy = remedy
        self.of = of
        """The setting beside it that is at fault, when it is not the value itself."""
        super().__init__(problem)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``Did you mean …? `` for a near miss, else nothing."""
    names = list(known)
    near = get_close_matches(word.lower(), names, n=1) if isinstance(word, str) else []
    return f"Did you mean `{near[0]}`? " if near else ""


def one_of(value: object, known: Iterable[str], what: str) -> str:
    """*value*, which must be one of the *known*."""
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    raise Invalid(f"is not {what}", f"{did_you_mean(value, names)}It can be: {', '.join(names)}")


def text(value: object) -> str:
    """Text with something in it."""
    if not isinstance(value, str):
        raise Invalid("must be text", "Put it in quotes if it is meant as text")
    if not value.strip():
        raise Invalid(
            "is blank",
            "Give it a value, or remove it; a variable that is set to nothing counts as not set",
        )
    return value


def flag(value: object) -> bool:
    """A yes or a no; as text too, because environment variables are."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in ON_WORDS | OFF_WORDS:
        raise Invalid(
            "must be true or false", "Write true or false; on, off, yes, no, 1 and 0 will do"
        )
    return word in ON_WORDS


def number(value: object, least: float, most: float, unit: str = "") -> float:
    """A finite number from *least* to *most*, or the text of one."""
    found = math.nan
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        found = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = math.inf if abs(value) > most else float(value)
    if math.isnan(found):
        raise Invalid(f"must be a number{unit}", f"Write a number from {least:g} to {most:g}")
    if not least <= found <= most:
        raise Invalid("is out of range", f"Write a number{unit} from {least:g} to {most:g}")
    return found


def wait(value: object, longest: timedelta = LONGEST_WAIT) -> timedelta:
    """A time above zero."""
    most = longest.total_seconds()
    remedy = f"Write a number of seconds above 0, up to {most:g}"
    try:
        found = timedelta(seconds=number(value, 0, most, " of seconds"))
    except Invalid as invalid:
        raise Invalid(invalid.problem, remedy) from None
    if not found:
        raise Invalid("must be more than 0", remedy)
    return found


def timeout(value: object) -> timedelta:
    """The time for one attempt."""
    return wait(value, timedelta(minutes=5))


def flush_timeout(value: object) -> timedelta:
    """The time a command may wait for deliveries when its migrations are over; 0 is none."""
    return timedelta(seconds=number(value, 0, 3600, " of seconds"))


def jitter(value: object) -> float:
    """A share, from 0 to 1."""
    return number(value, 0, 1)


def name(value: object) -> str:
    """An endpoint's name: it becomes a label in telemetry and a word on command lines."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise Invalid(
        "is not a name",
        "Use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    )


def event(value: object) -> EventType:
    """An event an endpoint can ask for."""
    known = [member.value for member in EventType if member in SUBSCRIBABLE]
    return EventType(one_of(value, known, "an event"))


def secret(value: object) -> str:
    """A secret that both signatures can be keyed with."""
    found = text(value)
    try:
        signing_key(found)
    except ValueError:
        raise Invalid(
            "is not base64 after `whsec_`",
            "Copy the whole secret, or use one that does not begin with `whsec_`",
        ) from None
    return found


def routing_key(value: object) -> str:
    """The integration key of a PagerDuty service."""
    found = text(value)
    if not _ROUTING_KEY.fullmatch(found):
        raise Invalid(
            "is not 32 letters and digits",
            "Copy the integration key of an Events API v2 integration",
        )
    return found


def header_name(value: object) -> str:
    """The name of a header that is the user's to set."""
    found = value if isinstance(value, str) else ""
    if not _TOKEN.fullmatch(found):
        raise Invalid("is not a header name", "Use letters, digits and dashes")
    if found.lower() in RESERVED_HEADERS or found.lower().startswith(RESERVED_PREFIX):
        raise Invalid("is set by confiture-webhooks itself", "Remove it, or use another name")
    return found


def header_value(value: object) -> str:
    """Text that a header carries as it is."""
    if not isinstance(value, str):
        raise Invalid("must be text", "Put the header's value in quotes")
    if CONTROL.search(value):
        raise Invalid(
            "holds a line break or another control character", "Write the value on one line"
        )
    if value != value.strip():
        raise Invalid("begins or ends with blanks", "Remove them")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise Invalid(
            "holds characters that a header cannot carry", "Use characters of ISO 8859-1 (Latin-1)"
        ) from None
    return value


def module(value: object) -> str:
    """The dotted name of a Python module."""
    if isinstance(value, str) and all(
        part.isidentifier() and not keyword.iskeyword(part) for part in value.split(".")
    ):
        return value
    raise Invalid("is not a module's name", "Write it as in an import: `package.module`")


def outbox(value: object) -> str:
    """``sqlite[:path]``, ``postgres[:dsn]`` or ``memory``."""
    remedy = "Write `sqlite`, `sqlite:<path>`, `postgres`, `postgres:<dsn>` or `memory`"
    if not isinstance(value, str) or CONTROL.search(value):
        raise Invalid("is not an outbox", remedy)
    kind, colon, rest = value.partition(":")
    if kind == "postgresql" or (kind == "postgres" and rest.startswith("//")):
        raise Invalid("is a bare DSN", "Put `postgres:` before it: `postgres:postgresql://…`")
    if kind not in OUTBOXES:
        raise Invalid("is not an outbox", did_you_mean(kind, OUTBOXES) + remedy)
    if colon and (kind == "memory" or not rest.strip()):
        raise Invalid(f"has {'something' if rest.strip() else 'nothing'} after the colon", remedy)
    if rest and kind == "postgres" and "=" not in rest and not _is_postgres_url(rest):
        raise Invalid("has no DSN after the colon", "Write `postgres:postgresql://…`")
    return value


def _is_postgres_url(dsn: str) -> bool:
    return dsn.startswith(("postgresql://", "postgres://"))


_RATE_SECONDS = {"s": 1, "m": 60, "h": 3600}


def rate(value: object) -> timedelta:
    """Requests per second, minute or hour, as the least time between two: ``1/s``, ``30/m``."""
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not float(found[1]):
        raise Invalid("is not a rate", "Write it as `1/s`, `30/m` or `100/h`")
    gap = timedelta(seconds=_RATE_SECONDS[found[2]] / float(found[1]))
    if not timedelta(milliseconds=1) <= gap <= timedelta(hours=1):
        raise Invalid("is out of range", "Write a rate from `1/h` to `1000/s`")
    return gap


def network(value: object) -> str:
    """A network, an address, or a name for networks."""
    try:
        members(str(value) if isinstance(value, str) else "")
    except ValueError:
        near = did_you_mean(value, NAMED)
        raise Invalid(
            "is not a network", f"{near}Write it as `10.0.0.0/8`, or {', '.join(NAMED)}"
        ) from None
    return str(value)


def concurrency(value: object) -> int:
    """How many runs' deliveries are sent at once."""
    found = number(value, 1, 64)
    if found != int(found):
        raise Invalid("must be a whole number", "Write a number from 1 to 64")
    return int(found)


def trace_url(value: object) -> str:
    """A web address with ``{trace_id}`` in it."""
    found = text(value)
    if not found.startswith(("https://", "http://")) or "{trace_id}" not in found:
        raise Invalid(
            "is not a link to a trace", "Write it as `https://jaeger.example/trace/{trace_id}`"
        )
    return found
