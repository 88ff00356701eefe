"""
The client of `GET /generation`: one question, one answer, and every way it can go as a value.

`ask` never raises and never tries twice: when to try again is the schedule's business. No redirect is followed, since the
key would travel with it; the key stands in one header and in no exception, since none leaves this module (h11 and the
codecs quote a bad header in theirs). The answer's numbers are kept as the text they came as: `1e-7` and
`0.00046869999999999995` are what was billed, and no float in between can change them.

What the record means is told in API.md section 10. Any field may be null, missing, of a new type or beside fields nobody
knows yet; only `id` and `total_cost` decide whether the answer counts.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from openrouter_audit.core.entries import RouterAttempt
from openrouter_audit.journal.forks import no_fork

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 10.0
"""For the whole answer, and for each step towards it."""
MAX_ANSWER_BYTES = 1024 * 1024
"""Records are about 2 KB; one with many provider attempts stays far below."""
MAX_ATTEMPTS = 16
"""As many as fit into an entry."""
_UNAUTHORIZED = (401, 403)
_MONEY = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_SENDABLE_KEY = re.compile(r"[!-~]+", re.ASCII)
"""What a header can carry as a bearer token; no other key can have made a call."""
_MAX_NUMBER_CHARACTERS = 64
_MAX_WORD_CHARACTERS = 256
_MAX_COUNT = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """What OpenRouter keeps of one generation, as far as an entry can say it. Money and milliseconds as their own text."""

    generation_id: str | None
    total_cost: str | None
    """`total_cost`: what the account was charged."""
    upstream_cost: str | None = None
    """`upstream_inference_cost`: the provider's bill under BYOK, 0 or null otherwise."""
    cache_discount: str | None = None
    is_byok: bool | None = None
    model: str | None = None
    provider: str | None = None
    prompt_tokens: int | None = None
    """`native_tokens_prompt`: the billed count; `tokens_prompt` is normalised and is not."""
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    cancelled: bool | None = None
    latency_ms: str | None = None
    generation_time_ms: str | None = None
    attempts: tuple[RouterAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The record is there, with a cost."""

    record: GenerationRecord
    raw: bytes = field(repr=False)
    """The body as it came; it may name people (`external_user`)."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """404: not written yet, or never will be; nobody can tell."""


@dataclass(frozen=True, slots=True)
class CostMissing:
    """The record is there, and `total_cost` is null, absent or no number."""

    record: GenerationRecord
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdMismatch:
    """The record of another generation came (API.md section 16); it is not looked at."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """401 or 403: this key may not ask."""

    http_status: int


@dataclass(frozen=True, slots=True)
class Throttled:
    """429."""

    retry_after_us: int | None


@dataclass(frozen=True, slots=True)
class ServerTrouble:
    """No answer, or none that can be read."""

    http_status: int | None
    reason: str
    """One word: `http`, `body`, `too_long`, `too_slow`, `key`, or the class of what was raised."""
    retry_after_us: int | None = None


GenerationAnswer = Found | NotYet | CostMissing | IdMismatch | Unauthorized | Throttled | ServerTrouble


class GenerationClient:
    """
    Asks OpenRouter what it recorded. Used by one thread at a time.

    A forked child gets connections of its own; those it inherited are the parent's and are not touched.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S, utc_s: Callable[[], float] = time.time) -> None:
        """
        Args:
            utc_s: Seconds since 1970, for a `Retry-After` that is a date.
        """
        self._timeout_s = timeout_s
        self._utc_s = utc_s
        self._http: httpx2.Client | None = None
        self._inherited: list[httpx2.Client] = []
        self._pid = 0

    def ask(self, base_url: str, generation_id: str, key: str) -> GenerationAnswer:
        """
        Ask once for the record of a generation.

        Args:
            base_url: Origin and base path of the recorded call, for example `https://openrouter.ai/api/v1`.
            key: The API key that made the call; sent to this origin alone.
        """
        if _SENDABLE_KEY.fullmatch(key) is None:
            # Not even tried: at DEBUG httpcore2 logs the header that h11 refuses, whole.
            return ServerTrouble(None, "key")
        try:
            return self._ask(base_url, generation_id, key)
        except Exception as error:
            # The class is all that may be told: messages and arguments can quote the header with the key in it.
            return ServerTrouble(None, type(error).__name__[:64])

    def close(self) -> None:
        """Close the connections. A later question opens new ones."""
        http, self._http = self._http, None
        if http is not None and self._pid == os.getpid():
            http.close()

    def _ask(self, base_url: str, generation_id: str, key: str) -> GenerationAnswer:
        url = f"{base_url.rstrip('/')}/generation?id={quote(generation_id, safe='')}"
        # Uncompressed, so that what is committed to is what is read (C8: before content decoding).
        headers = {"Authorization": f"Bearer {key}", "Accept": "application/json", "Accept-Encoding": "identity"}
        until = time.monotonic() + self._timeout_s
        http = self._client()
        with http.stream("GET", url, headers=headers, follow_redirects=False) as response:
            body = bytearray()
            for piece in response.iter_raw():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    return ServerTrouble(response.status_code, "too_long")
                if time.monotonic() > until:
                    return ServerTrouble(response.status_code, "too_slow")
            # The edge's cookies would tie the next key's question to this one's.
            http.cookies.clear()
            return self._answer(response, bytes(body), generation_id)

    def _answer(self, response: httpx2.Response, body: bytes, generation_id: str) -> GenerationAnswer:
        status = response.status_code
        if status == 200:
            return read_answer(body, generation_id)
        if status == 404:
            return NotYet()
        if status in _UNAUTHORIZED:
            return Unauthorized(status)
        retry_after_us = read_retry_after(response.headers.get("retry-after"), utc_s=self._utc_s())
        if status == 429:
            return Throttled(retry_after_us)
        return ServerTrouble(status, "http", retry_after_us)

    def _client(self) -> httpx2.Client:
        if self._http is not None and self._pid != os.getpid():
            self._inherited.append(self._http)
            self._http = None
        if self._http is None:
            with no_fork():  # a child would wait for ever for a module that this thread was importing
                import httpx2

            self._pid = os.getpid()
            self._http = httpx2.Client(timeout=self._timeout_s)
        return self._http


class _NumberText(str):
    """A JSON number, as its own text."""

    __slots__ = ()


def read_answer(body: bytes, generation_id: str) -> Found | CostMissing | IdMismatch | ServerTrouble:
    """Read the body of a 200: `{"data": {…}}`."""
    try:
        # stdlib json: it hands numbers over as text, and a lone surrogate in some string does not cost us the price.
        answer = json.loads(body, parse_float=_NumberText, parse_int=_NumberText, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return ServerTrouble(200, "body")
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        return ServerTrouble(200, "body")
    record = _record(data)
    if record.generation_id != generation_id:
        return IdMismatch()
    return CostMissing(record, body) if record.total_cost is None else Found(record, body)


def read_retry_after(value: str | None, *, utc_s: float) -> int | None:
    """Read `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date; in microseconds from `utc_s`, None if unreadable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return int(value) * 1_000_000
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(int((at.timestamp() - utc_s) * 1_000_000), 0)


def _record(data: dict[str, Any]) -> GenerationRecord:
    return GenerationRecord(
        generation_id=_word(data.get("id")),
        total_cost=_number(data.get("total_cost")),
        upstream_cost=_number(data.get("upstream_inference_cost")),
        cache_discount=_number(data.get("cache_discount")),
        is_byok=_flag(data.get("is_byok")),
        model=_word(data.get("model")),
        provider=_word(data.get("provider_name")),
        prompt_tokens=_count(data.get("native_tokens_prompt")),
        completion_tokens=_count(data.get("native_tokens_completion")),
        reasoning_tokens=_count(data.get("native_tokens_reasoning")),
        cached_tokens=_count(data.get("native_tokens_cached")),
        request_id=_word(data.get("request_id")),
        finish_reason=_word(data.get("finish_reason")),
        native_finish_reason=_word(data.get("native_finish_reason")),
        cancelled=_flag(data.get("cancelled")),
        latency_ms=_number(data.get("latency")),
        generation_time_ms=_number(data.get("generation_time")),
        attempts=_attempts(data.get("provider_responses")),
    )


def _attempts(value: object) -> tuple[RouterAttempt, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        RouterAttempt(
            provider=_word(item.get("provider_name")),
            model=_word(item.get("model_permaslug")),
            status=_count(item.get("status")),
        )
        for item in value[:MAX_ATTEMPTS]
        if isinstance(item, dict)
    )


def _number(value: object) -> str | None:
    """Text of a number; also when it came as a string, as prices of `/models` do."""
    if not isinstance(value, str) or len(value) > _MAX_NUMBER_CHARACTERS or _MONEY.fullmatch(value) is None:
        return None
    return str(value)


def _count(value: object) -> int | None:
    if not isinstance(value, _NumberText) or not value.isdigit() or len(value) > len(str(_MAX_COUNT)):
        return None
    count = int(value)
    return count if count <= _MAX_COUNT else None


def _word(value: object) -> str | None:
    """A string as it came, of bounded length; the sequencer holds it against the vocabulary of its field."""
    if not isinstance(value, str) or isinstance(value, _NumberText) or not value:
        return None
    # A lone surrogate has no bytes, so no frame could hold it.
    return value[:_MAX_WORD_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
