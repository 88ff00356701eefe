"""
What a call carries beside who it is for: claims of the request, kept apart from what the application attributes.

Whoever writes a request may put any name into it: an end user's own words in `user`, a proxy's `traceparent`. Such a word is
a *claim*. Where the application says nothing it stands in for the attributed one, and is marked; where the application speaks,
its word wins and the claim stays beside it. All of it is free text of somebody's, so all of it goes to the vault (P4).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from openrouter_audit.capture.openrouter import MAX_CACHED_TEXT
from openrouter_audit.core.entries import Application, Claimed, Context, Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openrouter_audit.capture.attribution import Scope
    from openrouter_audit.core.entries import Private

MAX_TRACEPARENT = 128
"""Characters; the format of today has 55."""
MAX_TITLE = 256
MAX_REFERER = 1024
"""Characters kept of what an application says of itself."""
_MAX_CACHED = 256
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_NOTHING_CLAIMED = Claimed()
_applications: dict[tuple[bytes | None, ...], Application] = {}
"""By header values. Threads may race, to no harm."""


def context_of(
    headers: Mapping[bytes, bytes],
    scope: Scope | None,
    *,
    user: str | None,
    session: str | None,
    claims: dict[str, Any],
) -> Context | None:
    """
    The context of a call; None where there is nothing to say, as is usual.

    Args:
        user: Claimed, and so are the others.
        claims: Further fields of `Claimed`.
    """
    traceparent = headers.get(b"traceparent")
    title = headers.get(b"x-openrouter-title") or headers.get(b"x-title")
    referer, categories = headers.get(b"http-referer"), headers.get(b"x-openrouter-categories")
    claimed = None
    if user or session or claims or traceparent:
        claimed = _claimed(scope, user, session, claims, traceparent)
    decision = None if scope is None else scope.decision
    application = _application(title, referer, categories) if title or referer or categories else None
    span = None if (trace := sys.modules.get("opentelemetry.trace")) is None else _active_span(trace)
    if claimed is None and decision is None and application is None and span is None:
        return None
    return Context(claimed=claimed, decision=decision, application=application, span=span)


def names_person(private: Private) -> str | None:
    """
    The title of the calling application, where it is who the call is for, or holds an e-mail address.

    OpenRouter shows titles in public: a mistake to hear of. It may be the attributed or the claimed user.
    """
    context = private.context
    if context is None or context.application is None or (title := context.application.title) is None:
        return None
    claimed = context.claimed or _NOTHING_CLAIMED
    people = (private.user, claimed.user, claimed.safety_identifier, claimed.metadata.get("user_id"))
    bare = title.strip().casefold()
    if any(person and person.strip().casefold() == bare for person in people):
        return title
    return title if "@" in title and _EMAIL.search(title) else None


def _active_span(trace: Any) -> Span | None:
    """
    Args:
        trace: `opentelemetry.trace`, which the application has imported; we never do here. Perhaps it is half way through.
    """
    try:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return Span(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}")
    except Exception:
        return None  # a span of somebody's own class, without one of these: the call is none the less recorded


def _application(title: bytes | None, referer: bytes | None, categories: bytes | None) -> Application:
    """The same object for the same headers: a client says the same with every call."""
    said = (title, referer, categories)
    application = _applications.get(said)
    if application is None:
        application = Application(
            title=_text(title, MAX_TITLE), referer=_text(referer, MAX_REFERER), categories=_text(categories, MAX_TITLE)
        )
        if sum(len(value or b"") for value in said) <= MAX_CACHED_TEXT:
            if len(_applications) >= _MAX_CACHED:
                _applications.clear()
            _applications[said] = application
    return application


def _text(value: bytes | None, limit: int) -> str | None:
    return value.decode("utf-8", "replace")[:limit] if value else None


def _claimed(
    scope: Scope | None, user: str | None, session: str | None, claims: dict[str, Any], traceparent: bytes | None
) -> Claimed:
    fields, fills = dict(claims), list[str]()
    for name, column, claim, ours in (
        ("user", "user_id", user, None if scope is None else scope.user),
        ("session", "session_id", session, None if scope is None else scope.session),
    ):
        if claim:
            if ours:
                fields[name] = claim
            else:
                fills.append(column)
    if traceparent:
        fields["traceparent"] = traceparent[:MAX_TRACEPARENT].decode("latin-1")
    return Claimed(**fields, fills=tuple(fills))  # type: ignore[arg-type]  # the two words above
