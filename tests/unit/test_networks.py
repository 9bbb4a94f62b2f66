"""Which hosts are this machine, and which addresses an endpoint may be reached at."""

from __future__ import annotations

import pytest

from confiture_webhooks.networks import Networks, is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.b.localhost",
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "2130706433",
        "0x7f.1",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "0:0:0:0:0:0:0:1",
    ],
)
def test_this_machine(host: str) -> None:
    """Every name and form of a loopback address is loopback."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "localhost.example", "mylocalhost", "128.0.0.1", "10.0.0.1", "::2", "127.example"]
)
def test_another_machine(host: str) -> None:
    """A name that only looks like it is another machine."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("allowed", "denied", "address", "is_permitted"),
    [
        ((), (), "10.0.0.1", True),
        ((), ("private",), "10.0.0.1", False),
        ((), ("private",), "127.0.0.1", False),
        ((), ("private",), "::ffff:10.0.0.1", False),
        ((), ("private",), "2002:a00:1::1", False),
        ((), ("private",), "64:ff9b::a00:1", False),
        ((), ("private",), "fd00::1", False),
        ((), ("private",), "0.0.0.0", False),
        ((), ("private",), "93.184.216.34", True),
        ((), ("private",), "2606:4700::1111", True),
        ((), ("metadata",), "::ffff:169.254.169.254", False),
        ((), ("metadata",), "169.254.1.1", True),
        ((), ("link-local",), "fe80::1%eth0", False),
        ((), ("link-local",), "169.254.1.1", False),
        (("10.1.0.0/16",), (), "10.1.2.3", True),
        (("10.1.0.0/16",), (), "::ffff:10.1.2.3", True),
        (("10.1.0.0/16",), (), "93.184.216.34", False),
        (("10.1.0.0/16",), ("private",), "10.1.2.3", False),
        (("0.0.0.0/0",), ("metadata",), "169.254.169.254", False),
    ],
)
def test_permitted(
    *, allowed: tuple[str, ...], denied: tuple[str, ...], address: str, is_permitted: bool
) -> None:
    """A denied network wins in every form of its addresses; an allow list closes all the rest."""
    refusal = Networks(allowed=allowed, denied=denied).refusal(address)
    assert (refusal is None) is is_permitted
