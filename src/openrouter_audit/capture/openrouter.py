"""
OpenRouter as seen from a request line and headers: which endpoint, whose key, which SDK, and what is no call at all.

Paths hold identifiers and slugs that people chose, so an entry gets the path with all but OpenRouter's own words replaced
by `~`; the whole path goes to the vault.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from openrouter_audit.capture.json_text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openrouter_audit.core.entries import Endpoint

_ROOTS = ("/api/v1", "/api/alpha", "/api/beta", "/v1")
"""Where paths begin. The last is for emulators and gateways that have no `/api`."""
_ENDPOINTS: dict[str, Endpoint] = {
    "chat/completions": "chat",
    "completions": "completions",
    "responses": "responses",
    "messages": "messages",
    "embeddings": "embeddings",
    "rerank": "rerank",
    "images": "images",
    "images/generations": "images",
    "audio/speech": "speech",
    "audio/transcriptions": "transcriptions",
    "decisions": "decisions",
    "api/alpha/decisions": "decisions",
    "systemone": "decisions",
}
_FAMILIES: dict[str, Endpoint] = {
    "videos": "videos",
    "batches": "batches",
    "presets": "presets",
    "files": "files",
    "containers": "files",
    "generation": "data",
    "activity": "data",
    "analytics": "data",
    "auth": "data",
    "byok": "data",
    "credits": "data",
    "endpoints": "data",
    "external-users": "data",
    "guardrails": "data",
    "key": "data",
    "keys": "data",
    "models": "data",
    "oauth": "data",
    "observability": "data",
    "organization": "data",
    "private-endpoints": "data",
    "providers": "data",
    "scim": "data",
    "vault": "data",
    "workspaces": "data",
}
_FREE_READS = frozenset({"models", "key", "keys", "credits", "providers", "endpoints"})
"""GETs under these neither cost nor carry content (C12); `/generation` is one too, `/generation/content` is not."""
_WORDS = frozenset(
    {word for path in _ENDPOINTS for word in path.split("/")}
    | set(_FAMILIES)
    | {
        "api",
        "v1",
        "alpha",
        "beta",
        "content",
        "feedback",
        "promote",
        "query",
        "meta",
        "destinations",
        "token",
        "members",
    }
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_MAX_CACHED = 256
MAX_PATH = 2048
"""Characters kept of a path in the vault."""
MAX_CACHED_TEXT = 1024
"""What is longer is worked out anew each time: a cache must not keep what a stranger made long."""


class Route(NamedTuple):
    endpoint: Endpoint
    is_call: bool
    path: str | None
    """For the entry: OpenRouter's words, the rest as `~`. None where the endpoint is unclassified."""
    base: str
    """The path under which `/generation` lives."""


_routes: dict[tuple[str, str], Route] = {}
"""Routes already seen. Paths with ids in them are many, so it is emptied when full; threads may race, to no harm."""


def route(method: str, path: str) -> Route:
    """Classify a request by method and path, the path without query."""
    known = _routes.get((method, path))
    if known is None:
        known = _classify(method, path)
        if len(method) + len(path) <= MAX_CACHED_TEXT:
            if len(_routes) >= _MAX_CACHED:
                _routes.clear()
            _routes[method, path] = known
    return known


def _classify(method: str, path: str) -> Route:
    root, rest = "", path.strip("/")
    for candidate in _ROOTS:
        before, found, after = path.partition(candidate + "/")
        if found:
            root, rest = before + candidate, after.strip("/")
            break
    base = root if root.endswith("/v1") else root.rpartition("/")[0] + "/v1" if root else "/api/v1"
    family = rest.partition("/")[0]
    endpoint = _ENDPOINTS.get(rest) or _FAMILIES.get(family) or "unclassified"
    free = method in {"GET", "HEAD"} and (family in _FREE_READS or rest == "generation")
    words = None
    if endpoint != "unclassified":
        words = "/" + "/".join(word if word in _WORDS else "~" for word in path.strip("/").split("/"))
    return Route(endpoint, not free, words, base)


class Target(Struct, frozen=True, gc=False):
    """Where a request goes, as far as an audit cares; one serves all requests alike."""

    route: Route
    method: str
    """As the entry may say it: `OTHER` where it is none that HTTP knows."""
    authority: str
    """Host, and the port where it is not the scheme's own."""
    base_url: str
    """Origin and base path, `https://openrouter.ai/api/v1`: where the call's cost may be asked for (C7)."""
    private_path: str | None
    """The whole path, where the entry's has parts left out."""


def target_of(method: str, scheme: str, host: str, port: int | None, path: str) -> Target:
    """
    Describe a request line.

    Args:
        port: None for the scheme's own.
        path: Without query.
    """
    kind = route(method, path)
    authority = host if port is None else f"{host}:{port}"
    return Target(
        kind,
        method if method in _METHODS else "OTHER",
        authority,
        f"{scheme}://{authority}{kind.base}",
        None if kind.path == path else clean(path, MAX_PATH),
    )


def headers_of(raw: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Header fields by lower-case name; of equal ones the last."""
    return {name.lower(): value for name, value in raw}


class Caller(NamedTuple):
    """Who makes a request, as its headers say. Printing it shows nothing."""

    api_key: str | None
    key_hash: str | None
    sdk: str | None

    def __repr__(self) -> str:
        return "Caller()"


_callers: dict[tuple[bytes | None, ...], Caller] = {}
"""By the header values that say it, as many as `_MAX_CACHED`: a client says the same with every call."""


def caller_of(headers: Mapping[bytes, bytes]) -> Caller:
    """The key, its hash and the SDK of a request."""
    said = (
        headers.get(b"authorization"),
        headers.get(b"x-api-key"),
        headers.get(b"user-agent"),
    )
    caller = _callers.get(said)
    if caller is None:
        key = api_key(headers)
        caller = Caller(key, None if key is None else key_hash(key), sdk(headers))
        if sum(len(value or b"") for value in said) <= MAX_CACHED_TEXT:
            if len(_callers) >= _MAX_CACHED:
                _callers.clear()
            _callers[said] = caller
    return caller


def api_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The key of a request: its bearer, or what Anthropic's clients send."""
    bearer = headers.get(b"authorization")
    if bearer is not None and bearer[:7].lower() == b"bearer ":
        return bearer[7:].strip().decode("latin-1") or None
    key = headers.get(b"x-api-key")
    return key.decode("latin-1") if key else None


def key_hash(key: str) -> str:
    """OpenRouter's own identity for a key: SHA-256 of its text, hex (API.md section 1)."""
    return hashlib.sha256(key.encode("latin-1", "replace")).hexdigest()


def sdk(headers: Mapping[bytes, bytes]) -> str | None:
    """
    Which client made the request, `openai/3.54.0`.

    Knows the forms `OpenAI/Python 3.54.0`, Speakeasy's `speakeasy-sdk/python 1.3.84 2.914.0 1.0.0 openrouter`, aiohttp's
    `Python/3.11 aiohttp/3.14.5`, and the common `name/version …`. What libraries above an SDK put in its place is theirs:
    `x-stainless-package-version` is not looked at, which goes on to tell the version of the SDK below.
    """
    parts = headers.get(b"user-agent", b"")[:256].decode("latin-1").split()
    if not parts:
        return None
    name, _, version = parts[0].partition("/")
    if len(parts) > 1:
        if name == "speakeasy-sdk" and len(parts) > 2:
            return f"{parts[-1]}/{parts[1]}"
        if name == "Python":
            return parts[1]
        if version[:1].isalpha() and parts[1][:1].isdigit():
            return f"{name.lower().removeprefix('async')}/{parts[1]}"
    return parts[0]


def retry_after_ms(headers: Mapping[bytes, bytes]) -> int | None:
    """How long the server asks to wait; only its forms in numbers, a date would need a clock that agrees with its own."""
    for name, factor in ((b"retry-after-ms", 1), (b"retry-after", 1000)):
        value = headers.get(name)
        if value is not None:
            try:
                wait = float(value) * factor
            except ValueError:
                continue
            if 0 <= wait < 2**53:
                return round(wait)
    return None
