"""openai 3 with its own client of httpx2, with a legacy httpx client given to it, and over aiohttp."""

from __future__ import annotations

import asyncio

import httpx
import httpx2
import openai
import pytest
from tests.clients.openai_forms import ASYNC, CHAT, SYNC
from tests.clients.recorded import KEY

CLIENTS = {
    "own": lambda: None,
    "httpx": httpx.Client,
    "httpx2": httpx2.Client,
}
ASYNC_CLIENTS = {
    "own": lambda: None,
    "httpx": httpx.AsyncClient,
    "httpx2": httpx2.AsyncClient,
    "aiohttp": openai.DefaultAioHttpClient,
}


@pytest.mark.parametrize("library", CLIENTS)
@pytest.mark.parametrize("form", SYNC)
def test_each_form_of_call_is_recorded_once(watched, library, form):
    ask, ends = SYNC[form]
    with openai.OpenAI(
        base_url=watched.url, api_key=KEY, max_retries=0, http_client=CLIENTS[library](), timeout=60
    ) as client:
        ask(client)

    calls = watched.check(*ends)
    assert ["openai/3"] * len(ends) == [call.intent["sdk"].partition(".")[0] for call in calls]
    assert list(range(1, 1 + len(ends))) == [call.intent["attempt"] for call in calls]
    assert 1 == len({call.intent["group"] for call in calls})


@pytest.mark.parametrize("library", ASYNC_CLIENTS)
@pytest.mark.parametrize("form", ASYNC)
def test_each_asynchronous_form_of_call_is_recorded_once(watched, library, form):
    ask, ends = ASYNC[form]

    async def run():
        async with openai.AsyncOpenAI(
            base_url=watched.url, api_key=KEY, max_retries=0, http_client=ASYNC_CLIENTS[library](), timeout=60
        ) as client:
            await ask(client)

    asyncio.run(run())
    calls = watched.check(*ends)
    assert ["openai/3"] * len(ends) == [call.intent["sdk"].partition(".")[0] for call in calls]
    assert list(range(1, 1 + len(ends))) == [call.intent["attempt"] for call in calls]
    assert 1 == len({call.intent["group"] for call in calls})


def test_a_refused_connection_is_a_call_that_failed(watched):
    nobody = f"http://127.0.0.1:{watched.fake.port}/api/v1"
    watched.fake.close()
    with openai.OpenAI(base_url=nobody, api_key=KEY, max_retries=0) as client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**CHAT)

    (call,) = watched.check("error", unbooked=1)
    assert ("connect", "client") == (call.outcome["error_type"], call.outcome["error_source"])


def test_the_clients_of_the_module_are_watched(watched, monkeypatch):
    """
    `openai.chat.completions.create` makes a client of its own at the first call.
    """
    monkeypatch.setattr(openai, "api_key", KEY)
    monkeypatch.setattr(openai, "base_url", f"{watched.url}/")
    openai.chat.completions.create(**CHAT)

    watched.check("success")
    openai._reset_client()
