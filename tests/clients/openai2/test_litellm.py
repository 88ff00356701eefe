"""litellm: completion and acompletion, plain and streamed, as `openrouter/` and as `openai/`, and its router."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.clients.recorded import EMBEDDING_MODEL, KEY, MESSAGES, MODEL

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks a code host for prices when it is imported
import litellm

pytestmark = pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning")  # its own types
PROVIDERS = ["openrouter", "openai"]


def asked(provider, url):
    return {"model": f"{provider}/{MODEL}", "messages": MESSAGES, "api_base": url, "api_key": KEY}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_completion_plain_and_streamed_is_recorded_once(watched, provider):
    assert litellm.completion(**asked(provider, watched.url)).choices[0].message.content
    assert list(litellm.completion(**asked(provider, watched.url), stream=True))

    watched.check("success", "success")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_acompletion_plain_and_streamed_is_recorded_once(watched, provider):
    """
    It goes through a transport of its own, over aiohttp, and leaves the stream open after its end.
    """

    async def run():
        assert (await litellm.acompletion(**asked(provider, watched.url))).choices[0].message.content
        stream = await litellm.acompletion(**asked(provider, watched.url), stream=True)
        assert [chunk async for chunk in stream]

    asyncio.run(run())
    watched.check("success", "success")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_its_retries_are_calls(watched, provider):
    watched.fake.script([{"status": 503}])
    litellm.completion(**asked(provider, watched.url), num_retries=1)

    watched.check("error", "success")


def test_embeddings_are_recorded_once(watched):
    litellm.embedding(model=f"openai/{EMBEDDING_MODEL}", input=["a", "b"], api_base=watched.url, api_key=KEY)

    watched.check("success")


def test_a_router_over_two_deployments_is_recorded_once(watched):
    deployment = {"model": f"openrouter/{MODEL}", "api_base": watched.url, "api_key": KEY}
    router = litellm.Router([{"model_name": "clerk", "litellm_params": deployment} for _ in range(2)])
    router.completion("clerk", MESSAGES)
    asyncio.run(router.acompletion("clerk", MESSAGES))

    watched.check("success", "success")
