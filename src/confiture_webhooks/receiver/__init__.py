"""For those who receive: ``verify`` and ``Inbox``, and a local receiver to try senders against."""

from ..errors import SignatureError
from ..inbox import Inbox, ReplayWindow, Reply, Turn
from ..signature import DEFAULT_MAX_BODY, DEFAULT_TOLERANCE, Verified, verify
from .local import LocalReceiver, Received

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
