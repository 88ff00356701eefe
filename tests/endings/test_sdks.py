"""
The main endings as the official SDKs see them: OpenAI's at chat and responses, OpenRouter's at chat, Anthropic's at messages.

The SDK has its own opinion of an answer, and it must be the same opinion with and without us: same values, same
exceptions, same chunks. What the log says does not depend on it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from openrouter import OpenRouter
from openrouter.utils import BackoffStrategy, RetryConfig
from tests.endings.answers import KEY, SHAPES, event_head
from tests.endings.endings import PLAIN, STREAM, Ending, begun, endings, steps, stream_pieces
from tests.endings.hands import ASYNC, SYNC, Hand, run
from tests.endings.seen import Seen, assert_same, assert_says, look
from tests.endings.server import HEARD

ONCE = RetryConfig("none", BackoffStrategy(1, 5, 1.5, 5000), False)
MAIN = {
    PLAIN: {
        "complete", "empty", "gzip", "cut-in-the-body", "error-in-200", "status-400", "status-429", "status-500",
        "status-524", "silence", "silence-in-the-body", "refused-connection", "closed-without-a-word", "redirect-followed",
    },
    STREAM: {
        "complete", "keep-alives", "empty", "cut-between-frames", "cut-inside-a-frame", "cut-inside-a-chunk", "error-first",
        "error-midway", "error-with-usage", "error-with-a-string-code", "usage-b", "usage-c", "incomplete", "failed",
        "all-items-and-no-terminal-event", "without-done", "silence-midway", "status-402", "status-529", "error-in-200",
    },
}  # fmt: skip


class Sdk:
    """One SDK at one endpoint, over a client that a `Hand` holds."""

    def __init__(self, name: str, shape: str, library: Any, ask: Callable[[Hand, bool], Any]) -> None:
        self.name, self.shape, self.library, self.ask = name, shape, library, ask

    def __str__(self) -> str:
        return f"{self.name}-{self.shape}"


def _openai(hand: Hand) -> Any:
    make = openai.AsyncOpenAI if hand.is_async else openai.OpenAI
    return make(
        base_url=hand.url.rpartition("/api/v1")[0] + "/api/v1", api_key=KEY, http_client=hand.client, max_retries=0
    )


def _ask_openai_chat(hand: Hand, stream: bool) -> Any:
    return _openai(hand).chat.completions.create(**hand.shape.request, stream=stream)


def _ask_openai_responses(hand: Hand, stream: bool) -> Any:
    return _openai(hand).responses.create(**hand.shape.request, stream=stream)


def _ask_anthropic(hand: Hand, stream: bool) -> Any:
    make = anthropic.AsyncAnthropic if hand.is_async else anthropic.Anthropic
    base = hand.url.rpartition("/v1")[0]
    sdk = make(base_url=base, api_key=KEY, http_client=hand.client, max_retries=0)
    return sdk.messages.create(**hand.shape.request, stream=stream)


def _ask_openrouter(hand: Hand, stream: bool) -> Any:
    base = hand.url.rpartition("/api/v1")[0] + "/api/v1"
    if hand.is_async:
        sdk = OpenRouter(api_key=KEY, server_url=base, async_client=hand.client, client=None)
        return sdk.chat.send_async(**hand.shape.request, stream=stream, retries=ONCE)
    sdk = OpenRouter(api_key=KEY, server_url=base, client=hand.client)
    return sdk.chat.send(**hand.shape.request, stream=stream, retries=ONCE)


SDKS = [
    Sdk("openai", "chat", httpx2, _ask_openai_chat),
    Sdk("openai", "responses", httpx2, _ask_openai_responses),
    Sdk("anthropic", "messages", httpx2, _ask_anthropic),
    Sdk("openrouter", "chat", httpx, _ask_openrouter),
]
TABLE = [ending for ending in endings() if ending.name in MAIN[ending.form]]
CASES = [(sdk, ending) for sdk in SDKS for ending in TABLE if ending.shape.name == sdk.shape]
DEAR = {"complete", "status-429", "error-in-200", "error-midway", "cut-inside-a-frame", "silence-midway"}
"""Of OpenRouter's SDK, which takes longer to make than all the rest of a case."""


def every_day() -> list[tuple[Sdk, Ending, str]]:
    """An SDK's two clients share what reads an answer: each day one of them is asked, in turn."""
    dear = [(sdk, ending) for sdk, ending in CASES if sdk.name != "openrouter" or ending.name in DEAR]
    return [(*case, (SYNC, ASYNC)[number % 2]) for number, case in enumerate(dear)]


EVERYDAY = every_day()
OTHERS = [(*case, kind) for case in CASES for kind in (SYNC, ASYNC) if (*case, kind) not in EVERYDAY]


async def consume(hand: Hand, sdk: Sdk, *, after: int | None = None) -> Any:
    """Ask, and read what comes to its end, or so many chunks of it."""
    async with hand.opened_client():
        answer = sdk.ask(hand, hand.stream)
        if hand.is_async:
            answer = await answer
        if not hand.stream:
            return told(answer)
        chunks = hand.pieces
        if hand.is_async:
            async for chunk in answer:
                chunks.append(told(chunk))
                if len(chunks) == after:
                    break
            await close(answer)
        else:
            for chunk in answer:
                chunks.append(told(chunk))
                if len(chunks) == after:
                    break
            await close(answer)
        return type(answer).__name__


async def close(stream: Any) -> None:
    """As each SDK's stream is closed; OpenRouter's has a context manager for it."""
    if isinstance(stream, openai.AsyncStream | anthropic.AsyncStream):
        await stream.close()
    elif isinstance(stream, openai.Stream | anthropic.Stream):
        stream.close()
    elif hasattr(stream, "__aexit__"):
        await stream.__aexit__(None, None, None)
    else:
        stream.__exit__(None, None, None)


def told(value: Any) -> Any:
    return value.model_dump_json() if hasattr(value, "model_dump_json") else repr(value)


def play(sdk: Sdk, ending: Ending, kind: str, server) -> Seen:
    # An SDK shows events, not pieces: the server does not wait for what may never be shown.
    server.play(*(tuple(step for step in script if step != HEARD) for script in ending.answered.scripts))
    hand = Hand(sdk.library, kind, server, ending.shape, stream=ending.form == STREAM)
    ending.prepare(hand)
    seen = look(lambda: run(kind, consume(hand, sdk)))
    seen.pieces, seen.sent = hand.pieces, list(server.received)
    server.dismiss()
    return seen


@pytest.mark.parametrize("sdk, ending, kind", EVERYDAY, ids=["-".join(map(str, case)) for case in EVERYDAY])
def test_an_sdk_sees_what_it_would_have_seen(sdk, ending, kind, server, ledger):
    """
    One exchange, whatever the SDK makes of it; values, exceptions with their causes, and chunks are the same.
    """
    check_case(sdk, ending, kind, server, ledger)


@pytest.mark.long
@pytest.mark.parametrize("sdk, ending, kind", OTHERS, ids=["-".join(map(str, case)) for case in OTHERS])
def test_either_client_of_an_sdk_sees_what_it_would_have_seen(sdk, ending, kind, server, ledger):
    check_case(sdk, ending, kind, server, ledger)


def check_case(sdk: Sdk, ending: Ending, kind: str, server, ledger) -> None:
    bare = play(sdk, ending, kind, server)
    with ledger.recording():
        recorded = play(sdk, ending, kind, server)
    assert_same(bare, recorded)
    uncertain = {
        "chunks",
        "response_bytes",
        "complete",
    }  # an SDK may stop reading at the event that it takes for the end
    assert_says(ledger.only(), {k: v for k, v in ending.answered.facts.items() if k not in uncertain})


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("sdk", SDKS, ids=str)
def test_an_sdk_stream_that_is_left_is_abandoned(sdk, kind, server, ledger):
    """
    `break` after the first event, and `close`.
    """
    shape = SHAPES[sdk.shape]

    def left():
        server.play(steps(event_head(), stream_pieces(shape)))
        hand = Hand(sdk.library, kind, server, shape, stream=True)
        seen = look(lambda: run(kind, consume(hand, sdk, after=1)))
        seen.pieces = hand.pieces
        server.dismiss()
        gc.collect()
        return seen

    bare = left()
    with ledger.recording():
        recorded = left()
    assert [] == recorded.error
    assert_same(bare, recorded)
    first = stream_pieces(shape)[0]
    assert_says(ledger.only(), begun(shape, status="abandoned", complete=False, response_bytes=len(first)))


class _Noting(list):
    """Says when it is no longer empty."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    def append(self, value: Any) -> None:
        super().append(value)
        self.begun.set()


@pytest.mark.parametrize("sdk", SDKS, ids=str)
def test_a_cancelled_task_in_an_sdk_is_a_cancelled_call(sdk, server, ledger):
    """
    The task waits for the second piece, which never comes.
    """
    shape = SHAPES[sdk.shape]

    def cancelled():
        server.play((event_head() + stream_pieces(shape)[0], "hang"))
        hand = Hand(sdk.library, ASYNC, server, shape, stream=True)

        async def act():
            hand.pieces = _Noting()
            task = asyncio.ensure_future(consume(hand, sdk))
            await hand.pieces.begun.wait()
            task.cancel()
            await task

        seen = look(lambda: asyncio.run(act()))
        seen.pieces = list(hand.pieces)
        server.dismiss()
        return seen

    bare = cancelled()
    with ledger.recording():
        recorded = cancelled()
    assert "CancelledError" == recorded.error[0][1]
    assert_same(bare, recorded)
    assert_says(ledger.only(), begun(shape, status="cancelled", complete=False))


def test_each_sdk_has_its_main_rows():
    """
    The measuring stick: names in the list that no row has would be tested by nobody.
    """
    assert MAIN[PLAIN] | MAIN[STREAM] == {ending.name for _, ending in CASES}
    assert 4 == len({str(sdk) for sdk, _ in CASES})
