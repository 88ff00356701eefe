"""
What a call carries beside who it is for: claims of the request, kept apart from what the application attributes.

Whoever writes a request may put any name into it: an end user's own words in `user`, a proxy's `traceparent`. Such a word is
a *claim*. Where the application says nothing it stands in for the attributed one, and is marked; where the application speaks,
its word wins and the claim stays beside it. All of it is free text of somebody's, so all of it goes to the vault (P4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openrouter_audit.core.entries import Claimed, Context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openrouter_audit.capture.attribution import Scope

MAX_TRACEPARENT = 128
"""Characters; the format of today has 55."""


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
    claimed = None
    if user or session or claims or traceparent:
        claimed = _claimed(scope, user, session, claims, traceparent)
    decision = None if scope is None else scope.decision
    if claimed is None and decision is None:
        return None
    return Context(claimed=claimed, decision=decision)


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
