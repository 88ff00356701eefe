"""
Records as plain values, for those that cannot be spooled as they are: a strange value may not cost the record.

Capture states what it saw. Lone surrogates, numbers beyond 64 bits, objects nobody has a form for and megabytes of text are
met here, before the frame; what the vocabulary of entries says of the rest is applied by the sequencer.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from openrouter_audit.core.entries import Facts, Private, kind_of
from openrouter_audit.core.vocabulary import admit, admit_private

_ENCODE = msgspec.msgpack.Encoder().encode
_MAX_MSGPACK_INTEGER: Final = 2**63 - 1
_DEEPEST: Final = 8
_LONGEST_TEXT: Final = 16 * 1024
"""Of free text in a record that fits into no frame."""


def trimmed(facts: Facts, private: Private | None) -> bytes:
    """What fits into a frame of a record that does not: its vocabulary applied here, long free text left out."""
    raw = plain_values(facts)
    if private is not None:
        parts = {name: value for name, value in plain_values(private).items() if len(_ENCODE(value)) <= _LONGEST_TEXT}
        if len(parts) < len(private.__struct_fields__):
            raw["anomalies"] = [*raw.get("anomalies", ()), "private"]
        private = admit_private(parts)
    admitted = admit(raw)
    return _ENCODE((raw if admitted is None else admitted, private, None))


def plain_values(record: Struct) -> dict[str, Any]:
    """The fields of a record as msgpack can carry them, and as `admit` takes them."""
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    plain: dict[str, Any] = _encodable(values)
    if isinstance(record, Facts):
        plain["kind"] = kind_of(record)
    return plain


def _encodable(value: Any, depth: int = 0) -> Any:
    """
    With lone surrogates replaced, and left out what nobody can store: a strange value may not cost the record.

    That is numbers beyond 64 bits, objects of a kind msgpack has no form for, and what is nested deeper than any entry.
    """
    if depth > _DEEPEST:
        return None
    if isinstance(value, Struct):
        return {name: _encodable(getattr(value, name), depth + 1) for name in value.__struct_fields__}
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) > _MAX_MSGPACK_INTEGER:
        return None
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member, depth + 1) for key, member in value.items() if isinstance(key, str)}
    if isinstance(value, (list, tuple)):
        return [_encodable(member, depth + 1) for member in value]
    return value if value is None or isinstance(value, (bytes, bool, int, float)) else None
