"""Commands that are shown, as a real shell reads them."""

from __future__ import annotations

import subprocess

import pytest

from confiture_webhooks.remedy import command


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
