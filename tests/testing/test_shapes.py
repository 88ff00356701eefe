"""What the emulator sends has the members of the example payloads, by name and kind."""

import json

import pytest
from tests.testing.asking import EXAMPLES, chat_body

from openrouter_audit.testing.emulator import refusals


def example(name):
    return json.loads((EXAMPLES / name).read_text())


def example_events(name):
    lines = (EXAMPLES / name).read_text().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def members(value, where="", *, skip=()):
    """Paths of all members of a JSON value; items of a list share one path."""
    found = set()
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{where}.{name}"
            if path not in skip:
                found |= {path} | members(inner, path, skip=skip)
    elif isinstance(value, list):
        for inner in value:
            found |= members(inner, where + "[]", skip=skip)
    return found


def test_chat_body_has_the_members_of_the_recorded_one(asker):
    assert members(example("chat/nonstream.json")) == members(asker.chat().json)


def test_byok_and_cache_hit_bodies(asker):
    byok = asker.chat("byok=fee;provider=Azure").json
    assert members(example("chat/nonstream_byok.json")) == members(byok)
    assert byok["usage"]["cost"] < byok["usage"]["cost_details"]["upstream_inference_cost"]
    hit = asker.chat("cache=hit")
    assert members(example("chat/nonstream_response_cache_hit.json")) == members(hit.json)
    assert 0 == hit.json["usage"]["cost"] == hit.json["usage"]["prompt_tokens"]
    assert "HIT" == hit.headers["x-openrouter-cache-status"]


def test_tool_calls_body(asker):
    told = asker.chat("finish_reason=tool_calls").json["choices"][0]
    expected = example("chat/nonstream_tool_calls.json")["choices"][0]
    del expected["message"]["reasoning_details"]
    assert members(expected) == members(told)


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("stream", ""),
        ("stream_usage_empty_choices", "usage_shape=b"),
        ("stream_usage_null_finish", "usage_shape=c"),
        ("stream_error_first", "end=error_first"),
        ("stream_error_midway", "end=error_mid"),
    ],
)
def test_chat_stream_chunks(asker, name, switches):
    """First and last chunk, and the chunk that holds the finish reason."""
    told, expected = asker.stream(switches).events, example_events(f"chat/{name}.sse")
    told = [event for event in told if event != "[DONE]"]
    for place in (0, -1):
        assert members(expected[place]) == members(told[place])
    assert any(choice["finish_reason"] for event in told for choice in event["choices"])


def test_error_with_usage_chunk(asker):
    told, expected = asker.stream("end=error_usage").events[-2], example_events("chat/stream_error_with_usage.sse")[-1]
    assert members(expected) - {".choices[].logprobs"} == members(told)
    assert told["choices"][0]["finish_reason"] is None
    assert 0 == told["usage"]["cost"]


def test_choice_error_body(asker):
    told = asker.chat("end=choice_error").json
    assert "error" == told["choices"][0]["finish_reason"]
    assert {"code", "message", "metadata"} == set(told["choices"][0]["error"])


def test_error_in_a_200(asker):
    reply = asker.chat("end=error_first")
    assert 200 == reply.status
    assert example("chat/nonstream_error_in_200.json") == reply.json


def test_responses_body_and_final_event(asker):
    body = {"model": "openai/gpt-oss-20b", "input": "Which invoice?", "metadata": {"ticket": "1"}}
    expected = example("responses/nonstream.json")
    del expected["output"][0]  # reasoning: the emulator's models do not think
    assert members(expected) == members(asker.post("/responses", body).json)
    events = asker.post("/responses", {**body, "stream": True}).events
    known = {event["type"]: event for event in example_events("responses/stream.sse")}
    for event in events[:-1]:
        skip = (".response.output", ".item.summary", ".item.content")
        assert members(known[event["type"]], skip=skip) - members(event, skip=skip) <= {".item.summary"}


def test_router_metadata_on_request(asker):
    reply = asker.post("/chat/completions", chat_body(), X_OpenRouter_Metadata="enabled", emulator="provider=Azure")
    told, expected = (
        reply.json["openrouter_metadata"],
        example("chat/nonstream_router_metadata.json")["openrouter_metadata"],
    )
    assert set(expected) == set(told)
    assert [429, 200] == [attempt["status"] for attempt in told["attempts"]]


def test_embeddings_and_completions_bodies(asker):
    told = asker.post("/embeddings", example("requests/embeddings.json")).json
    assert members(example("embeddings/response.json")) == members(told)
    told = asker.post("/completions", {"model": "openai/gpt-3.5-turbo-instruct", "prompt": "Paris is"}).json
    assert members(example("completions/nonstream.json")) == members(told)


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        ("chat", ""),
        ("byok", "byok=fee;provider=Azure"),
        ("cache_hit", "cache=hit"),
        ("stream_fallback", "provider=Azure"),
    ],
)
def test_generation_records(asker, name, switches):
    sent = asker.chat(switches)
    told = asker.record(sent.json["id"]).json
    assert members(example(f"generation/{name}.json")) == members(told)


def test_key_credits_and_models(asker):
    asker.chat()
    assert members(example("reconcile/key.json")) == members(asker.get("/key").json)
    assert members(example("reconcile/credits.json")) == members(asker.get("/credits").json)
    left = members(example("reconcile/models.json")) - members(asker.get("/models").json)
    assert left <= {f".data[].pricing.{name}" for name in ("web_search", "input_cache_read", "input_cache_write")}


ERRORS = sorted(
    path for path in (EXAMPLES / "errors").iterdir() if not path.stem.startswith(("messages_", "402_batch"))
)


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_error_bodies_are_those_of_the_examples(asker, path):
    """Body, status and the headers that clients act upon, each error by its name."""
    entry = next(entry for entry in example("manifest.json")["examples"] if entry["file"] == f"errors/{path.name}")
    reply = asker.chat(f"error={path.stem}")

    assert entry["status"] == reply.status
    assert (path.read_text() if path.suffix == ".txt" else example(f"errors/{path.name}")) == (
        reply.raw.decode() if path.suffix == ".txt" else reply.json
    )
    for name in ("x-generation-id", "retry-after", "x-ratelimit-limit"):
        assert (name in entry["headers"]) == (name in reply.headers), name
    assert 404 == asker.record(reply.headers.get("x-generation-id", "gen-none")).status


def test_every_named_error_has_its_status():
    for name in refusals.NAMES:
        assert name.startswith(str(refusals.refusal(name).status))
