"""
When to ask for which call: computed, without a clock or a thread.

OpenRouter writes its record of a generation seconds to an hour after the answer, and says the same 404 for "not yet" and
"never" (API.md section 10). So each call is asked for about one second after its end and then ever more rarely, a last
time at its horizon. Calls without any price go before those whose answer had one. Each API key has a lane of its own: one
request in flight, a least distance between two requests, and a pause when OpenRouter asks for one or is unwell. A lane that
pauses delays no other.

All times are microseconds of one monotonic clock, handed in by the caller; so is the jitter, a number in [0, 1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from openrouter_audit.enrichment.pending import PendingCost

SECOND_US = 1_000_000
FIRST_ASK_US = SECOND_US
"""Earlier is always too early: half a second was observed as not enough."""
LONGEST_WAIT_US = 2 * 3600 * SECOND_US
"""Between two questions for one call. Doubling from 1 s gets here after 13 questions and 2.3 hours."""
LONGEST_PAUSE_US = 300 * SECOND_US
"""Of a lane whose server is unwell and did not say for how long."""
LONGEST_RETRY_AFTER_US = 24 * 3600 * SECOND_US
"""A server may ask for more; nobody waits longer than the horizon anyway."""
JITTER_SHARE = 0.25
"""Up to a quarter is added to a wait, so that calls that ended together do not come back together."""
CAPACITY = 20_000
"""Calls that wait in memory, some 800 bytes each. At the default 5 questions a second this is more than an hour of work."""


def wait_after(misses: int, *, jitter: float, longest_us: int = LONGEST_WAIT_US) -> int:
    """Tell how long to wait after the n-th fruitless question, n from 1: 2 s, 4 s, 8 s …, plus jitter."""
    wait_us = min(SECOND_US << min(misses, 40), longest_us)
    return wait_us + int(wait_us * JITTER_SHARE * jitter)


@dataclass(slots=True, eq=False)
class Waiting:
    """One call in the schedule. Owned by the thread that drives the schedule."""

    call: PendingCost
    number: int
    """Order of arrival; breaks ties."""
    deadline_us: int
    """From here on a fruitless question is the last one."""
    tries: int = 0
    """Questions sent."""
    misses: int = 0
    """Questions the server answered with "not (all) there": these lengthen the wait, trouble on the way does not."""
    left: bool = False
    """Taken out to make room; its place in the heap is skipped."""

    @property
    def priced(self) -> bool:
        return self.call.response_cost is not None


@dataclass(slots=True)
class _Lane:
    """The calls of one API key."""

    unpriced: list[tuple[int, int, Waiting]] = field(default_factory=list)
    priced: list[tuple[int, int, Waiting]] = field(default_factory=list)
    free_us: int = 0
    """No question before this time."""
    busy: bool = False
    hindrances: int = 0
    """Questions in a row that ended in trouble."""

    def heaps(self) -> tuple[list[tuple[int, int, Waiting]], list[tuple[int, int, Waiting]]]:
        return self.unpriced, self.priced

    def skip_left(self) -> None:
        for heap in self.heaps():
            while heap and heap[0][2].left:
                heappop(heap)

    def ready_us(self) -> int | None:
        """When its next question may be asked; None when none waits, or one is on its way."""
        heads = [heap[0][0] for heap in self.heaps() if heap]
        return None if self.busy or not heads else max(self.free_us, min(heads))


class Schedule:
    """
    The waiting calls, at most `capacity` of them.

    A call is in one of three places: waiting, with whoever took it, or gone. `take` hands one out, and its lane stays shut
    until `done`, `missed` or `hindered` is called with it.
    """

    def __init__(self, *, horizon_us: int, max_per_second: float, capacity: int = CAPACITY) -> None:
        self._horizon_us = horizon_us
        self._distance_us = int(SECOND_US / max_per_second)
        self._capacity = capacity
        self._lanes: dict[str, _Lane] = {}
        self._stopped: set[str] = set()
        # By arrival, the oldest first: who makes room. OrderedDict, for popping the front of a dict is not O(1).
        self._priced: OrderedDict[int, Waiting] = OrderedDict()
        self._unpriced: OrderedDict[int, Waiting] = OrderedDict()
        self._arrivals = 0
        self._skipped = 0

    def __len__(self) -> int:
        """Calls that wait; not the one that was taken."""
        return len(self._priced) + len(self._unpriced)

    @property
    def stopped_keys(self) -> frozenset[str]:
        """Hashes of the keys that are asked for no more."""
        return frozenset(self._stopped)

    def add(self, call: PendingCost, *, now_us: int, age_us: int = 0) -> PendingCost | None:
        """
        Let a call wait for its first question.

        Args:
            age_us: How long ago the call ended; its horizon has shrunk by this.

        Returns:
            The call that had to leave: this one when its key is stopped, or the oldest priced one (without any, the oldest)
            when too many wait. None when nobody left.
        """
        if call.key_hash in self._stopped:
            return call
        age_us = max(age_us, 0)
        self._arrivals += 1
        waiting = Waiting(call, self._arrivals, now_us + max(self._horizon_us - age_us, 0))
        self._put(waiting, due_us=now_us + max(FIRST_ASK_US - age_us, 0))
        return self._make_room() if len(self) > self._capacity else None

    def take(self, *, now_us: int) -> Waiting | None:
        """Hand out the call to ask for now, unpriced ones first and then the longest due; None when none is due."""
        best: tuple[bool, int, int] | None = None
        best_lane: _Lane | None = None
        for key_hash, lane in list(self._lanes.items()):
            lane.skip_left()
            if not (lane.busy or lane.unpriced or lane.priced or lane.free_us > now_us):
                del self._lanes[key_hash]
            if lane.busy or lane.free_us > now_us:
                continue
            for heap in lane.heaps():
                if heap and heap[0][0] <= now_us:
                    due_us, number, waiting = heap[0]
                    if best is None or (waiting.priced, due_us, number) < best:
                        best, best_lane = (waiting.priced, due_us, number), lane
        if best is None or best_lane is None:
            return None
        waiting = heappop(best_lane.priced if best[0] else best_lane.unpriced)[2]
        self._order(waiting).pop(waiting.number)
        best_lane.busy = True
        best_lane.free_us = now_us + self._distance_us
        waiting.tries += 1
        return waiting

    def wake_us(self) -> int | None:
        """When `take` will next hand something out; None while nothing waits."""
        for lane in self._lanes.values():
            lane.skip_left()
        times = [ready for lane in self._lanes.values() if (ready := lane.ready_us()) is not None]
        return min(times, default=None)

    def done(self, waiting: Waiting) -> None:
        """Let go of a taken call: what is known of its cost is written."""
        self._answered(waiting)

    def missed(self, waiting: Waiting, *, now_us: int, jitter: float) -> bool:
        """Ask again later, as the record is not there, or not whole. False: the horizon has passed, the call is gone."""
        self._answered(waiting)
        waiting.misses += 1
        return self._again(waiting, now_us=now_us, wait_us=wait_after(waiting.misses, jitter=jitter))

    def hindered(self, waiting: Waiting, *, now_us: int, jitter: float, retry_after_us: int | None = None) -> bool:
        """
        Ask again when the way is free: the whole lane pauses, as long as the server said or ever longer.

        Returns:
            False when the horizon has passed and the call is gone.
        """
        lane = self._lanes.setdefault(waiting.call.key_hash, _Lane())
        hindrances = lane.hindrances
        self._answered(waiting)
        lane.hindrances = hindrances + 1
        if retry_after_us is None:
            pause_us = wait_after(lane.hindrances, jitter=jitter, longest_us=LONGEST_PAUSE_US)
        else:
            pause_us = min(max(retry_after_us, 0), LONGEST_RETRY_AFTER_US)
        lane.free_us = max(lane.free_us, now_us + pause_us)
        return self._again(waiting, now_us=now_us, wait_us=pause_us)

    def stop(self, key_hash: str) -> list[PendingCost]:
        """Ask no more with this key; returns the calls that waited for it."""
        self._stopped.add(key_hash)
        lane = self._lanes.pop(key_hash, None)
        if lane is None:
            return []
        left = [waiting for heap in lane.heaps() for *_, waiting in heap if not waiting.left]
        for waiting in left:
            self._order(waiting).pop(waiting.number)
        return [waiting.call for waiting in left]

    def _order(self, waiting: Waiting) -> OrderedDict[int, Waiting]:
        return self._priced if waiting.priced else self._unpriced

    def _put(self, waiting: Waiting, *, due_us: int) -> None:
        lane = self._lanes.setdefault(waiting.call.key_hash, _Lane())
        heappush(lane.priced if waiting.priced else lane.unpriced, (due_us, waiting.number, waiting))
        self._order(waiting)[waiting.number] = waiting

    def _again(self, waiting: Waiting, *, now_us: int, wait_us: int) -> bool:
        if now_us >= waiting.deadline_us:
            return False
        # A wait never leads past the horizon: the last question is asked there, not before it.
        self._put(waiting, due_us=min(now_us + wait_us, waiting.deadline_us))
        order = self._order(waiting)
        order.move_to_end(waiting.number, last=False)
        return True

    def _answered(self, waiting: Waiting) -> None:
        lane = self._lanes.get(waiting.call.key_hash)
        if lane is not None:
            lane.busy = False
            lane.hindrances = 0

    def _make_room(self) -> PendingCost:
        order = self._priced or self._unpriced
        _, oldest = order.popitem(last=False)
        oldest.left = True
        self._skipped += 1
        if self._skipped > self._capacity:
            self._compact()
        return oldest.call

    def _compact(self) -> None:
        """Take those that left out of the heaps, where they would otherwise stay until due."""
        for lane in self._lanes.values():
            for heap in lane.heaps():
                heap[:] = [place for place in heap if not place[2].left]
                heapify(heap)
        self._skipped = 0
