"""
What every watched client library shares: which requests are calls, who takes one, and connections that cannot be recorded.

Several hooks may see one request: an explicit client inside a process where all clients are watched, a wrapped client of a
wrapped client, a client of `httpx` whose transport is a session of `aiohttp`. The outermost takes it and opens a *token*
that names the request; a lower hook yields only to an open token of the same request: the very object, a copy that the
library made for a redirect, or one of equal method, URL and body. The token is closed when sending returns. A flag would
do for one thread, and would lose the calls of tasks that are started inside a call and inherit its context.

A WebSocket is no exchange of one request and one answer, and nothing of it is recorded but this: an `alert.raised` says
that a watched host was connected to, at most once a minute for each host and process.
"""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus, urlsplit

from msgspec import Struct

from openrouter_audit.capture.openrouter import MAX_CACHED_TEXT, Target, target_of
from openrouter_audit.capture.recorded_call import RecordedCall, faults
from openrouter_audit.core.entries import AlertRaised

if TYPE_CHECKING:
    from typing import Self

    from openrouter_audit.capture.exchange import SentRequest
    from openrouter_audit.capture.hosts import HostSet
    from openrouter_audit.capture.recorder import Recorder

WEBSOCKET_NOT_RECORDED = "websocket_not_recorded"
"""Rule of the alert."""
ALERT_EVERY_S = 60.0
"""A client that connects again and again may not fill the log with it."""
_DEFAULT_PORTS = {"https": 443, "http": 80, "wss": 443, "ws": 80}
_MAX_KNOWN = 256


class Token(Struct, eq=False):
    """A request that a hook has taken, for as long as its sending runs: `with token`."""

    kin: Any
    """Shared by the request and the copies its library makes of it; told by identity."""
    sent: SentRequest | None
    call: RecordedCall
    open: bool = True
    _outside: Token | None = None

    def __enter__(self) -> Self:
        self._outside = taken.get()
        taken.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        taken.set(self._outside)
        self.open = False
        self.sent = self._outside = None  # tasks begun inside keep their context for as long as they run

    def covers(self, kin: Any, sent: SentRequest) -> bool:
        """Whether this request is the one that was taken, on its way down."""
        mine = self.sent
        if not self.open or mine is None:
            return False
        if kin is self.kin:
            return True
        return (
            mine.method == sent.method
            and (mine.body is None or sent.body is None or mine.body == sent.body)
            and (mine.url == sent.url or _place(mine.url) == _place(sent.url))
        )


taken: ContextVar[Token | None] = ContextVar("openrouter_audit_taken", default=None)
"""The innermost request that is being sent in this thread or task."""


def _place(url: Any) -> tuple[str, str | None, int | None, str, str]:
    """What a URL names, however its library spells it: they differ in what they quote."""
    parts = urlsplit(str(url))
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname, port, unquote(parts.path) or "/", unquote_plus(parts.query)


class Watch:
    """A recorder and the hosts it is for."""

    __slots__ = ("_alerted", "_targets", "asks", "hosts", "recorder")

    def __init__(self, recorder: Recorder, hosts: HostSet) -> None:
        self._alerted: dict[str, float] = {}
        """When an alert was last raised, by host; watched ones only. Threads may race: one alert more is no harm."""
        self.point(recorder, hosts)

    def point(self, recorder: Recorder, hosts: HostSet) -> None:
        """Record elsewhere, or other hosts, from the next request on."""
        self.recorder = recorder
        self.hosts = hosts
        self.asks = getattr(recorder, "router_metadata", False)
        """Whether requests shall ask for router metadata; see `asking`."""
        self._targets: dict[tuple[str, str, str, int | None, str], Target] = {}
        """By method, scheme, host, port and path, of requests known to be calls; emptied when full. Threads may race."""

    def target(self, method: str, scheme: str, host: str, port: int | None, path: str) -> Target | None:
        """
        Where a request goes; None where it is no call.

        Args:
            port: None for the scheme's own.
            path: Without query, and without quotes.
        """
        return self._targets.get((method, scheme, host, port, path)) or self._find(method, scheme, host, port, path)

    def take(self, kin: Any, sent: SentRequest) -> Token | None:
        """
        Write the intent of a call; None where a hook above has done so, or where it is none that can be recorded.

        Args:
            kin: See `Token`.

        Raises:
            AuditUnavailable: The intent could not be written: nothing may be sent.
        """
        try:
            above = taken.get()
            if above is not None and above.covers(kin, sent):
                return None
            if sent.method == "GET" and sent.headers.get(b"upgrade", b"").lower() == b"websocket":
                self._alert(sent.target.authority)
                return None
        except Exception as error:
            faults.count("request", error)
            return None
        call = RecordedCall.begin(self.recorder, sent)
        return None if call is None else Token(kin, sent, call)

    def websocket(self, scheme: str, host: str, port: int | None, path: str) -> None:
        """A client that sends no request of HTTP libraries is about to open a WebSocket. Never raises."""
        try:
            if port == _DEFAULT_PORTS.get(scheme):
                port = None
            if self._watches(scheme, host, port, path):
                self._alert(host if port is None else f"{host}:{port}")
        except Exception as error:
            faults.count("websocket", error)

    def _alert(self, authority: str) -> None:
        now = time.monotonic()
        last = self._alerted.get(authority)
        if last is not None and now - last < ALERT_EVERY_S:
            return
        self._alerted[authority] = now
        try:
            self.recorder.write(
                AlertRaised(v=1, id=os.urandom(16).hex(), at_us=time.time_ns() // 1000, rule=WEBSOCKET_NOT_RECORDED)
            )
        except Exception as error:
            del self._alerted[authority]
            faults.count("alert", error)

    def _watches(self, scheme: str, host: str, port: int | None, path: str) -> bool:
        hosts = self.hosts
        if hosts.watches(host, port or _DEFAULT_PORTS.get(scheme)):
            return True
        hosts.notice(host, port, path)
        return False

    def _find(self, method: str, scheme: str, host: str, port: int | None, path: str) -> Target | None:
        targets = self._targets  # before the hosts: what is learnt of old ones may not get into the table of new ones
        if not self._watches(scheme, host, port, path):
            return None
        target = target_of(method, scheme, host, port, path)
        if not target.route.is_call:
            return None
        if len(host) + len(path) <= MAX_CACHED_TEXT:
            if len(targets) >= _MAX_KNOWN:
                targets.clear()
            targets[method, scheme, host, port, path] = target
        return target
