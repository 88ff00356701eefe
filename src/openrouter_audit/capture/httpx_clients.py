"""
Watches the clients of `httpx` and `httpx2` where all of their traffic passes: the public `send`.

One `send` is one call: redirects and auth flows happen inside it, retries of an SDK are several. Everything below `send`
stays as it is, proxies, TLS and foreign transports included. A `send` that would have read the whole answer is asked for
a stream instead, which is wrapped and then read exactly as the library reads it, so that the outcome is written before
the caller has the answer.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

from openrouter_audit.capture.asking import ENDPOINTS, ask_for_metadata
from openrouter_audit.capture.exchange import SentRequest
from openrouter_audit.capture.openrouter import headers_of
from openrouter_audit.capture.recorded_call import RecordedCall, faults
from openrouter_audit.capture.streams import in_thread, watched_async, watched_sync
from openrouter_audit.core.entries import RedirectHop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from openrouter_audit.capture.watch import Token, Watch


def send(watch: Watch, _client: Any, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A synchronous `send` of either library; `wrapped` is the bound original."""
    token = _take(watch, args[0] if args else kwargs.get("request"))
    if token is None:
        return wrapped(*args, **kwargs)
    call, stream = token.call, kwargs.pop("stream", False)
    with token:
        try:
            if call.strict:
                call.sync_intent()
            response = wrapped(*args, stream=True, **kwargs)
        except BaseException as error:
            call.failed(error, sending=True)
            raise
    _attach(call, response, (_kits.get(type(response)) or _kit(response)).sync_stream)
    if call.unsynced:
        call.sync_outcome()
    if not stream:
        try:
            response.read()
        except BaseException:
            response.close()
            raise
    return response


async def send_async(
    watch: Watch, _client: Any, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The asynchronous twin of `send`."""
    token = _take(watch, args[0] if args else kwargs.get("request"))
    if token is None:
        return await wrapped(*args, **kwargs)
    call, stream = token.call, kwargs.pop("stream", False)
    with token:
        try:
            if call.strict:
                await in_thread(call.sync_intent)
            response = await wrapped(*args, stream=True, **kwargs)
        except BaseException as error:
            call.failed(error, sending=True)
            raise
    _attach(call, response, (_kits.get(type(response)) or _kit(response)).async_stream)
    if call.unsynced:
        await in_thread(call.sync_outcome)
    if not stream:
        try:
            await response.aread()
        except BaseException:
            await response.aclose()
            raise
    return response


def _take(watch: Watch, request: Any) -> Token | None:
    """The call this request is; None where it is none, or somebody else's."""
    try:
        url, method = request.url, request.method
        target = watch.target(method, url.scheme, url.host, url.port, url.path)
        if target is None:
            return None
        try:
            body = request.content
        except Exception:
            body = None  # a stream: the library raises its own RequestNotRead
        asks = watch.asks and target.route.endpoint in ENDPOINTS and ask_for_metadata(request)
        sent = SentRequest(
            request=request,
            url=url,
            method=method,
            target=target,
            headers=headers_of(request.headers.raw),
            body=body,
            router_metadata=asks,
        )
    except Exception as error:
        faults.count("request", error)
        return None
    return watch.take(request, sent)


class _Kit:
    """The classes of one library's watched streams."""

    __slots__ = ("async_stream", "sync_stream")

    def __init__(self, module: ModuleType) -> None:
        self.sync_stream = watched_sync(module)
        self.async_stream = watched_async(module)


_kits: dict[type[Any], _Kit] = {}


def _kit(response: Any) -> _Kit:
    """The stream classes that this response's library accepts."""
    kind = type(response)
    # A subclass of Response may come from anywhere; the library is where the base with the stream classes lives.
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0])
        if module is not None and hasattr(module, "SyncByteStream"):
            kit = _kits[kind] = _Kit(module)
            return kit
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is of no known library")


def _attach(call: RecordedCall, response: Any, stream_class: type[Any]) -> None:
    """Tell the head of a response, and have its body watched."""
    try:
        call.head(response.status_code, response.headers.raw, _hops(response) if response.history else ())
        if response.is_stream_consumed:
            # A hook, an auth flow or a transport without a wire has read it already.
            encoded = response.headers.get("content-encoding", "identity") != "identity"
            try:
                content = response.content
            except Exception:
                call.closed()  # a hook has eaten it, and kept nothing
            else:
                call.whole(content, raw_bytes=response.num_bytes_downloaded, encoded=encoded)
        else:
            response.stream = stream_class(response.stream, call)
    except Exception as error:
        faults.count("response", error)
        call.closed()


def _hops(response: Any) -> Iterator[RedirectHop]:
    """Where each earlier answer of this `send` led: hosts only, paths and queries may say more than we may keep."""
    chain = (*response.history, response)
    for before, after in itertools.pairwise(chain):
        url = after.request.url
        yield RedirectHop(status=before.status_code, host=url.host if url.port is None else f"{url.host}:{url.port}")
