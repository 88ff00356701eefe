"""
What an exception says about the call it ended, for any client library.

Classes are told by the names along their inheritance: `httpx` and `httpx2` have equal names and distinct classes, and
neither need be imported here. An exception's text may hold anything and is never looked at.
"""

from __future__ import annotations

import ssl
from typing import Literal, NamedTuple

FailureKind = Literal["timeout", "connect", "tls", "truncated", "decode", "cancelled", "other"]

_KINDS: tuple[tuple[str, FailureKind], ...] = (
    ("TimeoutException", "timeout"),
    ("ConnectError", "connect"),
    ("ProxyError", "connect"),
    ("DecodingError", "decode"),
    ("RemoteProtocolError", "truncated"),
    ("NetworkError", "truncated"),
    ("CancelledError", "cancelled"),
    ("Cancelled", "cancelled"),
)


class Failure(NamedTuple):
    """How a call failed on the client's side."""

    kind: FailureKind
    name: str
    """Class of the exception."""


def failure_of(error: BaseException) -> Failure:
    """Classify an exception that came out of sending a request or reading its answer."""
    name = type(error).__name__
    lineage = {base.__name__ for base in type(error).__mro__}
    for base, kind in _KINDS:
        if base in lineage:
            return Failure("tls" if kind == "connect" and _over_tls(error) else kind, name)
    return Failure("other" if isinstance(error, Exception) else "cancelled", name)


def interrupted(error: BaseException | None) -> bool:
    """Whether a close happens because of this exception, which means that the caller was stopped and did not choose to."""
    return error is not None and not isinstance(error, (Exception, GeneratorExit))


def _over_tls(error: BaseException) -> bool:
    seen = 0
    cause: BaseException | None = error
    while cause is not None and seen < 8:
        if isinstance(cause, ssl.SSLError):
            return True
        cause, seen = cause.__cause__ or cause.__context__, seen + 1
    return False
