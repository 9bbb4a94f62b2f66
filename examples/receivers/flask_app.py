"""A receiver in Flask: ``CONFITURE_WEBHOOK_SECRET=… python flask_app.py``."""

from __future__ import annotations

import os
from typing import Any

import tracing
from flask import Flask, request
from handling import handle

from confiture_webhooks.receiver import Inbox

inbox = Inbox(os.environ["CONFITURE_WEBHOOK_SECRET"], handle)
app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = inbox.max_body


@app.post("/webhooks/migrations")
def migrations() -> Any:
    reply = inbox.receive(request.headers, request.get_data())
    return dict(reply.document), reply.status, dict(reply.headers)


if __name__ == "__main__":
    tracing.set_up()
    app.run(port=int(os.environ.get("PORT", "8000")))
