"""
Both clients of both libraries behind one set of words, so that an ending is written once and played with all four.

A play is a coroutine over a `Hand`. With the synchronous client nothing in it ever waits, and it is driven by hand,
without an event loop; `with`, `for` and `close` of the client itself happen as they would in plain code.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import httpx
import httpx2
from tests.endings.answers import KEY, Shape
from tests.endings.server import DEADLINE_S, ScriptedServer

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}
SYNC, ASYNC = "sync", "async"


@functools.cache
def tls() -> ssl.SSLContext:
    """One for all clients: making it takes longer than a call."""
    return ssl.create_default_context()


class Hand:
    """One client, about to ask one endpoint of one server."""

    def __init__(self, library: ModuleType, kind: str, server: ScriptedServer, shape: Shape, *, stream: bool) -> None:
        self.library, self.kind, self.server, self.shape = library, kind, server, shape
        self.stream = stream
        self.url = server.origin + shape.path
        self.reader = "raw"
        self.options: dict[str, Any] = {"timeout": DEADLINE_S}
        self.wire: Any = None
        """A transport between the client and the network, where a play needs one: `(library, kind) -> transport`."""
        self.pieces: list[Any] = []
        """What has reached the caller of a stream."""
        self.client: Any = None
        self.watch: Any = None
        """An `AuditLog` that the client is wrapped with."""
        self.kept: Any = None
        """What a play leaves behind, referred to until it is over."""

    @property
    def is_async(self) -> bool:
        return self.kind == ASYNC

    def request(self) -> Any:
        return self.client.build_request(
            "POST",
            self.url,
            content=self.shape.body(stream=self.stream),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )

    @asynccontextmanager
    async def opened_client(self) -> AsyncIterator[Any]:
        if self.wire is not None:
            self.options["transport"] = self.wire(self.library, self.kind)
        make = self.library.AsyncClient if self.is_async else self.library.Client
        self.client = make(verify=tls(), trust_env=False, **self.options)
        if self.watch is not None:
            self.watch.wrap(self.client)
        try:
            yield self.client
        finally:
            await self.settle(self.client.aclose if self.is_async else self.client.close)

    async def settle(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call what is a coroutine function in one client and a plain one in the other."""
        result = function(*arguments, **options)
        return await result if self.is_async else result

    async def send(self, *, stream: bool) -> Any:
        return await self.settle(self.client.send, self.request(), stream=stream)

    @asynccontextmanager
    async def streamed(self) -> AsyncIterator[Any]:
        """`with client.stream(...)`."""
        request = self.request()
        manager = self.client.stream("POST", self.url, content=request.content, headers=dict(request.headers))
        if self.is_async:
            async with manager as response:
                yield response
        else:
            with manager as response:
                yield response

    async def close(self, response: Any) -> None:
        await self.settle(response.aclose if self.is_async else response.close)

    def reading(self, response: Any) -> _Reading:
        name = ("aiter_" if self.is_async else "iter_") + self.reader
        return _Reading(self, getattr(response, name)())


class _Reading:
    """Goes over what a response yields; keeps it, and tells the server that it is here."""

    def __init__(self, hand: Hand, pieces: Any) -> None:
        self._hand = hand
        self._pieces = aiter(pieces) if hand.is_async else iter(pieces)

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> Any:
        if self._hand.is_async:
            piece = await anext(self._pieces)
        else:
            try:
                piece = next(self._pieces)
            except StopIteration:
                raise StopAsyncIteration from None
        self._hand.pieces.append(piece)
        self._hand.server.heard()
        return piece


def run(kind: str, play: Awaitable[Any]) -> Any:
    """Play to the end: on an event loop of its own, or without any."""
    if kind == ASYNC:

        async def whole() -> Any:
            return await play

        return asyncio.run(whole())
    steps = play.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    raise AssertionError("a synchronous client waited for an event loop")
