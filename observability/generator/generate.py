"""Writes dashboards and rules, a folder for each kind of server: ``python observability/generator/generate.py``.

``--check`` writes nothing and names the files that are not current.
"""

from __future__ import annotations

import sys
from pathlib import Path

import alerts
from delivery import webhook_delivery
from dialects import DIALECTS, LOG_STORES
from migrations import migrations
from pipeline import telemetry_pipeline

OBSERVABILITY = Path(__file__).resolve().parent.parent
DASHBOARDS = (webhook_delivery, migrations, telemetry_pipeline)


def files() -> dict[Path, str]:
    """Every file that is made, with its text."""
    made: dict[Path, str] = {}
    for dialect in DIALECTS:
        folder = OBSERVABILITY / dialect.folder
        made |= {folder / name: text for name, text in alerts.files(dialect).items()}
        for store in LOG_STORES:
            for draw in DASHBOARDS:
                dashboard = draw(dialect, store)
                name = f"{dashboard.uid.removeprefix('confiture-')}.json"
                made[folder / "dashboards" / store.name / name] = dashboard.text()
    return made


def main() -> int:
    """Write the files, or with ``--check`` name those that are not current; the exit code."""
    made = files()
    there = {
        path
        for dialect in DIALECTS
        for pattern in ("rules*/*.yml", "dashboards/*/*.json")
        for path in (OBSERVABILITY / dialect.folder).glob(pattern)
    }
    stale = [path for path, text in made.items() if path not in there or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in [*stale, *sorted(there - set(made))]:
            print(f"not current: {path}", file=sys.stderr)
        return 1 if stale or there - set(made) else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path])
        print(f"wrote {path}")
    for path in there - set(made):
        path.unlink()
        print(f"removed {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
