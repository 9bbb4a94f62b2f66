"""Writes the map of ``CONTRIBUTING.md`` from the files' first lines; ``--check`` only compares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
SOURCE = ROOT / "src" / "confiture_webhooks"
BEGIN = "<!-- made by scripts/map_page.py: change the files' first lines, not this table -->\n"
END = "<!-- the end of the map -->\n"


def layers() -> dict[str, list[str]]:
    """The order of files in the package and in each room, lowest first, as in the contracts."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {}
    for contract in document["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            room = contract["containers"][0].removeprefix("confiture_webhooks").lstrip(".")
            order = [name for row in reversed(contract["layers"]) for name in row.split(" | ")]
            found[room] = order
    return found


def promise(path: Path) -> str:
    """The first paragraph of the docstring of *path* as Markdown, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r"``([^`]+)``", r"`\1`", first).replace("|", "\\|").removesuffix(".")


def rows() -> Iterator[str]:
    """A row for each file, in the order of imports."""
    order = layers()
    for name in order[""]:
        if (SOURCE / f"{name}.py").exists():
            yield f"| `{name}` | {promise(SOURCE / f'{name}.py')} |"
            continue
        yield f"| **`{name}/`** | {promise(SOURCE / name / '__init__.py')} |"
        files = {path.stem for path in (SOURCE / name).glob("*.py")} - {"__init__"}
        for file in [*order.get(name, []), *sorted(files - set(order.get(name, [])))]:
            if file in files:
                yield f"| … `{name}/{file}` | {promise(SOURCE / name / f'{file}.py')} |"


def main() -> int:
    """0 when the page has the table, or has it now."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = "\n".join(["", "| file | what it is |", "|---|---|", *rows(), ""])
    made = f"{head}{BEGIN}{table}\n{END}{tail}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
    elif made != text:
        print("The map is not current: python scripts/map_page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
