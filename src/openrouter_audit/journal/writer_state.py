"""
Counters of one writer that need no disk space and survive `kill -9` (DESIGN section 6).

A page of 4 KiB is written in full when its segment is made, mapped, and overwritten in place: no later write can fail for
want of space. When the segment is finished the sequencer reads it once, turns losses into `log.loss`, and deletes it.

Losses are counted exactly though threads, finalisers and signal handlers count at once and none may wait for a lock: the
page has several *slots*, each a full set of counters, and whoever counts takes a free slot out of a deque (one step of the
interpreter), adds to it, and puts it back. Nobody else has it meanwhile, so no addition is overwritten; the count is the sum
over all slots. `acknowledge` is on the hot path and takes no slot: threads may overwrite each other's number of a microsecond
ago, and it is a statement of "at least".

A record that waits in memory is counted here as lost with its process *before* it waits, and is numbered. The frame that holds
it in the end names that number, and so takes the loss back in the same write: a kill at any instant leaves one of the two.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

STATE_BYTES: Final = 4096
WAITED: Final = 2**62
"""Added to the number of a record that waited, where a frame names it: no frame has such a number."""

LossReason = Literal[
    "disk_and_memory_full",
    "process_ended",
    "full",
    "disk",
    "closed",
    "fault",
    "too_large",
    "no_intent",
    "capture_fault",
]
"""Why a writer gave a record up; `LogLoss` tells them apart. Their order is the order in the page."""
LOSS_REASONS: Final[tuple[LossReason, ...]] = get_args(LossReason)

_MAGIC: Final = b"ORASTAT\x02"  # read on the machine that wrote it
_WORD: Final = 8
_ACKNOWLEDGED: Final = 1  # among the words of the page
_FAILED_AT: Final = 2
_MAX_FAILED: Final = 30
_SLOTS_AT: Final = _FAILED_AT + _MAX_FAILED
_WRITTEN_AFTER_ALL: Final = len(LOSS_REASONS)  # a row of a slot beside those of the reasons
_ROW_WORDS: Final = 3  # count, first time, last time
_SLOT_WORDS: Final = _ROW_WORDS * (len(LOSS_REASONS) + 1)
_SLOTS: Final = (STATE_BYTES // _WORD - _SLOTS_AT) // _SLOT_WORDS
_MOST: Final = 2**53 - 1
"""What an entry can say. A page that was damaged may hold more."""
_WORDS = struct.Struct(f"={STATE_BYTES // _WORD}Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How many records one writer lost for one reason, and when."""

    count: int
    from_us: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterCounts:
    """What a finished writer left behind."""

    acknowledged: int = 0
    """One more than the highest sequence number whose write returned."""
    failed: frozenset[int] = frozenset()
    """Numbers whose write did not return, or returned short: their bytes, if any, were never acknowledged."""
    losses: Mapping[LossReason, Loss]
    """Records given up; those of `process_ended` waited in memory, and are lost unless a frame names them."""
    written_after_all: int = 0
    """Records that waited and were written."""

    @property
    def waiting(self) -> int:
        """Records in the memory of the process, while it lives."""
        waited = self.losses.get("process_ended")
        return 0 if waited is None else max(0, waited.count - self.written_after_all)

    @property
    def lost(self) -> int:
        """Records given up for good, those aside that wait."""
        return sum(loss.count for reason, loss in self.losses.items() if reason != "process_ended")


class LossCounts:
    """Counters that any number of threads and finalisers add to, in a page or in memory."""

    def __init__(self, words: memoryview | None = None) -> None:
        self._words = memoryview(bytearray(STATE_BYTES)).cast("Q") if words is None else words
        self._free = deque(_slots())
        self._late: deque[tuple[int, int, int, int]] = deque()

    def lose(self, reason: LossReason, at_us: int, count: int = 1) -> None:
        """Count records that are given up now."""
        self._add(LOSS_REASONS.index(reason), count, at_us, at_us)

    @property
    def total(self) -> int:
        return sum(loss.count for loss in _losses_in(self._words).values())

    def pour_into(self, other: LossCounts) -> None:
        """
        Move what is counted here. A slot that somebody is adding to at this moment stays for the next time.

        A crash in between loses nothing that was safe: only counts in memory are poured.
        """
        for _ in range(len(self._free)):
            try:
                slot = self._free.popleft()
            except IndexError:
                break
            try:
                for row, at in enumerate(range(slot, slot + _SLOT_WORDS, _ROW_WORDS)):
                    count, from_us, until_us = self._words[at : at + _ROW_WORDS]
                    if count:
                        other._add(row, count, from_us, until_us)
                        self._words[at] = self._words[at + 1] = self._words[at + 2] = 0
            finally:
                self._free.append(slot)

    def _add(self, row: int, count: int, from_us: int, until_us: int) -> None:
        self._late.append((row, count, from_us, until_us))
        try:
            slot = self._free.pop()
        except (
            IndexError
        ):  # as many threads as there are slots stand between these lines: one of them, or the next, adds it
            return
        try:
            while self._late:
                try:
                    row, count, from_us, until_us = self._late.popleft()
                except IndexError:  # another slot has it
                    break
                words, at = self._words, slot + row * _ROW_WORDS
                words[at + 1] = min(words[at + 1] or from_us, from_us)
                words[at + 2] = max(words[at + 2], until_us)
                words[at] += count
        finally:
            self._free.append(slot)


class WriterState(LossCounts):
    """The mapped page of a writer; owned by its segment."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, _MAGIC.ljust(STATE_BYTES, b"\0")) != STATE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._map = mmap.mmap(descriptor, STATE_BYTES)
        finally:
            os.close(descriptor)
        self._numbers = memoryview(self._map).cast("Q")
        super().__init__(self._numbers)
        self._acknowledged = 0
        self._waits = itertools.count()
        self._failures = itertools.count()

    def acknowledge(self, seq: int) -> None:
        if seq >= self._acknowledged:
            self._acknowledged = self._numbers[_ACKNOWLEDGED] = seq + 1

    def fail(self, seq: int) -> None:
        """
        Note that this number was never acknowledged, whatever of its bytes is in the file.

        There is room for as many as threads may write at once; a segment takes nothing more after its first failure.
        """
        place = next(self._failures)
        if place < _MAX_FAILED:
            self._numbers[_FAILED_AT + place] = seq + 1

    def wait(self, at_us: int) -> int:
        """Count a record as lost with this process, until a frame names the number returned."""
        number = next(self._waits)
        self.lose("process_ended", at_us)
        return WAITED + number

    def written_after_all(self, at_us: int) -> None:
        """A record that waited is in a frame, which says so itself; this tells those who look at a living process."""
        self._add(_WRITTEN_AFTER_ALL, 1, at_us, at_us)


def read_counts(path: Path) -> WriterCounts | None:
    """
    The counts of a writer, or None where there is no such page or it is not one of ours.

    Raises:
        OSError: It is there and cannot be read now; what it counts is not yet to be given up.
    """
    try:
        with path.open("rb") as file:
            data = file.read(STATE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        return None
    if len(data) != STATE_BYTES or not data.startswith(_MAGIC):
        return None
    words = tuple(min(word, _MOST) for word in _WORDS.unpack(data))
    return WriterCounts(
        acknowledged=words[_ACKNOWLEDGED],
        failed=frozenset(number - 1 for number in words[_FAILED_AT : _FAILED_AT + _MAX_FAILED] if number),
        losses=_losses_in(words),
        written_after_all=sum(words[slot + _WRITTEN_AFTER_ALL * _ROW_WORDS] for slot in _slots()),
    )


def _slots() -> Iterator[int]:
    return iter(range(_SLOTS_AT, _SLOTS_AT + _SLOTS * _SLOT_WORDS, _SLOT_WORDS))


def _losses_in(words: memoryview | tuple[int, ...]) -> dict[LossReason, Loss]:
    losses: dict[LossReason, Loss] = {}
    for row, reason in enumerate(LOSS_REASONS):
        places = [slot + row * _ROW_WORDS for slot in _slots()]
        used = [at for at in places if words[at]]
        if used:
            losses[reason] = Loss(
                count=min(sum(words[at] for at in used), _MOST),
                from_us=min(words[at + 1] for at in used),
                until_us=max(words[at + 2] for at in used),
            )
    return losses
