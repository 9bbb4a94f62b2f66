"""The receivers of docs/receivers.md are those of ``examples/``, and take what strangers send."""

from __future__ import annotations

import ast
import io
from typing import Any

import pytest

from pages import ROOT, blocks

PAGE = ROOT / "docs" / "receivers.md"
BLOCKS = {block.title: block.text for block in blocks(PAGE) if block.title}
VIEWS = {
    "flask_app.py": ("flask_app.py", "migrations"),
    "fastapi_app.py": ("fastapi_app.py", "migrations"),
    "views.py": ("django_app.py", "migrations"),
    "wsgi_app.py": ("wsgi_app.py", "app"),
}


def view(source: str, name: str) -> str:
    """What the function *name* of *source* does, without its types."""
    (found,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    )
    return "\n".join(map(ast.unparse, [*found.decorator_list, *found.body]))


def test_every_framework_is_on_the_page() -> None:
    """No receiver of the page is without a counterpart that is run for real."""
    assert set(BLOCKS) == set(VIEWS)


@pytest.mark.parametrize("title", VIEWS)
def test_the_page_shows_what_is_run(title: str) -> None:
    """A view on the page does what the example does, which the acceptance tests run."""
    file, name = VIEWS[title]
    example = (ROOT / "examples" / "receivers" / file).read_text(encoding="utf-8")
    assert view(BLOCKS[title], name) == view(example, name)


@pytest.mark.parametrize("length", ["", "x", "-1", "9" * 5000, "\N{SUPERSCRIPT TWO}", "10000000"])
def test_any_length_is_an_answer(length: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stranger says of the length, the plain receiver refuses, and reads no more."""
    monkeypatch.setenv("CONFITURE_WEBHOOK_SECRET", "s")
    namespace: dict[str, Any] = {"__name__": "docs"}
    exec(BLOCKS["wsgi_app.py"], namespace)
    body = io.BytesIO(b"{" * 3_000_000)
    statuses: list[str] = []
    environ = {"CONTENT_LENGTH": length, "wsgi.input": body}
    namespace["app"](environ, lambda status, _: statuses.append(status))
    assert statuses == ["401 Unauthorized"]
    assert body.tell() <= namespace["inbox"].max_body + 1
