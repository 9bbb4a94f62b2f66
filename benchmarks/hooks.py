"""What hook files cost: a command that does not migrate, and the inside of a transaction."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from harness import Comparison, bench, paired, timed
from start_up import HOST, WITHOUT_PLUGINS
from transaction import MARK, gaps

HOOKS = "".join(
    f"@register_hook('{event}')\ndef {event}(context):\n    time.sleep(0.01)\n"
    for event in ("pre_execute", "post_execute")
)
FILE = f"import time\nimport requests\nfrom confiture.hooks import register_hook\n{HOOKS}"


def put(project: Path) -> Path:
    """The hook file of *project*, written."""
    path = project / "confiture_hooks" / "hooks.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(FILE, encoding="utf-8")
    return path


def not_migrating(*arguments: str) -> Comparison:
    """A command beside hook files with the plugin, against the same without any plugin."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        put(path)
        return paired(
            f"confiture {' '.join(arguments)}, hook files there",
            lambda: timed([sys.executable, "-c", HOST, *arguments], path),
            lambda: timed([sys.executable, "-c", WITHOUT_PLUGINS, *arguments], path),
            rounds=20,
            unit="s",
            target="ratio at most 1.01",
        )


def transaction() -> Comparison:
    """The last statement to COMMIT, with hooks of twenty migrations and without."""
    logged = {"log_statement": "all", "log_line_prefix": "%n ", "logging_collector": "on"}
    with bench(logged) as project:
        project.migrations(20, lambda n: f"CREATE TABLE t{n} (id int); SELECT '{MARK}';")
        pairs = []
        for _ in range(8):
            file = put(project.path)
            with_hooks = statistics.median(gaps(project, {}, []))
            file.unlink()
            pairs.append((with_hooks, statistics.median(gaps(project, {}, []))))
    return Comparison(
        "last statement to COMMIT, two hooks per migration",
        "ms",
        [ours for ours, _ in pairs],
        [off for _, off in pairs],
        "difference at most 1 ms",
    )


if __name__ == "__main__":
    print(not_migrating("--version").line())
    print(not_migrating("migrate", "validate", "--help").line())
    print(transaction().line())
