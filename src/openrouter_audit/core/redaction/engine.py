"""
The search: one pass of RE2 over the text for the heads of all rules, and a judgement where one was found.

**Any chunking.** Text is worked off in pieces that end at a *quiet* place, which no rule matches or looks across: behind a
line, or behind a space that follows a plain word. Whether a place is quiet depends only on what stands before it, so
pieces may be larger or smaller and what is found is the same. Where a long stretch has no quiet place it is cut after
`PIECE` bytes with `AHEAD` bytes in sight, counted from the last quiet place, so these cuts do not depend on chunking either.
A finding that reaches the end of a piece goes on in the next through its tail.

**Twice is once.** What was found is replaced and the result is searched again, until nothing new is found. That is what a
second redaction would do, so a second one finds nothing.

**Linear.** RE2 takes linear time, heads are short, and everything that a judgement reads is bounded, or is swallowed and not
read again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from openrouter_audit.core.redaction import encoded, numbers
from openrouter_audit.core.redaction.policy import KINDS, OwnPattern, Policy
from openrouter_audit.core.redaction.rules import RULES, first_bytes
from openrouter_audit.core.redaction.view import Span, View
from openrouter_audit.errors import ExtraMissing, PatternError

PIECE: Final = 256 * 1024
"""Bytes after which a stretch without a quiet place is cut."""
AHEAD: Final = 16 * 1024
"""Bytes in sight behind such a cut, more than any head and what a judgement reads of it."""
LOOK_BACK: Final = 320
"""Bytes before a piece that rules may look at: the longest local part of an address."""
_ROUNDS: Final = 8
_MAX_PROGRAM: Final = 1024 * 1024
"""Bytes RE2 may use for an own pattern: `((a{100}){100}){100}` is refused."""
_OPENERS: Final = (
    b"auth",
    b"bearer",
    b"basic",
    b"token",
    b"secret",
    b"access",
    b"key",
    b"cookie",
    b"digest",
    b"hawk",
    b"signature",
    b"mac",
    b"negotiate",
    b"ntlm",
    b"dpop",
)
"""Words that what follows the next space may belong to."""
_QUIET_BEFORE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz,;!?")
_LOWER: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_FULL_STOP: Final = 0x2E
_LAST_GROUP: Final = 4
_HEAD_MEMORY: Final = 64 * 1024 * 1024


class Engine:
    """A policy made ready to search; any number of threads may use one."""

    def __init__(self, policy: Policy, *, piece: int = PIECE, ahead: int = AHEAD) -> None:
        """
        Compile the heads and own patterns.

        Args:
            policy: What is looked for.
            piece: Bytes after which a stretch without a quiet place is cut; tests make it small.
            ahead: Bytes in sight behind such a cut.

        Raises:
            ExtraMissing: The extra `redaction` is not installed.
            PatternError: An own pattern is refused.
            ConfigError: No ids of a country are known.
        """
        self.policy, self.piece, self.ahead = policy, piece, ahead
        library = _re2()
        for name in ("phonenumbers", "stdnum"):
            if find_spec(name) is None:
                raise ExtraMissing(extra="redaction", library=name)
        options = library.Options()
        options.encoding = library.Options.Encoding.LATIN1
        options.log_errors, options.max_mem = False, _HEAD_MEMORY
        heads = b"|".join([*(rule.head for rule in RULES), numbers.RUN])
        self._heads = library.compile(heads, options)
        self._encoded = library.compile(encoded.HEAD, options)
        self._anything = library.compile(heads + b"|" + encoded.HEAD, options)
        self._run = library.compile(numbers.RUN, options)
        # Where a head is known to begin, the standard library says faster which one; none of them can backtrack far.
        compiled = [(first_bytes(rule.head), re.compile(rule.head), rule.judge) for rule in RULES]
        self._asked = [
            tuple((head.match, judge) for first, head, judge in compiled if byte in first) for byte in range(256)
        ]
        self.own: tuple[tuple[str, Any, Callable[[bytes], bool] | None], ...]
        self.own = tuple((own.name, _compile_own(own), None) for own in policy.patterns)
        if policy.national_ids:
            from openrouter_audit.core.redaction.national import finders

            self.own += finders(policy.national_ids, library)
        self._tags: Any = None
        if self.own:
            names = "|".join([*KINDS, *(name for name, _, _ in self.own)])
            self._tags = library.compile(rf"\[(?:{names})(?:_[0-9]+)?(?: [^\]\n]{{0,300}})?\]")

    def narrowed(self, *, piece: int, ahead: int) -> Engine:
        """The same, with other cuts of a stretch that has no quiet place."""
        other = copy(self)
        other.piece, other.ahead = piece, ahead
        return other

    def is_clean(self, text: bytes) -> bool:
        """Whether a text holds nothing that even begins like a finding: a quick answer for most texts."""
        return not self.own and self._heads.search(text) is None

    @property
    def can_tell(self) -> bool:
        """Whether `holds_nothing` ever says yes: not where own patterns or detectors have to see each text by itself."""
        return not self.own and not self.policy.detectors

    def holds_nothing(self, text: bytes) -> bool:
        """
        Whether nothing is found in a text of many lines, nor in what its words of base64 and hex encode.

        A line's end is a quiet place. So where nothing is found in texts that were put together, a line or more each,
        nothing is found in any of them. Finds more than `search` does: also of classes that are off, which may be long
        enough to reach into the next line.
        """
        if not self.can_tell:
            return False
        first = self._anything.search(text)
        if first is None:  # most texts, in one pass
            return True
        return self._judges_nothing(text, first.start()) and all(
            self.is_clean(inner.encode("utf-8", "surrogatepass"))
            for _, _, inner in self.encoded_words(text, first.start())
        )

    def _judges_nothing(self, text: bytes, at: int) -> bool:
        """`_search_once` up to the first finding; a longer text might be cut in other places than its parts."""
        view = View(text, 0, len(text))
        while (found := self._heads.search(text, at)) is not None:
            if len(text) > self.piece or any(True for _ in self._judged(view, found.start())):
                return False
            at = max(found.start() + 1, view.looked_at)
        return True

    def encoded_words(self, text: bytes, start: int = 0) -> Iterator[tuple[int, int, str]]:
        """Words of base64 or hex that encode text: where each begins and ends, and its text."""
        for found in self._encoded.finditer(text, start):
            place = encoded.word_at(text, found.start())
            if place is not None and (inner := encoded.decode(text[place[0] : place[1]])) is not None:
                yield *place, inner

    def last_quiet(self, text: bytes | bytearray, low: int, high: int) -> int:
        """The last quiet place in `(low, high]`; `low` where there is none."""
        line = max(text.rfind(b"\n", low, high) + 1, low)
        if self.own:
            return line  # an own pattern may match across a space
        at = high
        while (at := text.rfind(b" ", line, at)) >= 0:
            if at and text[at - 1] in _QUIET_BEFORE and not _is_opener(text, at):
                return at + 1
            if at > 1 and text[at - 1] == _FULL_STOP and text[at - 2] in _LOWER:
                return at + 1
        return line

    def search(self, text: bytes, start: int, limit: int, floor: int, *, begin: int | None = None) -> list[Span]:
        """
        All findings of a piece, in order, such that searching the redacted text again finds no more.

        Args:
            text: The piece, with at least `LOOK_BACK` bytes in front, where there are so many, and what is in sight behind.
            start: Where the piece begins.
            limit: Where the last finding may begin.
            floor: Before it, all is done.
            begin: Where heads are looked for from, in what stands in front; `start` where not given.
        """
        begin = start if begin is None else begin
        spans = self._search_once(text, begin, start, limit, floor)
        if not spans:
            return spans
        low = max(0, start - LOOK_BACK, floor)
        for _ in range(_ROUNDS):
            replaced, places = _splice(text, low, spans)
            last = len(replaced) - (len(text) - max(limit, spans[-1].end))
            more = self._search_once(replaced, max(begin - low, 0), start - low, last, max(floor - low, 0))
            if not more:
                break
            spans = _merge([*spans, *(_in_input(span, places, low) for span in more)])
        return spans

    def _search_once(self, text: bytes, begin: int, start: int, limit: int, floor: int) -> list[Span]:
        end = len(text)
        view, spans, at = View(text, floor, end), list[Span](), begin
        while (found := self._heads.search(text, at, end)) is not None:
            head = found.start()
            if head >= limit + LOOK_BACK:
                break
            at, ended = head + 1, head
            for span in self._judged(view, head):
                if span.start >= limit and (head >= limit or view.looked_at):
                    break  # the next piece finds its head, or the rest of the run of digits, itself
                first = max(span.start, start, view.floor)
                ended = max(span.end, ended)
                if span.end > first:
                    if span.kind not in self.policy.off:
                        spans.append(span._replace(start=first))
                    view.floor = span.end
            at = max(at, ended, view.looked_at)
        return self._search_own(text, start, limit, spans) if self.own else spans

    def _judged(self, view: View, head: int) -> Iterable[Span]:
        """What begins, or stands around, a head; of a run of digits, all that is in it."""
        view.looked_at = 0
        for match, judge in self._asked[view.text[head]]:
            if match(view.text, head, view.end) is not None and (span := judge(view, head)) is not None:
                return (span,)
        run = self._run.match(view.text, head, view.end)
        if run is None:
            return ()
        view.looked_at = run.end() - _LAST_GROUP  # its last digits may begin an address: 2001:db8::1
        return numbers.find(view, head, run.end(), self.policy)

    def _search_own(self, text: bytes, start: int, limit: int, spans: list[Span]) -> list[Span]:
        """Own patterns and national ids, in what is left between findings and between tags that are there already."""
        assert self._tags is not None  # noqa: S101 - for mypy; there are own patterns
        tags = [Span(found.start(), found.end(), "") for found in self._tags.finditer(text, start)]
        for name, pattern, is_right in self.own:
            taken, at, added = sorted([*spans, *tags]), start, []
            for gap_end, next_at in [*((span.start, span.end) for span in taken), (len(text), len(text))]:
                if gap_end > at:
                    for found in pattern.finditer(text, at, gap_end):
                        span = Span(found.start(), found.end(), name)
                        if start <= span.start < min(limit, span.end) and (is_right is None or is_right(found.group())):
                            added.append(span)
                at = max(at, next_at)
            spans = sorted([*spans, *added])
        return spans


class _Place(NamedTuple):
    """Where a tag stands in a redacted text, and what it stands for."""

    start: int
    end: int
    span: Span


def _splice(text: bytes, low: int, spans: list[Span]) -> tuple[bytes, list[_Place]]:
    """The text from `low` on, redacted, and where its tags are."""
    parts, places, at, length = list[bytes](), list[_Place](), low, 0
    for span in spans:
        tag = f"[{span.kind}]".encode()
        parts += (text[at : span.start], tag)
        length += span.start - at
        places.append(_Place(length, length + len(tag), span))
        length += len(tag)
        at = span.end
    parts.append(text[at:])
    return b"".join(parts), places


def _in_input(span: Span, places: list[_Place], low: int) -> Span:
    """A finding in a redacted text as a finding in the text before; tags it touches are taken in whole."""
    first = bisect_right(places, span.start, key=lambda place: place.start) - 1
    start = low + span.start
    if first >= 0:
        place = places[first]
        start = place.span.start if span.start < place.end else place.span.end + span.start - place.end
    last = bisect_right(places, span.end - 1, key=lambda place: place.start) - 1
    end, tail = low + span.end, span.tail
    if last >= 0:
        place = places[last]
        end = place.span.end if span.end <= place.end else place.span.end + span.end - place.end
        tail = place.span.tail if span.end <= place.end else tail
    return span._replace(start=start, end=end, tail=tail)


def _merge(spans: list[Span]) -> list[Span]:
    """In order, each that lies in a larger one left out."""
    kept = list[Span]()
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if kept and span.start < kept[-1].end:
            if span.end > kept[-1].end:
                kept[-1] = kept[-1]._replace(end=span.end, tail=span.tail)
        else:
            kept.append(span)
    return kept


def _is_opener(text: bytes | bytearray, at: int) -> bool:
    """Whether the word that ends at `at` may be one that a value follows."""
    word = bytes(text[max(0, at - 24) : at]).rpartition(b" ")[2].lower()
    return any(opener in word for opener in _OPENERS)


def _compile_own(own: OwnPattern) -> Any:
    library = _re2()
    options = library.Options()
    options.log_errors, options.never_nl, options.max_mem = False, True, _MAX_PROGRAM
    try:
        compiled = library.compile(own.pattern, options)
    except (library.error, UnicodeError) as error:
        reason = (
            error.args[0].decode("utf-8", "replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        )
        raise PatternError(name=own.name, reason=reason) from error
    if compiled.search("") is not None:
        raise PatternError(name=own.name, reason="it matches where nothing is")
    return compiled


@lru_cache(maxsize=1)
def _re2() -> Any:
    try:
        import re2  # type: ignore[import-untyped]  # it has no stubs
    except ImportError as error:
        raise ExtraMissing(extra="redaction", library="google-re2") from error
    return re2


@lru_cache(maxsize=32)
def engine_for(policy: Policy) -> Engine:
    """
    The engine of a policy, made once.

    Raises:
        ExtraMissing: The extra `redaction` is not installed.
        PatternError: An own pattern is refused.
    """
    return Engine(policy)
