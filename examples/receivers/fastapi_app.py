"""A receiver in FastAPI or Starlette: ``CONFITURE_WEBHOOK_SECRET=… python fastapi_app.py``."""

from __future__ import annotations

import os

import tracing
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from handling import handle

from confiture_webhooks.receiver import Inbox

inbox = Inbox(os.environ["CONFITURE_WEBHOOK_SECRET"], handle)
app = FastAPI()


@app.post("/webhooks/migrations")
async def migrations(request: Request) -> JSONResponse:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > inbox.max_body:
            break  # it is refused unread
    reply = await run_in_threadpool(inbox.receive, request.headers, body)
    return JSONResponse(dict(reply.document), reply.status, dict(reply.headers))


if __name__ == "__main__":
    tracing.set_up()
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
