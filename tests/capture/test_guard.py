"""No call twice, whichever hooks are active, and none lost that is made while another one is sent."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import httpx2
import openai
import pytest
import requests
from tests.capture.recording import EXAMPLES, HOSTS, KEY, MESSAGES, MODEL, FakeRecorder, installed
from tests.capture.wire import RecordingServer
from yarl import URL

from openrouter_audit.capture.explicit import audited_client, wrap
from openrouter_audit.capture.recorded_call import faults

ANSWER = (EXAMPLES / "chat/nonstream.json").read_bytes()
STREAM = (EXAMPLES / "chat/stream.sse").read_bytes()
BODY = {"model": MODEL, "messages": MESSAGES}


@pytest.fixture(autouse=True)
def no_faults(clean):
    yield
    assert {} == faults.counts


@pytest.fixture
def server():
    with RecordingServer() as running:
        running.answer(200, [(b"content-type", b"application/json")], [ANSWER])
        yield running


def over_aiohttp(module):
    """A transport of httpx or httpx2 that sends by a session of aiohttp, as some SDKs have one of their own."""

    class Body(module.AsyncByteStream):
        def __init__(self, response):
            self.response = response

        async def __aiter__(self):
            async for piece in self.response.content.iter_any():
                yield piece

        async def aclose(self):
            self.response.close()

    class Transport(module.AsyncBaseTransport):
        def __init__(self, *, encoded=True, streams=False):
            self.encoded, self.streams = encoded, streams

        async def __aenter__(self):
            self.session = aiohttp.ClientSession(auto_decompress=False)
            return self

        async def __aexit__(self, *_):
            await self.session.close()

        async def aclose(self):
            await self.session.close()

        async def handle_async_request(self, request):
            response = await self.session.request(
                request.method,
                URL(str(request.url), encoded=True) if self.encoded else str(request.url),
                headers=request.headers,
                data=request.stream if self.streams else request.content,
                skip_auto_headers={"User-Agent"},
            )
            return module.Response(response.status, headers=response.raw_headers, stream=Body(response))

    return Transport


@pytest.mark.parametrize("stream", [False, True])
def test_openai_over_aiohttp_is_recorded_once(server, stream):
    """
    `openai[aiohttp]`: a client of httpx2 whose transport is a session of aiohttp; both are hooked, the upper one takes it.
    """
    if stream:
        server.answer(200, [(b"content-type", b"text/event-stream")], [STREAM])
    recorder = FakeRecorder()

    async def main():
        async with openai.AsyncOpenAI(
            base_url=server.url, api_key=KEY, http_client=openai.DefaultAioHttpClient()
        ) as client:
            answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
            if stream:
                async for _ in answer:
                    pass

    with installed(recorder):
        asyncio.run(main())
    assert [MODEL] == [intent.model for intent in recorder.intents]
    assert ["success"] == [outcome.status for outcome in recorder.outcomes]
    assert recorder.intents[0].sdk.startswith("openai/")
    recorder.check()


@pytest.mark.parametrize("module", [httpx, httpx2])
@pytest.mark.parametrize(
    "path", ["/chat/completions", "/chat/completions?a=b c&d=%2F", "/presets/ä b/chat/completions"]
)
@pytest.mark.parametrize("options", [{}, {"encoded": False}, {"streams": True}])
def test_a_transport_over_aiohttp_is_seen_once_however_it_spells_the_url(server, module, path, options):
    """
    Quoted anew by each library, and with a body that is bytes for the one and a stream for the other.
    """
    recorder = FakeRecorder()

    async def main():
        transport = over_aiohttp(module)(**options)
        async with module.AsyncClient(transport=transport) as client:
            await client.post(server.url + path, json=BODY)

    with installed(recorder):
        asyncio.run(main())
    assert 1 == len(server.received) == len(recorder.intents)
    assert ["success"] == [outcome.status for outcome in recorder.outcomes]
    recorder.check()


def test_a_transport_of_httpx_over_a_client_of_httpx2_is_seen_once(server):
    """
    And an explicit client on top of it all, in a process that watches everything: the outermost has it.
    """

    class Bridge(httpx.BaseTransport):
        def __init__(self):
            self.client = httpx2.Client()

        def handle_request(self, request):
            response = self.client.request(request.method, str(request.url), content=request.read())
            return httpx.Response(response.status_code, content=response.content)

    explicit, everywhere = FakeRecorder(), FakeRecorder()
    with installed(everywhere):
        with httpx.Client(transport=Bridge()) as client:
            client.post(server.url + "/chat/completions", json=BODY)
        with audited_client(httpx, "sync", explicit, HOSTS, transport=Bridge()) as client:
            client.post(server.url + "/chat/completions", json=BODY)
        with wrap(httpx.Client(transport=Bridge()), explicit, HOSTS) as client:
            client.post(server.url + "/chat/completions", json=BODY)
    assert (2, 1, 3) == (len(explicit.intents), len(everywhere.intents), len(server.received))
    explicit.check()
    everywhere.check()


def test_an_alias_makes_no_call_twice(server):
    """
    `httpx2.alias_httpx()`: one library under two names, one hook.
    """
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import httpx2
httpx2.alias_httpx()
import httpx
from openrouter_audit.capture.transports import instrument
from openrouter_audit.capture.hosts import HostSet
from tests.capture.recording import FakeRecorder
recorder = FakeRecorder()
instrument(recorder, HostSet(["127.0.0.1"]))
assert httpx is httpx2
httpx.post({server.url + "/chat/completions"!r}, json={{}})
assert 1 == len(recorder.intents)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert 1 == len(server.received)


def test_calls_begun_while_another_is_sent_are_calls_of_their_own(server):
    """
    In a hook of httpx2, of a middleware of aiohttp and of a hook of requests: by tasks that inherit the context, by threads,
    by other libraries; to the same address, with another body.
    """
    recorder, url = FakeRecorder(), server.url + "/chat/completions"

    def other(library):
        library.post(url, json={"model": f"inner/{library.__name__}"})

    async def other_async():
        async with aiohttp.ClientSession() as session, session.post(url, json={"model": "inner/aiohttp"}) as response:
            await response.read()

    def in_threads():
        threads = [threading.Thread(target=other, args=(library,)) for library in (requests, httpx)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other, httpx2).result()

    async def hook(_):
        await asyncio.create_task(other_async())
        await asyncio.to_thread(other, requests)

    async def middleware(request, handler):
        await asyncio.create_task(other_async())
        await asyncio.to_thread(other, httpx)
        return await handler(request)

    async def main():
        async with httpx2.AsyncClient(event_hooks={"request": [hook]}) as client:
            await client.post(url, json={"model": "outer/httpx2"})
        async with (
            aiohttp.ClientSession(middlewares=(middleware,)) as session,
            session.post(url, json={"model": "outer/aiohttp"}) as response,
        ):
            await response.read()

    def respond(response, **_):
        in_threads()
        other(httpx2)

    with installed(recorder):
        asyncio.run(main())
        requests.post(url, json={"model": "outer/requests"}, hooks={"response": respond})
        with httpx.Client(event_hooks={"request": [lambda _: in_threads()]}) as client:
            client.post(url, json={"model": "outer/httpx"})
    expected = [
        *("outer/httpx2", "inner/aiohttp", "inner/requests"),
        *("outer/aiohttp", "inner/aiohttp", "inner/httpx"),
        *("outer/requests", "inner/requests", "inner/httpx", "inner/httpx2", "inner/httpx2"),
        *("outer/httpx", "inner/requests", "inner/httpx", "inner/httpx2"),
    ]
    assert sorted(expected) == sorted(intent.model for intent in recorder.intents)
    assert len(expected) == len(server.received)
    recorder.check()


def test_a_task_that_outlives_the_call_it_was_begun_in_is_not_hidden_by_it(server):
    """
    It inherits the context of a sending that is over: its equal request is another call.
    """
    recorder, url = FakeRecorder(), server.url + "/chat/completions"

    async def main():
        over, later = asyncio.Event(), []

        async def again():
            await over.wait()
            async with httpx2.AsyncClient() as client:
                await client.post(url, json=BODY)

        async def hook(_):
            later.append(asyncio.create_task(again()))

        async with httpx2.AsyncClient(event_hooks={"request": [hook]}) as client:
            await client.post(url, json=BODY)
        over.set()
        await later[0]

    with installed(recorder):
        asyncio.run(main())
    assert 2 == len(recorder.intents)
    recorder.check()
