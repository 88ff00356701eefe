"""langchain-openai: invoke and stream of a chat model, embeddings, and a batch over threads."""

from __future__ import annotations

import asyncio

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from tests.clients.recorded import EMBEDDING_MODEL, KEY, MODEL, QUESTION

import openrouter_audit


@pytest.fixture
def model(watched):
    return ChatOpenAI(base_url=watched.url, api_key=KEY, model=MODEL, max_retries=0, stream_usage=True)


def test_invoke_and_stream_are_recorded_once(watched, model):
    assert model.invoke(QUESTION).content
    assert list(model.stream(QUESTION))

    watched.check("success", "success")


def test_ainvoke_and_astream_are_recorded_once(watched, model):
    async def run():
        assert (await model.ainvoke(QUESTION)).content
        assert [chunk async for chunk in model.astream(QUESTION)]

    asyncio.run(run())
    watched.check("success", "success")


def test_a_batch_over_threads_and_tasks_is_recorded_once(watched, model):
    """
    Its threads and tasks inherit the context of the caller, hooks and attribution included.
    """
    with openrouter_audit.attribution(user="alice") as receipts:
        assert 4 == len(model.batch([f"{QUESTION} {number}" for number in range(4)]))
        assert 4 == len(asyncio.run(model.abatch([f"{QUESTION} {number}" for number in range(4)])))

    calls = watched.check(*["success"] * 8)
    assert {call.intent["id"] for call in calls} == {receipt.call_id for receipt in receipts}


def test_the_responses_api_and_embeddings_are_recorded_once(watched):
    model = ChatOpenAI(base_url=watched.url, api_key=KEY, model=MODEL, max_retries=0, use_responses_api=True)
    vectors = OpenAIEmbeddings(
        base_url=watched.url, api_key=KEY, model=EMBEDDING_MODEL, max_retries=0, check_embedding_ctx_length=False
    )
    assert model.invoke(QUESTION).content
    assert list(model.stream(QUESTION))
    assert 2 == len(vectors.embed_documents(["a", "b"]))

    assert ["responses", "responses", "embeddings"] == [
        call.intent["endpoint"] for call in watched.check("success", "success", "success")
    ]


def test_a_failing_call_and_its_retry_are_two_attempts(watched):
    model = ChatOpenAI(base_url=watched.url, api_key=KEY, model=MODEL, max_retries=1)
    watched.fake.script([{"status": 503}])
    model.invoke(QUESTION)

    first, second = watched.check("error", "success")
    assert ((first.place[0], 1), (first.place[0], 2)) == (first.place, second.place)
