"""
Clients that are watched because somebody asked for them, whether or not the whole process is.

A watched client is an ordinary client of its library whose `send` goes through a `Watch`; it may be handed to any SDK that
takes one. An existing client, or an SDK object that holds one, is watched in place.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import wrapt

from openrouter_audit.capture import aiohttp_sessions, requests_sessions
from openrouter_audit.capture.httpx_clients import send, send_async
from openrouter_audit.capture.watch import Watch

if TYPE_CHECKING:
    from types import ModuleType

    from openrouter_audit.capture.hosts import HostSet
    from openrouter_audit.capture.recorder import Recorder

T = TypeVar("T")
_MARK = "_openrouter_audit_watch"


def audited_client(
    module: ModuleType, kind: Literal["sync", "async"], recorder: Recorder, hosts: HostSet, **options: Any
) -> Any:
    """
    A new client that is watched.

    Args:
        module: `httpx` or `httpx2`.
        options: Those of the library's own client.
    """
    watch = Watch(recorder, hosts)
    if kind == "sync":

        class AuditedClient(module.Client):  # type: ignore[misc, name-defined]
            def send(self, *args: Any, **kwargs: Any) -> Any:
                return send(watch, self, super().send, args, kwargs)

        return AuditedClient(**options)

    class AuditedAsyncClient(module.AsyncClient):  # type: ignore[misc, name-defined]
        async def send(self, *args: Any, **kwargs: Any) -> Any:
            return await send_async(watch, self, super().send, args, kwargs)

    return AuditedAsyncClient(**options)


def wrap(client: T, recorder: Recorder, hosts: HostSet) -> T:
    """
    Watch an existing client and give it back.

    Takes a client of `httpx` or `httpx2`, a session of `aiohttp` or `requests`, an SDK object of OpenAI's or Anthropic's
    kind, or OpenRouter's SDK object.

    Raises:
        TypeError: No client of a known library was found in it.
    """
    found = _clients_in(client)
    if not found:
        raise TypeError(
            f"{type(client).__module__}.{type(client).__qualname__} holds no client of httpx, httpx2, aiohttp or requests"
        )
    watch = Watch(recorder, hosts)
    for held, (name, sent) in found:
        _watch_one(held, name, sent, watch)
    return client


def _watch_one(client: Any, name: str, sent: Any, watch: Watch) -> None:
    # Not set as attributes: `aiohttp` warns of those that are not its own.
    own = client.__dict__
    if _MARK in own:
        own[_MARK].point(watch.recorder, watch.hosts)
        return

    def through(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return sent(watch, client, wrapped, args, kwargs)

    own[name], own[_MARK] = wrapt.FunctionWrapper(getattr(client, name), through), watch


_KINDS = {
    ("httpx", "Client"): ("send", send),
    ("httpx2", "Client"): ("send", send),
    ("httpx", "AsyncClient"): ("send", send_async),
    ("httpx2", "AsyncClient"): ("send", send_async),
    ("aiohttp", "ClientSession"): ("_request", aiohttp_sessions.send),
    ("requests", "Session"): ("send", requests_sessions.send),
}
"""Library and class of a client -> its function that everything goes through, and what stands in its place."""


def _clients_in(holder: Any) -> list[tuple[Any, tuple[str, Any]]]:
    kind = _kind_of(holder)
    if kind is not None:
        return [(holder, kind)]
    settings = getattr(holder, "sdk_configuration", None)
    candidates = (
        getattr(holder, "_client", None),
        getattr(settings, "client", None),
        getattr(settings, "async_client", None),
    )
    kinds = [(candidate, _kind_of(candidate)) for candidate in candidates]
    return [(candidate, kind) for candidate, kind in kinds if kind is not None]


def _kind_of(value: Any) -> tuple[str, Any] | None:
    for base in type(value).__mro__:
        library = base.__module__.partition(".")[0]
        kind = _KINDS.get((library, base.__name__))
        if kind is not None and (library != "aiohttp" or aiohttp_sessions.is_known(sys.modules[library])):
            return kind
    return None
