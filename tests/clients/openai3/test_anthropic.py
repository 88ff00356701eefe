"""anthropic with its base URL at OpenRouter: Messages plain, streamed, through its helpers, and retried."""

from __future__ import annotations

import asyncio

import anthropic
import pytest
from tests.clients.recorded import KEY, MESSAGES

CALL = {"model": "anthropic/claude-sonnet-4.6", "messages": MESSAGES, "max_tokens": 64}
SLOW = {"X-Emulator": "gap_ms=200; tokens=40"}
RETRIED = {"X-Emulator": "status=529; times=1"}


def plain(client):
    assert client.messages.create(**CALL).content


def streamed(client):
    assert "message_stop" == list(client.messages.create(**CALL, stream=True))[-1].type


def helper(client):
    with client.messages.stream(**CALL) as stream:
        assert list(stream.text_stream)
        assert stream.get_final_message().usage.output_tokens


def with_raw_response(client):
    assert client.messages.with_raw_response.create(**CALL).parse().content


def with_streaming_response(client):
    with client.messages.with_streaming_response.create(**CALL, stream=True) as raw:
        assert list(raw.iter_lines())


def closed_early(client):
    stream = client.messages.create(**CALL, stream=True, extra_headers=SLOW)
    next(iter(stream))
    stream.close()


def retried(client):
    client.with_options(max_retries=1).messages.create(**CALL, extra_headers=RETRIED)


async def plain_async(client):
    assert (await client.messages.create(**CALL)).content


async def streamed_async(client):
    events = [event async for event in await client.messages.create(**CALL, stream=True)]
    assert "message_stop" == events[-1].type


async def helper_async(client):
    async with client.messages.stream(**CALL) as stream:
        assert [text async for text in stream.text_stream]
        assert (await stream.get_final_message()).usage.output_tokens


async def with_raw_response_async(client):
    raw = await client.messages.with_raw_response.create(**CALL)
    assert (await raw.parse()).content


async def with_streaming_response_async(client):
    async with client.messages.with_streaming_response.create(**CALL, stream=True) as raw:
        assert [line async for line in raw.iter_lines()]


async def closed_early_async(client):
    stream = await client.messages.create(**CALL, stream=True, extra_headers=SLOW)
    await anext(aiter(stream))
    await stream.close()


async def retried_async(client):
    await client.with_options(max_retries=1).messages.create(**CALL, extra_headers=RETRIED)


FORMS = [plain, streamed, helper, with_raw_response, with_streaming_response, closed_early, retried]
ASYNC_FORMS = [
    plain_async, streamed_async, helper_async, with_raw_response_async, with_streaming_response_async, closed_early_async, retried_async,
]  # fmt: skip
ENDS = {"closed_early": ["abandoned"], "retried": ["error", "success"]}


@pytest.mark.parametrize("ask", FORMS)
def test_each_form_of_call_is_recorded_once(watched, ask):
    with anthropic.Anthropic(base_url=watched.url.removesuffix("/v1"), api_key=KEY, max_retries=0) as client:
        ask(client)

    check(watched, ENDS.get(ask.__name__, ["success"]))


@pytest.mark.parametrize("ask", ASYNC_FORMS)
def test_each_asynchronous_form_of_call_is_recorded_once(watched, ask):
    async def run():
        async with anthropic.AsyncAnthropic(
            base_url=watched.url.removesuffix("/v1"), api_key=KEY, max_retries=0
        ) as client:
            await ask(client)

    asyncio.run(run())
    check(watched, ENDS.get(ask.__name__.removesuffix("_async"), ["success"]))


def check(watched, ends):
    calls = watched.check(*ends)
    assert {("messages", "anthropic/2")} == {
        (call.intent["endpoint"], call.intent["sdk"].partition(".")[0]) for call in calls
    }
    assert list(range(1, 1 + len(ends))) == [call.intent["attempt"] for call in calls]
    assert 1 == len({call.intent["group"] for call in calls})
