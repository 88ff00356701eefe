"""
Counters of one writer that need no disk space and survive `kill -9` (DESIGN section 6).

A file of 4 KiB is written in full when its segment is made, mapped, and overwritten in place: no later write can fail
for want of space. When the segment is finished the sequencer reads it once, turns losses into `log.loss`, and deletes
it. Threads may overwrite each other's counts of a microsecond ago; a count is a statement of "at least".
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

STATE_BYTES: Final = 4096
_MAGIC: Final = b"ORASTAT\x01"
_LAYOUT = struct.Struct("=8sQQQQ")  # read on the machine that wrote it
_ACKNOWLEDGED = 1  # among the numbers of 8 bytes
_LOST = struct.Struct("=QQQ")
_LOST_AT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterCounts:
    """What a finished writer left behind."""

    acknowledged: int
    """One more than the highest sequence number whose write returned."""
    lost: int
    """Records given up because neither disk nor memory could hold them."""
    lost_from_us: int
    lost_until_us: int


class WriterState:
    """The mapped file of a writer; owned by its segment."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.write(descriptor, _LAYOUT.pack(_MAGIC, 0, 0, 0, 0).ljust(STATE_BYTES, b"\0")) != STATE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._map = mmap.mmap(descriptor, STATE_BYTES)
        finally:
            os.close(descriptor)
        self._numbers = memoryview(self._map).cast("Q")
        self._acknowledged = 0
        self._lost = 0
        self._lost_from_us = 0

    def acknowledge(self, seq: int) -> None:
        if seq >= self._acknowledged:
            self._acknowledged = self._numbers[_ACKNOWLEDGED] = seq + 1

    def lose(self, count: int, at_us: int) -> None:
        """Count records that are given up now."""
        self._lost += count
        self._lost_from_us = self._lost_from_us or at_us
        _LOST.pack_into(self._map, _LOST_AT, self._lost, self._lost_from_us, at_us)


def read_counts(path: Path) -> WriterCounts | None:
    """The counts of a finished writer, or None where there is no such file or it is not one of ours."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _LAYOUT.size or not data.startswith(_MAGIC):
        return None
    _, acknowledged, lost, lost_from_us, lost_until_us = _LAYOUT.unpack_from(data)
    return WriterCounts(acknowledged=acknowledged, lost=lost, lost_from_us=lost_from_us, lost_until_us=lost_until_us)
