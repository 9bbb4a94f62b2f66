"""What the plugin costs a command: with nothing configured, and with one endpoint."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from harness import Comparison, bench, paired, timed

from confiture_webhooks.receiver import LocalReceiver

HOST = "from confiture.cli.main import app; app()"
WITHOUT_PLUGINS = (
    "import importlib.metadata as m; find = m.entry_points; "
    "m.entry_points = lambda **k: () if k.get('group') == 'confiture.plugins' else find(**k); "
) + HOST


def unconfigured() -> Comparison:
    """``confiture --version`` with the plugin installed, against the same without any plugin."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        return paired(
            "confiture --version, nothing configured",
            lambda: timed([sys.executable, "-c", HOST, "--version"], path),
            lambda: timed([sys.executable, "-c", WITHOUT_PLUGINS, "--version"], path),
            rounds=20,
            unit="s",
            target="ratio at most 1.01",
        )


def one_endpoint() -> Comparison:
    """A whole ``migrate up`` of three migrations with one endpoint, against webhooks off."""
    with bench() as project, LocalReceiver() as receiver:
        project.migrations(3, lambda n: f"CREATE TABLE t{n} (id int);")
        url = {"CONFITURE_WEBHOOK_URL": receiver.url}
        return paired(
            "migrate up, one endpoint",
            lambda: project.up(url),
            lambda: project.up({**url, "CONFITURE_WEBHOOKS": "off"}),
            rounds=10,
            unit="s",
            target="difference at most 0.150 s",
        )


if __name__ == "__main__":
    print(unconfigured().line())
    print(one_endpoint().line())
