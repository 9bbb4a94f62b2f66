"""What ``--help`` promises: values by name, one way to ask for JSON, every exit code."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from confiture_webhooks.cli import app
from confiture_webhooks.cli.options import RECORDED, SUBSCRIBED
from confiture_webhooks.delivery import State
from confiture_webhooks.receiver.server import FAULTS


def commands(group: Any, *path: str) -> dict[str, Any]:
    """Every command of *group* by its words, groups opened."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, *path, name)
        else:
            found[" ".join((*path, name))] = command
    return found


COMMANDS = commands(typer.main.get_group(app))
WITH_FORMAT = [
    name
    for name, command in COMMANDS.items()
    if any("--format" in option.opts for option in command.params)
]


def helped(name: str) -> str:
    """The command's help on a terminal of 200 columns."""
    result = CliRunner().invoke(
        app, [*name.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    assert result.exit_code == 0
    return result.output


def option(name: str, flag: str) -> str:
    """The help of one option."""
    (found,) = (one for one in COMMANDS[name].params if flag in one.opts)
    return str(found.help)


@pytest.mark.parametrize("name", WITH_FORMAT)
def test_the_form_is_asked_for_alike(name: str) -> None:
    """Each command says which forms there are, and refuses another before it does anything."""
    assert "<text|json>" in helped(name)
    result = CliRunner().invoke(app, [*name.split(), "--format", "xml"])
    assert result.exit_code == 2
    assert "text, json" in result.output


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo"}))
def test_exit_codes_are_documented(name: str) -> None:
    """Each command that reads the configuration says the meaning of 0 and 5."""
    section = inspect.cleandoc(COMMANDS[name].help or "").partition("EXIT CODES:")[2]
    codes = re.findall(r"^ +(\d)  ", section, re.MULTILINE)
    assert codes == sorted(codes)
    assert {"0", "5"} <= set(codes)


def test_list_names_what_its_filters_take() -> None:
    """States and event types are in the help of the options that take them."""
    assert all(state.value in option("list", "--state") for state in State)
    assert all(kind.value in option("list", "--event-type") for kind in RECORDED)
    assert "|ping" not in helped("list")


@pytest.mark.parametrize(("name", "flag"), [("check", "--explain"), ("test", "--event")])
def test_an_option_shows_the_events_that_it_takes(name: str, flag: str) -> None:
    """The help has each event that an endpoint can ask for, and no ping, which is refused."""
    assert all(kind.value in option(name, flag) for kind in SUBSCRIBED)
    assert "|ping" not in helped(name)


def test_listen_says_what_each_answer_does() -> None:
    """Every word ``--answer`` takes has a line of its own."""
    section = inspect.cleandoc(COMMANDS["listen"].help or "").partition("ANSWERS:")[2]
    words = re.findall(r"^ +(\w+) {2,}\w", section.partition("EXAMPLES:")[0], re.MULTILINE)
    assert set(words) == {"503", "slow", *FAULTS}
