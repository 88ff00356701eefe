"""Anthropic's interface, /messages: its shapes, its endings, its errors, and what the books and records know of it."""

import http.client
import json

import anthropic
import pytest
from tests.testing.asking import KEY
from tests.testing.test_shapes import example, example_events, members

MODEL = "anthropic/claude-sonnet-4.6"
MESSAGES = [{"role": "user", "content": "Which invoice is overdue?"}]
TOOLS = [
    {"name": "find_invoice", "input_schema": {"type": "object"}},
    {"name": "send_mail", "input_schema": {"type": "object"}},
]


@pytest.fixture
def ask(asker):
    """Send one message and give the reply."""

    def send(emulator="", *, headers=(), **more):
        body = {"model": MODEL, "max_tokens": 256, "messages": MESSAGES, **more}
        return asker.post("/messages", body, emulator=emulator, **dict(headers))

    return send


@pytest.fixture
def client(fake):
    with anthropic.Anthropic(base_url=fake.url.removesuffix("/v1"), api_key=KEY, max_retries=0) as made:
        yield made


def types(events):
    return [event if event == "[DONE]" else event["type"] for event in events]


def spoken(events):
    deltas = [event["delta"] for event in events if event != "[DONE]" and event["type"] == "content_block_delta"]
    return [delta["text"] for delta in deltas if delta["type"] == "text_delta"]


# Shapes -----------------------------------------------------------------------------------------------------------


def test_a_message_has_the_members_of_the_recorded_one(ask):
    assert members(example("messages/nonstream.json")) == members(ask().json)


def test_a_stream_has_the_events_of_the_recorded_one(ask):
    """
    Each event by its name before it and in it, in the recorded order, the routing metadata with the last one; the recorded
    `[DONE]` after it is sent on demand.
    """
    headers = {"X_OpenRouter_Metadata": "enabled"}
    reply = ask("tokens=2;end=extra_done", headers=headers, stream=True)
    expected = example_events("messages/stream.sse")

    assert "[DONE]" == reply.events[-1]
    assert reply.raw.endswith(b"event: data\ndata: [DONE]\n\n")
    assert types(expected) == types(reply.events[:-1])
    for theirs, ours in zip(expected, reply.events, strict=False):
        assert members(theirs) == members(ours)
    names = [line[7:] for line in reply.raw.decode().splitlines() if line.startswith("event: ")]
    assert [*types(expected), "data"] == names
    assert "message_stop" == ask("tokens=2", stream=True).events[-1]["type"]


def test_a_stream_that_calls_a_tool_has_the_events_of_the_example(ask):
    expected = example_events("messages/stream_tool_use.sse")
    told = [event for event in ask("tools=find_invoice", stream=True).events if event["type"] != "ping"]
    assert members(expected[0]) == members(told[0])
    assert members(expected[1]) == members(told[1])
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert {"type": "input_json_delta", "partial_json": ""} == deltas[0]
    assert {"customer": "8841"} == json.loads("".join(delta["partial_json"] for delta in deltas))
    assert "tool_use" == told[-2]["delta"]["stop_reason"]


@pytest.mark.parametrize(
    ("shape", "at_first", "in_the_end"), [("a", (0, 0), True), ("b", (10, 1), True), ("c", (10, 1), False)]
)
def test_the_prompt_is_counted_in_the_end_at_first_too_or_at_first_alone(ask, shape, at_first, in_the_end):
    start, *_, delta, _ = ask(f"tokens=3;usage_shape={shape}", stream=True).events
    usage = start["message"]["usage"]
    assert at_first == (usage["input_tokens"], usage["output_tokens"])
    assert in_the_end == ("input_tokens" in delta["usage"])
    assert 3 == delta["usage"]["output_tokens"]
    assert {"cost", "is_byok", "cost_details"} <= set(delta["usage"])


ERRORS = {
    "messages_401": "401_missing_header",
    "messages_402": "402_no_credits",
    "messages_429": "429_upstream",
    "messages_529": "529_overloaded",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_come_in_anthropics_envelope(ask, name):
    """
    Type and error type of the examples; what other interfaces have in the error's metadata stands beside the error.
    """
    expected, reply = example(f"errors/{name}.json"), ask(f"error={ERRORS[name]}")
    told = reply.json
    assert int(name[-3:]) == reply.status
    assert members(expected) <= members(told)
    for word in ("type", "error_type"):
        assert expected["error"][word] == told["error"][word]
    assert (expected["request_id"] is None) == (told["request_id"] is None) == ("x-generation-id" not in reply.headers)
    assert told["request_id"] == reply.headers.get("x-generation-id")


def test_every_refusal_is_in_the_envelope_but_the_edges(ask, asker, fake):
    """
    No key, no JSON, no prompt, a misspelt switch; the edge's text and the stranger's envelope stay what they are.
    """
    refused = [
        asker.post("/messages", {"messages": MESSAGES}, key=None),
        asker.post("/messages", b"{"),
        asker.post("/messages", {"model": MODEL}),
        ask("coast=1"),
    ]
    assert [401, 400, 400, 400] == [reply.status for reply in refused]
    assert {"error"} == {reply.json["type"] for reply in refused}
    assert [None] * 4 == [row["billed"] for row in fake.calls()]
    assert {"raw", "provider_name", "previous_errors"} == set(ask("status=502").json["metadata"])
    assert b"error code: 524\n" == ask("error=524_cloudflare").raw
    assert "ZodError" == ask("error=400_zod").json["error"]["name"]
    fake.script([{"status": 529, "error": {"type": "overloaded_error", "message": "Overloaded"}}])
    told = ask().json["error"]
    assert ("overloaded_error", "Overloaded") == (told["type"], told["message"])


def test_router_metadata_stands_beside_an_error(ask, asker):
    headers = {"X_OpenRouter_Metadata": "enabled"}
    told = ask("error=429_upstream", headers=headers).json
    assert [{"provider": "Z.AI", "model": MODEL, "status": 429}] == told["openrouter_metadata"]["attempts"]
    assert 0 == ask("error=402_no_credits", headers=headers).json["openrouter_metadata"]["attempt"]
    assert "openrouter_metadata" not in ask("status=500", headers=headers).json
    assert "openrouter_metadata" not in ask("error=429_upstream").json
    assert "openrouter_metadata" in ask(headers={"X_OpenRouter_Experimental_Metadata": "enabled"}).json


# Endings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "last", "tokens"),
    [
        ("end=done", ["message_delta", "message_stop"], 6),
        ("end=extra_done", ["message_stop", "[DONE]"], 6),
        ("end=no_done", ["content_block_stop", "message_delta"], 6),
        ("end=native_error", ["message_delta", "message_stop"], 6),
        ("end=cut_boundary", ["content_block_delta", "content_block_delta"], 3),
        ("end=error_first", ["error"], None),
        ("end=error_mid", ["content_block_delta", "error"], 3),
        ("end=choice_error", ["content_block_delta", "error"], 3),
        ("end=error_usage", ["message_delta", "error"], 3),
    ],
)
def test_ends_of_messages(ask, fake, switches, last, tokens):
    events = ask(f"tokens=6;{switches}", stream=True).events
    assert last == types(events)[-2:]
    assert (tokens or 0) == len(spoken(events))
    assert tokens == fake.calls()[0]["completion_tokens"]


def test_a_frame_is_cut_in_its_middle(ask, fake):
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask("tokens=6;end=cut_frame", stream=True)
    assert not caught.value.partial.endswith(b"\n\n")
    assert 3 == fake.calls()[0]["completion_tokens"]


def test_errors_of_a_stream_name_themselves(ask):
    told = ask("end=error_mid;error=529_overloaded", stream=True).events[-1]
    assert ("overloaded_error", "provider_overloaded") == (told["error"]["type"], told["error"]["error_type"])
    assert "server_error" == ask("end=error_mid;error_code=server_error", stream=True).events[-1]["error"]["type"]


def test_what_costs_nothing_says_so_before_its_error(ask, fake):
    events = ask("tokens=6;end=error_usage", stream=True).events
    assert 0 == events[-2]["usage"]["cost"]
    assert "0" == fake.calls()[0]["billed"]


@pytest.mark.parametrize("end", ["error_first", "error_mid", "error_usage", "choice_error"])
def test_a_body_that_is_no_stream_is_an_error_in_a_200(ask, fake, end):
    reply = ask(f"end={end};error=529_overloaded")
    assert (200, "error", "overloaded_error") == (reply.status, reply.json["type"], reply.json["error"]["type"])
    assert fake.calls()[0]["billed"] is None
    in_200 = ask("status=200;error=529_overloaded", stream=True)
    assert (200, "error", "application/json") == (in_200.status, in_200.json["type"], in_200.headers["content-type"])


@pytest.mark.parametrize("end", ["cut_frame", "cut_boundary"])
def test_whole_messages_can_be_cut_too(ask, end):
    with pytest.raises(http.client.IncompleteRead):
        ask(f"end={end}")


def test_the_only_word_there_is_tells_of_a_native_error(ask):
    assert "error" == ask("end=native_error").json["stop_reason"]
    assert "error" == ask("end=native_error", stream=True).events[-2]["delta"]["stop_reason"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("content_filter", "refusal")],
)
def test_finish_reasons_in_anthropics_words(ask, asked, told):
    assert told == ask(f"finish_reason={asked}").json["stop_reason"]


# Books ------------------------------------------------------------------------------------------------------------


def test_books_and_records_know_a_message_as_they_know_a_chat(ask, asker, fake):
    """
    Tokens, cost digit for digit, model and provider, and the user whom `metadata` names.
    """
    sent = ask("cost=0.0076509169000000005;provider=Amazon Bedrock", metadata={"user_id": "customer-8841"})
    streamed = ask("cost=1e-7", stream=True)
    record = asker.record(sent.json["id"])
    first, second = fake.calls()

    assert b'"cost":0.0076509169000000005,' in sent.raw
    assert b'"cost":1e-7,' in streamed.raw
    assert ("0.0076509169000000005", "1e-7") == (first["billed"], second["billed"])
    assert sent.json["usage"]["output_tokens"] == first["completion_tokens"]
    data = record.json["data"]
    assert ("completions", "customer-8841", "Amazon Bedrock") == (
        data["api_type"],
        data["external_user"],
        data["provider_name"],
    )
    assert b'"total_cost":0.0076509169000000005,' in record.raw
    assert streamed.events[0]["message"]["id"] == second["generation_id"]
    assert asker.record(second["generation_id"]).json["data"]["streamed"]


def test_a_key_in_anthropics_own_header_is_a_key(asker, fake):
    reply = asker.post("/messages", {"model": MODEL, "messages": MESSAGES}, key=None, x_api_key=KEY)
    asker.post("/messages", {"model": MODEL, "messages": MESSAGES})
    assert 200 == reply.status
    assert 1 == len({row["key_hash"] for row in fake.calls()})


def test_byok_cache_and_gzip_hold_here_too(ask, fake):
    usage = ask("byok=free").json["usage"]
    assert usage["is_byok"]
    assert 0 == usage["cost"] < usage["cost_details"]["upstream_inference_cost"]
    assert ["MISS", "HIT"] == [ask("cache=auto", stream=True).headers["x-openrouter-cache-status"] for _ in range(2)]
    assert (0, "0") == (fake.calls()[2]["completion_tokens"], fake.calls()[2]["billed"])
    assert "gzip" == ask("gzip=1;chunk=5", stream=True).headers["content-encoding"]


# The SDK ----------------------------------------------------------------------------------------------------------


def test_the_sdk_takes_it_plain_and_streamed(client, fake):
    plain = client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES)
    events = list(client.messages.create(model=MODEL, max_tokens=256, messages=MESSAGES, stream=True))
    with client.messages.stream(model=MODEL, max_tokens=256, messages=MESSAGES) as stream:
        text, final = "".join(stream.text_stream), stream.get_final_message()

    assert plain.content[0].text
    assert "message_stop" == events[-1].type
    assert text == final.content[0].text
    assert [plain.id, events[0].message.id, final.id] == [row["generation_id"] for row in fake.calls()]
    assert [plain.usage.output_tokens, events[-2].usage.output_tokens, final.usage.output_tokens] == [
        row["completion_tokens"] for row in fake.calls()
    ]


def test_the_sdk_takes_calls_of_tools_plain_and_streamed(client):
    asked = {"model": MODEL, "max_tokens": 256, "messages": MESSAGES, "tools": TOOLS}
    asked["extra_headers"] = {"X-Emulator": "tools=2"}
    plain = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()

    for message in (plain, final):
        assert "tool_use" == message.stop_reason
        assert ["find_invoice", "send_mail"] == [block.name for block in message.content]
        assert [{"customer": "8841"}] * 2 == [block.input for block in message.content]
        assert 2 == len({block.id for block in message.content})


def test_the_sdk_raises_its_own_errors(client):
    for status, kind in ((401, anthropic.AuthenticationError), (429, anthropic.RateLimitError)):
        with pytest.raises(kind) as caught:
            client.messages.create(
                model=MODEL, max_tokens=256, messages=MESSAGES, extra_headers={"X-Emulator": f"status={status}"}
            )
        assert "error" == caught.value.body["type"]
