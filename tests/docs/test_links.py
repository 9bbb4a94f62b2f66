"""Every link of README and docs leads somewhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pages import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there, and a heading in it."""
    broken = []
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        if not target.exists() or (
            parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target)
        ):
            broken.append(link)
    assert broken == []


def test_no_page_of_the_site_leads_out_of_it() -> None:
    """A page below ``docs`` links to pages below ``docs``: the rest is not on the site."""
    docs = ROOT / "docs"
    outside = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        if docs in page.parents
        for link in links(page)
        if not urlsplit(link).scheme
        and urlsplit(link).path
        and docs not in (page.parent / urlsplit(link).path).resolve().parents
    ]
    assert outside == []
