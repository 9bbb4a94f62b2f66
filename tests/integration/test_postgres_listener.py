"""Notifications: from whom, and what if the connection breaks or none arrives over it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from confiture_webhooks.outbox import postgres_session
from confiture_webhooks.outbox.postgres import PostgresOutbox
from contract.acts import claim_one, finish, release
from contract.made import LEASE, NOW, retry
from outbox_databases import emptied
from passage import Passage

BOUND_S = 30
"""Only a hang would make anything here take this long."""
LISTENERS = "query LIKE 'LISTEN%' AND datname = current_database()"


class Ears:
    """What a listener has called."""

    def __init__(self) -> None:
        self.woken = threading.Semaphore(0)
        self.received: queue.Queue[bool] = queue.Queue()

    def is_received(self) -> bool:
        """Whether notifications arrive, by the next report."""
        return self.received.get(timeout=BOUND_S)


@contextmanager
def listening(outbox: PostgresOutbox) -> Iterator[Ears]:
    """Listen to what others notify *outbox* of."""
    ears = Ears()
    stop = outbox.listen(ears.woken.release, ears.received.put)
    try:
        yield ears
    finally:
        stop()


@pytest.fixture(autouse=True)
def _listens_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_session, "FIRST_REST_S", 0.05)


@pytest.fixture
def opened(outbox_database: str) -> Callable[[], PostgresOutbox]:
    """Opens the outbox, which holds nothing: each call is another worker's."""
    return emptied(outbox_database)


@pytest.fixture
def admin(outbox_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of somebody else."""
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        yield admin


def test_news_wakes_a_listener(opened: Callable[[], PostgresOutbox]) -> None:
    """Whatever another worker makes claimable, or due at another time, is reported once committed."""

    def given_back(outbox: PostgresOutbox) -> None:
        outbox.give_back(claim_one(outbox))

    acts: list[Callable[[PostgresOutbox], object]] = [
        lambda outbox: release(outbox, 1),
        given_back,
        lambda outbox: finish(outbox, retry(NOW + LEASE)),
        lambda outbox: outbox.redeliver("dlv_a_1", now=NOW),
    ]
    with closing(opened()) as here, closing(opened()) as there, listening(here) as ears:
        assert ears.is_received()
        there.disable("a", "production", NOW)
        there.enable("a", "production")
        assert ears.woken.acquire(timeout=BOUND_S)
        there.disable("a", "production", NOW)
        there.enable("a", "production")
        assert ears.woken.acquire(timeout=BOUND_S)
        for act in acts:
            act(there)
            assert ears.woken.acquire(timeout=BOUND_S)
        assert not ears.woken.acquire(blocking=False)  # a claim and a finding wake nobody


def test_a_broken_connection_is_noticed_and_made_again(
    opened: Callable[[], PostgresOutbox], admin: psycopg.Connection[Any]
) -> None:
    """A listener whose connection the server ends says so, comes back, and receives again."""
    with closing(opened()) as here, closing(opened()) as there, listening(here) as ears:
        assert ears.is_received()
        admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENERS}")
        assert not ears.is_received()
        assert ears.is_received()
        release(there, 1)
        assert ears.woken.acquire(timeout=BOUND_S)


def test_a_way_that_loses_news_is_not_believed(
    opened: Callable[[], PostgresOutbox], outbox_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a LISTEN is taken and nothing comes of it, news are never said to come."""
    monkeypatch.setattr(postgres_session, "ECHO_S", 0.2)
    asked = threading.Semaphore(0)

    def lose(question: bytes) -> bytes:
        start, listen, rest = question.partition(b"LISTEN ")
        if not listen:
            return question
        asked.release()
        name, _, rest = rest.partition(b"\x00")
        return start + b"SELECT 1".ljust(len(listen + name)) + b"\x00" + rest

    with (
        Passage(outbox_database, lose) as way,
        closing(PostgresOutbox(way.dsn)) as here,
        listening(here) as ears,
    ):
        for _ in range(2):  # it is tried again
            assert asked.acquire(timeout=BOUND_S)
        assert ears.received.empty()


def test_news_that_stop_coming_are_noticed(
    opened: Callable[[], PostgresOutbox],
    outbox_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A way that passed news on and falls silent is found out by the next echo."""
    monkeypatch.setattr(postgres_session, "ECHO_S", 0.5)
    monkeypatch.setattr(postgres_session, "CHECK_EVERY_S", 0.2)
    with Passage(outbox_database) as way, closing(opened()) as reporting:
        received: queue.Queue[bool] = queue.Queue()
        listener = postgres_session.Listener(
            way.dsn,
            "confiture_webhooks",
            lambda payload: reporting._store.read(("notify", {"payload": payload})),
            lambda: None,
            received.put,
        )
        try:
            assert received.get(timeout=BOUND_S)
            way.is_deaf = True
            assert not received.get(timeout=BOUND_S)
        finally:
            listener.stop()


def test_a_fault_of_a_listener_is_said_and_it_listens_again(
    opened: Callable[[], PostgresOutbox],
) -> None:
    """Whatever fails while news is passed on: it is not received, and then it is."""
    faults = [ValueError("a fault")]
    woken = threading.Semaphore(0)
    received: queue.Queue[bool] = queue.Queue()

    def wake() -> None:
        if faults:
            raise faults.pop()
        woken.release()

    with closing(opened()) as here, closing(opened()) as there:
        stop = here.listen(wake, received.put)
        try:
            assert received.get(timeout=BOUND_S)
            release(there, 1)
            assert not received.get(timeout=BOUND_S)
            assert received.get(timeout=BOUND_S)
            release(there, 2)
            assert woken.acquire(timeout=BOUND_S)
        finally:
            stop()


def test_bytes_that_are_no_text_are_news_too(admin: psycopg.Connection[Any]) -> None:
    """In a database without an encoding, a NOTIFY may carry any bytes."""
    name = f"bytes_{time.monotonic_ns()}"
    admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    of = {"dbname": name, "client_encoding": "sql_ascii"}
    parts = psycopg.conninfo.conninfo_to_dict(admin.info.dsn)
    dsn = psycopg.conninfo.make_conninfo(**parts | of | {"password": admin.info.password})
    woken = threading.Semaphore(0)
    received: queue.Queue[bool] = queue.Queue()
    try:
        with psycopg.connect(dsn, autocommit=True) as other:
            notify = "SELECT pg_notify('channel', %s)"
            listener = postgres_session.Listener(
                dsn, "channel", lambda it: other.execute(notify, [it]), woken.release, received.put
            )
            try:
                assert received.get(timeout=BOUND_S)
                other.execute(b"SELECT pg_notify('channel', E'\\xff')")
                assert woken.acquire(timeout=BOUND_S)
                assert received.empty()
            finally:
                listener.stop()
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_nothing_is_left_of_a_listener(
    opened: Callable[[], PostgresOutbox], admin: psycopg.Connection[Any]
) -> None:
    """Once stopped it calls nothing, and neither its thread nor its connection is there."""
    with closing(opened()) as here, closing(opened()) as there:
        with listening(here) as ears:
            assert ears.is_received()
        assert "webhooks-listen" not in [thread.name for thread in threading.enumerate()]
        release(there, 1)
        assert not ears.woken.acquire(timeout=0.2)
        assert ears.received.empty()
    query = f"SELECT count(*) FROM pg_stat_activity WHERE {LISTENERS}"
    gone = threading.Event()
    for _ in range(100):
        if admin.execute(query).fetchone() == (0,):
            return
        gone.wait(0.1)
    pytest.fail("the server still has its connection")
