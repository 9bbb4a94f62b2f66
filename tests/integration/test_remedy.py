"""Commands that are shown, as a real shell reads them."""

from __future__ import annotations

import subprocess

import pytest

from confiture_webhooks.remedy import address, command


@pytest.mark.parametrize(
    "word", ["a b", "$(date)", "`x`", "it's", "a\nb", "\x1b[31m", "\\", "ä", "\u202ex", ""]
)
def test_a_shell_reads_back_every_word(word: str) -> None:
    """Whatever a name holds, the shell passes it on as it is, and the line is one line."""
    line = command("enable", word, config="db/my env.yaml")
    assert line.isprintable()
    ran = subprocess.run(
        ["bash", "-c", f"confiture() {{ printf '%s\\0' \"$@\"; }}; {line}"],
        capture_output=True,
        check=True,
    )
    assert ran.stdout.decode().split("\0")[:-1] == [
        "webhooks",
        "enable",
        word,
        "--config",
        "db/my env.yaml",
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://app@db:5433/shop?sslmode=require",
            "'postgresql://app@db:5433/shop?sslmode=require'",
        ),
        ("postgres://app:s3cret@db/shop", "postgres://app@db/shop"),
        ("postgresql:///shop", "postgresql:///shop"),
        ("postgresql://app:s3/cret@db/shop", "DSN"),
        ("postgresql://app:s3@cret@db/shop", "DSN"),
        ("postgresql://db/shop?user=app&password=s3cret", "DSN"),
        ("host=db password=s3cret", "DSN"),
        (None, "DSN"),
    ],
)
def test_an_address_is_shown_without_a_password(url: str | None, shown: str) -> None:
    """A variable that has it is named; nothing that may be a secret is shown."""
    assert address(url, {}) == f"CONFITURE_DATABASE_URL={shown}"
    held = {"OTHER": "x", "DATABASE_URL": url or ""}
    assert not url or address(url, held) == 'CONFITURE_DATABASE_URL="$DATABASE_URL"'
