"""Values that must be found, each of them different, and every shape of body that one may stand in."""

from __future__ import annotations

import base64
import json

from tests.core.redaction.pieces import HEX, b64url

PICTURE = base64.b64encode(b"\x89PNG" + bytes(range(90))).decode()


def canaries(count):
    """Values that must be found, each of them different."""
    makers = [
        lambda n: f"canary{n}@example.com",
        lambda n: f"+1212555{n % 10_000:04}",
        lambda n: "sk-or-" + "v1-" + f"{n:08x}" * 8,
        lambda n: f"https://user{n}:canary{n}pw@db.example/",
        lambda n: "Bearer " + f"canary{n:06}" + HEX,
        lambda n: f"2001:db8::{n:x}:1",
        lambda n: ".".join([b64url(b'{"alg":"HS256"}'), b64url(b'{"sub":"canary%d"}' % n), HEX + f"{n:06}"]),
        lambda n: f"{100 + n % 500}-{1 + n % 99:02}-{1 + n:04}",
    ]
    return [makers[number % len(makers)](number) for number in range(count)]


def secret_of(canary):
    """The part of a canary that may not be left."""
    if canary.startswith("https://"):
        return canary.removeprefix("https://").partition("@")[0]
    return canary.removeprefix("Bearer ")


SHAPES = {
    "chat, string": lambda x: {"messages": [{"role": "user", "content": f"so {x} it is"}]},
    "chat, parts": lambda x: {"messages": [{"role": "user", "content": [{"type": "text", "text": x}]}]},
    "chat, name": lambda x: {"messages": [{"role": "user", "name": x, "content": "hello"}]},
    "chat, file name": lambda x: {"messages": [{"content": [{"type": "file", "file": {"filename": f"{x} .pdf", "file_data": PICTURE}}]}]},
    "chat, link": lambda x: {"messages": [{"content": [{"type": "image_url", "image_url": {"url": f"https://a.example/ {x}"}}]}]},
    "chat, tool arguments": lambda x: {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": json.dumps({"a": [x]})}}]}}]},
    "chat, tool arguments cut off": lambda x: {"choices": [{"message": {"tool_calls": [{"function": {"arguments": json.dumps({"a": [x, " "]})[:-3]}}]}}]},
    "chat, tool result": lambda x: {"messages": [{"role": "tool", "tool_call_id": "c1", "content": json.dumps({"deep": json.dumps({"b": x})})}]},
    "chat, tool schema": lambda x: {"tools": [{"function": {"name": "f", "description": x, "parameters": {"properties": {"a": {"default": x}}}}}]},
    "chat, reasoning": lambda x: {"choices": [{"message": {"reasoning": x, "reasoning_details": [{"type": "reasoning.text", "text": x}]}}]},
    "chat, refusal": lambda x: {"choices": [{"message": {"content": None, "refusal": x}}]},
    "chat, annotations": lambda x: {"choices": [{"message": {"annotations": [{"url_citation": {"title": x, "url": f"https://a.example?q={x}"}}]}}]},
    "chat, sound": lambda x: {"choices": [{"message": {"audio": {"id": "a", "data": base64.b64encode(x.encode()).decode(), "transcript": x}}}]},
    "chat, stop": lambda x: {"stop": [x], "logit_bias": {x: 1}},
    "chat, user": lambda x: {"user": x, "session_id": x, "safety_identifier": x},
    "chat, metadata": lambda x: {"metadata": {"note": x, x: "as a name"}, "trace": {"trace_name": x}},
    "completions": lambda x: {"prompt": [x, f"and {x}"], "suffix": x},
    "responses, input": lambda x: {"input": x, "instructions": x},
    "responses, items": lambda x: {"input": [{"role": "user", "content": [{"type": "input_text", "text": x}]}, {"type": "function_call_output", "output": json.dumps(x)}]},
    "responses, output": lambda x: {"output": [{"type": "message", "content": [{"type": "output_text", "text": x}]}, {"type": "reasoning", "summary": [{"text": x}]}]},
    "messages, system": lambda x: {"system": x, "messages": []},
    "messages, blocks": lambda x: {"system": [{"type": "text", "text": x}], "messages": [{"content": [{"type": "tool_use", "input": {"q": x}}, {"type": "tool_result", "content": [{"text": x}]}]}]},
    "messages, document": lambda x: {"messages": [{"content": [{"type": "document", "title": x, "source": {"type": "base64", "media_type": "text/plain", "data": base64.b64encode(x.encode()).decode()}}]}]},
    "messages, thinking": lambda x: {"content": [{"type": "thinking", "thinking": x, "signature": base64.b64encode(x.encode()).decode()}]},
    "messages, metadata": lambda x: {"metadata": {"user_id": x}},
    "error, flagged": lambda x: {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["pii"], "flagged_input": x}}, "user_id": f"user {x}"},
    "error, raw": lambda x: {"error": {"code": 400, "metadata": {"raw": json.dumps({"error": {"message": f"bad: {x}"}}), "previous_errors": [{"raw": x}]}}},
    "error, raw cut off": lambda x: {"error": {"metadata": {"raw": '{"error": {"message": "bad: ' + x + " and"}}},
    "error, annotations": lambda x: {"error": {"metadata": {"file_annotations": [{"file": {"content": [{"text": x}]}}]}}},
    "embeddings": lambda x: {"input": [x, "b"], "model": "m"},
    "rerank": lambda x: {"query": x, "results": [{"document": {"text": x}}]},
    "transcription": lambda x: {"text": x, "segments": [{"text": x}]},
    "video": lambda x: {"urls": [f"https://a.example/v?token={b64url(x.encode())}"], "prompt": x},
    "batch": lambda x: {"requests": [{"custom_id": x, "body": {"messages": [{"content": x}]}}]},
    "headers": lambda x: {"headers": {"Authorization": f"Bearer {b64url(x.encode())}1", "note": x}},
}  # fmt: skip
