"""
Answers of /chat/completions and of its ancestor /completions that are not streamed, and what streams share with them.

Members and their order follow the recordings, `provider` and `native_finish_reason` too, which no schema has.
"""

from typing import Any

import msgspec

from openrouter_audit.testing.emulator.catalogue import Charge
from openrouter_audit.testing.emulator.plan import Frame, Plan, Telling
from openrouter_audit.testing.emulator.refusals import USER_ID, Refusal, asked_refusal
from openrouter_audit.testing.emulator.switches import UNFINISHED
from openrouter_audit.testing.emulator.tool_calls import ToolCall, calls_tools, tool_calls

KEEPALIVE = Frame(b": OPENROUTER PROCESSING\n\n", 0)
_encode = msgspec.json.Encoder().encode

ERRORS: dict[str, dict[str, Any]] = {
    "error_first": {
        "code": 429,
        "message": "Provider returned error",
        "metadata": {"error_type": "rate_limit_exceeded", "provider_code": "rate_limited"},
    },
    "error_mid": {
        "code": 502,
        "message": "Provider disconnected unexpectedly",
        "metadata": {"error_type": "provider_unavailable"},
    },
    "error_usage": {"code": 400, "message": "Token limit reached"},
    "choice_error": {
        "code": 502,
        "message": "Upstream error: connection reset",
        "metadata": {"error_type": "provider_unavailable", "raw": "connection reset"},
    },
}
"""What is told in an answer that ends so."""
ERROR_IN_200 = {"code": 504, "message": "error code: 524\n"}
_BROKEN = frozenset({"error_mid", "error_usage", "choice_error"})


def event(value: Any) -> bytes:
    """One event of a stream: a `data:` line and an empty line."""
    return b"data: " + _encode(value) + b"\n\n"


def error_of(plan: Plan, end: str) -> dict[str, Any]:
    """The `error` member of a stream that ends so, with what the switches `error` and `error_code` say about it."""
    asked = plan.behaviour
    error = dict(ERRORS[end])
    if asked.error is not None:
        found = asked_refusal(status=None, error=asked.error, code=None, retry_after=None)
        if found and isinstance(found.body, dict):
            error = dict(found.body["error"])
    if asked.error_code is not None:
        error["code"] = asked.error_code
    return error


def usage(plan: Plan, tokens: int, cost: Charge) -> dict[str, Any]:
    """`usage` as chat has it; a response-cache hit counts nothing."""
    prompt = plan.prompt_tokens
    if plan.cache_source is not None:
        prompt = tokens = 0
    raw = {name: msgspec.Raw(text.encode()) for name, text in (("total", cost.total), ("upstream", cost.upstream))}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "cost": raw["total"],
        "is_byok": plan.behaviour.byok is not None,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
        "cost_details": {
            "upstream_inference_cost": raw["upstream"],
            "upstream_inference_prompt_cost": msgspec.Raw(cost.prompt_part.encode()),
            "upstream_inference_completions_cost": msgspec.Raw(cost.completion_part.encode()),
        },
        "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 0, "audio_tokens": 0},
    }


def router_metadata(plan: Plan) -> dict[str, Any]:
    """`openrouter_metadata`: another provider than the model's usual one is told as a fallback from it."""
    served = {"provider": plan.provider, "model": plan.served_model}
    first = {"provider": plan.model.provider, "model": plan.model.permaslug}
    fallback = served != first
    attempts = [{**first, "status": 429}, {**served, "status": 200}] if fallback else [{**served, "status": 200}]
    available = [{**first, "selected": not fallback}] + ([{**served, "selected": True}] if fallback else [])
    return {
        "requested": plan.requested,
        "strategy": "fallback" if fallback else "direct",
        "region": None,
        "summary": f"{len(available)} endpoints, {len(attempts)} attempts, served by {plan.provider}",
        "attempt": len(attempts),
        "is_byok": plan.behaviour.byok is not None,
        "endpoints": {"total": len(available), "available": available},
        "attempts": attempts,
        "pipeline": [],
        "generation_time": int(plan.latency_ms) + 12 * len(plan.pieces),
    }


def refused_metadata(asked: Any, refused: Refusal) -> dict[str, Any]:
    """
    `openrouter_metadata` beside an error: whether a provider was reached shows in the error's own metadata.

    Args:
        asked: The request's body, parsed if it can be.
        refused: The error that is told.
    """
    model = asked.get("model") if isinstance(asked, dict) else None
    told = refused.body["error"]
    metadata = told.get("metadata") if isinstance(told, dict) else None
    provider = metadata.get("provider_name") if isinstance(metadata, dict) else None
    attempts = [{"provider": provider, "model": model, "status": refused.status}] if provider else []
    return {
        "requested": model,
        "strategy": "direct",
        "region": None,
        "summary": f"{len(attempts)} endpoints, {len(attempts)} attempts",
        "attempt": len(attempts),
        "is_byok": False,
        "endpoints": {
            "total": len(attempts),
            "available": [{"provider": provider, "model": model, "selected": False}] if provider else [],
        },
        "attempts": attempts,
        "pipeline": [],
    }


def unfinished(frames: list[Frame], tokens: int, end: str) -> Telling:
    """A stream that breaks off after these frames, as `end` says."""
    return Telling(
        frames=frames,
        tokens=tokens,
        finish_reason=None,
        native_finish_reason=None,
        cut=end == "cut_frame",
        hold=end == "hold",
    )


def cut_whole(body: bytes, telling: Telling, end: str) -> Telling:
    """A whole body of which `cut_frame` and `hold` send one half and `cut_boundary` nothing after the headers."""
    sent = b"" if end == "cut_boundary" else body[: len(body) // 2]
    return Telling(
        frames=[Frame(sent, telling.tokens or 0)] if sent else [],
        tokens=telling.tokens,
        finish_reason=telling.finish_reason,
        native_finish_reason=telling.native_finish_reason,
        cut=end != "hold",
        hold=end == "hold",
        promised=len(body),
    )


def error_in_200(plan: Plan) -> Telling:
    """HTTP 200 whose body is an error and nothing else; no generation came about."""
    error = error_of(plan, "error_first") if plan.behaviour.error is not None else dict(ERROR_IN_200)
    if plan.behaviour.error_code is not None:
        error["code"] = plan.behaviour.error_code
    body = _encode({"error": error, "user_id": USER_ID})
    return Telling(frames=[Frame(body, 0)], tokens=None, finish_reason=None, native_finish_reason=None)


def tool_call(index: int, call: ToolCall) -> dict[str, Any]:
    """One of a message's `tool_calls`."""
    return {
        "index": index,
        "id": "call_" + call.tail,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def whole_chat(plan: Plan) -> Telling:
    """The body of /chat/completions, not streamed."""
    end = plan.behaviour.end
    if end == "error_first":
        return error_in_200(plan)
    broken = end in _BROKEN
    tokens = len(plan.pieces) // 2 if broken else len(plan.pieces)
    finish = "error" if broken else plan.finish_reason
    native = "error" if broken or end == "native_error" else plan.native_finish_reason
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(plan.pieces[:tokens]),
        "refusal": None,
        "reasoning": None,
    }
    if not broken and calls_tools(plan):
        message["content"] = None
        message["tool_calls"] = [tool_call(i, call) for i, call in enumerate(tool_calls(plan))]
    choice = {"index": 0, "logprobs": None, "finish_reason": finish, "native_finish_reason": native, "message": message}
    if broken:
        choice["error"] = error_of(plan, "choice_error")
    value = {
        "id": plan.generation_id,
        "object": "chat.completion",
        "created": plan.created,
        "model": plan.served_model,
        "provider": plan.provider,
        "system_fingerprint": None,
        "service_tier": "default",
        "choices": [choice],
        "usage": usage(plan, tokens, plan.charge(tokens)),
    }
    if plan.metadata and plan.cache_source is None:
        value["openrouter_metadata"] = router_metadata(plan)
    return _whole(plan, value, tokens, finish, native)


def whole_completion(plan: Plan) -> Telling:
    """The body of the legacy /completions, not streamed."""
    if plan.behaviour.end == "error_first":
        return error_in_200(plan)
    tokens = len(plan.pieces)
    native = "error" if plan.behaviour.end == "native_error" else plan.native_finish_reason
    value = {
        "id": plan.generation_id,
        "provider": plan.provider,
        "model": plan.served_model,
        "object": "text_completion",
        "created": plan.created,
        "choices": [
            {
                "index": 0,
                "text": plan.text,
                "logprobs": None,
                "finish_reason": plan.finish_reason,
                "native_finish_reason": native,
                "reasoning": None,
            }
        ],
        "usage": usage(plan, tokens, plan.charge(tokens)),
    }
    return _whole(plan, value, tokens, plan.finish_reason, native)


def _whole(plan: Plan, value: dict[str, Any], tokens: int, finish: str, native: str) -> Telling:
    body = _encode(value)
    telling = Telling(frames=[Frame(body, tokens)], tokens=tokens, finish_reason=finish, native_finish_reason=native)
    return cut_whole(body, telling, plan.behaviour.end) if plan.behaviour.end in UNFINISHED else telling
