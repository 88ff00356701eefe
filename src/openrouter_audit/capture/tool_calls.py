"""
The tools an answer asks for: their names, ids and how long their arguments are; never the arguments.

A stream tells a call in pieces: a first one with id and name, then fragments of arguments under the same index. Some providers
repeat the id in every piece, some give each call the index 0: a piece belongs to the call that its place had last, unless it
brings another id.

Streams are looked through for them only where the request offers tools: a look costs 7 us for each 20 KB and byte string.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from openrouter_audit.capture.json_text import NULL, Text, Whole, items, members, text
from openrouter_audit.core.entries import ToolCall

_CHAT_MARKERS = (b'"tool_calls":[', b'"tool_calls": [')
_MESSAGES_MARKERS = (b'"tool_use"', b'"partial_json"')
TOOL_MARKERS = {
    "chat": _CHAT_MARKERS,
    "responses": (),
    "messages": _MESSAGES_MARKERS,
}
"""For the scanner of a stream, beside what it looks for anyway; Responses' items are among that."""
ALL_TOOL_MARKERS = (*_CHAT_MARKERS, *_MESSAGES_MARKERS)
_KINDS = (b'function_call"', b'"tool_use"', b'"custom_tool_call"')
MAX_TOOL_CALLS = 64
MAX_WORD_BYTES = 6 * 1024
"""Of an entry's 16 KiB: what names, ids and the text around them may take. Sixty-four of the usual length fit."""
_AROUND = 56
"""Bytes of an entry for each call beside its name and id."""
_MAX_PLACES = 1024
"""Places that pieces may refer to; the rest of them is no answer that is meant."""


class _Named(Struct, gc=False):
    name: Text | None = None
    arguments: Raw = NULL
    input: Raw = NULL


class _Call(Struct, gc=False):
    """A tool call as chat, Responses and Messages write it; each has members of its own."""

    type: Text | None = None
    index: Whole | None = None
    id: Text | None = None
    call_id: Text | None = None
    name: Text | None = None
    function: _Named | None = None
    custom: _Named | None = None
    arguments: Raw = NULL
    input: Raw = NULL
    partial_json: Raw = NULL


class _Asked(Struct):
    id: str | None
    name: str | None
    argument_bytes: int | None


class ToolCalls(Struct, eq=False):
    """What one answer asks for, so far."""

    _asked: list[_Asked] = []
    _at: dict[tuple[int, int], _Asked] = {}
    count: int = 0

    def take_chat(self, choice: int, calls: list[Raw]) -> None:
        """`tool_calls` of a message, or of a delta: pieces, with the index of the call they belong to."""
        for number, value in enumerate(calls):
            call = members(_Call, value)
            if call is not None:
                named = call.function or call.custom or _NAMELESS
                size = size_of(named.input if named.arguments is NULL else named.arguments)
                self._add((choice, number if call.index is None else call.index), call.id, named.name, size)

    def take_item(self, number: int, value: Any) -> None:
        """An output item of Responses or a content block of Messages, whole; most are something else."""
        call = members(_Call, value)
        if call is None:
            return
        if call.type == "function_call":
            self._add((0, number), call.call_id, call.name, size_of(call.arguments))
        elif call.type == "custom_tool_call":
            self._add((0, number), call.call_id, call.name, size_of(call.input))
        elif call.type == "tool_use":
            self._add((0, number), call.id, call.name, size_of(call.input))

    def take_items(self, values: Any) -> None:
        """All of an answer's items or blocks."""
        if isinstance(values, Raw):
            raw = bytes(values)
            if not any(kind in raw for kind in _KINDS):
                return
        for number, value in enumerate(items(values)):
            self.take_item(number, value)

    def take_block(self, number: int, value: Any) -> None:
        """A content block of Messages begins; its input comes in fragments, whatever it has now."""
        call = members(_Call, value)
        if call is not None and call.type == "tool_use":
            self._add((0, number), call.id, call.name, None)

    def take_fragment(self, number: int, value: Any) -> None:
        """A content block of Messages goes on."""
        if (0, number) in self._at and (delta := members(_Call, value)) is not None:
            self._add((0, number), None, None, size_of(delta.partial_json))

    def facts(self) -> dict[str, Any]:
        """Fields of `CallOutcome`: the first calls, as many as an entry has room for, and how many where that is not all."""
        if not self.count:
            return {}
        said, room = list[ToolCall](), MAX_WORD_BYTES
        for asked in self._asked:
            room -= len(asked.id or "") + len(asked.name or "") + _AROUND
            if room < 0:
                break
            said.append(ToolCall(id=asked.id, name=asked.name, argument_bytes=asked.argument_bytes))
        return {"tool_calls": tuple(said), "tool_call_count": self.count if self.count > len(said) else None}

    def _add(self, place: tuple[int, int], identifier: str | None, name: str | None, size: int | None) -> None:
        """A call or a piece of one, by the index of its choice and its own."""
        asked = self._at.get(place)
        if asked is None or (identifier and asked.id and identifier != asked.id):
            if len(self._at) >= _MAX_PLACES:
                return
            asked = self._at[place] = _Asked(identifier, name, size)
            self.count += 1
            if self.count <= MAX_TOOL_CALLS:
                self._asked.append(asked)
            return
        asked.id, asked.name = asked.id or identifier, asked.name or name
        if size is not None:
            asked.argument_bytes = (asked.argument_bytes or 0) + size


_NAMELESS = _Named()


def size_of(value: Any) -> int | None:
    """Length of arguments in UTF-8: of the JSON text a string holds, or of an object's as it came; None where there are none."""
    if isinstance(value, Raw):
        raw = bytes(value)
        if value is NULL or raw == b"null":
            return None
        if raw[:1] != b'"':
            return len(raw)
        if b"\\" not in raw:
            return len(raw) - 2
        value = text(value, len(raw))
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    return None if value is None else len(msgspec.json.encode(value))
