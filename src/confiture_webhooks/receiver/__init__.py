"""For those who receive: ``verify`` and ``Inbox``, and a local receiver to try senders against."""

from .local import (
    DEFAULT_MAX_BODY,
    DEFAULT_TOLERANCE,
    Inbox,
    LocalReceiver,
    Received,
    ReplayWindow,
    Reply,
    SignatureError,
    Turn,
    Verified,
    verify,
)

__all__ = [
    "DEFAULT_MAX_BODY",
    "DEFAULT_TOLERANCE",
    "Inbox",
    "LocalReceiver",
    "Received",
    "ReplayWindow",
    "Reply",
    "SignatureError",
    "Turn",
    "Verified",
    "verify",
]
