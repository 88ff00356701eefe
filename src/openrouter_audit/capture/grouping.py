"""
Which requests are attempts of one logical call (C26).

Two signs count: the same request object is sent again, as OpenRouter's SDK and plain retry loops do; or the client says
`x-stainless-retry-count: n`, as OpenAI's and Anthropic's SDKs do with a new request object, and attempt n-1 with equal
method, URL and body failed in this thread or task. What failed is remembered as a keyed digest in a context variable, a
few per context and in memory only; calls that succeed cost nothing. A request object carries its place itself, as a plain
tuple, so that pickling it needs nothing of ours: a table of weak references took a tenth of the whole cost of a call.
"""

from __future__ import annotations

import hashlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from openrouter_audit.capture.exchange import SentRequest

REMEMBERED = 8
"""Failed attempts kept for each context: a task rarely has more than one retry loop open."""

_ATTRIBUTE = "_openrouter_audit_place"
_RETRY_COUNT = b"x-stainless-retry-count"
_FIRST = (None, b"0")
"""Values of `x-stainless-retry-count` that say nothing of an earlier attempt."""
_KEY = os.urandom(16)


class Place(Struct, frozen=True, gc=False):
    """A request's place among the attempts of its call."""

    group: str
    attempt: int
    """Counted from 1."""


class _Failed(NamedTuple):
    digest: bytes
    retry_count: int
    place: Place


_failed: ContextVar[tuple[_Failed, ...]] = ContextVar("openrouter_audit_failed", default=())


def place_of(sent: SentRequest, *, fresh: str) -> Place:
    """
    The place of a request that is about to be sent; its library's request object is marked with it.

    Args:
        fresh: 32 random hex digits, for a new group.
    """
    before: tuple[str, int] | None = getattr(sent.request, _ATTRIBUTE, None)
    retry_count = sent.headers.get(_RETRY_COUNT)
    if before is None and retry_count not in _FIRST and (count := _count(retry_count)):
        digest = _digest(sent)
        for failed in _failed.get():
            if failed.digest == digest and failed.retry_count == count - 1:
                before = failed.place.group, failed.place.attempt
                break  # the newest: an older one may be of an equal call that was given up
    group, attempt = (fresh, 1) if before is None else (before[0], before[1] + 1)
    try:
        setattr(sent.request, _ATTRIBUTE, (group, attempt))
    except AttributeError:
        pass  # an object that takes no attributes is a new call each time
    return Place(group, attempt)


def remember_failure(sent: SentRequest, place: Place) -> None:
    """An attempt failed; the next request of this context may be another one of it."""
    count = _count(sent.headers.get(_RETRY_COUNT))
    if count is not None:
        failed = _Failed(_digest(sent), count, place)
        _failed.set((failed, *_failed.get()[: REMEMBERED - 1]))


def _count(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 6 else None


def _digest(sent: SentRequest) -> bytes:
    state = hashlib.blake2b(f"{sent.method} {sent.url}\n".encode("utf-8", "replace"), digest_size=16, key=_KEY)
    state.update(sent.body or b"")
    return state.digest()
