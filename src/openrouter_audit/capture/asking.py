"""
The one thing that is ever added to a request, and only where `capture.router_metadata` says so: the header that has OpenRouter
tell which providers it tried (API: `openrouter_metadata`). The body stays as it is, byte for byte.
"""

from __future__ import annotations

from typing import Any

HEADER = "X-OpenRouter-Metadata"
OLD_HEADER = "X-OpenRouter-Experimental-Metadata"
ENDPOINTS = frozenset({"chat", "completions", "responses", "messages"})
_ATTRIBUTE = "_openrouter_audit_asks"


def ask_for_metadata(request: Any) -> bool:
    """
    Add the header, unless the caller has an opinion of its own; True where it is ours.

    A request that is sent again carries it already, and is still one that we altered.
    """
    headers = request.headers
    if HEADER in headers or OLD_HEADER in headers:
        return bool(getattr(request, _ATTRIBUTE, False))
    try:
        setattr(request, _ATTRIBUTE, True)
    except AttributeError:
        return False  # what cannot be remembered is not altered
    headers[HEADER] = "enabled"
    return True
