"""
A row of `calls` is a pure function of the entries of one call, and of nothing else.

That is what lets a follower start over at any time and end with the same bytes: it does not matter in how many pieces
the entries came. Of several intents or outcomes under one call id the first counts (a second one is a matter for
`verify`); of several costs the last (DESIGN section 4). What the answer itself said stands; what it did not say, because
the stream was closed before its end, is filled in from the generation record.

Cost states (C7). `provisional`: billed or perhaps billed, and OpenRouter can still be asked. `settled`: it was asked.
`unresolved`: it was asked in vain, or something may have been billed and there is no generation id to ask with, as in a
time-out before the first header, or a killed process. `none`: nothing can be billed, because no generation began.

An imported row (`call.imported`) is marked by what it lacks: it has no `intent_index`, no `group_id`, no `sdk`, and
`complete` is null, since nobody watched. Its price was looked up at the generation endpoint by the older log, so it
stands as `generation_cost`; its own entry is at `outcome_index`, and at `cost_index` where it names a price.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

COLUMNS = (
    "call_id",
    "group_id",
    "attempt",
    "timestamp",
    "generation_id",
    "request_id",
    "endpoint",
    "model_requested",
    "model_used",
    "provider",
    "status",
    "complete",
    "http_status",
    "error_code",
    "error_type",
    "finish_reason",
    "native_finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "total_cost",
    "cost_state",
    "cost_source",
    "response_cost",
    "generation_cost",
    "upstream_cost",
    "is_byok",
    "latency_ms",
    "first_token_ms",
    "stream",
    "chunks",
    "request_bytes",
    "response_bytes",
    "subject_ref",
    "user_id",
    "tenant",
    "session_id",
    "purpose",
    "tags",
    "key_hash",
    "prompt_hash",
    "response_hash",
    "sdk",
    "duplicate_of",
    "intent_index",
    "outcome_index",
    "cost_index",
)
"""The columns of `calls`, in the order of C5."""
INTEGER_COLUMNS = frozenset(
    {
        "attempt",
        "complete",
        "http_status",
        "prompt_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cached_tokens",
        "is_byok",
        "stream",
        "chunks",
        "request_bytes",
        "response_bytes",
        "intent_index",
        "outcome_index",
        "cost_index",
    }
)
FLAG_COLUMNS = frozenset({"complete", "is_byok", "stream"})
"""0 or 1 in the file, false or true in JSON and CSV."""

_FREE_ENDPOINTS = frozenset({"files", "data"})
_LONGEST_LATENCY_MS = Decimal(10**12)
_MILLISECOND_DIGITS = Decimal("0.001")


class _Reading(Struct, frozen=True, gc=False, tag_field="kind"):
    """The fields of an entry that a row shows. Fields and vocabularies a later recorder adds are read over."""

    id: str
    at_us: int


class IntentReading(_Reading, frozen=True, gc=False, tag="call.intent"):
    group: str | None = None
    attempt: int | None = None
    endpoint: str | None = None
    sdk: str | None = None
    model: str | None = None
    models: tuple[str, ...] = ()
    stream: bool | None = None
    key_hash: str | None = None
    subject: str | None = None
    request_bytes: int | None = None
    request_commitment: str | None = None


class ToolCallReading(Struct, frozen=True, gc=False):
    """A tool that an answer asked for."""

    id: str | None = None


class OutcomeReading(_Reading, frozen=True, gc=False, tag="call.outcome"):
    status: str
    complete: bool | None = None
    http_status: int | None = None
    error_code: str | None = None
    error_type: str | None = None
    error_source: str | None = None
    generation_id: str | None = None
    generation_source: str | None = None
    request_id: str | None = None
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    tool_calls: tuple[ToolCallReading, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cost: str | None = None
    upstream_cost: str | None = None
    is_byok: bool | None = None
    first_token_us: int | None = None
    last_byte_us: int | None = None
    response_bytes: int | None = None
    chunks: int | None = None
    response_commitment: str | None = None


class CostReading(_Reading, frozen=True, gc=False, tag="call.cost"):
    state: str
    total_cost: str | None = None
    upstream_cost: str | None = None
    is_byok: bool | None = None
    model: str | None = None
    provider: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None


class ImportedReading(_Reading, frozen=True, gc=False, tag="call.imported"):
    status: str
    generation_id: str | None = None
    model_requested: str | None = None
    model_used: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_cost: str | None = None
    latency_ms: str | None = None
    error_code: str | None = None
    prompt_hash: str | None = None
    subject: str | None = None


Reading = IntentReading | OutcomeReading | CostReading | ImportedReading
_decode: Callable[[str], Reading] = msgspec.json.Decoder(Reading).decode


def read_entry(text: str) -> Reading | None:
    """What an entry says of a call; None for every other kind, those of later recorders included."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        return None


class CallParts:
    """The entries of one call as far as the log goes, with their indexes. Owned by one projector."""

    __slots__ = ("cost", "cost_index", "duplicate_of", "intent", "intent_index", "outcome", "outcome_index")

    def __init__(self) -> None:
        self.intent: IntentReading | None = None
        self.intent_index: int | None = None
        self.outcome: OutcomeReading | ImportedReading | None = None
        self.outcome_index: int | None = None
        self.cost: CostReading | None = None
        self.cost_index: int | None = None
        self.duplicate_of: str | None = None

    def take(self, index: int, reading: Reading) -> bool:
        """Add one entry; False where an earlier one of its kind stands already."""
        kind = type(reading)
        if kind is IntentReading:
            if self.intent_index is not None:
                return False
            self.intent, self.intent_index = reading, index  # type: ignore[assignment]
        elif kind is CostReading:
            self.cost, self.cost_index = reading, index  # type: ignore[assignment]
        else:
            if self.outcome_index is not None:
                return False
            self.outcome, self.outcome_index = reading, index  # type: ignore[assignment]
        return True


def cost_state_of_outcome(outcome: OutcomeReading, endpoint: str | None) -> str:
    """The cost state before OpenRouter was asked: none, provisional or unresolved."""
    if outcome.cost is not None:
        return "provisional"
    if outcome.status == "refused" or outcome.error_type in {"connect", "tls"}:
        return "none"
    if (outcome.http_status or 0) >= 400:
        # An id in the body names a generation that began; one in the header may stand on any refusal.
        return "provisional" if outcome.generation_id and outcome.generation_source == "body" else "none"
    if outcome.generation_id:
        return "provisional"
    if endpoint in _FREE_ENDPOINTS or (outcome.status == "error" and outcome.complete):
        return "none"
    return "unresolved"


@lru_cache(maxsize=4096)
def _second(at_s: int) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0")


def timestamp_text(at_us: int) -> str:
    """`2026-11-23T10:15:00.123456Z`, of microseconds since 1970."""
    seconds, microseconds = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}{microseconds:06}Z"


def milliseconds_text(duration_us: int | None) -> str | None:
    """`812.300`, of microseconds."""
    return None if duration_us is None else f"{duration_us // 1000}.{duration_us % 1000:03}"


def _imported_latency(text: str | None) -> str | None:
    """The latency of an older log, rounded half up to three decimals; null where it cannot be meant."""
    try:
        value = Decimal(text or "NaN")
        if not 0 <= value < _LONGEST_LATENCY_MS:
            return None
        return format(value.quantize(_MILLISECOND_DIGITS, rounding=ROUND_HALF_UP), "f")
    except InvalidOperation:
        return None


def _first(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    return None


_NO_OUTCOME = OutcomeReading(id="", at_us=0, status="open")
_NO_INTENT = IntentReading(id="", at_us=0)
_NO_COST = CostReading(id="", at_us=0, state="")


def build_row(call_id: str, parts: CallParts) -> tuple[Any, ...]:
    """The values of `COLUMNS` for a call. What a person is called stays null: commands join it from the vault."""
    if type(parts.outcome) is ImportedReading:
        return _imported_row(call_id, parts, parts.outcome)
    intent = parts.intent or _NO_INTENT
    outcome: OutcomeReading = parts.outcome or _NO_OUTCOME  # type: ignore[assignment]
    cost = parts.cost or _NO_COST

    # 1. The price: what the generation record says beats what the answer said.
    if parts.cost is not None:
        cost_state = "settled" if cost.state == "settled" else "unresolved"
    elif parts.outcome is None:
        cost_state = "provisional"
    else:
        cost_state = cost_state_of_outcome(outcome, intent.endpoint)
    response_cost, generation_cost = outcome.cost, cost.total_cost
    total, source = None, None
    if parts.duplicate_of is None:
        if generation_cost is not None:
            total, source = generation_cost, "generation"
        elif response_cost is not None:
            total, source = response_cost, "response"

    # 2. What the answer did not say, from the generation record.
    model, provider = outcome.model, outcome.provider
    finish, native_finish = outcome.finish_reason, outcome.native_finish_reason
    prompt, completion = outcome.prompt_tokens, outcome.completion_tokens
    reasoning, cached = outcome.reasoning_tokens, outcome.cached_tokens
    request_id = outcome.request_id
    is_byok, upstream = outcome.is_byok, outcome.upstream_cost
    if parts.cost is not None:
        model, provider = _first(model, cost.model), _first(provider, cost.provider)
        finish = _first(finish, cost.finish_reason)
        native_finish = _first(native_finish, cost.native_finish_reason)
        prompt, completion = _first(prompt, cost.prompt_tokens), _first(completion, cost.completion_tokens)
        reasoning, cached = _first(reasoning, cost.reasoning_tokens), _first(cached, cost.cached_tokens)
        request_id = _first(request_id, cost.request_id)
        is_byok, upstream = _first(cost.is_byok, is_byok), _first(cost.upstream_cost, upstream)

    # 3. The row, in the order of COLUMNS.
    return (
        call_id,
        intent.group,
        intent.attempt,
        timestamp_text((parts.intent or parts.outcome or cost).at_us),
        outcome.generation_id,
        request_id,
        intent.endpoint,
        intent.model if intent.model is not None else intent.models[0] if intent.models else None,
        model,
        provider,
        outcome.status,
        outcome.complete,
        outcome.http_status,
        outcome.error_code,
        outcome.error_type,
        finish,
        native_finish,
        prompt,
        completion,
        reasoning,
        cached,
        total,
        cost_state,
        source,
        response_cost,
        generation_cost,
        upstream,
        is_byok,
        milliseconds_text(outcome.last_byte_us),
        milliseconds_text(outcome.first_token_us),
        intent.stream,
        outcome.chunks,
        intent.request_bytes,
        outcome.response_bytes,
        intent.subject,
        None,
        None,
        None,
        None,
        None,
        intent.key_hash,
        intent.request_commitment,
        outcome.response_commitment,
        intent.sdk,
        parts.duplicate_of,
        parts.intent_index,
        parts.outcome_index,
        parts.cost_index,
    )


def _imported_row(call_id: str, parts: CallParts, imported: ImportedReading) -> tuple[Any, ...]:
    price, generation = imported.total_cost, imported.generation_id
    if price is not None:
        cost_state = "settled"
    else:
        cost_state = "unresolved" if generation or imported.status != "error" else "none"
    counted = price if parts.duplicate_of is None else None
    values = dict.fromkeys(COLUMNS) | {
        "call_id": call_id,
        "timestamp": timestamp_text(imported.at_us),
        "generation_id": generation,
        "endpoint": "chat",
        "model_requested": imported.model_requested,
        "model_used": imported.model_used,
        "status": imported.status,
        "error_code": imported.error_code,
        "prompt_tokens": imported.prompt_tokens,
        "completion_tokens": imported.completion_tokens,
        "total_cost": counted,
        "cost_state": cost_state,
        "cost_source": None if counted is None else "generation",
        "generation_cost": price,
        "latency_ms": _imported_latency(imported.latency_ms),
        "subject_ref": imported.subject,
        "prompt_hash": imported.prompt_hash,
        "duplicate_of": parts.duplicate_of,
        "outcome_index": parts.outcome_index,
        "cost_index": None if price is None else parts.outcome_index,
    }
    return tuple(values.values())
