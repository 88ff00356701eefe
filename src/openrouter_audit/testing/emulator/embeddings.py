"""Answers of /embeddings: short vectors that depend on the input alone, as numbers or as base64 of 32-bit floats."""

import base64
import hashlib
import struct
from typing import Any

import msgspec

from openrouter_audit.testing.emulator.chat import cut_whole, error_in_200
from openrouter_audit.testing.emulator.plan import Frame, Plan, Telling
from openrouter_audit.testing.emulator.switches import UNFINISHED

_DIMENSIONS = 8  # enough to tell vectors apart; real ones have thousands


def embed(text: Any, dimensions: int) -> list[float]:
    """The vector of one input, four decimals each."""
    digest = hashlib.shake_128(str(text).encode()).digest(2 * dimensions)
    return [round(value / 32768, 4) for value in struct.unpack(f">{dimensions}h", digest)]


def whole_embeddings(plan: Plan) -> Telling:
    """The body of /embeddings."""
    if plan.behaviour.end in {"error_first", "error_mid", "error_usage", "choice_error"}:
        return error_in_200(plan)
    given = plan.request.get("input")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    asked = plan.request.get("dimensions")
    dimensions = asked if isinstance(asked, int) and 0 < asked <= 4096 else _DIMENSIONS
    as_text = plan.request.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(inputs):
        vector: Any = embed(text, dimensions)
        if as_text:
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "embedding": vector, "index": index})
    tokens = 0 if plan.cache_source is not None else plan.prompt_tokens
    body = msgspec.json.encode(
        {
            "object": "list",
            "data": data,
            "model": plan.behaviour.model or plan.model.wire_name or plan.served_model,
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "cost": msgspec.Raw(plan.charge(0).total.encode()),
                "is_byok": plan.behaviour.byok is not None,
            },
            "provider": plan.provider,
            "id": plan.generation_id,
        }
    )
    telling = Telling(frames=[Frame(body, 0)], tokens=0, finish_reason=None, native_finish_reason=None)
    return cut_whole(body, telling, plan.behaviour.end) if plan.behaviour.end in UNFINISHED else telling
