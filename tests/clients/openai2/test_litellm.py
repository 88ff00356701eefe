"""litellm: completion and acompletion, plain and streamed, as `openrouter/` and as `openai/`, and its router."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from tests.cli.programs import a_desk
from tests.clients.recorded import EMBEDDING_MODEL, KEY, MESSAGES, MODEL, calls_of
from tests.journal.homes import drain

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


@pytest.mark.parametrize(("provider", "groups"), [("openrouter", 2), ("openai", 1)])
def test_its_retries_are_calls(watched, provider, groups):
    """
    Its own retries say nothing of what they repeat; those of openai below it are attempts.
    """
    watched.fake.script([{"status": 503}])
    litellm.completion(**asked(provider, watched.url), num_retries=1)

    calls = watched.check("error", "success")
    assert groups == len({call.intent["group"] for call in calls})


LEFT = f"""
import os, litellm
question = {{"model": "openrouter/{MODEL}", "messages": [{{"role": "user", "content": "Hello"}}]}}
question |= {{"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}}
for chunk in litellm.completion(**question, stream=True):
    break
"""


def test_a_stream_that_is_left_is_abandoned_when_the_process_ends_at_the_latest(tmp_path):
    """
    litellm may keep hold of it until then.
    """
    with a_desk(tmp_path) as desk:
        desk.fake.script([{"gap_ms": 200, "tokens": 40}])
        desk.write("app.py", LEFT)
        desk.run(sys.executable, "app.py")
        (call,) = calls_of(drain(desk.home))
    assert "abandoned" == call.status


def test_embeddings_are_recorded_once(watched):
    litellm.embedding(model=f"openai/{EMBEDDING_MODEL}", input=["a", "b"], api_base=watched.url, api_key=KEY)

    watched.check("success")


def test_a_router_over_two_deployments_is_recorded_once(watched):
    deployment = {"model": f"openrouter/{MODEL}", "api_base": watched.url, "api_key": KEY}
    router = litellm.Router([{"model_name": "clerk", "litellm_params": deployment} for _ in range(2)])
    router.completion("clerk", MESSAGES)
    asyncio.run(router.acompletion("clerk", MESSAGES))

    watched.check("success", "success")
