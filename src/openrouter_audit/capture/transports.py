"""
Watches the clients of `httpx` and `httpx2` where all of their traffic passes: the public `send`.

One `send` is one call: redirects and auth flows happen inside it, retries of an SDK are several. Everything below `send`
stays as it is, proxies, TLS and foreign transports included. A `send` that would have read the whole answer is asked for
a stream instead, which is wrapped and then read exactly as the library reads it, so that the outcome is written before
the caller has the answer.

Several hooks may see one request: an explicit client inside a process where all clients are watched, or a wrapped client
of a wrapped client. The outermost takes it and opens a *token* that names the request; a lower hook yields only to an
open token of the same request. The token is closed when `send` returns. A flag would do for one thread, and would lose the
calls of tasks that are started inside a call and inherit its context.
"""

from __future__ import annotations

import itertools
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import wrapt
from msgspec import Struct

from openrouter_audit.capture.exchange import SentRequest
from openrouter_audit.capture.openrouter import MAX_CACHED_TEXT, Target, headers_of, target_of
from openrouter_audit.capture.recorded_call import RecordedCall, faults
from openrouter_audit.capture.streams import in_thread, watched_async, watched_sync
from openrouter_audit.core.entries import RedirectHop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from openrouter_audit.capture.hosts import HostSet
    from openrouter_audit.capture.recorder import Recorder

LIBRARIES = ("httpx", "httpx2")


class _Token(Struct, eq=False):
    """Names the request that a hook has taken, for as long as its `send` runs."""

    request: Any
    open: bool = True

    def covers(self, request: Any) -> bool:
        mine = self.request
        return self.open and (request is mine or (request.method == mine.method and request.url == mine.url))


_taken: ContextVar[_Token | None] = ContextVar("openrouter_audit_taken", default=None)


class Watch:
    """A recorder and the hosts it is for; sends requests through itself."""

    __slots__ = ("_targets", "hosts", "recorder")

    def __init__(self, recorder: Recorder, hosts: HostSet) -> None:
        self.point(recorder, hosts)

    def point(self, recorder: Recorder, hosts: HostSet) -> None:
        """Record elsewhere, or other hosts, from the next request on."""
        self.recorder = recorder
        self.hosts = hosts
        self._targets: dict[tuple[str, str, str, int | None, str], Target] = {}
        """By method, scheme, host, port and path, of requests known to be calls; emptied when full. Threads may race."""

    def send(self, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A synchronous `send` of either library; `wrapped` is the bound original."""
        request = args[0] if args else kwargs.get("request")
        call = self._begin(request)
        if call is None:
            return wrapped(*args, **kwargs)
        stream = kwargs.pop("stream", False)
        outside, token = _taken.get(), _Token(request)
        _taken.set(token)
        try:
            if call.strict:
                call.sync_intent()
            response = wrapped(*args, stream=True, **kwargs)
        except BaseException as error:
            call.failed(error, sending=True)
            raise
        finally:
            token.open = False
            _taken.set(outside)
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

    async def send_async(self, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The asynchronous twin of `send`."""
        request = args[0] if args else kwargs.get("request")
        call = self._begin(request)
        if call is None:
            return await wrapped(*args, **kwargs)
        stream = kwargs.pop("stream", False)
        outside, token = _taken.get(), _Token(request)
        _taken.set(token)
        try:
            if call.strict:
                await in_thread(call.sync_intent)
            response = await wrapped(*args, stream=True, **kwargs)
        except BaseException as error:
            call.failed(error, sending=True)
            raise
        finally:
            token.open = False
            _taken.set(outside)
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

    def _begin(self, request: Any) -> RecordedCall | None:
        """The call this request is; None where it is none, or somebody else's."""
        try:
            url, method = request.url, request.method
            line = method, url.scheme, url.host, url.port, url.path
            target = self._targets.get(line) or self._target_of(*line)
            if target is None:
                return None
            token = _taken.get()
            if token is not None and token.covers(request):
                return None
            try:
                body = request.content
            except Exception:
                body = None  # a stream: the library raises its own RequestNotRead
            sent = SentRequest(
                request=request,
                url=url,
                method=method,
                target=target,
                headers=headers_of(request.headers.raw),
                body=body,
            )
        except Exception as error:
            faults.count("request", error)
            return None
        return RecordedCall.begin(self.recorder, sent)

    def _target_of(self, method: str, scheme: str, host: str, port: int | None, path: str) -> Target | None:
        targets = self._targets  # before the hosts: what is learnt of old ones may not get into the table of new ones
        hosts = self.hosts
        if not hosts.watches(host, port or _DEFAULT_PORTS.get(scheme)):
            hosts.notice(host, port, path)
            return None
        target = target_of(method, scheme, host, port, path)
        if not target.route.is_call:
            return None
        if len(host) + len(path) <= MAX_CACHED_TEXT:
            if len(targets) >= _MAX_KNOWN:
                targets.clear()
            targets[method, scheme, host, port, path] = target
        return target


_DEFAULT_PORTS = {"https": 443, "http": 80}
_MAX_KNOWN = 256


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


# -- every client of the process ------------------------------------------------------------------------------------

_installed: Watch | None = None
_patched: dict[Any, tuple[Any, Any]] = {}
"""Class of client -> its original `send` and ours."""
_hooked: set[str] = set()


def instrument(recorder: Recorder, hosts: HostSet) -> None:
    """
    Watch every client of both libraries, existing and future, also of a library that is imported later.

    Calling it again replaces recorder and hosts. Whoever calls it serialises it with `uninstrument`.
    """
    global _installed  # noqa: PLW0603 - the process has one installation, as it has one class `httpx.Client`
    _installed = Watch(recorder, hosts)
    for name in LIBRARIES:
        module = sys.modules.get(name)
        if module is not None:
            _patch(module)
        if name not in _hooked:
            _hooked.add(name)
            wrapt.register_post_import_hook(_patch, name)


def uninstrument() -> None:
    """
    Put the original functions back. Calls under way are recorded to their end.

    Where somebody has wrapped our wrapper meanwhile it stays, and passes everything on.
    """
    global _installed  # noqa: PLW0603
    _installed = None
    for client, (original, ours) in list(_patched.items()):
        if client.__dict__.get("send") is ours:
            client.send = original
            del _patched[client]


def _patch(module: Any) -> None:
    # One module object may be known under two names (`httpx2.alias_httpx`): the classes are what is patched once.
    if _installed is None:
        return
    for name, send in (("Client", _send), ("AsyncClient", _send_async)):
        client = getattr(module, name, None)
        if client is None:
            continue
        original = client.__dict__["send"]
        if client not in _patched or _patched[client][0] is original:
            client.send = ours = wrapt.FunctionWrapper(original, send)
            _patched[client] = original, ours


def _send(wrapped: Any, _client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    watch = _installed
    return wrapped(*args, **kwargs) if watch is None else watch.send(wrapped, args, kwargs)


def _send_async(wrapped: Any, _client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    watch = _installed
    return wrapped(*args, **kwargs) if watch is None else watch.send_async(wrapped, args, kwargs)
