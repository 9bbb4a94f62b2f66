"""``attach`` with a real Ctrl-C, and with a file."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks import wiring
from confiture_webhooks.config import Settings
from confiture_webhooks.errors import ConfigError
from confiture_webhooks.event import EventType
from confiture_webhooks.session import attach
from confiture_webhooks.testing import ScriptedTransport
from engines import FakeEngine, a_migration
from samples import endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from confiture_webhooks.run.run import Run
    from confiture_webhooks.transport import Request, Response


class Pressed(ScriptedTransport):
    """A transport that hangs; its user presses Ctrl-C once *run* waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._free = threading.Event()
        self.run: Run | None = None

    def send(self, request: Request, **terms: Any) -> Response:
        while self.run is None or self.run.deadline is None:
            time.sleep(0.01)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        self._free.wait(20)
        return super().send(request, **terms)

    def abort(self) -> None:
        super().abort()
        self._free.set()


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
def test_attach_lets_ctrl_c_through(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Ctrl-C while the block is left is raised, after the engine and the outbox were let go."""
    transport = Pressed()
    monkeypatch.setattr(wiring, "HttpTransport", lambda: transport)
    settings = Settings(endpoints=(endpoint(name="a"),), outbox="memory", log="off")
    engine: Any = FakeEngine(error)

    def migrate() -> None:
        with attach(engine, settings) as run:
            transport.run = run
            engine.apply(a_migration())

    with pytest.raises(KeyboardInterrupt) as caught:
        migrate()
    assert caught.value.__cause__ is error
    assert transport.is_closed
    assert "apply" not in vars(engine)


def test_attach_reads_the_file_it_is_given(tmp_path: Path) -> None:
    """The block of the named file is read, its faults reported before anything runs."""
    file = tmp_path / "prod.yaml"
    file.write_text("webhooks:\n  endpoints:\n    - name: a\n")
    with pytest.raises(ConfigError), attach(FakeEngine(), config_file=file):
        pass


def test_a_log_handler_that_raises_stops_no_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its owner's ``logging`` is broken, ``attach`` says nothing, and the block runs."""

    def broken(_: logging.LogRecord) -> bool:
        raise OSError("no log")

    monkeypatch.setattr(logging.getLogger("confiture_webhooks"), "filters", [broken])
    engine: Any = FakeEngine()
    with attach(engine, Settings(outbox="memory")):
        engine.apply(a_migration())
    assert engine.applied


def test_a_block_that_is_dropped_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entered by hand and let go of, it ends as one that is left: its run has no error."""
    transport = ScriptedTransport()
    monkeypatch.setattr(wiring, "HttpTransport", lambda: transport)
    events = frozenset({EventType.RUN_SUCCESS, EventType.RUN_ERROR})
    settings = Settings(endpoints=(endpoint(name="a", events=events),), outbox="memory", log="off")
    engine: Any = FakeEngine()

    def migrate() -> None:
        block = attach(engine, settings)
        block.__enter__()
        engine.apply(a_migration())

    migrate()
    gc.collect()
    sent = [json.loads(request.body)["event_type"] for request in transport.sent]
    assert sent == ["run_success"]


@pytest.mark.parametrize("is_daemon", [False, True])
def test_pythons_exit_ends_a_block_that_lasts(
    monkeypatch: pytest.MonkeyPatch, *, is_daemon: bool
) -> None:
    """Nothing stays of one that is left; one of a daemon thread may migrate still."""
    at_exit: list[object] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(atexit, "unregister", lambda one: one in at_exit and at_exit.remove(one))
    ended: list[bool] = []

    def migrate() -> None:
        with attach(FakeEngine(), Settings(outbox="memory")) as run:
            ended.append(run.finish in at_exit)
        ended.append(run.finish in at_exit)

    thread = threading.Thread(target=migrate, daemon=is_daemon)
    thread.start()
    thread.join()
    assert ended == [not is_daemon, False]
