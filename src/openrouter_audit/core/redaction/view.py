"""
A stretch of text as the rules see it.

Nothing looks further back than the end of the last finding, a closing bracket or the beginning of the line. So a rule sees
the same whether what stands in front was just replaced or came in as a tag, and redacting twice changes nothing more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_LOOK_BACK: Final = 48


class Span(NamedTuple):
    """A place to be replaced."""

    start: int
    end: int
    kind: str
    tail: int = 0
    """Which of `tails` goes on swallowing where the text went on behind what is visible; 0 for none."""
    unique: bool = False
    """Whether it is numbered on its own: how much of it is visible depends on how the text came."""


class View:
    """Bytes, how far one may look, and what is done."""

    __slots__ = ("end", "floor", "looked_at", "text", "token_end")

    def __init__(self, text: bytes, floor: int, end: int) -> None:
        self.text = text
        self.floor = floor
        """Everything before it is done, and out of sight."""
        self.end = end
        self.looked_at = 0
        """Up to here a judgement has seen all there is, whether it found something or not."""
        self.token_end = 0
        """Up to here goes a long word with dots that is known to be no token."""

    def is_free(self, at: int, joined: frozenset[int]) -> bool:
        """Whether what begins at `at` is not the rest of a longer word of these bytes."""
        return at <= self.floor or self.text[at - 1] not in joined

    def before(self, at: int) -> str:
        """What stands before on the same line, as text."""
        seen = self.text[max(self.floor, at - _LOOK_BACK) : at]
        seen = seen[max(seen.rfind(b"\n"), seen.rfind(b"]")) + 1 :]
        return seen.decode("utf-8", "replace")
