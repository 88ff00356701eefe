"""
From answers to entries: what is written about a call's cost, and when.

A call ends in one of two ways. `settled`: the record is there, and its numbers become a `call.cost`; where the answer to the
call had named another amount, one `alert.raised` beside it. `unresolved`: the cost will not be known in this way, and the
entry says why. Nothing is ever written as zero because it is unknown.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from openrouter_audit.core.commitments import CALL_KEY_BYTES, commit, derive_keys
from openrouter_audit.core.entries import AlertRaised, CallCost
from openrouter_audit.enrichment.generations import (
    CostMissing,
    Found,
    GenerationAnswer,
    GenerationRecord,
    IdMismatch,
    NotYet,
    ServerTrouble,
    Throttled,
    Unauthorized,
)
from openrouter_audit.enrichment.pending import PendingCost, Recorder

COST_MISMATCH = "cost_mismatch"
"""Rule of the alert: OpenRouter's answer and its record name different amounts."""
OnCost = Callable[[str, str], object]
"""Told (call id, `total_cost` as text) after the entry is written."""


def settled_cost(call: PendingCost, found: Found, *, tries: int, at_us: int) -> CallCost:
    """State what a call was billed."""
    return CallCost(
        v=1,
        id=call.call_id,
        at_us=at_us,
        state="settled",
        tries=tries,
        http_status=200,
        key_hash=call.key_hash or None,
        **_record_fields(call, found.record, found.raw),
    )


def unresolved_cost(call: PendingCost, answer: GenerationAnswer, *, tries: int, at_us: int) -> CallCost:
    """State that a cost will not be known, with the last answer as the reason."""
    if isinstance(answer, CostMissing):
        fields = _record_fields(call, answer.record, answer.raw)
    else:
        fields = {"generation_id": call.generation_id}
    return CallCost(
        v=1,
        id=call.call_id,
        at_us=at_us,
        state="unresolved",
        reason=_reason(answer),
        tries=tries,
        http_status=_http_status(answer),
        key_hash=call.key_hash or None,
        **fields,
    )


def cost_mismatch(call: PendingCost, found: Found, *, alert_id: str, at_us: int) -> AlertRaised | None:
    """Compare both amounts as numbers: `1e-7` is `0.0000001`. None where they agree, or one is not known."""
    if call.response_cost is None or found.record.total_cost is None:
        return None
    try:
        differs = Decimal(call.response_cost) != Decimal(found.record.total_cost)
    except InvalidOperation:
        return None
    if not differs:
        return None
    return AlertRaised(
        v=1,
        id=alert_id,
        at_us=at_us,
        rule=COST_MISMATCH,
        call=call.call_id,
        expected=call.response_cost,
        observed=found.record.total_cost,
    )


class Settlement:
    """Writes what is known. Owned by the thread that asks."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        utc_us: Callable[[], int],
        on_cost: OnCost | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        """
        Args:
            new_id: 128 random bits in hex, for an alert.
        """
        self._recorder = recorder
        self._utc_us = utc_us
        self._on_cost = on_cost
        self._new_id = new_id

    def settle(self, call: PendingCost, found: Found, *, tries: int) -> bool:
        """
        Write the cost, and the alert where the amounts differ; returns whether they do.

        Raises:
            AuditUnavailable: Nothing was written; ask again later.
        """
        at_us = self._utc_us()
        self._recorder.write(settled_cost(call, found, tries=tries, at_us=at_us))
        alert = cost_mismatch(call, found, alert_id=self._new_id(), at_us=at_us)
        if alert is not None:
            try:
                self._recorder.write(alert)
            except Exception:
                # The cost entry stands, and whoever compares it with the outcome sees the same difference. Asking
                # again for the alert's sake would write the cost twice.
                pass
        if self._on_cost is not None and found.record.total_cost is not None:
            try:
                self._on_cost(call.call_id, found.record.total_cost)
            except Exception:
                # A receipt that cannot be filled in changes nothing of what is written.
                pass
        return alert is not None

    def give_up(self, call: PendingCost, answer: GenerationAnswer, *, tries: int) -> None:
        """
        Write that the cost stays unknown, unless the journal says so already.

        Raises:
            AuditUnavailable: Nothing was written.
        """
        if not call.unresolved_before:
            self._recorder.write(unresolved_cost(call, answer, tries=tries, at_us=self._utc_us()))


def _record_fields(call: PendingCost, record: GenerationRecord, raw: bytes) -> dict[str, Any]:
    commitment = None
    if call.commitment_key is not None and len(call.commitment_key) == CALL_KEY_BYTES:
        commitment = commit(derive_keys(call.commitment_key).response, raw).hex()
    return {
        "generation_id": record.generation_id,
        "total_cost": record.total_cost,
        "upstream_cost": record.upstream_cost,
        "cache_discount": record.cache_discount,
        "is_byok": record.is_byok,
        "model": record.model,
        "provider": record.provider,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "reasoning_tokens": record.reasoning_tokens,
        "cached_tokens": record.cached_tokens,
        "request_id": record.request_id,
        "finish_reason": record.finish_reason,
        "native_finish_reason": record.native_finish_reason,
        "cancelled": record.cancelled,
        "latency_ms": record.latency_ms,
        "generation_time_ms": record.generation_time_ms,
        "attempts": record.attempts,
        "answer_commitment": commitment,
    }


def _reason(answer: GenerationAnswer) -> str:
    match answer:
        case NotYet():
            return "not_found"
        case CostMissing():
            return "cost_missing"
        case IdMismatch():
            return "id_mismatch"
        case Unauthorized():
            return "unauthorized"
        case Throttled():
            return "throttled"
        case ServerTrouble():
            return "server_trouble" if answer.http_status is not None else "unreachable"
        case Found():
            return "not_recorded"


def _http_status(answer: GenerationAnswer) -> int | None:
    match answer:
        case NotYet():
            return 404
        case Unauthorized() | ServerTrouble():
            return answer.http_status
        case Throttled():
            return 429
        case _:
            return 200
