"""
Watches the sessions of `requests` at the public `Session.send`.

One `send` of the caller is one call: redirects, which are a `send` each inside it, auth flows and the retries of an adapter
included. A `send` that would have read the whole answer is asked for a stream instead, which is watched and then read
exactly as the library reads it; hooks of the caller are told `stream=True` then. The answer is watched below its decoding,
where `urllib3` takes it off the connection: `Response.raw` becomes an object of a subclass, for whoever reads it, so that
the commitment is over the raw bytes. A `raw` that is none of `urllib3`'s, as some adapters make, is watched only where
the answer is read at once.

What of both libraries is not public and used here: `Response._content`, and of a raw answer `_raw_read`, `_handle_chunk`
and `_update_chunk_length`.

Of the request, bytes and text that are known beforehand are committed to; a file or a generator has neither size nor
commitment.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from openrouter_audit.capture.exchange import SentRequest
from openrouter_audit.capture.openrouter import headers_of
from openrouter_audit.capture.recorded_call import RecordedCall, faults
from openrouter_audit.capture.streams import lost
from openrouter_audit.core.entries import RedirectHop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openrouter_audit.capture.watch import Token, Watch

_CALL = "_openrouter_audit_call"


def send(watch: Watch, session: Any, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`Session.send`; `wrapped` is the bound original."""
    token = _take(watch, args[0] if args else kwargs.get("request"))
    if token is None:
        return wrapped(*args, **kwargs)
    call = token.call
    stream = kwargs.get("stream", getattr(session, "stream", False))
    kwargs["stream"] = True
    with token:
        try:
            if call.strict:
                call.sync_intent()
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            call.failed(error, sending=True)
            raise
    watched = _attach(call, response)
    if call.unsynced:
        call.sync_outcome()
    if not stream:
        content = response.content
        if not watched:
            call.whole(content or b"", raw_bytes=len(content or b""), encoded=_is_encoded(response))
            if call.unsynced:
                call.sync_outcome()
    elif not watched:
        call.closed()
    return response


def _take(watch: Watch, request: Any) -> Token | None:
    try:
        url, method = request.url, request.method
        parts = urlsplit(url)
        host = parts.hostname or ""
        target = watch.target(method, parts.scheme, host, _port_of(parts), unquote(parts.path) or "/")
        if target is None:
            return None
        sent = SentRequest(
            request=request,
            url=url,
            method=method,
            target=target,
            headers=headers_of([(_bytes(name), _bytes(value)) for name, value in request.headers.items()]),
            body=_body_of(request.body),
        )
    except Exception as error:
        faults.count("request", error)
        return None
    return watch.take(request.hooks, sent)  # what a copy of a request, made for a redirect, shares with it


def _port_of(parts: Any) -> int | None:
    port: int | None = parts.port
    return None if port == {"https": 443, "http": 80}.get(parts.scheme) else port


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _body_of(body: Any) -> bytes | None:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, (bytes, bytearray)) else None


def _is_encoded(response: Any) -> bool:
    return bool(response.headers.get("content-encoding", "identity") != "identity")


def _attach(call: RecordedCall, response: Any) -> bool:
    """Tell the head of a response, and have its body watched; False where that cannot be."""
    try:
        raw = response.raw
        headers = [(_bytes(name), _bytes(value)) for name, value in response.headers.items()]
        call.head(response.status_code, headers, _hops(response) if response.history else ())
        known = response._content  # noqa: SLF001 - `content` would read it
        if known is not False:
            # A hook has read it already.
            call.whole(known or b"", raw_bytes=_counted(raw, known), encoded=_is_encoded(response))
            return True
        kind = _watched(type(raw))
        if kind is None:
            return False
        if raw.tell():
            call.missed(raw.tell())  # to a hook
        raw.__dict__[_CALL] = call
        raw.__class__ = kind
    except Exception as error:
        faults.count("response", error)
        call.closed()
    return True


def _counted(raw: Any, known: bytes | None) -> int:
    try:
        return int(raw.tell())
    except Exception:
        return len(known or b"")


def _hops(response: Any) -> Iterator[RedirectHop]:
    for before, after in itertools.pairwise((*response.history, response)):
        parts = urlsplit(after.url)
        host, port = parts.hostname or "", _port_of(parts)
        yield RedirectHop(status=before.status_code, host=host if port is None else f"{host}:{port}")


_kinds: dict[type[Any], type[Any] | None] = {}


def _watched(kind: type[Any]) -> type[Any] | None:
    """The class that raw answers of this kind become; None where they are not read as those of `urllib3` are."""
    if kind not in _kinds:
        parts = ("_raw_read", "_handle_chunk", "_update_chunk_length", "chunk_left", "tell")
        instance_made = {"chunk_left"}
        _kinds[kind] = _raw(kind) if all(part in instance_made or hasattr(kind, part) for part in parts) else None
    return _kinds[kind]


def _raw(kind: type[Any]) -> type[Any]:
    class WatchedResponse(kind):  # type: ignore[misc]
        __slots__ = ()

        def _raw_read(self, amt: int | None = None, **more: Any) -> Any:
            """What comes by length, or until the connection ends, or as `http.client` undoes its chunks."""
            call = self.__dict__[_CALL]
            try:
                data = super()._raw_read(amt, **more)
            except BaseException as error:
                call.failed(error)
                raise
            if data:
                call.piece(data)
            if (amt is None and not more.get("read1")) or (not data and amt != 0):
                call.end()
            return _synced(call, data)

        def _handle_chunk(self, amt: int | None) -> Any:
            """Chunks that urllib3 undoes by itself."""
            call = self.__dict__[_CALL]
            try:
                data = super()._handle_chunk(amt)
            except BaseException as error:
                call.failed(error)
                raise
            if data:
                call.piece(data)
            return _synced(call, data)

        def _update_chunk_length(self) -> None:
            call = self.__dict__.pop(_CALL)  # it closes before it raises, which is no close of the caller's
            try:
                super()._update_chunk_length()
            except BaseException as error:
                call.failed(error)
                raise
            finally:
                self.__dict__[_CALL] = call
            if self.chunk_left == 0:
                call.end()
                _synced(call, None)

        def close(self) -> None:
            call = self.__dict__.get(_CALL)
            if call is not None and not call.over:
                call.closed(sys.exc_info()[1])
            super().close()

        def __del__(self) -> None:
            call = self.__dict__.get(_CALL)
            if call is not None and not call.over:
                lost(call)
            super().__del__()

    WatchedResponse.__qualname__ = kind.__qualname__
    WatchedResponse.__name__ = kind.__name__
    return WatchedResponse


def _synced(call: RecordedCall, data: Any) -> Any:
    if call.unsynced:
        call.sync_outcome()
    return data
