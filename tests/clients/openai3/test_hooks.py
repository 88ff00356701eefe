"""Several hooks at once: a call is recorded once, whichever of them see it."""

from __future__ import annotations

import asyncio

import httpx
import httpx2
import openai
import pytest
from openrouter import OpenRouter
from tests.clients.recorded import KEY, MESSAGES, MODEL

CHAT = {"model": MODEL, "messages": MESSAGES}


@pytest.mark.parametrize("kind", ["httpx_client", "httpx2_client"])
def test_an_explicit_client_in_a_process_that_is_watched_as_a_whole(watched, kind):
    with openai.OpenAI(base_url=watched.url, api_key=KEY, http_client=getattr(watched.audit, kind)()) as client:
        client.chat.completions.create(**CHAT)
        list(client.chat.completions.create(**CHAT, stream=True))

    watched.check("success", "success")


@pytest.mark.parametrize("kind", ["httpx_async_client", "httpx2_async_client"])
def test_an_explicit_asynchronous_client(watched, kind):
    async def run():
        held = getattr(watched.audit, kind)()
        async with openai.AsyncOpenAI(base_url=watched.url, api_key=KEY, http_client=held) as client:
            await client.chat.completions.create(**CHAT)
            assert [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]

    asyncio.run(run())
    watched.check("success", "success")


def test_sdk_objects_that_were_wrapped_twice(watched):
    with (
        openai.OpenAI(base_url=watched.url, api_key=KEY) as one,
        OpenRouter(api_key=KEY, server_url=watched.url) as other,
    ):
        for client in (one, other):
            watched.audit.wrap(watched.audit.wrap(client))
        one.chat.completions.create(**CHAT)
        other.chat.send(**CHAT)

    watched.check("success", "success")


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_transport_that_sends_with_another_client(watched, module):
    """
    A gateway inside of the process: the outer client's request goes on through an inner client.
    """
    with module.Client() as inner:

        class Onward(module.BaseTransport):
            def handle_request(self, request):
                return inner.send(
                    module.Request(request.method, request.url, headers=request.headers, content=request.read())
                )

        held = module.Client(transport=Onward())
        with openai.OpenAI(base_url=watched.url, api_key=KEY, http_client=held) as client:
            client.chat.completions.create(**CHAT)

    watched.check("success")


def test_calls_of_tasks_that_a_hook_starts_are_recorded_beside_the_one_it_is_in(watched):
    """
    Such a task inherits the context of the call it was started in, and is none of it.
    """
    tasks = []

    async def run():
        async with httpx2.AsyncClient(timeout=60) as beside:

            async def ask_beside():
                await beside.post(
                    f"{watched.url}/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {KEY}"}
                )

            async def started(_):
                tasks.append(asyncio.create_task(ask_beside()))

            held = httpx2.AsyncClient(event_hooks={"request": [started]})
            async with openai.AsyncOpenAI(base_url=watched.url, api_key=KEY, http_client=held) as client:
                await client.responses.create(model=MODEL, input="Which?")
                await asyncio.gather(*tasks)

    asyncio.run(run())
    assert {"chat", "responses"} == {call.intent["endpoint"] for call in watched.check("success", "success")}
