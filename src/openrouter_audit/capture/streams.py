"""
Bodies that are watched while they are read: the very same pieces, one by one, each told before it is handed on.

The classes are made for each client library, because `httpx` and `httpx2` accept only streams of their own base classes.
Nothing is read ahead, and nothing is kept open or closed that would not have been.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from openrouter_audit.capture.recorded_call import faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import ModuleType

    from openrouter_audit.capture.recorded_call import RecordedCall


def watched_sync(module: ModuleType) -> type[Any]:
    """The class of watched bodies for the library's synchronous client: `(stream, call)`."""

    class WatchedStream(module.SyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any, call: RecordedCall) -> None:
            self._stream = stream
            self._call = call

        def __iter__(self) -> Iterator[bytes]:
            call, reading = self._call, True
            tell = call.body
            try:
                for piece in self._stream:
                    try:
                        outcome = tell(piece)
                    except Exception as fault:
                        faults.count("body", fault)
                    else:
                        if outcome is not None:
                            call.ended(outcome)
                            if call.unsynced:
                                call.sync_outcome()
                    try:
                        yield piece
                    except BaseException:
                        reading = False
                        raise  # the reader stopped; whoever closes the response says how
            except BaseException as error:
                if reading:
                    call.failed(error)
                raise
            if not call.over:
                call.end()
                if call.unsynced:
                    call.sync_outcome()

        def close(self) -> None:
            if not self._call.over:
                self._call.closed(sys.exc_info()[1])
            self._stream.close()

        def __del__(self) -> None:
            call = self.__dict__.get("_call")
            if call is not None and not call.over:
                lost(call)

        def __getattr__(self, name: str) -> Any:
            return getattr(_inner(self, name), name)

    return WatchedStream


def watched_async(module: ModuleType) -> type[Any]:
    """The class of watched bodies for the library's asynchronous client: `(stream, call)`."""

    class WatchedStream(module.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any, call: RecordedCall) -> None:
            self._stream = stream
            self._call = call

        async def __aiter__(self) -> AsyncIterator[bytes]:
            call, reading = self._call, True
            tell = call.body
            stream = self._stream.__aiter__()
            try:
                async for piece in stream:
                    try:
                        outcome = tell(piece)
                    except Exception as fault:
                        faults.count("body", fault)
                    else:
                        if outcome is not None:
                            call.ended(outcome)
                            if call.unsynced:
                                await in_thread(call.sync_outcome)
                    try:
                        yield piece
                    except BaseException:
                        # GeneratorExit, or the CancelledError with which a loop that ends meets generators it was to close.
                        reading = False
                        raise
            except BaseException as error:
                if reading:
                    call.failed(error)
                raise
            finally:
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()  # as the library does for its own: not left to the garbage collector
            if not call.over:
                call.end()
                if call.unsynced:
                    await in_thread(call.sync_outcome)

        async def aclose(self) -> None:
            if not self._call.over:
                self._call.closed(sys.exc_info()[1])
            await self._stream.aclose()

        def __del__(self) -> None:
            call = self.__dict__.get("_call")
            if call is not None and not call.over:
                lost(call)

        def __getattr__(self, name: str) -> Any:
            return getattr(_inner(self, name), name)

    return WatchedStream


async def in_thread(blocking: Any) -> None:
    """Wait for a disk off the event loop, on asyncio and trio; what is begun is finished, cancelled or not."""
    import anyio.to_thread

    await anyio.to_thread.run_sync(blocking)


def lost(call: RecordedCall, *, interrupted: bool = False) -> None:
    """
    The last reference is gone. Runs inside the garbage collector, perhaps while the interpreter ends.

    Args:
        interrupted: The last read was cancelled, and none came after it.
    """
    try:
        call.closed(KeyboardInterrupt() if interrupted else None)
    except BaseException:
        return  # nobody is there to be told


def _inner(stream: Any, name: str) -> Any:
    inner = stream.__dict__.get("_stream")
    if inner is None:
        raise AttributeError(name)
    return inner
