"""
Words of base64 or hex, and the text that they encode.

A word is at least twelve characters of the alphabet of base64, the usual one or the one of URLs, and is not part of a longer
one. Decoding every word would cost more than everything else, so one search of RE2 leaves nearly all of them out first:

- Base64 says three bytes in four letters, and the first letter says the upper six bits of the first byte. Where that byte is
  ASCII, so below 128, the letter is one of A-Z and a-f. Nine ASCII characters in a row, wherever they begin, hold the first
  byte of three groups that follow each other; so a word is decoded only where three groups in a row begin with such a letter.
- Hex says the upper half of a byte in its first digit, which for ASCII is below 8; six such bytes in a row are asked for.

Both hold for UTF-16 as well, whose ASCII is ASCII and zeros. What is lost: text without nine (in hex six) ASCII characters in a
row. More than nine in ten must be ASCII to be taken for text at all, so of the shortest words, of up to ten characters, nothing
is lost; of longer ones those of which every few characters are of another alphabet, such as an address whose name and domain
are both cut in two by an umlaut. Of every hundred words of prose this leaves less than one to decode.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

_LETTER: Final = rb"[A-Za-z0-9+/_\-]"
_ASCII: Final = rb"[A-Za-f]"
_GROUP: Final = _ASCII + _LETTER + rb"{3}"
_BYTE: Final = rb"[0-9A-Fa-f]{2}"
HEAD: Final = (
    rb"(?:^|[^A-Za-z0-9+/_=\-])"
    rb"(?:(?:" + _GROUP + rb"){3}"
    rb"|(?:" + _LETTER + rb"{4})+(?:" + _GROUP + rb"){2}" + _ASCII +
    rb"|(?:" + _BYTE + rb")*(?:[0-7][0-9A-Fa-f]){6})"
)  # fmt: skip
"""RE2: what stands before a word, and as much of the word as tells that it may encode text."""
_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-")
_WORD: Final = re.compile(_LETTER + rb"{12,}={0,2}(?![A-Za-z0-9+/_=\-])")
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2})+\Z")
_USUAL: Final = bytes.maketrans(b"-_", b"+/")
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_TEXT: Final = 0.9
"""Share of printable ASCII above which bytes are taken for text."""


def word_at(text: bytes, head: int) -> tuple[int, int] | None:
    """Where the word begins and ends whose `HEAD` was found at `head`; None where it is too short or no word."""
    found = _WORD.match(text, head if text[head] in _LETTERS else head + 1)
    return None if found is None else found.span()


def decode(word: bytes) -> str | None:
    """The text that a word encodes, in UTF-8 or UTF-16; None where it encodes none."""
    if _HEX.match(word) and (text := _text_of(bytes.fromhex(word.decode()))) is not None:
        return text
    plain = word.rstrip(b"=").translate(_USUAL)
    try:
        return _text_of(base64.b64decode(plain + b"=" * (-len(plain) % 4)))
    except binascii.Error:
        return None


def _text_of(data: bytes) -> str | None:
    for encoding in ("utf-8", "utf-16-le", "utf-16-be") if 0 in data else ("utf-8",):  # ASCII in UTF-16 has zeros
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        ascii_only = text.encode("ascii", "ignore")
        if len(ascii_only) - len(ascii_only.translate(None, _PRINTABLE)) > _TEXT * len(text):
            return text
    return None
