"""Tables on terminals of any width, and in pipes: no cell is ever cut."""

from __future__ import annotations

import re
import sys

import pytest

from confiture_webhooks.cli.tables import line, print_facts, print_table

STYLE = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS = ("id", "event", "endpoint", "state", "attempts", "created", "next attempt")
ROWS = [
    (
        f"dlv_{number:032x}",
        "migration_rollback_error",
        "analytics",
        "dead_letter",
        "8",
        "2026-01-09T14:23:45.123Z",
        "2026-01-10T14:23:45.123Z",
    )
    for number in (1, 2)
]


@pytest.mark.parametrize("columns", [20, 80, 100, 120, 200])
def test_on_a_terminal_every_cell_is_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At any width each cell stands on one line, and no line is longer than it must be."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(COLUMNS, ROWS)
    shown = STYLE.sub("", capsys.readouterr().out)
    for cell in (cell for row in ROWS for cell in row):
        assert cell in shown
    assert "…" not in shown
    assert ("┃" in shown) is (columns == 200)
    if columns >= 80:
        assert max(map(len, shown.splitlines())) <= columns


def test_narrow_rows_say_what_each_cell_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a frame does not fit, a row is its id and, below it, named values."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(COLUMNS, ROWS[:1])
    assert STYLE.sub("", capsys.readouterr().out).splitlines() == [
        f"id {ROWS[0][0]}",
        *(f"  {name}: {cell}" for name, cell in zip(COLUMNS[1:], ROWS[0][1:], strict=True)),
    ]


def test_no_columns_hide_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some jobs set COLUMNS=0; Rich would then print no line at all."""
    monkeypatch.setenv("COLUMNS", "0")
    line("outbox: there")
    print_facts([("state", "delivered")], title="one")
    assert STYLE.sub("", capsys.readouterr().out) == "outbox: there\none\n  state: delivered\n"


def test_a_pipe_gets_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe there are columns, as wide as their widest cell."""
    print_table(COLUMNS, ROWS)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "ID"
    assert [tuple(line.split()) for line in lines] == ROWS


def test_a_word_between_colons_is_no_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a receiver answers, or a migration is called, is shown as it is, on terminals too."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    line("a :fire:")
    print_facts([("it said", ":fire:")], title=":fire:")
    print_facts([("migration", "005_:fire:")])
    print_table(["migration"], [["005_:fire:"]])
    print_table(COLUMNS, [[":fire:"] * len(COLUMNS)])
    assert capsys.readouterr().out.count(":fire:") == 5 + len(COLUMNS)
