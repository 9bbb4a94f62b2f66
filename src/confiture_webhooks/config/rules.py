"""The rules for one setting, wherever it was written: each returns the value or says why not.

No problem here holds what the user wrote: it may be a secret. A rule without a remedy of its own
leaves it to the setting's row in the documentation.
"""

from __future__ import annotations

import ipaddress
import keyword
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from urllib.parse import SplitResult, unquote, urlsplit

from ..command_watch import OFF_WORDS
from ..networks import NAMED, members
from ..signature import signing_key
from .variables import ON_WORDS

OUTBOXES = ("sqlite", "postgres", "memory")
LONGEST_HOST = 253
LONGEST_WAIT = 7 * 24 * 3600
RESERVED_HEADERS = frozenset(
    (
        *("baggage", "connection", "content-length", "content-type", "host", "traceparent"),
        *("tracestate", "transfer-encoding", "user-agent", "webhook-id", "webhook-signature"),
        *("webhook-timestamp", "x-correlation-id", "x-environment", "x-migration-version"),
    )
)
RESERVED_PREFIX = "x-confiture-"
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Line breaks, control characters, and characters that cannot be seen."""

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f\\]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*/\s*(s|m|h)")
_ADDRESS = re.compile(r"([\w+.-]+:)?//")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_IN_BRACKETS = re.compile(r"\[[^]]*\](:[0-9]+)?")
_UNREPLACED = re.compile(r"(.*[\s/=])?\$(\(|\{)?[A-Z_][A-Z0-9_]+[)}]?")
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")


@dataclass(eq=False)
class Invalid(ValueError):  # noqa: N818  a rule's answer: it never leaves the reading
    """A value that will not do: what is wrong with it, and the remedy."""

    problem: str
    remedy: str = ""


class Unset(Invalid):
    """It needs a variable that is not set."""

    def __init__(self, variable: str) -> None:
        problem = f"needs the environment variable {variable}, which is not set"
        super().__init__(problem, f"Set {variable}")


class TooMany(Invalid):
    """The rest of the block was not read."""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``Did you mean …? `` for a near miss, else nothing."""
    names = list(known)
    word = re.sub("fail(ed|ure)", "error", word.lower()) if isinstance(word, str) else ""
    near = get_close_matches(word, names, 1)
    return f"Did you mean `{near[0]}`? " if near else ""


def one_of(known: Sequence[str], what: str, value: object, *, in_any_case: bool = False) -> str:
    """A word out of *known*."""
    if isinstance(value, str) and in_any_case:
        value = value.strip().lower()
    if isinstance(value, str) and value in known:
        return value
    raise Invalid(f"is not {what}", f"{did_you_mean(value, known)}It can be: {', '.join(known)}")


def text(value: object) -> str:
    """Text as it was meant: no white space around it, no line break, no quotes of its own."""
    if not isinstance(value, str):
        raise Invalid("must be text", "Put it in quotes if it is meant as text")
    if not value.strip():
        raise Invalid("is blank", "Give it a value, or remove it. Its variable may be empty")
    if value != value.strip():
        remedy = "Remove it; the last line break of a file is often the reason"
        raise Invalid("begins or ends with white space", remedy)
    if CONTROL.search(value):
        problem = "holds a line break, a byte order mark or another character that cannot be seen"
        raise Invalid(problem, "Write it on one line, without them")
    if len(value) > 1 and value[0] + value[-1] in _QUOTES:
        raise Invalid("is in quotes that are part of it", "Remove the quotes around it")
    if _UNREPLACED.fullmatch(value):  # so some CI systems leave it if NAME is not defined
        remedy = "Set it where this value comes from; in a file write `${NAME}`"
        raise Invalid("is or ends with a variable that nothing replaced", remedy)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid("holds bytes that are not text", "Use UTF-8") from None
    return value


def flag(value: object) -> bool:
    """A yes or a no; as text too, because environment variables are."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ON_WORDS | OFF_WORDS:
        return word in ON_WORDS
    remedy = "Write true or false; on, off, yes, no, 1 and 0 will do"
    raise Invalid("must be true or false", remedy)


def number(least: float, most: float, value: object, *, is_whole: bool = False) -> float:
    """A finite number, or the text of one."""
    found = math.nan
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        found = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = math.inf if abs(value) > most else float(value)
    if math.isnan(found):
        raise Invalid("must be a number")
    if not least <= found <= most:
        raise Invalid("is out of range")
    if is_whole and found != int(found):
        raise Invalid("must be a whole number")
    return int(found) if is_whole else found


def seconds(most: float, value: object, *, may_be_zero: bool = False) -> timedelta:
    """A time of up to *most* seconds."""
    found = timedelta(seconds=number(0, most, value))
    if not found and not may_be_zero:
        raise Invalid("must be more than 0")
    return found


def matching(form: str, problem: str, remedy: str, value: object) -> str:
    """A text of a *form*, which is a regular expression."""
    found = text(value)
    if not re.fullmatch(form, found):
        raise Invalid(problem, remedy)
    return found


def rate(value: object) -> timedelta:
    """Requests per second, minute or hour, as the least time between two."""
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not float(found[1]):
        raise Invalid("is not a rate")
    gap = timedelta(seconds={"s": 1, "m": 60, "h": 3600}[found[2]] / float(found[1]))
    if not timedelta(milliseconds=1) <= gap <= timedelta(hours=1):
        raise Invalid("is out of range", "Write a rate from `1/h` to `1000/s`")
    return gap


def name(value: object) -> str:
    """An endpoint's name: it becomes a label in telemetry and a word on command lines."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    remedy = "Use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
    raise Invalid("is not a name", remedy)


def secret(value: object) -> str:
    """A secret that both signatures can be keyed with."""
    found = text(value)
    try:
        signing_key(found)
    except ValueError:
        remedy = "Copy the whole secret, or use one that does not begin with `whsec_`"
        raise Invalid("is not base64 after `whsec_`", remedy) from None
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
    found = text(value)
    if not is_latin(found):
        remedy = "Use characters of ISO 8859-1 (Latin-1)"
        raise Invalid("holds characters that a header cannot carry", remedy)
    return found


def is_latin(found: str) -> bool:
    """Whether a header can carry every character of it."""
    return max(found) <= "\xff"


def module(value: object) -> str:
    """The dotted name of a Python module."""
    parts = value.split(".") if isinstance(value, str) else [""]
    if all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        return str(value)
    raise Invalid("is not a module's name", "Write it as in an import: `package.module`")


def network(value: object) -> str:
    """A network, an address, or a name for networks."""
    try:
        members(text(value))
    except ValueError:
        remedy = f"Write it as `10.0.0.0/8`, or one of: {', '.join(NAMED)}"
        raise Invalid("is not a network", did_you_mean(value, NAMED) + remedy) from None
    return str(value)


def outbox(value: object) -> str:
    """``sqlite[:path]``, ``postgres[:dsn]`` or ``memory``."""
    remedy = "Write `sqlite`, `sqlite:<path>`, `postgres`, `postgres:<dsn>` or `memory`"
    found = text(value)
    kind, colon, rest = found.partition(":")
    if kind == "postgresql" or (kind == "postgres" and rest.startswith("//")):
        raise Invalid("is a bare DSN", "Put `postgres:` before it: `postgres:postgresql://…`")
    if kind not in OUTBOXES:
        raise Invalid("is not an outbox", did_you_mean(kind, OUTBOXES) + remedy)
    if colon and (kind == "memory" or not rest.strip()):
        raise Invalid(f"has {'something' if rest.strip() else 'nothing'} after the colon", remedy)
    if kind == "sqlite" and rest and rest.rpartition("/")[2].strip() in ("", ".", "..", "~"):
        raise Invalid("names a directory", "Write `sqlite:<path>` with the name of a file")
    if kind == "sqlite" and _ADDRESS.match(rest):
        # Taken as a path, it would be shown with the password in it.
        raise Invalid("is an address, not a file", "Write `sqlite:<path>`, or `postgres:<dsn>`")
    if kind == "postgres" and rest and not _is_dsn(rest):
        form = "Write `postgres:postgresql://user:password@host:5432/database`"
        encode = "percent-encode `@`, `/`, `:`, `?`, `#` and `%` in user and password"
        raise Invalid("has no valid DSN after the colon", f"{form}; {encode}")
    return found


def _is_dsn(given: str) -> bool:
    """Whether libpq can read it."""
    from psycopg import Error, conninfo  # noqa: PLC0415  only who names a database pays

    try:
        conninfo.conninfo_to_dict(given)
    except (Error, UnicodeError):  # its text quotes the DSN
        return False
    return True


def address(value: object) -> tuple[str, tuple[str, str] | None]:
    """An ``http`` or ``https`` address without user and password, and those."""
    found = text(value)
    form = "Write it as `https://host[:port]/path`"
    bad_host = Invalid("has a bad host or port", form)
    if _BLANK_OR_CONTROL.search(found):
        remedy = "Remove it, or percent-encode it"
        raise Invalid("holds a blank, a backslash or a control character", remedy)
    try:
        parts = urlsplit(found)
        port = parts.port
    except ValueError:
        raise bad_host from None
    if parts.scheme not in ("http", "https"):
        raise Invalid("is neither http nor https", form)
    if "#" in found:
        raise Invalid("has a fragment (`#…`), which is never sent", "Remove it")
    if "@" in parts.netloc and found.count("@") > 1:
        # A bare "@", "/" or "?" in a password would make part of it the host, and hosts are shown.
        remedy = "Write `%40` for each `@` but the one before the host"
        raise Invalid("has a user or password, and another `@`", remedy)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    if not _is_host(bare) or port == 0 or parts.netloc.endswith(":"):
        raise bad_host
    return bare.geturl(), _basic_auth(parts) if "@" in parts.netloc else None


def _is_host(bare: SplitResult) -> bool:
    host = bare.hostname or ""
    try:
        if "[" in bare.netloc:
            return bool(_IN_BRACKETS.fullmatch(bare.netloc) and ipaddress.IPv6Address(host))
        if not host.isascii():
            import idna  # noqa: PLC0415  comes with requests, which asks it for each label

            for label in host.split("."):
                if not label.isascii():
                    idna.encode(label, strict=True)
        labels = host.encode("idna").decode().removesuffix(".").split(".")
    except ValueError:
        return False
    return len(host) <= LONGEST_HOST and all(map(_LABEL.fullmatch, labels))


def _basic_auth(parts: SplitResult) -> tuple[str, str] | None:
    """User and password, decoded; refuses what Basic authentication (RFC 7617) cannot carry."""
    try:
        given = (parts.username or "", parts.password or "")
        user, password = (unquote(part, errors="strict") for part in given)
    except UnicodeDecodeError:
        remedy = "Percent-encode its UTF-8 bytes, or use an `Authorization` header"
        raise Invalid("has a user or password that is not UTF-8 when decoded", remedy) from None
    if not user and not password:
        return None
    if ":" in user or CONTROL.search(user + password):
        problem = "has a user with a colon, or a control character in user or password"
        raise Invalid(problem, "Use an `Authorization` header instead")
    return user, password
