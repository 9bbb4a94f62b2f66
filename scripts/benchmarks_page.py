"""Writes ``docs/benchmarks.md`` from the FILE that ``make benchmarks`` printed."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
LINE = re.compile(
    r"^(?P<name>.+?): (?P<ours>\S+) against (?P<other>\S+) (?P<unit>.+?); ratio (?P<ratio>\S+) "
    r"\((?P<low>\S+) to (?P<high>\S+), n=(?P<rounds>\d+)\), difference (?P<difference>.+?); "
    r"target: (?P<target>.+)$"
)
MARK = "<!-- made by scripts/benchmarks_page.py from `make benchmarks`: the rest of this page -->"


def machine() -> str:
    """The machine that measured, in words."""
    cpus = Path("/proc/cpuinfo")
    text = cpus.read_text(encoding="utf-8") if cpus.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({found[1] if found else platform.machine()}), "
        f"{memory:.0f} GB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def commit() -> str:
    """The commit that was measured; a + follows when files were changed since."""
    words = ["git", "describe", "--always", "--dirty=+"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table(text: str) -> str:
    """The comparisons in *text* as a table, and its other lines below."""
    rows = [
        "| what | ours | alternative | ratio | spread | rounds | target |",
        "|---|---|---|---|---|---|---|",
    ]
    others = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if found := LINE.match(line):
            rows.append(
                "| {name} | {ours} {unit} | {other} {unit} | {ratio} | {low} to {high} | {rounds} "
                "| {target} |".format(**found.groupdict())
            )
        else:
            others.append(f"- {line}")
    return "\n".join([*rows, "", *others])


def main() -> int:
    """Replace what is below the mark."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    when = datetime.now(UTC).date().isoformat()
    measured = f"Measured {when} at commit `{commit()}`, on {machine()}."
    PAGE.write_text(f"{head}{MARK}\n\n{measured}\n\n{table(text).strip()}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
