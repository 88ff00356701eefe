"""
Text in, redacted text and findings out: whole, or as it comes.

Whether a text comes whole or in pieces makes no difference to what is found. A `Redactor` holds back what may still be part
of a finding, mostly a word or two, and never more than `PIECE` + `AHEAD` bytes.

Nothing here raises on any text: half characters are kept as they are, bytes need not be UTF-8, nothing is too long.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, AnyStr, Final, Generic

from openrouter_audit.core.redaction.engine import LOOK_BACK, Engine, engine_for
from openrouter_audit.core.redaction.policy import DEFAULT, MAX_NAME, Detector, Finding, Policy
from openrouter_audit.core.redaction.rules import PEM_TAIL, TAILS, pem_end
from openrouter_audit.core.redaction.view import Span, View

_CONTINUATION: Final = bytes(range(0x80, 0xC0))
Numbers = dict[tuple[str, bytes], int]
_WITHHELD: Final = "[WITHHELD]"


def redact(text: AnyStr, policy: Policy = DEFAULT) -> tuple[AnyStr, list[Finding]]:
    """
    Replace what must not be kept by tags.

    Args:
        text: Any string or bytes; bytes are taken for UTF-8 and need not be.
        policy: What is looked for.

    Returns:
        The redacted text, and for each tag what it is and where in `text` its value stood.

    Raises:
        ExtraMissing: The extra `redaction` is not installed.
        PatternError: An own pattern of the policy is refused.
    """
    engine = _default_engine() if policy is DEFAULT else engine_for(policy)
    if not policy.detectors and engine.is_clean(as_bytes(text)):
        return text, []
    return Redaction(engine).redact(text)


@lru_cache(maxsize=1)
def _default_engine() -> Engine:
    """Found faster than by comparing policies."""
    return engine_for(DEFAULT)


def redact_pii(text: str) -> str:
    """The text with `[EMAIL]`, `[PHONE]`, `[SSN]`, `[CARD]`, `[API_KEY]` and the like in place of the values."""
    return redact(text)[0]


class Redaction:
    """Several texts of one call: equal values get equal numbers, where the policy asks for numbers."""

    def __init__(self, engine: Engine, numbers: Numbers | None = None) -> None:
        self.engine = engine
        self.numbers: Numbers = {} if numbers is None else numbers
        """By class and value. It holds what was found, so it lives only as long as the call is worked on."""

    def redact(self, text: AnyStr, context: str = "") -> tuple[AnyStr, list[Finding]]:
        """One text; `context` is what stands in front of it, such as the name of its field."""
        redactor: Redactor[AnyStr] = Redactor(
            engine=self.engine, numbers=self.numbers, context=as_bytes(context), detect=False
        )
        shown = redactor.feed(text) + redactor.finish()
        findings = redactor.findings
        for detector in self.engine.policy.detectors:
            shown, findings = _detect(detector, text, shown, findings)
        return shown, findings

    def tag(self, kind: str, value: bytes, *, unique: bool = False) -> str:
        if not self.engine.policy.numbered:
            return f"[{kind}]"
        return f"[{kind}_{number_of(self.numbers, kind, value, unique=unique)}]"


def number_of(numbers: dict[tuple[str, bytes], int], kind: str, value: bytes, *, unique: bool = False) -> int:
    """The number of a value in its class, counted from 1 in the order they come."""
    key = (kind, b"" if unique else value)
    if not unique and key in numbers:
        return numbers[key]
    last = numbers.get((kind, b"\xff last"), 0) + 1
    numbers[kind, b"\xff last"] = last
    if not unique:
        numbers[key] = last
    return last


class Redactor(Generic[AnyStr]):
    """
    A text that comes in pieces, all of them strings or all of them bytes.

    What was found and is complete stands in `findings`, with places counted from the beginning of the text. With detectors
    in the policy everything is held back until `finish`, since they judge whole texts.
    """

    def __init__(
        self,
        policy: Policy = DEFAULT,
        *,
        engine: Engine | None = None,
        numbers: dict[tuple[str, bytes], int] | None = None,
        context: bytes = b"",
        detect: bool = True,
    ) -> None:
        self._engine = engine_for(policy) if engine is None else engine
        self._numbers = {} if numbers is None else numbers
        self._buffer = bytearray(context[-LOOK_BACK:])
        self._start = len(self._buffer)
        """Where in the buffer begins what is not worked off."""
        self._begin: int | None = 0 if context else None
        self._floor = 0
        self._tested = self._start
        """Up to here there is no quiet place but those used."""
        self._tail = 0
        self._is_text = False
        self._offset = 0
        """Characters, or bytes, before `_start`."""
        self._held: list[AnyStr] | None = [] if detect and self._engine.policy.detectors else None
        self.findings: list[Finding] = []

    @property
    def held_bytes(self) -> int:
        """What is held back now."""
        return len(self._buffer) - self._start

    @property
    def decided(self) -> int:
        """Characters, or bytes, that are worked off: whatever comes, nothing more is found in them."""
        return self._offset

    def feed(self, piece: AnyStr) -> AnyStr:
        """Take the next piece and return what is certain now."""
        self._is_text = isinstance(piece, str)
        if self._held is not None:
            self._held.append(piece)
            return piece[:0]
        self._buffer += as_bytes(piece)
        return self._as_given(self._advance(final=False), piece)

    def finish(self) -> AnyStr:
        """The rest; nothing may be fed any more."""
        if self._held is not None:
            empty = self._held[0][:0] if self._held else self._as_given(b"", None)
            shown, self.findings = Redaction(self._engine).redact(empty.join(self._held))
            return shown
        return self._as_given(self._advance(final=True), None)

    def _as_given(self, shown: bytes, example: AnyStr | None) -> AnyStr:
        del example
        return as_text(shown) if self._is_text else shown  # type: ignore[return-value]  # as the pieces are

    def _advance(self, *, final: bool) -> bytes:
        shown = list[bytes]()
        while True:
            self._swallow()
            buffer, start, engine = self._buffer, self._start, self._engine
            sight = start + engine.piece + engine.ahead
            if len(buffer) < sight:
                if final:
                    self._work(len(buffer), len(buffer), shown)
                    break
                quiet = engine.last_quiet(buffer, max(start, self._tested), len(buffer))
                is_found = quiet > max(start, self._tested)
                self._tested = len(buffer)
                if is_found:
                    self._work(quiet, quiet, shown)
                break
            quiet = engine.last_quiet(buffer, max(start, self._tested), sight)
            if quiet > max(start, self._tested):
                self._work(quiet, quiet, shown)
            else:
                limit = start + engine.piece
                while limit > start + 1 and buffer[limit] & 0xC0 == 0x80:
                    limit -= 1
                self._work(limit, sight, shown)
        done = max(0, self._start - LOOK_BACK)
        del self._buffer[:done]
        self._start, self._tested = self._start - done, self._tested - done
        self._floor = max(0, self._floor - done)
        return b"".join(shown)

    def _swallow(self) -> None:
        """What goes on from a finding is part of it, as far as it goes; nothing of it is shown."""
        if 0 < self._tail < PEM_TAIL:
            found = TAILS[self._tail].match(self._buffer, self._start)
            end = self._start if found is None else found.end()
            del found  # it holds on to the buffer, which could not grow then
            self._extend(self._start, end)
            if end < len(self._buffer):
                self._tail = 0
            self._start = self._floor = end
            self._tested = max(self._tested, end)

    def _extend(self, start: int, end: int) -> None:
        """The last finding goes on from `start` to `end` of the buffer."""
        self._offset += self._count(self._buffer[start:end])
        if end > start and self.findings:
            last = self.findings[-1]
            self.findings[-1] = Finding(kind=last.kind, start=last.start, end=self._offset)

    def _work(self, limit: int, end: int, shown: list[bytes]) -> None:
        """Work off what begins before `limit`, with what stands before `end` in sight."""
        low = max(0, self._start - LOOK_BACK)
        text, start, floor = bytes(self._buffer[low:end]), self._start - low, max(0, self._floor - low)
        if self._tail:
            at, self._tail = pem_end(View(text, floor, len(text)), start, self._tail)
            self._extend(low + start, low + at)
            start = floor = at
        spans = self._engine.search(text, start, limit - low, floor, begin=self._begin)
        self._begin = None
        at = start
        for span in spans:
            shown += (text[at : span.start], self._found(text, at, span))
            at = span.end
        rest = max(limit - low, at)
        shown.append(text[at:rest])
        self._offset += self._count(text[at:rest])
        if spans:
            floor = spans[-1].end
            self._tail = spans[-1].tail if spans[-1].end == len(text) else 0
        self._start, self._floor = low + rest, low + floor
        self._tested = max(self._tested, self._start)

    def _found(self, text: bytes, at: int, span: Span) -> bytes:
        """Its tag, after it was written down."""
        begin = self._offset + self._count(text[at : span.start])
        self._offset = begin + self._count(text[span.start : span.end])
        self.findings.append(Finding(kind=span.kind, start=begin, end=self._offset))
        if not self._engine.policy.numbered:
            return f"[{span.kind}]".encode()
        number = number_of(self._numbers, span.kind, text[span.start : span.end], unique=span.unique)
        return f"[{span.kind}_{number}]".encode()

    def _count(self, text: bytes | bytearray) -> int:
        """Its length as the caller counts."""
        if not self._is_text or text.isascii():
            return len(text)
        return len(text.translate(None, _CONTINUATION))


def as_bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def as_text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _detect(detector: Detector, text: AnyStr, shown: AnyStr, findings: list[Finding]) -> tuple[AnyStr, list[Finding]]:
    """
    What a detector finds in the redacted text, so that it sees no secret, replaced as well.

    A detector that fails, or names a place that is not there, costs the whole text.
    """
    seen = shown if isinstance(shown, str) else shown.decode("utf-8", "surrogateescape")
    try:
        found = sorted((start, end, kind) for kind, start, end in detector.find(seen))
        places = _checked(found, len(seen))
        if isinstance(shown, bytes):
            places = [(_bytes_of(seen[:start]), _bytes_of(seen[:end]), kind) for start, end, kind in places]
    except Exception:  # whatever it is, what was not looked through is not kept
        whole = [Finding(kind="WITHHELD", start=0, end=len(text))]
        return (_WITHHELD if isinstance(text, str) else _WITHHELD.encode()), whole
    return _laid_over(shown, findings, places)


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _checked(found: Iterable[tuple[int, int, str]], length: int) -> list[tuple[int, int, str]]:
    for start, end, kind in found:
        if not (
            0 <= start < end <= length and kind.isascii() and kind.replace("_", "").isalnum() and len(kind) <= MAX_NAME
        ):
            raise ValueError("a finding that cannot be meant")
    return list(found)


def _laid_over(
    shown: AnyStr, findings: list[Finding], places: list[tuple[int, int, str]]
) -> tuple[AnyStr, list[Finding]]:
    """Findings in the redacted text, told in places of the input; tags stay as they are."""
    closing, parts, told = (b"]" if isinstance(shown, bytes) else "]"), list[Any](), list[Finding]()
    at_out = at_in = 0
    for known in [*findings, None]:
        gap_end = len(shown) if known is None else at_out + known.start - at_in
        for start, end, kind in places:
            first, last = max(start, at_out), min(end, gap_end)
            if first >= last:
                continue
            tag = f"[{kind}]"
            parts += (shown[at_out:first], tag if isinstance(shown, str) else tag.encode())
            told.append(Finding(kind=kind, start=at_in + first - at_out, end=at_in + last - at_out))
            at_in += last - at_out
            at_out = last
        parts.append(shown[at_out:gap_end])
        if known is not None:
            at_out = shown.index(closing, gap_end) + 1
            parts.append(shown[gap_end:at_out])
            told.append(known)
            at_in = known.end
    return shown[:0].join(parts), told
