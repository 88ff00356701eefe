"""Every way a stream can end, as bytes on the wire and as a line in the books."""

import http.client

import pytest


def spoken(events):
    """Texts of the content chunks."""
    found = [event["choices"][0]["delta"].get("content") for event in events if event != "[DONE]" and event["choices"]]
    return [text for text in found if text]


def test_done(asker, fake):
    events = asker.stream("tokens=6").events
    assert "[DONE]" == events[-1]
    assert 6 == len(spoken(events)) == events[-2]["usage"]["completion_tokens"] == fake.calls()[0]["completion_tokens"]


@pytest.mark.parametrize(("shape", "reasons"), [("a", ["stop"]), ("b", []), ("c", [None])])
def test_usage_chunk_comes_in_three_shapes(asker, shape, reasons):
    """
    The finish reason repeated, no choice at all, or a choice without a reason.
    """
    finish, usage, _ = asker.stream(f"usage_shape={shape}").events[-3:]
    assert "stop" == finish["choices"][0]["finish_reason"]
    assert reasons == [choice["finish_reason"] for choice in usage["choices"]]
    assert "usage" in usage


def test_no_done_has_everything_but_the_last_line(asker, fake):
    events = asker.stream("tokens=6;end=no_done").events
    assert "usage" in events[-1]
    assert fake.calls()[0]["billed"] is not None


def test_cut_frame_breaks_the_connection_inside_a_frame(asker, fake):
    """
    The body never ends: the client is told so by its HTTP library, not by the event stream.
    """
    with pytest.raises(http.client.IncompleteRead) as caught:
        asker.stream("tokens=6;end=cut_frame")
    assert not caught.value.partial.endswith(b"\n\n")
    (row,) = fake.calls()
    assert (3, False) == (row["completion_tokens"], row["cancelled"])


def test_cut_boundary_ends_quietly_without_usage(asker, fake):
    reply = asker.stream("tokens=6;end=cut_boundary")
    assert reply.raw.endswith(b"\n\n")
    assert 3 == len(spoken(reply.events)) == len(reply.events) == fake.calls()[0]["completion_tokens"]


def test_error_first_leaves_no_generation(asker, fake):
    reply = asker.stream("end=error_first;error=429_upstream")
    error, done = reply.events
    assert (429, "[DONE]") == (error["error"]["code"], done)
    assert 404 == asker.record(reply.headers["x-generation-id"]).status
    assert fake.calls()[0]["billed"] is None


def test_error_mid_bills_what_was_produced(asker, fake):
    reply = asker.stream("tokens=6;end=error_mid;error_code=server_error")
    assert ("server_error", "error") == (
        reply.events[-1]["error"]["code"],
        reply.events[-1]["choices"][0]["finish_reason"],
    )
    assert 3 == len(spoken(reply.events)) == fake.calls()[0]["completion_tokens"]
    assert "error" == asker.record(reply.headers["x-generation-id"]).json["data"]["finish_reason"]


def test_error_usage_says_length_first_and_charges_nothing(asker, fake):
    events = asker.stream("tokens=6;end=error_usage").events
    assert ["length", None] == [event["choices"][0]["finish_reason"] for event in events[-3:-1]]
    assert "[DONE]" == events[-1]
    assert "0" == fake.calls()[0]["billed"]


def test_choice_error_stands_in_the_choice(asker, fake):
    events = asker.stream("tokens=6;end=choice_error").events
    assert 502 == events[-3]["choices"][0]["error"]["code"]
    assert not any("error" in event for event in events[:-1])
    assert float(fake.calls()[0]["billed"]) == events[-2]["usage"]["cost"]


def test_native_error_looks_benign(asker):
    last = asker.stream("end=native_error").events[-2]["choices"][0]
    assert ("stop", "error") == (last["finish_reason"], last["native_finish_reason"])


@pytest.mark.parametrize(
    ("switches", "last"),
    [
        ("end=done", ["response.completed", "[DONE]"]),
        ("end=no_done", ["response.content_part.done", "response.output_item.done"]),
        ("finish_reason=length", ["response.incomplete", "[DONE]"]),
        ("end=error_first", ["error", "[DONE]"]),
        ("end=error_mid", ["error", "[DONE]"]),
        ("end=error_usage", ["response.failed", "[DONE]"]),
        ("end=choice_error", ["response.failed", "[DONE]"]),
        ("end=cut_boundary", ["response.output_text.delta", "response.output_text.delta"]),
    ],
)
def test_ends_of_responses(asker, switches, last):
    body = {"model": "openai/gpt-oss-20b", "input": "Which?", "stream": True}
    events = asker.post("/responses", body, emulator=f"tokens=6;{switches}").events
    assert last == [event if event == "[DONE]" else event["type"] for event in events[-2:]]


def test_failed_response_not_streamed(asker):
    told = asker.post(
        "/responses", {"model": "openai/gpt-oss-20b", "input": "Which?"}, emulator="end=choice_error"
    ).json
    assert ("failed", "server_error") == (told["status"], told["error"]["code"])


@pytest.mark.parametrize("end", ["cut_frame", "cut_boundary"])
def test_whole_bodies_can_be_cut_too(asker, fake, end):
    with pytest.raises(http.client.IncompleteRead):
        asker.chat(f"end={end}")
    assert (fake.calls()[0]["response_sha256"] is None) == (end == "cut_boundary")
    assert fake.calls()[0]["billed"] is not None


def test_tool_calls_arrive_in_fragments(asker):
    events = asker.stream("finish_reason=tool_calls").events
    calls = [event["choices"][0]["delta"]["tool_calls"][0] for event in events[:-3]]
    assert "find_invoice" == calls[0]["function"]["name"]
    assert '{"customer":"8841"}' == "".join(call["function"]["arguments"] for call in calls)
