"""
Adds to each call what OpenRouter billed for it, behind the application's back and never in its way.

`offer` is called where a call ends: in any thread, on an event loop, inside garbage collection. So it takes no lock, opens
nothing and raises nothing; it puts the call into a queue. One daemon thread per process, started by the first offer, takes
the calls out, keeps them in its `Schedule`, and asks for one at a time. What it learns it writes through the recorder, like
everybody. A server that never answers costs the thread ten seconds, and then its key pauses for ever longer.

At the end of a process nothing is asked in a hurry: what is not known yet stays so, and `openrouter-audit settle` asks for
it later, with `settle_now`. A forked child starts with nothing waiting and no thread; the parent keeps its calls.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

from openrouter_audit.enrichment.generations import (
    CostMissing,
    Found,
    GenerationAnswer,
    GenerationClient,
    IdMismatch,
    NotYet,
    ServerTrouble,
    Throttled,
    Unauthorized,
)
from openrouter_audit.enrichment.pending import PendingCost, Recorder
from openrouter_audit.enrichment.schedule import CAPACITY, SECOND_US, Schedule, Waiting
from openrouter_audit.enrichment.settle import Progress, SettlePass, SettleResult, hash_keys
from openrouter_audit.enrichment.settling import OnCost, Settlement

Scope = Literal["all", "missing", "off"]
"""C7: ask for every call, for those whose answer named no cost, or for none."""
CLOSE_S = 0.1
"""How long `close` waits for the thread to see it; a question on its way is not waited for."""
_LOGGER = logging.getLogger("openrouter_audit.enrichment")


class Client(Protocol):
    """Who is asked: `GenerationClient`."""

    def ask(self, base_url: str, generation_id: str, key: str) -> GenerationAnswer:
        """Ask once; never raises."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time and chance, as the enricher uses them."""

    utc_us: Callable[[], int] = lambda: time.time_ns() // 1000
    """Microseconds since 1970."""
    monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000
    jitter: Callable[[], float] = random.random
    """A number in [0, 1), new for each call."""
    sleep_us: Callable[[int], object] = lambda us: time.sleep(us / SECOND_US)
    """Waits in the caller's thread; `settle_now` alone does."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the calls offered in this process, for people to look at; nothing is decided by it."""

    asked: int = 0
    """Questions sent."""
    settled: int = 0
    unresolved: int = 0
    mismatched: int = 0
    """Settled, and the answer had named another amount."""
    left: int = 0
    """Left to `settle`: no key, a stopped key, an unwatched address, or too many waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichmentState:
    """A look at an enricher, for `doctor`."""

    waiting: int
    asked: int
    settled: int
    unresolved: int
    mismatched: int
    left: int
    stopped_keys: tuple[str, ...]
    """Hashes of keys that OpenRouter refused."""


@dataclass(slots=True)
class _Shift:
    """What belongs to one process: a forked child gets a new one."""

    schedule: Schedule
    inbox: SimpleQueue[PendingCost | None] = field(default_factory=SimpleQueue)
    """None says: look up, the enricher was closed. A SimpleQueue may be put into from garbage collection."""
    permit: threading.Lock = field(default_factory=threading.Lock)
    """Taken, without waiting, by the one offer that starts the thread."""
    writing: threading.RLock = field(default_factory=threading.RLock)
    """Held while an entry is written, so that nothing is written once `close` has returned."""
    thread: threading.Thread | None = None
    tally: Tally = field(default_factory=Tally)


class Enricher:
    """Follows the calls of this process and writes down what each cost."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        scope: Scope = "all",
        horizon_hours: float = 24.0,
        max_per_second: float = 5.0,
        capacity: int = CAPACITY,
        watches: Callable[[str], bool] | None = None,
        on_cost: OnCost | None = None,
        client: Client | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            horizon_hours: Age at which an unknown cost becomes `unresolved`.
            max_per_second: Questions per API key.
            capacity: Calls that wait in memory; beyond it the oldest priced ones are left to `settle`.
            watches: Whether a base URL is that of a watched host; a key goes to no other. None: all offered are.
            on_cost: Told the call id and the cost's text, in the enricher's thread.
        """
        self._recorder = recorder
        self._scope = scope
        self._horizon_us = int(horizon_hours * 3600 * SECOND_US)
        self._max_per_second = max_per_second
        self._capacity = capacity
        self._watches = watches
        self._client_given = client is not None
        self._client = client if client is not None else GenerationClient()
        self._clock = clock if clock is not None else Clock()
        self._settlement = Settlement(recorder, utc_us=self._clock.utc_us, on_cost=on_cost)
        self._closed = False
        self._shift = self._new_shift()
        _living.add(self)

    def offer(self, call: PendingCost) -> None:
        """Take a call that has ended. O(1), never blocks, never raises; may be called from anywhere."""
        if self._closed or self._scope == "off" or (self._scope == "missing" and call.response_cost is not None):
            return
        shift = self._shift
        if shift.inbox.qsize() >= self._capacity:
            # The thread is at a slow question and calls pour in; `settle` finds this one in the journal.
            shift.tally.left += 1
            return
        shift.inbox.put(call)
        if shift.thread is None and shift.permit.acquire(blocking=False):
            self._start(shift)

    def state(self) -> EnrichmentState:
        """How things stand. The numbers are read one by one, while the thread goes on."""
        shift, tally = self._shift, self._shift.tally
        return EnrichmentState(
            waiting=len(shift.schedule) + shift.inbox.qsize(),
            asked=tally.asked,
            settled=tally.settled,
            unresolved=tally.unresolved,
            mismatched=tally.mismatched,
            left=tally.left,
            stopped_keys=tuple(sorted(shift.schedule.stopped_keys)),
        )

    def close(self, *, timeout: float = CLOSE_S) -> None:
        """
        Stop. When this returns nothing more is written; a question on its way ends unheard.

        Args:
            timeout: Seconds to wait for an idle thread to end.
        """
        shift = self._shift
        with shift.writing:
            self._closed = True
        shift.inbox.put(None)
        if shift.thread is not None and shift.thread is not threading.current_thread():
            shift.thread.join(timeout)

    def settle_now(
        self,
        calls: Sequence[PendingCost],
        keys: Iterable[str] = (),
        *,
        retries: int = 1,
        progress: Progress | None = None,
    ) -> SettleResult:
        """
        Ask for each of these calls now, in the caller's thread, whatever the scope.

        Args:
            keys: API keys, for calls that carry none; matched by hash.
            retries: Further questions, seconds apart, for a record whose cost is still missing.
            progress: Told (calls done, calls in all).

        Raises:
            AuditUnavailable: The spool does not take entries; what was written before stays.
        """
        client = self._client if self._client_given else GenerationClient()
        try:
            return SettlePass(
                settlement=self._settlement,
                ask=client.ask,
                keys=hash_keys(keys),
                horizon_us=self._horizon_us,
                max_per_second=self._max_per_second,
                watches=self._watches,
                retries=retries,
                utc_us=self._clock.utc_us,
                monotonic_us=self._clock.monotonic_us,
                sleep_us=self._clock.sleep_us,
                progress=progress,
            ).run(calls)
        finally:
            client.close()

    # From here on: the enricher's own thread. Tests drive these two by hand, with a clock of their own.

    def take_in(self, call: PendingCost) -> None:
        """Put an offered call into the schedule."""
        shift = self._shift
        if call.api_key is None or (self._watches is not None and not self._watches(call.base_url)):
            shift.tally.left += 1
            return
        age_us = self._clock.utc_us() - call.ended_us
        left = shift.schedule.add(call, now_us=self._clock.monotonic_us(), age_us=age_us)
        shift.tally.left += left is not None

    def step(self) -> int | None:
        """Ask for one call, if one is due; returns microseconds until the next is, None while nothing waits."""
        shift = self._shift
        waiting = shift.schedule.take(now_us=self._clock.monotonic_us())
        if waiting is not None:
            shift.tally.asked += 1
            call = waiting.call
            answer = self._client.ask(call.base_url, call.generation_id, call.api_key or "")
            with shift.writing:
                if self._closed:
                    return None
                self._hear(shift, waiting, answer)
        wake_us = shift.schedule.wake_us()
        return None if wake_us is None else max(wake_us - self._clock.monotonic_us(), 0)

    def _hear(self, shift: _Shift, waiting: Waiting, answer: GenerationAnswer) -> None:
        """Act on an answer. Each branch ends with the call either gone from the schedule or waiting in it again."""
        schedule, now_us, jitter = shift.schedule, self._clock.monotonic_us(), self._clock.jitter()
        match answer:
            case Found():
                try:
                    shift.tally.mismatched += self._settlement.settle(waiting.call, answer, tries=waiting.tries)
                except Exception:
                    # The spool did not take it, so nothing is known yet: ask again later.
                    kept = schedule.hindered(waiting, now_us=now_us, jitter=jitter)
                    shift.tally.left += not kept
                    return
                shift.tally.settled += 1
                schedule.done(waiting)
            case NotYet() | CostMissing() | IdMismatch():
                if not schedule.missed(waiting, now_us=now_us, jitter=jitter):
                    self._give_up(shift, waiting, answer)
            case Throttled() | ServerTrouble():
                if not schedule.hindered(waiting, now_us=now_us, jitter=jitter, retry_after_us=answer.retry_after_us):
                    self._give_up(shift, waiting, answer)
            case Unauthorized():
                key_hash = waiting.call.key_hash
                schedule.done(waiting)
                self._give_up(shift, waiting, answer)
                shift.tally.left += len(schedule.stop(key_hash))
                _LOGGER.warning(
                    "OpenRouter refuses the API key with SHA-256 %s for GET /generation (%d): it is asked no more in this"
                    " process, and the costs of its calls are left to `openrouter-audit settle`",
                    key_hash,
                    answer.http_status,
                )

    def _give_up(self, shift: _Shift, waiting: Waiting, answer: GenerationAnswer) -> None:
        try:
            self._settlement.give_up(waiting.call, answer, tries=waiting.tries)
        except Exception:
            # Not even that could be written: the call stays as it is, without a cost, and `settle` finds it.
            shift.tally.left += 1
        else:
            shift.tally.unresolved += 1

    def _run(self, shift: _Shift) -> None:
        """Take in what was offered, ask what is due, sleep until something is; until closed."""
        wait_us: int | None = None
        while not self._closed:
            try:
                self._gather(shift, wait_us)
                wait_us = None if self._closed else self.step()
            except Exception as error:
                # A fault of ours must not end the thread: the other calls go on, this one is left to `settle`.
                _LOGGER.warning("a question for a cost failed inside: %s", type(error).__name__)
                wait_us = SECOND_US
        self._client.close()

    def _gather(self, shift: _Shift, wait_us: int | None) -> None:
        """Wait for an offer, at most so long (None: for ever), and take in all there are."""
        try:
            call = shift.inbox.get(timeout=None if wait_us is None else wait_us / SECOND_US)
            while call is not None:
                self.take_in(call)
                call = shift.inbox.get_nowait()
        except Empty:
            pass

    def _start(self, shift: _Shift) -> None:
        thread = threading.Thread(target=self._run, args=(shift,), name="openrouter-audit-enricher", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending, or there are too many threads just now: the next offer tries again.
            shift.permit.release()
            return
        shift.thread = thread

    def _new_shift(self) -> _Shift:
        return _Shift(
            Schedule(horizon_us=self._horizon_us, max_per_second=self._max_per_second, capacity=self._capacity)
        )

    def _after_fork(self) -> None:
        """Begin anew in a forked child: what waits, waits in the parent."""
        self._shift = self._new_shift()


_living: weakref.WeakSet[Enricher] = weakref.WeakSet()


def _begin_anew() -> None:
    for enricher in tuple(_living):
        enricher._after_fork()  # noqa: SLF001 (a method of the class this module is about)


os.register_at_fork(after_in_child=_begin_anew)
