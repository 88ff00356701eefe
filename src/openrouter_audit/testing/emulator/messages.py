"""
Answers of /messages, Anthropic's interface: a whole message, or named events.

As recorded: the opening event counts no tokens yet, `message_delta` brings the stop reason with the true usage and the
cost, and `message_stop` is the last event and holds `openrouter_metadata`. The recording of 2026-09 has one more after
it, `event: data` with `[DONE]`. Anthropic's own SDK (2.12) takes that for JSON and raises at the end of every stream, so
here it is sent on demand only, by `end=extra_done`.

How other switches show here: `no_done` stops before `message_stop`; `choice_error` is `error_mid`, since there are no
choices; `error_usage` sends the `message_delta` of a call that costs nothing, then an `error` event; a body that is no
stream is an error in a 200 for all three. Of `native_error` the stop reason tells, the only word there is. `usage_shape=b`
counts the prompt in the opening event already; `c` does so there alone, as Anthropic itself does and OpenRouter's schema
does not.
"""

from typing import Any

import msgspec

from openrouter_audit.testing.emulator.catalogue import Charge
from openrouter_audit.testing.emulator.chat import (
    ERROR_IN_200,
    ERRORS,
    cut_whole,
    error_of,
    router_metadata,
    unfinished,
)
from openrouter_audit.testing.emulator.chat_stream import comments
from openrouter_audit.testing.emulator.plan import Frame, Plan, Telling
from openrouter_audit.testing.emulator.switches import UNFINISHED
from openrouter_audit.testing.emulator.tool_calls import calls_tools, tool_calls

_encode = msgspec.json.Encoder().encode
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_TYPES = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "authentication"),
    402: ("billing_error", "payment_required"),
    403: ("permission_error", "permission_denied"),
    404: ("not_found_error", "not_found"),
    408: ("timeout_error", "timeout"),
    413: ("invalid_request_error", "payload_too_large"),
    422: ("invalid_request_error", "unprocessable"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    502: ("api_error", "provider_unavailable"),
    503: ("overloaded_error", "provider_overloaded"),
    504: ("timeout_error", "timeout"),
    524: ("timeout_error", "timeout"),
    529: ("overloaded_error", "provider_overloaded"),
}
"""Anthropic's word and OpenRouter's for an HTTP status."""
_OTHER_TYPES = ("api_error", "server")


def _error(told: dict[str, Any], status: int) -> dict[str, Any]:
    """An error of the other interfaces in the words of this one; a code that is text stands as its type."""
    kind, error_type = _TYPES.get(status, _OTHER_TYPES)
    code, metadata = told.get("code"), told.get("metadata")
    named = metadata.get("error_type") if isinstance(metadata, dict) else None
    return {
        "type": told.get("type") or (code if isinstance(code, str) else kind),
        "message": told.get("message", ""),
        "error_type": told.get("error_type") or named or error_type,
    }


def _status_of(told: dict[str, Any]) -> int:
    code = told.get("code")
    return code if isinstance(code, int) else 500


def envelope(body: Any, status: int, generation_id: str | None) -> Any:
    """A refusal's body in the envelope of this interface; one that is in it already, and the edge's text, stay as they are."""
    told = body.get("error") if isinstance(body, dict) else None
    if not isinstance(told, dict) or "success" in body or body.get("type") == "error":
        return body
    value = {"type": "error", "error": _error(told, status), "request_id": generation_id}
    metadata = told.get("metadata")
    left = {name: said for name, said in metadata.items() if name != "error_type"} if isinstance(metadata, dict) else {}
    if left:
        value["metadata"] = left
    if "openrouter_metadata" in body:
        value["openrouter_metadata"] = body["openrouter_metadata"]
    return value


def message_error_in_200(plan: Plan) -> Telling:
    """HTTP 200 whose body is an error and nothing else; no generation came about."""
    asked = plan.behaviour
    told = dict(ERROR_IN_200) if asked.error is None else error_of(plan, "error_first")
    if asked.error_code is not None:
        told["code"] = asked.error_code
    body = _encode(envelope({"error": told}, _status_of(told), plan.generation_id))
    return Telling(frames=[Frame(body, 0)], tokens=None, finish_reason=None, native_finish_reason=None)


def _counted(prompt: int, tokens: int) -> dict[str, Any]:
    """`usage` without a price."""
    return {
        "input_tokens": prompt,
        "output_tokens": tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "inference_geo": None,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": "standard",
    }


def _usage(plan: Plan, tokens: int, cost: Charge) -> dict[str, Any]:
    counted = _counted(0, 0) if plan.cache_source is not None else _counted(plan.prompt_tokens, tokens)
    return {
        **counted,
        "cost": msgspec.Raw(cost.total.encode()),
        "is_byok": plan.behaviour.byok is not None,
        "cost_details": {
            "upstream_inference_cost": msgspec.Raw(cost.upstream.encode()),
            "upstream_inference_prompt_cost": msgspec.Raw(cost.prompt_part.encode()),
            "upstream_inference_completions_cost": msgspec.Raw(cost.completion_part.encode()),
        },
    }


def _stop_reason(plan: Plan) -> str:
    if plan.behaviour.end == "native_error":
        return "error"
    return _STOP_REASONS.get(plan.finish_reason, plan.finish_reason)


def _message(
    plan: Plan, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": plan.generation_id,
        "type": "message",
        "role": "assistant",
        "model": plan.served_model,
        "provider": plan.provider,
        "container": None,
        "content": content,
        "stop_reason": stop_reason,
        "stop_details": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _tool_use(name: str, tail: str, value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{tail}", "name": name, "input": value, "caller": {"type": "direct"}}


def whole_message(plan: Plan) -> Telling:
    """The body of /messages, not streamed."""
    end = plan.behaviour.end
    if end in ERRORS:
        return message_error_in_200(plan)
    content: list[dict[str, Any]] = [{"type": "text", "text": plan.text, "citations": None}]
    if calls_tools(plan):
        content = [_tool_use(call.name, call.tail, msgspec.Raw(call.arguments.encode())) for call in tool_calls(plan)]
    tokens = len(plan.pieces)
    value = _message(plan, content, _stop_reason(plan), _usage(plan, tokens, plan.charge(tokens)))
    if plan.metadata and plan.cache_source is None:
        value["openrouter_metadata"] = router_metadata(plan)
    body = _encode(value)
    native = "error" if end == "native_error" else plan.native_finish_reason
    telling = Telling(
        frames=[Frame(body, tokens)], tokens=tokens, finish_reason=plan.finish_reason, native_finish_reason=native
    )
    return cut_whole(body, telling, end) if end in UNFINISHED else telling


def _named(kind: str, **members: Any) -> bytes:
    """One event: its name stands before it and in it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **members}))


def _deltas(plan: Plan) -> list[tuple[list[bytes], int]]:
    """The events of all content blocks in groups that belong together, and how many tokens have come with each group."""
    ping = _named("ping")
    if not calls_tools(plan):
        opened = _named("content_block_start", index=0, content_block={"type": "text", "text": "", "citations": None})
        spoken = [
            ([_named("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})], i)
            for i, piece in enumerate(plan.pieces, 1)
        ]
        return [([opened, ping], 0), *spoken, ([_named("content_block_stop", index=0)], len(plan.pieces))]
    calls = tool_calls(plan)
    groups = []
    for i, call in enumerate(calls):
        opened = _named("content_block_start", index=i, content_block=_tool_use(call.name, call.tail, {}))
        parts = [
            _named("content_block_delta", index=i, delta={"type": "input_json_delta", "partial_json": part})
            for part in ["", *call.fragments]
        ]
        events = [opened, *([] if i else [ping]), *parts, _named("content_block_stop", index=i)]
        groups.append((events, len(plan.pieces) * (i + 1) // len(calls)))
    return groups


def _ended(plan: Plan, stop_reason: str, usage: dict[str, Any]) -> bytes:
    delta = {"stop_reason": stop_reason, "stop_sequence": None, "stop_details": None, "container": None}
    if plan.behaviour.usage_shape == "c":
        usage = {name: said for name, said in usage.items() if name != "input_tokens" and not name.startswith("cache_")}
    return _named("message_delta", delta=delta, usage=usage)


def message_stream(plan: Plan) -> Telling:
    """The events of /messages with `stream: true`."""
    end, frames = plan.behaviour.end, comments(plan)
    if end == "error_first":
        told = error_of(plan, end)
        frames.append(Frame(_named("error", error=_error(told, _status_of(told))), 0))
        return Telling(frames=frames, tokens=None, finish_reason=None, native_finish_reason=None)

    told_first = plan.behaviour.usage_shape != "a" and plan.cache_source is None
    opening = _message(plan, [], None, _counted(plan.prompt_tokens, 1) if told_first else _counted(0, 0))
    frames.append(Frame(_named("message_start", message=opening), 0))
    groups = _deltas(plan)
    whole = end not in ERRORS and end not in UNFINISHED
    shown = groups if whole else groups[: max(1, len(groups) // 2)]
    before = 0
    for events, tokens in shown:
        # The tokens of a group have come with the last of its events.
        frames += [Frame(data, before) for data in events[:-1]]
        frames.append(Frame(events[-1], tokens))
        before = tokens

    tokens = before
    if end in UNFINISHED:
        if end == "cut_frame":
            following = groups[len(shown)][0][0] if len(shown) < len(groups) else _named("message_stop")
            frames.append(Frame(following[: len(following) // 2], tokens))
        return unfinished(frames, tokens, end)
    if not whole:
        return _broken(plan, frames, tokens)
    stop_reason = _stop_reason(plan)
    frames.append(Frame(_ended(plan, stop_reason, _usage(plan, tokens, plan.charge(tokens))), tokens))
    if end != "no_done":
        beside = {"openrouter_metadata": router_metadata(plan)} if plan.metadata and plan.cache_source is None else {}
        frames.append(Frame(_named("message_stop", **beside), tokens))
    if end == "extra_done":
        frames.append(Frame(b"event: data\ndata: [DONE]\n\n", tokens))
    native = "error" if end == "native_error" else plan.native_finish_reason
    return Telling(frames=frames, tokens=tokens, finish_reason=plan.finish_reason, native_finish_reason=native)


def _broken(plan: Plan, frames: list[Frame], tokens: int) -> Telling:
    """The rest of a stream that an error event ends."""
    end = plan.behaviour.end
    free = end == "error_usage"
    if free:
        usage = _usage(plan, tokens, plan.charge(tokens, fixed="0"))
        frames.append(Frame(_ended(plan, "max_tokens", usage), tokens))
    told = error_of(plan, "error_mid" if end == "choice_error" else end)
    frames.append(Frame(_named("error", error=_error(told, _status_of(told))), tokens))
    cost = "0" if free else None
    return Telling(frames=frames, tokens=tokens, finish_reason="error", native_finish_reason=None, cost=cost)
