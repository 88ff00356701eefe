"""
Which exchanges are attempts of one call (C26), as SDKs and plain loops make them.
"""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest
from openrouter import OpenRouter
from openrouter.utils import BackoffStrategy, RetryConfig
from tests.endings.answers import KEY, SHAPES, Shape, event_head, example, refusal, sized
from tests.endings.endings import join
from tests.endings.hands import ASYNC, LIBRARIES, SYNC, Hand, run
from tests.endings.seen import Ledger

QUICK = RetryConfig("backoff", BackoffStrategy(1, 5, 1.5, 60_000, 1), True)


def refused(shape: Shape, status: int) -> tuple[bytes]:
    return (sized(refusal(shape, status), status, ("retry-after-ms", 1)),)


def answered(shape: Shape, *, stream: bool) -> tuple[bytes]:
    # Without what comes after the terminal event: Anthropic's SDK takes no `[DONE]`.
    return (event_head() + join(shape.stream[: shape.ended]) if stream else sized(shape.whole),)


def attempts(ledger: Ledger) -> tuple[list[int], int, list[str]]:
    """Attempt numbers in order, how many groups there are, and how each attempt ended."""
    calls = ledger.calls()
    return (
        [intent.attempt for intent, _ in calls],
        len({intent.group for intent, _ in calls}),
        [outcome.status for _, outcome in calls if outcome is not None],
    )


def sdk_of(hand: Hand) -> Any:
    base = hand.server.origin + "/api/v1"
    if hand.shape.name == "messages":
        make = anthropic.AsyncAnthropic if hand.is_async else anthropic.Anthropic
        base = hand.server.origin + "/api"
    else:
        make = openai.AsyncOpenAI if hand.is_async else openai.OpenAI
    return make(base_url=base, api_key=KEY, http_client=hand.client, max_retries=2)


async def ask(hand: Hand) -> None:
    """One call of the SDK, read to its end."""
    async with hand.opened_client():
        sdk = sdk_of(hand)
        create = {
            "chat": lambda: sdk.chat.completions,
            "responses": lambda: sdk.responses,
            "messages": lambda: sdk.messages,
        }
        found = await hand.settle(create[hand.shape.name]().create, **hand.shape.request, stream=hand.stream)
        if not hand.stream:
            return
        if hand.is_async:
            assert [event async for event in found]
        else:
            assert list(found)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_sdk_that_tries_three_times_makes_three_attempts_of_one_group(shape, kind, stream, server, ledger):
    """
    429 twice, then an answer; the next call of the same words is a group of its own.
    """
    shape = SHAPES[shape]
    hand = Hand(LIBRARIES["httpx2"], kind, server, shape, stream=stream)
    good = answered(shape, stream=stream)
    server.play(refused(shape, 429), refused(shape, 429), good, good)

    async def twice():
        await ask(hand)
        await ask(hand)

    with ledger.recording():
        run(kind, twice())
    assert ([1, 2, 3, 1], 2, ["error", "error", "success", "success"]) == attempts(ledger)
    assert 4 == len(server.received)


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
def test_the_retries_inside_openrouters_sdk_are_attempts(kind, server, ledger):
    """
    It says no retry count: the same request object goes out again. Four exchanges in one call.
    """
    shape = SHAPES["chat"]
    hand = Hand(httpx, kind, server, shape, stream=False)
    server.play(*[refused(shape, 502)] * 3, answered(shape, stream=False))

    async def send():
        async with hand.opened_client() as client:
            if hand.is_async:
                sdk = OpenRouter(api_key=KEY, server_url=server.origin + "/api/v1", async_client=client)
                await sdk.chat.send_async(**shape.request, retries=QUICK)
            else:
                sdk = OpenRouter(api_key=KEY, server_url=server.origin + "/api/v1", client=client)
                sdk.chat.send(**shape.request, retries=QUICK)

    with ledger.recording():
        run(kind, send())
    assert ([1, 2, 3, 4], 1, ["error"] * 3 + ["success"]) == attempts(ledger)


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_request_again_is_an_attempt_and_an_equal_one_is_not(library, kind, server, ledger):
    """
    A loop of one's own: what counts is the object, not the words; and a request that got no answer counts too.
    """
    shape = SHAPES["chat"]
    hand = Hand(LIBRARIES[library], kind, server, shape, stream=False)
    good = answered(shape, stream=False)
    server.play((), good, good, good)

    async def loop():
        async with hand.opened_client() as client:
            request = hand.request()
            with pytest.raises(hand.library.RemoteProtocolError):
                await hand.settle(client.send, request)
            await hand.settle(client.send, request)
            await hand.settle(client.send, hand.request())
            await hand.settle(client.send, hand.request())

    with ledger.recording():
        run(kind, loop())
    assert ([1, 2, 1, 1], 3, ["error", "success", "success", "success"]) == attempts(ledger)


def test_a_redirect_is_no_attempt(server, ledger):
    """
    Its hops stand in the outcome of the one call.
    """
    shape = SHAPES["chat"]
    hop = (
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /api/v1/elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    server.play(hop, hop, answered(shape, stream=False))
    hand = Hand(LIBRARIES["httpx2"], SYNC, server, shape, stream=False)
    hand.options["follow_redirects"] = True

    async def send():
        async with hand.opened_client():
            await hand.send(stream=False)

    with ledger.recording():
        run(SYNC, send())
    assert ([1], 1, ["success"]) == attempts(ledger)
    assert [(307, f"127.0.0.1:{server.port}")] * 2 == [(hop.status, hop.host) for hop in ledger.only().redirects]


def test_router_attempts_are_kept_where_the_answer_tells_them(server, ledger):
    """
    Asked for by the caller with OpenRouter's own header: which providers were tried, whole and streamed.
    """
    whole, stream = example("chat/nonstream_router_metadata.json"), example("chat/stream_debug_and_metadata.sse")
    hand = Hand(LIBRARIES["httpx2"], SYNC, server, SHAPES["chat"], stream=False)
    for script in ((sized(whole),), (event_head() + stream,)):
        server.play(script)

        async def send():
            async with hand.opened_client():
                await hand.send(stream=False)

        with ledger.recording():
            run(SYNC, send())
        found = ledger.only().attempts
        assert found
        assert all(attempt.provider and attempt.status for attempt in found)
