"""
What an answer says: read from a whole body, or from the few events of a stream that are worth reading.

All shapes of API.md sections 6, 7, 9 and 11 come down to the same names: `usage` with chat's or Responses' words for
tokens, an `error` member that may be an object, a word or an envelope, finish reasons in choices, in a status or in
`stop_reason`. What comes later replaces what came before, except the identity of the generation, which is that of the
first event. Nothing here decides how a call ended; `exchange` does.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Raw, Struct

from openrouter_audit.capture.json_text import (
    NULL,
    Text,
    Whole,
    integer,
    items,
    members,
    number,
    parse,
    present,
    scan,
    text,
)
from openrouter_audit.capture.tool_calls import ToolCalls
from openrouter_audit.core.entries import RouterAttempt

MAX_ATTEMPTS = 16
_STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Anthropic's words in chat's (the raw one stays in `native_finish_reason`)."""
_STATUSES = {"completed": "stop", "incomplete": "length", "failed": "error"}
"""Responses' status in chat's words (C6: incomplete is `length`)."""
_ENVELOPE_TYPES = {
    "authentication_error": "authentication",
    "permission_error": "permission_denied",
    "billing_error": "payment_required",
    "not_found_error": "not_found",
    "rate_limit_error": "rate_limit_exceeded",
    "overloaded_error": "provider_overloaded",
    "timeout_error": "timeout",
    "invalid_request_error": "invalid_request",
    "api_error": "server",
    "ZodError": "invalid_request",
}
"""Messages' error types, and the one of the routes that validate differently, in OpenRouter's list (C6)."""
_NOT_GENERATIONS = frozenset({"batches", "files", "data", "presets"})
"""Endpoints whose body `id` is that of something else."""
_ENDING_TYPES = frozenset({"response.completed", "response.failed", "response.incomplete", "message_stop"})
_ENDED_BY_TYPE = frozenset({"responses", "messages", "unclassified"})
"""Endpoints whose streams end with a typed event; the others end with `[DONE]` (C10)."""
_BAD_REASONS = frozenset({"error", "network_error"})

Source = Literal["http", "body", "choice", "stream", "client"]


class _Details(Struct, gc=False):
    cached_tokens: Whole | None = None
    cache_write_tokens: Whole | None = None
    reasoning_tokens: Whole | None = None
    upstream_inference_cost: Raw = NULL


class _Usage(Struct, gc=False):
    prompt_tokens: Whole | None = None
    completion_tokens: Whole | None = None
    input_tokens: Whole | None = None
    output_tokens: Whole | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    cache_read_input_tokens: Whole | None = None
    cache_creation_input_tokens: Whole | None = None
    cost: Raw = NULL
    is_byok: bool | None = None
    cost_details: _Details | None = None
    service_tier: Text | None = None


class _Said(Struct, gc=False):
    tool_calls: list[Raw] | None = None


class _Choice(Struct, gc=False):
    index: Whole | None = None
    finish_reason: Text | None = None
    native_finish_reason: Text | None = None
    error: Raw = NULL
    message: _Said | None = None
    delta: _Said | None = None


class _Top(Struct, gc=False):
    type: Text | None = None
    object: Text | None = None
    id: Text | None = None
    generation_id: Text | None = None
    request_id: Text | None = None
    model: Text | None = None
    provider: Text | None = None
    status: Text | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Raw = NULL
    error_type: Text | None = None
    code: Raw = NULL
    response: Raw = NULL
    message: Raw = NULL
    delta: Raw = NULL
    stop_reason: Text | None = None
    incomplete_details: Raw = NULL
    service_tier: Text | None = None
    openrouter_metadata: Raw = NULL
    content: Raw = NULL
    content_block: Raw = NULL
    index: Whole | None = None
    item: Raw = NULL
    output: Raw = NULL


class _Error(Struct, gc=False):
    code: Raw = NULL
    type: Raw = NULL
    name: Raw = NULL
    error_type: Raw = NULL
    metadata: Raw = NULL
    reason: Raw = NULL
    stop_reason: Raw = NULL


class _Metadata(Struct, gc=False):
    attempts: Raw = NULL
    provider: Raw = NULL
    model: Raw = NULL
    status: Raw = NULL


class Answer(Struct, eq=False):
    """The facts of one answer so far."""

    _endpoint: str
    facts: dict[str, Any] = {}
    """Fields of `CallOutcome` by name; only those that are known."""
    identified: bool = False
    """The generation has said its id."""
    failed: bool = False
    """There was an error in the body, a choice or the stream."""
    finished: bool = False
    """A finish reason was seen."""
    priced: bool = False
    """Usage was seen."""
    tools_offered: bool = False
    """The request has tools, so a stream is looked through for calls of them."""
    tool_calls: ToolCalls | None = None
    """None where nothing that could be one was seen."""
    error_word: str | None = None
    """The type of an error in a body, which stands for its code where it has none and the HTTP status says nothing."""
    items_added: int = 0
    items_done: int = 0
    """Output items of a Responses stream; all done is the end of an answer that lacks its terminal event."""

    def read_body(self, body: bytes) -> None:
        """A whole body, decoded; may be an `Excerpt`."""
        if body[:1] != b"{" and body[:64].lstrip()[:1] != b"{":
            return
        top = parse(_Top, body)
        if top is None:
            self._scan(body, "body")
        else:
            self._read(top, "body")

    def read_event(self, payload: bytes) -> bool:
        """One event's data; True when it is the last of its stream."""
        if payload == b"[DONE]":
            return True
        if payload[:1] != b"{":
            return False
        top = parse(_Top, payload)
        if top is None:
            self._scan(payload, "stream")
            kind = text(scan(payload, b"type"))
            if kind in _ENDING_TYPES and self._endpoint == "responses":
                self._status(kind.removeprefix("response."), _Top())
        else:
            kind = top.type
            if kind is None:
                self._read(top, "stream")
                return False
            self._read_typed(kind, top)
        return self._endpoint in _ENDED_BY_TYPE and (kind in _ENDING_TYPES or kind == "error")

    def judge_reasons(self) -> None:
        """Some providers fail with no error member, by their finish reason alone (API.md section 7)."""
        facts = self.facts
        if not self.failed:
            for name in ("native_finish_reason", "finish_reason"):
                if facts.get(name) in _BAD_REASONS:
                    self.failed = True
                    facts.setdefault("error_code", facts[name])
                    facts.setdefault("error_source", "choice")
                    return

    def _read_typed(self, kind: str, top: _Top) -> None:
        match kind:
            case "response.output_item.added":
                self.items_added += 1
            case "response.output_item.done":
                self.items_done += 1
                if self.tools_offered:
                    self._tools().take_item(self.items_done, top.item)
            case "content_block_start" if self.tools_offered:
                self._tools().take_block(top.index or 0, top.content_block)
            case "content_block_delta" if self.tools_offered:
                self._tools().take_fragment(top.index or 0, top.delta)
            case "message_start":
                inner = members(_Top, top.message)
                if inner is not None:
                    self._read(inner, "stream")
                    self._take_back_placeholders()
            case "message_delta":
                delta = members(_Error, top.delta)
                if delta is not None:
                    self._stop_reason(text(delta.stop_reason))
                if top.usage is not None:
                    self._usage(top.usage)
            case "error" if not present(top.error):
                # Responses' own error event has code and message beside its type.
                self._failed("stream", text(top.code) or number(top.code), top.error_type)
            case "image_generation.completed":
                self.finished = True
                self._read(top, "stream")
            case _:
                inner = members(_Top, top.response)
                self._read(inner or top, "stream")
                if inner is not None and top.error_type and self.failed:
                    self.facts["error_type"] = top.error_type
                if inner is not None and present(top.openrouter_metadata):
                    self._metadata(top.openrouter_metadata)

    def _read(self, top: _Top, source: Source) -> None:
        facts = self.facts
        if not self.identified:
            identifier = top.generation_id or top.id
            if identifier and self._endpoint not in _NOT_GENERATIONS:
                facts["generation_id"], facts["generation_source"] = identifier, "body"
                self.identified = True
            if top.model and "model" not in facts:
                facts["model"] = top.model
            if top.provider and "provider" not in facts:
                facts["provider"] = top.provider
        if top.choices is not None:
            for choice in top.choices:
                if choice.finish_reason:
                    facts["finish_reason"], self.finished = choice.finish_reason, True
                if choice.native_finish_reason:
                    facts["native_finish_reason"] = choice.native_finish_reason
                if choice.error is not NULL:
                    self._error(choice.error, "choice")
                said = choice.message or (choice.delta if self.tools_offered else None)  # half of a call is not told
                if said is not None and said.tool_calls:
                    self._tools().take_chat(choice.index or 0, said.tool_calls)
        elif top.stop_reason is not None:
            self._stop_reason(top.stop_reason)
        elif top.status and (self._endpoint == "responses" or top.object == "response"):
            self._status(top.status, top)
        if top.output is not NULL and (self.tool_calls is None or not self.tool_calls.count):
            self._tools().take_items(top.output)  # else the stream has told them one by one
        elif top.content is not NULL:
            self._tools().take_items(top.content)
        if top.usage is not None:
            self._usage(top.usage)
        if top.service_tier:
            facts["service_tier"] = top.service_tier
        if top.openrouter_metadata is not NULL:
            self._metadata(top.openrouter_metadata)
        if top.error is not NULL:
            self._error(top.error, source)
            if self.failed and top.request_id:
                facts["request_id"] = top.request_id

    def _stop_reason(self, word: str | None) -> None:
        if word:
            self.facts["native_finish_reason"] = word
            self.facts["finish_reason"] = _STOP_REASONS.get(word, word)
            self.finished = True

    def _status(self, status: str, top: _Top) -> None:
        """Responses: `in_progress` says nothing yet."""
        reason = _STATUSES.get(status)
        if reason is None:
            return
        details = members(_Error, top.incomplete_details)
        native = text(details.reason) if details else None
        self.facts["finish_reason"] = "content_filter" if native == "content_filter" else reason
        self.facts["native_finish_reason"] = native or status
        self.finished = True

    def _usage(self, usage: _Usage) -> None:
        """Each figure under chat's name, else under that of Responses, else under that of Messages."""
        self.priced = True
        facts = self.facts
        asked = usage.prompt_tokens_details or usage.input_tokens_details
        thought = usage.completion_tokens_details or usage.output_tokens_details
        count = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
        if count is not None:
            facts["prompt_tokens"] = count
        count = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
        if count is not None:
            facts["completion_tokens"] = count
        count = usage.cache_read_input_tokens if asked is None else asked.cached_tokens
        if count is not None:
            facts["cached_tokens"] = count
        count = usage.cache_creation_input_tokens if asked is None else asked.cache_write_tokens
        if count is not None:
            facts["cache_write_tokens"] = count
        if thought is not None and thought.reasoning_tokens is not None:
            facts["reasoning_tokens"] = thought.reasoning_tokens
        if usage.cost is not NULL and (cost := number(usage.cost) or text(usage.cost)) is not None:
            facts["cost"] = cost
        if usage.is_byok is not None:
            facts["is_byok"] = usage.is_byok
        if usage.service_tier:
            facts["service_tier"] = usage.service_tier
        if usage.cost_details is not None and (bill := number(usage.cost_details.upstream_inference_cost)) is not None:
            facts["upstream_cost"] = bill

    def _take_back_placeholders(self) -> None:
        """Messages' first event has usage before there is any: its zeros are no counts, and nothing is billed yet."""
        facts = self.facts
        self.priced = False
        for name in ("cost", "upstream_cost"):
            facts.pop(name, None)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"):
            if facts.get(name) == 0:
                del facts[name]

    def _tools(self) -> ToolCalls:
        if self.tool_calls is None:
            self.tool_calls = ToolCalls()
        return self.tool_calls

    def _metadata(self, value: Any) -> None:
        metadata = members(_Metadata, value)
        if metadata is None:
            return
        tried = (members(_Metadata, attempt) for attempt in items(metadata.attempts)[:MAX_ATTEMPTS])
        attempts = tuple(
            RouterAttempt(provider=text(one.provider), model=text(one.model), status=integer(one.status))
            for one in tried
            if one is not None
        )
        if attempts:
            self.facts["attempts"] = attempts

    def _error(self, value: Any, source: Source) -> None:
        if not present(value):
            return
        error = members(_Error, value)
        if error is None:
            # A sentence: it says that the call failed, and nothing that may be stored.
            self._failed(source, None, None)
            return
        envelope = text(error.type) or text(error.name)
        details = members(_Error, error.metadata)
        if source == "body":
            self.error_word = envelope
        code = text(error.code) or number(error.code) or (text(error.type) if source == "stream" else None)
        kind = (text(details.error_type) if details else None) or text(error.error_type)
        self._failed(source, code, kind or _ENVELOPE_TYPES.get(envelope or ""))

    def _failed(self, source: Source, code: str | None, kind: str | None) -> None:
        facts = self.facts
        if self.failed and source == "choice":
            return  # the error beside the choices says the same with more detail
        self.failed = True
        facts["error_source"] = source
        if code:
            facts["error_code"] = code
        if kind:
            facts["error_type"] = kind

    def _scan(self, body: bytes, source: Source) -> None:
        """Text that is no JSON: damaged, nested too deep, or the two ends of something large."""
        identifiers = (text(scan(body, b"id")), text(scan(body, b"id", last=True)))
        # The content of Messages is JSON, not text that holds JSON: any name may stand in it. Their own members come before
        # it, but for stop reason and usage, and an error says so by its type.
        named = self._endpoint == "messages"
        kind = text(scan(body, b"type")) if named else None
        if kind is not None and kind.startswith("content_block_"):
            return
        found: Any = _Top(
            id=next((one for one in identifiers if one and one.startswith("gen-")), None),
            model=text(scan(body, b"model")),
            provider=text(scan(body, b"provider", last=not named)),
            usage=members(_Usage, scan(body, b"usage", last=True)),
            error=NULL if named and kind != "error" else scan(body, b"error") or NULL,
        )
        if named:
            self._stop_reason(text(scan(body, b"stop_reason", last=True)))
        elif reason := text(scan(body, b"finish_reason", last=True)):
            self.facts["finish_reason"], self.finished = reason, True
        if not named and (reason := text(scan(body, b"native_finish_reason", last=True))):
            self.facts["native_finish_reason"] = reason
        self._read(found, source)
