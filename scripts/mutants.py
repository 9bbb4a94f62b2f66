"""Plants twenty faults, one at a time, and names the tests that catch each.

Each fault is planted in a copy of the project, by the rule that it breaks and not by the file that
the rule stands in. Exit code 1: a fault was not caught, or its rule was not found.

    python scripts/mutants.py                        every fault, up to the first test that fails
    python scripts/mutants.py --only lease,redirect  some of them
    python scripts/mutants.py --tree OLDER --every   of another checkout, with every test that fails
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RINGS = (
    ("tests/unit", "tests/properties"),
    ("tests/contract", "tests/integration"),
    ("tests/acceptance",),
)
"""Asked in this order, after the files near the rule, until one catches the fault."""
PATIENCE_S = 1200
NO_TESTS = 5


@dataclass(frozen=True)
class Mutant:
    """A fault: the promise that it breaks, and ways to write it, of which one has to fit."""

    name: str
    promise: str
    near: str
    """Words in the names of the test files that are asked first."""
    ways: tuple[tuple[str, str], ...]


def mutant(name: str, promise: str, near: str, *ways: str) -> Mutant:
    """A fault whose ways are a pattern and its replacement in turn."""
    return Mutant(name, promise, near, tuple(zip(ways[::2], ways[1::2], strict=True)))


MUTANTS = (
    mutant(
        "schedule-end",
        "a delivery has as many attempts as the schedule has waits, and one more",
        "retry",
        r"attempt > len\(self\.schedule\)",
        "attempt >= len(self.schedule)",
    ),
    mutant(
        "retry-after",
        "Retry-After never makes a wait shorter",
        "retry",
        r"return max\(planned, ",
        "return min(planned, ",
    ),
    mutant(
        "jitter",
        "waits are spread",
        "retry delivery",
        r"self\.jitter \* \(2 \* spread - 1\)",
        "self.jitter * 0",
    ),
    mutant(
        "gone",
        "a 410 is final",
        "delivery",
        r"attempt\.status_code == HTTPStatus\.GONE",
        "attempt.status_code == 0",
    ),
    mutant(
        "redirect",
        "a redirect is no success",
        "delivery transport",
        r"range\(HTTPStatus\.OK, HTTPStatus\.MULTIPLE_CHOICES\)",
        "range(HTTPStatus.OK, HTTPStatus.BAD_REQUEST)",
    ),
    mutant(
        "lease",
        "a lease outlasts the longest attempt",
        "worker",
        r"LEASE_MARGIN = timedelta\(seconds=30\)",
        "LEASE_MARGIN = timedelta(seconds=-9)",
    ),
    mutant(
        "token",
        "what is recorded under a lost lease is not kept",
        "outbox_recording outbox_claim sqlite",
        r"WHERE seq = :seq AND token = :token",
        "WHERE seq = :seq",
    ),
    mutant(
        "environments",
        "a delivery is claimed in its own environment only",
        "outbox_environments",
        r"(READY = \"\"\"\n[^\"]*WHERE endpoint = \?) AND environment IS \?( AND is_ready = 1)",
        r"\1 AND (environment IS ? OR 1)\2",
        r"AND environment = :environment AND is_ready\b",
        "AND (environment = :environment OR 1 = 1) AND is_ready",
    ),
    mutant(
        "settled-up",
        "a killed migration that the ledger does not have did not commit",
        "settlement",
        r"ending=Ending\.NOT_COMMITTED, reason=f\"{table} does not have it\"",
        'ending=Ending.COMMITTED, reason=f"{table} does not have it"',
    ),
    mutant(
        "committed-event",
        "an event that went with a COMMIT is sent, whoever finds it",
        "settle",
        r"if intent\.committed is None or verdict\.is_settled:",
        "if True:",
    ),
    mutant(
        "settled-later",
        "a ledger row of a later run settles nothing",
        "settlement",
        r"began_at > intent\.ledger_read_at \+ LATE",
        "began_at > intent.ledger_read_at + 999 * LATE",
    ),
    mutant(
        "settled-open",
        "while its backend lives, a migration is open",
        "settlement",
        r"(return \"it is under way\" if known\.pid_started_at) ==",
        r"\1 !=",
    ),
    mutant(
        "tolerance",
        "a signature of the future is refused, as one of the past is",
        "receiver receiving verif",
        r"abs\(moment - sent_at\) > tolerance",
        "moment - sent_at > tolerance",
    ),
    mutant(
        "rotation",
        "during a rotation there is one signature per secret",
        "signature transport",
        r"for secret in secrets\n(\s+\))",
        r"for secret in secrets[:1]\n\1",
    ),
    mutant(
        "body-key",
        "X-Confiture-Signature keys with the current secret",
        "transport signature",
        r"body_signature\(endpoint\.secrets\[0\]",
        "body_signature(endpoint.secrets[-1]",
    ),
    mutant(
        "headers",
        "a configured header cannot replace one of ours",
        "transport",
        r"if k\.lower\(\) not in taken",
        "if k.lower() not in ()",
    ),
    mutant(
        "password",
        "the password of a database's URL is never shown",
        "hooks backend",
        r"\":\*\*\*\" if info\.password",
        '":" + info.password if info.password',
    ),
    mutant(
        "raised-text",
        "the text of a RAISE is not sent",
        "failure",
        r"if state\.startswith\(_RAISED_CLASS\) or place\.endswith\(\"RAISE\"\)",
        "if state.startswith('nothing')",
        r"if state\[:2\] not in SENT_CLASSES or source\.startswith\(FOREIGN_FILES\)",
        "if state == ''",
    ),
    mutant(
        "rows",
        "rows that a migration deletes are counted",
        "rows",
        r"b\"UPDATE\", b\"DELETE\"",
        'b"UPDATE", b"NOTHING"',
    ),
    mutant(
        "flush",
        "a run waits for receivers no longer than its flush timeout",
        "promises out_of_the_way",
        r"deadline = time\.monotonic\(\) \+ self\._settings\.flush_timeout\.total_seconds\(\)",
        "deadline = time.monotonic() + 9 * self._settings.flush_timeout.total_seconds()",
        r"self\.deadline = now \+ max\(",
        "self.deadline = now + 9 * max(",
    ),
    mutant(
        "pooler",
        "a pooler's process is not taken for the migration's own",
        "ledger pooler",
        r"is_direct = pid == info\.backend_pid",
        "is_direct = pid is not None",
    ),
    mutant(
        "rehearsal",
        "a rehearsal is not reported",
        "promises observe",
        r"kwargs\.get\(\"commit\", True\) is False or ",
        "",
    ),
    mutant(
        "sorted-keys",
        "a body that is parsed and written again with sorted keys has the same bytes",
        "event",
        r"sort_keys=True, allow_nan=False",
        "allow_nan=False",
    ),
)


def sources(tree: Path) -> Iterator[Path]:
    """The files a rule may stand in."""
    for suffix in ("py", "sql"):
        yield from sorted((tree / "src").rglob(f"*.{suffix}"))


def plant(one: Mutant, tree: Path) -> Path | None:
    """Write the fault into *tree*; the file that it stands in, ``None``: its rule is not there."""
    for pattern, replacement in one.ways:
        found = [path for path in sources(tree) if re.search(pattern, path.read_text("utf-8"))]
        if len(found) == 1:
            text = found[0].read_text(encoding="utf-8")
            found[0].write_text(re.sub(pattern, replacement, text), encoding="utf-8")
            return found[0].relative_to(tree)
    return None


def copy(tree: Path, to: Path) -> None:
    """The files of *tree* that Git knows, or would."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=tree, capture_output=True, text=True, check=True)
    for name in filter(None, done.stdout.split("\0")):
        if (tree / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, to / name)


def environment(tree: Path, packages: Path) -> Path:
    """A Python that imports *tree*'s own package, and everything else from *packages*."""
    venv.create(tree / ".venv", symlinks=True)
    inner = sysconfig.get_path("purelib", vars={"base": str(tree / ".venv")})
    (Path(inner) / "planted.pth").write_text(f"{tree / 'src'}\n{packages}\n", encoding="utf-8")
    python = tree / ".venv" / "bin" / "python"
    command = python.with_name("confiture")
    command.write_text(
        f"#!{python}\nimport sys\nfrom confiture.cli.main import app\nsys.exit(app())\n",
        encoding="utf-8",
    )
    command.chmod(0o755)
    return python


def near(one: Mutant, tree: Path) -> list[str]:
    """The test files whose names say that they are about the rule, the quick rings first."""
    words = one.near.split()
    return [
        str(path.relative_to(tree))
        for ring in RINGS
        for folder in ring
        for path in sorted((tree / folder).glob("test_*.py"))
        if any(word in path.name for word in words)
    ]


def failing(python: Path, tree: Path, asked: Sequence[str], options: list[str]) -> list[str]:
    """The tests among *asked*, files and folders, that fail."""
    words = ["-q", "-p", "no:randomly", "--no-header", "-rfE", "--tb=no", *options]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    folders = [path for path in asked if (tree / path.partition("::")[0]).exists()]
    if not folders:
        return []
    try:
        done = subprocess.run(
            [python, "-m", "pytest", *words, *folders],
            cwd=tree,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"{' '.join(asked)} did not end within {PATIENCE_S} s"]
    found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if not found and done.returncode not in (0, NO_TESTS):
        return [f"{' '.join(asked)}: pytest ended with {done.returncode}: {done.stdout[-300:]}"]
    return list(dict.fromkeys(found))


def copied(tree: Path, directory: Path, packages: Path) -> Path:
    """A copy of *tree* under *directory* with an environment of its own."""
    directory.chmod(0o755)  # as root, the tests' server is another user
    to = directory / "tree"
    to.mkdir()
    copy(tree, to)
    environment(to, packages)
    return to


def caught_by(
    one: Mutant, tree: Path, sound: Path, packages: Path, options: list[str]
) -> list[str] | None:
    """The tests that catch *one*, of the first ring that has any; ``None``: its rule is gone.

    A test that fails in *sound*, the copy without a fault, catches nothing.
    """
    with tempfile.TemporaryDirectory() as directory:
        planted = copied(tree, Path(directory), packages)
        if plant(one, planted) is None:
            return None
        python, other = Path(".venv/bin/python"), [*options]
        for ring in (near(one, planted), *RINGS):
            while found := failing(planted / python, planted, ring, other):
                wrong = [name for name in found if "::" in name]
                broken = failing(sound / python, sound, wrong, []) if wrong else []
                if caught := [name for name in found if name not in broken]:
                    return caught
                other += [f"--deselect={name}" for name in broken]
    return []


def main() -> int:
    """The table of what was planted and what caught it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to plant in")
    parser.add_argument("--every", action="store_true", help="go on after the first that fails")
    parser.add_argument("--find", action="store_true", help="only look for the rules")
    chosen = parser.parse_args()
    names = set(filter(None, chosen.only.split(",")))
    packages = Path(sysconfig.get_path("purelib"))
    options = [] if chosen.every else ["-x"]
    is_missed, sound = False, None
    for one in MUTANTS:
        if names and one.name not in names:
            continue
        if chosen.find:
            with tempfile.TemporaryDirectory() as directory:
                copy(chosen.tree, Path(directory))
                where = plant(one, Path(directory))
            print(f"{one.name:14} {where or 'RULE NOT FOUND'}")
            is_missed |= where is None
            continue
        started = time.monotonic()
        if sound is None:
            directory = tempfile.TemporaryDirectory()
            sound = copied(chosen.tree.resolve(), Path(directory.name), packages)
        tests = caught_by(one, chosen.tree.resolve(), sound, packages, options)
        said = "RULE NOT FOUND" if tests is None else ", ".join(tests) or "NOT CAUGHT"
        is_missed |= not tests
        print(f"{one.name:14} {time.monotonic() - started:4.0f} s  {said}", flush=True)
    return 1 if is_missed else 0


if __name__ == "__main__":
    sys.exit(main())
