"""
Answers of /responses: a whole body, or typed events numbered from 0.

How a stream's `end` shows here: `no_done` stops after the last finished item, without the terminal event; `error_first`
and `error_mid` send an `error` event; `error_usage` and `choice_error` end in `response.failed`, the first one with usage;
`finish_reason=length` is `response.incomplete`.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from openrouter_audit.testing.emulator.catalogue import Charge
from openrouter_audit.testing.emulator.chat import (
    cut_whole,
    error_in_200,
    error_of,
    event,
    router_metadata,
    unfinished,
)
from openrouter_audit.testing.emulator.chat_stream import comments
from openrouter_audit.testing.emulator.plan import Frame, Plan, Telling
from openrouter_audit.testing.emulator.switches import UNFINISHED
from openrouter_audit.testing.emulator.tool_calls import ToolCall, calls_tools, tool_calls

_FAILED = frozenset({"error_mid", "error_usage", "choice_error"})


def _usage(plan: Plan, tokens: int, cost: Charge) -> dict[str, Any]:
    prompt = plan.prompt_tokens
    if plan.cache_source is not None:
        prompt = tokens = 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + tokens,
        "cost": msgspec.Raw(cost.total.encode()),
        "is_byok": plan.behaviour.byok is not None,
        "cost_details": {
            "upstream_inference_cost": msgspec.Raw(cost.upstream.encode()),
            "upstream_inference_input_cost": msgspec.Raw(cost.prompt_part.encode()),
            "upstream_inference_output_cost": msgspec.Raw(cost.completion_part.encode()),
        },
    }


def _response(plan: Plan, status: str, **changed: Any) -> dict[str, Any]:
    """A response in one of its states, `changed` members put in their places or added at the end."""
    asked = plan.request
    return {
        "object": "response",
        "id": plan.generation_id,
        "created_at": plan.created,
        "model": plan.served_model,
        "status": status,
        "completed_at": plan.created + 1 if status == "completed" else None,
        "output": [],
        "output_text": "",
        "error": None,
        "incomplete_details": None,
        "max_tool_calls": asked.get("max_tool_calls"),
        "tools": asked.get("tools") or [],
        "tool_choice": asked.get("tool_choice") or "auto",
        "parallel_tool_calls": True,
        "max_output_tokens": asked.get("max_output_tokens"),
        "temperature": asked.get("temperature"),
        "top_p": asked.get("top_p"),
        "presence_penalty": None,
        "frequency_penalty": None,
        "metadata": asked.get("metadata") or {},
        "background": False,
        "previous_response_id": None,
        "service_tier": "auto",
        "truncation": None,
        "store": False,
        "instructions": asked.get("instructions"),
        "reasoning": None,
        "safety_identifier": None,
        "prompt_cache_key": None,
        "user": asked.get("user"),
        **changed,
    }


def _item_id(plan: Plan) -> str:
    return "msg_tmp_" + plan.generation_id[-11:].lower()


def _message(plan: Plan, status: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "type": "message",
        "status": status,
        "content": content if status != "in_progress" else [],
        "id": _item_id(plan),
        "role": "assistant",
    }


def _function_call(call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": "fc_tmp_" + call.tail[-11:].lower(),
        "call_id": "call_" + call.tail,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def _final(plan: Plan, tokens: int) -> dict[str, Any]:
    """The response in its last state, when nothing went wrong."""
    status = "incomplete" if plan.finish_reason == "length" else "completed"
    calling = calls_tools(plan)
    changed: dict[str, Any] = {
        "output": [_function_call(call, "completed") for call in tool_calls(plan)]
        if calling
        else [_message(plan, status, plan.text)],
        "output_text": "" if calling else plan.text,
        "usage": _usage(plan, tokens, plan.charge(tokens)),
    }
    if status == "incomplete":
        changed["incomplete_details"] = {"reason": "max_output_tokens"}
    if plan.metadata and plan.cache_source is None:
        changed["openrouter_metadata"] = router_metadata(plan)
    return _response(plan, status, **changed)


def _failure(plan: Plan, end: str, tokens: int) -> dict[str, Any]:
    code = plan.behaviour.error_code
    error = {"code": "server_error" if code is None else str(code), "message": error_of(plan, end)["message"]}
    changed: dict[str, Any] = {"error": error, "error_type": "provider_unavailable"}
    if end == "error_usage":
        changed["usage"] = _usage(plan, tokens, plan.charge(tokens, fixed="0"))
    return _response(plan, "failed", **changed)


def whole_response(plan: Plan) -> Telling:
    """The body of /responses, not streamed."""
    end = plan.behaviour.end
    if end == "error_first":
        return error_in_200(plan)
    failed = end in _FAILED
    tokens = len(plan.pieces) // 2 if failed else len(plan.pieces)
    value = _failure(plan, end, tokens) if failed else _final(plan, tokens)
    body = msgspec.json.encode(value)
    telling = Telling(
        frames=[Frame(body, tokens)],
        tokens=tokens,
        finish_reason="error" if failed else plan.finish_reason,
        native_finish_reason="error" if failed or end == "native_error" else plan.native_finish_reason,
        cost="0" if end == "error_usage" else None,
    )
    return cut_whole(body, telling, end) if end in UNFINISHED else telling


def response_stream(plan: Plan) -> Telling:
    """The events of /responses with `stream: true`."""
    end = plan.behaviour.end
    frames, number = comments(plan), 0

    def send(kind: str, tokens: int, **members: Any) -> bytes:
        nonlocal number
        data = event({"type": kind, **members, "sequence_number": number})
        number += 1
        frames.append(Frame(data, tokens))
        return data

    def error(tokens: int) -> None:
        told = error_of(plan, end)
        code = plan.behaviour.error_code
        named = (told.get("metadata") or {}).get("error_type", "server_error")
        send("error", tokens, code=named if code is None else str(code), message=told["message"], param=None)
        frames.append(Frame(b"data: [DONE]\n\n", tokens))

    if end == "error_first":
        error(0)
        return Telling(frames=frames, tokens=None, finish_reason=None, native_finish_reason=None)

    whole = end not in _FAILED and end not in UNFINISHED
    send("response.created", 0, response=_response(plan, "in_progress"))
    send("response.in_progress", 0, response=_response(plan, "in_progress"))
    say = _say_calls if calls_tools(plan) else _say_text
    tokens = say(plan, send, whole=whole)

    if end == "error_mid":
        error(tokens)
        return Telling(frames=frames, tokens=tokens, finish_reason="error", native_finish_reason=None)
    if end in _FAILED:
        send("response.failed", tokens, response=_failure(plan, end, tokens))
        frames.append(Frame(b"data: [DONE]\n\n", tokens))
        cost = "0" if end == "error_usage" else None
        return Telling(frames=frames, tokens=tokens, finish_reason="error", native_finish_reason=None, cost=cost)
    if not whole:
        if end == "cut_frame":
            following = send("response.output_text.delta", tokens, logprobs=[], **_place(plan), delta=" ")
            frames[-1] = Frame(following[: len(following) // 2], tokens)
        return unfinished(frames, tokens, end)

    if end != "no_done":
        final = _final(plan, tokens)
        send(f"response.{final['status']}", tokens, response=final)
        frames.append(Frame(b"data: [DONE]\n\n", tokens))
    native = "error" if end == "native_error" else plan.native_finish_reason
    return Telling(frames=frames, tokens=tokens, finish_reason=plan.finish_reason, native_finish_reason=native)


def _place(plan: Plan) -> dict[str, Any]:
    return {"item_id": _item_id(plan), "output_index": 0, "content_index": 0}


def _say_text(plan: Plan, send: Callable[..., bytes], *, whole: bool) -> int:
    """The events of the one message, or those until it breaks off; returns the tokens told by then."""
    shown = plan.pieces if whole else plan.pieces[: max(1, len(plan.pieces) // 2)]
    place, part = _place(plan), {"type": "output_text", "annotations": [], "text": ""}
    send("response.output_item.added", 0, output_index=0, item=_message(plan, "in_progress", ""))
    send("response.content_part.added", 0, **place, part=part)
    for i, piece in enumerate(shown, 1):
        send("response.output_text.delta", i, logprobs=[], **place, delta=piece)
    tokens = len(shown)
    if whole:
        send("response.output_text.done", tokens, **place, text=plan.text, logprobs=[])
        send("response.content_part.done", tokens, **place, part={**part, "text": plan.text})
        send("response.output_item.done", tokens, output_index=0, item=_final(plan, tokens)["output"][0])
    return tokens


def _say_calls(plan: Plan, send: Callable[..., bytes], *, whole: bool) -> int:
    """The events of the calls of tools; one that breaks off leaves its last item open."""
    calls = tool_calls(plan)
    shown = calls if whole else calls[: max(1, len(calls) // 2)]
    tokens = 0
    for i, call in enumerate(shown):
        opened = _function_call(call._replace(arguments=""), "in_progress")
        place = {"item_id": opened["id"], "output_index": i}
        send("response.output_item.added", tokens, output_index=i, item=opened)
        for fragment in call.fragments:
            send("response.function_call_arguments.delta", tokens, **place, delta=fragment)
        tokens = len(plan.pieces) * (i + 1) // len(calls)
        if whole or call is not shown[-1]:
            send("response.function_call_arguments.done", tokens, **place, name=call.name, arguments=call.arguments)
            send("response.output_item.done", tokens, output_index=i, item=_function_call(call, "completed"))
    return tokens
