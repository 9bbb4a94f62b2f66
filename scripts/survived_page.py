"""Writes ``docs/survived.md`` from the tests' own marks; ``--check`` only compares.

A test says what it asserts: ``@pytest.mark.survived("a clock that jumps by an hour", "kept", "true")``.
Every cell that FAULTS asks for has to have a test, and every mark has to name a fault and a column.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "survived.md"
COLUMNS = {
    "unharmed": "migration unharmed",
    "kept": "nothing lost",
    "true": "nothing invented",
    "private": "nothing leaked",
    "said": "said once",
}
HEAD = """# What it survives

A test produces each fault below, mostly on the real command with a real PostgreSQL and real receivers. A cell names the
tests that assert it, by file in `tests/` and name. An empty cell says nothing: the fault does not touch that promise,
or tests of other rows assert it.

| column | the promise |
|---|---|
| migration unharmed | exit code, standard output and result are those of a run without webhooks; no transaction or lock lasts longer for a fault |
| nothing lost | every event is delivered, or kept and shown |
| nothing invented | no event without a cause, and no second event for one cause |
| nothing leaked | no secret, address, SQL or row value reaches anyone it is not for |
| said once | one line names the fault and its remedy |

`make test-kill N=1000` strikes as often as asked at random instants and counts what was lost, invented and
sent twice; `OUTBOX=postgres` does so on the other outbox.

| on 2026-11-29 | struck | events | lost | invented | sent twice |
|---|---|---|---|---|---|
| SQLite, commit 9349d82 | 1000: 634 runs, 119 passes, 140 workers, 107 times the server | 2612 | 0 | 0 | 137 |
| PostgreSQL, commit 59a5f04 | 1000: 567 runs, 154 passes, 156 workers, 123 times the server | 3834 | 0 | 0 | 129 |

11 of the 129 are failures of migrations whose server was killed with the outbox in it. A run reported each from memory,
and a later run once more, with the same `webhook-id` and as `Interrupted`. A run waits for such a server for 1.5
seconds at its end. If the server is away for longer, one failure gets two texts.

`make test-fuzz` gives 10,000 inputs to each property. On the same day none of these failed: configuration, signatures,
captured requests, stored rows, OTLP, `Retry-After`, headers and terminals.

<!-- made by scripts/survived_page.py: change the marks of the tests, not this page -->
"""
FAULTS = {
    "Processes that end": {
        "SIGKILL of a run, a rollback or a worker at random instants": "kept true",
        "SIGKILL before the COMMIT": "kept true",
        "SIGKILL after the COMMIT, before the event is recorded": "kept true",
        "SIGKILL of a rollback": "kept true",
        "SIGKILL of one of two runs that share a trace": "kept",
        "SIGKILL of a worker in mid-attempt": "kept",
        "SIGKILL of a process that writes the outbox file, ten times": "kept",
        "SIGKILL while receivers are waited for": "unharmed",
        "Run again at once after a kill, at the limit of connections": "true",
        "SIGTERM of a worker": "kept",
        "SIGTERM of a single pass": "kept",
        "SIGTERM, SIGHUP or SIGINT of a migrating run": "unharmed said",
        "Two runs at the same time": "true",
        "Four processes that settle the same killed run": "true",
        "A run of another environment repeats a killed run's migration": "kept true",
        "Workers that claim at the same time": "true",
    },
    "The database server": {
        "The server is killed in mid-migration": "true",
        "The server and the run are killed right after a COMMIT": "kept",
        "The server vanishes while a COMMIT is under way": "kept true",
        "Another server of the DSN takes over in the middle of a COMMIT": "kept true",
        "A COMMIT that fails": "true",
        "A rehearsal, and a rehearsal that fails": "true",
        "Ledger rows that no run wrote: baseline, reinit, squash": "true",
        "A copy, a restored or another database answers for a killed run": "true",
        "The ledger is locked by somebody else": "true",
        "A pooler with one connection, in session and transaction mode": "unharmed kept",
        "Killed behind a pooler, and run again at once": "kept true",
        "A transaction may idle for half a second, and the outbox or a hook file is slow": "unharmed kept",
        "Dates and strings are written in the user's way": "kept",
        "A session is ended in mid-statement": "kept true",
        "A run fails before its first migration, or has no connection": "unharmed said",
        "20 MB of SQL on one line": "unharmed",
        "A migration that forks": "unharmed true",
        "A migration that leaves its connection changed": "unharmed kept",
        "The migration lock is held by somebody else": "unharmed said",
    },
    "Poolers and sessions": {
        "A pooler that gives sessions to others": "unharmed",
        "A pooler's process in place of the migration's own": "true",
        "DateStyle, IntervalStyle, search_path and TimeZone of a database": "kept",
        "A synchronous standby that is away, for a role that waits for none": "unharmed",
        "The outbox's connection is ended while it is idle": "kept",
        "A server of the outbox that takes a question and never answers": "unharmed",
        "A success that the outbox's database refuses, inside the migration's transaction": "unharmed",
        "A role without rights on the outbox": "unharmed kept said",
        "A role that may see no row of its environment": "kept",
        "Deliveries in the SQLite outbox when the setting changes": "kept said",
        "A role that lacks one right on the outbox": "unharmed kept true said",
        "Killed behind a pooler, and nothing runs again": "kept true",
        "A pooler ends the session that holds the migration lock": "true",
        "A pooler ends the connection while a COMMIT is under way": "kept true",
        "A time-out of idle transactions, and an outbox or hook files that are slow": "unharmed",
        "A session that is ended in mid-statement": "true",
    },
    "The outbox's file": {
        "A file that is locked, damaged, read-only or cannot be created": "unharmed kept said",
        "A disk that is full": "kept",
        "A limit on the size of files": "kept",
        "A directory that cannot be written": "kept",
        "A file that is damaged while it is in use": "kept",
        "The file is removed under a worker": "kept",
        "A file of a newer version": "kept said",
        "A file of an older version": "kept",
        "An outbox of the unreleased version on pgmq": "kept said",
        "A PostgreSQL outbox whose tables somebody has changed, or put a trigger on": "unharmed kept said",
    },
    "Files of others": {
        "The setting names a file that is no outbox": "unharmed",
        "The setting names another program's database": "unharmed",
        "A symbolic link in the outbox's place, or in its log's": "private",
        "An outbox of another user, or one that others may write": "unharmed private said",
        "A pipe in the outbox's place": "unharmed",
        "Hook files of another user": "unharmed private said",
        "A role that reads or forges rows of another environment": "private true",
    },
    "Clocks": {
        "A clock that jumps by an hour": "kept true",
        "A clock set back while a lease holds": "kept",
        "A clock set forward while a lease holds": "true",
        "A clock that jumps while a killed run is judged": "true",
        "A first attempt with the clock three days ahead": "kept",
        "A clock that was ahead by days": "kept",
        "Workers whose clocks differ by minutes": "kept",
    },
    "Receivers": {
        "A receiver that accepts and never answers": "unharmed",
        "A receiver that is not there": "unharmed kept said",
        "A receiver that hangs or drips at any point of an attempt": "unharmed",
        "An answer whose body does not end": "unharmed",
        "Headers or interim answers that do not end": "unharmed",
        "A connection that is closed under a request": "true",
        "Bytes that follow an answer on its connection": "kept",
        "A name whose first address hangs": "kept",
        "A redirect": "private",
        "A 410": "kept",
        "An endpoint that fails all the time beside one that works": "kept",
        "Ten slow endpoints": "kept",
        "A Retry-After of any text": "kept",
        "Odd, broken or too many headers after a status line": "kept true",
        "A connection that a gateway forgot": "kept",
        "A record that cannot be read in front of others": "kept",
        "A limit of the receiver: 429 or 503 with Retry-After": "kept",
    },
    "Names, TLS and proxies": {
        "A host name that does not resolve, or whose lookup hangs": "unharmed",
        "A certificate that is expired, unknown or of another host": "private said",
        "A certificate authority that is taken away in mid-run": "private",
        "A proxy that refuses, hangs or is none": "said kept",
        "A SOCKS proxy, with and without its package": "kept said",
        "A client certificate that is renewed": "kept",
        "A file for TLS that is not there, or holds something else": "said",
        "A proxy in the environment, and a receiver on this machine": "private",
        "An address in a denied network, behind a name or a proxy": "private",
    },
    "Telemetry and output": {
        "A collector that is dead, silent or refuses": "unharmed said",
        "A propagator that is not installed": "kept said",
        "Odd resource attributes, two certificate variables": "kept",
        "A standard error that is full, broken or closed": "unharmed",
        "A standard error that is not read": "unharmed kept",
        "Outbox, collector, receiver and standard error broken at once": "unharmed",
        "Control characters, line breaks and forged log lines in names": "private",
        "A terminal that cannot encode the text": "unharmed",
    },
    "Configuration and hooks": {
        "Any document in place of the configuration": "unharmed private",
        "An alias bomb in the file": "unharmed said",
        "A variable of one endpoint that is not set": "kept said",
        "A wrong setting of one endpoint": "kept said",
        "A misspelt variable": "said",
        "A block that is not read": "said",
        "A configuration that changes under a worker, to a wrong one too": "kept",
        "Hook files that raise, exit, hang or print without end": "unharmed kept said",
        "A hook that changes the working directory": "unharmed",
        "A hook file that replaces parts of the standard library": "unharmed said",
        "A hook file that is too large": "unharmed kept said",
        "A limit on processes: no thread can be started": "unharmed kept said",
        "A limit on open files that is nearly reached": "unharmed kept",
        "A fault of our own code": "unharmed said",
    },
    "Secrets and strangers": {
        "Secrets in addresses, headers, SQL and answers": "private",
        "The text of RAISE, of a syntax error and of a COPY's command line": "private",
        "Ten thousand damaged requests": "true",
        "Whatever may be signed, whatever arrives": "true",
        "A receiver of ours that is asked without end": "unharmed",
        "Any bytes and any text in stored rows": "kept",
        "Rows of a delivery or an intent that cannot be read": "kept said",
        "Any bytes in place of OTLP": "unharmed",
        "Any text in a header or on a terminal": "private",
    },
}


class Mark(NamedTuple):
    """What one test asserts of one fault."""

    test: str
    fault: str
    columns: tuple[str, ...]


def marks() -> Iterator[Mark]:
    """The marks of all tests."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        where = path.relative_to(ROOT / "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("mark.survived"):
                    fault, *columns = (ast.literal_eval(one) for one in mark.args)
                    yield Mark(f"`{where}` `{node.name}`", fault, tuple(columns))


def problems(cells: Mapping[tuple[str, str], list[str]]) -> Iterator[str]:
    """Cells without a test, and marks that name no fault or no column."""
    wanted = {
        (fault, column)
        for faults in FAULTS.values()
        for fault, columns in faults.items()
        for column in columns.split()
    }
    for fault, column in sorted(wanted - cells.keys()):
        yield f"no test is marked with {fault!r}, {column!r}"
    for fault, column in sorted(cells.keys() - wanted):
        yield f"FAULTS does not have {fault!r} with {column!r}, which {cells[fault, column]} asserts"


def page(cells: Mapping[tuple[str, str], list[str]]) -> str:
    """The page, whole."""
    lines = [HEAD]
    for area, faults in FAULTS.items():
        lines += [f"## {area}", "", f"| fault | {' | '.join(COLUMNS.values())} |"]
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for fault in faults:
            found = ("<br>".join(cells.get((fault, column), [])) for column in COLUMNS)
            lines.append(f"| {fault} | {' | '.join(found)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """0 when every cell has its test and the page is current."""
    cells: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for mark in marks():
        for column in mark.columns:
            cells[mark.fault, column].append(mark.test)
    found = list(problems(cells))
    for problem in found:
        print(f"survived_page: {problem}", file=sys.stderr)
    text = page(cells)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print("docs/survived.md is not current: python scripts/survived_page.py", file=sys.stderr)
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
