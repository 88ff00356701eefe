"""
What a process was doing when it was killed: read out of memory that outlives it.

Each process has a row of words in one shared map, each of its threads a word, and each operation of the product a bit. A
wrapper sets the bit before the operation and clears it after, and does nothing else. When the process is dead, the harness
reads which bits are left: these operations were under way at that instant, and no message had to arrive for it to be known.

An operation of fifty microseconds is over before anybody outside can strike. So a process can also be armed: when it next
enters that operation it counts lines of Python, and at the line that was drawn it sends SIGKILL to itself.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

APPEND: Final = "append"
STRICT_APPEND: Final = "strict append"
ROTATION: Final = "segment rotation"
HOME: Final = "making a home"
OPENING: Final = "opening the journal"
DRAIN: Final = "drain"
VAULT: Final = "vault commit"
COMMIT: Final = "commit"
CHECKPOINT: Final = "checkpoint"
DELETION: Final = "segment deletion"
PROJECTION: Final = "report projection"
ASKING: Final = "asking for a cost"
SETTLE: Final = "settle"
PUBLISH: Final = "publish"
HOLDS_LEASE: Final = "holding the lease"
WAITS_FOR_LEASE: Final = "waiting while another holds the lease"
FORKED: Final = "forked child"
FORKING: Final = "parent with forked children"
STOPPED: Final = "lease holder under SIGSTOP"

OPERATIONS: Final = (
    APPEND,
    STRICT_APPEND,
    ROTATION,
    HOME,
    OPENING,
    DRAIN,
    VAULT,
    COMMIT,
    CHECKPOINT,
    DELETION,
    PROJECTION,
    ASKING,
    SETTLE,
    PUBLISH,
    HOLDS_LEASE,
    WAITS_FOR_LEASE,
    FORKED,
    FORKING,
    STOPPED,
)
_BIT: Final = {name: 1 << place for place, name in enumerate(OPERATIONS)}
_THREADS: Final = 32
_ROW_BYTES: Final = _THREADS * 4
_ANY_THREAD: Final = {
    name: int.from_bytes(bit.to_bytes(4, sys.byteorder) * _THREADS, sys.byteorder) for name, bit in _BIT.items()
}
"""The bit in every word of a row: one look at a row has to be quicker than an append is."""
_STATE: Final = _THREADS - 1
"""The last word of a row is no thread's: what holds for the process as a whole."""


class Marks:
    """One row of words for each of so many processes. Made before the forks, used by all of them."""

    def __init__(self, processes: int) -> None:
        self._map = mmap.mmap(-1, processes * _ROW_BYTES)
        self._words = memoryview(self._map).cast("I")
        self._armed = memoryview(mmap.mmap(-1, processes * 8)).cast("I")  # bit and number of lines, for each process
        self._row = 0
        self._base = 0
        self._numbers = itertools.count()
        self._thread = threading.local()

    # In the process that is watched -------------------------------------------------------------------------------

    def begin(self, process: int) -> None:
        """From now on this process is that row."""
        self._row, self._base = process, process * _THREADS
        self._numbers = itertools.count()
        self._thread = threading.local()
        self.clear(process)

    @contextmanager
    def during(self, operation: str) -> Iterator[None]:
        words, bit = self._words, _BIT[operation]
        place = getattr(self._thread, "place", None)
        if place is None:
            place = self._thread.place = self._base + next(self._numbers) % _STATE
        before = words[place]
        words[place] = before | bit
        is_armed = self._armed[2 * self._row] == bit
        if is_armed:
            self._armed[2 * self._row] = 0
            sys.settrace(_killer(self._armed[2 * self._row + 1]))
        try:
            yield
        finally:
            if is_armed:  # fewer lines than were drawn: then at the last moment
                os.kill(os.getpid(), signal.SIGKILL)
            words[place] = before

    def state(self, operation: str, holds: bool) -> None:
        """Set by one thread of a process."""
        place, bit = self._base + _STATE, _BIT[operation]
        self._words[place] = self._words[place] | bit if holds else self._words[place] & ~bit

    def wrap(self, owner: type, name: str, operation: str) -> None:
        """Mark every call of a method of the product, in this process."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def marked(*arguments: Any, **options: Any) -> Any:
            with self.during(operation):
                return original(*arguments, **options)

        setattr(owner, name, marked)

    # In the harness -----------------------------------------------------------------------------------------------

    def clear(self, process: int) -> None:
        self._map[process * _ROW_BYTES : (process + 1) * _ROW_BYTES] = bytes(_ROW_BYTES)
        self._armed[2 * process] = 0

    def arm(self, process: int, operation: str, lines: int) -> None:
        """Have a process kill itself so many lines into an operation."""
        self._armed[2 * process + 1] = lines
        self._armed[2 * process] = _BIT[operation]

    def is_in(self, process: int, operation: str) -> bool:
        row = self._map[process * _ROW_BYTES : (process + 1) * _ROW_BYTES]
        return int.from_bytes(row, sys.byteorder) & _ANY_THREAD[operation] != 0

    def left(self, process: int) -> list[str]:
        """Which operations a dead process was in."""
        return [name for name in OPERATIONS if self.is_in(process, name)]


def _killer(lines: int) -> Callable[..., Any]:
    left = lines

    def trace(frame: object, event: str, argument: object) -> Any:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace
