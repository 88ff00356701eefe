"""
Texts that were cut: the beginning of a secret is no secret to any pattern, and half of it is still somebody's.

So what may be a beginning is dropped. A text that comes in pieces has the same question at the end of each, and the
answer is here as there: what stands before a quiet place is decided, whatever comes. Where the last quiet place is far, as in
a long line without spaces, the text is decided up to `SIGHT` bytes before its end, and from there back to where the last
word begins, since a word may be the beginning of something longer than that: a token, base64, a URL with a password.
"""

from __future__ import annotations

from typing import Final

from openrouter_audit.core.redaction.engine import Engine
from openrouter_audit.core.redaction.redactor import Redactor, as_bytes

_PIECE: Final = 128
_AHEAD: Final = 512
"""Bytes in sight of what is decided: an address, the longest of what may have spaces or letters of any script in it."""
SIGHT: Final = _PIECE + _AHEAD
"""No more than so many bytes are dropped, and the word before them."""
_IN_WORDS: Final = "".join(map(chr, range(0x21, 0x7F))).translate({ord("["): None, ord("]"): None})
"""Letters of what may be long and is seen as a whole only; none of it has brackets."""


class Cut(str):
    """A text of which only the beginning is here. `redact_json` drops what may be the beginning of a finding at its end."""

    __slots__ = ()

    def decided(self, engine: Engine, context: str) -> str:
        """Of this text what is no beginning of anything; `context` is what stands in front of it."""
        text = str(self)
        redactor = _fed(text, engine, context)
        if redactor.held_bytes <= SIGHT:  # as nearly always; what is decided ends at a quiet place
            return text[: redactor.decided]
        redactor = _fed(text, engine.narrowed(piece=_PIECE, ahead=_AHEAD), context)
        return text[: redactor.decided].rstrip(_IN_WORDS)


def _fed(text: str, engine: Engine, context: str) -> Redactor[str]:
    redactor: Redactor[str] = Redactor(engine=engine, context=as_bytes(context), detect=False)
    redactor.feed(text)
    return redactor
