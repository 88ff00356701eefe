"""
A finished call in the words of OpenTelemetry's GenAI conventions, none of which is stable yet: so the version is pinned.

    meaning               1.36             1.41                                        latest
    provider              gen_ai.system    gen_ai.provider.name                        gen_ai.provider.name
    cached input read     -                gen_ai.usage.cache_read.input_tokens        the same
    cached input written  -                gen_ai.usage.cache_creation.input_tokens    gen_ai.usage.cache_write.input_tokens
    reasoning             -                gen_ai.usage.reasoning.output_tokens        the same

Input tokens include cached ones, output tokens include reasoning. The provider is `openrouter`; who served the model stands
under a name of ours, and so does what the call cost: text, digit for digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Schema = Literal["1.36", "1.41", "latest"]
Value = str | int | float | bool | tuple[str, ...]
EVENT_NAME = "gen_ai.client.inference.operation.details"

_OPERATIONS = {"chat": "chat", "responses": "chat", "messages": "chat", "completions": "text_completion"}
"""Where the conventions have a word of their own; the others keep ours, `embeddings` among them."""
_USAGE: Mapping[Schema, tuple[tuple[str, str], ...]] = {
    "1.36": (),
    "1.41": (
        ("cached_tokens", "gen_ai.usage.cache_read.input_tokens"),
        ("cache_write_tokens", "gen_ai.usage.cache_creation.input_tokens"),
        ("reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"),
    ),
    "latest": (
        ("cached_tokens", "gen_ai.usage.cache_read.input_tokens"),
        ("cache_write_tokens", "gen_ai.usage.cache_write.input_tokens"),
        ("reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"),
    ),
}
_HTTPS_PORT = 443


class _Parameters(Struct, frozen=True, gc=False):
    max_tokens: int | None = None
    temperature: str | None = None
    top_p: str | None = None


class Intent(Struct, frozen=True, gc=False, tag_field="kind", tag="call.intent"):
    """What is read of an intent. Fields and words that a later recorder adds are read over."""

    id: str
    at_us: int
    group: str | None = None
    attempt: int | None = None
    endpoint: str | None = None
    method: str | None = None
    host: str | None = None
    model: str | None = None
    models: tuple[str, ...] = ()
    parameters: _Parameters | None = None
    subject: str | None = None


class Outcome(Struct, frozen=True, gc=False, tag_field="kind", tag="call.outcome"):
    id: str
    at_us: int
    status: str
    http_status: int | None = None
    error_code: str | None = None
    error_type: str | None = None
    generation_id: str | None = None
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cost: str | None = None
    last_byte_us: int | None = None


class Call(Struct, frozen=True, kw_only=True):
    """A finished call as it is told; its text shows nobody."""

    intent: Intent
    """A made-up one, of the outcome's id and time alone, where the real one was too long ago."""
    outcome: Outcome
    index: int
    """Place of the outcome in the log."""
    leaf_hash: bytes
    origin: str
    trace_id: str | None = None
    parent_id: str | None = None
    """Of the span in which the call was made; 32 and 16 hex digits."""
    user: str | None = None
    session: str | None = None

    def __repr__(self) -> str:
        return f"Call({self.outcome.id}, {self.outcome.status})"

    @property
    def model(self) -> str | None:
        intent = self.intent
        return intent.model if intent.model is not None else intent.models[0] if intent.models else None

    @property
    def operation(self) -> str:
        endpoint = self.intent.endpoint or "unclassified"
        return _OPERATIONS.get(endpoint, endpoint)

    @property
    def name(self) -> str:
        """Of the span: operation and model."""
        return f"{self.operation} {self.model}" if self.model else self.operation

    @property
    def failure(self) -> str | None:
        """`error.type`; None for a success."""
        outcome = self.outcome
        if outcome.status == "success":
            return None
        if outcome.status == "error":
            return outcome.error_type or outcome.error_code or "error"
        return outcome.status

    @property
    def ended_us(self) -> int:
        """UTC, microseconds: as long after the start as the monotonic clock said. An unknown end is the start."""
        if self.outcome.last_byte_us is not None:
            return self.intent.at_us + self.outcome.last_byte_us
        return self.intent.at_us if self.outcome.status == "unknown" else max(self.intent.at_us, self.outcome.at_us)


def attributes_of(call: Call, schema: Schema) -> dict[str, Value]:
    """Attributes of the span, and of the log record."""
    intent, outcome, parameters = call.intent, call.outcome, call.intent.parameters or _Parameters()
    host, port = _host_and_port(intent.host)
    said: dict[str, Value | None] = {
        "gen_ai.operation.name": call.operation,
        "gen_ai.system" if schema == "1.36" else "gen_ai.provider.name": "openrouter",
        "gen_ai.request.model": call.model,
        "gen_ai.request.max_tokens": parameters.max_tokens,
        "gen_ai.request.temperature": _float(parameters.temperature),
        "gen_ai.request.top_p": _float(parameters.top_p),
        "gen_ai.response.model": outcome.model,
        "gen_ai.response.id": outcome.generation_id,
        "gen_ai.response.finish_reasons": (outcome.finish_reason,) if outcome.finish_reason else None,
        "gen_ai.usage.input_tokens": outcome.prompt_tokens,
        "gen_ai.usage.output_tokens": outcome.completion_tokens,
        "gen_ai.conversation.id": call.session,
        "user.id": call.user,
        "server.address": host,
        "server.port": port,
        "http.request.method": intent.method,
        "http.response.status_code": outcome.http_status,
        "error.type": call.failure,
        "openrouter.provider.name": outcome.provider,
        "openrouter.cost.credits": outcome.cost,
        "openrouter_audit.entry.id": outcome.id,
        "openrouter_audit.status": outcome.status,
        "openrouter_audit.attempt": intent.attempt,
        "openrouter_audit.log.index": call.index,
        "openrouter_audit.log.origin": call.origin,
        "openrouter_audit.leaf.hash": call.leaf_hash.hex(),
    }
    said |= {name: getattr(outcome, field) for field, name in _USAGE[schema]}
    return {name: value for name, value in said.items() if value is not None}


def _host_and_port(authority: str | None) -> tuple[str | None, int | None]:
    if authority is None:
        return None, None
    host, colon, port = authority.rpartition(":")
    if colon and port.isdigit() and not host.endswith(":"):
        return host.strip("[]"), int(port)
    return authority.strip("[]"), _HTTPS_PORT


def _float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
