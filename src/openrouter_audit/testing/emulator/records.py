"""
What the emulator tells about calls afterwards: GET /generation, /key, /credits and /models.

A generation record is eventually consistent by switch: not there yet, never there, refused for a while, without its cost,
or with another. The 404 of "not yet" is the 404 of "never was".
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from openrouter_audit.testing.emulator.books import Generation
from openrouter_audit.testing.emulator.catalogue import MODELS, number_text
from openrouter_audit.testing.emulator.plan import FIRST_SECOND
from openrouter_audit.testing.emulator.refusals import USER_ID

WORKSPACE_ID = "0b5f4a1e-6c1d-4f53-9a0b-3f1f6f1d2a10"
_ENDPOINT_ID = "5c1d2e3f-0a1b-4c2d-8e3f-a1b2c3d4e5f6"
_OPTIONAL = ("session_id", "request_id", "response_cache_source_id")
_NULLABLE = (
    "upstream_inference_cost", "api_type", "streamed", "cancelled", "provider_name", "latency", "generation_time", "finish_reason",
    "native_finish_reason", "tokens_prompt", "tokens_completion", "native_tokens_prompt", "native_tokens_completion",
    "native_tokens_reasoning", "native_tokens_cached", "num_media_completion", "provider_responses", "user_agent", "http_referer",
    "external_user", "session_id", "request_id", "service_tier", "workspace_id",
)  # fmt: skip


def drifted(billed: str) -> str:
    """The amount that a drifting record ends at: a tenth more, exactly."""
    return number_text(Decimal(billed) * 11 / 10)


def total_cost(generation: Generation, read: int) -> str | None:
    """What the record says was charged when it is read for the `read`-th time, counted from 1."""
    record, billed = generation.behaviour.record, generation.row.billed or "0"
    if record == "null_cost":
        return None if read == 1 else billed
    return generation.told_cost if record == "drift" and read == 1 else billed


def generation_body(generation: Generation) -> bytes:
    """The answer of GET /generation; counts as one reading."""
    generation.reads += 1
    row, billed = generation.row, total_cost(generation, generation.reads)
    cost = None if billed is None else msgspec.Raw(billed.encode())
    prompt, completion = row.prompt_tokens or 0, row.completion_tokens or 0
    data: dict[str, Any] = {
        "id": row.generation_id,
        "upstream_id": None,
        "total_cost": cost,
        "cache_discount": None,
        "upstream_inference_cost": msgspec.Raw(generation.upstream_cost.encode()),
        "created_at": _iso(generation.created, generation.latency_ms % 1000),
        "model": row.model,
        "app_id": None,
        "streamed": generation.streamed,
        "cancelled": row.cancelled,
        "provider_name": row.provider,
        "latency": generation.latency_ms,
        "moderation_latency": None,
        "generation_time": generation.generation_ms,
        "finish_reason": generation.finish_reason,
        "native_finish_reason": generation.native_finish_reason,
        "tokens_prompt": prompt - prompt // 64,
        "tokens_completion": completion - completion // 64,
        "native_tokens_prompt": prompt,
        "native_tokens_completion": completion,
        "native_tokens_completion_images": None,
        "native_tokens_reasoning": 0,
        "native_tokens_cached": 0,
        "num_media_prompt": None,
        "num_input_audio_prompt": None,
        "num_media_completion": 0,
        "num_search_results": None,
        "num_fetches": None,
        "web_search_engine": None,
        "origin": generation.referer or "",
        "usage": cost,
        "is_byok": generation.is_byok,
        "api_type": generation.api_type,
        "router": None,
        "provider_responses": _attempts(generation),
        "user_agent": generation.user_agent,
        "http_referer": generation.referer,
        "external_user": generation.external_user,
        "session_id": generation.session_id,
        "request_id": generation.request_id,
        "service_tier": "default" if generation.api_type == "completions" else None,
        "data_region": "global",
        "workspace_id": WORKSPACE_ID,
        "preset_id": None,
        "response_cache_source_id": generation.cache_source,
    }
    _disfigure(data, generation.behaviour.record)
    return msgspec.json.encode({"data": data})


def _disfigure(data: dict[str, Any], record: str) -> None:
    if record == "other_id":
        data["id"] = data["id"][:-4] + "0000"
    elif record == "nulls":
        data.update(dict.fromkeys(_NULLABLE))
    elif record == "absent":
        for name in _OPTIONAL:
            del data[name]
    elif record == "unknown":
        data.update(api_type="telepathy", data_region="moon", finish_reason="bored", a_new_member={"nested": [1, None]})


def _attempts(generation: Generation) -> list[dict[str, Any]] | None:
    if generation.api_type == "embeddings":
        return None
    if generation.cache_source is not None:
        return []
    return [
        {
            "endpoint_id": _ENDPOINT_ID,
            "id": f"chatcmpl-{generation.request_id[-20:]}{i}",
            "is_byok": generation.is_byok,
            "latency": max(generation.latency_ms - 2, 0),
            "model_permaslug": model,
            "provider_name": provider,
            "status": status,
        }
        for i, (provider, model, status) in enumerate(generation.tried)
    ]


def _iso(seconds: int, milliseconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{milliseconds:03d}Z"


def key_body(key: str, spent: Decimal) -> bytes:
    """The answer of GET /key: its limits and what it has spent."""
    raw = msgspec.Raw(number_text(spent).encode())
    left = msgspec.Raw(number_text(max(50 - spent, Decimal(0))).encode())
    budget = {
        "scope": "key_limit",
        "guardrail_id": None,
        "budget_id": None,
        "limit_usd": 50,
        "spend_usd": raw,
        "remaining_usd": left,
        "reset_interval": "monthly",
        "resets_at": "2026-12-01T00:00:00.000Z",
        "include_byok": False,
    }
    data = {
        "label": f"{key[:12]}...{key[-4:]}",
        "limit": 50,
        "limit_remaining": left,
        "limit_reset": "monthly",
        "include_byok_in_limit": False,
        "usage": raw,
        "usage_daily": raw,
        "usage_weekly": raw,
        "usage_monthly": raw,
        "byok_usage": 0,
        "byok_usage_daily": 0,
        "byok_usage_weekly": 0,
        "byok_usage_monthly": 0,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "creator_user_id": USER_ID,
        "organization_id": None,
        "workspace_id": WORKSPACE_ID,
        "allowed_data_regions": ["global"],
        "free_model_daily_requests": {"limit": 1000, "remaining": 1000, "used": 0},
        "budgets": [budget],
        "effective_budget": budget,
        "expires_at": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
    }
    return msgspec.json.encode({"data": data})


def credits_body(spent: Decimal) -> bytes:
    """The answer of GET /credits."""
    return msgspec.json.encode(
        {"data": {"total_credits": 110.25, "total_usage": msgspec.Raw(number_text(spent).encode())}}
    )


def models_body() -> bytes:
    """The answer of GET /models: what `catalogue` serves."""
    data = [
        {
            "id": model.slug,
            "canonical_slug": model.permaslug,
            "hugging_face_id": None,
            "name": model.slug,
            "created": FIRST_SECOND,
            "description": "Served by the emulator.",
            "context_length": 131072,
            "architecture": {
                "modality": "text->text",
                "input_modalities": ["text"],
                "output_modalities": ["text"],
                "tokenizer": "GPT",
                "instruct_type": None,
            },
            "pricing": {"prompt": f"{model.prompt:f}", "completion": f"{model.completion:f}"},
            "top_provider": {"context_length": 131072, "max_completion_tokens": 32768, "is_moderated": False},
            "per_request_limits": None,
            "supported_parameters": ["max_tokens", "temperature", "tools"],
            "default_parameters": None,
            "supported_voices": None,
            "links": {"details": f"/api/v1/models/{model.slug}/endpoints"},
            "knowledge_cutoff": None,
            "expiration_date": None,
        }
        for model in MODELS.values()
    ]
    return msgspec.json.encode({"data": data, "links": {"next": None}, "total_count": len(data)})
