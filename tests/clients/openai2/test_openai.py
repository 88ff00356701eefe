"""openai 2 with its own client of legacy httpx, and with one given to it."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest
from tests.clients.openai_forms import ASYNC, SYNC
from tests.clients.recorded import KEY


@pytest.mark.parametrize("given", [None, httpx.Client])
@pytest.mark.parametrize("form", SYNC)
def test_each_form_of_call_is_recorded_once(watched, form, given):
    ask, ends = SYNC[form]
    with openai.OpenAI(
        base_url=watched.url, api_key=KEY, max_retries=0, http_client=given and given(), timeout=60
    ) as client:
        ask(client)

    check(watched, ends)


@pytest.mark.parametrize("given", [None, httpx.AsyncClient])
@pytest.mark.parametrize("form", ASYNC)
def test_each_asynchronous_form_of_call_is_recorded_once(watched, form, given):
    ask, ends = ASYNC[form]

    async def run():
        async with openai.AsyncOpenAI(
            base_url=watched.url, api_key=KEY, max_retries=0, http_client=given and given(), timeout=60
        ) as client:
            await ask(client)

    asyncio.run(run())
    check(watched, ends)


def check(watched, ends):
    calls = watched.check(*ends)
    assert ["openai/2"] * len(ends) == [call.intent["sdk"].partition(".")[0] for call in calls]
    assert list(range(1, 1 + len(ends))) == [call.intent["attempt"] for call in calls]
    assert 1 == len({call.intent["group"] for call in calls})
