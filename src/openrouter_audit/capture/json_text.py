"""
Reads the few members it is asked for out of JSON text, and gets something out of text that is not quite JSON.

A ladder of three: msgspec, where money and whatever has several forms stays `Raw`, its own text, digit for digit; the
standard library, with numbers as text, for what msgspec refuses as a whole (one lone surrogate anywhere is enough, or one
member of an unexpected type or length); and a scan for byte strings, for text that is nested too deep, cut or damaged.

A member declared as `Text`, `Whole`, `bool` or another struct holds that or None, on every rung: msgspec's own checks see to
it on the first, `members` on the second. What is `Raw` on the first rung may be anything on the second: the functions below
take the values of every rung and answer None to whatever is not of their kind.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

NULL = Raw(b"null")
MAX_TEXT = 256
"""Longest word of a vocabulary is 128; what is longer is handed on cut, and refused further on for its length."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
"""A member that is a word; a longer one is cut on the second rung."""
Whole = Annotated[int, Meta(ge=0, lt=10**18)]
"""A member that is a number as `integer` takes it."""
MAX_TREE_BYTES = 1024 * 1024
"""Longest text of the second rung, which makes objects of forty times the size of the worst text."""
MAX_PAIRS_BYTES = 64 * 1024
"""Longest object of free names: sixteen pairs of what OpenRouter allows fit in, each character escaped."""
_SCANNED_PLACES = 64
"""How often a scan comes upon a name that is no member's before it gives up: `"user"` is the value of every `"role"`."""

S = TypeVar("S", bound=Struct)
_decoders: dict[type[Struct], msgspec.json.Decoder[Any]] = {}
_readers: dict[type[Struct], tuple[tuple[str, Callable[[Any], Any]], ...]] = {}
"""For the second rung, by struct: each member's name and what makes a value into one of its type."""
_list_decoder = msgspec.json.Decoder(list[Raw])
_pairs_decoder = msgspec.json.Decoder(dict[str, Raw])
_text_decoder = msgspec.json.Decoder(str)


class Number(str):
    """A JSON number of the second rung, as its own digits."""

    __slots__ = ()


def parse(kind: type[S], text: bytes) -> S | None:
    """Members of a whole JSON object, by the first two rungs; None where both fail."""
    decoder: msgspec.json.Decoder[S] = _decoders.get(kind) or _decoder(kind)
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    if len(text) > MAX_TREE_BYTES:
        return None
    try:
        tree = json.loads(text.decode("utf-8", "replace"), parse_float=Number, parse_int=Number)
    except (ValueError, RecursionError):
        return None
    return members(kind, tree)


def members(kind: type[S], value: Any) -> S | None:
    """Members of an object inside another."""
    if value is None or value is NULL:
        return None
    if isinstance(value, kind):
        return value
    if isinstance(value, Raw):
        if bytes(memoryview(value)[:1]) != b"{":
            return None
        try:
            return _decoder(kind).decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            # A member of another type than expected: read it as the second rung does.
            return parse(kind, bytes(value))
    if isinstance(value, dict):
        return kind(**{name: read(value[name]) for name, read in _readers_of(kind) if name in value})
    return None


def items(value: Any) -> list[Any]:
    """Values of an array; empty for anything else."""
    if isinstance(value, Raw):
        try:
            return _list_decoder.decode(value) if value is not NULL else []
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def pairs(value: Any) -> dict[str, Any]:
    """Members of an object by whatever names it has; empty for anything else, and for what is longer than any is meant to be."""
    if not isinstance(value, Raw):
        return value if isinstance(value, dict) else {}
    raw = bytes(value)
    if raw[:1] != b"{" or len(raw) > MAX_PAIRS_BYTES:
        return {}
    try:
        return _pairs_decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        tree = json.loads(raw.decode("utf-8", "replace"), parse_float=Number, parse_int=Number)
    except (ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def present(value: Any) -> bool:
    """Whether a member is there and not null."""
    if isinstance(value, Raw):
        return value is not NULL and bytes(value) != b"null"
    return value is not None


def text(value: Any, limit: int = MAX_TEXT) -> str | None:
    """A string, cut after `limit` characters."""
    if value is None or value is NULL:
        return None
    if type(value) is str:
        return clean(value, limit)
    if isinstance(value, Raw):
        raw = bytes(value)
        if raw[:1] != b'"':
            return None
        try:
            return clean(_text_decoder.decode(raw) if b"\\" in raw else raw[1:-1].decode(), limit)
        except (msgspec.MsgspecError, ValueError):
            return None
    return None


def clean(value: str, limit: int = MAX_TEXT) -> str:
    """The first characters of a text, without the lone surrogates that no encoder takes."""
    value = value[:limit]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def number(value: Any) -> str | None:
    """A number's own digits."""
    if value is None or value is NULL:
        return None
    if isinstance(value, Raw):
        raw = bytes(value)
        return raw[:MAX_TEXT].decode("ascii", "replace") if raw[:1] in b"-0123456789" and raw else None
    return str(value)[:MAX_TEXT] if isinstance(value, Number) else None


def integer(value: Any) -> int | None:
    """A number without sign, fraction or exponent; one of more than 18 digits counts as none."""
    if type(value) is int:
        return value if 0 <= value < 10**18 else None
    digits = number(value)
    if digits is None or len(digits) > 18 or not digits.isdecimal():
        return None
    return int(digits)


def boolean(value: Any) -> bool | None:
    if isinstance(value, Raw):
        return {b"true": True, b"false": False}.get(bytes(value)) if value is not NULL else None
    return value if isinstance(value, bool) else None


def words(value: Any, limit: int) -> tuple[str, ...]:
    """The strings of an array, the first `limit` of them."""
    return tuple(word for word in map(text, items(value)[:limit]) if word is not None)


def scan(body: bytes, name: bytes, *, last: bool = False) -> Raw | None:
    """
    The third rung: a member's value, found by its name wherever it stands.

    Finds a string, number or literal up to its end, an object up to its closing brace; None when the end is not there.
    """
    key = b'"' + name + b'"'
    at = len(body) if last else -len(key)
    for _ in range(_SCANNED_PLACES):
        at = body.rfind(key, 0, at) if last else body.find(key, at + len(key))
        if at < 0:
            return None
        after = at + len(key)
        if body[after : after + 64].lstrip()[:1] == b":":
            value = body[after : after + 8192].lstrip()[1:].lstrip()
            end = _end_of(value)
            return Raw(value[:end]) if end else None
    return None


def _end_of(value: bytes) -> int:
    depth, quoted, escaped = 0, False, False
    for at, byte in enumerate(value):
        if quoted:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                quoted = False
                if not depth:
                    return at + 1
        elif byte == 0x22:
            quoted = True
        elif byte in b"{[":
            depth += 1
        elif byte in b"}]":
            if depth <= 1:
                return at + depth
            depth -= 1
        elif not depth and byte in b", \r\n\t\x00":
            return at
    return 0


def _decoder(kind: type[S]) -> msgspec.json.Decoder[S]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


def _readers_of(kind: type[Struct]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    readers = _readers.get(kind)
    if readers is None:
        fields = msgspec.structs.fields(kind)
        readers = _readers[kind] = tuple((field.name, _reader_of(field.type)) for field in fields)
    return readers


def _reader_of(kind: Any) -> Callable[[Any], Any]:
    """What the first rung would have checked: `Raw` stays what it is, everything else is `… | None`."""
    if kind is Raw:
        return _unread
    inner = typing.get_args(kind)[0]
    if typing.get_origin(inner) is list:
        (member,) = typing.get_args(inner)
        return functools.partial(_list, _unread if member is Raw else functools.partial(members, member))
    if typing.get_origin(inner) is Annotated:
        base, meta = typing.get_args(inner)
        return integer if base is int else functools.partial(text, limit=meta.max_length)
    return boolean if inner is bool else functools.partial(members, inner)


def _unread(value: Any) -> Any:
    return value


def _list(read: Callable[[Any], Any], value: Any) -> list[Any] | None:
    return [one for each in value if (one := read(each)) is not None] if isinstance(value, list) else None
