"""Reads the two places settings come from, and collects what is wrong in either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..endpoint import Endpoint
from ..errors import Fault
from . import values, variables
from .file import Finding, encodable, expand, read
from .model import EndpointBlock, WebhooksBlock, checked, setting
from .values import Invalid

T = TypeVar("T")

BLOCK = "webhooks"
DEFAULT_NAME = "default"
"""The name of the endpoint that ``CONFITURE_WEBHOOK_URL`` makes."""
_VARIABLE_OF = {
    "url": variables.URL,
    "secret": variables.SECRET,
    "allow_http": variables.ALLOW_HTTP,
}


class EnvironmentReader:
    """The environment's part of the settings. ``faults`` grows as it is read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[Fault] = []

    def value(self, variable: str, rule: Callable[[str], T]) -> T | None:
        """The variable's value as *rule* has it; ``None`` when unset, empty or wrong."""
        given = self._environ.get(variable)
        if not given:
            return None
        try:
            return rule(encodable(given))
        except Invalid as invalid:
            self.faults.append(Fault(variable, invalid.problem, invalid.remedy))
            return None

    def given(self, *names: str) -> list[str]:
        """Those of the variables that are set to something."""
        return [name for name in names if self._environ.get(name)]

    def endpoint(self, allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> Endpoint | None:
        """The endpoint that variables alone make."""
        raw: dict[str, Any] = {"name": DEFAULT_NAME}
        for key, variable in _VARIABLE_OF.items():
            text = self.value(variable, str)
            if text is not None:
                raw[key] = text
        if not self.given(variables.URL):
            return None
        model, findings = checked(EndpointBlock, raw, allow_http_as=f"{variables.ALLOW_HTTP}=true")
        self.faults += [
            Fault(_VARIABLE_OF[str(finding.at[0])], finding.problem, finding.remedy)
            for finding in findings
            if finding.at[0] in raw
        ]
        return model.endpoint(allowed, denied) if model is not None else None

    def is_on(self) -> bool:
        """Whether ``CONFITURE_WEBHOOKS`` leaves webhooks on."""
        return self.value(variables.SWITCH, values.flag) is not False

    def log_level(self) -> str | None:
        """The least severe level that is logged."""
        return self.value(
            variables.LOG_LEVEL,
            lambda given: values.one_of(given.strip().lower(), values.LOG_LEVELS, "a log level"),
        )

    def log(self) -> str | None:
        """How log lines are written."""
        return self.value(
            variables.LOG,
            lambda given: values.one_of(given.strip().lower(), values.LOGS, "a kind of log"),
        )


class FileReader:
    """The file's part of the settings: its ``webhooks:`` block and its name."""

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._path = path
        self._document: Mapping[str, Any] = {}
        self.faults: list[Fault] = []
        self.names: list[object] = []
        """Of the endpoints in the order of the block, good and bad."""
        if path is None:
            return
        try:
            self._document = read(path)
        except Invalid as invalid:
            self.faults.append(Fault(str(path), invalid.problem, invalid.remedy))

    @property
    def has_block(self) -> bool:
        """Whether the file has a ``webhooks:`` block, good or bad."""
        return BLOCK in self._document

    @property
    def environment(self) -> str | None:
        """The file's ``name:``, else its stem; ``None`` without a file."""
        if self._path is None:
            return None
        name = self._document.get("name")
        is_name = isinstance(name, str) and name.strip()
        return str(name) if is_name else self._path.stem or None

    def block(self) -> WebhooksBlock:
        """The block as far as it is right; an absent or wrong one is empty."""
        if not self.has_block:
            self._look_for_near_miss()
            return WebhooksBlock()
        raw, unexpanded = expand(self._document[BLOCK], self._environ)
        bad = [finding.at for finding in unexpanded]
        block, findings = checked(WebhooksBlock, raw)
        self.names = _names(raw)
        new = [f for f in findings if not any(f.at[: len(at)] == at for at in bad)]
        self._fault(sorted([*unexpanded, *new], key=lambda f: [_order(step) for step in f.at]))
        self._fault(_repeated(self.names))
        return block or WebhooksBlock()

    def refuse_default(self) -> None:
        """Fault an endpoint that has the name of the environment's."""
        if DEFAULT_NAME in self.names:
            at = ("endpoints", self.names.index(DEFAULT_NAME), "name")
            problem = f"is the name of the endpoint that {variables.URL} makes"
            self._fault([Finding(at, problem, f"Use another name, or unset {variables.URL}")])

    def _look_for_near_miss(self) -> None:
        for key, value in self._document.items():
            is_block = isinstance(value, dict) and not value.keys().isdisjoint(
                WebhooksBlock.model_fields
            )
            if is_block and values.did_you_mean(key, [BLOCK]):
                remedy = f"Did you mean `{BLOCK}`?"
                self.faults.append(Fault(str(key), "is a key that nothing reads", remedy))

    def _fault(self, findings: Sequence[Finding]) -> None:
        self.faults += [Fault(setting(f.at), f.problem, f.remedy) for f in findings]


def _order(step: str | int) -> tuple[int, str]:
    return (step, "") if isinstance(step, int) else (0, step)


def _names(raw: Any) -> list[object]:
    rows = raw.get("endpoints") if isinstance(raw, dict) else None
    if not isinstance(rows, list):
        return []
    return [row.get("name") if isinstance(row, dict) else None for row in rows]


def _repeated(names: Sequence[object]) -> list[Finding]:
    """A finding for each endpoint whose name an earlier one has."""
    return [
        Finding(
            ("endpoints", index, "name"),
            f"is the name of {setting(('endpoints', names.index(name)))} already",
            "Give each endpoint a name of its own",
        )
        for index, name in enumerate(names)
        if isinstance(name, str) and names.index(name) < index
    ]
