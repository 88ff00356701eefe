"""Each switch does what it says, from the header and from the queue; a misspelt one is refused."""

import contextlib
import gzip
import http.client
import json
import socket
import time
import zlib
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.testing.asking import KEY, Asker, chat_body
from tests.testing.test_books import until

from openrouter_audit.testing import FakeOpenRouter
from openrouter_audit.testing.emulator import UnknownSwitch
from openrouter_audit.testing.emulator.script import Script
from openrouter_audit.testing.emulator.switches import (
    ENDS,
    RECORDS,
    SWITCHES,
    Behaviour,
    parse_header,
    parse_switches,
)

CONTRACT = (
    "latency_ms, status, error, error_code, retry_after, record_delay_ms, record, generation_status, cost, keepalives, chunk, gap_ms,"
    " gzip, usage_shape, end, times, model, provider, byok, cache, finish_reason, tokens, tools, redirect"
)


def test_the_switches_are_those_of_the_contract():
    assert set(CONTRACT.split(", ")) == set(SWITCHES)


@pytest.mark.parametrize(
    "switches",
    ["coast=1", "end=sideways", "status=99", "cost=cheap", "cost=.5", "tokens=-1", "gzip", "error=418_teapot"],
)
def test_unknown_switch_is_a_400_and_booked(asker, fake, switches):
    reply = asker.chat(switches)
    assert 400 == reply.status
    assert reply.json["error"]["message"].startswith("X-Emulator: ")
    assert [(400, None)] == [(row["status"], row["billed"]) for row in fake.calls()]


def test_script_route_queues_all_or_nothing(asker, fake):
    """
    Through HTTP as the demo does it; the control routes themselves are in no books.
    """
    assert 400 == asker.post("/__emulator/script", [{"status": 503}, {"coast": 1}]).status
    assert {"queued": 2} == asker.post("/__emulator/script", [{"status": 503}, {"cost": "1e-7"}]).json
    assert [503, 200, 200] == [asker.chat().status for _ in range(3)]
    assert fake.calls() == asker.get("/__emulator/calls").json
    assert [None, "1e-7"] == [row["billed"] for row in fake.calls()][:2]


def test_control_routes_stand_at_the_root_too(asker, fake):
    asker.chat()
    parts = fake.url.removesuffix("/api/v1").removeprefix("http://")
    connection = http.client.HTTPConnection(parts, timeout=10)
    connection.request("GET", "/__emulator/calls")
    assert b'"n":1' in connection.getresponse().read()
    connection.close()


def test_script_of_python_raises_where_it_is_written(fake):
    with pytest.raises(UnknownSwitch, match="coast"):
        fake.script([{"coast": 1}])


def test_header_wins_over_the_queue_and_the_queue_is_used_up(asker, fake):
    fake.script([{"cost": "0.5", "model": "acme/queued"}])
    told = asker.chat("cost=0.25").json
    assert ("acme/queued", 0.25) == (told["model"], told["usage"]["cost"])
    assert "openai/gpt-4.1-mini-2025-04-14" == asker.chat().json["model"]


def test_times_in_the_queue_keeps_the_front(asker, fake):
    fake.script([{"status": 500, "times": 2}, {"status": 429}])
    assert [500, 500, 429, 200] == [asker.chat().status for _ in range(4)]


def test_times_in_the_header_counts_equal_requests_and_starts_anew(asker):
    """
    Another body is another series; the answer that ends a series lets the next one begin.
    """
    switches = "status=503;times=2"
    assert [503, 503, 200, 503, 503, 200] == [asker.chat(switches).status for _ in range(6)]
    assert [503, 503] == [asker.chat(switches).status, asker.chat(switches, text="another").status]


def test_times_follows_the_attempt_number_of_a_client_that_sends_it(asker):
    for attempt, status in ((0, 503), (1, 503), (2, 200), (0, 503)):
        headers = {"emulator": "status=503;times=2", "x_stainless_retry_count": str(attempt)}
        assert status == asker.post("/chat/completions", chat_body(), **headers).status


def test_counts_of_series_that_never_end_are_bounded():
    script = Script()
    for i in range(10_050):
        script.next(header="status=503;times=2", series=(str(i),), retry_count=None)
    assert 10_000 == len(script._series)


@pytest.mark.parametrize("text", ["0.0076509169000000005", "1e-7", "0", "12.50", "1.2E-8"])
def test_cost_is_emitted_digit_for_digit(asker, fake, text):
    """
    In a whole body, in a stream, in the record and in the books.
    """
    plain, stream = asker.chat(f"cost={text}"), asker.stream(f"cost={text}")
    record = asker.record(plain.json["id"])
    assert f'"cost":{text},'.encode() in plain.raw
    assert f'"cost":{text},'.encode() in stream.raw
    assert f'"total_cost":{text},'.encode() in record.raw
    assert [text, text] == [row["billed"] for row in fake.calls()]


def test_model_provider_tokens_and_finish_reason(asker, fake):
    told = asker.chat("model=acme/other-2026;provider=Acme Cloud;tokens=7;finish_reason=content_filter").json
    assert ("acme/other-2026", "Acme Cloud", 7) == (told["model"], told["provider"], told["usage"]["completion_tokens"])
    assert "content_filter" == told["choices"][0]["finish_reason"]
    assert ("acme/other-2026", "Acme Cloud") == (fake.calls()[0]["model"], fake.calls()[0]["provider"])


def test_max_tokens_ends_an_answer_early(asker):
    told = asker.chat(max_tokens=2).json
    assert ("length", 2) == (told["choices"][0]["finish_reason"], told["usage"]["completion_tokens"])


def test_error_as_an_object_and_code_as_text(asker, fake):
    fake.script(
        [
            {"error": {"code": 409, "message": "Conflict"}},
            {"status": 503, "error_code": "server_error", "retry_after": 3},
        ]
    )
    first, second = asker.chat(), asker.chat()
    assert (409, "Conflict") == (first.status, first.json["error"]["message"])
    assert (503, "server_error", "3") == (second.status, second.json["error"]["code"], second.headers["retry-after"])
    in_200 = asker.chat("status=200;error=429_upstream")
    assert (200, {"error", "user_id"}, 429) == (in_200.status, set(in_200.json), in_200.json["error"]["code"])


def test_status_zero_drops_the_connection_before_headers(asker, fake):
    with pytest.raises(http.client.RemoteDisconnected):
        asker.chat("status=0")
    (row,) = fake.calls()
    assert (0, None, None) == (row["status"], row["billed"], row["response_sha256"])


def test_latency_and_gap_are_waited_for(asker):
    """
    Lower bounds alone: a sleep may be long, never short.
    """
    started = time.monotonic()
    asker.chat("latency_ms=80")
    assert 0.08 <= time.monotonic() - started
    started = time.monotonic()
    reply = asker.stream("keepalives=0;tokens=2;gap_ms=20")
    assert 5 == len(reply.events)
    assert 4 * 0.02 <= time.monotonic() - started


def test_gzip_of_a_body_and_of_a_stream(asker):
    for reply, begin in ((asker.chat("gzip=1"), b'{"id"'), (asker.stream("gzip=1"), b": OPENROUTER PROCESSING\n\n")):
        assert "gzip" == reply.headers["content-encoding"]
        assert gzip.decompress(reply.raw).startswith(begin)


def test_keepalives_are_comments_before_the_first_event(asker):
    assert asker.stream("keepalives=3").raw.startswith(b": OPENROUTER PROCESSING\n\n" * 3 + b"data: ")
    assert asker.stream("keepalives=0").raw.startswith(b"data: ")


def test_any_chunk_size_gives_the_same_bytes():
    """
    One short stream cut at every byte, then at other sizes up to all of it: the body stays the same.
    """
    bodies = set()
    for switches in ["tokens=2", *(f"tokens=2;chunk={size}" for size in (*range(1, 40), 500, 10**6))]:
        with FakeOpenRouter(seed=3) as fake:  # a new one, so that each gives its first id
            bodies.add(Asker(fake).stream(switches).raw)
    assert 1 == len(bodies)


def test_response_cache_misses_then_hits(asker, fake):
    """
    Keyed by the exact bytes of the body; the hit is free and names the generation that paid.
    """
    first, second, third = asker.chat("cache=auto"), asker.chat("cache=auto"), asker.chat("cache=auto", text="Another?")
    assert ["MISS", "HIT", "MISS"] == [reply.headers["x-openrouter-cache-status"] for reply in (first, second, third)]
    assert first.json["id"] == second.headers["x-openrouter-cache-source-id"] != second.json["id"]
    assert first.json["id"] == asker.record(second.json["id"]).json["data"]["response_cache_source_id"]
    assert "0" == fake.calls()[1]["billed"] != fake.calls()[0]["billed"]


def test_byok_free_allowance(asker, fake):
    told = asker.chat("byok=free").json["usage"]
    assert told["is_byok"]
    assert 0 == told["cost"] < told["cost_details"]["upstream_inference_cost"]
    assert "0" == fake.calls()[0]["billed"]


def test_requests_that_cannot_be_served(asker, fake):
    """
    No key, no JSON, no prompt, no such route: booked like any other call, billed to nobody.
    """
    assert "Missing Authentication header" == asker.chat(key=None).json["error"]["message"]
    assert 400 == asker.post("/chat/completions", b"{").status
    assert 400 == asker.post("/chat/completions", {"model": "openai/gpt-4.1-mini"}).status
    assert 404 == asker.post("/api/alpha/decisions", {}).status
    assert 404 == asker.get("/activity").status
    assert [401, 400, 400, 404, 404] == [row["status"] for row in fake.calls()]
    assert {None} == {row["billed"] for row in fake.calls()}


def test_defaults_are_the_recorded_behaviour():
    assert ("a", "done", "ok", False) == (
        Behaviour().usage_shape,
        Behaviour().end,
        Behaviour().record,
        Behaviour().gzip,
    )
    assert "done" in ENDS
    assert "ok" in RECORDS


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.integers() | st.none(), max_size=4))
def test_switches_are_understood_or_refused_never_crash(item):
    try:
        Behaviour(**parse_switches(item))
    except UnknownSwitch:
        pass


@given(st.text(max_size=60))
def test_headers_are_understood_or_refused_never_crash(text):
    try:
        Behaviour(**parse_header(text))
    except UnknownSwitch:
        pass


def test_tools_are_called_in_chat_plain_and_streamed(asker):
    """
    So many of those that were offered, in turn; or by name; or as they are written.
    """
    offered = [{"type": "function", "function": {"name": name}} for name in ("find_invoice", "send_mail")]
    choice = asker.chat("tools=3", tools=offered).json["choices"][0]
    assert ("tool_calls", None) == (choice["finish_reason"], choice["message"]["content"])
    calls = choice["message"]["tool_calls"]
    assert ["find_invoice", "send_mail", "find_invoice"] == [call["function"]["name"] for call in calls]
    assert [0, 1, 2] == [call["index"] for call in calls]
    assert 3 == len({call["id"] for call in calls})

    streamed = {}
    for event in asker.stream("tools=look_up, pay").events[:-1]:
        for part in event["choices"][0]["delta"].get("tool_calls", ()):
            found = streamed.setdefault(part["index"], ["", ""])
            found[0] += part["function"].get("name", "")
            found[1] += part["function"]["arguments"]
    assert {0: ["look_up", '{"customer":"8841"}'], 1: ["pay", '{"customer":"8841"}']} == streamed


def test_tools_of_the_queue_can_say_their_arguments(asker, fake):
    fake.script([{"tools": [{"name": "pay", "arguments": {"sum": 12}}, "mail", {"arguments": "{}"}]}])
    calls = asker.chat().json["choices"][0]["message"]["tool_calls"]
    assert [("pay", '{"sum":12}'), ("mail", '{"customer":"8841"}'), ("find_invoice", "{}")] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in calls
    ]


@pytest.mark.parametrize(
    "tools",
    [0, 257, "", [], [{}], [{"name": ""}], [{"nom": "a"}], [7], {"name": "a"}, [{"name": "a", "arguments": "{"}]],
)
def test_tools_that_cannot_be_are_refused(fake, tools):
    with pytest.raises(UnknownSwitch, match="tools"):
        fake.script([{"tools": tools}])


def test_a_response_calls_tools_too(asker):
    """
    The body of the example; streamed, each call is an item of its own.
    """
    body = {"model": "openai/gpt-oss-20b", "input": "Which?"}
    (item,) = asker.post("/responses", body, emulator="tools=find_invoice").json["output"]
    assert ("function_call", "find_invoice", '{"customer":"8841"}') == (item["type"], item["name"], item["arguments"])

    events = asker.post("/responses", {**body, "stream": True}, emulator="tools=2").events
    done = [event["item"] for event in events[:-1] if event["type"] == "response.output_item.done"]
    assert done == events[-2]["response"]["output"]
    assert 2 == len({item["id"] for item in done}) == len({item["call_id"] for item in done})
    fragments = [e["delta"] for e in events[:-1] if e["type"] == "response.function_call_arguments.delta"]
    assert "".join(item["arguments"] for item in done) == "".join(fragments)


def test_a_response_tells_its_router_metadata(asker):
    body, asked = {"model": "openai/gpt-oss-20b", "input": "Which?"}, {"X_OpenRouter_Metadata": "enabled"}
    whole = asker.post("/responses", body, **asked, emulator="provider=Azure").json
    last = asker.post("/responses", {**body, "stream": True}, **asked, emulator="provider=Azure").events[-2]
    for told in (whole, last["response"]):
        assert [429, 200] == [attempt["status"] for attempt in told["openrouter_metadata"]["attempts"]]


@contextlib.contextmanager
def waiting(fake, path, body, switches):
    """A socket on which a call was sent; what comes back is read by the test."""
    parts, data = urlsplit(fake.url), json.dumps(body).encode()
    head = f"POST {parts.path}{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nx-emulator: {switches}\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as opened:
        opened.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data)
        yield opened


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", chat_body(stream=True)),
        ("/responses", {"model": "openai/gpt-4.1-mini", "input": "Which?", "stream": True}),
        ("/messages", chat_body(stream=True)),
    ],
)
def test_hold_goes_quiet_until_the_client_has_gone(asker, fake, path, body):
    """
    Half of the tokens come and then nothing: no end, no error. The books learn of it when the client hangs up, after the
    call that came later and was answered meanwhile.
    """
    with waiting(fake, path, body, "tokens=6;end=hold") as line:
        received = b""
        while received.count(b"delta") < 3 or not received.endswith(b"\n\n\r\n"):
            received += line.recv(65536)
        assert 200 == asker.chat().status
        assert [2] == [row["n"] for row in fake.calls()]
    until(lambda: 2 == len(fake.calls()))
    row = fake.calls()[0]
    assert (3, True) == (row["completion_tokens"], row["cancelled"])


@pytest.mark.parametrize("switches", ["latency_ms=never", "end=hold", "end=hold;gzip=1"])
def test_a_body_can_be_waited_for_in_vain(asker, fake, switches):
    """
    No answer at all, or half of one; what is no stream runs to its end and is billed, whoever listens.
    """
    with waiting(fake, "/chat/completions", chat_body(), switches) as line:
        received = b""
        while "hold" in switches and len(received.partition(b"\r\n\r\n")[2]) < 100:
            received += line.recv(65536)
        assert 200 == asker.chat().status
        head, _, body = received.partition(b"\r\n\r\n")
        assert not head or int(head.partition(b"content-length: ")[2].split()[0]) > len(body)
        assert [2] == [row["n"] for row in fake.calls()]
    until(lambda: 2 == len(fake.calls()))
    assert fake.calls()[0]["billed"] is not None


def test_a_packed_stream_that_is_held_has_no_end_either(fake):
    with waiting(fake, "/chat/completions", chat_body(stream=True), "tokens=6;end=hold;gzip=1") as line:
        received, text, unpacker = b"", b"", zlib.decompressobj(wbits=31)
        while text.count(b"data: ") < 3:
            received += line.recv(65536)
            text, unpacker = b"", zlib.decompressobj(wbits=31)
            rest = received.partition(b"\r\n\r\n")[2]
            while b"\r\n" in rest:
                size, _, rest = rest.partition(b"\r\n")
                text += unpacker.decompress(rest[: int(size, 16)])
                rest = rest[int(size, 16) + 2 :]
        assert not unpacker.eof


def test_an_emulator_that_holds_can_still_be_closed():
    with contextlib.ExitStack() as stack:
        with FakeOpenRouter(seed=7) as fake:
            line = stack.enter_context(waiting(fake, "/chat/completions", chat_body(), "end=hold"))
            assert line.recv(1)
        assert 1 == len(fake.calls())


def test_redirect_leads_back_and_is_followed_by_the_answer(asker, fake):
    """
    Once, whatever the header goes on asking; each request is in the books, the redirect without a price.
    """
    moved = asker.chat("redirect=307;cost=0.5")
    assert (307, "/api/v1/chat/completions?redirected=1") == (moved.status, moved.headers["location"])
    assert "x-generation-id" not in moved.headers
    there = asker.post("/chat/completions?redirected=1", chat_body(), emulator="redirect=307;cost=0.5")
    assert (200, 0.5) == (there.status, there.json["usage"]["cost"])
    assert [(307, None), (200, "0.5")] == [(row["status"], row["billed"]) for row in fake.calls()]


def test_redirect_can_lead_elsewhere(asker, fake):
    fake.script([{"redirect": "308 http://localhost:1/api/v1/chat/completions"}])
    moved = asker.chat()
    assert (308, "http://localhost:1/api/v1/chat/completions") == (moved.status, moved.headers["location"])
    for wrong in (200, "elsewhere", "307 http://a/\r\nb: c"):
        with pytest.raises(UnknownSwitch, match="redirect"):
            fake.script([{"redirect": wrong}])
