"""
What is kept of what people wrote, and what is done about what should not be in it (DESIGN section 5).

Where no setting asks for it, nothing here runs. Where one does, the first rule that fits a call decides its *treatment*:

    mode       none | preview | redacted | full       what is kept of both bodies, in the vault
    action     redact | report | block                what happens where redaction finds something

Redaction runs here, once, in the thread that makes the call and before anything leaves the process: of a request before
it is sent, of an answer when it is over, a stream put together first. The traffic is never altered: `block` does not
send. What cannot be looked through, for whatever reason, is not kept, and is not sent where `block` is asked for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from openrouter_audit.core.commitments import Commitment, derive_keys
from openrouter_audit.core.entries import Content, ContentMode, Found

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from openrouter_audit.capture.assembly import StreamAssembler
    from openrouter_audit.core.redaction import Finding, Numbers, Policy

Action = Literal["redact", "report", "block"]

PREVIEW_CHARACTERS: Final = 200
MAX_KEPT_BYTES: Final = 192 * 1024
"""Of one body: it goes through the spool in one frame, beside its record."""
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""What is longer is withheld as a whole: looking through it would take its caller's time or our memory, and half of it says nothing."""
_WITHHELD: Final = b"[WITHHELD]"
_NOT_SOUGHT: Final = frozenset({"MEDIA", "USER_ID"})
"""Classes of what belongs into a request: they are replaced, and neither reported nor blocked."""
_TEXTS: Final = re.compile(rb"(?i)\s*(?:text/|[^;]*(?:json|xml|urlencoded|event-stream)|;|\Z)")
_MAX_FOUND: Final = 32


class ContentRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of calls that fit all that is given here, what is kept; what is not given here is as without the rule."""

    endpoint: str | None = None
    """`chat`, `responses`, …: as in the intent."""
    model: str | None = None
    """With `*` and `?`: `openai/*`."""
    key: str | None = None
    """Beginning of the SHA-256 of the API key."""
    user: str | None = None
    tag: str | None = None
    """`team=search`"""
    mode: ContentMode | None = None
    action: Action | None = None


class Treatment(Struct, frozen=True):
    mode: ContentMode
    action: Action

    @property
    def looks(self) -> bool:
        """Whether bodies are looked through."""
        return self.action != "redact" or self.mode in {"preview", "redacted"}

    @property
    def is_idle(self) -> bool:
        return self.mode == "none" and not self.looks


class ContentPolicy:
    """The settings about content, ready for use by many threads."""

    def __init__(
        self,
        *,
        mode: ContentMode,
        action: Action,
        redaction: Policy,
        rules: Sequence[ContentRule] = (),
        max_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        """
        Raises:
            ExtraMissing: A body would have to be looked through, and the extra `redaction` is not installed.
            PatternError: A pattern is refused.
        """
        self._otherwise = Treatment(mode, action)
        self._rules = [(_conditions(rule), Treatment(rule.mode or mode, rule.action or action)) for rule in rules]
        self._redaction, self._max_bytes = redaction, max_bytes
        treatments = [self._otherwise, *(treatment for _, treatment in self._rules)]
        self.is_idle = all(treatment.is_idle for treatment in treatments)
        """Whether no call is concerned."""
        if any(treatment.looks for treatment in treatments):
            from openrouter_audit.core.redaction import redact

            redact("", redaction)  # what is missing or refused is said now, not at the first call

    def treatment(self, facts: Mapping[str, str | None], tags: Mapping[str, str]) -> Treatment:
        """
        What is done with a call.

        Args:
            facts: `endpoint`, `model`, `key` and `user`, as far as they are known.
        """
        for conditions, treatment in self._rules:
            if all(matches(facts, tags) for matches in conditions):
                return treatment
        return self._otherwise

    def begin(
        self,
        body: bytes | None,
        content_type: bytes,
        *,
        call_key: bytes,
        facts: Mapping[str, str | None],
        tags: Mapping[str, str],
    ) -> CallContent | None:
        """What is kept of a call that is about to be sent; None where that is nothing, and nothing is looked for."""
        treatment = self.treatment(facts, tags)
        if treatment.is_idle:
            return None
        content = CallContent(self._redaction, treatment, call_key, self._max_bytes)
        content.take_request(body, content_type)
        return content


def _conditions(rule: ContentRule) -> list[Any]:
    made: list[Any] = []
    if rule.endpoint is not None:
        made.append(lambda facts, _: facts["endpoint"] == rule.endpoint)
    if rule.user is not None:
        made.append(lambda facts, _: facts["user"] == rule.user)
    if rule.key is not None:
        beginning = rule.key.lower()
        made.append(lambda facts, _: (facts["key"] or "").startswith(beginning))
    if rule.model is not None:
        fits = re.compile(translate(rule.model)).match
        made.append(lambda facts, _: fits(facts["model"] or "") is not None)
    if rule.tag is not None:
        name, _, value = rule.tag.partition("=")
        made.append(lambda _, tags: tags.get(name) == value)
    return made


class CallContent:
    """
    One call's bodies, as they may be kept. Printing it shows nothing of them.

    Never raises: a fault of ours costs the content, is in `error`, and counts as a body that cannot be looked through.
    """

    def __init__(self, redaction: Policy, treatment: Treatment, call_key: bytes, max_bytes: int) -> None:
        self._redaction, self._call_key, self._max_bytes = redaction, call_key, max_bytes
        self._looks = treatment.looks
        self._action: Action = treatment.action
        self.mode: ContentMode = treatment.mode
        self.request: Content | None = None
        self.answer: Content | None = None
        self.request_findings: tuple[Found, ...] = ()
        self.blocks: tuple[str, ...] = ()
        """Classes of what forbids to send the request."""
        self.error: Exception | None = None
        self._numbers: Numbers = {}
        self._type = b""
        self._assembler: StreamAssembler | None = None
        self._pieces: list[bytes] | None = None
        self._room = MAX_ANSWER_BYTES

    @property
    def reports(self) -> bool:
        """Whether an alert is due for what was found in the request."""
        return self._action == "report" and any(found.kind not in _NOT_SOUGHT for found in self.request_findings)

    def take_request(self, body: bytes | None, content_type: bytes) -> None:
        if body is None:
            if self._action == "block" and _TEXTS.match(content_type):
                self.blocks = ("WITHHELD",)  # a stream, which nobody has seen yet
            return
        if body:
            self.request, self.request_findings = self._kept(body, content_type, part="request")
            if self._action == "block":
                self.blocks = tuple(found.kind for found in self.request_findings if found.kind not in _NOT_SOUGHT)

    def cleaned(self, words: dict[str, Any]) -> dict[str, Any]:
        """Free text of the request that is kept beside its body, treated like it."""
        if not words or not self._looks or self.mode == "full":
            return words
        try:
            from openrouter_audit.core.redaction import redact_json

            return dict(redact_json(words, self._redaction, numbers=self._numbers).body)
        except Exception as error:
            self.error = error
            return {}

    def begin_answer(self, content_type: bytes) -> None:
        """The head of the answer came."""
        self._type = content_type
        if content_type[:17].lower() == b"text/event-stream":
            from openrouter_audit.capture.assembly import StreamAssembler

            self._assembler = StreamAssembler()
        else:
            self._pieces = []

    def feed(self, data: bytes) -> None:
        """Decoded bytes of the answer."""
        try:
            if self._assembler is not None:
                self._assembler.feed(data)
            elif self._pieces is not None:
                self._room -= len(data)
                self._pieces.append(data)
                if self._room < 0:
                    self._pieces.clear()
        except Exception as error:
            self.error, self._assembler, self._pieces, self._room = error, None, [], -1

    def end_answer(self) -> tuple[Found, ...]:
        """The answer is over: what was found in it; `answer` is what is kept."""
        assembler, pieces = self._assembler, self._pieces
        self._assembler = self._pieces = None
        try:
            return self._answered(assembler, pieces)
        finally:
            self._numbers = {}  # values, until now

    def _answered(self, assembler: StreamAssembler | None, pieces: list[bytes] | None) -> tuple[Found, ...]:
        if self._room < 0:
            self.answer, found = self._withheld()
        elif assembler is not None:
            self.answer, found = self._kept(assembler, b"application/json", part="answer")
        elif pieces:
            self.answer, found = self._kept(b"".join(pieces), self._type, part="answer")
        else:
            return ()
        return found

    def _kept(
        self, body: bytes | StreamAssembler, content_type: bytes, *, part: Literal["request", "answer"]
    ) -> tuple[Content | None, tuple[Found, ...]]:
        try:
            said = body if isinstance(body, bytes) else body.value()
            if said is None:
                return None, ()
            if isinstance(said, bytes) and len(said) > MAX_REQUEST_BYTES:
                return self._withheld()
            findings: Sequence[Finding] = ()
            if isinstance(said, bytes) and not _TEXTS.match(content_type) and self.mode != "full":
                text = self._media(said, content_type, part)
            elif self._looks:
                text, findings = self._redacted(said, part)
            else:
                text = b""
            if self.mode == "full":
                text = said if isinstance(said, bytes) else _dumped(said)
            return self._content(text), _counted(findings)
        except Exception as error:  # whatever it is: what was not looked through is not kept
            self.error = error
            return self._withheld()

    def _redacted(self, said: Any, part: str) -> tuple[bytes, Sequence[Finding]]:
        from openrouter_audit.core.redaction import redact_json

        done = redact_json(
            said, self._redaction, commit=lambda media: self._commitment(media, part), numbers=self._numbers
        )
        return done.body if isinstance(done.body, bytes) else _dumped(done.body), done.findings

    def _media(self, body: bytes, content_type: bytes, part: str) -> bytes:
        """A body that is no text: a sound, a picture, a form with a file in it."""
        kind = re.match(rb"[A-Za-z]{2,20}/[A-Za-z0-9.+-]{1,60}", content_type)
        name = kind.group().decode() if kind else "application/octet-stream"
        return f"[MEDIA {name} {len(body)} bytes {self._commitment(body, part)}]".encode()

    def _commitment(self, media: bytes, part: str) -> str:
        keys = derive_keys(self._call_key)
        key = keys.request if part == "request" else keys.response
        return f"hmac-sha256:{Commitment(key).update(media).hexdigest()}"

    def _content(self, text: bytes) -> Content | None:
        if self.mode == "none":
            return None
        if self.mode == "preview":
            text = preview_of(text)
        kept = _both_ends(text, self._max_bytes)
        return Content(mode=self.mode, text=kept, whole_bytes=len(text), cut="size" if kept is not text else None)

    def _withheld(self) -> tuple[Content | None, tuple[Found, ...]]:
        content = None if self.mode == "none" else Content(mode=self.mode, text=_WITHHELD, whole_bytes=len(_WITHHELD))
        return content, (Found(kind="WITHHELD", count=1),)


def preview_of(text: bytes) -> bytes:
    """The first characters of what the last person asked, or of what was answered; of any other body, its own."""
    try:
        said = _said(msgspec.json.decode(text))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = ""
    return (said or text[: 4 * PREVIEW_CHARACTERS].decode("utf-8", "replace"))[:PREVIEW_CHARACTERS].encode()


def _said(value: Any) -> str:
    """The words in an answer or a request, in the shapes of chat, completions, Responses and Messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        asked = [each for each in value if isinstance(each, dict) and each.get("role") == "user"]
        return _said(asked[-1]) if asked else next((words for each in value if (words := _said(each))), "")
    if not isinstance(value, dict):
        return ""
    members = ("error", "choices", "output", "messages", "input", "prompt", "message", "content", "text", "arguments")
    return next((words for name in members if name in value and (words := _said(value[name]))), "")


def _both_ends(text: bytes, limit: int) -> bytes:
    """The same object where it is short enough. What was asked last stands at the end of a request."""
    if len(text) <= limit:
        return text
    half = max(0, limit - 64) // 2
    head, tail = text[:half], text[len(text) - half :]
    left = len(text) - 2 * half
    shown = head.decode("utf-8", "ignore"), tail.decode("utf-8", "ignore")
    return f"{shown[0]}[… {left} bytes left out …]{shown[1]}".encode()


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _counted(findings: Iterable[Finding]) -> tuple[Found, ...]:
    counts = Counter(finding.kind for finding in findings)
    return tuple(Found(kind=kind, count=count) for kind, count in sorted(counts.items())[:_MAX_FOUND])
