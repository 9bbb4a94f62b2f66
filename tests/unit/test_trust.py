"""Whose a file is, by its owner, its group and its mode."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from confiture_webhooks.trust import FOREIGN, SHARED, doubt

ADA, BOB, USERS = 1000, 1001, 100
NAMES = {ADA: "ada", BOB: "bob"}
GROUPS = {ADA: ("ada", []), BOB: ("bob", []), USERS: ("users", []), 500: ("ada", ["bob"])}


@pytest.fixture(autouse=True)
def _ada(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ada asks, on a machine with Bob."""
    monkeypatch.setattr(os, "geteuid", lambda: ADA)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: SimpleNamespace(pw_name=NAMES[uid]))

    def group(gid: int) -> Any:
        name, members = GROUPS[gid]
        return SimpleNamespace(gr_name=name, gr_mem=members)

    monkeypatch.setattr("grp.getgrgid", group)


def found(mode: int, uid: int = ADA, gid: int = ADA) -> os.stat_result:
    """A file of that mode and owner."""
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (found(0o600), None),
        (found(0o644, uid=0), None),
        (found(0o600, uid=BOB), FOREIGN),
        (found(0o602), SHARED),
        (found(0o777), SHARED),
        (found(0o1777, uid=0, gid=0), SHARED),
        (found(0o660), None),
        (found(0o660, gid=0), None),
        (found(0o660, gid=USERS), SHARED),
        (found(0o640, gid=USERS), None),
        (found(0o660, gid=BOB), SHARED),
        (found(0o660, gid=500), SHARED),
        (found(0o660, gid=4711), SHARED),
    ],
)
def test_a_file_is_its_owners_alone(file: os.stat_result, expected: str | None) -> None:
    """Others may not write, nor a group that anyone else is in or may join."""
    assert doubt(file, -1) == expected


def test_numbers_without_names_are_groups_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run by number."""
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert doubt(found(0o660), -1) is None
    assert doubt(found(0o660, gid=USERS), -1) == SHARED
