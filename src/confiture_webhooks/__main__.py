"""``python -m confiture_webhooks``: the commands of ``confiture webhooks``, without the host's."""

from __future__ import annotations

from .plugin import webhooks_app

if __name__ == "__main__":
    webhooks_app()(prog_name="python -m confiture_webhooks")
