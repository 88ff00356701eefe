"""
Anthropic's SDK against the emulator's Messages API, watched: every call is one intent and one outcome, and both are true.

What is true is known from two sides: the emulator's books say what was billed, and a transport below the recorder keeps the
bytes as they came off the wire, so that the hash can be computed again over what was there to be hashed.
"""

import asyncio
import gc
import hashlib
import json
import re
import ssl
import zlib

import anthropic
import httpx2
import pytest
from tests.capture.recording import KEY, FakeRecorder, answered, example
from tests.journal.homes import check_log, of_kind
from tests.testing.test_books import until

import openrouter_audit
from openrouter_audit import AuditLog
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.core.commitments import commit, derive_keys
from openrouter_audit.testing import FakeOpenRouter

MODEL = "anthropic/claude-sonnet-4.6"
ASK = {"model": MODEL, "max_tokens": 256, "messages": [{"role": "user", "content": "Which invoice is overdue?"}]}
TOOLS = [
    {"name": "find_invoice", "input_schema": {"type": "object"}},
    {"name": "send_mail", "input_schema": {"type": "object"}},
]
TERMINAL = re.compile(rb'^data: ({"type":"message_stop".*|{"type":"error".*|\[DONE\])\n', re.MULTILINE)


def asked(switches="", **more):
    """What `create` takes, with the switches of this one call."""
    return {**ASK, **more, "extra_headers": {"X-Emulator": switches, **more.get("extra_headers", {})}}


# Below the recorder ----------------------------------------------------------------------------------------------------


class Exchange:
    """One request as it was sent and the pieces of its answer as they came."""

    def __init__(self, body):
        self.body, self.pieces, self.gzip, self.events = body, [], False, False

    def hashed(self):
        """The bytes a commitment is over: all of a body, a stream up to the piece with the terminal line (C10)."""
        if not self.events:
            return b"".join(self.pieces)
        unpacker, text = zlib.decompressobj(wbits=31), b""
        for count, piece in enumerate(self.pieces, 1):
            text += unpacker.decompress(piece) if self.gzip else piece
            if TERMINAL.search(text):
                return b"".join(self.pieces[:count])
        return b"".join(self.pieces)


class _Kept(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, inner, exchange):
        self._inner, self._exchange = inner, exchange

    def __iter__(self):
        for piece in self._inner:
            self._exchange.pieces.append(piece)
            yield piece

    async def __aiter__(self):
        async for piece in self._inner:
            self._exchange.pieces.append(piece)
            yield piece

    def close(self):
        self._inner.close()

    async def aclose(self):
        await self._inner.aclose()


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # made once: reading all certificates takes longer than a call


class Wire(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """A transport of either kind that keeps what passes."""

    def __init__(self):
        self.exchanges = []
        self._sync, self._async = httpx2.HTTPTransport(verify=_NO_TLS), httpx2.AsyncHTTPTransport(verify=_NO_TLS)

    def _keep(self, body, response):
        exchange = Exchange(body)
        exchange.gzip = "gzip" == response.headers.get("content-encoding")
        exchange.events = response.headers["content-type"].startswith("text/event-stream")
        self.exchanges.append(exchange)
        response.stream = _Kept(response.stream, exchange)
        return response

    def handle_request(self, request):
        return self._keep(request.read(), self._sync.handle_request(request))

    async def handle_async_request(self, request):
        return self._keep(await request.aread(), await self._async.handle_async_request(request))

    def close(self):
        self._sync.close()

    async def aclose(self):
        await self._async.aclose()


# The ways of the SDK ---------------------------------------------------------------------------------------------------


def create(client, **ask):
    client.messages.create(**ask)


def create_streamed(client, **ask):
    list(client.messages.create(stream=True, **ask))


def helper(client, **ask):
    with client.messages.stream(**ask) as stream:
        "".join(stream.text_stream)
        stream.get_final_message()


def raw(client, **ask):
    assert client.messages.with_raw_response.create(**ask).parse().content


def raw_streamed(client, **ask):
    list(client.messages.with_raw_response.create(stream=True, **ask).parse())


def streaming(client, **ask):
    with client.messages.with_streaming_response.create(**ask) as response:
        assert response.read()


def streaming_streamed(client, **ask):
    with client.messages.with_streaming_response.create(stream=True, **ask) as response:
        for _ in response.iter_bytes():
            pass


def beta(client, **ask):
    client.beta.messages.create(**ask)


def beta_streamed(client, **ask):
    with client.beta.messages.stream(**ask) as stream:
        stream.get_final_message()


async def create_async(client, **ask):
    await client.messages.create(**ask)


async def create_streamed_async(client, **ask):
    assert [event async for event in await client.messages.create(stream=True, **ask)]


async def helper_async(client, **ask):
    async with client.messages.stream(**ask) as stream:
        assert "".join([text async for text in stream.text_stream])
        await stream.get_final_message()


async def raw_async(client, **ask):
    response = await client.messages.with_raw_response.create(**ask)
    assert (await response.parse()).content


async def raw_streamed_async(client, **ask):
    response = await client.messages.with_raw_response.create(stream=True, **ask)
    assert [event async for event in await response.parse()]


async def streaming_async(client, **ask):
    async with client.messages.with_streaming_response.create(**ask) as response:
        assert await response.read()


async def streaming_streamed_async(client, **ask):
    async with client.messages.with_streaming_response.create(stream=True, **ask) as response:
        async for _ in response.iter_bytes():
            pass


WAYS = [create, create_streamed, helper, raw, raw_streamed, streaming, streaming_streamed, beta, beta_streamed]
ASYNC_WAYS = [
    create_async, create_streamed_async, helper_async, raw_async, raw_streamed_async, streaming_async, streaming_streamed_async,
]  # fmt: skip


class Desk:
    """An emulator, clients to it, and what was recorded of them."""

    def __init__(self, emulator, recorder):
        self.emulator, self.recorder, self.wire = emulator, recorder, Wire()

    @property
    def books(self):
        return self.emulator.calls()

    def client(self, **options):
        http_client = anthropic.DefaultHttpxClient(transport=self.wire)
        return anthropic.Anthropic(
            base_url=self.emulator.url.removesuffix("/v1"),
            api_key=KEY,
            http_client=http_client,
            **{"max_retries": 0, **options},
        )

    def async_client(self, **options):
        http_client = anthropic.DefaultAsyncHttpxClient(transport=self.wire)
        return anthropic.AsyncAnthropic(
            base_url=self.emulator.url.removesuffix("/v1"),
            api_key=KEY,
            http_client=http_client,
            **{"max_retries": 0, **options},
        )

    def run(self, way, switches="", **more):
        """One call by one of the ways."""
        if way not in ASYNC_WAYS:
            with self.client() as client:
                return way(client, **asked(switches, **more))

        async def go():
            async with self.async_client() as client:
                await way(client, **asked(switches, **more))

        return asyncio.run(go())

    def outcome(self):
        (outcome,) = self.recorder.outcomes
        return outcome

    def check(self):
        """Intents, outcomes, books and wire tell of the same calls, in the same words, to the last digit and byte."""
        privates = [private for _, private, _ in self.recorder.frames if private is not None]
        rows = zip(
            self.recorder.intents, self.recorder.outcomes, privates, self.books, self.wire.exchanges, strict=True
        )
        for intent, outcome, private, row, exchange in rows:
            assert intent.id == outcome.id
            assert ("messages", "POST", "/api/v1/messages", MODEL) == (
                intent.endpoint, intent.method, intent.path, intent.model,
            )  # fmt: skip
            assert f"anthropic/{anthropic.__version__}" == intent.sdk
            assert row["key_hash"] == intent.key_hash
            assert (row["status"], row["generation_id"]) == (outcome.http_status, outcome.generation_id)
            keys = derive_keys(private.commitment_key)
            assert hashlib.sha256(exchange.body).hexdigest() == row["request_sha256"]
            assert commit(keys.request, exchange.body).hex() == intent.request_commitment
            assert commit(keys.response, exchange.hashed()).hex() == outcome.response_commitment
            assert len(exchange.hashed()) == outcome.response_bytes
            if outcome.status == "success":
                assert (row["model"], row["provider"], row["prompt_tokens"], row["completion_tokens"], row["billed"]) == (
                    outcome.model, outcome.provider, outcome.prompt_tokens, outcome.completion_tokens, outcome.cost,
                )  # fmt: skip


@pytest.fixture
def emulator():
    with FakeOpenRouter(seed=3) as running:  # one for each test: a call that was left is booked when it is noticed
        yield running


@pytest.fixture
def recorder():
    return FakeRecorder()


@pytest.fixture
def desk(emulator, recorder):
    """Everything in the process is recorded; checks afterwards that nothing of ours failed."""
    faults.counts.clear()
    instrument(recorder, HostSet(["127.0.0.1"]))
    yield Desk(emulator, recorder)
    uninstrument()
    assert {} == faults.counts
    recorder.check()


# Calls that go well ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "switches"),
    [
        ("buffer", ""),
        ("strict", ""),
        ("buffer", "gzip=1"),
        ("buffer", "chunk=7"),
        ("buffer", "gzip=1;chunk=7"),
        ("buffer", "usage_shape=b;keepalives=3"),
        ("buffer", "usage_shape=c"),
    ],
)
@pytest.mark.parametrize("way", [*WAYS, *ASYNC_WAYS], ids=lambda way: way.__name__)
def test_each_way_to_ask_is_one_call_with_all_its_facts(desk, way, mode, switches):
    """
    Money in an awkward notation, a body cut anywhere, packed or not: the log says what the books say.
    """
    desk.recorder.mode = mode
    desk.run(way, f"cost=0.0076509169000000005;{switches}", metadata={"user_id": "customer-8841"})
    desk.check()
    outcome = desk.outcome()
    assert (2 if mode == "strict" else 0) == len(desk.recorder.synced)
    assert ("success", True, "stop", "end_turn") == (
        outcome.status, outcome.complete, outcome.finish_reason, outcome.native_finish_reason,
    )  # fmt: skip
    assert ("0.0076509169000000005", False, "standard") == (outcome.cost, outcome.is_byok, outcome.service_tier)
    streamed = "streamed" in way.__name__ or "helper" in way.__name__
    assert streamed == bool(desk.recorder.intents[0].stream)
    assert streamed == (outcome.first_token_us is not None)
    (private,) = [private for _, private, _ in desk.recorder.frames if private is not None]
    assert "customer-8841" == private.user


@pytest.mark.parametrize(
    "way", [create, create_streamed, create_async, create_streamed_async], ids=lambda way: way.__name__
)
def test_tools_are_named_and_a_call_of_them_is_its_finish_reason(desk, way):
    desk.run(way, "tools=2", tools=TOOLS)
    desk.check()
    (intent,), outcome = desk.recorder.intents, desk.outcome()
    assert ("tool_calls", "tool_use") == (outcome.finish_reason, outcome.native_finish_reason)
    assert (("find_invoice", "send_mail"), 2) == (intent.tools, intent.tool_count)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
def test_stop_reasons_in_chats_words(word, reason):
    """
    The provider's word stays as it is; one that chat has no word for is not made to fit.
    """
    body = json.dumps({"id": "gen-1", "type": "message", "content": [], "stop_reason": word}).encode()
    outcome, _ = answered([body], path="/api/v1/messages")
    assert (reason, word) == (outcome.finish_reason, outcome.native_finish_reason)


def test_a_model_that_speaks_of_the_markers_ends_nothing(desk):
    """
    A tool's name and arguments full of the words that the scanner looks for.
    """
    words = {"type": "message_stop", "usage": {"cost": 9}, "error": {"type": "x"}, "stop_reason": "max_tokens"}
    desk.emulator.script(
        [{"tools": [{"name": "message_stop", "arguments": {"said": f"data: {json.dumps(words)}"}}]}] * 2
    )
    desk.run(create)
    desk.run(create_streamed)
    desk.check()
    assert [("success", True, "tool_calls")] * 2 == [
        (outcome.status, outcome.complete, outcome.finish_reason) for outcome in desk.recorder.outcomes
    ]


@pytest.mark.parametrize("filler", [100, 300_000, 2_000_000])
def test_the_arguments_of_a_tool_are_no_facts_however_long_the_message(desk, filler):
    """
    They are JSON in the middle of the body, and may hold an error, a model, a cost. Of a long body both ends are kept.
    """
    said = {"error": {"type": "x"}, "model": "m", "provider": "p", "finish_reason": "error", "stop_reason": "y"}
    arguments = {"before": said, "filler": "x" * filler, "after": {**said, "usage": {"cost": 9}, "id": "gen-9"}}
    desk.emulator.script([{"tools": [{"name": "note", "arguments": arguments}]}])
    desk.run(create)
    desk.check()
    outcome = desk.outcome()
    assert ("success", True, "tool_calls", "tool_use", None) == (
        outcome.status, outcome.complete, outcome.finish_reason, outcome.native_finish_reason, outcome.error_type,
    )  # fmt: skip


def test_what_a_tool_of_the_server_found_is_no_fact_however_long_it_is():
    """
    Its result stands as JSON in an opening event, here in one of 300 KB.
    """
    lines = example("messages/stream.sse").split(b"\n")
    found = {"error": {"type": "x"}, "stop_reason": "y", "usage": {"cost": 9}, "page": "x" * 300_000, "id": "gen-9"}
    block = {"type": "web_fetch_tool_result", "content": found}
    said = json.dumps({"type": "content_block_start", "index": 1, "content_block": block}).encode()
    at = lines.index(b"event: content_block_stop")
    stream = b"\n".join([*lines[:at], b"event: content_block_start", b"data: " + said, b"", *lines[at:]])
    headers = [(b"content-type", b"text/event-stream")]
    for size in (1000, 100_000, len(stream)):
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        outcome, _ = answered(pieces, path="/api/v1/messages", headers=headers)
        assert ("success", True, "0.001083", "end_turn", "gen-1795426560-xza5bu2bcIAxBbE9fVO6") == (
            outcome.status, outcome.complete, outcome.cost, outcome.native_finish_reason, outcome.generation_id,
        )  # fmt: skip
    begun = stream[: stream.index(said) + len(said) + 1]
    pieces = [begun[start : start + 1000] for start in range(0, len(begun), 1000)]
    left, _ = answered(pieces, path="/api/v1/messages", headers=headers, ending="close")
    assert ("abandoned", None, None) == (left.status, left.cost, left.finish_reason)


@pytest.mark.parametrize("way", [create, create_streamed, helper_async], ids=lambda way: way.__name__)
def test_attempts_of_the_router_are_read_where_the_request_asks_for_them(desk, way):
    desk.run(way, "provider=Azure", extra_headers={"X-OpenRouter-Metadata": "enabled"})
    desk.check()
    assert [("Anthropic", 429), ("Azure", 200)] == [(one.provider, one.status) for one in desk.outcome().attempts]


def test_a_redirect_is_a_hop_of_one_call(desk):
    with desk.client() as client:
        client.messages.create(**asked("redirect=307"))
    outcome = desk.outcome()
    assert ("success", 200, 1) == (outcome.status, outcome.http_status, len(outcome.redirects))
    assert [307, 200] == [row["status"] for row in desk.books]
    assert (307, desk.books[1]["billed"]) == (outcome.redirects[0].status, outcome.cost)


def test_the_extra_done_of_the_recording_comes_after_the_outcome(desk):
    """
    `event: data` with `[DONE]` after `message_stop`: this SDK cannot read it, and says so to its caller; the call is whole.
    """
    with pytest.raises(json.JSONDecodeError):
        desk.run(create_streamed, "end=extra_done")
    desk.check()
    assert ("success", True) == (desk.outcome().status, desk.outcome().complete)


# Calls that fail -------------------------------------------------------------------------------------------------------

REFUSED = {
    400: "invalid_request",
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    413: "payload_too_large",
    422: "unprocessable",
    429: "rate_limit_exceeded",
    500: "server",
    502: "provider_unavailable",
    503: "provider_overloaded",
    504: "timeout",
    524: "timeout",
    529: "provider_overloaded",
}


@pytest.mark.parametrize("way", [create, helper, raw, create_async, streaming_async], ids=lambda way: way.__name__)
def test_a_refusal_is_an_error_with_its_status(desk, way):
    for status in REFUSED:
        with pytest.raises(anthropic.APIStatusError) as caught:
            desk.run(way, f"status={status}")
        assert status == caught.value.status_code
    desk.check()
    for (status, kind), outcome in zip(REFUSED.items(), desk.recorder.outcomes, strict=True):
        assert ("error", True, str(status), kind, "http", None) == (
            outcome.status, outcome.complete, outcome.error_code, outcome.error_type, outcome.error_source, outcome.cost,
        )  # fmt: skip


@pytest.mark.parametrize("way", [create, create_async], ids=lambda way: way.__name__)
def test_an_error_in_a_200_is_an_error(desk, way):
    """
    This SDK makes a message of it, without a word to its caller.
    """
    desk.run(way, "end=error_first;error=529_overloaded")
    desk.check()
    outcome = desk.outcome()
    assert ("error", True, 200, "overloaded_error", "provider_overloaded", "body") == (
        outcome.status, outcome.complete, outcome.http_status, outcome.error_code, outcome.error_type, outcome.error_source,
    )  # fmt: skip


@pytest.mark.parametrize("packed", ["", ";gzip=1", ";chunk=7"])
@pytest.mark.parametrize(
    ("switches", "code", "kind", "cost"),
    [
        ("end=error_first", "rate_limit_error", "rate_limit_exceeded", None),
        ("end=error_mid;error=529_overloaded", "overloaded_error", "provider_overloaded", None),
        ("end=error_mid;error_code=server_error", "server_error", "provider_unavailable", None),
        ("end=error_usage", "invalid_request_error", "invalid_request", "0"),
    ],
)
@pytest.mark.parametrize(
    "way", [create_streamed, helper, create_streamed_async, helper_async], ids=lambda way: way.__name__
)
def test_an_error_event_is_an_error_wherever_it_comes(desk, way, switches, code, kind, cost, packed):
    with pytest.raises(anthropic.APIStatusError):
        desk.run(way, f"tokens=6;{switches}{packed}")
    desk.check()
    outcome = desk.outcome()
    assert ("error", 200, code, kind, "stream", cost) == (
        outcome.status, outcome.http_status, outcome.error_code, outcome.error_type, outcome.error_source, outcome.cost,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("end", "status", "complete", "raises"),
    [
        ("done", "success", True, None),
        ("no_done", "success", False, None),
        ("native_error", "error", True, None),
        ("cut_boundary", "error", False, None),
        ("cut_frame", "error", False, httpx2.RemoteProtocolError),
    ],
)
@pytest.mark.parametrize("way", [create_streamed, create_streamed_async], ids=lambda way: way.__name__)
def test_each_end_of_a_stream_is_named(desk, way, end, status, complete, raises):
    if raises is None:
        desk.run(way, f"tokens=6;end={end}")
    else:
        with pytest.raises(raises):
            desk.run(way, f"tokens=6;end={end}")
    desk.check()
    outcome = desk.outcome()
    assert (status, complete) == (outcome.status, outcome.complete)
    assert ("truncated" if end.startswith("cut_") else None) == outcome.error_type


def test_what_the_opening_event_did_not_count_is_unknown(desk):
    """
    The zeros of `message_start` are no figures: nothing was counted yet when the stream broke off. What it did count stays.
    """
    for shape in ("a", "b"):
        desk.run(create_streamed, f"tokens=6;end=cut_boundary;usage_shape={shape}")
    first, second = desk.recorder.outcomes
    assert (None, None, None) == (first.prompt_tokens, first.completion_tokens, first.cost)
    assert desk.books[1]["prompt_tokens"] == second.prompt_tokens


@pytest.mark.parametrize("end", ["cut_frame", "cut_boundary"])
@pytest.mark.parametrize("way", [create, create_async], ids=lambda way: way.__name__)
def test_a_message_that_is_cut_is_truncated(desk, way, end):
    with pytest.raises(anthropic.APIConnectionError):
        desk.run(way, f"end={end}")
    outcome = desk.outcome()
    assert ("error", False, "truncated", None) == (outcome.status, outcome.complete, outcome.error_type, outcome.cost)


@pytest.mark.parametrize(
    ("way", "switches"),
    [
        (create, "latency_ms=never"),
        (create_async, "end=hold"),
        (create_streamed, "end=hold"),
        (create_streamed_async, "end=hold;gzip=1"),
    ],
)
def test_silence_until_the_clients_own_time_out_is_a_time_out(desk, way, switches):
    with pytest.raises((anthropic.APITimeoutError, httpx2.ReadTimeout)):
        desk.run(way, switches, timeout=httpx2.Timeout(30, read=0.3))
    outcome = desk.outcome()
    assert ("timeout", False, "ReadTimeout") == (outcome.status, outcome.complete, outcome.error_code)


def test_a_connection_that_closes_before_an_answer_is_an_error(desk):
    with pytest.raises(anthropic.APIConnectionError):
        desk.run(create, "status=0")
    outcome = desk.outcome()
    assert ("error", None, "truncated", "client") == (
        outcome.status, outcome.http_status, outcome.error_type, outcome.error_source,
    )  # fmt: skip


# Calls that are left ---------------------------------------------------------------------------------------------------


def closed(stream):
    next(iter(stream))
    stream.close()


def broken_off(stream):
    with stream:
        for _ in stream:
            break


def dropped(stream):
    next(iter(stream))


@pytest.mark.parametrize("leave", [closed, broken_off, dropped], ids=lambda leave: leave.__name__)
def test_a_stream_its_caller_leaves_is_abandoned(desk, leave):
    with desk.client() as client:
        leave(client.messages.create(stream=True, **asked("tokens=6;end=hold")))
        gc.collect()
        outcome = desk.outcome()
    assert ("abandoned", False, 200) == (outcome.status, outcome.complete, outcome.http_status)
    assert (None, MODEL.replace("sonnet-4.6", "4.6-sonnet-20260217")) == (outcome.cost, outcome.model)
    assert outcome.generation_id


def test_a_helper_left_in_the_middle_is_abandoned(desk):
    with desk.client() as client:
        with client.messages.stream(**asked("tokens=6;end=hold")) as stream:
            for _ in stream.text_stream:
                break
        outcome = desk.outcome()
    assert ("abandoned", False) == (outcome.status, outcome.complete)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stream_whose_caller_is_stopped_is_cancelled(desk, stop):
    with desk.client() as client:
        with pytest.raises(stop), client.messages.stream(**asked("tokens=6;end=hold")) as stream:
            for _ in stream.text_stream:
                raise stop
        outcome = desk.outcome()
    assert ("cancelled", False) == (outcome.status, outcome.complete)


def test_an_async_stream_its_caller_leaves_is_abandoned(desk):
    async def go():
        async with desk.async_client() as client:
            async with client.messages.stream(**asked("tokens=6;end=hold")) as stream:
                async for _ in stream.text_stream:
                    break
            stream = await client.messages.create(stream=True, **asked("tokens=6;end=hold"))
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(go())
    assert [("abandoned", False)] * 2 == [(outcome.status, outcome.complete) for outcome in desk.recorder.outcomes]


def test_a_stream_left_after_its_last_figures_is_a_success(desk):
    """
    The stop reason and the cost have come; only `message_stop` has not.
    """
    with desk.client() as client:
        stream = client.messages.create(stream=True, **asked("tokens=6;gap_ms=1"))
        for event in stream:
            if event.type == "message_delta":
                break
        stream.close()
    outcome = desk.outcome()
    until(lambda: desk.books)
    assert ("success", "stop") == (outcome.status, outcome.finish_reason)
    assert (6, desk.books[0]["billed"]) == (outcome.completion_tokens, outcome.cost)


def test_a_cancelled_task_is_cancelled_wherever_it_waits(desk):
    """
    For the answer, for the rest of a body, inside a stream, inside the helper's.
    """

    async def run():
        async with desk.async_client() as client:

            async def answer():
                await client.messages.create(**asked("latency_ms=never"))

            async def body():
                await client.messages.create(**asked("end=hold"))

            async def stream():
                async for _ in await client.messages.create(stream=True, **asked("tokens=6;end=hold")):
                    pass

            async def helped():
                async with client.messages.stream(**asked("tokens=6;end=hold")) as stream:
                    await stream.get_final_message()

            for work in (answer, body, stream, helped):
                sent = asyncio.Event()
                desk.recorder.on_write = lambda facts, sent=sent: sent.set()
                task = asyncio.create_task(work())
                await sent.wait()
                await asyncio.sleep(0.2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(run())
    assert ["cancelled"] * 4 == [outcome.status for outcome in desk.recorder.outcomes]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_retry_of_the_sdk_is_a_second_attempt_of_one_group(desk, streamed):
    """
    429, then 200: two calls of one group; the next call is a group of its own, asynchronous or not.
    """

    async def go():
        async with desk.async_client(max_retries=2) as client:
            desk.emulator.script([{"status": 429, "retry_after": "0"}, {}])
            await (create_streamed_async if streamed else create_async)(client, **ASK)

    with desk.client(max_retries=2) as client:
        desk.emulator.script([{"status": 429, "retry_after": "0"}, {}])
        (create_streamed if streamed else create)(client, **ASK)
    asyncio.run(go())
    desk.check()
    intents = desk.recorder.intents
    assert [1, 2, 1, 2] == [intent.attempt for intent in intents]
    assert intents[0].group == intents[1].group != intents[2].group == intents[3].group
    assert ["error", "success"] * 2 == [outcome.status for outcome in desk.recorder.outcomes]
    assert {intents[0].request_commitment} != {intents[1].request_commitment}  # each call has a key of its own


# Nothing changes for the caller ----------------------------------------------------------------------------------------


def told(way, client, switches):
    """What a caller gets to see: events or message, or the exception with its arguments."""
    try:
        if way == "plain":
            return client.messages.create(**asked(switches)).to_dict()
        return [event.to_dict() for event in client.messages.create(stream=True, **asked(switches))]
    except Exception as error:
        return type(error), str(error.args)


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_the_caller_sees_what_it_would_have_seen_without_us(way):
    """
    Two emulators of one seed, one client watched and one not: results, exceptions and pieces are the same, for every end.
    """
    from openrouter_audit.testing.emulator.switches import ENDS

    asks = [f"tokens=6;end={end}" for end in ENDS if end != "hold"]
    asks += ["status=429", "status=0", "gzip=1;chunk=5", "chunk=1;tokens=2", "error=524_cloudflare", "redirect=308"]
    seen = []
    for watched in (False, True):
        with FakeOpenRouter(seed=9) as emulator:
            recorder = FakeRecorder()
            desk = Desk(emulator, recorder)
            with desk.client() as client:
                if watched:
                    openrouter_audit.capture.explicit.wrap(client, recorder, HostSet(["127.0.0.1"]))
                results = [told(way, client, switches) for switches in asks]
            assert (len(asks) if watched else 0) == len(recorder.outcomes)
            seen.append((results, [exchange.pieces for exchange in desk.wire.exchanges]))
    (bare, bare_pieces), (ours, our_pieces) = seen
    assert re.sub(r"127\.0\.0\.1:\d+", "", repr(bare)) == re.sub(r"127\.0\.0\.1:\d+", "", repr(ours))
    assert [b"".join(pieces) for pieces in bare_pieces] == [b"".join(pieces) for pieces in our_pieces]


# With a real log -------------------------------------------------------------------------------------------------------


def entries_agree(home, books):
    """The journal proves, and holds one intent and one outcome for each row of the books."""
    entries = check_log(home)
    intents, outcomes = of_kind(entries, "call.intent"), of_kind(entries, "call.outcome")
    assert len(books) == len(intents) == len(outcomes)
    by_id = {outcome["id"]: outcome for outcome in outcomes}
    for intent, row in zip(intents, books, strict=True):
        outcome = by_id[intent["id"]]
        assert ("messages", MODEL) == (intent["endpoint"], intent["model"])
        assert ("success", row["billed"], row["generation_id"]) == (
            outcome["status"],
            outcome["cost"],
            outcome["generation_id"],
        )


@pytest.fixture
def openrouter():
    with FakeOpenRouter(seed=5) as running:
        yield running


def four_calls(openrouter, wrap):
    """Plain and streamed, sync and async, through clients that `wrap` was given."""
    where = {"base_url": openrouter.url.removesuffix("/v1"), "api_key": KEY}

    async def go():
        async with wrap(anthropic.AsyncAnthropic(**where)) as client:
            await create_async(client, **asked("gzip=1"))
            await helper_async(client, **asked())

    with wrap(anthropic.Anthropic(**where)) as client:
        create(client, **asked())
        helper(client, **asked("gzip=1"))
    asyncio.run(go())


def test_a_wrapped_client_records_each_call_once(tmp_path, openrouter):
    with AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"], enrich=False) as audit:
        four_calls(openrouter, audit.wrap)
        four_calls(openrouter, lambda client: audit.wrap(audit.wrap(client)))
        four_calls(openrouter, lambda client: client)
    entries_agree(audit.home, openrouter.calls()[:8])


def test_a_client_made_for_the_sdk_records_each_call_once(tmp_path, openrouter):
    """
    Handed to the SDK in place of its own, beside an installed log that would record it too.
    """
    audit = openrouter_audit.install(tmp_path / "home", hosts=["127.0.0.1"])
    where = {"base_url": openrouter.url.removesuffix("/v1"), "api_key": KEY}

    async def go():
        async with anthropic.AsyncAnthropic(http_client=audit.httpx2_async_client(), **where) as client:
            await helper_async(client, **asked())

    try:
        with anthropic.Anthropic(http_client=audit.httpx2_client(), **where) as client:
            create(client, **asked())
            helper(client, **asked("gzip=1"))
        asyncio.run(go())
        audit.flush()
    finally:
        openrouter_audit.uninstall()
    entries_agree(audit.home, openrouter.calls())


def test_an_installed_log_records_each_call_once_wrapped_or_not(tmp_path, openrouter):
    audit = openrouter_audit.install(tmp_path / "home", hosts=["127.0.0.1"])
    try:
        four_calls(openrouter, lambda client: client)
        four_calls(openrouter, audit.wrap)
        audit.flush()
    finally:
        openrouter_audit.uninstall()
    entries_agree(audit.home, openrouter.calls())


def test_what_was_left_is_priced_by_its_generation(tmp_path, openrouter):
    """
    An abandoned stream has no cost in its answer; the record has, and the log asks for it.
    """
    with AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"]) as audit:
        with audit.wrap(anthropic.Anthropic(base_url=openrouter.url.removesuffix("/v1"), api_key=KEY)) as client:
            stream = client.messages.create(stream=True, **asked("tokens=6;end=hold"))
            for event in stream:
                if event.type == "content_block_delta":
                    break
            stream.close()
            client.messages.create(**asked())
        until(lambda: audit.flush() and 2 == len(of_kind(check_log(audit.home), "call.cost")), seconds=30)
    costs = {entry["id"]: entry for entry in of_kind(check_log(audit.home), "call.cost")}
    billed = {row["generation_id"]: row["billed"] for row in openrouter.calls()}
    for outcome in of_kind(check_log(audit.home), "call.outcome"):
        assert billed[outcome["generation_id"]] == costs[outcome["id"]]["total_cost"]
