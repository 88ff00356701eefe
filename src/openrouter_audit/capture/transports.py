"""
Every client of the process: where each library is hooked, once, and put back as it was.

| library | hooked at | one call is |
|---|---|---|
| `httpx`, `httpx2` | `Client.send`, `AsyncClient.send` | one `send` |
| `aiohttp` | `ClientSession._request`, which all of its verbs come to | one request, redirects included |
| `requests` | `Session.send` | one `send`, redirects included |
| `websockets` | `ClientProtocol.connect` | none: an alert |

No library is imported for this: one that comes later is hooked when it comes. What several hooks see of one request is
settled in `watch`.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from openrouter_audit.capture import aiohttp_sessions, httpx_clients, requests_sessions
from openrouter_audit.capture.recorded_call import logger
from openrouter_audit.capture.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openrouter_audit.capture.hosts import HostSet
    from openrouter_audit.capture.recorder import Recorder

    Send = Callable[[Watch, Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
    """What stands in a function's place: watch, the owner of the function, its bound original, and the arguments."""
    Place = tuple[Any, str, Send]
    """A class, or None where the library has lost it, the name of its function, and what is called in its place."""


def _httpx(module: Any) -> Iterator[Place]:
    # `httpx2.alias_httpx` makes one module known under two names: the classes are what is patched, and once.
    yield getattr(module, "Client", None), "send", httpx_clients.send
    yield getattr(module, "AsyncClient", None), "send", httpx_clients.send_async


def _aiohttp(module: Any) -> Iterator[Place]:
    if aiohttp_sessions.is_known(module):
        yield getattr(module, "ClientSession", None), "_request", aiohttp_sessions.send


def _requests(module: Any) -> Iterator[Place]:
    yield getattr(module, "Session", None), "send", requests_sessions.send


def _websockets(module: Any) -> Iterator[Place]:
    yield getattr(module, "ClientProtocol", None), "connect", _connect


def _connect(
    watch: Watch, protocol: Any, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    uri = protocol.uri
    watch.websocket("wss" if uri.secure else "ws", uri.host, uri.port, uri.path)
    return wrapped(*args, **kwargs)


_LIBRARIES: dict[str, Callable[[Any], Iterator[Place]]] = {
    "httpx": _httpx,
    "httpx2": _httpx,
    "aiohttp": _aiohttp,
    "requests": _requests,
    "websockets.client": _websockets,
}
_installed: Watch | None = None
_patched: dict[tuple[Any, str], tuple[Any, Any]] = {}
"""Class and name of a function -> the original and ours."""
_hooked: set[str] = set()


def instrument(recorder: Recorder, hosts: HostSet) -> None:
    """
    Watch every client of these libraries, existing and future, also of a library that is imported later.

    Calling it again replaces recorder and hosts. Whoever calls it serialises it with `uninstrument`.
    """
    global _installed  # noqa: PLW0603 - the process has one installation, as it has one class `httpx.Client`
    _installed = Watch(recorder, hosts)
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        if module is not None:
            _patch(name, module)
        if name not in _hooked:
            _hooked.add(name)
            wrapt.register_post_import_hook(functools.partial(_patch, name), name)


def uninstrument() -> None:
    """
    Put the original functions back. Calls under way are recorded to their end.

    Where somebody has wrapped our wrapper meanwhile it stays, and passes everything on.
    """
    global _installed  # noqa: PLW0603
    _installed = None
    for (owner, name), (original, ours) in list(_patched.items()):
        if owner.__dict__.get(name) is ours:
            setattr(owner, name, original)
            del _patched[owner, name]


def _patch(library: str, module: Any) -> None:
    if _installed is None:
        return
    for owner, name, send in _LIBRARIES[library](module):
        original = getattr(owner, "__dict__", {}).get(name)
        if original is None:
            # Not the library, or one that has changed. Its import is the application's, and may not fail for our sake.
            logger.warning("%s is not recorded: it has no %s where this version looks for it", library, name)
        elif (owner, name) not in _patched or _patched[owner, name][0] is original:
            ours = wrapt.FunctionWrapper(original, _through(send))
            setattr(owner, name, ours)
            _patched[owner, name] = original, ours


def _through(send: Send) -> Callable[..., Any]:
    """What stands in a function's place; without an installation it passes everything on."""

    def sent(wrapped: Any, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watch = _installed
        return wrapped(*args, **kwargs) if watch is None else send(watch, owner, wrapped, args, kwargs)

    return sent
