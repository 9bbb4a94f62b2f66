"""The unit ring has no I/O and no sleep."""

from __future__ import annotations

import builtins
import io
import socket
import subprocess
import time
from typing import Any, NoReturn

import pytest
import urllib3  # noqa: F401  its first import tries a socket

_open = io.open


def _refuse(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("a unit test has no I/O and no sleep: it belongs to tests/integration")


def _opened(file: Any, mode: str = "r", *args: Any, **terms: Any) -> Any:
    """Files of the project are read, and nothing is written."""
    return _refuse() if set(mode) & set("wax+") else _open(file, mode, *args, **terms)


@pytest.fixture(autouse=True)
def _is_pure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", _refuse)
    monkeypatch.setattr(socket.socket, "connect", _refuse)
    monkeypatch.setattr(socket.socket, "bind", _refuse)
    monkeypatch.setattr(subprocess, "Popen", _refuse)
    for module in (builtins, io):
        monkeypatch.setattr(module, "open", _opened)


@pytest.fixture(autouse=True)
def _no_file_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in messages name no file that an earlier test of this process used."""
    monkeypatch.setattr("confiture_webhooks.remedy._used", None)
