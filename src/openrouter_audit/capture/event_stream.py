"""
Finds, in a stream of server-sent events, the few lines an audit needs, for any cutting of the bytes.

A stream has tens to thousands of `data:` lines and four of them matter: the first, the one with the finish reason, the one
with usage, the last. Parsing each would cost more than all the rest, so whole blocks are first asked for a few byte strings
and dropped when none is there. A marker inside a JSON string cannot be taken for one: its quotation marks are escaped.
A marker that is there for another reason costs a parse and changes no fact.

Lines end with LF, CR LF or CR (WHATWG HTML, section 9.2.6). A line that does not end in a piece waits for the next one;
past `2 * KEEP_BYTES` its middle is dropped, which leaves text that no JSON parser takes and a byte scan still reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

KEEP_BYTES = 64 * 1024
"""Kept of each end of an over-long text. Ids and models stand at the front of an answer, usage and cost at its end."""
OPENING_EVENTS = 8
"""So many first `data:` lines are handed out whatever they hold: one of them names the generation, if any does."""

CHAT_MARKERS = (b"[DONE]", b'"usage"', b'"error"', b'finish_reason":"', b'finish_reason": "')
RESPONSES_MARKERS = (
    b"[DONE]",
    b'"usage"',
    b'"error"',
    b"response.output_item.",
    b"response.completed",
    b"response.failed",
    b"response.inc",
)
MESSAGES_MARKERS = (b"[DONE]", b'"usage"', b'"error"', b"message_st", b'"stop_reason"')
ALL_MARKERS = tuple(dict.fromkeys((*CHAT_MARKERS, *RESPONSES_MARKERS, *MESSAGES_MARKERS, b"image_generation.")))
CHAT_ENDINGS = (b"[DONE]",)
RESPONSES_ENDINGS = (b"[DONE]", b"response.completed", b"response.failed", b"response.incomplete", b'"error"')
MESSAGES_ENDINGS = (b"[DONE]", b"message_stop", b'"error"')
ALL_ENDINGS = tuple(dict.fromkeys((*RESPONSES_ENDINGS, *MESSAGES_ENDINGS)))
"""A terminal event (C10) holds one of these: whole lines without any cannot be the end of their stream."""


class Excerpt:
    """Bytes collected in order, of which both ends are kept when there are too many."""

    __slots__ = ("_head", "_pieces", "_size")

    def __init__(self) -> None:
        self._head: bytes | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > 2 * KEEP_BYTES:
            self._cut()

    def take(self) -> bytes:
        """All of it, or both ends with a NUL between them; empty afterwards."""
        pieces = self._pieces
        text = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._head is not None:
            text = self._head + b"\x00" + text[-KEEP_BYTES:]
        self._head, self._pieces, self._size = None, [], 0
        return text

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def _cut(self) -> None:
        # Down to one KEEP_BYTES: the next cut is a whole KEEP_BYTES away, so the copying stays linear.
        text = b"".join(self._pieces)
        if self._head is None:
            self._head, text = text[:KEEP_BYTES], text[KEEP_BYTES:]
        self._pieces = [text[-KEEP_BYTES:]]
        self._size = len(self._pieces[0])


class EventScanner:
    """Takes decoded bytes, gives what follows `data:` in the lines worth reading."""

    __slots__ = ("_carry", "_carrying", "_markers", "opening")

    def __init__(self, markers: tuple[bytes, ...] = ALL_MARKERS) -> None:
        self._markers = markers
        self._carry = Excerpt()
        self._carrying = False
        self.opening = OPENING_EVENTS
        """How many more `data:` lines are handed out unasked; set to 0 once the generation is known."""

    @property
    def is_between_lines(self) -> bool:
        """Every line so far is complete."""
        return not self._carrying

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Payloads of the interesting lines that end in this piece, in order."""
        rest = b""
        if not data.endswith(b"\n"):
            data = _with_line_feeds(data)
            end = data.rfind(b"\n") + 1
            if not end:
                if data:
                    self._carry.add(data)
                    self._carrying = True
                return ()
            data, rest = data[:end], data[end:]
        if self._carrying:
            self._carry.add(data)
            data = self._carry.take()
            self._carrying = False
        if rest:
            self._carry.add(rest)
            self._carrying = True
        return self._wanted(data)

    def flush(self) -> Sequence[bytes]:
        """The last line, when the stream ended without ending it."""
        if not self._carrying:
            return ()
        self._carrying = False
        return self._wanted(self._carry.take())

    def _wanted(self, block: bytes) -> list[bytes]:
        block = _with_line_feeds(block)
        if not self.opening:
            return self._marked(block)
        found = []
        for line in block.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            if self.opening:
                self.opening -= 1
            elif not any(marker in line for marker in self._markers):
                continue
            found.append(line[5:].strip())
        return found

    def _marked(self, block: bytes) -> list[bytes]:
        """The lines with a marker: found from the markers, which are few, not from the lines, which are many."""
        spans: dict[int, int] = {}
        for marker in self._markers:
            at = block.find(marker)
            while at >= 0:
                end = block.find(b"\n", at)
                end = len(block) if end < 0 else end
                spans[block.rfind(b"\n", 0, at) + 1] = end
                at = block.find(marker, end)
        lines = (block[start:end] for start, end in sorted(spans.items()))
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


def _with_line_feeds(text: bytes) -> bytes:
    # JSON escapes CR, so each one ends a line; the empty lines this may add mean nothing here.
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text
