"""
One HTTP exchange, as events, becomes the facts of one call; and every way in which a call can end is decided here.

The exchange does no input or output and knows no client library: an adapter tells it what passes by, in this order:

    begin -> head -> body, body, … -> end_of_body | failed | closed
    begin -> failed

and gets the intent from `begin` and the outcome from whichever event is the last, once. `body` gives the outcome with the
piece that holds the terminal event, or the last byte of a body whose length is known: the adapter writes it *before* it
hands that piece on (C10). What comes later is not counted.

How a call ended (C6):

    an HTTP status from 400 up                            error
    an error in the body, a choice, an event              error
    finish reason `error` or `network_error`              error
    terminal event, or the whole body                     success, complete
    finish reason and usage, then closed or EOF           success
    all output items done, then EOF (Responses)           success
    EOF before that                                       error, truncated
    close or loss of the last reference before that       abandoned
    the client's own time-out                             timeout
    CancelledError, KeyboardInterrupt, SystemExit         cancelled
    any other exception                                   error

At most 256 KiB of an exchange are kept, and nothing of it once it is over.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from openrouter_audit.capture.answer_facts import Answer
from openrouter_audit.capture.attribution import Scope, reference_for
from openrouter_audit.capture.context import context_of
from openrouter_audit.capture.decoding import Decoder, decoder_for
from openrouter_audit.capture.event_stream import (
    ALL_ENDINGS,
    ALL_MARKERS,
    CHAT_ENDINGS,
    CHAT_MARKERS,
    KEEP_BYTES,
    MESSAGES_ENDINGS,
    MESSAGES_MARKERS,
    RESPONSES_ENDINGS,
    RESPONSES_MARKERS,
    EventScanner,
    Excerpt,
)
from openrouter_audit.capture.json_text import MAX_TEXT
from openrouter_audit.capture.openrouter import Target, caller_of, retry_after_ms
from openrouter_audit.capture.request_facts import MAX_PERSON, RequestFacts, read_request
from openrouter_audit.capture.tool_calls import ALL_TOOL_MARKERS, TOOL_MARKERS
from openrouter_audit.core.entries import CallIntent, CallOutcome, Mode, Private, RedirectHop, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from openrouter_audit.capture.content import CallContent, ContentPolicy
    from openrouter_audit.capture.failures import Failure
    from openrouter_audit.capture.grouping import Place
    from openrouter_audit.capture.identities import CallIdentity
    from openrouter_audit.core.commitments import Commitment

_MARKERS = {
    "chat": (CHAT_MARKERS, CHAT_ENDINGS),
    "completions": (CHAT_MARKERS, CHAT_ENDINGS),
    "responses": (RESPONSES_MARKERS, RESPONSES_ENDINGS),
    "messages": (MESSAGES_MARKERS, MESSAGES_ENDINGS),
}
HELD_BYTES = 64 * 1024
"""Pieces in the middle of a stream are held and read together: reading each by itself costs several times as much, because
the client's own work between two pieces drives ours out of the processor's caches."""
_TOKEN_MARKERS = {
    "responses": (b'.delta"',),
    "messages": (b"content_block_delta",),
}
_CHAT_TOKENS = (b'"content":"', b'"reasoning":"', b'"tool_calls":[', b'"text":"')
_NO_TOKENS = (b'"content":""', b'"reasoning":""', b'"text":""')
MAX_UNENDED_BYTES = 4096
_LONGEST_LENGTH = 18
"""Digits of a content-length that is believed."""
_BODILESS_STATUSES = frozenset({204, 304})


class Clock(Protocol):
    """Nanoseconds, so that the machine's own functions will do: one of them is asked at every piece of every answer."""

    @property
    def wall_ns(self) -> Callable[[], int]: ...
    @property
    def monotonic_ns(self) -> Callable[[], int]: ...


class SystemClock:
    """The machine's clocks."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


class SentRequest(Struct, kw_only=True, eq=False):
    """A request about to be sent, as its client library has it."""

    request: Any
    """The library's own object: sent again, it is another attempt of the same call (C26)."""
    url: Any
    """Whatever prints as the whole URL; looked at for retries only."""
    method: str
    target: Target
    headers: Mapping[bytes, bytes]
    """As they will be sent, by lower-case name."""
    body: bytes | None
    """None where it is a stream: then it is not known before it is sent."""
    router_metadata: bool = False
    """We added the header that asks for router metadata."""

    def __repr__(self) -> str:
        return f"SentRequest({self.method} {self.target.authority})"  # its headers hold a key


class CallExchange(Struct, eq=False):
    """The facts of one call; made by one thread or task at a time. A struct for its constructor, which sets all of it at once."""

    _wall: Callable[[], int]
    _now: Callable[[], int]
    _call_id: str
    _method: str
    _endpoint: str
    _begun_commitment: Commitment
    _answer: Answer
    _start: int
    api_key: str | None
    _commitment: Commitment | None = None
    """Of the answer; None before there is one, and where its raw bytes were not seen."""
    _status: int | None = None
    _chunks: int = 0
    _size: int = 0
    _raw_bytes: int | None = None
    """What came off the wire, where the pieces are something else."""
    _expected: int | None = None
    _first_byte: int | None = None
    _first_token: int | None = None
    _unended: bytes = b""
    """Begin of a line, kept until the first token was seen: a piece may end anywhere."""
    _last_byte: int | None = None
    _scanner: EventScanner | None = None
    _endings: tuple[bytes, ...] = ()
    _held: list[bytes] | None = None
    _held_bytes: int = 0
    _kept: Excerpt | None = None
    _decoder: Decoder | None = None
    _undecodable: bool = False
    _facts: dict[str, Any] = {}
    content: CallContent | None = None
    """What is kept of the bodies; None where that is nothing, and nothing is looked for in them."""
    over: bool = False
    """The outcome was given."""

    def __repr__(self) -> str:
        return f"CallExchange({self._call_id})"

    @classmethod
    def begin(
        cls,
        request: SentRequest,
        identity: CallIdentity,
        *,
        place: Place,
        scope: Scope | None,
        mode: Mode,
        policy: str | None,
        clock: Clock,
        keeps: ContentPolicy | None = None,
    ) -> tuple[CallExchange, CallIntent, Private]:
        """The exchange, and its intent, to be written before the first byte of the request leaves."""
        now = clock.monotonic_ns
        start = now()
        at_us = clock.wall_ns() // 1000
        body, target, method = request.body, request.target, request.method
        kind = target.route
        caller = caller_of(request.headers)
        asked = read_request(body) if body else _NOTHING_ASKED
        fields = {**asked.fields, "router_metadata": True} if request.router_metadata else asked.fields
        content = None if keeps is None else _content(keeps, request, identity.call_key, scope, asked, caller.key_hash)
        if content is not None:
            asked = replace(asked, claims=content.cleaned(asked.claims))
            fields = {**fields, "findings": content.request_findings}
            if content.mode != "none":
                fields["content_mode"] = content.mode
        intent = CallIntent(
            v=1,
            id=identity.call_id,
            at_us=at_us,
            group=place.group,
            attempt=place.attempt,
            endpoint=kind.endpoint,
            method=target.method,
            path=kind.path,
            host=target.authority,
            sdk=caller.sdk,
            key_hash=caller.key_hash,
            request_bytes=None if body is None else len(body),
            request_commitment=None if body is None else identity.request.update(body).hexdigest(),
            mode=mode,
            policy=policy,
            **fields,
        )
        exchange = cls(
            clock.wall_ns,
            now,
            identity.call_id,
            method,
            kind.endpoint,
            identity.response,
            Answer(kind.endpoint, tools_offered="tool_count" in asked.fields or body is None),
            start,
            caller.api_key,
            content=content,
        )
        private = _private(request, identity.call_key, at_us, scope, asked)
        if content is not None and content.request is not None:
            private = replace(private, content=content.request)
        return exchange, intent, private

    def head(self, status: int, headers: Mapping[bytes, bytes], hops: tuple[RedirectHop, ...] = ()) -> None:
        """Status line and header fields (lower-case names) came."""
        self._first_byte = self._last_byte = self._now()
        self._status = status
        self._commitment = self._begun_commitment
        facts = self._facts
        for name, field in _HEADER_FIELDS:
            value = headers.get(name)
            if value is not None:
                facts[field] = value[:MAX_TEXT].decode("latin-1")
        if b"retry-after" in headers or b"retry-after-ms" in headers:
            facts["retry_after_ms"] = retry_after_ms(headers)
        if hops:
            facts["redirects"] = hops
        encoding = headers.get(b"content-encoding")
        if encoding is not None and (encoding := encoding.strip().lower()) not in {b"identity", b""}:
            self._decoder = decoder_for(encoding.decode("latin-1"))
            self._undecodable = self._decoder is None
        if self.content is not None and (self._endpoint != "embeddings" or status >= 400):
            self.content.begin_answer(headers.get(b"content-type", b""))  # else it is made of numbers
        if status < 400 and headers.get(b"content-type", b"")[:17].lower() == b"text/event-stream":
            markers, self._endings = _MARKERS.get(self._endpoint, (ALL_MARKERS, ALL_ENDINGS))
            if self._answer.tools_offered:
                markers += TOOL_MARKERS.get(self._endpoint, ALL_TOOL_MARKERS)
            self._scanner = EventScanner(markers)
            return
        length = headers.get(b"content-length")
        if (
            length is not None
            and length.isdigit()
            and len(length) <= _LONGEST_LENGTH
            and b"transfer-encoding" not in headers
            and status not in _BODILESS_STATUSES
            and self._method != "HEAD"
        ):
            self._expected = int(length)

    def body(self, piece: bytes) -> CallOutcome | None:
        """A piece of body came, as it came off the wire; the outcome, if the answer ends in it."""
        held = self._held
        if held is not None:
            self._last_byte = self._now()
            self._held_bytes += len(piece)
            if self._held_bytes < HELD_BYTES and piece[-1:] == b"\n":
                for ending in self._endings:
                    if ending in piece:
                        break
                else:
                    held.append(piece)
                    return None
            self._held = None
            self._chunks += len(held)
            piece = b"".join((*held, piece))
        elif self.over:
            return None
        else:
            self._last_byte = self._now()
        self._chunks += 1
        self._size += len(piece)
        if self._commitment is not None:
            self._commitment.update(piece)
        if self._expected == len(piece) <= KEEP_BYTES and self._decoder is None and not self._undecodable:
            self._answer.read_body(piece)  # as most answers come: whole
            if self.content is not None:
                self.content.feed(piece)
            return self._outcome("success", complete=True)
        if self._decoder is None:
            ended = not self._undecodable and self._read(piece)
        else:
            ends = [self._read(data) for data in self._decoded(piece)]
            ended = True in ends
        if ended or (self._expected is not None and self._size >= self._expected):
            return self._complete()
        scanner = self._scanner
        if (
            scanner is not None
            and self._first_token is not None
            and self._decoder is None
            and not scanner.opening
            and scanner.is_between_lines
        ):
            self._held, self._held_bytes = [], 0
        return None

    def _read_held(self) -> None:
        """Take in what was held: the stream is over, in whatever way. None of it is the terminal event."""
        held, self._held = self._held, None
        if held:
            pieces = b"".join(held)
            self._chunks += len(held)
            self._size += len(pieces)
            if self._commitment is not None:
                self._commitment.update(pieces)
            self._read(pieces)

    def known_body(self, content: bytes, *, raw_bytes: int, encoded: bool) -> CallOutcome | None:
        """The whole answer was read before it was ours to watch, and only its decoded form is left."""
        if not encoded:
            self._expected = None
            return self.body(content) or self.end_of_body()
        self._last_byte = self._now()
        self._chunks, self._size = 1, raw_bytes
        self._decoder, self._undecodable, self._commitment = None, False, None
        self._read(content)
        return self.end_of_body()

    def missed(self, size: int) -> None:
        """
        The beginning of the body went by unseen: there is nothing to commit to (C8), and an encoding cannot be undone.

        Told after the head.
        """
        self._size += size
        self._commitment = None
        if self._decoder is not None:
            self._decoder, self._undecodable = None, True

    def comes_decoded(self, raw_bytes: int) -> None:
        """
        The pieces are not the raw ones: there is nothing to commit to (C8), and their sizes say nothing.

        Told after the head, and again as more has come.

        Args:
            raw_bytes: What has come off the wire by now.
        """
        self._raw_bytes = raw_bytes
        self._decoder, self._undecodable, self._commitment, self._expected = None, False, None, None

    def end_of_body(self) -> CallOutcome | None:
        """The body came to its end by itself."""
        if self.over:
            return None
        self._read_held()
        scanner = self._scanner
        if scanner is None:
            return self._complete()
        ends = [self._answer.read_event(payload) for payload in scanner.flush()]
        if True in ends:
            return self._complete()
        answer = self._answer
        if answer.failed or self._enough() or 0 < answer.items_added == answer.items_done:
            return self._outcome("success", complete=False)
        if self._undecodable:
            return self._complete()  # to its end: garbled, or in an encoding nobody here can read
        self._facts.update(error_code="truncated", error_type="truncated", error_source="stream")
        return self._outcome("error", complete=False)

    def failed(self, failure: Failure) -> CallOutcome | None:
        """Sending, or reading the answer, raised."""
        if self.over:
            return None
        self._read_held()
        kind = failure.kind
        if kind in {"timeout", "cancelled"}:
            status: Status = "timeout" if kind == "timeout" else "cancelled"
        else:
            status = "error"
        self._facts.update(error_code=failure.name, error_source="client")
        if kind in {"connect", "tls", "truncated", "decode"}:
            self._facts["error_type"] = kind
        return self._outcome(status, complete=False)

    def closed(self, *, interrupted: bool = False) -> CallOutcome | None:
        """
        Nobody will read on: closed, or the last reference was lost.

        Args:
            interrupted: This happens because of CancelledError, KeyboardInterrupt or SystemExit.
        """
        if self.over:
            return None
        self._read_held()
        if self._enough():
            return self._outcome("success", complete=False)
        if self._expected == 0 or (self._status is not None and self._is_bodiless()):
            return self._complete()
        if self._facts.get("error_type") == "decode":
            self._facts.update(error_code="decode", error_source="client")
            return self._outcome("error", complete=False)
        return self._outcome("cancelled" if interrupted else "abandoned", complete=False)

    def refused(self, code: str = "AuditUnavailable") -> CallOutcome:
        """We did not let it be sent, although its intent is written."""
        self._facts.update(error_code=code, error_source="client")
        return self._outcome("refused", complete=False)

    def _is_bodiless(self) -> bool:
        return self._method == "HEAD" or self._status in _BODILESS_STATUSES

    def _enough(self) -> bool:
        """The caller has the whole answer and its price; only the terminal event is missing."""
        return self._scanner is not None and self._answer.finished and self._answer.priced

    def _decoded(self, piece: bytes) -> list[bytes]:
        try:
            return self._decoder.decode(piece) if self._decoder is not None else []
        except Exception:
            # The client library will say so to its caller; here it means that no more can be read.
            self._decoder, self._undecodable = None, True
            self._facts["error_type"] = "decode"
            return []

    def _read(self, data: bytes) -> bool:
        """Decoded bytes; True when the terminal event is among them."""
        if self.content is not None:
            self.content.feed(data)
        scanner = self._scanner
        if scanner is None:
            if self._kept is None:
                self._kept = Excerpt()
            self._kept.add(data)
            return False
        payloads = scanner.feed(data)
        if self._first_token is None:
            text = self._unended + data
            end = text.rfind(b"\n") + 1
            if end and self._has_token(text[:end]):
                self._first_token, self._unended = self._last_byte, b""
            else:
                self._unended = text[end:][-MAX_UNENDED_BYTES:]
        if not payloads:
            return False
        answer = self._answer
        ends = [answer.read_event(payload) for payload in payloads]
        if scanner.opening and answer.identified:
            scanner.opening = 0
        return True in ends

    def _has_token(self, data: bytes) -> bool:
        markers = _TOKEN_MARKERS.get(self._endpoint)
        if markers is not None:
            return any(marker in data for marker in markers)
        for empty in _NO_TOKENS:
            if empty in data:
                data = data.replace(empty, b"")
        return any(marker in data for marker in _CHAT_TOKENS)

    def _complete(self) -> CallOutcome:
        if self._kept is not None:
            self._answer.read_body(self._kept.take())
        if self._undecodable and self._facts.get("error_type") == "decode":
            self._facts.update(error_code="decode", error_source="client")
            return self._outcome("error", complete=True)
        return self._outcome("success", complete=True)

    def _outcome(self, status: Status, *, complete: bool) -> CallOutcome:
        """The end: what the answer says goes before what its headers say, and an error of its own before the caller's."""
        self.over = True
        answer, start, http_status = self._answer, self._start, self._status
        answer.judge_reasons()
        facts = self._facts
        if answer.tool_calls is not None:
            facts.update(answer.tool_calls.facts())
        if answer.failed or (http_status is not None and http_status >= 400):
            if status != "refused":
                status = "error"
            facts.update(answer.facts)
            if http_status is not None and http_status >= 400:
                facts["error_source"] = "http"
                if "error_code" not in answer.facts:
                    facts["error_code"] = str(http_status)
            elif answer.error_word is not None:
                facts.setdefault("error_code", answer.error_word)
        else:
            facts.update(answer.facts)
        if status in {"success", "abandoned"}:
            facts.pop("error_type", None)
        if "generation_id" in facts:
            facts.setdefault("generation_source", "header")
        if self.content is not None:
            facts["findings"] = self.content.end_answer()
        seen = http_status is not None
        outcome = CallOutcome(
            v=1,
            id=self._call_id,
            at_us=self._wall() // 1000,
            status=status,
            complete=complete,
            http_status=http_status,
            first_byte_us=None if self._first_byte is None else (self._first_byte - start) // 1000,
            first_token_us=None if self._first_token is None else (self._first_token - start) // 1000,
            last_byte_us=None if self._last_byte is None else (self._last_byte - start) // 1000,
            response_bytes=(self._size if self._raw_bytes is None else self._raw_bytes) if seen else None,
            chunks=self._chunks if seen else None,
            response_commitment=None if self._commitment is None else self._commitment.hexdigest(),
            **facts,
        )
        self._kept = self._scanner = self._decoder = self._commitment = None
        self._unended = b""
        return outcome


_NOTHING_ASKED = RequestFacts()


def _content(
    keeps: ContentPolicy,
    request: SentRequest,
    call_key: bytes,
    scope: Scope | None,
    asked: RequestFacts,
    key_hash: str | None,
) -> CallContent | None:
    facts = {
        "endpoint": request.target.route.endpoint,
        "model": asked.fields.get("model"),
        "key": key_hash,
        "user": (None if scope is None else scope.user) or asked.user,
    }
    content_type = request.headers.get(b"content-type", b"")
    tags = {} if scope is None else scope.tags
    return keeps.begin(request.body, content_type, call_key=call_key, facts=facts, tags=tags)


def _private(request: SentRequest, call_key: bytes, at_us: int, scope: Scope | None, asked: RequestFacts) -> Private:
    user, session = asked.user, asked.session
    if session is None and (value := request.headers.get(b"x-session-id")):
        session = value[:MAX_PERSON].decode("latin-1")
    target = request.target
    context = context_of(request.headers, scope, user=user, session=session, claims=asked.claims)
    if scope is None:
        return Private(
            commitment_key=call_key,
            user=user,
            reference=None if user is None else reference_for(user, at_us),
            session=session,
            context=context,
            base_url=target.base_url,
            path=target.private_path,
        )
    user = scope.user or user
    return Private(
        commitment_key=call_key,
        user=user,
        reference=None if user is None else reference_for(user, at_us),
        tenant=scope.tenant,
        session=scope.session or session,
        purpose=scope.purpose,
        tags=scope.tags,
        context=context,
        base_url=target.base_url,
        path=target.private_path,
    )


_HEADER_FIELDS = (
    (b"x-generation-id", "generation_id"),
    (b"x-provider-name", "provider"),
    (b"request-id", "request_id"),
    (b"x-request-id", "request_id"),
    (b"cf-ray", "edge_ray"),
    (b"x-openrouter-cache-status", "response_cache"),
)
