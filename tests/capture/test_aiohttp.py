"""Sessions of aiohttp: every way to read and every way to end, beside a twin that nobody watches."""

import asyncio
import gc
import gzip
import json
import logging
import subprocess
import sys

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from tests.capture.recording import EXAMPLES, HOSTS, KEY, MESSAGES, MODEL, FakeRecorder, answers, installed

from openrouter_audit.capture import aiohttp_sessions
from openrouter_audit.capture.explicit import wrap
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.errors import AuditUnavailable

STREAM = (EXAMPLES / "chat/stream.sse").read_bytes()
ANSWER = (EXAMPLES / "chat/nonstream.json").read_bytes()
SSE = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]
BODY = {"model": MODEL, "messages": MESSAGES}
NOWHERE = "http://127.0.0.1:1/api/v1/chat/completions"


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert {} == aiohttp_sessions._readings


def sized(body):
    return [*JSON, (b"content-length", str(len(body)).encode())]


def in_chunks(pieces):
    """The pieces as chunks of the transfer coding."""
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]


def run(action, server, **session):
    """What an action on a session comes to: its result, or type, arguments and cause of what it raises."""

    async def main():
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers, **session) as opened:
            try:
                return await action(opened, server.url + "/chat/completions")
            except BaseException as error:
                return type(error), plain(error.args), type(error.__cause__)

    return asyncio.run(main())


def plain(args):
    return tuple(repr(arg) for arg in args)


def twins(action, server, recorder, **session):
    """Run an action unwatched and watched; both must come to the same, and send the same bytes."""
    before = len(server.received)
    bare = run(action, server, **session)
    half = len(server.received)
    with installed(recorder):
        watched = run(action, server, **session)
    assert bare == watched
    assert server.received[before:half] == server.received[half:]
    return watched


# -- reading ---------------------------------------------------------------------------------------------------------


async def by_read(content):
    return [await content.read()]


async def by_any(content):
    return [piece async for piece in content.iter_any()]


async def by_chunked(content):
    return [piece async for piece in content.iter_chunked(50)]


async def by_chunks(content):
    """The chunks of the transfer coding; how many pieces each comes in is the wire's business."""
    chunks = [b""]
    async for piece, ended in content.iter_chunks():
        chunks[-1] += piece
        if ended:
            chunks.append(b"")
    return [chunk for chunk in chunks if chunk]


async def by_line(content):
    return [line async for line in content]


async def by_readline(content):
    lines = []
    while line := await content.readline():
        lines.append(line)
    return lines


async def by_until(content):
    parts = []
    while part := await content.readuntil(b"\n\n"):
        parts.append(part)
    return parts


async def by_exactly(content):
    first = await content.readexactly(10)
    try:
        await content.readexactly(10**6)
    except asyncio.IncompleteReadError as error:
        return [first, error.partial]


async def by_nowait(content):
    pieces = []
    while not content.at_eof():
        await content.read(0)
        await asyncio.sleep(0)
        pieces.append(content.read_nowait(30))
    return [piece for piece in pieces if piece]


READERS = [by_read, by_any, by_chunked, by_chunks, by_line, by_readline, by_until, by_exactly, by_nowait]


class _Connection(BaseProtocol):
    """A connection that is never heard of: readers ask it to pause."""

    def __init__(self, loop):
        super().__init__(loop, parser=None)
        self.transport = object()

    def pause_reading(self):
        pass

    def resume_reading(self, resume_parser=True):
        pass


class _Call:
    """Hears what a reader tells."""

    def __init__(self):
        self.over, self.unsynced, self.heard = False, False, []

    def piece(self, piece):
        self.heard.append(piece)

    def end(self):
        self.heard.append("end")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("read", READERS)
def test_every_way_of_reading_gives_the_very_same_pieces(read, durable):
    """
    Two readers are fed alike, with a stream cut at many places; the one that is watched gives what the other gives, and
    tells what it was fed.
    """

    async def fed(cut, watched):
        loop = asyncio.get_running_loop()
        content, call = aiohttp.StreamReader(_Connection(loop), 2**16, loop=loop), _Call()
        if watched:
            content.__class__ = aiohttp_sessions._watched(aiohttp.StreamReader, durable=durable)
            aiohttp_sessions._readings[id(content)] = aiohttp_sessions._Reading(call, decoded=False)
        reading = asyncio.ensure_future(read(content))
        for start in range(0, len(STREAM), cut):
            content.begin_http_chunk_receiving()
            content.feed_data(STREAM[start : start + cut])
            content.end_http_chunk_receiving()
            for _ in range(start % 3):
                await asyncio.sleep(0)
        content.feed_eof()
        got = await reading
        del content
        return got, call.heard

    for cut in (1, 7, 61, 1000, len(STREAM)):
        bare, _ = asyncio.run(fed(cut, watched=False))
        watched, heard = asyncio.run(fed(cut, watched=True))
        assert bare == watched
        assert [*(STREAM[at : at + cut] for at in range(0, len(STREAM), cut)), "end"] == heard


@pytest.mark.parametrize("read", READERS)
def test_every_way_of_reading_is_recorded_over_a_socket(server, read):
    """
    A stream in chunks of the transfer coding: whole, once, and with a commitment over what came.
    """
    server.answer(
        200, [*SSE, (b"transfer-encoding", b"chunked")], in_chunks([STREAM[:700], STREAM[700:701], STREAM[701:]])
    )

    async def action(session, url):
        async with session.post(url, json=BODY) as response:
            got = await read(response.content)
            return got if read in {by_chunks, by_line, by_readline, by_until} else b"".join(got)

    recorder = FakeRecorder()
    twins(action, server, recorder)
    outcome = recorder.outcomes[0]
    assert ("success", True, len(STREAM)) == (outcome.status, outcome.complete, outcome.response_bytes)
    assert outcome.cost is not None
    assert outcome.response_commitment is not None
    assert {} == faults.counts
    recorder.check()


def test_bytes_both_ways_are_the_same_with_and_without_us(server):
    """
    Every example answer, and every example request (P5).
    """
    bodies = [path.read_bytes() for path in sorted((EXAMPLES / "requests").iterdir())]
    recorder = FakeRecorder()
    for number, (name, _, _, status, headers) in enumerate(answers()):
        answer = (EXAMPLES / name).read_bytes()
        if status in {204, 304}:
            continue
        server.answer(status, headers, [answer[at : at + 61] for at in range(0, len(answer), 61)] or [b""])
        sent = bodies[number % len(bodies)]

        async def action(session, url, body=sent):
            async with session.post(url, data=body) as response:
                return response.status, response.reason, await response.read(), response.raw_headers

        assert answer == twins(action, server, recorder)[2], name
    assert len(recorder.outcomes) == len(recorder.intents) > 60
    assert {} == faults.counts
    recorder.check()


@pytest.mark.parametrize("mode", ["buffer", "strict"])
@pytest.mark.parametrize(
    "parts",
    [
        lambda content: content.iter_any(),
        lambda content: content.iter_chunked(4096),
        lambda content: aiter(content),
        lambda content: anext_of(content.readany),
        lambda content: anext_of(lambda: content.readuntil(b"\n")),
    ],
    ids=["iter_any", "iter_chunked", "lines", "readany", "readuntil"],
)
def test_the_intent_is_written_before_the_first_byte_and_the_outcome_before_the_last_piece(server, mode, parts):
    """
    And in strict mode both are on the disk by then (P1, C10, C24).
    """
    events, recorder = [], FakeRecorder(mode=mode)
    recorder.on_write = lambda facts: events.append(type(facts).__name__)
    server.on_request = lambda: events.append("request")
    cut = STREAM.index(b"data: [DONE]")
    server.answer(200, SSE, [STREAM[:cut], STREAM[cut:]], pause=0.05)

    async def action(session, url):
        async with session.post(url, json=BODY) as response:
            async for piece in parts(response.content):
                if b"[DONE]" in piece:
                    events.append(("done", len(recorder.synced)))

    with installed(recorder):
        assert None is run(action, server)
    assert ["CallIntent", "request", "CallOutcome", ("done", 2 if mode == "strict" else 0)] == events
    assert {} == faults.counts


@pytest.mark.parametrize("how", ["refuses", "unsyncable"])
def test_a_refused_call_is_not_sent(server, how):
    """
    The recorder takes no intent, or cannot make it durable: `AuditUnavailable`, and the server hears nothing.
    """
    recorder = FakeRecorder(mode="strict", **{how: True})
    server.answer(200, JSON, [ANSWER])

    async def action(session, url):
        await session.post(url, json=BODY)

    with installed(recorder):
        assert AuditUnavailable is run(action, server)[0]
    assert [] == server.received
    assert (["refused"] if how == "unsyncable" else []) == [outcome.status for outcome in recorder.outcomes]


async def anext_of(read):
    while piece := await read():
        yield piece


# -- requests --------------------------------------------------------------------------------------------------------


def test_the_request_is_described_as_it_is_sent(server):
    """
    Key, size, model and commitment, whichever way the body was given; nothing where it is not known beforehand.
    """
    server.answer(200, sized(ANSWER), [ANSWER])
    text = json.dumps(BODY)

    async def streamed():
        yield text[:10].encode()
        yield text[10:].encode()

    def form():
        data = aiohttp.FormData()
        data.add_field("file", b"x", filename="x")
        return data

    async def action(session, url):
        for given in (
            {"json": BODY},
            {"data": text.encode()},
            {"data": text},
            {"data": bytearray(text.encode())},
            {"data": {"model": "m"}},
            {"data": streamed()},
            {"data": form()},
            {"data": text.encode(), "compress": "deflate"},
            {},
        ):
            async with session.post(url, **given) as response:
                await response.read()

    recorder = FakeRecorder()
    with installed(recorder):
        assert None is run(action, server)
    known, unknown = recorder.intents[:5], recorder.intents[5:8]
    assert [len(text)] * 4 + [7] == [intent.request_bytes for intent in known]
    assert all(intent.request_commitment for intent in known)
    assert [MODEL] * 4 == [intent.model for intent in known[:4]]
    assert [None] * 3 == [intent.request_bytes for intent in unknown] == [i.request_commitment for i in unknown]
    assert 0 == recorder.intents[8].request_bytes
    assert {None} != {intent.key_hash for intent in recorder.intents}
    assert 1 == len({intent.key_hash for intent in recorder.intents})
    for intent, sent in zip(recorder.intents[:5], server.received, strict=False):
        assert intent.request_bytes == len(sent.partition(b"\r\n\r\n")[2])
    assert {} == faults.counts
    recorder.check()


def test_what_neither_costs_nor_carries_content_is_no_call_and_other_hosts_are_noticed(server):
    hosts, recorder = HostSet(["127.0.0.1"]), FakeRecorder()
    server.answer(200, JSON, [b"{}"])

    async def action(session, url):
        async with session.get(url.replace("chat/completions", "models")) as response:
            await response.read()
        async with session.post(url.replace("127.0.0.1", "localhost"), json=BODY) as response:
            await response.read()

    with installed(recorder, hosts):
        assert None is run(action, server)
    assert [] == recorder.frames
    assert (f"localhost:{server.port}",) == hosts.strangers


def test_redirects_are_one_call_with_its_hops(server):
    """
    Two redirects; only the last answer is the call's, and every hop says where it led.
    """
    server.answers(
        [
            (307, [(b"location", b"/api/v1/chat/completions?a=1"), (b"content-length", b"2")], [b"no"]),
            (302, [(b"location", b"/api/v1/elsewhere"), (b"content-length", b"0")], []),
            (200, sized(ANSWER), [ANSWER]),
        ]
    )
    recorder = FakeRecorder()

    async def action(session, url):
        async with session.post(url, json=BODY) as response:
            return await response.read()

    with installed(recorder):
        assert ANSWER == run(action, server)
    host = f"127.0.0.1:{server.port}"
    assert [("success", len(ANSWER))] == [(outcome.status, outcome.response_bytes) for outcome in recorder.outcomes]
    assert [(307, host), (302, host)] == [(hop.status, hop.host) for hop in recorder.outcomes[0].redirects]
    assert 3 == len(server.received)
    recorder.check()


def test_middlewares_of_the_caller_stay_and_what_they_send_again_is_one_call(server):
    """
    One of the session that retries, one of the request that has the answer read before the caller has it.
    """
    seen = []

    async def again(request, handler):
        response = await handler(request)
        if response.status == 503:
            response.release()
            response = await handler(request)
        seen.append("again")
        return response

    async def reads(request, handler):
        response = await handler(request)
        await response.read()
        seen.append("reads")
        return response

    async def action(session, url):
        async with session.post(url, json=BODY) as response:
            first = await response.read()
        async with session.post(url, json=BODY, middlewares=(reads,)) as response:
            return first, await response.read()

    recorder = FakeRecorder()
    server.answers([(503, JSON, [b"{}"]), (200, sized(ANSWER), [ANSWER]), (200, sized(ANSWER), [ANSWER])])
    with installed(recorder):
        assert (ANSWER, ANSWER) == run(action, server, middlewares=(again,))
    assert ["again", "reads"] == seen
    assert [("success", True, len(ANSWER))] * 2 == [(o.status, o.complete, o.response_bytes) for o in recorder.outcomes]
    assert {} == faults.counts
    recorder.check()


# -- endings ---------------------------------------------------------------------------------------------------------


async def whole(session, url):
    async with session.post(url, json=BODY) as response:
        return await response.read()


async def as_json(session, url):
    async with session.post(url, json=BODY) as response:
        return await response.json()


async def one_line(session, url):
    async with session.post(url, json=BODY) as response:
        async for line in response.content:
            return line


async def released(session, url):
    response = await session.post(url, json=BODY)
    line = await response.content.readline()
    response.release()
    return line


async def closed(session, url):
    response = await session.post(url, json=BODY)
    line = await response.content.readline()
    response.close()
    return line


async def left_by_exception(session, url):
    async with session.post(url, json=BODY) as response:
        await response.content.readline()
        raise LookupError("of the caller")


async def left_by_interrupt(session, url):
    async with session.post(url, json=BODY) as response:
        await response.content.readline()
        raise KeyboardInterrupt


async def impatient(session, url):
    async with session.post(url, json=BODY, timeout=aiohttp.ClientTimeout(total=0.2)) as response:
        return await response.read()


async def impatient_by_line(session, url):
    response = await session.post(url, json=BODY, timeout=aiohttp.ClientTimeout(total=0.2))
    return [line async for line in response.content]


async def impatient_by_socket(session, url):
    async with session.post(url, json=BODY, timeout=aiohttp.ClientTimeout(sock_read=0.2)) as response:
        return [line async for line in response.content]


async def cancelled(session, url):
    async def read():
        response = await session.post(url, json=BODY)
        return await response.content.readexactly(10**6)

    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0.2)
    reading.cancel()
    return await reading


async def cancelled_whole(session, url):
    reading = asyncio.ensure_future(whole(session, url))
    await asyncio.sleep(0.2)
    reading.cancel()
    return await reading


async def raises_for_status(session, url):
    async with session.post(url, json=BODY, raise_for_status=True) as response:
        return await response.read()


async def raises_later(session, url):
    response = await session.post(url, json=BODY)
    response.raise_for_status()


async def refused(session, url):
    await session.post(NOWHERE, json=BODY)


async def head(session, url):
    async with session.head(url) as response:
        return await response.read()


HALF = STREAM[: STREAM.index(b"\n\n") + 2]
SILENT = [b"", *[b""] * 20]
"""Pieces of nothing: with a pause before each the connection stays open, and says nothing."""
ENDINGS = [
    ("whole", whole, (200, sized(ANSWER), [ANSWER]), ("success", True, None)),
    ("whole until the end of the connection", whole, (200, JSON, [ANSWER]), ("success", True, None)),
    ("json", as_json, (200, sized(ANSWER), [ANSWER]), ("success", True, None)),
    ("text that is no json", as_json, (200, [], [b"<html>"]), ("success", True, None)),
    ("empty", whole, (200, sized(b""), []), ("success", True, None)),
    ("no content", whole, (204, [], []), ("success", True, None)),
    ("head", head, (200, sized(ANSWER), []), ("success", True, None)),
    ("429", whole, (429, sized(b"{}"), [b"{}"]), ("error", True, None)),
    ("500 without length", whole, (500, JSON, [b"{}"]), ("error", True, None)),
    ("raise_for_status of the request", raises_for_status, (402, sized(b"{}"), [b"{}"]), ("error", None, None)),
    ("raise_for_status of the answer", raises_later, (402, sized(b"{}"), [b"{}"]), ("error", None, None)),
    ("gzip", whole, "gzip", ("success", True, None)),
    ("no gzip", whole, (200, [*JSON, (b"content-encoding", b"gzip")], [b"no gzip", b""]), ("error", False, "decode")),
    ("cut by length", whole, (200, [*JSON, (b"content-length", b"99")], [b"{"]), ("error", False, "truncated")),
    ("cut chunk", whole, (200, [*JSON, (b"transfer-encoding", b"chunked")], [b"5\r\nab"]), ("error", False, "truncated")),
    ("cut between events", whole, (200, SSE, [HALF]), ("error", False, "truncated")),
    ("cut inside an event", whole, (200, SSE, [HALF[:-5]]), ("error", False, "truncated")),
    ("stream read to its end", whole, (200, SSE, [STREAM]), ("success", True, None)),
    ("break", one_line, (200, SSE, [HALF, *SILENT]), ("abandoned", False, None)),
    ("release", released, (200, SSE, [HALF, *SILENT]), ("abandoned", False, None)),
    ("close", closed, (200, SSE, [HALF, *SILENT]), ("abandoned", False, None)),
    ("exception in with", left_by_exception, (200, SSE, [HALF, *SILENT]), ("abandoned", False, None)),
    ("KeyboardInterrupt", left_by_interrupt, (200, SSE, [HALF, *SILENT]), ("cancelled", False, None)),
    ("total time-out", impatient, (200, SSE, [HALF, *SILENT]), ("timeout", False, None)),
    ("total time-out, nothing closed", impatient_by_line, (200, SSE, [HALF, *SILENT]), ("timeout", False, None)),
    ("socket time-out", impatient_by_socket, (200, SSE, [HALF, *SILENT]), ("timeout", False, None)),
    ("cancelled, nothing closed", cancelled, (200, SSE, [HALF, *SILENT]), ("cancelled", False, None)),
    ("cancelled", cancelled_whole, (200, SSE, [HALF, *SILENT]), ("cancelled", False, None)),
    ("refused connection", refused, (200, [], []), ("error", False, "connect")),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["buffer", "strict"])
@pytest.mark.parametrize(("action", "answer", "expected"), [case[1:] for case in ENDINGS], ids=[c[0] for c in ENDINGS])
def test_every_ending_gives_one_outcome_and_the_caller_its_own(server, action, answer, expected, mode):
    """
    Result or exception as without us, and one outcome that says how it ended.
    """
    status, headers, pieces = zipped() if answer == "gzip" else answer
    server.answer(status, headers, pieces, pause=0.1 if pieces[1:] else 0.0)
    recorder = FakeRecorder(mode=mode)
    twins(action, server, recorder)
    gc.collect()
    assert 1 == len(recorder.outcomes)
    outcome = recorder.outcomes[0]
    status, complete, error_type = expected
    assert status == outcome.status
    assert complete is None or complete == outcome.complete
    assert error_type == outcome.error_type
    assert {} == faults.counts
    recorder.check()


def zipped():
    body = gzip.compress(ANSWER)
    return 200, [*sized(body), (b"content-encoding", b"gzip")], [body]


def test_an_answer_that_comes_decoded_has_the_size_it_had_on_the_wire_and_no_commitment(server):
    """
    Cost and id are read of what aiohttp decoded; over the raw bytes, which nobody saw, nothing is claimed (C8).
    """
    status, headers, pieces = zipped()
    server.answer(status, headers, pieces)
    recorder = FakeRecorder()
    twins(whole, server, recorder)
    twins(whole, server, recorder, auto_decompress=False)
    decoded, raw = recorder.outcomes
    assert [len(pieces[0])] * 2 == [decoded.response_bytes, raw.response_bytes]
    assert None is decoded.response_commitment is not raw.response_commitment
    assert decoded.cost == raw.cost is not None
    assert decoded.generation_id == raw.generation_id is not None


@pytest.mark.parametrize("mode", ["buffer", "strict"])
def test_a_read_that_was_cancelled_may_be_tried_again(server, mode):
    """
    A caller polls with a time-out of its own: the stream goes on, and so does its record.
    """
    server.answer(200, SSE, [STREAM[:300], STREAM[300:]], pause=0.1)

    async def action(session, url):
        response = await session.post(url, json=BODY)
        got, missed = b"", 0
        while not response.content.at_eof():
            try:
                got += await asyncio.wait_for(response.content.readany(), 0.02)
            except TimeoutError:
                missed += 1
        return got, missed > 0

    recorder = FakeRecorder(mode=mode)
    assert (STREAM, True) == twins(action, server, recorder)
    assert [("success", True)] == [(outcome.status, outcome.complete) for outcome in recorder.outcomes]
    recorder.check()


def test_tasks_cancelled_at_every_step_leave_one_outcome_each(server):
    """
    Cancelled after 0, 1, 2, … turns of the event loop, until one gets through.
    """
    server.answer(200, SSE, [STREAM])
    recorder = FakeRecorder()

    async def action(session, url):
        ends = []
        for turns in range(0, 400, 3):
            task = asyncio.ensure_future(whole(session, url))
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0005 * (turns // 60))
            task.cancel()
            ends += await asyncio.gather(task, return_exceptions=True)
        return ends

    with installed(recorder):
        ends = run(action, server)
    gc.collect()
    assert {bytes, asyncio.CancelledError} >= {type(end) for end in ends}
    assert {"cancelled"} <= {outcome.status for outcome in recorder.outcomes} <= {"cancelled", "success", "abandoned"}
    assert {} == faults.counts
    recorder.check()


def test_an_answer_that_nobody_holds_any_more_gets_an_outcome(server):
    """
    The response is lost and the session closed: its call is abandoned, not open for ever.
    """
    server.answer(200, SSE, [HALF, *SILENT], pause=0.1)

    async def action(session, url):
        response = await session.post(url, json=BODY)
        await response.content.readline()

    recorder = FakeRecorder()
    with installed(recorder):
        assert None is run(action, server)
        gc.collect()
    assert ["abandoned"] == [outcome.status for outcome in recorder.outcomes]
    recorder.check()


def test_a_fault_of_ours_breaks_no_call(server, caplog):
    """
    A recorder that raises what it should not: the answer arrives, the fault is counted and logged once.
    """
    server.answer(200, SSE, [STREAM])
    with caplog.at_level(logging.WARNING, "openrouter_audit"), installed(FakeRecorder(fails=True)):
        for _ in range(2):
            assert STREAM == run(whole, server)
    assert {"begin": 2, "loss": 2} == faults.counts
    assert "fault of ours" not in caplog.text


# -- in and out ------------------------------------------------------------------------------------------------------


def test_uninstalling_puts_the_very_same_function_back():
    before = aiohttp.ClientSession.__dict__["_request"]
    for _ in range(2):
        instrument(FakeRecorder(), HOSTS)
        assert aiohttp.ClientSession.__dict__["_request"] is not before
        uninstrument()
        assert aiohttp.ClientSession.__dict__["_request"] is before


def test_a_foreign_wrapper_on_top_of_ours_stays_and_ours_goes_quiet(server):
    server.answer(200, JSON, [ANSWER])
    recorder, original = FakeRecorder(), aiohttp.ClientSession.__dict__["_request"]
    instrument(recorder, HOSTS)
    ours = aiohttp.ClientSession._request

    async def foreign(self, *args, **kwargs):
        return await ours(self, *args, **kwargs)

    aiohttp.ClientSession._request = foreign
    uninstrument()
    try:
        assert aiohttp.ClientSession.__dict__["_request"] is foreign
        run(whole, server)
        assert [] == recorder.frames
        instrument(recorder, HOSTS)
        run(whole, server)
        assert 1 == len(recorder.intents)
    finally:
        aiohttp.ClientSession._request = ours
        uninstrument()
        aiohttp.ClientSession._request = original


def test_one_session_alone_is_watched_where_somebody_asks_for_it(server):
    """
    `wrap`: this session, not the next one; and once where the process is watched as well.
    """
    server.answer(200, sized(ANSWER), [ANSWER])
    explicit, everywhere = FakeRecorder(), FakeRecorder()

    async def action(session, url):
        assert session is wrap(session, explicit, HOSTS) is wrap(session, explicit, HOSTS)
        assert ANSWER == await whole(session, url)

    assert None is run(action, server)
    assert ANSWER == run(whole, server)
    with installed(everywhere):
        assert None is run(action, server)
    assert (2, 0) == (len(explicit.intents), len(everywhere.intents))
    explicit.check()


def test_a_library_imported_later_is_watched():
    """
    In a fresh process that hooked itself before it imported aiohttp; which we did not import for it.
    """
    program = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from openrouter_audit.capture.transports import instrument
from openrouter_audit.capture.hosts import HostSet
from tests.capture.recording import FakeRecorder
recorder = FakeRecorder()
instrument(recorder, HostSet(["127.0.0.1"]))
assert "aiohttp" not in sys.modules
import aiohttp
async def main():
    async with aiohttp.ClientSession() as session:
        try:
            await session.post({NOWHERE!r}, json={{}})
        except aiohttp.ClientConnectorError:
            pass
asyncio.run(main())
assert ["error"] == [outcome.status for outcome in recorder.outcomes], recorder.frames
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
