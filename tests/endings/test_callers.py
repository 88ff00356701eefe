"""
Every way in which a caller can end a call before it ends by itself, with all four clients and at all three endpoints.

As in `test_answers`: bare first, then recorded, and no difference to be seen. What arrived until then is counted, and
what it said is kept: whose call it was, and what it costs where that had come.
"""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.endings.answers import CHAT, HEADER_ID, SHAPES, Shape, event_head, refusal, sized
from tests.endings.endings import NOTHING_CAME, begun, good, join, nothing_of, steps, stream_pieces
from tests.endings.hands import ASYNC, LIBRARIES, SYNC, Hand, run
from tests.endings.seen import Seen, assert_same, assert_says, look
from tests.endings.server import HANG, Script
from tests.endings.wires import interrupting

Play = Callable[[Hand], Any]


class Odd(BaseException):
    """Neither an Exception nor one of those that end processes."""


async def leaves_after(hand: Hand, pieces: int, error: BaseException | None = None) -> None:
    """`with client.stream(...)`, left by `break` or by an exception."""
    async with hand.opened_client(), hand.streamed() as response:
        if pieces:
            async for _ in hand.reading(response):
                if len(hand.pieces) == pieces:
                    if error is not None:
                        raise error
                    break


async def leaves_holding(hand: Hand, error: BaseException) -> None:
    """`with client.stream(...)`, left by an exception while a variable still holds what was being read."""
    async with hand.opened_client(), hand.streamed() as response:
        reading = hand.reading(response)
        await anext(reading)
        raise error


async def closes_after(hand: Hand, pieces: int) -> Any:
    """`response.close()`, twice, and an attempt to read on."""
    async with hand.opened_client():
        response = await hand.send(stream=True)
        reading = hand.reading(response)
        while len(hand.pieces) < pieces:
            await anext(reading)
        await hand.close(response)
        await hand.close(response)
        with pytest.raises(hand.library.StreamError) as raised:
            await anext(hand.reading(response))
        return type(raised.value).__name__, response.is_closed, response.num_bytes_downloaded


async def drops_after(hand: Hand, pieces: int) -> None:
    """The last reference to response and generator is gone, and nobody closed anything."""
    async with hand.opened_client():
        response = await hand.send(stream=True)
        reading = hand.reading(response)
        while len(hand.pieces) < pieces:
            await anext(reading)
        del reading, response
        gc.collect()
        if hand.is_async:
            await asyncio.sleep(0)  # the loop closes generators it was handed


async def drops_the_generator(hand: Hand) -> Any:
    """The generator is collected half way, the response is closed afterwards."""
    async with hand.opened_client():
        response = await hand.send(stream=True)
        reading = hand.reading(response)
        await anext(reading)
        del reading
        gc.collect()
        if hand.is_async:
            await asyncio.sleep(0)
        before = response.is_closed
        await hand.close(response)
        return before, response.is_closed


async def closes_the_client(hand: Hand) -> Any:
    """The client is closed while a stream of it is open; the response is forgotten."""
    async with hand.opened_client():
        response = await hand.send(stream=True)
        await anext(hand.reading(response))
    return response.is_closed


async def leaves_the_loop(hand: Hand) -> None:
    """The event loop ends while the stream is open: nobody closes anything, and everything is still referred to."""
    hand.client = hand.library.AsyncClient(trust_env=False, verify=False, **hand.options)
    response = await hand.send(stream=True)
    hand.kept = [response, hand.reading(response)]
    await anext(hand.kept[1])


async def runs_out_of_time(hand: Hand) -> None:
    """asyncio's own time-out around a read, which is a cancellation for everybody below it."""
    async with hand.opened_client(), hand.streamed() as response:
        reading = hand.reading(response)
        await anext(reading)
        async with asyncio.timeout(0.01):
            await anext(reading)


async def whole(hand: Hand) -> Any:
    """A call that nobody means to end."""
    async with hand.opened_client():
        if not hand.stream:
            response = await hand.send(stream=False)
            return response.status_code, response.content
        async with hand.streamed() as response:
            async for _ in hand.reading(response):
                pass
        return response.status_code, response.is_closed


async def raises_for_status(hand: Hand) -> None:
    async with hand.opened_client(), hand.streamed() as response:
        response.raise_for_status()


async def reads_it_whole(hand: Hand) -> Any:
    async with hand.opened_client(), hand.streamed() as response:
        return await hand.settle(response.aread if hand.is_async else response.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    play: Play
    facts: Callable[[Shape], dict[str, Any]]
    script: Callable[[Shape], Script] = lambda shape: steps(event_head(), stream_pieces(shape))
    stream: bool = True
    kinds: tuple[str, ...] = (SYNC, ASYNC)
    shapes: tuple[str, ...] = tuple(SHAPES)
    wire: Any = None
    forgets: bool = False
    """What it leaves behind is collected when it is over."""
    closes_early: bool = False
    """The synchronous httpx2 closes the response when its generator goes, before anybody can know of the exception."""

    def __str__(self) -> str:
        return self.name


def left(status: str, **changes: Any) -> Callable[[Shape], dict[str, Any]]:
    """Ended by the caller, after the first piece."""

    def facts(shape: Shape) -> dict[str, Any]:
        size = len(stream_pieces(shape)[0])
        return begun(shape, status=status, complete=False, response_bytes=size, chunks=1, error_type=None) | changes

    return facts


def unread(status: str) -> Callable[[Shape], dict[str, Any]]:
    """Ended by the caller, with nothing but the head."""
    return lambda shape: nothing_of(shape, status=status, complete=False, response_bytes=0, chunks=0)


def nothing_came(code: str, status: str = "cancelled") -> Callable[[Shape], dict[str, Any]]:
    return lambda _: {**NOTHING_CAME, "status": status, "error_code": code, "error_source": "client"}


def half_of_a_body(code: str) -> Callable[[Shape], dict[str, Any]]:
    return lambda shape: nothing_of(
        shape, status="cancelled", complete=False, error_code=code, error_source="client", response_bytes=0
    )


def _silent(shape: Shape) -> Script:
    return (event_head() + stream_pieces(shape)[0], HANG)


def _cases() -> list[Case]:
    priced = tuple(name for name, shape in SHAPES.items() if shape.priced)
    found = [
        Case(name="break", play=lambda hand: leaves_after(hand, 1), facts=left("abandoned", error_code=None)),
        Case(name="break-before-reading", play=lambda hand: leaves_after(hand, 0), facts=unread("abandoned")),
        Case(
            name="break-when-the-price-is-known", play=lambda hand: leaves_after(hand, 2), shapes=priced,
            facts=lambda shape: good(shape.stream_facts, stream_pieces(shape)[:2], complete=False, chunks=2),
        ),
        Case(
            name="break-with-the-terminal-event", play=lambda hand: leaves_after(hand, 3),
            facts=lambda shape: good(shape.stream_facts, stream_pieces(shape)[:3], chunks=3),
        ),
        Case(name="close", play=lambda hand: closes_after(hand, 1), facts=left("abandoned", error_code=None)),
        Case(name="close-before-reading", play=lambda hand: closes_after(hand, 0), facts=unread("abandoned")),
        Case(name="garbage", forgets=True, play=lambda hand: drops_after(hand, 1), facts=left("abandoned")),
        Case(name="garbage-before-reading", forgets=True, play=lambda hand: drops_after(hand, 0), facts=unread("abandoned")),
        Case(
            name="garbage-after-the-terminal-event", forgets=True, play=lambda hand: drops_after(hand, 3),
            facts=lambda shape: good(shape.stream_facts, stream_pieces(shape)[:3]),
        ),
        Case(name="garbage-generator", forgets=True, play=drops_the_generator, facts=left("abandoned")),
        Case(name="client-closed", play=closes_the_client, facts=left("abandoned"), forgets=True),
        Case(name="loop-shut-down", play=leaves_the_loop, facts=left("abandoned"), forgets=True, kinds=(ASYNC,)),
        Case(
            name="asyncio-timeout", play=runs_out_of_time, script=_silent, kinds=(ASYNC,),
            facts=left("cancelled", error_code="CancelledError"),
        ),
        Case(
            name="raise-for-status", play=raises_for_status, script=lambda shape: (sized(refusal(shape, 429), 429),),
            facts=lambda shape: {
                "status": "error", "complete": False, "http_status": 429, "error_code": "429", "error_source": "http",
                "response_bytes": 0, "generation_id": HEADER_ID,
            },
        ),
        Case(
            name="read-whole", play=reads_it_whole, script=lambda shape: (event_head() + join(shape.stream),),
            facts=lambda shape: good(shape.stream_facts, join(shape.stream)),
        ),
    ]  # fmt: skip
    for error, status in (
        (ValueError, "abandoned"), (GeneratorExit, "abandoned"), (KeyboardInterrupt, "cancelled"),
        (SystemExit, "cancelled"), (asyncio.CancelledError, "cancelled"), (Odd, "cancelled"),
    ):  # fmt: skip
        name = error.__name__
        # An exception that this call did not cause says nothing of it but its status.
        found += [
            Case(
                name=f"with-left-by-{name}", facts=left(status, error_code=None),
                play=lambda hand, error=error: leaves_holding(hand, error("caller's own")),
            ),
            Case(
                name=f"loop-left-by-{name}", facts=left(status, error_code=None), closes_early=True,
                play=lambda hand, error=error: leaves_after(hand, 1, error("caller's own")),
            ),
        ]  # fmt: skip
    for error in (KeyboardInterrupt, SystemExit, MemoryError):
        name = error.__name__
        status = "error" if error is MemoryError else "cancelled"
        for stream in (False, True):
            form = "stream" if stream else "plain"
            found.append(
                Case(
                    name=f"{name}-while-sending-{form}", play=whole, stream=stream, facts=nothing_came(name, status),
                    wire=interrupting(error, after=None), script=lambda shape: (sized(shape.whole),),
                )
            )  # fmt: skip
        found += [
            Case(
                name=f"{name}-while-reading-stream", play=whole, wire=interrupting(error, after=1),
                facts=left(status, error_code=name, error_source="client"),
            ),
            Case(
                name=f"{name}-while-reading-plain", play=whole, wire=interrupting(error, after=0), stream=False,
                script=lambda shape: (sized(shape.whole),),
                facts=lambda shape, status=status, name=name: {**half_of_a_body(name)(shape), "status": status},
            ),
        ]  # fmt: skip
    return found


CASES = [(case, shape) for case in _cases() for shape in case.shapes]


def played(case: Case, shape: Shape, library: str, kind: str, server) -> Seen:
    server.play(case.script(shape))
    hand = Hand(LIBRARIES[library], kind, server, shape, stream=case.stream)
    hand.wire = case.wire

    def act() -> Any:
        try:
            return run(kind, case.play(hand))
        finally:
            hand.kept = hand.client = None
            if case.forgets:
                gc.collect()

    seen = look(act)
    seen.pieces, seen.sent = hand.pieces, list(server.received)
    server.dismiss()
    return seen


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case, shape", CASES, ids=[f"{shape}-{case}" for case, shape in CASES])
def test_a_caller_ends_it(case, shape, library, kind, server, ledger):
    """
    One intent, one outcome, and the right one; and nothing that the caller could have noticed.
    """
    if kind not in case.kinds:
        return
    bare = played(case, SHAPES[shape], library, kind, server)
    with ledger.recording():
        recorded = played(case, SHAPES[shape], library, kind, server)
    assert_same(bare, recorded)
    early = {"status": "abandoned"} if case.closes_early and (library, kind) == ("httpx2", SYNC) else {}
    assert_says(ledger.only(), case.facts(SHAPES[shape]) | early)


# Cancelled at every await -------------------------------------------------------------------------------------------


@types.coroutine
def cancelling_at(play: Any, number: int, reached: list[int]):
    """Drive a coroutine; when it waits for the `number`th time, its own task is cancelled there."""
    steps_, sent, thrown = play.__await__(), None, None
    while True:
        try:
            waits_for = steps_.send(sent) if thrown is None else steps_.throw(thrown)
        except StopIteration as end:
            return end.value
        thrown = None
        reached[0] += 1
        if reached[0] == number:
            asyncio.current_task().cancel()
        try:
            sent = yield waits_for
        except BaseException as error:
            thrown = error


def cancelled_at(number: int, library: str, shape: Shape, server, *, stream: bool) -> tuple[Seen, int]:
    server.play(steps(event_head(), stream_pieces(shape)) if stream else (sized(shape.whole),))
    hand = Hand(LIBRARIES[library], ASYNC, server, shape, stream=stream)
    reached = [0]

    async def act() -> Any:
        return await cancelling_at(whole(hand), number, reached)

    seen = look(lambda: asyncio.run(act()))
    seen.pieces = hand.pieces
    server.dismiss()
    return seen, reached[0]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_task_is_cancelled_at_every_await(shape, library, stream, server, ledger):
    """
    From the first wait of the call to the last. Cancelled before the end of the answer the call is `cancelled`, afterwards it
    is what it was; the task sees the same either way, and waits as often as without us.
    """
    number, found = 0, []
    while True:
        number += 1
        bare, waits = cancelled_at(number, library, SHAPES[shape], server, stream=stream)
        with ledger.recording():
            recorded, waits_recorded = cancelled_at(number, library, SHAPES[shape], server, stream=stream)
        assert_same(bare, recorded)
        assert waits == waits_recorded
        outcome = ledger.only()
        found.append((outcome.status, outcome.complete))
        if recorded.error:
            assert "CancelledError" == recorded.error[0][1]
            assert not stream or sum(map(len, recorded.pieces)) >= (outcome.response_bytes or 0)
        if waits < number:
            break
    done = found.index(("success", True))
    assert [("cancelled", False)] * done == found[:done]
    assert [("success", True)] * (len(found) - done) == found[done:]
    assert done >= 3


def test_the_table_of_callers_is_whole():
    """
    The measuring stick: each row is there for each endpoint it is about, and none stands twice.
    """
    names = [f"{shape}-{case}" for case, shape in CASES]
    assert len(set(names)) == len(names) > 90
    assert any(name == "chat-loop-shut-down" for name in names)
    assert CHAT.priced
