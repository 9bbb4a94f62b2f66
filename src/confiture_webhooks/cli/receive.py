"""``confiture webhooks listen`` and ``verify``: the receiver's side."""

from __future__ import annotations

import json
import os
import queue
import signal
from codecs import BOM_UTF8
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import rules, variables
from ..errors import SignatureError, WebhooksError
from ..event import rfc3339
from ..receiver import DEFAULT_TOLERANCE, LocalReceiver, Received, verify
from ..receiver.local import (
    LARGEST,
    SENDERS_SETTING,
    as_document,
    describe,
    is_signed,
    payload_of,
    read_capture,
)
from ..receiver.server import Incoming, answer_of
from ..signature import SIGNED_HEADERS
from ..terminal import say
from .context import refusal
from .options import FormatOpt
from .tables import CONFIG_INVALID, WRONG_COMMAND, CommandError, conclude, line, print_facts

DEFAULT_PORT = 8000

SecretOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        help=f"The endpoint's secret; repeat it during a rotation (default: {variables.SECRET}, "
        "which keeps it out of the list of processes)",
        show_default=False,
    ),
]


def listen(
    port: Annotated[
        int, typer.Option("--port", help="Port on 127.0.0.1; 0 picks a free one", min=0, max=65535)
    ] = DEFAULT_PORT,
    secret: SecretOpt = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            "--answer",
            help="The answers to POSTs, in order, then 200: a status, or a word of ANSWERS; "
            "with commas or repeated",
            show_default=False,
        ),
    ] = None,
    output: FormatOpt = "text",
) -> None:
    """Receive webhooks on this machine and show them as they arrive.

    PROCESS:
      Serves every path on 127.0.0.1, checks signatures if it has the secret, and answers as
      --answer says; without --answer, 401 where a signature is wrong. Ctrl-C ends it. With
      --format json, one document per line.

    ANSWERS:
      503        A status from 200 to 599.
      429:20     A status with Retry-After: 20.
      slow       200, after a second.
      hang       Nothing, with the connection kept open.
      close      Nothing: the connection is closed.
      reset      Nothing: the connection is reset.
      drip       200, and then headers without an end, a byte at a time.
      drip_body  200, and then its body, a byte at a time.
      endless    200, and then a body without an end, as fast as it is read.
      rubbish    Bytes that are not HTTP.

    EXAMPLES:
      confiture webhooks listen
        ↳ Then: CONFITURE_WEBHOOK_URL=http://127.0.0.1:8000/ confiture migrate up

      confiture webhooks listen --answer 503,503
        ↳ See the sender try three times

      confiture webhooks listen --format json | jq .payload
        ↳ Only what was sent

    EXIT CODES:
      0  Ended with Ctrl-C.
      2  Wrong option, or the port is not free.
      5  The secret cannot be used.
    """
    arrived: queue.SimpleQueue[Received] = queue.SimpleQueue()
    try:
        answers = [answer_of(part.strip()) for word in answer or () for part in word.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--answer") from error
    secrets = _secrets(secret)
    try:
        receiver = LocalReceiver(
            port, secrets or None, answers, arrived.put, keeps=100, refuses=not answers
        )
    except WebhooksError as error:
        raise CommandError(f"{error}. Choose another with --port", code=WRONG_COMMAND) from error
    with receiver:
        note = "signatures are checked" if secrets else "no secret: signatures are not checked"
        say(f"Listening on {receiver.url}/ ({note}). Ctrl-C ends it")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
        with suppress(KeyboardInterrupt):
            while True:
                _show_request(arrived.get(), secrets, output)
    while not arrived.empty():
        _show_request(arrived.get(), secrets, output)


def _show_request(received: Received, secrets: list[str], output: str) -> None:
    document, why_not = as_document(received), ""
    if output == "json":
        print(json.dumps(document), flush=True)
        return
    if received.verified is False:
        why_not = _checked(received, secrets, DEFAULT_TOLERANCE).get("reason", "")
    title, facts = describe(document, why_not)
    print_facts(facts.items(), title=title)


def _secrets(given: list[str] | None) -> list[str]:
    """The secrets, each one that a sender takes, too. Raises ConfigError."""
    setting = "--secret" if given else variables.SECRET
    try:
        named = given or filter(None, [os.environ.get(variables.SECRET)])
        return [rules.secret(one) for one in named]
    except rules.Invalid as invalid:
        raise refusal(setting, invalid.problem, invalid.remedy) from None


def verify_command(
    file: Annotated[Path, typer.Argument(help="The captured request; - reads standard input")],
    secret: SecretOpt = None,
    tolerance: Annotated[
        int,
        typer.Option(
            "--tolerance", help="Seconds a signature may be old or early; 0: any time", min=0
        ),
    ] = 300,
    output: FormatOpt = "text",
) -> None:
    """Check the signature of a captured request.

    PROCESS:
      FILE is a raw HTTP request (headers, blank line, body) or one JSON document as
      `listen --format json` prints it. The Standard Webhooks signature is checked; with
      --tolerance 0, X-Confiture-Signature alone will do: it has no time in it.

    EXAMPLES:
      confiture webhooks verify request.txt
        ↳ With the secret in CONFITURE_WEBHOOK_SECRET

      confiture webhooks verify --tolerance 0 - < request.json
        ↳ One that was captured long ago

    EXIT CODES:
      0  The signature is valid.
      1  It is not.
      2  Wrong option, or FILE cannot be read as a request.
      5  No secret, or one that cannot be used.
    """
    secrets = _secrets(secret)
    if not secrets:
        problem = f"no secret: set {variables.SECRET} or give --secret"
        raise CommandError(problem, code=CONFIG_INVALID)
    is_piped = str(file) == "-"
    place = "standard input" if is_piped else file
    try:
        with open(0 if is_piped else file, "rb", closefd=not is_piped) as source:
            capture = read_capture(source.read(LARGEST + 1))
    except OSError as error:
        problem = f"cannot read {place}: {error.strerror}"
        raise CommandError(problem, code=WRONG_COMMAND) from error
    except WebhooksError as error:
        problem = f"{place} is not a captured request: {error}"
        raise CommandError(problem, code=WRONG_COMMAND) from error
    document = _checked(capture, secrets, timedelta(seconds=min(tolerance, 10**9)) or None)
    conclude(document, partial(_show_verdict, document), output)


def _checked(capture: Incoming, secrets: list[str], tolerance: timedelta | None) -> dict[str, Any]:
    check = partial(verify, capture.headers, capture.body, secrets, max_body=len(capture.body))
    try:
        event = check(tolerance=tolerance, require_timestamp=tolerance is not None)
    except SignatureError:
        # A receiver must not give senders the reason; this command's user holds the secret.
        try:
            reason = _reason_of_time(check(tolerance=None, require_timestamp=False).sent_at)
        except SignatureError:
            reason = _unreadable(capture)
        return {"ok": False, "valid": False, "reason": reason}
    return {
        "ok": True,
        "valid": True,
        "event_id": event.id,
        "event_type": event.type,
        "correlation_id": event.correlation_id,
        "sent_at": event.sent_at and rfc3339(event.sent_at),
    }


def _reason_of_time(sent_at: datetime | None) -> str:
    accept = "with --tolerance 0 it is accepted"
    if sent_at is None:
        return f"no time: X-Confiture-Signature has no time; {accept}"
    age = (datetime.now(UTC) - sent_at).total_seconds()
    kind, when = ("too old", "ago") if age >= 0 else ("too early", "from now")
    return f"{kind}: signed with this secret, but {abs(age):.0f} s {when}; {accept}"


def _unreadable(capture: Incoming) -> str:
    if not is_signed(capture.headers):
        return "it is not signed: it has no signature header"
    names = {name.lower() for name in capture.headers}
    missing = {"webhook-id", "webhook-timestamp"} - names
    if "webhook-signature" in capture.headers and missing:
        return f"unreadable: it has no {' and no '.join(sorted(missing))} header"
    if twice := [name for name in SIGNED_HEADERS if ", " in capture.headers.get(name, "")]:
        return f"unreadable: it has more than one {twice[0]} header"
    if capture.body.startswith(BOM_UTF8):
        return "changed: its body begins with a byte order mark, which an editor adds. Remove it"
    if not isinstance(payload_of(capture.body), dict):
        coded = names & {"content-encoding", "transfer-encoding"}
        remedy = f"; decode it as its {' and '.join(sorted(coded))} says" if coded else ""
        return f"unreadable: its body is not a JSON object{remedy}"
    problem = "signature: none in it was made with this secret, or the request was changed since"
    return f"{problem}. Compare the secret with the sender's ({SENDERS_SETTING})"


def _show_verdict(document: dict[str, Any]) -> None:
    if not document["valid"]:
        line(f"❌ Not valid: {document['reason']}", "red")
        return
    line("✅ The signature is valid", "green")
    facts = {name: str(value) for name, value in document.items() if value is not None}
    print_facts((name, facts[name]) for name in facts if name not in {"ok", "valid"})
