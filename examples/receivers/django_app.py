"""A receiver in Django, on one page: ``CONFITURE_WEBHOOK_SECRET=… python django_app.py``."""

from __future__ import annotations

import os

import tracing
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from handling import handle

from confiture_webhooks.receiver import Inbox

inbox = Inbox(os.environ["CONFITURE_WEBHOOK_SECRET"], handle)


@csrf_exempt  # the signature is what protects it
@require_POST
def migrations(request: HttpRequest) -> JsonResponse:
    reply = inbox.receive(request.headers, request.body)
    return JsonResponse(dict(reply.document), status=reply.status, headers=dict(reply.headers))


urlpatterns = [path("webhooks/migrations", migrations)]

if __name__ == "__main__":
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF=__name__,
        DATA_UPLOAD_MAX_MEMORY_SIZE=inbox.max_body,
    )
    tracing.set_up()
    port = os.environ.get("PORT", "8000")
    execute_from_command_line(["django_app.py", "runserver", "--noreload", port])
