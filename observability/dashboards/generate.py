"""Writes the dashboards' JSON: ``python observability/dashboards/generate.py`` (``--check``: is it current?)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from delivery import webhook_delivery
from migrations import migrations
from panels import Dashboard
from pipeline import telemetry_pipeline

HERE = Path(__file__).resolve().parent
LOKI = HERE.parent / "loki" / "dashboards"


def files() -> dict[Path, str]:
    """Every file that is made, with its text."""
    made: dict[Path, str] = {}
    for folder, logs in ((HERE, "victorialogs"), (LOKI, "loki")):
        for dashboard in (webhook_delivery(logs), migrations(logs), telemetry_pipeline(logs)):
            made[folder / f"{dashboard.uid.removeprefix('confiture-')}.json"] = text(dashboard)
    return made


def text(dashboard: Dashboard) -> str:
    """The dashboard as it is committed."""
    return json.dumps(dashboard.json(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the files, or with ``--check`` name those that are not current; the exit code."""
    stale = [
        path for path, made in files().items() if not path.exists() or path.read_text() != made
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"not current: {path}", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files()[path])
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
