"""The options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOpt = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file (default: db/environments/local.yaml)"),
]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
FORMATS = ("text", "json")


def _known_format(output: str) -> str:
    if output not in FORMATS:
        raise typer.BadParameter(f"{output!r} is not one of: {', '.join(FORMATS)}")
    return output


FormatOpt = Annotated[
    str,
    typer.Option(
        "--format",
        metavar=f"<{'|'.join(FORMATS)}>",
        callback=_known_format,
        help="Output format: text or json",
    ),
]


def is_json(output: str) -> bool:
    """Whether *output* asks for JSON."""
    return output == "json"
