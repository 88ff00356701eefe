"""
What OpenRouter says at each endpoint, in pieces that a script can send, beside the facts that are in it.

The bytes are the examples of `tests/data/openrouter`; the facts were read off them by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "data" / "openrouter"
KEY = "sk-or-v1-" + "0123456789abcdef" * 4
HEADER_ID = "gen-1795429999-hEaDeRhEaDeRhEaDeRhE"
KEEPALIVE = b": OPENROUTER PROCESSING\n\n"
EMPTY_COMMENT = b": \n\n"


def example(name: str) -> bytes:
    return (EXAMPLES / name).read_bytes()


def frames_of(name: str) -> tuple[bytes, ...]:
    """The events and comments of a stream, each with its empty line."""
    return tuple(frame + b"\n\n" for frame in example(name).split(b"\n\n") if frame.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An endpoint: how it is asked, what it answers, and what an audit must have found in that."""

    name: str
    path: str
    request: dict[str, Any]
    whole: bytes
    whole_facts: dict[str, Any]
    stream: tuple[bytes, ...]
    stream_facts: dict[str, Any]
    opened: int
    """So many frames, and the answer has begun: the generation's id is known, no usage is."""
    priced: int | None
    """So many frames, and finish reason and usage are there while the terminal event is not; None where they come with it."""
    ended: int
    """So many frames, and the terminal event is there."""
    failing: tuple[bytes, ...]
    """A stream with an error event in its middle, which is its last frame but `[DONE]`."""
    failing_facts: dict[str, Any]

    def body(self, *, stream: bool) -> bytes:
        return json.dumps({**self.request, "stream": stream}).encode()


def _facts(
    generation: str, cost: str | None, tokens: tuple[int | None, int | None], reason: str | None
) -> dict[str, Any]:
    return {
        "generation_id": generation,
        "generation_source": "body",
        "cost": cost,
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "finish_reason": reason,
    }


_QUESTION = [{"role": "user", "content": "Which invoice is overdue?"}]

CHAT = Shape(
    name="chat",
    path="/api/v1/chat/completions",
    request={"model": "openai/gpt-4.1-mini", "messages": _QUESTION},
    whole=example("chat/nonstream.json"),
    whole_facts=_facts("gen-1795424400-WK59PFkl0JfI2yyVlbPe", "0.0003136", (1204, 87), "stop"),
    stream=frames_of("chat/stream.sse"),
    stream_facts=_facts("gen-1795425000-bmRsHdRXfr8nBNXYK7Gh", "0.000496", (1204, 9), "stop"),
    opened=4,
    priced=10,
    ended=11,
    failing=frames_of("chat/stream_error_midway.sse"),
    failing_facts={
        **_facts("gen-1795425120-il8Krk3QCI33jOqw5LoV", None, (None, None), "error"),
        "error_code": "502",
        "error_type": "provider_unavailable",
    },
)
RESPONSES = Shape(
    name="responses",
    path="/api/v1/responses",
    request={"model": "openai/gpt-oss-20b", "input": "Which invoice is overdue?"},
    whole=example("responses/nonstream.json"),
    whole_facts=_facts("gen-1795426200-WpQ0LW1MQKS4lHWhZ7d5", "0.00001255", (91, 40), "stop"),
    stream=frames_of("responses/stream.sse"),
    stream_facts=_facts("gen-1795426260-il9DPDJvrxLZtINLRjBv", "0.00001255", (91, 40), "stop"),
    opened=6,
    priced=None,
    ended=21,
    failing=frames_of("responses/stream_error_event.sse"),
    failing_facts={
        **_facts("gen-1795426380-W8SvrDgVf53eYfugPp1R", None, (None, None), None),
        "error_code": "rate_limit_exceeded",
        "error_type": None,
    },
)
MESSAGES = Shape(
    name="messages",
    path="/api/v1/messages",
    request={"model": "anthropic/claude-sonnet-4.6", "max_tokens": 64, "messages": _QUESTION},
    whole=example("messages/nonstream.json"),
    whole_facts=_facts("gen-1795426500-YfuIBrlI7UtxNrdLRkno", "0.001083", (301, 12), "stop"),
    stream=frames_of("messages/stream.sse"),
    stream_facts=_facts("gen-1795426560-xza5bu2bcIAxBbE9fVO6", "0.001083", (301, 12), "stop"),
    opened=5,
    priced=8,
    ended=9,
    failing=frames_of("messages/stream_error.sse"),
    failing_facts={
        **_facts("gen-1795426620-kPRbbkFCESN1AxbGgzSx", None, (None, None), None),
        "error_code": "overloaded_error",
        "error_type": "provider_overloaded",
    },
)
SHAPES = {shape.name: shape for shape in (CHAT, RESPONSES, MESSAGES)}

# Refusals -----------------------------------------------------------------------------------------------------------

_REFUSALS = {
    400: "400_context_length.json",
    401: "401_user_not_found.json",
    402: "402_in_flight_budget.json",
    403: "403_moderation.json",
    404: "404_no_endpoints_availability.json",
    408: "408_timeout.json",
    413: "413_too_large.json",
    422: "422_unprocessable.json",
    429: "429_upstream.json",
    499: "499_client_closed.json",
    500: "500_internal.json",
    502: "502_provider.json",
    503: "503_no_provider.json",
    504: "504_gateway.json",
    524: "524_cloudflare.txt",
    529: "529_overloaded.json",
}
_MESSAGES_REFUSALS = {401, 402, 429, 529}
_ENVELOPES = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
}
UNANNOUNCED = 418
"""Status codes arrive unannounced (API.md section 1); one that no list has."""
STATUSES = (*_REFUSALS, UNANNOUNCED)


def refusal(shape: Shape, status: int) -> bytes:
    """The body of an error, in the envelope of the endpoint."""
    if status == UNANNOUNCED:
        return b'{"error":{"code":418,"message":"short and stout"}}'
    if shape is not MESSAGES or status == 524:
        return example(f"errors/{_REFUSALS[status]}")
    if status in _MESSAGES_REFUSALS:
        return example(f"errors/messages_{status}.json")
    kind = _ENVELOPES.get(status, "api_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": "no"}, "request_id": None}).encode()


def stated_type(body: bytes) -> str | None:
    """`error_type` where a body states it, in either envelope; what Messages' own words stand for otherwise."""
    try:
        error = json.loads(body)["error"]
    except ValueError:
        return None
    words = {"invalid_request_error": "invalid_request", "permission_error": "permission_denied"}
    words |= {"not_found_error": "not_found", "api_error": "server"}
    return error.get("metadata", {}).get("error_type") or error.get("error_type") or words.get(error.get("type"))


# Bytes of HTTP ------------------------------------------------------------------------------------------------------

_REASONS = {200: b"OK", 307: b"Temporary Redirect"}


def head(status: int = 200, *fields: tuple[str, object], kind: str = "application/json") -> bytes:
    """Status line and header, with a generation's id as on every answer, and the end of the connection announced."""
    lines = [f"content-type: {kind}", f"x-generation-id: {HEADER_ID}", *(f"{name}: {value}" for name, value in fields)]
    start = b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Whatever"))
    return start + "\r\n".join([*lines, "connection: close", "", ""]).encode()


def event_head(*fields: tuple[str, object]) -> bytes:
    return head(200, *fields, kind="text/event-stream")


def sized(body: bytes, status: int = 200, *fields: tuple[str, object]) -> bytes:
    """A whole answer whose length is announced."""
    return head(status, ("content-length", len(body)), *fields) + body


def chunk(body: bytes) -> bytes:
    """One chunk of the chunked transfer coding."""
    return b"%x\r\n%s\r\n" % (len(body), body)
