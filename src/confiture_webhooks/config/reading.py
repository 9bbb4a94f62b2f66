"""Reads mappings by their tables: the settings that are right, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Fault
from . import rules
from .block import Kind, Many, Pairs, Table
from .file import MOST, expand
from .rules import Invalid

Place = tuple[str | int, ...]

AT = "at"
"""Where a mapping stood, beside its settings."""
_WRONG = object()
_EMPTY = Invalid("is empty", "Give it a value, or remove it")


class Reading:
    """One reading of settings by their tables; keeps what is wrong, and where."""

    def __init__(
        self, shown: Callable[[Place], str], environ: Mapping[str, str] | None = None
    ) -> None:
        self.shown = shown
        """The name of the setting at a place, as the user wrote it."""
        self._environ = environ
        """For ``${VAR}``; ``None``: there are none."""
        self._left = MOST
        self.texts: list[str] = []
        """Every text that was read, as it was written."""
        self.names: dict[Place, str] = {}
        """The names of endpoints, by place: faults in it have them."""
        self._found: list[tuple[Place, Invalid, str]] = []

    def fault(self, at: Place, invalid: Invalid, row: str = "") -> None:
        """Keep what is wrong at a place; *row* is the setting's in the documentation."""
        remedy = invalid.remedy or f"It takes {row.partition(': ')[0]}"
        self._found.append((at, invalid, remedy))

    def faults_in(self, at: Place = (), kind: type[Invalid] = Invalid) -> tuple[Fault, ...]:
        """What is wrong at a place, or in it."""
        faults = (
            Fault(self.shown(place), invalid.problem, remedy, self.names.get(place[:2]))
            for place, invalid, remedy in self._found
            if place[: len(at)] == at and isinstance(invalid, kind)
        )
        return tuple(dict.fromkeys(faults))

    def table(self, table: Table, raw: object, at: Place = ()) -> dict[str, Any]:
        """The settings of a mapping: those that are wrong or not there have their defaults."""
        found = {
            key: self.table(one.kind, {}) if isinstance(one.kind, Mapping) else one.default
            for key, one in table.items()
        }
        found[AT] = at
        if not isinstance(raw, dict):
            self.fault(at, Invalid("must be a mapping", "Write `key: value` lines"))
            return found
        given = {_key(key): value for key, value in raw.items()}
        for key in given:
            if key not in table:
                remedy = f"{rules.did_you_mean(key, table)}Known here: {', '.join(table)}"
                self.fault((*at, key), Invalid("is not a known setting", remedy))
        for key, one in table.items():
            if key in given:
                value = self.value(one.kind, given[key], (*at, key), one.row)
                found[key] = found[key] if value is _WRONG else value
            elif one.absent == "required":
                self.fault((*at, key), Invalid("is missing", "Add it"))
        return found

    def value(self, kind: Kind, raw: object, at: Place, row: str) -> Any:
        """*raw* as its kind has it; ``_WRONG``, and a fault, if it cannot be."""
        self._left -= 1
        if self._left == 0:
            self.fault((), Invalid(f"holds more than {MOST} values", "Remove aliases (`*name`)"))
        if self._left <= 0:
            return _WRONG
        try:
            if isinstance(raw, str) and self._environ is not None:
                self.texts.append(raw)
                raw = expand(raw, self._environ)
            if raw is None:
                raise _EMPTY
            if isinstance(kind, Many):
                return self._many(kind, raw, at, row)
            if isinstance(kind, Pairs):
                return self._pairs(kind, raw, at, row)
            return self.table(kind, raw, at) if isinstance(kind, Mapping) else kind(raw)
        except Invalid as invalid:
            self.fault(at, invalid, row)
            return _WRONG

    def _many(self, many: Many, raw: object, at: Place, row: str) -> Any:
        if many.may_be_one and not isinstance(raw, list):
            one = self.value(many.rule, raw, at, row)
            return one if one is _WRONG else (one,)
        if not isinstance(raw, list):
            raise Invalid("must be a list", "Write it as `[a, b]` or with a dash before each item")
        if not raw and not many.may_be_empty:
            raise Invalid("is an empty list", "Put something in it, or remove it")
        if many.most is not None and len(raw) > many.most:
            raise Invalid("has too many items", f"Use {many.most} at most")
        items = list(enumerate(raw))
        if many.may_be_one:
            items = [(index, item) for index, item in items if not self._is_empty(item)] or items
        found = [self.value(many.rule, item, (*at, index), row) for index, item in items]
        good = tuple(item for item in found if item is not _WRONG)
        return good or (_WRONG if found else ())

    def _is_empty(self, raw: object) -> bool:
        try:
            return isinstance(raw, str) and expand(raw, self._environ or {}) == ""
        except Invalid:
            return False

    def _pairs(self, pairs: Pairs, raw: object, at: Place, row: str) -> Any:
        if not isinstance(raw, dict):
            raise Invalid("must be a mapping", "Write `key: value` lines")
        found = {}
        for key, value in raw.items():
            place = (*at, _key(key))
            name = self.value(pairs.key, _key(key), place, row)
            if name is not _WRONG:
                found[name] = self.value(pairs.value, value, place, row)
        if len({name.lower() for name in found}) < len(found):
            raise Invalid("has a header twice in different case", "Keep one of them")
        return _WRONG if any(value is _WRONG for value in found.values()) else found


def _key(key: object) -> str:
    """A key as text: YAML makes booleans, numbers and dates of some."""
    return key if isinstance(key, str) else str(key).lower()
