"""
Watches the sessions of `aiohttp` at the function that all of its verbs come to, `ClientSession._request`.

One request of the caller is one call: redirects, and what middlewares of the caller send again, happen inside it. A
middleware of ours, the innermost, sees the request as it is about to be sent and has its intent written. The answer is
watched where the parser feeds it to `ClientResponse.content`: that object becomes one of a subclass without slots of its
own, so that nothing is copied, split or held back, and whoever holds it already goes on with the same object. So an answer
counts as it arrives, read or not: of a stream that is closed early, what was received and not yet read is recorded, too.

`aiohttp` undoes a content-encoding before it feeds. Then there are no raw bytes to commit to: such an outcome has no
`response_commitment`, and its `response_bytes` is what `aiohttp` counted on the wire. Of the request, bytes that are known
beforehand are committed to; a body that is streamed, multipart or compressed on its way has neither size nor commitment.

How a read ended is not always how the call did. A time-out for the whole request is; a read that was cancelled may be
tried again, so that its call is `cancelled` only when the answer is closed or lost after it.

What of `aiohttp` is not public and used here: `_request`, `_middlewares`, and of a reader `_wait`, `_buffer` and `_protocol`.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from openrouter_audit.capture.exchange import SentRequest
from openrouter_audit.capture.openrouter import headers_of
from openrouter_audit.capture.recorded_call import RecordedCall, faults, logger
from openrouter_audit.capture.streams import in_thread, lost
from openrouter_audit.core.entries import RedirectHop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openrouter_audit.capture.watch import Token, Watch


def is_known(module: Any) -> bool:
    """Whether requests of this version take middlewares, as those from 3.12 on do."""
    known = hasattr(module, "ClientMiddlewareType")
    if not known:
        logger.warning("aiohttp %s is not recorded: it is older than 3.12", getattr(module, "__version__", ""))
    return known


async def send(
    watch: Watch, session: Any, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A request; `wrapped` is the bound original."""
    sending = _Sending(watch)
    middlewares: Any = kwargs.get("middlewares")
    if middlewares is None:
        middlewares = getattr(session, "_middlewares", ())  # the session's own, which ours must not replace
    kwargs["middlewares"] = (*middlewares, sending.middleware)
    try:
        response = await wrapped(*args, **kwargs)
    except BaseException as error:
        if sending.token is not None:
            _failed(sending.token.call, sending.response, error)
        raise
    if sending.token is None:
        return response
    call = sending.token.call
    _attach(call, response)
    if call.unsynced:
        await in_thread(call.sync_outcome)
    return response


class _Sending:
    """What is known of one request of the caller while it is sent, perhaps several times."""

    __slots__ = ("begun", "response", "token", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.begun = False
        self.token: Token | None = None
        self.response: Any = None
        """The last that came: the caller's, or one that leads elsewhere."""

    async def middleware(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        if not self.begun:
            self.begun = True
            self.token = await self._take(request)
            if self.token is not None and self.token.call.strict:
                await in_thread(self.token.call.sync_intent)
        if self.token is None:
            return await handler(request)
        self.response = None
        with self.token:
            self.response = await handler(request)
        return self.response

    async def _take(self, request: Any) -> Token | None:
        watch = self.watch
        try:
            url, method = request.url, request.method
            port = None if url.is_default_port() else url.port
            target = watch.target(method, url.scheme, url.host or "", port, url.path)
            if target is None:
                return None
            sent = SentRequest(
                request=self,
                url=url,
                method=method,
                target=target,
                headers=headers_of([(name.encode(), value.encode()) for name, value in request.headers.items()]),
                body=await _body_of(request),
            )
        except Exception as error:
            faults.count("request", error)
            return None
        return watch.take(request, sent)


async def _body_of(request: Any) -> bytes | None:
    body = request.body
    if not body:
        return b""
    if request.compress or not any(base.__name__ == "BytesPayload" for base in type(body).__mro__):
        return None
    return bytes(await body.as_bytes())


def _failed(call: RecordedCall, response: Any, error: BaseException) -> None:
    """No response is handed to the caller, though one may have come: `raise_for_status` of the session."""
    try:
        if response is not None and not call.over:
            _tell_head(call, response)
            _Reading(call, decoded=_is_decoded(response.content)).take_in(response.content)
    except Exception as fault:
        faults.count("response", fault)
    call.failed(error, sending=True)


def _attach(call: RecordedCall, response: Any) -> None:
    """Tell the head of a response, and have its body watched."""
    try:
        _tell_head(call, response)
        content = response.content
        reading = _Reading(call, decoded=_is_decoded(content))
        known = getattr(response, "_body", None)
        if known is not None:
            call.whole(known, raw_bytes=content.total_raw_bytes, encoded=reading.decoded)
            return
        reading.take_in(content)
        error = content.exception()
        if error is not None:
            reading.broken(content, error)
        elif content.is_eof():
            reading.end(content)
        elif not call.over:
            content.__class__ = _watched(type(content), durable=call.strict)
            _readings[id(content)] = reading
    except Exception as error:
        faults.count("response", error)
        call.closed()


def _tell_head(call: RecordedCall, response: Any) -> None:
    call.head(response.status, list(response.raw_headers), _hops(response) if response.history else ())


def _hops(response: Any) -> Iterator[RedirectHop]:
    for before, after in itertools.pairwise((*response.history, response)):
        url = after.url
        yield RedirectHop(status=before.status, host=url.host if url.is_default_port() else f"{url.host}:{url.port}")


def _is_decoded(content: Any) -> bool:
    return getattr(content, "total_compressed_bytes", None) is not None


def _is_given_up(content: Any) -> bool:
    """Whether this side has closed the connection, as a session that is closed does with all of its own."""
    protocol = getattr(content, "_protocol", None)
    return protocol is not None and not protocol.connected


class _Reading(Struct, eq=False):
    """The body of one call, as it arrives."""

    call: RecordedCall
    decoded: bool
    """It comes decoded."""
    interrupted: bool = False
    """The last read of it was cancelled."""

    def take_in(self, content: Any) -> None:
        """What came before it was watched, and lies there unread."""
        waiting = list(getattr(content, "_buffer", ()))  # there is no other way to look at it and leave it there
        if gone := content.total_bytes - sum(map(len, waiting)):
            self.call.missed(gone)  # to a middleware
        for piece in waiting:
            self.piece(content, piece)

    def piece(self, content: Any, piece: bytes) -> None:
        self._count(content)
        self.call.piece(piece)

    def end(self, content: Any) -> None:
        self._count(content)
        self.call.end()

    def broken(self, content: Any, error: BaseException) -> None:
        """No more will come: for an error, or because the response is closed."""
        self._count(content)
        # The very class is what aiohttp sets when the caller closes or releases; errors of the connection are of subclasses.
        if type(error).__name__ == "ClientConnectionError" or self.interrupted or _is_given_up(content):
            self.given_up(content)
        else:
            self.call.failed(error)

    def given_up(self, content: Any) -> None:
        """Nobody will read on."""
        self._count(content)
        self.call.closed(KeyboardInterrupt() if self.interrupted else sys.exc_info()[1])

    def read_failed(self, content: Any, error: BaseException) -> None:
        """A read raised."""
        if isinstance(error, TimeoutError):
            self._count(content)
            self.call.failed(error)
        self.interrupted = not isinstance(error, Exception)

    def _count(self, content: Any) -> None:
        if self.decoded and not self.call.over:
            self.call.comes_decoded(content.total_compressed_bytes)


_readings: dict[int, _Reading] = {}
"""By the id of the reader, which has no place for more: its class has slots. An entry goes before its reader does."""
_kinds: dict[tuple[type[Any], bool], type[Any]] = {}


def _reading(content: Any) -> _Reading | None:
    """What is watched of this reader still; forgets it where all is said and on the disk."""
    reading = _readings.get(id(content))
    if reading is not None and reading.call.over and not reading.call.unsynced:
        _readings.pop(id(content), None)
        return None
    return reading


def _watched(kind: type[Any], *, durable: bool) -> type[Any]:
    """
    The class that readers of this kind become.

    Args:
        durable: Strict mode: what is read is handed on when the outcome that is due before it is on the disk.
    """
    known = _kinds.get((kind, durable))
    if known is None:
        known = _kinds[kind, durable] = _durable_reader(_watched(kind, durable=False)) if durable else _reader(kind)
    return known


def _reader(kind: type[Any]) -> type[Any]:
    class WatchedReader(kind):  # type: ignore[misc]
        __slots__ = ()

        def feed_data(self, data: bytes, *args: Any, **kwargs: Any) -> Any:
            reading = _reading(self)
            if reading is not None and data:
                reading.piece(self, data)
            return super().feed_data(data, *args, **kwargs)

        def feed_eof(self) -> None:
            reading = _reading(self)
            if reading is not None and _is_given_up(self):
                reading.given_up(self)
            elif reading is not None:
                reading.end(self)
            super().feed_eof()

        def set_exception(self, exc: BaseException, *args: Any, **kwargs: Any) -> None:
            reading = _reading(self)
            if reading is not None:
                reading.broken(self, exc)
            super().set_exception(exc, *args, **kwargs)

        async def _wait(self, *names: Any) -> None:
            """Where every read waits for more: nothing is taken out of the buffer yet."""
            try:
                await super()._wait(*names)
            except BaseException as error:
                reading = _reading(self)
                if reading is not None:
                    reading.read_failed(self, error)
                raise
            reading = _reading(self)
            if reading is not None:
                reading.interrupted = False
                if reading.call.unsynced:
                    await in_thread(reading.call.sync_outcome)

        def __del__(self) -> None:
            reading = _readings.pop(id(self), None)
            if reading is not None and not reading.call.over:
                lost(reading.call, interrupted=reading.interrupted)
            if hasattr(kind, "__del__"):
                kind.__del__(self)

    WatchedReader.__qualname__ = kind.__qualname__
    WatchedReader.__name__ = kind.__name__  # it stands in the text of a response
    return WatchedReader


def _durable_reader(kind: type[Any]) -> type[Any]:
    class DurableReader(kind):  # type: ignore[misc]
        __slots__ = ()

        async def read(self, *args: Any, **kwargs: Any) -> Any:
            await _synced(self)
            return await super().read(*args, **kwargs)

        async def readany(self) -> Any:
            await _synced(self)
            return await super().readany()

        async def readchunk(self) -> Any:
            await _synced(self)
            return await super().readchunk()

        async def readuntil(self, *args: Any, **kwargs: Any) -> Any:
            await _synced(self)
            return await super().readuntil(*args, **kwargs)

        def read_nowait(self, *args: Any, **kwargs: Any) -> Any:
            reading = _reading(self)
            if reading is not None and reading.call.unsynced:
                reading.call.sync_outcome()  # who will not wait for the network waits for the disk
            return super().read_nowait(*args, **kwargs)

    DurableReader.__qualname__ = kind.__qualname__
    DurableReader.__name__ = kind.__name__
    return DurableReader


async def _synced(content: Any) -> None:
    reading = _reading(content)
    if reading is not None and reading.call.unsynced:
        await in_thread(reading.call.sync_outcome)
