"""Text that any line, attribute or protobuf can carry."""

from __future__ import annotations


def clean(value: object) -> object:
    """*value* with what UTF-8 cannot carry escaped; sequences are cleaned item by item.

    One lone surrogate (a file name that is not UTF-8) would fail a whole OTLP batch.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(str(value))
