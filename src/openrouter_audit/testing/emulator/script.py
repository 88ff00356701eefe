"""
Which behaviour the next call gets: that of its header, that of the front of the queue, or both.

`times=n` lets a behaviour hold for n requests, after which the call is answered as if nothing had been asked. In the queue
the dict stays in front for n calls. In the header it is for a client that sends one request again: `x-stainless-retry-count`
tells which attempt this is where the client sends it (openai); else we count requests with equal header, path, key
and body, and the normal answer that ends the series starts the count anew.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from openrouter_audit.testing.emulator.switches import NOTHING_ASKED, Behaviour, parse_header, parse_switches

_COUNTERS_KEPT = 10_000  # requests of a series that never came to its end; the oldest are forgotten


class Script:
    """The queue of behaviours and the counts of `times`; `extend` may be called from any thread, the rest is the server's."""

    def __init__(self) -> None:
        self._queue: deque[dict[str, Any]] = deque()
        self._front_served = 0
        self._series: dict[tuple[str, ...], int] = {}

    def extend(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Queue all items or, where one of them is wrong, none; return the length of the queue."""
        self._queue.extend([parse_switches(item) for item in items])
        return len(self._queue)

    def next(self, *, header: str | None, series: tuple[str, ...], retry_count: str | None) -> Behaviour:
        """
        The behaviour of the call that has just come in.

        Args:
            header: Text of `X-Emulator`.
            series: What makes two requests "the same again".
            retry_count: Text of `x-stainless-retry-count`, counted from 0.

        Raises:
            UnknownSwitch: The header is wrong; the queue was not touched.
        """
        asked = parse_header(header) if header else {}
        if asked.get("times") and not self._holds(asked["times"], (header or "", *series), retry_count):
            asked = {}
        queued = self._take()
        if not asked and not queued:
            return NOTHING_ASKED
        return Behaviour(**{**queued, **asked})

    def _take(self) -> dict[str, Any]:
        if not self._queue:
            return {}
        front = self._queue[0]
        self._front_served += 1
        if self._front_served >= front.get("times", 1):
            self._queue.popleft()
            self._front_served = 0
        return front

    def _holds(self, times: int, series: tuple[str, ...], retry_count: str | None) -> bool:
        if retry_count and retry_count.isdigit():
            return int(retry_count) < times
        served = self._series.pop(series, 0)
        if served >= times:
            return False
        self._series[series] = served + 1
        if len(self._series) > _COUNTERS_KEPT:
            del self._series[next(iter(self._series))]
        return True
