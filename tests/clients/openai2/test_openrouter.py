"""openrouter 0.x, as langchain-openrouter wants it."""

from __future__ import annotations

import asyncio

import pytest
from openrouter import OpenRouter
from tests.clients.openrouter_forms import ASYNC, SYNC
from tests.clients.recorded import KEY


@pytest.mark.parametrize("form", SYNC)
def test_each_form_of_call_is_recorded_once(watched, form):
    """
    Its SDK sends one request object again and again where a server fails: so many attempts of one group.
    """
    ask, ends = SYNC[form]
    with OpenRouter(api_key=KEY, server_url=watched.url) as client:
        ask(client)

    check(watched, ends)


@pytest.mark.parametrize("form", ASYNC)
def test_each_asynchronous_form_of_call_is_recorded_once(watched, form):
    ask, ends = ASYNC[form]

    async def run():
        async with OpenRouter(api_key=KEY, server_url=watched.url) as client:
            await ask(client)

    asyncio.run(run())
    check(watched, ends)


def check(watched, ends):
    calls = watched.check(*ends)
    assert ["openrouter/0"] * len(ends) == [call.intent["sdk"].partition(".")[0] for call in calls]
    assert list(range(1, 1 + len(ends))) == [call.intent["attempt"] for call in calls]
    assert 1 == len({call.intent["group"] for call in calls})
