"""The adapters: order of writing and sending, bytes and exceptions as without us, tokens, and taking everything out again."""

import asyncio
import gc
import http.client
import logging
import subprocess
import sys
import threading

import httpx
import httpx2
import openai
import pytest
from tests.capture.recording import EXAMPLES, HOSTS, KEY, MESSAGES, MODEL, FakeRecorder, answers, installed

from openrouter_audit.capture.explicit import audited_client, wrap
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import RecordedCall, faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.errors import AuditUnavailable

LIBRARIES = [httpx, httpx2]
STREAM = (EXAMPLES / "chat/stream.sse").read_bytes()


def post(client, url, **more):
    return client.post(
        url + "/chat/completions",
        json={"model": MODEL, "messages": MESSAGES},
        headers={"Authorization": f"Bearer {KEY}"},
        **more,
    )


def pieces_of(client, server, body):
    """One POST, streamed: the raw pieces its reader gets; TCP decides how many."""
    fields = {"Authorization": f"Bearer {KEY}"}
    request = client.build_request("POST", server.url + "/chat/completions", content=body, headers=fields)
    response = client.send(request, stream=True)
    try:
        return list(response.iter_raw())
    finally:
        response.close()


@pytest.mark.parametrize("module", LIBRARIES)
def test_bytes_both_ways_are_the_same_with_and_without_us(server, module):
    """
    Every example answer, and every example request: the server sees the same bytes, and so does the reader (P5).
    """
    bodies = [path.read_bytes() for path in sorted((EXAMPLES / "requests").iterdir())]
    recorder, client = FakeRecorder(), module.Client()
    for number, (name, _, _, status, headers) in enumerate(answers()):
        answer = (EXAMPLES / name).read_bytes()
        if status in {204, 304}:
            continue
        cut = [answer[at : at + 61] for at in range(0, len(answer), 61)] or [b""]
        server.answer(status, headers, cut)
        bare = pieces_of(client, server, bodies[number % len(bodies)])
        with installed(recorder):
            watched = pieces_of(client, server, bodies[number % len(bodies)])
        assert answer == b"".join(bare) == b"".join(watched), name
        first, second = server.received[-2:]
        assert first == second, name
    client.close()
    assert len(recorder.outcomes) == len(recorder.intents) > 60
    assert {} == faults.counts
    recorder.check()


@pytest.mark.parametrize("module", LIBRARIES)
def test_pieces_are_the_very_same_objects(module):
    """
    Nothing is copied: what the transport gives is what the reader gets.
    """
    given = [STREAM[at : at + 100] for at in range(0, len(STREAM), 100)]

    class Body(module.SyncByteStream):
        def __iter__(self):
            yield from given

    class Wire(module.BaseTransport):
        def handle_request(self, request):
            return module.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    with (
        installed(FakeRecorder()),
        module.Client(transport=Wire()) as client,
        client.stream("POST", "https://openrouter.ai/api/v1/chat/completions", json={}) as response,
    ):
        got = list(response.stream)
    assert [id(piece) for piece in given] == [id(piece) for piece in got]


@pytest.mark.parametrize("mode", ["buffer", "strict"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_intent_is_written_before_the_first_byte_and_the_outcome_before_the_last_piece(server, mode, asynchronous):
    """
    Told by the server's own clock of events and by the order in which pieces reach the reader (P1, C10, C24).
    """
    events = []
    recorder = FakeRecorder(mode=mode)
    recorder.on_write = lambda facts: events.append(type(facts).__name__)
    cut = STREAM.index(b"data: [DONE]")
    server.answer(200, [(b"content-type", b"text/event-stream")], [STREAM[:cut], STREAM[cut:]], pause=0.05)
    server.on_request = lambda: events.append("request")
    url, body = server.url + "/chat/completions", {"model": MODEL}

    async def run():
        async with httpx2.AsyncClient() as client, client.stream("POST", url, json=body) as response:
            async for piece in response.aiter_raw():
                events.append(("piece", b"[DONE]" in piece, len(recorder.synced)))

    with installed(recorder):
        if asynchronous:
            asyncio.run(run())
        else:
            with httpx2.Client() as client, client.stream("POST", url, json=body) as response:
                for piece in response.iter_raw():
                    events.append(("piece", b"[DONE]" in piece, len(recorder.synced)))
    intent, outcome = (1, 2) if mode == "strict" else (0, 0)
    assert ["CallIntent", "request", ("piece", False, intent), "CallOutcome", ("piece", True, outcome)] == events


def test_a_whole_answer_is_recorded_before_send_returns_and_before_its_last_piece(server):
    answer = (EXAMPLES / "chat/nonstream.json").read_bytes()
    server.answer(
        200,
        [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())],
        [answer[:500], answer[500:]],
    )
    recorder = FakeRecorder()
    with installed(recorder), httpx2.Client() as client:
        assert 200 == post(client, server.url).status_code
        assert 1 == len(recorder.outcomes)
        with client.stream("POST", server.url + "/chat/completions", json={}) as response:
            seen = [(len(piece), len(recorder.outcomes)) for piece in response.iter_raw()]
    assert len(answer) == sum(size for size, _ in seen)
    assert 2 == seen[-1][1]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("how", ["refuses", "unsyncable"])
def test_a_refused_call_is_not_sent(server, asynchronous, how):
    """
    The recorder takes no intent, or in strict mode cannot make it durable: `AuditUnavailable`, and the server hears nothing.
    """
    recorder = FakeRecorder(mode="strict", **{how: True})
    server.answer(200, [], [b"{}"])

    async def run():
        async with httpx2.AsyncClient() as client:
            await client.post(server.url + "/chat/completions", json={})

    with installed(recorder), pytest.raises(AuditUnavailable):
        if asynchronous:
            asyncio.run(run())
        else:
            with httpx2.Client() as client:
                post(client, server.url)
    assert [] == server.received
    assert (["refused"] if how == "unsyncable" else []) == [outcome.status for outcome in recorder.outcomes]


def test_a_fault_of_ours_breaks_no_call(server, caplog):
    """
    A recorder that raises what it should not: the answer arrives, the fault is counted and logged once, without content.
    """
    server.answer(200, [(b"content-type", b"application/json")], [b'{"id":"gen-1"}'])
    with (
        caplog.at_level(logging.WARNING, "openrouter_audit"),
        installed(FakeRecorder(fails=True)),
        httpx2.Client() as client,
    ):
        for _ in range(3):
            assert {"id": "gen-1"} == post(client, server.url).json()
    assert {"begin": 3, "loss": 3} == faults.counts
    assert 2 == len(caplog.records)
    assert "fault of ours" not in caplog.text


def test_a_call_that_a_fault_of_ours_leaves_unrecorded_is_recorded_as_a_loss(server, monkeypatch):
    """
    What cannot be read of a request must not cost the caller the answer, nor the log its honesty.
    """
    monkeypatch.setattr("openrouter_audit.capture.exchange.read_request", lambda body: 1 / 0)
    server.answer(200, [(b"content-type", b"application/json")], [b'{"id":"gen-1"}'])
    recorder = FakeRecorder()
    with installed(recorder), httpx2.Client() as client:
        assert {"id": "gen-1"} == post(client, server.url).json()
    assert [("capture_fault", 1)] == [(facts.reason, facts.count) for facts, _, _ in recorder.frames]


def test_in_strict_mode_a_fault_of_ours_refuses_the_call(server, monkeypatch):
    """
    Nothing is sent without a durable intent, whatever keeps it from being written.
    """
    monkeypatch.setattr("openrouter_audit.capture.exchange.read_request", lambda body: 1 / 0)
    with installed(FakeRecorder(mode="strict")), httpx2.Client() as client, pytest.raises(AuditUnavailable):
        post(client, server.url)
    assert [] == server.received


def test_a_fault_while_reading_breaks_no_stream(server, monkeypatch):
    """
    Broken in the middle of an exchange: the pieces go on, and the call still gets an outcome.
    """
    from openrouter_audit.capture.event_stream import EventScanner

    monkeypatch.setattr(EventScanner, "feed", lambda self, data: 1 / 0)
    server.answer(200, [(b"content-type", b"text/event-stream")], [STREAM])
    recorder = FakeRecorder()
    with installed(recorder), httpx2.Client() as client:
        assert STREAM == b"".join(pieces_of(client, server, b"{}"))
    assert faults.counts["body"] >= 1
    recorder.check()


@pytest.mark.parametrize("module", LIBRARIES)
def test_exceptions_are_those_of_the_library(server, module):
    """
    Refused connection, closed client, a body that is no gzip, an answer cut short: same class, same words.
    """

    def raised(action):
        with pytest.raises(Exception) as caught:
            action()
        return type(caught.value), str(caught.value), caught.value.__cause__.__class__

    def refused():
        with module.Client() as client:
            post(client, "http://127.0.0.1:1/api/v1")

    def closed():
        client = module.Client()
        client.close()
        post(client, server.url)

    def garbled():
        server.answer(200, [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")], [b"no gzip"])
        with module.Client() as client:
            post(client, server.url)

    def cut():
        server.answer(200, [(b"content-type", b"application/json"), (b"content-length", b"100")], [b"{"])
        with module.Client() as client:
            post(client, server.url)

    def unread():
        server.answer(200, [], [b"{}"])
        with module.Client() as client, client.stream("POST", server.url + "/chat/completions") as response:
            response.json()

    recorder = FakeRecorder()
    for action in (refused, closed, garbled, cut, unread):
        bare = raised(action)
        with installed(recorder):
            assert bare == raised(action), action.__name__
    assert ["connect", None, "decode", "truncated"] == [outcome.error_type for outcome in recorder.outcomes[:4]]
    assert "abandoned" == recorder.outcomes[4].status
    assert {} == faults.counts
    recorder.check()


def test_a_task_started_inside_a_hook_is_a_call_of_its_own(server):
    """
    The hook runs inside the outer send and its task inherits the context; a plain flag would hide the inner call.
    """
    server.answer(200, [(b"content-type", b"application/json")], [b"{}"])
    recorder = FakeRecorder()

    async def run():
        inner = []

        async def hook(request):
            async def other():
                async with httpx2.AsyncClient() as client:
                    await client.post(server.url + "/embeddings", json={})

            inner.append(asyncio.create_task(other()))
            await inner[-1]

        async with httpx2.AsyncClient(event_hooks={"request": [hook]}) as client:
            await client.post(server.url + "/chat/completions", json={})

    def in_thread():
        with httpx2.Client() as client:
            client.post(server.url + "/embeddings", json={})

    def hook(request):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        in_thread()

    with installed(recorder):
        asyncio.run(run())
        with httpx2.Client(event_hooks={"request": [hook]}) as client:
            client.post(server.url + "/chat/completions", json={})
    assert ["chat", "embeddings", "chat", "embeddings", "embeddings"] == [
        intent.endpoint for intent in recorder.intents
    ]
    assert 5 == len(server.received)
    recorder.check()


@pytest.mark.parametrize("module", LIBRARIES)
def test_explicit_and_installed_at_once_record_once(server, module):
    """
    The outermost takes the call; the installed hook below yields to its token. A wrapped client too.
    """
    server.answer(200, [(b"content-type", b"application/json")], [b"{}"])
    explicit, everywhere = FakeRecorder(), FakeRecorder()

    async def run():
        async with audited_client(module, "async", explicit, HOSTS) as client:
            await client.post(server.url + "/chat/completions", json={})
        async with wrap(module.AsyncClient(), explicit, HOSTS) as client:
            await client.post(server.url + "/chat/completions", json={})

    with installed(everywhere):
        with audited_client(module, "sync", explicit, HOSTS) as client:
            assert isinstance(client, module.Client)
            post(client, server.url)
        client = module.Client()
        assert client is wrap(client, explicit, HOSTS) is wrap(client, explicit, HOSTS)
        post(client, server.url)
        client.close()
        asyncio.run(run())
    assert (4, 0) == (len(explicit.intents), len(everywhere.intents))
    explicit.check()


def test_wrap_takes_sdk_objects_and_nothing_else(server):
    server.answer(200, [(b"content-type", b"application/json")], [(EXAMPLES / "chat/nonstream.json").read_bytes()])
    recorder = FakeRecorder()
    with wrap(openai.OpenAI(base_url=server.url, api_key=KEY), recorder, HOSTS) as client:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert ["success"] == [outcome.status for outcome in recorder.outcomes]
    with pytest.raises(TypeError):
        wrap(object(), recorder, HOSTS)


def test_uninstalling_puts_the_very_same_functions_back():
    before = [(cls, cls.__dict__["send"]) for module in LIBRARIES for cls in (module.Client, module.AsyncClient)]
    for _ in range(2):
        instrument(FakeRecorder(), HOSTS)
        instrument(FakeRecorder(), HOSTS)
        assert all(cls.__dict__["send"] is not send for cls, send in before)
        uninstrument()
        assert all(cls.__dict__["send"] is send for cls, send in before)


def test_a_foreign_wrapper_on_top_of_ours_stays_and_ours_goes_quiet(server):
    """
    Another tool patches after us: taking ours out may not take out its own; what is left passes everything on.
    """
    server.answer(200, [], [b"{}"])
    recorder, original = FakeRecorder(), httpx2.Client.__dict__["send"]
    instrument(recorder, HOSTS)
    ours = httpx2.Client.send

    def foreign(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    httpx2.Client.send = foreign
    uninstrument()
    try:
        assert httpx2.Client.__dict__["send"] is foreign
        with httpx2.Client() as client:
            post(client, server.url)
            assert [] == recorder.intents
            instrument(recorder, HOSTS)
            post(client, server.url)
            assert 1 == len(recorder.intents)
    finally:
        httpx2.Client.send = ours
        uninstrument()
        httpx2.Client.send = original


@pytest.mark.parametrize(
    "code",
    [
        "import httpx2, httpx",
        "import httpx2; httpx2.alias_httpx(); import httpx; assert httpx is httpx2",
    ],
)
def test_a_library_imported_later_is_watched_and_an_alias_once(code):
    """
    In a fresh process: installed first, imported afterwards, under one name or two.
    """
    program = f"""
import sys
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.capture.hosts import HostSet
class R:
    mode, policy, frames = "buffer", None, []
    def write(self, facts, private=None, *, follows=None): self.frames.append(facts); return self
    def sync(self, token): pass
    def finished(self, call): pass
assert "httpx" not in sys.modules and "httpx2" not in sys.modules
instrument(R(), HostSet())
{code}
for module in (httpx, httpx2):
    with module.Client(transport=module.MockTransport(lambda request: module.Response(200, json={{"id": "gen-1"}}))) as client:
        client.post("https://openrouter.ai/api/v1/chat/completions", json={{}})
assert [type(facts).__name__ for facts in R.frames] == ["CallIntent", "CallOutcome"] * 2, R.frames
uninstrument()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


def test_only_watched_hosts_are_calls_and_strangers_are_noticed(server):
    server.answer(200, [], [b"{}"])
    recorder, hosts = FakeRecorder(), HostSet()
    with installed(recorder, hosts), httpx2.Client() as client:
        post(client, server.url)
        client.get(server.url.removesuffix("/api/v1") + "/weather")
    assert [] == recorder.frames
    assert (f"127.0.0.1:{server.port}",) == hosts.strangers


def test_reads_that_neither_cost_nor_carry_content_are_no_calls(server):
    server.answer(200, [], [b"{}"])
    recorder = FakeRecorder()
    with installed(recorder), httpx2.Client() as client:
        for path in ("/models", "/key", "/credits", "/generation?id=gen-1", "/providers", "/models/a/b/endpoints"):
            client.get(server.url + path)
        assert [] == recorder.frames
        client.get(server.url + "/generation/content?id=gen-1")
        client.get(server.url + "/videos/gen-vid-1")
        client.post(server.url + "/whatever/new")
    assert ["data", "videos", "unclassified"] == [intent.endpoint for intent in recorder.intents]
    assert ["/api/v1/generation/content", "/api/v1/videos/~", None] == [intent.path for intent in recorder.intents]
    privates = [private.path for _, private, _ in recorder.frames if private]
    assert [None, "/api/v1/videos/gen-vid-1", "/api/v1/whatever/new"] == privates


def test_a_redirect_is_one_call_with_its_hops(server):
    recorder = FakeRecorder()
    server.answers(
        [
            (307, [(b"location", server.url.encode() + b"/chat/completions"), (b"content-length", b"0")], []),
            (200, [(b"content-type", b"application/json")], [b'{"id":"gen-1"}']),
        ]
    )
    with installed(recorder), httpx2.Client(follow_redirects=True) as client:
        client.post(server.url + "/old", json={"model": "a/b"})
    (outcome,) = recorder.outcomes
    assert [(307, f"127.0.0.1:{server.port}")] == [(hop.status, hop.host) for hop in outcome.redirects]
    assert "gen-1" == outcome.generation_id
    assert 2 == len(server.received)


def test_a_streamed_and_a_multipart_request_body_pass_untouched(server):
    """
    Their bytes are not known before they are sent: the intent says neither size nor commitment.
    """
    server.answer(200, [(b"content-type", b"application/json")], [b"{}"])
    recorder = FakeRecorder()

    def send():
        with httpx2.Client() as client:
            client.post(server.url + "/chat/completions", content=iter([b'{"model":', b'"a/b"}']))
            client.post(
                server.url + "/audio/transcriptions",
                files={"file": ("a.mp3", b"\xff" * 100)},
                headers={"Content-Type": "multipart/form-data; boundary=b"},
            )

    send()
    with installed(recorder):
        send()
    assert server.received[:2] == server.received[2:]
    assert [(None, None)] * 2 == [(intent.request_bytes, intent.request_commitment) for intent in recorder.intents]


def test_a_body_that_a_hook_has_read_is_still_recorded(server):
    answer = (EXAMPLES / "chat/nonstream.json").read_bytes()
    server.answer(200, [(b"content-type", b"application/json")], [answer])
    recorder = FakeRecorder()
    with installed(recorder), httpx2.Client(event_hooks={"response": [lambda response: response.read()]}) as client:
        assert answer == post(client, server.url).content
    (outcome,) = recorder.outcomes
    assert ("success", True, "0.0003136", len(answer)) == (
        outcome.status,
        outcome.complete,
        outcome.cost,
        outcome.response_bytes,
    )


def test_a_response_nobody_reads_or_closes_is_abandoned_when_it_is_lost(server):
    server.answer(200, [(b"content-type", b"text/event-stream")], [STREAM])
    recorder = FakeRecorder()
    with installed(recorder):
        client = httpx2.Client()
        response = client.send(client.build_request("POST", server.url + "/chat/completions", json={}), stream=True)
        assert [] == recorder.outcomes
        del response
        gc.collect()
        client.close()
    assert ["abandoned"] == [outcome.status for outcome in recorder.outcomes]


def test_an_interrupt_while_reading_is_a_cancelled_call(server):
    """
    Control-C between two pieces: the block closes the response, and the reason is still known then.
    """
    server.answer(200, [(b"content-type", b"text/event-stream")], [STREAM[:600], STREAM[600:]], pause=0.02)
    recorder = FakeRecorder()
    with (
        installed(recorder),
        httpx2.Client() as client,
        pytest.raises(KeyboardInterrupt),
        client.stream("POST", server.url + "/chat/completions", json={}) as response,
    ):
        reading = response.iter_raw()
        assert next(reading)
        raise KeyboardInterrupt
    assert ["cancelled"] == [outcome.status for outcome in recorder.outcomes]


def test_elapsed_and_other_attributes_of_a_response_stay(server):
    server.answer(200, [], [b"{}"])
    for module in LIBRARIES:
        with installed(FakeRecorder()), module.Client() as client:
            response = post(client, server.url)
            assert response.elapsed.total_seconds() > 0
            assert response.extensions["http_version"] == b"HTTP/1.1"


def test_the_raw_server_of_these_tests_hears_what_a_plain_client_says(server):
    """
    The measuring stick itself: bytes of a request as `http.client` sends them.
    """
    server.answer(200, [], [b"{}"])
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/x", body=b"abc")
    assert b"{}" == connection.getresponse().read()
    connection.close()
    assert server.received[0].startswith(b"POST /x HTTP/1.1\r\n")
    assert server.received[0].endswith(b"\r\n\r\nabc")


def test_a_call_is_gone_from_memory_once_it_is_over(server):
    """
    Twenty calls leave no exchange behind.
    """

    def alive():
        gc.collect()
        return sum(type(thing) is RecordedCall for thing in gc.get_objects())

    before = alive()
    server.answer(200, [(b"content-type", b"application/json")], [b"{}"])
    with installed(FakeRecorder()) as recorder, httpx2.Client() as client:
        for _ in range(20):
            post(client, server.url)
        assert 20 == len(recorder.outcomes)
    assert alive() <= before


def test_a_module_that_only_has_the_name_of_a_library_is_imported_as_ever(tmp_path):
    """
    An application's own `requests.py`, or a library that has changed: its import goes on, and a log line says it once.
    """
    (tmp_path / "requests.py").write_text("WISHES = ['more']\n")
    program = f"""
import logging, sys
sys.path[:0] = {[str(tmp_path), *sys.path]!r}
logging.basicConfig(level=logging.WARNING)
from openrouter_audit.capture.transports import instrument
from openrouter_audit.capture.hosts import HostSet
from tests.capture.recording import FakeRecorder
instrument(FakeRecorder(), HostSet())
import requests
assert ["more"] == requests.WISHES
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True)
    assert 1 == done.stderr.count("requests is not recorded: it has no send")
