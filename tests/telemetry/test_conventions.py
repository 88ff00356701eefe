"""The names, version by version, and the values where a call says little."""

import pytest

from openrouter_audit.telemetry.conventions import Call, Intent, Outcome, _Parameters, attributes_of

FULL = Call(
    intent=Intent(
        id="ab" * 16, at_us=1_795_478_400_123_000, group="cd" * 16, attempt=2, endpoint="chat", method="POST",
        host="openrouter.ai", model="openai/gpt-4.1", subject="ef" * 16,
        parameters=_Parameters(max_tokens=50, temperature="0.7", top_p="1e-1"),
    ),
    outcome=Outcome(
        id="ab" * 16, at_us=1_795_478_402_263_000, status="success", http_status=200, generation_id="gen-abc",
        model="openai/gpt-4.1-2025-04-14", provider="OpenAI", finish_reason="stop", prompt_tokens=100,
        completion_tokens=180, reasoning_tokens=20, cached_tokens=64, cache_write_tokens=3, cost="0.00213",
        last_byte_us=2_140_000,
    ),
    index=123, leaf_hash=bytes(range(32)), origin="audit.example.com/log1",
)  # fmt: skip
COMMON = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "openai/gpt-4.1",
    "gen_ai.request.max_tokens": 50,
    "gen_ai.request.temperature": 0.7,
    "gen_ai.request.top_p": 0.1,
    "gen_ai.response.model": "openai/gpt-4.1-2025-04-14",
    "gen_ai.response.id": "gen-abc",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 180,
    "server.address": "openrouter.ai",
    "server.port": 443,
    "http.request.method": "POST",
    "http.response.status_code": 200,
    "openrouter.provider.name": "OpenAI",
    "openrouter.cost.credits": "0.00213",
    "openrouter_audit.entry.id": "ab" * 16,
    "openrouter_audit.status": "success",
    "openrouter_audit.attempt": 2,
    "openrouter_audit.log.index": 123,
    "openrouter_audit.log.origin": "audit.example.com/log1",
    "openrouter_audit.leaf.hash": bytes(range(32)).hex(),
}
PINNED = {
    "1.36": {"gen_ai.system": "openrouter"},
    "1.41": {
        "gen_ai.provider.name": "openrouter",
        "gen_ai.usage.cache_read.input_tokens": 64,
        "gen_ai.usage.cache_creation.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 20,
    },
    "latest": {
        "gen_ai.provider.name": "openrouter",
        "gen_ai.usage.cache_read.input_tokens": 64,
        "gen_ai.usage.cache_write.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 20,
    },
}


@pytest.mark.parametrize("schema", PINNED)
def test_the_names_of_each_version_are_pinned(schema):
    assert COMMON | PINNED[schema] == attributes_of(FULL, schema)
    assert "chat openai/gpt-4.1" == FULL.name
    assert 1_795_478_402_263_000 == FULL.ended_us


def call(status="success", *, host=None, endpoint="chat", **outcome):
    return Call(
        intent=Intent(id="a", at_us=10, endpoint=endpoint, host=host),
        outcome=Outcome(**{"id": "a", "at_us": 50, "status": status} | outcome),
        index=1, leaf_hash=b"", origin="o",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        ("success", {}, None),
        ("error", {"error_type": "rate_limit_exceeded", "error_code": "429"}, "rate_limit_exceeded"),
        ("error", {"error_code": "500"}, "500"),
        ("error", {}, "error"),
        ("timeout", {"error_code": "ReadTimeout"}, "timeout"),
        ("abandoned", {}, "abandoned"),
        ("unknown", {}, "unknown"),
    ],
)
def test_a_call_that_failed_says_how(status, fields, expected):
    assert expected == attributes_of(call(status, **fields), "1.41").get("error.type")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("[::1]", ("::1", 443)),
        ("openrouter.ai", ("openrouter.ai", 443)),
        (None, (None, None)),
    ],
)
def test_hosts_come_apart(host, expected):
    got = attributes_of(call(host=host), "1.41")
    assert expected == (got.get("server.address"), got.get("server.port"))


def test_a_call_that_says_nothing_has_a_name_and_an_end():
    assert ("text_completion", 50) == (call(endpoint="completions").name, call().ended_us)
    assert ("unclassified", 10) == (call(endpoint=None).name, call("unknown").ended_us)
    assert 10 == call(at_us=3).ended_us  # the clock was set back meanwhile
    assert {"user.id", "gen_ai.conversation.id"}.isdisjoint(attributes_of(call(), "1.41"))
