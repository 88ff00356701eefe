"""
Canonical bytes of entries. The output of `encode` is a contract with every journal ever written.

An entry is hashed as the bytes made here, once, when it is written. Nobody encodes an entry again to verify it: stored bytes
are hashed as they are, and a copy is parsed. So the form may never change under a reader's feet, and a change of it would be
a new version of entries. What must hold for ever is that equal values have equal bytes, in any language.

The form is RFC 8785 restricted to what needs no judgement: objects with ASCII keys, sorted; strings; integers whose
magnitude is below 2^53; true, false, null; arrays. No floats: their shortest spelling is where implementations differ, so
money is decimal text and time is whole microseconds. Within these bounds msgspec's sorted output is RFC 8785 byte for byte,
which the tests hold against an independent implementation.

`encode` trusts its caller to stay within the bounds, for speed; `check` refuses what lies outside. `decode` is for those who
trust nobody, and refuses what two parsers might read differently.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from openrouter_audit.errors import CanonicalError

MAX_INTEGER = 2**53 - 1
"""Largest magnitude that every JSON reader keeps exactly (RFC 7493); JavaScript's safe integer."""
MAX_DEPTH = 64
"""Entries nest four deep; anything near this bound is an attack on a parser's stack."""

_ENCODER = msgspec.json.Encoder(order="sorted")
_BIG_INTEGER = re.compile(rb"[:,\[]-?(?:9[0-9]{15}|[0-9]{17})")
"""Where an integer above 9e15 could begin in canonical bytes; a look-alike inside a string only costs time."""


def encode(value: Any) -> bytes:
    """
    Canonical bytes of a dict or msgspec Struct that holds to the bounds of this module.

    Raises:
        CanonicalError: A string holds a lone surrogate, or a type has no JSON form. Floats, big integers and other keys
            are not noticed here but by `check`.
    """
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise CanonicalError(f"no canonical form: {type(error).__name__}") from error


def check(value: Any) -> None:
    """
    Refuse a value that `encode` would take and another implementation might spell differently.

    Takes what `encode` takes: dicts, lists, tuples, msgspec Structs, strings, integers, booleans, None.

    Raises:
        CanonicalError: It holds a float, an integer of 2^53 or beyond, a key that is not an ASCII string, a lone
            surrogate, another type, or nests deeper than 64.
    """
    _check(value, MAX_DEPTH)


def decode(data: bytes) -> Any:
    """
    Parse stored bytes as plain dicts, lists, strings, integers, booleans and None, refusing all that is ambiguous.

    Raises:
        CanonicalError: Not UTF-8 JSON, or with a duplicate key, float, integer of 2^53 or beyond, key that is not ASCII,
            or lone surrogate, or nested deeper than 64.
    """
    try:
        if _has_small_tokens(data):
            value = _FAST_DECODER.decode(data)
            if _ENCODER.encode(value) == data:  # its own canonical bytes: one spelling, so no key stands twice
                return value
    except (ValueError, RecursionError, msgspec.MsgspecError):
        pass  # the careful way below says what is wrong
    return _decode_carefully(data)


def _decode_carefully(data: bytes) -> Any:
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # json's and ours; ours names what was wrong
        if isinstance(error, CanonicalError):
            raise
        raise CanonicalError(f"not JSON: {type(error).__name__}") from error
    check(value)
    return value


def _has_small_tokens(data: bytes) -> bool:
    """Whether bytes cannot, if canonical, hold a big integer, a foreign key or deep nesting; False says nothing."""
    return (
        data.startswith(b"{")
        and data.isascii()
        and data.count(b"{") + data.count(b"[") <= MAX_DEPTH
        and not _BIG_INTEGER.search(data)
    )


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is str:
        if not value.isascii():
            _check_text(value)
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise CanonicalError("an integer of 2^53 or beyond")
    elif value is None or kind is bool:
        return
    elif depth == 0:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH}")
    elif kind is dict:
        for key, member in value.items():
            _check_key(key)
            _check(member, depth - 1)
    elif kind is list or kind is tuple:
        for member in value:
            _check(member, depth - 1)
    elif isinstance(value, msgspec.Struct):
        _check(msgspec.to_builtins(value), depth)
    else:
        raise CanonicalError(f"{kind.__name__} has no canonical form")


def _check_key(key: Any) -> None:
    if type(key) is not str or not key.isascii():
        raise CanonicalError("a key that is not ASCII text")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CanonicalError("a lone surrogate") from error


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    members = list(pairs)
    value = dict(members)
    if len(value) != len(members):
        raise CanonicalError("a key stands twice in one object")
    return value


def _integer(text: str) -> int:
    if len(text) > 17 or text == "-0":  # 2^53 has 16 digits; minus zero is a float in other languages
        raise CanonicalError("an integer of 2^53 or beyond, or minus zero")
    return int(text)


def _refuse_number(_text: str) -> NoReturn:
    raise CanonicalError("a number that is not an integer")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_refuse_number, parse_constant=_refuse_number
)
_FAST_DECODER = msgspec.json.Decoder(float_hook=_refuse_number)
