"""
The events of /chat/completions and /completions with `stream: true`, in every way they can end.

As recorded: LF line ends, comments before the first event, the role in every delta, a chunk with the finish reason, then
the usage chunk that repeats it, then `[DONE]`.
"""

from typing import Any

from openrouter_audit.testing.emulator.catalogue import Charge
from openrouter_audit.testing.emulator.chat import (
    KEEPALIVE,
    error_of,
    event,
    router_metadata,
    tool_call,
    unfinished,
    usage,
)
from openrouter_audit.testing.emulator.plan import Frame, Plan, Telling
from openrouter_audit.testing.emulator.switches import UNFINISHED
from openrouter_audit.testing.emulator.tool_calls import calls_tools, tool_calls


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
    if not calls_tools(plan):
        return [(piece, i) for i, piece in enumerate(plan.pieces, 1)]
    parts: list[dict[str, Any]] = []
    for index, call in enumerate(tool_calls(plan)):
        parts.append(tool_call(index, call._replace(arguments="")))
        parts += [{"index": index, "type": "function", "function": {"arguments": part}} for part in call.fragments]
    total = len(plan.pieces)
    return [({"tool_calls": [part]}, total * i // len(parts)) for i, part in enumerate(parts, 1)]


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

    if end in {"done", "no_done", "native_error", "extra_done"}:
        tokens = len(plan.pieces)
        frames += [Frame(event(make.chunk(delta)), count) for delta, count in deltas]
        frames.append(Frame(event(make.chunk("", finish, native)), tokens))
        frames.append(Frame(event(make.usage_chunk(plan, tokens, finish, native, plan.charge(tokens))), tokens))
        if end != "no_done":
            frames.append(done._replace(tokens=tokens))
        return Telling(frames=frames, tokens=tokens, finish_reason=finish, native_finish_reason=native)

    frames += [Frame(event(make.chunk(delta)), count) for delta, count in half]
    if end in UNFINISHED:
        if end == "cut_frame":
            following = event(make.chunk(" ", finish, native))
            frames.append(Frame(following[: len(following) // 2], tokens))
        return unfinished(frames, tokens, end)

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
