"""Fails when a committed file names the package index of this machine, or a path of it.

The names to look for come from the machine's own configuration, so none is written here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("uv.lock", "poetry.lock", "Pipfile.lock")


def hosts() -> set[str]:
    """The hosts of the indexes that pip would ask."""
    from pip._internal.models.index import PyPI, TestPyPI

    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    urls = re.findall(r"https?://[^'\"\s]+", shown)
    known = {PyPI.netloc, TestPyPI.netloc, PyPI.file_storage_domain}
    return {host for host in {urlsplit(url).hostname for url in urls} | known if host}


def main() -> int:
    """Print every offending file; the exit code."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    forbidden = hosts() | {str(ROOT) + "/", str(Path.home()) + "/.cache"}
    forbidden |= {os.environ[name] for name in ("PIP_FIND_LINKS",) if os.environ.get(name)}
    found = [f"{name}: a lock file that names hosts" for name in listed if Path(name).name in LOCKS]
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: names {word}" for word in forbidden if word in text]
    print("\n".join(found) or "No committed file names an index or this machine.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
