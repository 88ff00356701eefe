"""The ways in which an application uses OpenRouter's own SDK, for both of its versions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from openrouter import OpenRouter
from openrouter.utils import BackoffStrategy, RetryConfig
from tests.clients.recorded import EMBEDDING_MODEL, KEY, MESSAGES, MODEL, QUESTION

CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
Form = tuple[Callable[..., Any], tuple[str, ...]]
THREE_RETRIES = RetryConfig("backoff", BackoffStrategy(1, 5, 1.0, 60_000), retry_connection_errors=True)
"""One to five milliseconds apart, until the server has had enough of failing."""


def _responses(client: Any) -> Any:
    return client.beta.responses if hasattr(client, "beta") else client.responses


def plain(client: Any) -> None:
    assert client.chat.send(**CHAT).choices[0].message.content


def streamed(client: Any) -> None:
    with client.chat.send(**CHAT, stream=True) as stream:
        assert list(stream)


def left_early(client: Any) -> None:
    with client.chat.send(**CHAT, stream=True, http_headers=SLOW) as stream:
        next(iter(stream))


def responses(client: Any) -> None:
    assert _responses(client).send(model=MODEL, input=QUESTION).output


def responses_streamed(client: Any) -> None:
    with _responses(client).send(model=MODEL, input=QUESTION, stream=True) as stream:
        assert list(stream)


def embeddings(client: Any) -> None:
    assert client.embeddings.generate(model=EMBEDDING_MODEL, input=["a", "b"])


def retried(client: Any) -> None:
    client.chat.send(**CHAT, retries=THREE_RETRIES, http_headers=FAILING)


async def plain_async(client: Any) -> None:
    assert (await client.chat.send_async(**CHAT)).choices[0].message.content


async def streamed_async(client: Any) -> None:
    async with await client.chat.send_async(**CHAT, stream=True) as stream:
        assert [event async for event in stream]


async def left_early_async(client: Any) -> None:
    async with await client.chat.send_async(**CHAT, stream=True, http_headers=SLOW) as stream:
        await anext(aiter(stream))


async def responses_async(client: Any) -> None:
    assert (await _responses(client).send_async(model=MODEL, input=QUESTION)).output


async def responses_streamed_async(client: Any) -> None:
    async with await _responses(client).send_async(model=MODEL, input=QUESTION, stream=True) as stream:
        assert [event async for event in stream]


async def embeddings_async(client: Any) -> None:
    assert await client.embeddings.generate_async(model=EMBEDDING_MODEL, input=["a", "b"])


async def retried_async(client: Any) -> None:
    await client.chat.send_async(**CHAT, retries=THREE_RETRIES, http_headers=FAILING)


SLOW = {"X-Emulator": "gap_ms=200; tokens=40"}
FAILING = {"X-Emulator": "status=500; times=3"}
SYNC: dict[str, Form] = {
    "plain": (plain, ("success",)),
    "streamed": (streamed, ("success",)),
    "left_early": (left_early, ("abandoned",)),
    "responses": (responses, ("success",)),
    "responses_streamed": (responses_streamed, ("success",)),
    "embeddings": (embeddings, ("success",)),
    "retried": (retried, ("error", "error", "error", "success")),
}
ASYNC: dict[str, Form] = {
    name: (globals()[f"{function.__name__}_async"], ends) for name, (function, ends) in SYNC.items()
}
FORMS = [*SYNC, *(f"{name}_async" for name in ASYNC)]


def check(watched: Any, form: str, *, version: str) -> None:
    """
    Ask in one form, and lay the log beside the books.

    The SDK sends one request object again and again where a server fails: so many attempts of one group.
    """
    options = {"api_key": KEY, "server_url": watched.url}
    if form in SYNC:
        ask, ends = SYNC[form]
        with OpenRouter(**options) as client:
            ask(client)
    else:
        ask, ends = ASYNC[form.removesuffix("_async")]

        async def run() -> None:
            async with OpenRouter(**options) as client:
                await ask(client)

        asyncio.run(run())
    calls = watched.check(*ends)
    assert [version] * len(ends) == [call.intent["sdk"].partition(".")[0] for call in calls]
    assert list(range(1, 1 + len(ends))) == [call.intent["attempt"] for call in calls]
    assert 1 == len({call.intent["group"] for call in calls})
