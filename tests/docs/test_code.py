"""Every code block of README and docs works: a reader does what each page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs_shell import Reader
from pages import PAGES, ROOT, blocks


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_code_of_a_page_works(page: Path, project: Any, receiver: Any, collector: Any) -> None:
    """Its blocks in order, in one project: commands exit as documented, YAML is accepted, Python runs."""
    reader = Reader(project, receiver.url, collector.url)
    for block in blocks(page):
        reader.do(block)


def test_what_is_not_run_says_why() -> None:
    """A block that nobody runs gives a reason of more than a word, and has a language."""
    for page in PAGES:
        for block in blocks(page):
            assert block.why_not_run is None or " " in block.why_not_run, str(block)
            assert block.language, f"{block}: which language?"
