"""
Transports between a client and the network that let something happen at an exact place: an interrupt, as a signal or an
exit handler brings it, while a request is sent or an answer is read.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.endings.hands import ASYNC, tls


def interrupting(error: Callable[[], BaseException], *, after: int | None) -> Callable[[ModuleType, str], Any]:
    """
    The network of either client, broken off.

    Args:
        after: So many pieces of the answer arrive; None: not even its head does, the request was sent.
    """

    def make(library: ModuleType, kind: str) -> Any:
        return _asynchronous(library, error, after) if kind == ASYNC else _synchronous(library, error, after)

    return make


def _synchronous(library: ModuleType, error: Callable[[], BaseException], after: int | None) -> Any:
    class Body(library.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self):
            for number, piece in enumerate(self.stream):
                if number == after:
                    raise error()
                yield piece

        def close(self) -> None:
            self.stream.close()

    class Wire(library.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            response = super().handle_request(request)
            if after is None:
                response.close()
                raise error()
            return library.Response(
                response.status_code,
                headers=response.headers,
                stream=Body(response.stream),
                extensions=response.extensions,
            )

    return Wire(verify=tls())


def _asynchronous(library: ModuleType, error: Callable[[], BaseException], after: int | None) -> Any:
    class Body(library.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def __aiter__(self):
            number = 0
            async for piece in self.stream:
                if number == after:
                    raise error()
                number += 1
                yield piece

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Wire(library.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            if after is None:
                await response.aclose()
                raise error()
            return library.Response(
                response.status_code,
                headers=response.headers,
                stream=Body(response.stream),
                extensions=response.extensions,
            )

    return Wire(verify=tls())
