"""Settings for any input: an answer or a ConfigError, and nothing that was written in either."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from confiture_webhooks.command_watch import names_block
from confiture_webhooks.config import Settings, load, redacted, variables
from confiture_webhooks.config.block import ENDPOINT, RETRY, TLS, WEBHOOKS
from confiture_webhooks.errors import ConfigError
from often import often

CANARY = "cAnArY7"
KEYS = sorted({*WEBHOOKS, *ENDPOINT, *RETRY, *TLS})

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["${A}", "${UNSET}", "${", "whsec_", "https://h.example/", "http://x/", "sqlite:", "10"]
    ),
).flatmap(lambda text: st.sampled_from([text, text + CANARY, CANARY + text, f"a:{CANARY}@{text}"]))
scalars = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.binary(max_size=3)
)
keys = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS).map(lambda key: key[:-1]),
    st.text(max_size=6),
    st.integers(),
    st.booleans(),
    st.none(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
retries = st.fixed_dictionaries(
    {}, optional={"schedule": values | st.lists(scalars), "jitter": values}
)
rows = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(ENDPOINT, values) | {"retry": retries | values}
)
blocks = st.fixed_dictionaries(
    {"endpoints": st.lists(rows | values, max_size=3)},
    optional={"outbox": values, "flush_timeout": values, "hooks": values},
)
documents = st.one_of(values, st.fixed_dictionaries({"webhooks": blocks | values}))
environs = st.dictionaries(
    st.sampled_from([*variables.ALL, "A"]), texts | st.just("\udcff"), max_size=4
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each example writes its file."""
    return tmp_path_factory.mktemp("project") / "local.yaml"


def outcome(environ: dict[str, str], path: Path) -> Settings | ConfigError:
    """What ``load`` answers; any other error fails the test."""
    try:
        return load(environ, path)
    except ConfigError as error:
        return error


@pytest.mark.survived("Any document in place of the configuration", "unharmed", "private")
@settings(max_examples=often(200))
@example(document={"webhooks": {"endpoints": [{"name": CANARY}]}}, environ={})
@given(document=documents, environ=environs)
def test_any_document_is_settings_or_faults(
    path: Path, document: Any, environ: dict[str, str]
) -> None:
    """Whatever YAML can hold: settings, or faults that repeat no value, not even in a traceback."""
    path.write_text(yaml.safe_dump(document))
    found = outcome(environ, path)
    if isinstance(found, ConfigError):
        assert found.faults
        shown = "".join(traceback.format_exception(found))
        for fault in found.faults:  # an endpoint's name is shown, whatever it is
            shown = shown.replace(fault.what, f"{fault.setting}: {fault.problem}")
        assert CANARY not in shown
        assert all(f.setting and f.problem and f.remedy for f in found.faults)
        assert len(set(found.faults)) == len(found.faults)
    else:
        assert len({endpoint.name for endpoint in found.endpoints}) == len(found.endpoints)
        redacted(found)


@given(content=st.binary() | st.text().map(str.encode))
def test_any_file_is_settings_or_faults(path: Path, content: bytes) -> None:
    """Whatever a file can hold, there is an answer."""
    path.write_bytes(content)
    outcome({}, path)
    names_block(path)


@given(document=st.fixed_dictionaries({"webhooks": blocks}), style=st.sampled_from([False, True]))
def test_a_block_is_always_noticed(path: Path, document: Any, style: Any) -> None:
    """The cheap question never says no to a file whose block would be loaded."""
    path.write_text(yaml.safe_dump(document, default_flow_style=style))
    assert names_block(path)


odd = st.text("@/?#:%&=' \\é", max_size=3)


@pytest.mark.survived("Any document in place of the configuration", "unharmed", "private")
@given(before=odd, after=odd, write=st.sampled_from([str, quote]), source=st.sampled_from("ab"))
def test_what_is_secret_is_never_shown(
    path: Path, before: str, after: str, write: Callable[[str], str], source: str
) -> None:
    """A canary in a secret, password, path, query, header or DSN is in no text about them."""
    hidden = f"{before}{CANARY}{after}"
    url = f"https://user:{write(hidden)}@hooks.example.com/{write(hidden)}?{write(hidden)}"
    row = {
        "name": "a",
        "url": url,
        "secret": ["${S}", f"<{hidden}>"],
        "headers": {"X-Key": f"<{hidden}>"},
        "send_secret": True,
    }
    outbox = f"postgres:postgresql://user:{hidden}@db.example.com/x?password={hidden}"
    path.write_text(yaml.safe_dump({"webhooks": {"endpoints": [row], "outbox": outbox}}))
    found = outcome({"S": f"<{hidden}>", **({variables.URL: url} if source == "a" else {})}, path)
    if isinstance(found, ConfigError):
        shown = "".join(traceback.format_exception(found))
    else:
        shown = f"{found!r}{redacted(found)}"
    assert CANARY not in shown
    assert CANARY not in Settings(outbox=outbox).place.shown
