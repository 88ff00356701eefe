"""langchain-openrouter: invoke and stream of its chat model, on openrouter 0.x."""

from __future__ import annotations

import asyncio

import pytest
from langchain_openrouter import ChatOpenRouter
from tests.clients.recorded import KEY, MODEL, QUESTION

import openrouter_audit


@pytest.fixture(params=["bare", "attributed"])
def model(watched, request):
    """With the headers of an application it builds HTTP clients of its own."""
    named = {"app_url": "https://example.com", "app_title": "Clerk"} if request.param == "attributed" else {}
    return ChatOpenRouter(model=MODEL, api_key=KEY, base_url=watched.url, max_retries=0, **named)


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
    Its threads and tasks inherit the context of the caller, attribution included.
    """
    with openrouter_audit.attribution(user="alice") as receipts:
        assert 4 == len(model.batch([f"{QUESTION} {number}" for number in range(4)]))
        assert 4 == len(asyncio.run(model.abatch([f"{QUESTION} {number}" for number in range(4)])))

    calls = watched.check(*["success"] * 8)
    assert {call.intent["id"] for call in calls} == {receipt.call_id for receipt in receipts}
