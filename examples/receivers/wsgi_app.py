"""A receiver without a framework: ``CONFITURE_WEBHOOK_SECRET=… python wsgi_app.py``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING
from wsgiref.simple_server import make_server

import tracing
from handling import handle

from confiture_webhooks.receiver import Inbox

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

inbox = Inbox(os.environ["CONFITURE_WEBHOOK_SECRET"], handle)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    length = (environ.get("CONTENT_LENGTH") or "")[:9]
    size = min(int(length) if length.isdecimal() else 0, inbox.max_body + 1)
    reply = inbox.receive(headers, environ["wsgi.input"].read(size))
    status = HTTPStatus(reply.status)
    sent = {"Content-Type": "application/json", **reply.headers}
    start_response(f"{status.value} {status.phrase}", list(sent.items()))
    return [json.dumps(dict(reply.document)).encode()]


if __name__ == "__main__":
    tracing.set_up()
    make_server("127.0.0.1", int(os.environ.get("PORT", "8000")), app).serve_forever()
