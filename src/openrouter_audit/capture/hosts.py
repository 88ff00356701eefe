"""
Which hosts are watched (C12), and which look as if they should be.

A host that is not watched and is asked for an OpenRouter-shaped path is remembered, so that `doctor` can name it: a proxy
in front of OpenRouter is the usual reason for "no calls seen".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

OPENROUTER_HOSTS = ("openrouter.ai", "eu.openrouter.ai", "us.openrouter.ai")
"""The public host and its regional ones (API.md section 1)."""
MAX_STRANGERS = 16
"""How many unwatched hosts are remembered: `doctor` needs a hint, not a list of all traffic."""
_SHAPES = ("/chat/completions", "/api/v1/responses", "/api/v1/messages", "/api/v1/embeddings", "/api/v1/generation")


class HostSet:
    """The watched hosts. Each entry is `host` (every port) or `host:port`; OpenRouter's own are always in it."""

    __slots__ = ("_names", "_strangers", "entries")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        given = tuple(entry.strip().lower() for entry in entries if entry.strip())
        self.entries: tuple[str, ...] = (
            *OPENROUTER_HOSTS,
            *(entry for entry in given if entry not in OPENROUTER_HOSTS),
        )
        """What is watched, in the order given, OpenRouter's own first."""
        self._names = frozenset(self.entries)
        self._strangers: dict[str, None] = {}

    def __contains__(self, host: object) -> bool:
        return host in self._names

    def __repr__(self) -> str:
        return f"HostSet({', '.join(self.entries)})"

    def watches(self, host: str, port: int | None = None) -> bool:
        """
        Whether requests to this host are calls.

        Args:
            host: Name or address, lower case, IPv6 without brackets.
            port: The port asked for; None means the scheme's own.
        """
        names = self._names
        if host in names:
            return True
        if ":" in host:
            host = f"[{host}]"
        return host in names or (port is not None and f"{host}:{port}" in names)

    def notice(self, host: str, port: int | None, path: str) -> None:
        """Remember an unwatched host whose path looks like OpenRouter's."""
        if len(self._strangers) < MAX_STRANGERS and any(shape in path for shape in _SHAPES):
            self._strangers[host if port is None else f"{host}:{port}"] = None

    @property
    def strangers(self) -> tuple[str, ...]:
        """Unwatched hosts that were asked for an OpenRouter-shaped path, `host[:port]`, oldest first."""
        return tuple(self._strangers)
