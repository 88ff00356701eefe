"""pydantic-ai: run, run_sync and run_stream of an agent, through its own provider and through a client of openai."""

from __future__ import annotations

import asyncio

import openai
import pytest
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.openrouter import OpenRouterModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.openrouter import OpenRouterProvider
from tests.clients.recorded import KEY, MODEL, QUESTION


def agents(url):
    client = openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    yield Agent(OpenRouterModel(MODEL, provider=OpenRouterProvider(openai_client=client)))
    yield Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY)))
    yield Agent(OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY)))


@pytest.mark.parametrize("number", range(3), ids=["openrouter", "chat", "responses"])
def test_run_and_run_stream_are_recorded_once(watched, number):
    agent = list(agents(watched.url))[number]

    async def run():
        assert (await agent.run(QUESTION)).output
        async with agent.run_stream(QUESTION) as result:
            assert [text async for text in result.stream_text()]

    asyncio.run(run())
    watched.check("success", "success")


def test_run_sync_is_recorded_once(watched):
    agent = next(agents(watched.url))
    assert agent.run_sync(QUESTION).output

    watched.check("success")
