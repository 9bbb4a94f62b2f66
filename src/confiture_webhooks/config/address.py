"""An endpoint's address: its URL, and the user and password in it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from ..networks import is_loopback
from .rules import CONTROL, Invalid, text

LONGEST_HOST = 253

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f\\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an endpoint is: its URL without user and password, and those."""

    url: str = field(repr=False)
    basic_auth: tuple[str, str] | None = field(repr=False)
    is_https: bool
    is_loopback: bool


def address(value: object) -> Address:
    """An ``http`` or ``https`` address; whether plain ``http`` will do is not asked here."""
    found = text(value)
    if _BLANK_OR_CONTROL.search(found):
        raise Invalid(
            "holds a blank, a backslash or a control character", "Remove it, or percent-encode it"
        )
    try:
        parts = urlsplit(found)
        port = parts.port
    except ValueError:
        raise Invalid("has a bad host or port", "Write it as `https://host[:port]/path`") from None
    if parts.scheme not in ("http", "https"):
        raise Invalid("is neither http nor https", "Write it as `https://host[:port]/path`")
    if "#" in found:
        raise Invalid("has a fragment (`#…`), which is never sent", "Remove it")
    if "@" in parts.netloc and found.count("@") > 1:
        # A bare "@", "/" or "?" in a password would make part of it the host, and hosts are shown.
        raise Invalid(
            "has a user or password, and another `@`",
            "Write `%40` for each `@` but the one before the host",
        )
    if not _is_host(parts.hostname or "") or port == 0 or parts.netloc.endswith(":"):
        raise Invalid("has a bad host or port", "Write it as `https://host[:port]/path`")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return Address(
        url=bare.geturl(),
        basic_auth=_basic_auth(parts),
        is_https=parts.scheme == "https",
        is_loopback=is_loopback(parts.hostname or ""),
    )


def _is_host(host: str) -> bool:
    try:
        if ":" in host:
            return bool(ipaddress.ip_address(host))
        labels = host.encode("idna").decode().removesuffix(".").split(".")
    except ValueError:
        return False
    return len(host) <= LONGEST_HOST and all(_LABEL.fullmatch(label) for label in labels)


def _basic_auth(parts: SplitResult) -> tuple[str, str] | None:
    """User and password, decoded; refuses what Basic authentication (RFC 7617) cannot carry."""
    try:
        user, password = (
            unquote(part or "", errors="strict") for part in (parts.username, parts.password)
        )
    except UnicodeDecodeError:
        raise Invalid(
            "has a user or password that is not UTF-8 when decoded",
            "Percent-encode its UTF-8 bytes, or use an `Authorization` header",
        ) from None
    if not user and not password:
        return None
    if ":" in user or CONTROL.search(user + password):
        raise Invalid(
            "has a user with a colon, or a control character in user or password",
            "Use an `Authorization` header instead",
        )
    return user, password
