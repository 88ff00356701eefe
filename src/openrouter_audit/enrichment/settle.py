"""
One pass over calls whose cost is not known, asked now: what `openrouter-audit settle` does.

The calls come from the journal, so the keys come from the environment and are matched by their hash. Back-off is not looked
at, the distance between two questions of one key is. A key that is refused, and a server that stays unwell, are left
alone for the rest of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from openrouter_audit.enrichment.generations import (
    CostMissing,
    Found,
    GenerationAnswer,
    ServerTrouble,
    Throttled,
    Unauthorized,
)
from openrouter_audit.enrichment.pending import PendingCost
from openrouter_audit.enrichment.schedule import SECOND_US, Schedule, Waiting
from openrouter_audit.enrichment.settling import Settlement

PATIENCE = 3
"""Questions in a row that may end in trouble before the rest of a key's calls are left for another day."""
LONGEST_PAUSE_US = 60 * SECOND_US
"""A person waits for this command: a server that asks for more is not waited for."""
_NEVER_US = 10**18
Progress = Callable[[int, int], object]
"""Told (calls done, calls in all) after each call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleResult:
    """What became of the calls of one pass. Every call is in exactly one of the first five numbers."""

    settled: int
    unresolved: int
    """Stated in the journal as never to be known, now or before: too old, or asked with a key that is refused."""
    not_yet: int
    """Younger than the horizon; ask again."""
    no_key: int
    """None of the keys given has the hash of the call's."""
    left: int
    """Not asked, or not answered: the key was refused, the server unwell, the address not watched."""
    mismatched: int
    """Of the settled: the answer to the call had named another amount."""
    asked: int
    """Questions sent."""
    refused_keys: tuple[str, ...]
    """Hashes of keys that got 401 or 403."""


def hash_keys(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their SHA-256 in hex, OpenRouter's own name for them (API.md section 1)."""
    return {sha256(key.encode("utf-8", "surrogateescape")).hexdigest(): key for key in keys if key}


class SettlePass:
    """State of one pass; `run` goes through it once."""

    def __init__(
        self,
        *,
        settlement: Settlement,
        ask: Callable[[str, str, str], GenerationAnswer],
        keys: Mapping[str, str],
        horizon_us: int,
        max_per_second: float,
        watches: Callable[[str], bool] | None,
        retries: int,
        utc_us: Callable[[], int],
        monotonic_us: Callable[[], int],
        sleep_us: Callable[[int], object],
        progress: Progress | None,
    ) -> None:
        """
        Args:
            keys: Keys by their hash.
            retries: Further questions, seconds apart, for a record whose cost is still missing.
        """
        self._settlement, self._ask, self._keys = settlement, ask, keys
        self._horizon_us, self._max_per_second, self._watches = horizon_us, max_per_second, watches
        self._retries, self._progress = retries, progress
        self._utc_us, self._monotonic_us, self._sleep_us = utc_us, monotonic_us, sleep_us
        self._settled = self._unresolved = self._not_yet = self._no_key = self._left = 0
        self._mismatched = self._asked = 0
        self._refused: list[str] = []
        self._hindrances: dict[str, int] = {}

    def run(self, calls: Sequence[PendingCost]) -> SettleResult:
        """
        Ask for each call once.

        Raises:
            AuditUnavailable: The spool does not take entries; what was written before stays.
        """
        # The horizon is looked at here, not by the schedule: it decides whether a 404 is the last word.
        schedule = Schedule(horizon_us=_NEVER_US, max_per_second=self._max_per_second, capacity=len(calls) + 1)
        for call in calls:
            self._take_in(schedule, call)
        self._tell(len(calls))
        while (wake_us := schedule.wake_us()) is not None:
            wait_us = wake_us - self._monotonic_us()
            if wait_us > 0:
                self._sleep_us(wait_us)
            waiting = schedule.take(now_us=self._monotonic_us())
            if waiting is not None:
                self._asked += 1
                call = waiting.call
                self._hear(schedule, waiting, self._ask(call.base_url, call.generation_id, call.api_key or ""))
                self._tell(len(calls))
        return SettleResult(
            settled=self._settled,
            unresolved=self._unresolved,
            not_yet=self._not_yet,
            no_key=self._no_key,
            left=self._left,
            mismatched=self._mismatched,
            asked=self._asked,
            refused_keys=tuple(self._refused),
        )

    def _take_in(self, schedule: Schedule, call: PendingCost) -> None:
        key = call.api_key or self._keys.get(call.key_hash)
        if key is None:
            self._no_key += 1
        elif self._watches is not None and not self._watches(call.base_url):
            self._left += 1
        else:
            # As old as can be: due at once.
            schedule.add(replace(call, api_key=key), now_us=self._monotonic_us(), age_us=SECOND_US)

    def _hear(self, schedule: Schedule, waiting: Waiting, answer: GenerationAnswer) -> None:
        call, key_hash = waiting.call, waiting.call.key_hash
        if isinstance(answer, Throttled | ServerTrouble):
            self._hear_trouble(schedule, waiting, answer)
            return
        self._hindrances.pop(key_hash, None)
        if isinstance(answer, Found):
            self._mismatched += self._settlement.settle(call, answer, tries=waiting.tries)
            self._settled += 1
            schedule.done(waiting)
        elif isinstance(answer, Unauthorized):
            self._give_up(waiting, answer)
            schedule.done(waiting)
            self._left += len(schedule.stop(key_hash))
            self._refused.append(key_hash)
        elif isinstance(answer, CostMissing) and waiting.misses < self._retries:
            schedule.missed(waiting, now_us=self._monotonic_us(), jitter=0.0)
        else:
            schedule.done(waiting)
            if self._utc_us() - call.ended_us >= self._horizon_us:
                self._give_up(waiting, answer)
            else:
                self._not_yet += 1

    def _hear_trouble(self, schedule: Schedule, waiting: Waiting, answer: Throttled | ServerTrouble) -> None:
        key_hash = waiting.call.key_hash
        hindrances = self._hindrances[key_hash] = self._hindrances.get(key_hash, 0) + 1
        if hindrances < PATIENCE and (answer.retry_after_us or 0) <= LONGEST_PAUSE_US:
            schedule.hindered(waiting, now_us=self._monotonic_us(), jitter=0.0, retry_after_us=answer.retry_after_us)
        else:
            schedule.done(waiting)
            self._left += 1 + len(schedule.stop(key_hash))

    def _give_up(self, waiting: Waiting, answer: GenerationAnswer) -> None:
        self._settlement.give_up(waiting.call, answer, tries=waiting.tries)
        self._unresolved += 1

    def _tell(self, total: int) -> None:
        if self._progress is not None:
            done = self._settled + self._unresolved + self._not_yet + self._no_key + self._left
            self._progress(done, total)
