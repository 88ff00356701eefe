"""What answers ask for and what requests bring back, in every shape; and that arguments are in neither."""

import json
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.capture.recording import a_request, answered, begun, example

from openrouter_audit.capture.request_facts import read_request
from openrouter_audit.capture.tool_calls import ToolCalls
from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import MAX_ENTRY_BYTES, CallIntent, CallOutcome, ToolCall
from openrouter_audit.core.vocabulary import admit
from openrouter_audit.journal.plain import plain_values

CHAT, RESPONSES, MESSAGES = "/api/v1/chat/completions", "/api/v1/responses", "/api/v1/messages"
STREAM = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")
OFFERING = b'{"model":"a/b","stream":true,"tools":[{"type":"function","function":{"name":"find_invoice"}}]}'
FIRST = ToolCall(id="toolu_bdrk_01AAA000000000000000", name="find_invoice", argument_bytes=19)


def outcome_of(data, path, header, *, body=OFFERING, size=None):
    """The outcome of an answer, cut into pieces of `size` bytes."""
    exchange, _, _ = begun(a_request(path, body=body))
    exchange.head(200, dict([header]))
    pieces = [data] if size is None else [data[at : at + size] for at in range(0, len(data), size)]
    for piece in pieces:
        if outcome := exchange.body(piece):
            return outcome
    return exchange.end_of_body()


# Answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 7, 100, 4096])
def test_a_chat_stream_names_its_tool_calls(size):
    outcome = outcome_of(example("chat/stream_tool_calls.sse"), CHAT, STREAM, size=size)
    second = ToolCall(id="toolu_bdrk_01BBB000000000000000", name="find_invoice", argument_bytes=19)
    assert ((FIRST, second), None) == (outcome.tool_calls, outcome.tool_call_count)


@pytest.mark.parametrize("size", [None, 1, 50])
def test_a_messages_stream_names_its_tool_calls(size):
    outcome = outcome_of(example("messages/stream_tool_use.sse"), MESSAGES, STREAM, size=size)
    assert (
        ToolCall(id="toolu_bdrk_01CCC000000000000000", name="find_invoice", argument_bytes=19),
    ) == outcome.tool_calls


def test_a_stream_is_looked_through_only_where_tools_were_offered():
    """
    Each look costs, so a request without tools pays for none.
    """
    outcome = outcome_of(example("chat/stream_tool_calls.sse"), CHAT, STREAM, body=b'{"model":"a/b","stream":true}')
    assert () == outcome.tool_calls
    assert "tool_calls" == outcome.finish_reason


def test_whole_answers_name_their_tool_calls():
    outcome = outcome_of(example("chat/nonstream_tool_calls.json"), CHAT, JSON)
    (call,) = outcome.tool_calls
    raw = json.loads(example("chat/nonstream_tool_calls.json"))["choices"][0]["message"]["tool_calls"][0]
    assert (raw["id"], raw["function"]["name"]) == (call.id, call.name)
    assert len(raw["function"]["arguments"].encode()) == call.argument_bytes
    outcome = outcome_of(example("responses/nonstream_tool_call.json"), RESPONSES, JSON)
    expected = ToolCall(id="call_Mr4d4PqjC0i5Iz2zx9tlOSZn", name="find_invoice", argument_bytes=19)
    assert (expected,) == outcome.tool_calls
    body = {"id": "gen-1", "type": "message", "content": [
        {"type": "text", "text": "one moment"},
        {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"a": "ä"}},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
    ]}  # fmt: skip
    outcome = outcome_of(msgspec.json.encode(body), MESSAGES, JSON)
    assert (ToolCall(id="toolu_1", name="find", argument_bytes=10),) == outcome.tool_calls


ITEM = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": '{"a":"\\u00e4"}'}


@pytest.mark.parametrize("told", ["items", "end", "both"])
def test_a_responses_stream_tells_each_call_once(told):
    """
    In an item's event, in the whole answer at the end, or in both.
    """
    events = [{"type": "response.created", "response": {"id": "gen-1", "status": "in_progress", "output": []}}]
    if told != "end":
        events.append({"type": "response.output_item.added", "item": ITEM | {"arguments": ""}})
        events.append({"type": "response.output_item.done", "item": ITEM})
    output = [] if told == "items" else [ITEM]
    events.append({"type": "response.completed", "response": {"id": "gen-1", "status": "completed", "output": output}})
    stream = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    outcome = outcome_of(stream, RESPONSES, STREAM, size=33)
    assert (ToolCall(id="call_1", name="find", argument_bytes=len(ITEM["arguments"])),) == outcome.tool_calls


def chunk(*calls):
    return (
        b"data: %s\n\n"
        % json.dumps({"id": "gen-1", "choices": [{"index": 0, "delta": {"tool_calls": calls}}]}).encode()
    )


@pytest.mark.parametrize("spaced", [True, False])
def test_pieces_go_to_the_call_of_their_index_and_another_id_begins_another(spaced):
    """
    One provider repeats the id, one gives every call the index 0, one interleaves two calls.
    """
    pieces = [
        chunk({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}),
        chunk({"index": 0, "id": "a", "function": {"arguments": "12"}}),
        chunk({"index": 0, "id": "b", "function": {"name": "g", "arguments": "1"}}),
        chunk({"index": 1, "id": "c", "function": {"name": "h", "arguments": "1"}}),
        chunk({"index": 0, "function": {"arguments": "234"}}, {"index": 1, "function": {"arguments": "5"}}),
        b"data: [DONE]\n\n",
    ]
    stream = b"".join(pieces)
    outcome = outcome_of(stream if spaced else stream.replace(b'": ', b'":'), CHAT, STREAM)
    assert [("a", "f", 2), ("b", "g", 4), ("c", "h", 2)] == [
        (call.id, call.name, call.argument_bytes) for call in outcome.tool_calls
    ]


def test_more_calls_than_an_entry_takes_are_counted():
    calls = [{"index": n, "id": f"c{n}", "function": {"name": "f", "arguments": "{}"}} for n in range(100)]
    body = json.dumps({"id": "gen-1", "choices": [{"message": {"tool_calls": calls}}]}).encode()
    outcome = outcome_of(body, CHAT, JSON)
    assert (64, 100) == (len(outcome.tool_calls), outcome.tool_call_count)
    hostile = ToolCalls()
    for n in range(5000):
        hostile._add((0, n), "i" * 256, "n" * 256, 1)
    said = hostile.facts()
    assert 10 == len(said["tool_calls"])
    assert 1024 == said["tool_call_count"] == len(hostile._at)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda each: (
            st.lists(each)
            | st.dictionaries(
                st.sampled_from(["type", "id", "index", "function", "name", "arguments", "input", "call_id"]), each
            )
        ),
        max_leaves=8,
    )
)
def test_tool_calls_of_any_shape_never_stop_a_call(value):
    for body in (
        {"choices": [{"message": {"tool_calls": value}}, {"message": {"tool_calls": [value]}}]},
        {"choices": [{"delta": value}]},
        {"output": value}, {"output": [value]}, {"content": [value]},
        {"type": "content_block_start", "index": value, "content_block": value},
        {"type": "content_block_delta", "delta": value},
        {"type": "response.output_item.done", "item": value},
    ):  # fmt: skip
        for text in (json.dumps(body).encode(), json.dumps(body | {"x": "\ud800"}).encode()):
            outcome_of(text, RESPONSES, JSON)
            outcome_of(b'data: {"id":"gen-1"}\n\ndata: %s\n\n' % text, MESSAGES, STREAM)


def test_the_largest_entries_there_can_be_fit():
    """
    All lists full of their longest words: else a call would become `log.unreadable` for asking too much.
    """
    ids = [f"i{n:03}" + "x" * 124 for n in range(64)]
    calls = ToolCalls()
    for n, identifier in enumerate(ids):
        calls._add((0, n), identifier, "n" * 64, 10**12)
    word, model, provider = "w" * 64, "m" * 128, "p" * 64
    attempt = {"provider": provider, "model": model, "status": 2**53 - 1}
    words = ("error_code", "error_type", "finish_reason", "native_finish_reason", "service_tier", "response_cache")
    identifiers = ("generation_id", "request_id", "edge_ray")
    facts = {"v": 1, "id": "a" * 32, "at_us": 2**53 - 1, "status": "abandoned", "complete": True}
    facts |= {"model": model, "provider": provider, "error_source": "client", "generation_source": "header"}
    facts |= dict.fromkeys(words, word) | dict.fromkeys(identifiers, "i" * 128)
    facts |= {"cost": "1" * 64, "upstream_cost": "1" * 64, "response_commitment": "a" * 64}
    facts |= {"attempts": [attempt] * 16, "redirects": [{"status": 2**53 - 1, "host": "h" * 128}] * 16}
    facts |= {f: 2**53 - 1 for f in CallOutcome.__struct_fields__ if f.endswith(("_us", "_tokens", "_bytes", "chunks"))}
    outcome = admit({"kind": "call.outcome"} | plain_values(CallOutcome(**{**facts, **calls.facts()})))
    assert len(encode(outcome)) < MAX_ENTRY_BYTES
    body = {
        "model": model, "models": [model] * 16, "plugins": [{"id": word}] * 16,
        "provider": {name: [provider] * 16 for name in ("order", "only", "ignore")},
        "tools": [{"type": word}] * 64, "messages": [{"role": "tool", "tool_call_id": each} for each in ids],
    }  # fmt: skip
    _, intent, _ = begun(a_request(body=json.dumps(body).encode()))
    intent = admit(plain_values(intent))
    assert isinstance(intent, CallIntent)
    assert (15, 64) == (len(intent.tool_results), intent.tool_result_count)
    assert len(encode(intent)) + 32 * 40 < MAX_ENTRY_BYTES


# Requests -----------------------------------------------------------------------------------------------------------

LONG = "the quick brown fox " * 1000
PADS = ["", LONG]


def results(messages, *, key="messages"):
    return read_request(json.dumps({"model": "a/b", key: messages}).encode()).fields.get("tool_results", ())


@pytest.mark.parametrize("pad", PADS, ids=["short", "long"])
def test_results_since_the_last_answer_are_listed_in_chats_shape(pad):
    """
    What came before that answer was told by an earlier call; the text around it may be long, and keys stand in any order.
    """
    history = [
        {"role": "system", "content": pad + "tools"},
        {"role": "user", "content": '"tool_call_id" "role":"tool"' + pad},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0"}]},
        {"role": "tool", "tool_call_id": "call_0", "content": pad},
        {"role": "assistant", "content": pad, "tool_calls": [{"id": "call_1"}, {"id": "functions.find:2"}]},
    ]
    assert () == results(history[:3])
    assert ("call_0",) == results(history[:4])
    assert () == results(history)
    new = [
        {"content": pad, "tool_call_id": "call_1", "role": "tool"},
        {"role": "tool", "content": pad, "tool_call_id": "functions.find:2"},
        {"role": "user", "content": [{"type": "text", "text": pad}]},
    ]
    assert ("call_1", "functions.find:2") == results(history + new)


@pytest.mark.parametrize("pad", PADS, ids=["short", "long"])
def test_results_are_listed_in_the_shape_of_messages(pad):
    history = [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_0", "content": pad}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
    ]
    assert () == results(history)
    new = {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": pad},
        {"type": "text", "text": pad},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "x"}]},
    ]}  # fmt: skip
    assert ("toolu_1", "toolu_2") == results([*history, new])


@pytest.mark.parametrize("pad", PADS, ids=["short", "long"])
def test_results_are_listed_in_the_shape_of_responses(pad):
    """
    Calls and their results may take turns; only a message of the assistant stands between what is new and what is not.
    """
    history = [
        {"role": "user", "content": pad},
        {"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_0", "output": pad},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": pad}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": pad},
        {"type": "function_call_output", "call_id": "call_1", "output": pad},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "f", "input": pad},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": pad},
    ]
    assert ("call_1", "call_2") == results(history, key="input")
    assert () == read_request(json.dumps({"input": "function_call_output" + pad}).encode()).fields.get(
        "tool_results", ()
    )


def test_results_of_a_body_that_only_the_second_rung_reads_are_the_same():
    messages = [{"role": "tool", "tool_call_id": "call_1", "content": "\ud800"}]
    assert ("call_1",) == results(messages)


def test_more_results_than_an_entry_takes_are_counted():
    messages = [{"role": "tool", "tool_call_id": f"call_{n}"} for n in range(100)]
    facts = read_request(json.dumps({"messages": messages}).encode()).fields
    assert tuple(f"call_{n}" for n in range(64)) == facts["tool_results"]
    assert 100 == facts["tool_result_count"]


def test_an_id_outside_the_vocabulary_is_left_out_and_named():
    """
    Whoever writes a history may put anything there: an address is not for the tree.
    """
    body = b'{"messages":[{"role":"tool","tool_call_id":"a@example.org"},{"role":"tool","tool_call_id":"call_1"}]}'
    _, intent, _ = begun(a_request(body=body))
    admitted = admit(plain_values(intent))
    assert (("call_1",), ("tool_results",)) == (admitted.tool_results, admitted.anomalies)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda each: (
            st.lists(each)
            | st.dictionaries(
                st.sampled_from(["role", "content", "type", "tool_call_id", "call_id", "tool_use_id"]),
                each | st.sampled_from(["tool", "assistant", "tool_result", "function_call_output"]),
            )
        ),
    )
)
def test_messages_of_any_shape_never_stop_a_call(value):
    for body in ({"messages": value}, {"messages": [value, value]}, {"input": [value, {"content": [value]}]}):
        read_request(json.dumps(body).encode())
        read_request(json.dumps(body | {"p": LONG}).encode())


def test_arguments_and_results_are_in_no_fact():
    canary = "canaryargument"
    body = json.dumps({"messages": [{"role": "tool", "tool_call_id": "c", "content": canary}]}).encode()
    _, intent, private = begun(a_request(body=body))
    answer = {"choices": [{"message": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": canary}}]}}]}
    outcome, _ = answered([json.dumps(answer).encode()], headers=[JSON])
    assert (ToolCall(id="c", name="f", argument_bytes=len(canary)),) == outcome.tool_calls
    for record in (intent, private, outcome):
        assert canary.encode() not in msgspec.json.encode(plain_values(record) if record is not private else {})
    assert canary not in repr(private)


def test_random_cuts_change_nothing():
    data = example("chat/stream_tool_calls.sse")
    rng = random.Random(5)
    whole = outcome_of(data, CHAT, STREAM).tool_calls
    for _ in range(50):
        assert whole == outcome_of(data, CHAT, STREAM, size=rng.randrange(1, 400)).tool_calls
