"""The log line of a call (C19): one JSON object at INFO, for those who read logs before they read anything else."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openrouter_audit.capture.recorder import FinishedCall

logger = logging.getLogger("openrouter_audit.calls")
"""`logging.getLogger("openrouter_audit.calls").setLevel(logging.INFO)` and a handler make it visible."""


def log_call(call: FinishedCall, *, log_user_ids: bool = False) -> None:
    """Log a finished call; builds nothing where nobody listens."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", json.dumps(line_of(call, log_user_ids=log_user_ids)))


def line_of(call: FinishedCall, *, log_user_ids: bool = False) -> dict[str, Any]:
    """
    The twelve keys of the older logger and `call_id`.

    Money is text, times of day are RFC 3339 in UTC, unknown is null. `user_id` is this process's reference for the person
    unless `log_user_ids`; no key and no content is in it.
    """
    intent, outcome = call.intent, call.outcome
    latency_us = outcome.last_byte_us
    if latency_us is None:
        latency_us = max(0, outcome.at_us - intent.at_us)
    started = datetime.fromtimestamp(intent.at_us / 1_000_000, UTC)
    return {
        "call_id": intent.id,
        "timestamp": started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "generation_id": outcome.generation_id,
        "model_requested": intent.model,
        "model_used": outcome.model,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_cost": outcome.cost,
        "latency_ms": latency_us / 1000,
        "status": outcome.status,
        "user_id": call.private.user if log_user_ids else call.private.reference,
        "prompt_hash": intent.request_commitment,
        "error_code": outcome.error_code,
    }
