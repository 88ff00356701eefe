"""
The answer that a stream of events was, put together: what the same call would have got in one piece.

A secret may be cut between two events, so events are not looked through one by one. Deltas of chat are merged into the
message they belong to, those of Messages into their blocks; of Responses, which say everything again at the end, the last
word is taken, and the deltas where the stream broke off before it. What is neither is left out.

Up to 1 MiB of text is put together; what was cut there is a `Cut`, whose end is no longer trusted to be whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from openrouter_audit.capture.event_stream import EventScanner
from openrouter_audit.core.redaction import Cut

MAX_TEXT: Final = 1024 * 1024
"""Characters of text of one answer."""
MAX_MEMBERS: Final = 512
"""Of a list that grows event by event: tool calls, annotations, reasoning."""
_WORDS: Final = frozenset(
    {"id", "type", "role", "name", "object", "model", "provider", "format", "call_id", "status", "service_tier"}
    | {"finish_reason", "native_finish_reason", "stop_reason", "system_fingerprint"}
)
"""Members that a later event repeats or replaces; any other text goes on."""
_LEFT_OUT: Final = frozenset({"logprobs", "delta"})
_LAST_WORDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})


class _Pieces(list[str]):
    """A text that goes on."""

    is_cut = False


class StreamAssembler:
    """Takes the decoded bytes of a stream, gives the answer as `json` would have given it."""

    def __init__(self) -> None:
        self._scanner = EventScanner()
        self._scanner.opening = 2**62  # each event is wanted
        self._room = MAX_TEXT
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._items: dict[int, Any] = {}
        self._deltas: dict[tuple[int, int, str], _Pieces] = {}
        self._response: dict[str, Any] | None = None

    def feed(self, data: bytes) -> None:
        for payload in self._scanner.feed(data):
            self._take(payload)

    def value(self) -> Any:
        """The answer, or None where no event said anything of it. Nothing may be fed any more."""
        for payload in self._scanner.flush():
            self._take(payload)
        answer = self._top
        if self._choices:
            answer["choices"] = [self._choices[index] for index in sorted(self._choices)]
        if self._blocks:
            answer["content"] = [_block(self._blocks[index]) for index in sorted(self._blocks)]
        if self._response is not None:
            answer |= self._response
        if not answer.get("output") and (self._items or self._deltas):
            answer["output"] = self._output()
        return _whole(answer) or None

    def _take(self, payload: bytes) -> None:
        event = _object(payload)
        if event is None:
            return
        kind = event.get("type")
        if not isinstance(kind, str):
            self._chat(event)
        elif kind.startswith("response."):
            self._responses(kind, event)
        elif kind == "error":
            self._top["error"] = event.get("error") or event
        else:
            self._messages(kind, event)

    def _chat(self, event: dict[str, Any]) -> None:
        self._merge(self._top, {name: value for name, value in event.items() if name != "choices"}, replace=True)
        for number, choice in enumerate(_objects(event.get("choices"))):
            held = self._at(self._choices, choice.get("index", number))
            self._merge(held, {name: value for name, value in choice.items() if name not in _LEFT_OUT})
            if isinstance(choice.get("delta"), dict):
                self._merge(held.setdefault("message", {}), choice["delta"])

    def _messages(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "message_start":
            self._merge(self._top, _dict(event.get("message")), replace=True)
        elif kind == "message_delta":
            self._merge(self._top, _dict(event.get("delta")), replace=True)
            self._merge(self._top, {"usage": _dict(event.get("usage"))})
        elif kind in {"content_block_start", "content_block_delta"}:
            said = _dict(event.get("content_block") or event.get("delta"))
            if kind == "content_block_delta":
                said = {name: value for name, value in said.items() if name != "type"}
            self._merge(self._at(self._blocks, event.get("index", 0)), said)

    def _responses(self, kind: str, event: dict[str, Any]) -> None:
        if kind in _LAST_WORDS:
            self._response = _dict(event.get("response"))
            return
        place = event.get("output_index")
        at = place if isinstance(place, int) else 0
        if kind == "response.output_item.done":
            if len(self._items) < MAX_MEMBERS:
                self._items[at] = event.get("item")
        elif isinstance(event.get("delta"), str):
            part = event.get("content_index", event.get("summary_index"))
            key = (at, part if isinstance(part, int) else 0, kind)
            if key in self._deltas or len(self._deltas) < MAX_MEMBERS:
                self._go_on(self._deltas.setdefault(key, _Pieces()), event["delta"])

    def _output(self) -> list[Any]:
        """Items that were done; of others what came of them."""
        said = [
            (place, {"type": kind.removeprefix("response.").removesuffix(".delta"), "text": pieces})
            for (place, _, kind), pieces in sorted(self._deltas.items())
            if place not in self._items
        ]
        return [item for _, item in sorted([*self._items.items(), *said], key=lambda each: each[0])]

    def _at(self, held: dict[int, dict[str, Any]], index: Any) -> dict[str, Any]:
        """The member with this index; what has none that can be meant is forgotten."""
        if not isinstance(index, int) or (index not in held and len(held) >= MAX_MEMBERS):
            return {}
        return held.setdefault(index, {})

    def _merge(self, into: dict[str, Any], said: Mapping[str, Any], *, replace: bool = False) -> None:
        """
        Let an object go on.

        Args:
            replace: Its own texts do not go on, but are said again.
        """
        for name, value in said.items():
            held = into.get(name)
            if isinstance(value, str):
                if replace or name in _WORDS:
                    into[name] = value
                    continue
                if not isinstance(held, _Pieces):
                    held = into[name] = _Pieces()
                self._go_on(held, value)
            elif isinstance(value, dict):
                if not isinstance(held, dict):
                    held = into[name] = {}
                self._merge(held, value, replace=replace)
            elif isinstance(value, list):
                if not isinstance(held, list) or isinstance(held, _Pieces) or replace:
                    held = into[name] = []
                self._merge_list(held, value)
            elif value is not None or held is None:
                into[name] = value

    def _merge_list(self, held: list[Any], said: list[Any]) -> None:
        """Members with an index are pieces of the one that has it; others are new."""
        for value in said:
            if not isinstance(value, dict):
                if len(held) < MAX_MEMBERS:
                    held.append(value)
                continue
            index = value.get("index")
            for other in reversed(held) if index is not None else ():
                if other.get("index") == index and _is_same(other, value):
                    self._merge(other, value)
                    break
            else:
                if len(held) < MAX_MEMBERS:
                    fresh: dict[str, Any] = {}
                    self._merge(fresh, value)
                    held.append(fresh)

    def _go_on(self, pieces: _Pieces, text: str) -> None:
        if len(text) > self._room:
            pieces.is_cut = True
            text = text[: self._room]
        if text:
            pieces.append(text)
            self._room -= len(text)


def assembled(stream: bytes) -> Any:
    """A whole stream as one answer; None where there is none in it."""
    assembler = StreamAssembler()
    assembler.feed(stream)
    return assembler.value()


def _is_same(held: dict[str, Any], said: dict[str, Any]) -> bool:
    """Whether two members of one index are one: some providers give each tool call the index 0, and an id."""
    return all(not said.get(name) or not held.get(name) or said[name] == held[name] for name in ("id", "type"))


def _whole(value: Any) -> Any:
    """With the pieces of each text put together."""
    if isinstance(value, _Pieces):
        text = "".join(value)
        return Cut(text) if value.is_cut else text
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value


def _block(block: dict[str, Any]) -> dict[str, Any]:
    """A block of Messages: the input of a tool comes as the text of its JSON."""
    if (pieces := block.pop("partial_json", None)) is not None:
        text = _whole(pieces)
        try:
            block["input"] = json.loads(text)
        except (ValueError, RecursionError):
            block["input"] = text
    return block


def _object(payload: bytes) -> dict[str, Any] | None:
    if payload[:1] != b"{":
        return None
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        try:  # half characters
            value = json.loads(payload.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
