"""The schema and the test vectors are current, right, and able to refuse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sys
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from confiture_webhooks.errors import SignatureError
from confiture_webhooks.event import EventType, payload
from confiture_webhooks.receiver import verify
from providers import FORMATS
from samples import event

ROOT = Path(__file__).parents[2]
VECTORS = json.loads((ROOT / "docs" / "test-vectors.json").read_text())
CASES = {case["name"]: case for case in VECTORS["cases"]}
SCHEMA = json.loads((ROOT / "docs" / "event.schema.json").read_text())
KINDS = [kind for kind in EventType if kind is not EventType.CUSTOM]
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FORMATS)


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that writes them."""
    path = ROOT / "scripts" / "receiver_documents.py"
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_current(script: Any) -> None:
    """What is committed is what the code makes; `python scripts/receiver_documents.py` renews."""
    assert script.stale() == []


def test_the_examples_of_the_page_are_events() -> None:
    """Every whole event in docs/payload.md is one by the schema, a run's among them."""
    page = (ROOT / "docs" / "payload.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.+?)```", page, re.DOTALL)]
    events = [block for block in blocks if "event_type" in block]
    assert [one["event_type"] for one in events] == ["migration_success", "run_error"]
    for one in events:
        VALIDATOR.validate(one)
    (run,) = (one for one in events if one["event_type"] == "run_error")
    assert not {"direction", "migration"} & set(run)
    assert {row["status"] for row in run["migrations"]} == {"success", "error"}


@pytest.mark.parametrize("name", CASES)
def test_vectors(name: str) -> None:
    """Each request is accepted or refused as its vector says."""
    case = CASES[name]
    now = datetime.fromtimestamp(case["now"], UTC)
    try:
        found = verify(case["headers"], case["body"].encode(), case["secrets"], now=now)
    except SignatureError:
        assert not case["valid"]
        return
    assert case["valid"]
    assert found.id == case["headers"]["webhook-id"]


def test_vectors_by_hand() -> None:
    """The signatures are what the standard says, worked out without our code."""
    case = CASES["a whsec_ secret"]
    headers, body = case["headers"], case["body"].encode()
    key = base64.b64decode(case["secrets"][0].removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{signature}"
    own = hmac.new(case["secrets"][0].encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Confiture-Signature"] == f"sha256={own}"


def test_the_schema_is_one_and_has_every_event() -> None:
    """The schema is valid itself, and there is one part for each kind of event but a hook's own."""
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]) == {kind.value for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_accepts_what_the_code_makes(script: Any, kind: EventType) -> None:
    """Events of each kind are valid, with every fact and with few."""
    for made in (script.full(kind), script.sparse(kind)):
        VALIDATOR.validate(payload(made, "a", include_sql=True))


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": "migration_sucess"},
        {"trace_id": "4BF9" * 8},
        {"timestamp": "2026-01-09T14:23:45"},
        {"direction": "sideways"},
        {"event_id": ""},
        {"migration": None},
        {"execution": {}},
        {"database": {"host": 1, "name": None, "schema": None}},
    ],
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    """A payload that breaks a promise is not valid."""
    right = payload(event(), "a")
    VALIDATOR.validate(right)
    with pytest.raises(ValidationError):
        VALIDATOR.validate({**right, **change})
