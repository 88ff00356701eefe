"""What a request's body asks for (API.md section 3): models, routing, tools, parameters; never a word of content."""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from openrouter_audit.capture.json_text import (
    NULL,
    Text,
    boolean,
    clean,
    integer,
    items,
    members,
    number,
    pairs,
    parse,
    scan,
    text,
    words,
)
from openrouter_audit.core.entries import Parameters, ProviderPreferences

MAX_MODELS = 16
MAX_TOOLS = 64
MAX_PLUGINS = 16
MAX_PERSON = 1024
"""Longest user or session id kept; OpenRouter's own limits are 512 and 256."""
LARGE_BYTES = 1024 * 1024
MAX_COMMAS = 512 * 1024
"""A large body with more of them may be a list of as many members, each an object of its own to us: it is scanned."""
MAX_PAIRS = 16
MAX_NAME = 64
MAX_VALUE = 512
"""Of `metadata`, and so of `trace`: OpenRouter's own limits for pairs, characters of a name and characters of a value."""
MAX_RESULT_BYTES = 2 * 1024
"""What ids of answered tool calls may take of an entry, beside everything else at its longest."""
MAX_LOOKED_AT = 256
"""Messages looked at from the end."""
END_BYTES = 128
SMALL_BYTES = 8 * 1024
"""Up to here two looks through the body cost less than its messages one by one."""
_RESULT_MARKS = (b'"tool_call_id"', b'"tool_result"', b'call_output"')
_RESULT_ITEMS = frozenset({"function_call_output", "custom_tool_call_output"})
_worth_reading = re.compile(rb'"(?:assistant|tool|\w*call_output)"').search
_has_list = re.compile(rb'"content":\s?\[').search
_Person = Annotated[str, Meta(max_length=MAX_PERSON)]


class _Body(Struct, gc=False):
    model: Text | None = None
    models: Raw = NULL
    fallbacks: Raw = NULL
    provider: Raw = NULL
    stream: bool | None = None
    messages: list[Raw] | None = None
    input: Raw = NULL
    tools: Raw = NULL
    plugins: Raw = NULL
    user: _Person | None = None
    session_id: _Person | None = None
    metadata: Raw = NULL
    trace: Raw = NULL
    safety_identifier: _Person | None = None
    max_completion_tokens: Raw = NULL
    max_tokens: Raw = NULL
    max_output_tokens: Raw = NULL
    temperature: Raw = NULL
    top_p: Raw = NULL
    seed: Raw = NULL
    reasoning: Raw = NULL
    reasoning_effort: Raw = NULL
    service_tier: Raw = NULL
    response_format: Raw = NULL
    text: Raw = NULL
    tool_choice: Raw = NULL


class _Provider(Struct, gc=False):
    order: Raw = NULL
    only: Raw = NULL
    ignore: Raw = NULL
    allow_fallbacks: Raw = NULL
    require_parameters: Raw = NULL
    data_collection: Raw = NULL
    zdr: Raw = NULL
    sort: Raw = NULL


class _Named(Struct, gc=False):
    """Tools, plugins, formats, choices: objects of which only the name is wanted."""

    id: Raw = NULL
    type: Raw = NULL
    name: Raw = NULL
    function: Raw = NULL
    format: Raw = NULL
    effort: Raw = NULL
    model: Raw = NULL
    user_id: Raw = NULL


class _Message(Struct, gc=False):
    role: Text | None = None
    type: Text | None = None
    tool_call_id: Text | None = None
    call_id: Text | None = None
    tool_use_id: Text | None = None
    content: Raw = NULL


class RequestFacts(Struct):
    """Fields of `CallIntent` by name, and who the body says is asking."""

    fields: dict[str, Any] = {}
    user: str | None = None
    session: str | None = None
    claims: dict[str, Any] = {}
    """Fields of `Claimed` by name, beside these two."""


def read_request(body: bytes) -> RequestFacts:
    """Facts of a JSON body; of any other, none."""
    if body[:1] != b"{" and body[:64].lstrip()[:1] != b"{":
        return RequestFacts()
    if len(body) > LARGE_BYTES and body.count(b",") > MAX_COMMAS:
        return _scanned(body)
    parsed = parse(_Body, body)
    if parsed is None:
        return _scanned(body)
    facts: dict[str, Any] = {"model": parsed.model, "stream": parsed.stream}
    if parsed.models is not NULL or parsed.fallbacks is not NULL:
        _add_models(facts, parsed)
    if parsed.provider is not NULL:
        facts["provider"] = _preferences(parsed.provider)
    if parsed.messages is not None:
        _add_messages(facts, parsed.messages, body)
    elif parsed.input is not NULL and (messages := items(parsed.input)):
        _add_messages(facts, messages, body)
    if parsed.tools is not NULL:
        tools = items(parsed.tools)
        facts["tools"] = tuple(name for name in map(_tool_name, tools[:MAX_TOOLS]) if name)
        facts["tool_count"] = len(tools)
    if parsed.plugins is not NULL:
        named = (members(_Named, plugin) for plugin in items(parsed.plugins)[:MAX_PLUGINS])
        facts["plugins"] = tuple(name for plugin in named if plugin and (name := text(plugin.id)))
    facts["parameters"] = _parameters(parsed)
    if parsed.metadata is NULL and parsed.trace is NULL and parsed.safety_identifier is None:
        return RequestFacts(facts, parsed.user, parsed.session_id)
    return _with_claims(facts, parsed)


def _with_claims(facts: dict[str, Any], parsed: _Body) -> RequestFacts:
    user, claims = parsed.user, dict[str, Any]()
    if parsed.metadata is not NULL:
        metadata = _free_words(parsed.metadata)
        if user is None and (named := members(_Named, parsed.metadata)):
            # Messages' place for a user; told once, as the user.
            user = text(named.user_id, MAX_PERSON)
            metadata.pop("user_id", None)
        if metadata:
            claims["metadata"] = metadata
    if parsed.trace is not NULL and (trace := _free_words(parsed.trace)):
        claims["trace"] = trace
    if parsed.safety_identifier is not None:
        claims["safety_identifier"] = parsed.safety_identifier
    return RequestFacts(facts, user, parsed.session_id, claims)


def _free_words(value: Any) -> dict[str, str]:
    """The pairs of an object whose values are text, the first of them, cut."""
    found: dict[str, str] = {}
    for name, each in pairs(value).items():
        word = text(each, MAX_VALUE)
        if word is not None:
            found[clean(name, MAX_NAME)] = word
            if len(found) == MAX_PAIRS:
                break
    return found


def _scanned(body: bytes) -> RequestFacts:
    facts = {"model": text(scan(body, b"model")), "stream": boolean(scan(body, b"stream"))}
    return RequestFacts(facts, text(scan(body, b"user"), MAX_PERSON), text(scan(body, b"session_id"), MAX_PERSON))


def _add_models(facts: dict[str, Any], parsed: _Body) -> None:
    asked = items(parsed.models) + [
        named.model for named in (members(_Named, fallback) for fallback in items(parsed.fallbacks)) if named
    ]
    facts["models"] = tuple(model for model in map(text, asked[:MAX_MODELS]) if model)
    if len(asked) > MAX_MODELS:
        facts["model_count"] = len(asked)


def _add_messages(facts: dict[str, Any], messages: list[Any], body: bytes) -> None:
    """
    How many, and the tool calls that those after the assistant's last one answer.

    Read from the end: the history before it repeats what earlier calls have told. Bytes are looked at before anything is
    parsed, and of a long message its ends, where the names of its members stand; so a request without results pays little.
    """
    facts["message_count"] = len(messages)
    if len(body) <= SMALL_BYTES and not any(mark in body for mark in _RESULT_MARKS):
        return
    found, blocks = list[str](), None
    for message in reversed(messages[-MAX_LOOKED_AT:]):
        if isinstance(message, Raw):
            ends = _ends_of(message)
            if not _worth_reading(ends):
                if not _has_list(ends):
                    continue
                if blocks is None:
                    blocks = b'"tool_result"' in body  # once: a picture makes a message of megabytes
                if not blocks:
                    continue
        answered = _answered(message)
        if answered is None:
            break
        found += answered
    if found:
        found.reverse()
        kept, room = list[str](), MAX_RESULT_BYTES
        for identifier in found[:MAX_TOOLS]:
            room -= len(identifier) + 3
            if room < 0:
                break
            kept.append(identifier)
        facts["tool_results"] = tuple(kept)
        if len(found) > len(kept):
            facts["tool_result_count"] = len(found)


def _ends_of(message: Raw) -> bytes:
    view = memoryview(message)
    return bytes(view) if len(view) <= 2 * END_BYTES else bytes(view[:END_BYTES]) + bytes(view[-END_BYTES:])


def _answered(message: Any) -> list[str] | None:
    """Ids of the tool calls that one message or input item answers, the last first; None for one of the assistant."""
    named = members(_Message, message)
    if named is None:
        return []
    if named.role == "assistant":
        return None
    answer = named.tool_call_id if named.role == "tool" else named.call_id if named.type in _RESULT_ITEMS else None
    if answer:
        return [answer]
    parts = (members(_Message, part) for part in items(named.content))
    return [part.tool_use_id for part in parts if part and part.type == "tool_result" and part.tool_use_id][::-1]


def _preferences(value: Any) -> ProviderPreferences | None:
    provider = members(_Provider, value)
    if provider is None:
        return None
    sort = text(provider.sort)
    return ProviderPreferences(
        order=words(provider.order, MAX_MODELS),
        only=words(provider.only, MAX_MODELS),
        ignore=words(provider.ignore, MAX_MODELS),
        allow_fallbacks=boolean(provider.allow_fallbacks),
        require_parameters=boolean(provider.require_parameters),
        data_collection=text(provider.data_collection),
        zdr=boolean(provider.zdr),
        sort=sort,
    )


def _tool_name(value: Any) -> str | None:
    tool = members(_Named, value)
    if tool is None:
        return None
    function = members(_Named, tool.function)
    return (text(function.name) if function else None) or text(tool.name) or text(tool.type)


def _kind(value: Any) -> str | None:
    """The word itself, or the `type` of an object."""
    named = members(_Named, value)
    return text(named.type) if named else text(value)


def _parameters(body: _Body) -> Parameters | None:
    given: dict[str, Any] = {}
    for limit in (body.max_completion_tokens, body.max_tokens, body.max_output_tokens):
        if limit is not NULL and (whole := integer(limit)) is not None:
            given["max_tokens"] = whole
            break
    for name, value in (("temperature", body.temperature), ("top_p", body.top_p), ("seed", body.seed)):
        if value is not NULL:
            given[name] = number(value)
    effort = body.reasoning_effort
    if body.reasoning is not NULL and (reasoning := members(_Named, body.reasoning)):
        effort = reasoning.effort
    if effort is not NULL:
        given["reasoning_effort"] = text(effort)
    if body.service_tier is not NULL:
        given["service_tier"] = text(body.service_tier)
    answer_format = body.response_format
    if body.text is not NULL and (named := members(_Named, body.text)):
        answer_format = named.format
    if answer_format is not NULL:
        given["response_format"] = _kind(answer_format)
    if body.tool_choice is not NULL:
        given["tool_choice"] = _kind(body.tool_choice)
    return Parameters(**given) if given else None
