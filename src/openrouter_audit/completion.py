"""
The call of the how-to page this product grew from, kept: one function, one completion, one audit entry.

What the page's version lost is recorded here by the log itself: failures, time-outs, streams, and costs that arrive late.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from openrouter_audit.audit_log import collected, install, installed
from openrouter_audit.capture.attribution import Receipt, attribution
from openrouter_audit.capture.log_line import line_of
from openrouter_audit.errors import ConfigError, KeyMissing

if TYPE_CHECKING:
    from openai import OpenAI

    from openrouter_audit.capture.recorder import FinishedCall

BASE_URL = "https://openrouter.ai/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One call, as its answer told it. What it was billed in the end is in the log (`openrouter-audit show CALL`)."""

    timestamp: str
    """When it was sent, RFC 3339 in UTC."""
    generation_id: str | None
    model_requested: str | None
    model_used: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_cost: Decimal | None
    """Credits (US dollars), None where the answer named no cost: unknown is not zero."""
    latency_ms: float
    """To the last byte, milliseconds."""
    status: str
    user_id: str
    prompt_hash: str | None
    """A keyed commitment to the request's bytes, 64 hex digits: equal prompts have different ones."""
    error_code: str | None = None


def audited_completion(
    messages: Iterable[Any],
    model: str = "anthropic/claude-3.5-sonnet",
    user_id: str = "system",
    *,
    client: OpenAI | None = None,
    **kwargs: Any,
) -> tuple[Any, AuditEntry | Receipt]:
    """
    Make a chat completion for `user_id` and return it with its audit entry.

    Installs the recorder if it is not yet.

    Args:
        client: An OpenAI client on OpenRouter; default one with the key of `$OPENROUTER_API_KEY`.
        kwargs: Passed on to `chat.completions.create`. With `stream=True` the second value is a Receipt, which fills
            when the stream ends.

    Raises:
        KeyMissing: No client was given and there is no key; nothing was sent.
        ConfigError: The client's host is not watched, so the call would not be recorded; nothing was sent.
        Exception: What the client raises, unchanged; the failed call is recorded.
    """
    audit = installed() or install()
    chosen = client if client is not None else _default_client()
    if not audit.watches(str(chosen.base_url)):
        raise ConfigError(
            f"{chosen.base_url.netloc.decode()} is not watched: add it to OPENROUTER_AUDIT_HOSTS",
            setting="capture.hosts",
        )
    calls: list[FinishedCall] = []
    outside = collected.set(calls)
    try:
        with attribution(user=user_id) as receipts:
            response = chosen.chat.completions.create(model=model, messages=messages, **kwargs)
    finally:
        collected.reset(outside)
    if kwargs.get("stream"):
        return response, receipts[-1]
    return response, _entry_of(calls[-1], user_id)


def _default_client() -> OpenAI:
    from openai import OpenAI

    key = os.environ.get("OPENROUTER_API_KEY")
    if not key:
        raise KeyMissing("set OPENROUTER_API_KEY, or pass a client")
    return OpenAI(base_url=BASE_URL, api_key=key)


def _entry_of(call: FinishedCall, user_id: str) -> AuditEntry:
    line = line_of(call)
    cost = line.pop("total_cost")
    line.pop("call_id")
    return AuditEntry(**{**line, "user_id": user_id, "total_cost": None if cost is None else Decimal(cost)})
