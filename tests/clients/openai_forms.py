"""
The ways in which an application uses openai's SDK, for every version of it and every HTTP client given to it.

Each form makes its calls and says how they end. Forms are alike in both halves of the SDK, but for the words `async` and
`await`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from tests.clients.recorded import EMBEDDING_MODEL, MESSAGES, MODEL, QUESTION

CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
RESPONSE: dict[str, Any] = {"model": MODEL, "input": QUESTION}
Form = tuple[Callable[..., Any], tuple[str, ...]]


# Synchronous ----------------------------------------------------------------------------------------------------------


def plain(client: Any) -> None:
    assert client.chat.completions.create(**CHAT).choices[0].message.content


def streamed(client: Any) -> None:
    assert list(client.chat.completions.create(**CHAT, stream=True))


def with_raw_response(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-generation-id"] == raw.parse().id


def with_raw_response_streamed(client: Any) -> None:
    assert list(client.chat.completions.with_raw_response.create(**CHAT, stream=True).parse())


def with_streaming_response(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as raw:
        assert raw.read()


def with_streaming_response_by_lines(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as raw:
        assert "data: [DONE]" in list(raw.iter_lines())


def with_streaming_response_left_early(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True, extra_headers=SLOW) as raw:
        next(raw.iter_lines())


def stream_helper(client: Any) -> None:
    with client.chat.completions.stream(**CHAT) as stream:
        assert stream.get_final_completion().choices[0].message.content


def parse_helper(client: Any) -> None:
    assert client.chat.completions.parse(**CHAT).choices[0].message.content


def closed_early(client: Any) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, extra_headers=SLOW)
    next(iter(stream))
    stream.close()


def dropped(client: Any) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, extra_headers=SLOW)
    next(iter(stream))
    del stream
    gc.collect()


def responses(client: Any) -> None:
    assert client.responses.create(**RESPONSE).output_text


def responses_streamed(client: Any) -> None:
    assert "response.completed" == list(client.responses.create(**RESPONSE, stream=True))[-1].type


def responses_helper(client: Any) -> None:
    with client.responses.stream(**RESPONSE) as stream:
        assert stream.get_final_response().output_text


def embeddings(client: Any) -> None:
    assert 2 == len(client.embeddings.create(model=EMBEDDING_MODEL, input=["a", "b"]).data)


def completions(client: Any) -> None:
    assert client.completions.create(model=MODEL, prompt=QUESTION).choices[0].text


def retried(client: Any) -> None:
    with client.with_options(max_retries=1) as patient:
        patient.chat.completions.create(**CHAT, extra_headers={"X-Emulator": "status=429; retry_after=0; times=1"})


SLOW = {"X-Emulator": "gap_ms=200; tokens=40"}
"""A stream that is not over when its reader has had enough."""

SYNC: dict[str, Form] = {
    "plain": (plain, ("success",)),
    "streamed": (streamed, ("success",)),
    "with_raw_response": (with_raw_response, ("success",)),
    "with_raw_response_streamed": (with_raw_response_streamed, ("success",)),
    "with_streaming_response": (with_streaming_response, ("success",)),
    "with_streaming_response_by_lines": (with_streaming_response_by_lines, ("success",)),
    "with_streaming_response_left_early": (with_streaming_response_left_early, ("abandoned",)),
    "stream_helper": (stream_helper, ("success",)),
    "parse_helper": (parse_helper, ("success",)),
    "closed_early": (closed_early, ("abandoned",)),
    "dropped": (dropped, ("abandoned",)),
    "responses": (responses, ("success",)),
    "responses_streamed": (responses_streamed, ("success",)),
    "responses_helper": (responses_helper, ("success",)),
    "embeddings": (embeddings, ("success",)),
    "completions": (completions, ("success",)),
    "retried": (retried, ("error", "success")),
}


# Asynchronous ---------------------------------------------------------------------------------------------------------


async def plain_async(client: Any) -> None:
    assert (await client.chat.completions.create(**CHAT)).choices[0].message.content


async def streamed_async(client: Any) -> None:
    assert [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]


async def with_raw_response_async(client: Any) -> None:
    raw = await client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-generation-id"] == raw.parse().id


async def with_raw_response_streamed_async(client: Any) -> None:
    raw = await client.chat.completions.with_raw_response.create(**CHAT, stream=True)
    assert [chunk async for chunk in raw.parse()]


async def with_streaming_response_async(client: Any) -> None:
    async with client.chat.completions.with_streaming_response.create(**CHAT) as raw:
        assert await raw.read()


async def with_streaming_response_by_lines_async(client: Any) -> None:
    async with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as raw:
        assert "data: [DONE]" in [line async for line in raw.iter_lines()]


async def with_streaming_response_left_early_async(client: Any) -> None:
    async with client.chat.completions.with_streaming_response.create(**CHAT, stream=True, extra_headers=SLOW) as raw:
        await anext(raw.iter_lines())


async def stream_helper_async(client: Any) -> None:
    async with client.chat.completions.stream(**CHAT) as stream:
        assert (await stream.get_final_completion()).choices[0].message.content


async def parse_helper_async(client: Any) -> None:
    assert (await client.chat.completions.parse(**CHAT)).choices[0].message.content


async def closed_early_async(client: Any) -> None:
    stream = await client.chat.completions.create(**CHAT, stream=True, extra_headers=SLOW)
    await anext(aiter(stream))
    await stream.close()


async def dropped_async(client: Any) -> None:
    stream = await client.chat.completions.create(**CHAT, stream=True, extra_headers=SLOW)
    await anext(aiter(stream))
    del stream
    gc.collect()


async def responses_async(client: Any) -> None:
    assert (await client.responses.create(**RESPONSE)).output_text


async def responses_streamed_async(client: Any) -> None:
    events = [event async for event in await client.responses.create(**RESPONSE, stream=True)]
    assert "response.completed" == events[-1].type


async def responses_helper_async(client: Any) -> None:
    async with client.responses.stream(**RESPONSE) as stream:
        assert (await stream.get_final_response()).output_text


async def embeddings_async(client: Any) -> None:
    assert 2 == len((await client.embeddings.create(model=EMBEDDING_MODEL, input=["a", "b"])).data)


async def completions_async(client: Any) -> None:
    assert (await client.completions.create(model=MODEL, prompt=QUESTION)).choices[0].text


async def retried_async(client: Any) -> None:
    async with client.with_options(max_retries=1) as patient:
        await patient.chat.completions.create(
            **CHAT, extra_headers={"X-Emulator": "status=429; retry_after=0; times=1"}
        )


ASYNC: dict[str, Form] = {
    name: (globals()[f"{function.__name__}_async"], ends) for name, (function, ends) in SYNC.items()
}
