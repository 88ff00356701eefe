"""Every example, cut in every way: the same facts. And every way in which a call ends."""

import asyncio
import gzip
import itertools
import json
import re
import zlib

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.capture.recording import (
    KEY,
    a_request,
    answered,
    answers,
    begun,
    example,
    facts_of,
)  # fmt: skip

from openrouter_audit.capture.event_stream import KEEP_BYTES
from openrouter_audit.core.commitments import commit, derive_keys
from openrouter_audit.core.entries import RedirectHop

SSE = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]
PATHS = {
    "chat": "/api/v1/chat/completions",
    "responses": "/api/v1/responses",
    "messages": "/api/v1/messages",
    "images": "/api/v1/images",
}


def streamed(name, pieces=None, **how):
    body = example(name)
    return answered(pieces or [body], path=PATHS[name.split("/")[0]], headers=SSE, **how)


@pytest.mark.parametrize(
    ("name", "status", "complete", "code", "kind", "source", "finish", "native"),
    [
        ("chat/stream.sse", "success", True, None, None, None, "stop", "stop"),
        ("chat/stream_tool_calls.sse", "success", True, None, None, None, "tool_calls", "tool_use"),
        ("chat/stream_usage_empty_choices.sse", "success", True, None, None, None, "stop", "stop"),
        ("chat/stream_usage_null_finish.sse", "success", True, None, None, None, "stop", "stop"),
        ("chat/stream_debug_and_metadata.sse", "success", True, None, None, None, "stop", "stop"),
        ("chat/stream_cut_off.sse", "error", False, "truncated", "truncated", "stream", None, None),
        ("chat/stream_error_first.sse", "error", True, "429", "rate_limit_exceeded", "stream", "error", None),
        ("chat/stream_error_midway.sse", "error", False, "502", "provider_unavailable", "stream", "error", None),
        ("chat/stream_error_string_code.sse", "error", False, "server_error", None, "stream", "error", None),
        ("chat/stream_error_with_usage.sse", "error", True, "400", None, "stream", "length", "length"),
        ("responses/stream.sse", "success", True, None, None, None, "stop", "completed"),
        ("responses/stream_incomplete.sse", "success", True, None, None, None, "length", "max_output_tokens"),
        ("responses/stream_failed.sse", "error", True, "server_error", None, "stream", "error", "failed"),
        ("responses/stream_error_event.sse", "error", True, None, None, "stream", None, None),
        ("responses/stream_no_terminal_event.sse", "success", False, None, None, None, None, None),
        ("messages/stream.sse", "success", True, None, None, None, "stop", "end_turn"),
        ("messages/stream_tool_use.sse", "success", True, None, None, None, "tool_calls", "tool_use"),
        ("messages/stream_error.sse", "error", True, "overloaded_error", "provider_overloaded", "stream", None, None),
        ("images/stream.sse", "success", True, None, None, None, None, None),
    ],
)  # fmt: skip
def test_a_stream_says_how_it_ended_and_what_it_cost(name, status, complete, code, kind, source, finish, native):
    """
    Each recorded stream, in one piece; the end of API.md section 7 it shows is the one in the outcome.
    """
    outcome, _ = streamed(name)
    assert (status, complete) == (outcome.status, outcome.complete)
    assert source == outcome.error_source
    if code is not None or source is None:
        assert code == outcome.error_code
    if kind is not None or source is None:
        assert kind == outcome.error_type
    assert finish == outcome.finish_reason
    costs = re.findall(rb'"cost":([^,}]+)', example(name))
    assert (costs[-1].decode() if costs else None) == outcome.cost
    assert native is None or native == outcome.native_finish_reason


STREAMS = sorted(name for name, *_ in answers() if name.endswith(".sse"))


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_in_two_anywhere_says_the_same(name):
    """
    A cut inside a line, a character, the empty line between two events: no fact depends on it.
    """
    body = example(name)
    whole = facts_of(streamed(name)[0])
    for at in range(0, len(body) + 1, 1 if len(body) < 4000 else 7):
        assert whole == facts_of(streamed(name, [body[:at], body[at:]])[0]), at


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 3, 17])
def test_a_stream_in_tiny_pieces_says_the_same(name, size):
    body = example(name)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert facts_of(streamed(name)[0]) == facts_of(streamed(name, pieces)[0])


@given(
    st.sampled_from(STREAMS), st.lists(st.integers(0, 12_000), max_size=30), st.sampled_from([b"\n", b"\r\n", b"\r"])
)
@settings(max_examples=150, deadline=None)
def test_any_cutting_and_any_line_ends_say_the_same(name, cuts, line_end):
    body = example(name).replace(b"\n", line_end)
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert facts_of(streamed(name)[0]) == facts_of(streamed(name, pieces)[0])


@pytest.mark.parametrize(
    ("name", "method", "path", "status", "headers"), [a for a in answers() if not a[0].endswith(".sse")]
)
def test_a_whole_body_in_any_pieces_says_the_same(name, method, path, status, headers):
    """
    Every example that is no stream, whole, in pieces, with and without a length.
    """
    body = example(name)
    whole, told = answered([body], method=method, path=path, status=status, headers=headers)
    assert whole.complete
    assert 1 == told
    length = [*headers, (b"content-length", str(len(body)).encode())]
    for size in (1, 64, 1000):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        for fields in (headers, length):
            outcome, told = answered(pieces, method=method, path=path, status=status, headers=fields)
            assert facts_of(whole) == facts_of(outcome)
            assert len(pieces) == told
    parsed = json.loads(body) if name.endswith(".json") else {}
    usage = parsed.get("usage")
    if usage and "cost" in usage:
        assert outcome.cost is not None
        assert float(outcome.cost) == usage["cost"]
        assert f'"cost": {outcome.cost}' in body.decode()
    failed = status >= 400 or parsed.get("error") or any(choice.get("error") for choice in parsed.get("choices", ()))
    assert ("error" if failed else "success") == outcome.status


@pytest.mark.parametrize(
    ("name", "code", "kind", "source"),
    [
        ("errors/429_upstream.json", "429", None, "http"),
        ("errors/400_zod.json", "400", "invalid_request", "http"),
        ("errors/404_no_endpoints_availability.json", "404", "not_found", "http"),
        ("errors/messages_429.json", "429", "rate_limit_exceeded", "http"),
        ("errors/524_cloudflare.txt", "524", None, "http"),
        ("errors/402_batch_unsettled.json", "402", None, "http"),
        ("chat/nonstream_error_in_200.json", "504", None, "body"),
        ("chat/nonstream_choice_error.json", "502", None, "choice"),
    ],
)
def test_an_error_is_named_by_its_code_and_never_by_its_text(name, code, kind, source):
    _, method, path, status, headers = next(answer for answer in answers() if answer[0] == name)
    outcome, _ = answered([example(name)], method=method, path=path, status=status, headers=headers)
    assert ("error", True, code, kind, source) == (
        outcome.status, outcome.complete, outcome.error_code, outcome.error_type, outcome.error_source,
    )  # fmt: skip
    assert "rate-limited upstream" not in repr(outcome)


def test_the_outcome_is_there_with_the_piece_that_ends_the_terminal_line():
    """
    Not with the half line before it, not only with the piece after it; and what comes later is not counted.
    """
    body = example("chat/stream.sse")
    end = body.index(b"[DONE]") + len(b"[DONE]\n")
    exchange, _, _ = begun()
    exchange.head(200, dict(SSE))
    assert exchange.body(body[: end - 1]) is None
    outcome = exchange.body(body[end - 1 : end])
    assert (True, end, 2) == (outcome.complete, outcome.response_bytes, outcome.chunks)
    assert exchange.body(body[end:]) is None
    assert exchange.end_of_body() is None
    assert exchange.closed() is None
    assert commit(derive_keys(bytes(32)).response, body[:end]).hex() == outcome.response_commitment


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw-deflate"])
@pytest.mark.parametrize("name", ["chat/stream.sse", "chat/nonstream.json"])
def test_an_encoded_body_is_read_decoded_and_committed_to_as_it_came(encoding, name):
    """
    The facts are those of the text, bytes and commitment those of the wire, in pieces of any size.
    """
    plain = example(name)
    squeeze = zlib.compressobj(wbits=-15)
    raw = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "raw-deflate": lambda text: squeeze.compress(text) + squeeze.flush(),
    }[encoding](plain)
    fields = [*(SSE if name.endswith("sse") else JSON), (b"content-encoding", encoding.removeprefix("raw-").encode())]
    expected = facts_of(answered([plain], headers=fields[:1])[0])
    for size in (1, 50, len(raw)):
        outcome, _ = answered([raw[at : at + size] for at in range(0, len(raw), size)], headers=fields)
        assert expected == facts_of(outcome)
    if name.endswith("json"):
        assert commit(derive_keys(bytes(32)).response, raw).hex() == outcome.response_commitment


def test_a_body_that_cannot_be_decoded_is_an_error_of_decoding():
    outcome, _ = answered([b"this is not gzip"], headers=[*JSON, (b"content-encoding", b"gzip")])
    assert ("error", "decode") == (outcome.status, outcome.error_type)


def test_an_unknown_encoding_leaves_the_headers_facts():
    fields = [*JSON, (b"content-encoding", b"unheard-of"), (b"x-generation-id", b"gen-1")]
    outcome, _ = answered([b"\x01\x02"], headers=fields)
    assert ("success", "gen-1", "header", None) == (
        outcome.status, outcome.generation_id, outcome.generation_source, outcome.cost,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (httpx2.ReadTimeout("x"), "timeout", None),
        (httpx2.PoolTimeout("x"), "timeout", None),
        (httpx2.ConnectError("x"), "error", "connect"),
        (httpx2.RemoteProtocolError("x"), "error", "truncated"),
        (httpx2.ReadError("x"), "error", "truncated"),
        (httpx2.DecodingError("x"), "error", "decode"),
        (asyncio.CancelledError(), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
        (SystemExit(), "cancelled", None),
        (ValueError("sk-or-v1-secret"), "error", None),
    ],
)
def test_an_exception_ends_a_call_by_what_it_is(error, status, kind):
    """
    Before any answer, and in its middle; the class is recorded, its text never.
    """
    exchange, _, _ = begun()
    from openrouter_audit.capture.failures import failure_of

    first = exchange.failed(failure_of(error))
    second, _ = answered([b'data: {"id":"gen-1"}\n\n'], headers=SSE, ending=error)
    for outcome in (first, second):
        assert (status, False, type(error).__name__, "client") == (
            outcome.status, outcome.complete, outcome.error_code, outcome.error_source,
        )  # fmt: skip
        assert kind == outcome.error_type
        assert "secret" not in repr(outcome)
    assert first.http_status is None
    assert first.response_bytes is None
    assert 200 == second.http_status


def test_closing_before_the_end_is_abandoning_and_after_the_price_is_success():
    body = example("chat/stream.sse")
    half, _ = answered([body[:900]], headers=SSE, ending="close")
    priced, _ = answered([body[: body.index(b"data: [DONE]")]], headers=SSE, ending="close")
    ended, _ = answered([body[: body.index(b"data: [DONE]")]], headers=SSE, ending="eof")
    whole, _ = answered([example("chat/nonstream.json")[:40]], headers=JSON, ending="close")
    assert ("abandoned", False, None) == (half.status, half.complete, half.error_code)
    assert ("success", False, "0.000496") == (priced.status, priced.complete, priced.cost)
    assert ("success", False) == (ended.status, ended.complete)
    assert "abandoned" == whole.status
    exchange, _, _ = begun()
    exchange.head(200, dict(SSE))
    assert "cancelled" == exchange.closed(interrupted=True).status


def test_a_finish_reason_alone_can_be_an_error():
    """
    Some providers fail with neither an error member nor an honest finish reason.
    """
    body = example("chat/stream.sse").replace(
        b'"native_finish_reason":"stop"', b'"native_finish_reason":"network_error"'
    )
    outcome, _ = answered([body], headers=SSE)
    assert ("error", True, "network_error", "choice") == (
        outcome.status, outcome.complete, outcome.error_code, outcome.error_source,
    )  # fmt: skip


def test_text_that_no_fast_parser_takes_still_gives_its_cost_to_the_digit():
    """
    A lone surrogate, nesting deeper than any stack, a member of another type, bytes that are not UTF-8.
    """
    cost = b"0.0076509169000000005"
    base = b'{"id":"gen-1","model":"a/b","choices":[%s],"usage":{"prompt_tokens":3,"cost":' + cost + b"}}"
    deep = b"[" * 5000 + b"]" * 5000
    for inside in (b'{"x":"\\ud800"}', b'{"x":' + deep + b"}", b'{"finish_reason":7}', b'{"x":"\xff\xfe"}'):
        outcome, _ = answered([base % inside], headers=JSON)
        assert (cost.decode(), "gen-1", "a/b", 3) == (
            outcome.cost, outcome.generation_id, outcome.model, outcome.prompt_tokens,
        ), inside[:20]  # fmt: skip


@pytest.mark.parametrize("text", ["1e-7", "1.2e-7", "0", "-0.5", "12345678901234567890.1"])
def test_money_keeps_its_own_digits(text):
    outcome, _ = answered([b'{"usage":{"cost":%s}}' % text.encode()], headers=JSON)
    assert text == outcome.cost


def test_a_huge_answer_is_read_from_its_ends_and_not_kept():
    """
    A megabyte of embeddings, and a stream line of a megabyte: ids from the front, usage from the end.
    """
    vector = b"0.125," * 200_000
    body = b'{"id":"gen-emb-1","model":"q/e","data":[' + vector + b'1],"usage":{"prompt_tokens":5,"cost":1e-7}}'
    pieces = [body[at : at + 9000] for at in range(0, len(body), 9000)]
    exchange, _, _ = begun(a_request("/api/v1/embeddings"))
    exchange.head(200, dict(JSON))
    for piece in pieces:
        exchange.body(piece)
        assert exchange._kept._size + len(exchange._kept._head or b"") <= 4 * KEEP_BYTES
    outcome = exchange.end_of_body()
    assert ("success", True, "gen-emb-1", "q/e", "1e-7", 5) == (
        outcome.status, outcome.complete, outcome.generation_id, outcome.model, outcome.cost, outcome.prompt_tokens,
    )  # fmt: skip
    line = b'data: {"type":"response.completed","response":{"id":"gen-1","model":"a/b","output":["' + b"x" * 2**20
    line += b'"],"usage":{"input_tokens":5,"output_tokens":6,"cost":0.5}}}\n\n'
    outcome, _ = answered(
        [line[at : at + 5000] for at in range(0, len(line), 5000)], path=PATHS["responses"], headers=SSE
    )
    assert ("success", True, "gen-1", "0.5", 6, "stop") == (
        outcome.status, outcome.complete, outcome.generation_id, outcome.cost, outcome.completion_tokens, outcome.finish_reason,
    )  # fmt: skip


def test_headers_say_what_the_body_does_not():
    fields = [
        (b"x-generation-id", b"gen-tts-1"), (b"cf-ray", b"abc-FRA"), (b"request-id", b"req-1"), (b"retry-after", b"1.5"),
        (b"x-openrouter-cache-status", b"HIT"), (b"content-type", b"audio/mpeg"),
    ]  # fmt: skip
    outcome, _ = answered([b"\xff\xfb" * 100], path="/api/v1/audio/speech", headers=fields)
    assert ("gen-tts-1", "header", "abc-FRA", "req-1", 1500, "HIT") == (
        outcome.generation_id, outcome.generation_source, outcome.edge_ray, outcome.request_id, outcome.retry_after_ms,
        outcome.response_cache,
    )  # fmt: skip


def test_router_attempts_and_redirects_are_in_the_outcome():
    outcome, _ = answered([example("chat/nonstream_router_metadata.json")], headers=JSON)
    assert outcome.attempts
    assert {"provider", "model", "status"} == set(outcome.attempts[0].__struct_fields__)
    exchange, _, _ = begun()
    hop = RedirectHop(status=307, host="eu.openrouter.ai")
    exchange.head(200, {}, (hop,))
    assert (hop,) == exchange.end_of_body().redirects


def test_times_are_counted_from_the_intent():
    """
    The fake clock moves a millisecond at each look: head, first piece with a token, last piece.
    """
    exchange, _, _ = begun()
    exchange.head(200, dict(SSE))
    exchange.body(b": OPENROUTER PROCESSING\n\n")
    exchange.body(b'data: {"id":"gen-1","choices":[{"delta":{"content":""}}]}\n\n')
    exchange.body(b'data: {"id":"gen-1","choices":[{"delta":{"content":"a"}}]}\n\n')
    outcome = exchange.body(b"data: [DONE]\n\n")
    assert (1000, 4000, 5000) == (outcome.first_byte_us, outcome.first_token_us, outcome.last_byte_us)


def test_the_intent_commits_to_the_body_and_hides_the_key():
    body = example("requests/chat.json")
    exchange, intent, private = begun(a_request(body=body, headers=[(b"user-agent", b"OpenAI/Python 3.54.0")]))
    assert commit(derive_keys(bytes(32)).request, body).hex() == intent.request_commitment
    assert len(body) == intent.request_bytes
    assert KEY not in repr((intent, private))
    assert KEY == exchange.api_key
    assert "https://openrouter.ai/api/v1" == private.base_url
    assert ("customer-8841", "sess-2026-11-23-7f") == (private.user, private.session)
    assert "customer-8841" not in repr(intent)
    _, streamed_intent, _ = begun(a_request(body=None))
    assert streamed_intent.request_bytes is None
    assert streamed_intent.request_commitment is None


def test_a_responses_stream_that_completes_without_usage_ends_at_its_terminal_event():
    """
    What ends the stream is the event itself; a member that OpenRouter left out must not leave the call open.
    """
    events = [
        b'data: {"type":"response.created","response":{"id":"gen-1","model":"openai/gpt-oss-20b"}}\n\n',
        *(b'data: {"type":"response.output_text.delta","delta":"word"}\n\n' for _ in range(12)),
        b'data: {"type":"response.completed","response":{"id":"gen-1","status":"completed"}}\n\n',
    ]
    exchange, _, _ = begun(a_request("/api/v1/responses"))
    exchange.head(200, {b"content-type": b"text/event-stream"})
    outcomes = [exchange.body(event) for event in events]

    assert [None] * 13 == outcomes[:-1]
    assert ("success", True) == (outcomes[-1].status, outcomes[-1].complete)


def test_a_length_that_nobody_can_mean_is_not_believed():
    """
    Python refuses to read a number of more than 4,300 digits.
    """
    exchange, _, _ = begun()
    exchange.head(200, {b"content-type": b"application/json", b"content-length": b"9" * 5000})
    assert exchange.body(example("chat/nonstream.json")) is None
    assert "0.0003136" == exchange.end_of_body().cost


def test_a_method_of_somebodys_own_is_no_word_of_the_log():
    _, intent, _ = begun(a_request(method="GET /secret"))
    assert "OTHER" == intent.method
