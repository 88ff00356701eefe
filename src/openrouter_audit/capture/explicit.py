"""
Clients that are watched because somebody asked for them, whether or not the whole process is.

A watched client is an ordinary client of its library whose `send` goes through a `Watch`; it may be handed to any SDK that
takes one. An existing client, or an SDK object that holds one, is watched in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from openrouter_audit.capture.transports import Watch

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
                return watch.send(super().send, args, kwargs)

        return AuditedClient(**options)

    class AuditedAsyncClient(module.AsyncClient):  # type: ignore[misc, name-defined]
        async def send(self, *args: Any, **kwargs: Any) -> Any:
            return await watch.send_async(super().send, args, kwargs)

    return AuditedAsyncClient(**options)


def wrap(client: T, recorder: Recorder, hosts: HostSet) -> T:
    """
    Watch an existing client and give it back.

    Takes a client of either library, an SDK object of OpenAI's or Anthropic's kind, or OpenRouter's SDK object.

    Raises:
        TypeError: No client of a known library was found in it.
    """
    found = _clients_in(client)
    if not found:
        raise TypeError(f"{type(client).__module__}.{type(client).__qualname__} holds no client of httpx or httpx2")
    watch = Watch(recorder, hosts)
    for held in found:
        _watch_one(held, watch)
    return client


def _watch_one(client: Any, watch: Watch) -> None:
    if _MARK in client.__dict__:
        client.__dict__[_MARK].point(watch.recorder, watch.hosts)
        return
    original = client.send
    if _is_async(client):

        async def send_async(*args: Any, **kwargs: Any) -> Any:
            return await watch.send_async(original, args, kwargs)

        client.send = send_async
    else:

        def send(*args: Any, **kwargs: Any) -> Any:
            return watch.send(original, args, kwargs)

        client.send = send
    client.__dict__[_MARK] = watch


def _clients_in(holder: Any) -> list[Any]:
    if _is_client(holder):
        return [holder]
    settings = getattr(holder, "sdk_configuration", None)
    candidates = (
        getattr(holder, "_client", None),
        getattr(settings, "client", None),
        getattr(settings, "async_client", None),
    )
    return [candidate for candidate in candidates if candidate is not None and _is_client(candidate)]


def _is_client(value: Any) -> bool:
    return hasattr(value, "send") and any(
        base.__name__ in {"Client", "AsyncClient"} and base.__module__.partition(".")[0] in {"httpx", "httpx2"}
        for base in type(value).__mro__
    )


def _is_async(client: Any) -> bool:
    return any(base.__name__ == "AsyncClient" for base in type(client).__mro__)
