"""
Letting facts into the tree that do not keep to its vocabulary.

Capture states what it saw, and OpenRouter's values grow without notice. Facts are first decoded as they should be, which
is fast and nearly always enough. What fails comes here, value by value: one that its field does not allow is left out
and the field is named in `anomalies`; a list keeps the members that are allowed. Only when a required field is beyond
repair is there no entry.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Meta, Struct

from openrouter_audit.core.entries import KINDS, Facts, Private

_BY_KIND: dict[object, type[Facts]] = {kind.__struct_config__.tag: kind for kind in KINDS}
_MAX_ANOMALIES = 32


def admit(facts: Mapping[str, Any]) -> Facts | None:
    """
    The entry that these facts allow, without what the vocabulary forbids; None where a required field is not there.

    Args:
        facts: As they were spooled: names of fields to plain values, `kind` among them.
    """
    kind = facts.get("kind")
    cls = _BY_KIND.get(kind) if isinstance(kind, str) else None
    if cls is None:
        return None
    anomalies: list[str] = []
    admitted = _admit_struct(cls, facts, "", anomalies)
    if admitted is None:
        return None
    kept = dict.fromkeys([*admitted.get("anomalies", ()), *anomalies])
    admitted["anomalies"] = tuple(kept)[:_MAX_ANOMALIES]
    try:
        return msgspec.convert({**admitted, "kind": kind}, type=cls)
    except (msgspec.ValidationError, UnicodeError):  # pragma: no cover
        return None  # each value was admitted by itself; but no frame may stop the log, whatever was overlooked here


def admit_private(private: Mapping[str, Any]) -> Private:
    """What of a private part has the types it must have: a strange tag may not cost the call its commitment key."""
    kept = {}
    for field in msgspec.structs.fields(Private):
        value = private.get(field.encode_name)
        if field.name == "tags" and isinstance(value, Mapping):
            value = {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, str)}
        try:
            kept[field.name] = msgspec.convert(value, type=field.type)
        except (msgspec.ValidationError, UnicodeError):
            continue
    return Private(**kept)


def _admit_struct(
    cls: type[Struct], facts: Mapping[str, Any], prefix: str, anomalies: list[str]
) -> dict[str, Any] | None:
    admitted: dict[str, Any] = {}
    for field in _fields(cls):
        if field.encode_name not in facts or facts[field.encode_name] is None:
            if field.required:
                return None
            continue
        name = prefix + field.encode_name
        value = _admit_value(field.type, facts[field.encode_name], name, anomalies)
        if value is None:
            if field.required:
                return None
        else:
            admitted[field.encode_name] = value
    return admitted


def _admit_value(kind: Any, value: Any, name: str, anomalies: list[str]) -> Any:
    """The value as its type allows it, or None; whatever is lost is noted under `name`."""
    bare, meta = _strip(kind)
    if isinstance(bare, type) and issubclass(bare, Struct) and isinstance(value, Mapping):
        return _admit_struct(bare, value, f"{name}.", anomalies)
    if typing.get_origin(bare) is tuple and isinstance(value, (list, tuple)):
        member = typing.get_args(bare)[0]
        members = [_admit_value(member, each, name, anomalies) for each in value]
        kept = [each for each in members if each is not None]
        limit = meta.max_length if meta is not None and meta.max_length is not None else len(kept)
        if len(kept) > limit:
            anomalies.append(name)
        return kept[:limit]
    try:
        msgspec.convert(value, type=kind)
    except (msgspec.ValidationError, UnicodeError):
        anomalies.append(name)
        return None
    return value


@functools.cache
def _fields(cls: type[Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(cls)


@functools.cache
def _strip(kind: Any) -> tuple[Any, Meta | None]:
    """Without `| None` and `Annotated`: the type itself, and its bounds."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (bare,) = (each for each in typing.get_args(kind) if each is not types.NoneType)
        return _strip(bare)
    if typing.get_origin(kind) is typing.Annotated:
        bare, *notes = typing.get_args(kind)
        return bare, next((note for note in notes if isinstance(note, Meta)), None)
    return kind, None
