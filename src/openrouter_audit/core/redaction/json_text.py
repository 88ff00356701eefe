"""
JSON read and written without loss: digits of numbers, members of the same name twice, half characters.

A body that was redacted says what it said before in every place that was not replaced. `json` alone would round 1e-7000,
forget the first of two equal names, and so hide what was never looked through.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any, Final

MAX_DEPTH: Final = 200
"""Deeper bodies are not taken for JSON; no client makes any."""


class Number(str):
    """A number as it was written."""

    __slots__ = ()


class Members(list[tuple[str, Any]]):
    """An object, its members in order."""

    __slots__ = ()


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=Members, parse_float=Number, parse_int=Number, parse_constant=Number, strict=False
)


def parse(text: str) -> Any:
    """
    The value that a text is.

    Raises:
        ValueError: It is none, or too deep.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("too deep") from error


def dump(value: Any) -> str:
    """
    The text of a value that `parse` gave.

    Raises:
        ValueError: It is too deep.
    """
    parts: list[str] = []
    _dump(value, parts.append, 0)
    return "".join(parts)


def _dump(value: Any, write: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if isinstance(value, Number):
        write(value)
    elif isinstance(value, str):
        write(encode_basestring(value))
    elif isinstance(value, Members):
        write("{")
        for index, (name, member) in enumerate(value):
            write("," if index else "")
            write(encode_basestring(name))
            write(":")
            _dump(member, write, depth + 1)
        write("}")
    elif isinstance(value, list):
        write("[")
        for index, member in enumerate(value):
            write("," if index else "")
            _dump(member, write, depth + 1)
        write("]")
    else:
        write({True: "true", False: "false", None: "null"}[value])
