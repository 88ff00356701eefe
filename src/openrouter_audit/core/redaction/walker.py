"""
One walk over every shape a body of OpenRouter has.

The walk knows no endpoint. It goes through every member, name and number of any JSON, so a field that is new tomorrow is
cleaned today: content as a string or a list of parts, `input` and `instructions`, `system` and blocks, arguments and results of
tools, reasoning, error bodies, metadata, file names, transcripts, links. What it knows is which things are not text:

- **JSON inside a string** is walked as JSON, and stays JSON.
- **Base64 of media** becomes its type, size and commitment; so do encrypted reasoning and signatures, which nobody can read.
- **Fields that name an account or end user** are replaced as a whole.
- **Event streams** are walked after they were assembled, since a value may be cut between two events. Without a function
  that assembles them they are withheld.

A name stands in front of its value as it would in a text: `{"phone": "4155552671"}` is a telephone number.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from openrouter_audit.core.redaction import json_text
from openrouter_audit.core.redaction.engine import engine_for
from openrouter_audit.core.redaction.json_text import MAX_DEPTH, Members, Number
from openrouter_audit.core.redaction.policy import DEFAULT, Finding, Policy
from openrouter_audit.core.redaction.redactor import Redaction, as_bytes, as_text

Commit = Callable[[bytes], str]
"""Text of a commitment to what a media field held, as it stood in the body."""
Assemble = Callable[[bytes], Any]
"""JSON value of an event stream whose deltas were put together, for the walk over streams."""

_WORD_BREAK: Final = re.compile(r"[^A-Za-z0-9\u0080-\uffff]+|(?<=[a-z])(?=[A-Z])")
_HEADER_NAMES: Final = re.compile(
    r"(?i)(?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?[a-z0-9_-]*(?:api[_-]?key|token|secret|password)\Z"
)
_DATA_URL: Final = re.compile(r"(?i)\s*data:(?P<type>[^;,\s]{0,200})(?P<rest>[^,]{0,300}),")
_ALL_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\-]+={0,2}\Z")
_LONG_BASE64: Final = 512
"""Characters from which a word of base64 is taken for media in any field."""
_PERSONAL: Final = frozenset(
    {"user_id", "external_user", "creator_user_id", "safety_identifier", "end_user_id", "user"}
)
_OPAQUE: Final = frozenset({"encrypted_content", "signature", "thought_signature"})
_MEDIA: Final = frozenset({"b64_json", "file_data", "partial_image_b64", "image_base64", "audio_base64"})
_MEDIA_NAMED: Final = frozenset({"format", "media_type", "mime_type", "mimeType"})
_MEDIA_TYPE: Final = re.compile(r"(?:[A-Za-z]{2,20}/[A-Za-z0-9.+-]{1,60}|[A-Za-z0-9]{2,8})\Z")
_MEDIA_BESIDE: Final = _MEDIA_NAMED | {"transcript", "expires_at"}
"""Members whose neighbour `data` is media, however short."""
_ESCAPE: Final = re.compile(r"\\u00([0-7][0-9a-fA-F])")
_TAGGED_MEDIA: Final = re.compile(r"\[MEDIA [^\]\n]*\]\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactedBody:
    """What may be kept of a body."""

    body: Any
    """Of the kind that was given: bytes for bytes, an object for an object."""
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each class."""
        return dict(sorted(Counter(each.kind for each in self.findings).items()))


def redact_json(
    body: Any, policy: Policy = DEFAULT, *, commit: Commit | None = None, assemble: Assemble | None = None
) -> RedactedBody:
    """
    Redact a body in whatever shape it is.

    Args:
        body: Bytes (JSON, an event stream, or any text), or an object as `json.loads` gives it.
        policy: What is looked for.
        commit: Makes the commitment that stands in place of media; without it only type and size do.
        assemble: Makes one value of an event stream.

    Raises:
        ExtraMissing: The extra `redaction` is not installed.
        PatternError: An own pattern of the policy is refused.
    """
    walk = _Walk(Redaction(engine_for(policy)), commit)
    if isinstance(body, bytes | bytearray | memoryview):
        shown: Any = walk.body(bytes(body), assemble)
    else:
        try:
            shown = walk.value(body, _Place())
        except RecursionError:
            shown = walk.withhold("", len(walk.findings))
    return RedactedBody(body=shown, findings=tuple(walk.findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a value stands."""

    path: str = ""
    name: str = ""
    """Of the member it is in, also where it stands in a list there."""
    beside: frozenset[str] = field(default=frozenset())
    """Names in the same object."""
    kind: str = ""
    """`media_type` or the like beside it."""
    depth: int = 0


class _Walk:
    """One body; findings are gathered on the way."""

    def __init__(self, redaction: Redaction, commit: Commit | None) -> None:
        self._redaction, self._commit = redaction, commit
        self._off = redaction.engine.policy.off
        self.findings: list[Finding] = []

    def body(self, body: bytes, assemble: Assemble | None) -> bytes:
        if _is_event_stream(body):
            return self._stream(body, assemble)
        try:
            text = body.decode("utf-8-sig")
            value = json_text.parse(text)
        except ValueError:
            return self.text_of_bytes(body)
        try:
            return self._dumped(self.value(value, _Place()))
        except (ValueError, RecursionError):  # deeper than anybody means
            return as_bytes(self.withhold("", 0))

    def text_of_bytes(self, body: bytes) -> bytes:
        """A body that is no JSON, or was cut: as text, with escapes of ASCII undone so that none hides anything."""
        try:
            text = body.decode()
        except UnicodeDecodeError:
            shown, findings = self._redaction.redact(body)
            self.findings += findings
            return shown
        return as_bytes(self._text(_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text), "", ""))

    def _stream(self, body: bytes, assemble: Assemble | None) -> bytes:
        if assemble is None:
            return as_bytes(self.withhold("", 0))
        try:
            return self._dumped(_lossless(self.value(assemble(body), _Place())))
        except Exception:  # what could not be put together is not kept in its pieces
            return as_bytes(self.withhold("", 0))

    def _dumped(self, value: Any) -> bytes:
        text = json_text.dump(value)
        try:
            return text.encode()
        except UnicodeEncodeError:  # half characters, which JSON can only say in escapes
            return "".join(
                letter if not 0xD800 <= ord(letter) < 0xE000 else f"\\u{ord(letter):04x}" for letter in text
            ).encode()

    def withhold(self, path: str, since: int) -> str:
        """Give up what was found so far: nothing of this value is kept."""
        del self.findings[since:]
        self.findings.append(Finding(kind="WITHHELD", start=0, end=0, path=path))
        return "[WITHHELD]"

    # Values -------------------------------------------------------------------------------------------------------

    def value(self, value: Any, place: _Place) -> Any:
        if place.depth > MAX_DEPTH:
            return self.withhold(place.path, len(self.findings))
        if isinstance(value, Number):
            return self._number(value, str(value), place)
        if isinstance(value, str):
            return self._string(value, place)
        if isinstance(value, Members):
            return Members(self._members(value, place))
        if isinstance(value, Mapping):
            return dict(self._members(list(value.items()), place))
        if isinstance(value, list | tuple):
            return [
                self.value(each, replace(place, path=f"{place.path}[{index}]", depth=place.depth + 1))
                for index, each in enumerate(value)
            ]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, bytes | bytearray):
            return self._string(as_text(bytes(value)), place)
        return self._number(value, str(value), place)

    def _members(self, members: list[tuple[Any, Any]], place: _Place) -> list[tuple[str, Any]]:
        names = frozenset(name for name, _ in members if isinstance(name, str))
        kind = next(
            (
                value
                for name, value in members
                if name in _MEDIA_NAMED and isinstance(value, str) and _MEDIA_TYPE.match(value)
            ),
            "",
        )
        walked = []
        for name, value in members:
            shown_name = self._text(str(name), f"{place.path}{{name}}", "")
            path = f"{place.path}.{shown_name}" if place.path else shown_name
            inner = _Place(path=path, name=str(name), beside=names, kind=kind, depth=place.depth + 1)
            walked.append((shown_name, self.value(value, inner)))
        return walked

    def _number(self, value: Any, text: str, place: _Place) -> Any:
        """A number that is somebody's becomes a tag, so a string."""
        if place.name in _PERSONAL:
            return self._whole("USER_ID", text, place)
        if sum(letter.isdigit() for letter in text) < 7:
            return value
        shown, findings = self._redaction.redact(text, _context(place.name))
        self._note(findings, place.path)
        return value if not findings else shown

    def _string(self, text: str, place: _Place) -> str:
        if not text:
            return text
        if place.name in _PERSONAL:
            return self._whole("USER_ID", text, place)
        if _TAGGED_MEDIA.match(text) and text.count("]") == 1:
            return self._text(text, place.path, place.name) if "@" in text else text
        media = self._media_type(text, place)
        if media is not None:
            return self._media(text, media, place)
        if text.lstrip()[:1] in {"{", "["} and (shown := self._json(text, place)) is not None:
            return shown
        return self._text(text, place.path, place.name)

    def _whole(self, kind: str, text: str, place: _Place) -> str:
        tagged = re.fullmatch(rf"\[{kind}(?:_[0-9]+)?\]", text)
        if kind in self._off or tagged:
            return text
        self.findings.append(Finding(kind=kind, start=0, end=len(text), path=place.path))
        return self._redaction.tag(kind, as_bytes(text))

    def _text(self, text: str, path: str, name: str) -> str:
        shown, findings = self._redaction.redact(text, _context(name))
        self._note(findings, path)
        return self._decoded(shown, path)

    def _note(self, findings: list[Finding], path: str) -> None:
        self.findings += [replace(each, path=path) for each in findings]

    def _json(self, text: str, place: _Place) -> str | None:
        """JSON in a string; None where it is none. What has nothing to hide stays as it was written."""
        try:
            value = json_text.parse(text)
        except ValueError:
            return None
        since = len(self.findings)
        try:
            shown = json_text.dump(self.value(value, replace(place, depth=place.depth + 1)))
        except (ValueError, RecursionError):
            return f'"{self.withhold(place.path, since)}"'
        return shown if len(self.findings) > since else text

    # Media --------------------------------------------------------------------------------------------------------

    def _media_type(self, text: str, place: _Place) -> str | None:
        """The type of media this string is; None for text."""
        if "MEDIA" in self._off:
            return None
        if (found := _DATA_URL.match(text)) is not None:
            return found["type"] or "text/plain"
        name = place.name
        if name in _OPAQUE or (name == "data" and "signature" in place.beside):
            return "application/octet-stream" if len(text) > 16 else None
        is_media = name in _MEDIA or (name == "data" and bool(place.beside & _MEDIA_BESIDE or "type" in place.beside))
        if (is_media or len(text) >= _LONG_BASE64) and _ALL_BASE64.match(text):
            return place.kind or "application/octet-stream"
        return None

    def _media(self, text: str, media: str, place: _Place) -> str:
        """`[MEDIA image/png 1234 bytes hmac-sha256:…]`"""
        _, comma, data = text.partition(",") if _DATA_URL.match(text) else ("", "", text)
        size = (
            len(data) * 3 // 4 - data[-2:].count("=") if comma == "" or ";base64" in text[:600].lower() else len(data)
        )
        words = ["MEDIA", media if _MEDIA_TYPE.match(media) else "unknown", str(size), "bytes"]
        words[1] = "unknown" if self._redaction.redact(words[1])[1] else words[1]
        if self._commit is not None:
            words.append(re.sub(r"[^A-Za-z0-9:+/=-]", "", self._commit(as_bytes(text)))[:200])
        self.findings.append(Finding(kind="MEDIA", start=0, end=len(text), path=place.path))
        return f"[{' '.join(words)}]"

    # Encoded text -------------------------------------------------------------------------------------------------

    def _decoded(self, text: str, path: str) -> str:
        """Words of base64 or hex whose text holds a finding."""
        if "ENCODED" in self._off or _ENCODED.search(text) is None:
            return text
        parts, at = list[str](), 0
        for found in _ENCODED.finditer(text):
            inner = _decode(found.group())
            if inner is not None and Redaction(self._redaction.engine).redact(inner)[1]:
                parts += (text[at : found.start()], self._redaction.tag("ENCODED", found.group().encode()))
                self.findings.append(Finding(kind="ENCODED", start=found.start(), end=found.end(), path=path))
                at = found.end()
        return "".join([*parts, text[at:]])


_EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:(?:event|id|retry)?:[^\n]*\n\s*)*data:")
_ENCODED: Final = re.compile(r"(?<![A-Za-z0-9+/_=-])(?:[A-Za-z0-9+/_-]{12,}={0,2})(?![A-Za-z0-9+/_=-])")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+\Z")


def _decode(word: str) -> str | None:
    """The text that a word encodes, in UTF-8 or UTF-16; None where it encodes none."""
    tries = [bytes.fromhex(word)] if _HEX.match(word) else []
    plain = word.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        tries.append(base64.b64decode(plain + "=" * (-len(plain) % 4)))
    except binascii.Error:
        pass
    for data in tries:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                continue
            if sum(letter.isprintable() and letter.isascii() for letter in text) > 0.9 * len(text):
                return text
    return None


def _context(name: str) -> str:
    """What stands in front of a value for the rules: its name in words, or as a header is written."""
    if not name:
        return ""
    name = name[:64]
    if _HEADER_NAMES.match(name):
        return f"{name}: "
    return f"{' '.join(_WORD_BREAK.split(name)).strip()}: "


def _is_event_stream(body: bytes) -> bool:
    return _EVENTS.match(body[:65536]) is not None


def _lossless(value: Any) -> Any:
    """An object of Python's as `json_text` writes it."""
    if isinstance(value, Mapping) and not isinstance(value, Members):
        return Members((str(name), _lossless(each)) for name, each in value.items())
    if isinstance(value, Members):
        return Members((name, _lossless(each)) for name, each in value)
    if isinstance(value, list | tuple):
        return [_lossless(each) for each in value]
    if value is None or isinstance(value, str | bool):
        return value
    return Number(value)
