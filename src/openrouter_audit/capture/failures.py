"""
What an exception says about the call it ended, for any client library.

Classes are told by the names along their inheritance: `httpx` and `httpx2` have equal names and distinct classes, and
neither need be imported here. An exception's text may hold anything and is never looked at.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FailureKind = Literal["timeout", "connect", "tls", "truncated", "decode", "cancelled", "other"]

_KINDS: tuple[tuple[str, FailureKind], ...] = (
    ("TimeoutException", "timeout"),
    ("Timeout", "timeout"),
    ("NewConnectionError", "connect"),
    ("TimeoutError", "timeout"),
    ("SSLError", "tls"),
    ("ClientSSLError", "tls"),
    ("ConnectError", "connect"),
    ("ClientConnectorError", "connect"),
    ("ProxyError", "connect"),
    ("ConnectionRefusedError", "connect"),
    ("DecodingError", "decode"),
    ("ContentDecodingError", "decode"),
    ("ContentEncodingError", "decode"),
    ("DecodeError", "decode"),
    ("RemoteProtocolError", "truncated"),
    ("NetworkError", "truncated"),
    ("ServerDisconnectedError", "truncated"),
    ("ClientOSError", "truncated"),
    ("ClientPayloadError", "truncated"),
    ("ChunkedEncodingError", "truncated"),
    ("ProtocolError", "truncated"),
    ("IncompleteRead", "truncated"),
    ("ConnectionResetError", "truncated"),
    ("BrokenPipeError", "truncated"),
    ("CancelledError", "cancelled"),
    ("Cancelled", "cancelled"),
)
"""By name of a class, of `httpx`, `aiohttp`, `requests`, `urllib3` and the standard library; the first that fits counts."""
_DEPTH = 8
"""How far causes are followed."""
_VAGUE = frozenset({"RequestException", "ClientPayloadError"})
"""Raised for whatever went wrong below: what they were raised from says more."""


class Failure(NamedTuple):
    """How a call failed on the client's side."""

    kind: FailureKind
    name: str
    """Class of the exception."""


def failure_of(error: BaseException) -> Failure:
    """Classify an exception that came out of sending a request or reading its answer."""
    name = type(error).__name__
    lineage = _lineage(error)
    kind = _kind_of(lineage)
    if not _VAGUE.isdisjoint(lineage) and kind not in {"timeout", "tls"}:
        below = [_kind_of(_lineage(cause)) for cause in _wrapped(error)]
        kind = next((found for found in below if found is not None), kind)
    if kind is None:
        kind = "other" if isinstance(error, Exception) else "cancelled"
    return Failure("tls" if kind == "connect" and _over_tls(error) else kind, name)


def _lineage(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _kind_of(lineage: set[str]) -> FailureKind | None:
    for base, kind in _KINDS:
        if base in lineage:
            return kind
    return None


def interrupted(error: BaseException | None) -> bool:
    """Whether a close happens because of this exception, which means that the caller was stopped and did not choose to."""
    return error is not None and not isinstance(error, (Exception, GeneratorExit))


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    """
    What an exception was made of, nearest first: its cause, or its first argument as `requests` has it.

    Not its context: what a caller was handling when it called says nothing of the call.
    """
    for _ in range(_DEPTH):
        first = error.args[0] if error.args else None
        inner = error.__cause__ or first
        if not isinstance(inner, BaseException):
            return
        yield inner
        error = inner


def _over_tls(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError) or any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What an exception was raised from, nearest first."""
    cause = error.__cause__ or error.__context__
    for _ in range(_DEPTH):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
