"""openai-agents: Runner.run, run_sync and run_streamed, over chat completions and over responses."""

from __future__ import annotations

import asyncio

import openai
import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
from tests.clients.recorded import KEY, MODEL, QUESTION

set_tracing_disabled(True)  # traces would go to another host than the one that is asked


def agent_of(kind, url):
    client = openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    return Agent(name="clerk", instructions="Answer.", model=kind(model=MODEL, openai_client=client))


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
def test_run_and_run_streamed_are_recorded_once(watched, kind):
    async def run():
        agent = agent_of(kind, watched.url)
        assert (await Runner.run(agent, QUESTION)).final_output
        result = Runner.run_streamed(agent, QUESTION)
        assert [event async for event in result.stream_events()]
        assert result.final_output

    asyncio.run(run())
    watched.check("success", "success")


def test_run_sync_is_recorded_once(watched):
    assert Runner.run_sync(agent_of(OpenAIChatCompletionsModel, watched.url), QUESTION).final_output

    watched.check("success")
