"""
Outcomes that wait in memory while the disk takes nothing (DESIGN section 6).

Each keeps the segment of its intent, and so keeps it locked: as long as a record waits nobody takes its call for orphaned, and the
page of that segment counts it as lost with the process (`WriterState.wait`). The bound is on bytes, and two threads may
pass it together by a record or two.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from openrouter_audit.journal.reserve import Reserve
    from openrouter_audit.journal.spool import Segment

BACKLOG_BYTES: Final = 16 * 1024 * 1024

_ENCODE = msgspec.msgpack.Encoder().encode
_PARTS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_NAMES = msgspec.msgpack.Decoder(tuple[tuple[str, int], ...] | None)


class Waiting(NamedTuple):
    plain: bytes
    """The frame's content, which names the number it waits under."""
    follows: Segment
    """Where its intent stands, or a later segment of the same process."""


class Backlog(deque[Waiting]):
    """A deque, so that asking whether anything waits costs the hot path nothing."""

    def __init__(self, bound_bytes: int = BACKLOG_BYTES) -> None:
        super().__init__()
        self._bound_bytes = bound_bytes
        self._bytes = 0
        self._thread_due = deque([True])  # in it while no thread of ours runs

    def keep(
        self, plain: bytes, follows: Segment, *, write: Callable[[bytes, Segment], object], reserve: Reserve
    ) -> None:
        """An outcome that no segment takes: in memory, then in the space of the reserve, then as a number."""
        if self._add(plain, follows):
            return
        if reserve.free() and not self.retry(write):
            with contextlib.suppress(Exception):
                write(plain, follows)
                return
        if not self._add(plain, follows):
            follows.state.lose("disk_and_memory_full", _now_us())

    def retry(self, write: Callable[[bytes, Segment], object]) -> int:
        """Write what waits; returns how many records still do."""
        while self:
            try:
                waiting = self.popleft()
            except IndexError:  # another thread took the last one
                break
            try:
                write(waiting.plain, waiting.follows)
            except Exception:
                self.appendleft(waiting)
                break
            # A crash here leaves a frame that names the number it waited under: it is not lost.
            self._bytes -= len(waiting.plain)
            waiting.follows.state.written_after_all(_now_us())
        return len(self)

    def retry_in_background(self, retry: weakref.WeakMethod[Callable[[], int]], *, every_s: float) -> None:
        """Have a thread try while something waits: a process that records nothing more for hours still writes it."""
        if taken(self._thread_due):
            try:
                # Not a `threading.Thread`: starting one takes a lock, and this may be a finaliser that interrupted it.
                _thread.start_new_thread(self._retry_until_written, (retry, every_s, os.getpid()))
            except RuntimeError:  # no thread to be had: the next record that waits asks again
                self._thread_due.append(True)

    def _retry_until_written(self, retry: weakref.WeakMethod[Callable[[], int]], every_s: float, pid: int) -> None:
        while True:
            time.sleep(every_s)
            again = retry()
            if again is None or os.getpid() != pid:
                return
            if not again():
                self._thread_due.append(True)
                if not self or not taken(self._thread_due):
                    return
            del again

    def _add(self, plain: bytes, follows: Segment) -> bool:
        """Let a record wait; False where memory is full."""
        if not self:
            self._bytes = 0  # whatever threads made of the sum: nothing waits
        if self._bytes + len(plain) > self._bound_bytes:
            return False
        waiting = Waiting(naming(plain, follows.name, follows.state.wait(_now_us())), follows)
        self._bytes += len(waiting.plain)
        self.append(waiting)
        return True


def taken(token: deque[bool]) -> bool:
    """Whether it is for us to do what is to be done once. One step of the interpreter: no two get it."""
    try:
        return token.pop()
    except IndexError:
        return False


def naming(plain: bytes, segment: str, number: int) -> bytes:
    """
    The content of a frame with one more name of what it replaces: a torn frame, or a number that was waited under.

    As it is encoded: `(facts, private, names)`.
    """
    facts, private, names = _PARTS.decode(plain)
    return _ENCODE((facts, private, (*(_NAMES.decode(names) or ()), (segment, number))))


def _now_us() -> int:
    return time.time_ns() // 1000
