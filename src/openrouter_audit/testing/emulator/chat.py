"""
Answers of /chat/completions and of its ancestor /completions: a whole body, or the events of a stream.

Shapes follow the recordings: LF line ends, comments before the first event, the role in every delta, a chunk with the
finish reason, then the usage chunk that repeats it, then `[DONE]`.
"""

from typing import Any

import msgspec

from openrouter_audit.testing.emulator.catalogue import Charge
from openrouter_audit.testing.emulator.plan import Frame, Plan, Telling
from openrouter_audit.testing.emulator.refusals import USER_ID, asked_refusal

KEEPALIVE = Frame(b": OPENROUTER PROCESSING\n\n", 0)
_encode = msgspec.json.Encoder().encode

_ERRORS: dict[str, dict[str, Any]] = {
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
_ERROR_IN_200 = {"code": 504, "message": "error code: 524\n"}
_BROKEN = frozenset({"error_mid", "error_usage", "choice_error"})


def event(value: Any) -> bytes:
    """One event of a stream: a `data:` line and an empty line."""
    return b"data: " + _encode(value) + b"\n\n"


def error_of(plan: Plan, end: str) -> dict[str, Any]:
    """The `error` member of a stream that ends so, with what the switches `error` and `error_code` say about it."""
    asked = plan.behaviour
    error = dict(_ERRORS[end])
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


def cut_whole(body: bytes, telling: Telling, end: str) -> Telling:
    """A whole body of which `cut_frame` sends one half and `cut_boundary` nothing after the headers."""
    sent = body[: len(body) // 2] if end == "cut_frame" else b""
    return Telling(
        frames=[Frame(sent, telling.tokens or 0)] if sent else [],
        tokens=telling.tokens,
        finish_reason=telling.finish_reason,
        native_finish_reason=telling.native_finish_reason,
        cut=True,
        promised=len(body),
    )


def error_in_200(plan: Plan) -> Telling:
    """HTTP 200 whose body is an error and nothing else; no generation came about."""
    error = error_of(plan, "error_first") if plan.behaviour.error is not None else dict(_ERROR_IN_200)
    if plan.behaviour.error_code is not None:
        error["code"] = plan.behaviour.error_code
    body = _encode({"error": error, "user_id": USER_ID})
    return Telling(frames=[Frame(body, 0)], tokens=None, finish_reason=None, native_finish_reason=None)


def _tool_call(plan: Plan) -> dict[str, Any]:
    tools = plan.request.get("tools")
    name = "find_invoice"
    if isinstance(tools, list) and tools and isinstance(tools[0], dict) and isinstance(tools[0].get("function"), dict):
        name = str(tools[0]["function"].get("name") or name)
    return {
        "index": 0,
        "id": "call_" + plan.generation_id[-20:],
        "type": "function",
        "function": {"name": name, "arguments": '{"customer":"8841"}'},
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
    if finish == "tool_calls":
        message["content"], message["tool_calls"] = None, [_tool_call(plan)]
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
    return cut_whole(body, telling, plan.behaviour.end) if plan.behaviour.end.startswith("cut_") else telling


class _ChatChunks:
    """Builds the chunks of one stream; /completions differs only in its choices."""

    def __init__(self, plan: Plan, *, legacy: bool) -> None:
        self._legacy = legacy
        self._head = {
            "id": plan.generation_id,
            "object": "text_completion" if legacy else "chat.completion.chunk",
            "created": plan.created,
            "model": plan.served_model,
            "provider": plan.provider,
        }

    def chunk(self, delta: Any, finish: str | None = None, native: str | None = None, **beside: Any) -> dict[str, Any]:
        return {**self._head, "choices": [self.choice(delta, finish, native)], **beside}

    def choice(self, delta: Any, finish: str | None, native: str | None) -> dict[str, Any]:
        if isinstance(delta, str):
            delta = (
                {"text": delta, "logprobs": None}
                if self._legacy
                else {"delta": {"content": delta, "role": "assistant"}}
            )
        else:
            delta = {"delta": {"content": None, "role": "assistant", **delta}}
        return {"index": 0, **delta, "finish_reason": finish, "native_finish_reason": native}

    def usage_chunk(self, plan: Plan, tokens: int, finish: str, native: str, cost: Charge) -> dict[str, Any]:
        shape = plan.behaviour.usage_shape
        choices = {"a": [self.choice("", finish, native)], "b": [], "c": [self.choice("", None, None)]}[shape]
        tier = {"service_tier": "default"} if shape == "a" else {}
        value = {**self._head, **tier, "choices": choices, "usage": usage(plan, tokens, cost)}
        if plan.metadata and plan.cache_source is None:
            value["openrouter_metadata"] = router_metadata(plan)
        return value


def chat_stream(plan: Plan) -> Telling:
    """The events of /chat/completions with `stream: true`."""
    return _stream(plan, _ChatChunks(plan, legacy=False))


def completion_stream(plan: Plan) -> Telling:
    """The events of the legacy /completions with `stream: true`."""
    return _stream(plan, _ChatChunks(plan, legacy=True))


def comments(plan: Plan) -> list[Frame]:
    """The comments that keep the connection alive until the first event."""
    return [KEEPALIVE] * (1 if plan.behaviour.keepalives is None else plan.behaviour.keepalives)


def _deltas(plan: Plan) -> list[tuple[Any, int]]:
    """What each content chunk brings, and how many tokens have come with it."""
    if plan.finish_reason != "tool_calls":
        return [(piece, i) for i, piece in enumerate(plan.pieces, 1)]
    call = _tool_call(plan)
    arguments = call["function"]["arguments"]
    opening = {**call, "function": {**call["function"], "arguments": ""}}
    parts = [arguments[:9], arguments[9:]]
    fragments = [{"index": 0, "type": "function", "function": {"arguments": part}} for part in parts]
    total = len(plan.pieces)
    return [({"tool_calls": [part]}, total * i // 3) for i, part in enumerate([opening, *fragments], 1)]


def _stream(plan: Plan, make: _ChatChunks) -> Telling:
    end, done = plan.behaviour.end, Frame(b"data: [DONE]\n\n", 0)
    frames, deltas = comments(plan), _deltas(plan)
    finish = plan.finish_reason
    native = "error" if end == "native_error" else plan.native_finish_reason
    half = deltas[: max(1, len(deltas) // 2)]
    tokens = half[-1][1] if half else 0

    if end == "error_first":
        frames.append(Frame(event(make.chunk("", "error", None, error=error_of(plan, end))), 0))
        return Telling(frames=[*frames, done], tokens=None, finish_reason=None, native_finish_reason=None)

    if end in {"done", "no_done", "native_error"}:
        tokens = len(plan.pieces)
        frames += [Frame(event(make.chunk(delta)), count) for delta, count in deltas]
        frames.append(Frame(event(make.chunk("", finish, native)), tokens))
        frames.append(Frame(event(make.usage_chunk(plan, tokens, finish, native, plan.charge(tokens))), tokens))
        if end != "no_done":
            frames.append(done._replace(tokens=tokens))
        return Telling(frames=frames, tokens=tokens, finish_reason=finish, native_finish_reason=native)

    frames += [Frame(event(make.chunk(delta)), count) for delta, count in half]
    if end in {"cut_frame", "cut_boundary"}:
        if end == "cut_frame":
            following = event(make.chunk(" ", finish, native))
            frames.append(Frame(following[: len(following) // 2], tokens))
        return Telling(
            frames=frames, tokens=tokens, finish_reason=None, native_finish_reason=None, cut=end == "cut_frame"
        )

    error = error_of(plan, end)
    if end == "error_mid":
        frames.append(Frame(event(make.chunk("", "error", None, error=error)), tokens))
        return Telling(frames=frames, tokens=tokens, finish_reason="error", native_finish_reason=None)
    if end == "error_usage":
        # As recorded: an earlier chunk said `length`, the error stands beside the usage, and nothing is charged.
        told = usage(plan, tokens, plan.charge(tokens, fixed="0"))
        frames.append(Frame(event(make.chunk("", "length", "length")), tokens))
        frames.append(Frame(event(make.chunk("", None, None, error=error, usage=told)), tokens))
        frames.append(done._replace(tokens=tokens))
        return Telling(frames=frames, tokens=tokens, finish_reason="error", native_finish_reason=None, cost="0")
    broken = make.chunk("", "error", "error")
    broken["choices"][0]["error"] = error
    frames.append(Frame(event(broken), tokens))
    frames.append(Frame(event(make.usage_chunk(plan, tokens, "error", "error", plan.charge(tokens))), tokens))
    frames.append(done._replace(tokens=tokens))
    return Telling(frames=frames, tokens=tokens, finish_reason="error", native_finish_reason="error")
