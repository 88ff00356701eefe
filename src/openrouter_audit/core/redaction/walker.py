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

Nearly every text holds nothing, and the walk is part of every recorded call. So the first walk supposes that no text holds a
finding: it does all that it does otherwise, only that a text is put aside, with its name in front, where it would be looked
through. One search over all of them then tells whether the supposition was right. Where it was wrong the body is walked
again, and each text is looked through by itself. Both are the same walk, so nothing is put aside that is not looked through,
and nothing is looked through that was not put aside.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from openrouter_audit.core.redaction import json_text
from openrouter_audit.core.redaction.cut import Cut
from openrouter_audit.core.redaction.engine import Engine, engine_for
from openrouter_audit.core.redaction.json_text import MAX_DEPTH, Members, Number
from openrouter_audit.core.redaction.policy import DEFAULT, Finding, Policy
from openrouter_audit.core.redaction.redactor import Numbers, Redaction, as_bytes, as_text

Commit = Callable[[bytes], str]
"""Text of a commitment to what a media field held, as it stood in the body."""
Assemble = Callable[[bytes], Any]
"""JSON value of an event stream whose deltas were put together, for the walk over streams."""

Siblings = Sequence[tuple[Any, Any]]
"""Names and values of the object that a value is in, also where it stands in a list there."""
Place = tuple[Any, str | int | None] | None
"""
Where a value stands: the place of what it is in, and its name or index there; None for what is a name itself.

It is put into words for findings only.
"""
T = TypeVar("T")

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
_MAY_BE_MEDIA: Final = _OPAQUE | _MEDIA | {"data"}
"""Members that may hold media however short they are; any other may where it is long, or says so."""
_MEDIA_NAMED: Final = frozenset({"format", "media_type", "mime_type", "mimeType"})
_MEDIA_TYPE: Final = re.compile(r"(?:[A-Za-z]{2,20}/[A-Za-z0-9.+-]{1,60}|[A-Za-z0-9]{2,8})\Z")
_MEDIA_BESIDE: Final = _MEDIA_NAMED | {"transcript", "expires_at", "type"}
"""Members whose neighbour `data` is media, however short."""
_FEWEST_DIGITS: Final = 7
"""Of what may be somebody's number."""
_NOBODYS_NUMBER: Final = re.compile(r"-?[0-9]{0,6}\Z|-?[0-9]*(?:\.|[eE])").match
"""Too few digits, or a fraction: a price, a probability."""
_TIMES: Final = frozenset({"created", "created_at", "completed_at", "expires_at"})
_TIME_DIGITS: Final = 10
_GENERATION_ID: Final = re.compile(r"gen-[0-9]{10}-[A-Za-z0-9]{20}\Z").match
_MODEL: Final = re.compile(r"~?[a-z0-9-]{2,32}/[a-z][a-z0-9.-]{1,62}(?::[a-z]{1,16})?\Z").match
"""Every answer has a time, such an id and a model, whose digits take longer to judge than all the rest of a short one. They are in
the entry anyway."""
_ESCAPE: Final = re.compile(r"\\u00([0-7][0-9a-fA-F])")
_TAGGED_USER: Final = re.compile(r"\[USER_ID(?:_[0-9]+)?\]\Z")
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
    body: Any,
    policy: Policy = DEFAULT,
    *,
    commit: Commit | None = None,
    assemble: Assemble | None = None,
    numbers: Numbers | None = None,
) -> RedactedBody:
    """
    Redact a body in whatever shape it is.

    Where nothing was found the body is returned as it was given, to the space between its members. Otherwise JSON is written
    anew, without such spaces and without a byte order mark. An event stream always becomes the JSON of what was assembled.

    Args:
        body: Bytes (JSON, an event stream, or any text), or an object as `json.loads` gives it.
        policy: What is looked for.
        commit: Makes the commitment that stands in place of media; without it only type and size do. Asked once for each.
        assemble: Makes one value of an event stream.
        numbers: Those given so far, where several bodies of one call are redacted and the policy numbers what it finds: an empty
            dictionary for the first of them. It holds what was found.

    Raises:
        ExtraMissing: The extra `redaction` is not installed.
        PatternError: An own pattern of the policy is refused.
    """
    engine, numbers = engine_for(policy), {} if numbers is None else numbers
    if not isinstance(body, bytes | bytearray | memoryview):
        shown, walk = _walked(engine, commit, numbers, lambda walk: walk.whole(body))
        return walk.result(body if walk.is_unchanged else shown)
    body = bytes(body)
    if _is_event_stream(body):
        return _stream(engine, commit, numbers, body, assemble)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        data, findings = Redaction(engine, numbers).redact(body)
        return RedactedBody(body=data if findings else body, findings=tuple(findings))
    try:
        value = json_text.parse(text.removeprefix("\ufeff"))
    except ValueError:  # no JSON, or cut: as text, with escapes of ASCII undone so that none hides anything
        text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
        shown, walk = _walked(engine, commit, numbers, lambda walk: walk.text(text, None, ""))
        return walk.result(body if walk.is_unchanged else as_bytes(shown))
    shown, walk = _walked(engine, commit, numbers, lambda walk: walk.whole(value))
    return walk.result(body if walk.is_unchanged else walk.dumped(shown))


def _stream(
    engine: Engine, commit: Commit | None, numbers: Numbers, body: bytes, assemble: Assemble | None
) -> RedactedBody:
    """What could not be put together is not kept in its pieces."""
    try:
        if assemble is None:
            raise ValueError("nobody knows how to put it together")
        value = assemble(body)
        shown, walk = _walked(engine, commit, numbers, lambda walk: walk.value(value, None, "", (), 0))
        return walk.result(walk.dumped(_lossless(shown)))
    except Exception:  # whatever it is
        walk = _Walk(Redaction(engine), None)
        return walk.result(as_bytes(walk.withhold(None, 0)))


def _walked(engine: Engine, commit: Commit | None, numbers: Numbers, walk_all: Callable[[_Walk], T]) -> tuple[T, _Walk]:
    """What a walk makes of a body, and the walk: first supposing that no text holds anything, then looking at each."""
    if engine.can_tell:
        made = _Commitments(commit) if commit is not None else None
        supposed = dict(numbers)
        walk = _Walk(Redaction(engine, supposed), made.make if made is not None else None, supposing=True)
        shown = walk_all(walk)
        if walk.was_right():
            numbers.update(supposed)
            return shown, walk
        commit = made.make_once if made is not None else None
    walk = _Walk(Redaction(engine, numbers), commit)
    return walk_all(walk), walk


class _Commitments:
    """Commitments to the media of a body, each made once though the body is walked twice."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._made: dict[bytes, list[str]] = {}

    def make(self, data: bytes) -> str:
        made = self._commit(data)
        self._made.setdefault(data, []).insert(0, made)
        return made

    def make_once(self, data: bytes) -> str:
        made = self._made.get(data)
        return made.pop() if made else self._commit(data)


class _Names(dict[str, str]):
    """
    What stands in front of a value, by its name; for names known to hold nothing, which are not looked through again.

    Names of fields are few and come with every body. Only such are kept as may be a field's: short, of letters, digits and
    underscores. No value is ever in here.
    """

    MOST: Final = 4096
    LONGEST: Final = 40

    def learn(self, names: list[str]) -> None:
        for name in names:
            if len(name) <= self.LONGEST and name.isascii() and name.isidentifier() and len(self) < self.MOST:
                self[name] = _context(name)


_CLEAN_NAMES: Final = _Names()
"""For every policy that has patterns of ours only: what is no head is none in any of them."""


class _Walk:
    """One body; findings are gathered on the way."""

    def __init__(self, redaction: Redaction, commit: Commit | None, *, supposing: bool = False) -> None:
        self._redaction, self._commit = redaction, commit
        self._off = redaction.engine.policy.off
        self._personal = frozenset() if "USER_ID" in self._off else _PERSONAL
        self._supposing = supposing
        self._aside: list[str] = []
        """Texts that are supposed to hold nothing, each behind a line break and its name."""
        self._new_names: list[str] = []
        self._clean_names: Mapping[str, str] = _CLEAN_NAMES if redaction.engine.can_tell else {}
        self.findings: list[Finding] = []
        self._has_dropped = False

    @property
    def is_unchanged(self) -> bool:
        return not self.findings and not self._has_dropped

    def was_right(self) -> bool:
        """Whether the texts that were put aside hold nothing; then their names are known from now on."""
        if not self._redaction.engine.holds_nothing(as_bytes("".join(self._aside))):
            return False
        _CLEAN_NAMES.learn(self._new_names)
        return True

    def result(self, body: Any) -> RedactedBody:
        return RedactedBody(body=body, findings=tuple(self.findings))

    def whole(self, value: Any) -> Any:
        try:
            return self.value(value, None, "", (), 0)
        except RecursionError:  # deeper than anybody means
            return self.withhold(None, 0)

    def dumped(self, value: Any) -> bytes:
        try:
            text = json_text.dump(value)
        except (ValueError, RecursionError):
            return as_bytes(self.withhold(None, 0))
        try:
            return text.encode()
        except UnicodeEncodeError:  # half characters, which JSON can only say in escapes
            return "".join(
                letter if not 0xD800 <= ord(letter) < 0xE000 else f"\\u{ord(letter):04x}" for letter in text
            ).encode()

    def withhold(self, place: Place, since: int) -> str:
        """Give up what was found so far: nothing of this value is kept."""
        del self.findings[since:]
        self.findings.append(Finding(kind="WITHHELD", start=0, end=0, path=_path(place)))
        return "[WITHHELD]"

    # Values -------------------------------------------------------------------------------------------------------

    def value(self, value: Any, place: Place, name: str, siblings: Siblings, depth: int) -> Any:
        """Any value; `name` is of the member it is in, also where it stands in a list there, like `siblings`."""
        if depth > MAX_DEPTH:
            return self.withhold(place, len(self.findings))
        if isinstance(value, Number):
            return self._number(value, value, place, name)
        if isinstance(value, str):
            return self._string(value, place, name, siblings, depth)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Members):
            return Members(self._members(value, place, depth))
        if isinstance(value, list | tuple):
            return [self.value(each, (place, index), name, siblings, depth + 1) for index, each in enumerate(value)]
        if isinstance(value, Mapping):
            return dict(self._members(list(value.items()), place, depth))
        if isinstance(value, bytes | bytearray):
            return self._string(as_text(bytes(value)), place, name, siblings, depth)
        return self._number(value, str(value), place, name)

    def _members(self, members: Siblings, place: Place, depth: int) -> list[tuple[str, Any]]:
        walked = []
        for given, value in members:
            name = shown_name = str(given)
            if name not in self._clean_names:
                shown_name = self._name(name, place)
            walked.append((shown_name, self.value(value, (place, shown_name), name, members, depth + 1)))
        return walked

    def _name(self, name: str, place: Place) -> str:
        if self._supposing:
            self._new_names.append(name)
        elif self._redaction.engine.holds_nothing(as_bytes(name)):
            _CLEAN_NAMES.learn([name])
        return self.text(name, (place, None), "")

    def _number(self, value: Any, text: str, place: Place, name: str) -> Any:
        """A number that is somebody's becomes a tag, so a string."""
        if name in self._personal:
            return self._user_id(text, place)
        if len(text) < _FEWEST_DIGITS or _NOBODYS_NUMBER(text) or (len(text) == _TIME_DIGITS and name in _TIMES):
            return value
        if self._supposing:
            self._aside += ("\n", self._in_front(name), text)
            return value
        before = self._in_front(name)
        if self._redaction.engine.holds_nothing(as_bytes(before + text)):
            return value
        shown, findings = self._redaction.redact(text, before)
        self._note(findings, place)
        return value if not findings else shown

    def _string(self, text: str, place: Place, name: str, siblings: Siblings, depth: int) -> str:
        if not text:
            return text
        if name in self._personal:
            return self._user_id(text, place)
        if (name == "model" and _MODEL(text)) or (text.startswith("gen-") and _GENERATION_ID(text)):
            return text
        if text.startswith("[MEDIA ") and _TAGGED_MEDIA.match(text) and text.count("]") == 1:
            return self.text(text, place, name) if "@" in text else text
        if name in _MAY_BE_MEDIA or len(text) >= _LONG_BASE64 or "data:" in text[:64].lower():
            media = self._media_type(text, name, siblings)
            if media is not None:
                return self._media(text, media, place)
        if (
            (text[0] in "{[" or text[0].isspace())
            and text.lstrip()[:1] in {"{", "["}
            and (shown := self._json(text, place, name, siblings, depth)) is not None
        ):
            return shown
        if isinstance(text, Cut):
            decided = text.decided(self._redaction.engine, self._in_front(name))
            self._has_dropped |= len(decided) < len(text)
            text = decided
        return self.text(text, place, name)

    def _user_id(self, text: str, place: Place) -> str:
        if _TAGGED_USER.match(text):
            return text
        self.findings.append(Finding(kind="USER_ID", start=0, end=len(text), path=_path(place)))
        return self._redaction.tag("USER_ID", as_bytes(text))

    def text(self, text: str, place: Place, name: str) -> str:
        if self._supposing:
            self._aside += ("\n", self._in_front(name), text)
            return text
        before = self._in_front(name)
        if self._redaction.engine.holds_nothing(as_bytes(before + text)):
            return text
        shown, findings = self._redaction.redact(text, before)
        self._note(findings, place)
        return self._decoded(shown, place)

    def _in_front(self, name: str) -> str:
        known = self._clean_names.get(name)
        return _context(name) if known is None else known

    def _note(self, findings: list[Finding], place: Place) -> None:
        self.findings += [replace(each, path=_path(place)) for each in findings]

    def _json(self, text: str, place: Place, name: str, siblings: Siblings, depth: int) -> str | None:
        """JSON in a string; None where it is none. What has nothing to hide stays as it was written."""
        try:
            value = json_text.parse(text)
        except ValueError:
            return None
        since = len(self.findings)
        try:
            shown = self.value(value, place, name, siblings, depth + 1)
            return json_text.dump(shown) if len(self.findings) > since else text
        except (ValueError, RecursionError):
            return f'"{self.withhold(place, since)}"'

    # Media --------------------------------------------------------------------------------------------------------

    def _media_type(self, text: str, name: str, siblings: Siblings) -> str | None:
        """The type of media this string is; None for text."""
        if "MEDIA" in self._off:
            return None
        if (found := _DATA_URL.match(text)) is not None:
            return found["type"] or "text/plain"
        if name in _OPAQUE or (name == "data" and any(beside == "signature" for beside, _ in siblings)):
            return "application/octet-stream" if len(text) > 16 else None
        is_media = name in _MEDIA or (name == "data" and any(beside in _MEDIA_BESIDE for beside, _ in siblings))
        if (is_media or len(text) >= _LONG_BASE64) and _ALL_BASE64.match(text):
            return _type_beside(siblings) or "application/octet-stream"
        return None

    def _media(self, text: str, media: str, place: Place) -> str:
        """`[MEDIA image/png 1234 bytes hmac-sha256:…]`"""
        _, comma, data = text.partition(",") if _DATA_URL.match(text) else ("", "", text)
        size = (
            len(data) * 3 // 4 - data[-2:].count("=") if comma == "" or ";base64" in text[:600].lower() else len(data)
        )
        words = ["MEDIA", media if _MEDIA_TYPE.match(media) else "unknown", str(size), "bytes"]
        words[1] = "unknown" if self._redaction.redact(words[1])[1] else words[1]
        if self._commit is not None:
            words.append(re.sub(r"[^A-Za-z0-9:+/=-]", "", self._commit(as_bytes(text)))[:200])
        self.findings.append(Finding(kind="MEDIA", start=0, end=len(text), path=_path(place)))
        return f"[{' '.join(words)}]"

    # Encoded text -------------------------------------------------------------------------------------------------

    def _decoded(self, text: str, place: Place) -> str:
        """Words of base64 or hex whose text holds a finding."""
        if "ENCODED" in self._off:
            return text
        data, parts, at = as_bytes(text), list[bytes](), 0
        for start, end, inner in self._redaction.engine.encoded_words(data):
            if Redaction(self._redaction.engine).redact(inner)[1]:
                parts += (data[at:start], as_bytes(self._redaction.tag("ENCODED", data[start:end])))
                first = len(as_text(data[:start]))
                path = _path(place)
                self.findings.append(Finding(kind="ENCODED", start=first, end=first + end - start, path=path))
                at = end
        return as_text(b"".join([*parts, data[at:]])) if parts else text


_EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:(?:event|id|retry)?:[^\n]*\n\s*)*data:")


def _path(place: Place) -> str:
    """In words: `messages[0].content`."""
    steps = list[str | int | None]()
    while place is not None:
        place, step = place
        steps.append(step)
    path = ""
    for step in reversed(steps):
        if isinstance(step, int):
            path += f"[{step}]"
        elif step is None:
            path += "{name}"
        else:
            path = f"{path}.{step}" if path else step
    return path


def _type_beside(siblings: Siblings) -> str:
    """`media_type` or the like in the same object."""
    for name, value in siblings:
        if name in _MEDIA_NAMED and isinstance(value, str) and _MEDIA_TYPE.match(value):
            return value
    return ""


def _context(name: str) -> str:
    """What stands in front of a value for the rules: its name in words, or as a header is written."""
    if not name:
        return ""
    name = name[:64]
    if _HEADER_NAMES.match(name):
        return f"{name}: "
    return f"{' '.join(_WORD_BREAK.split(name)).strip()}: "


def _is_event_stream(body: bytes) -> bool:
    return _EVENTS.match(body, 0, 65536) is not None


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
