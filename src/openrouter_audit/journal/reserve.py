"""
Space kept for the hour when the disk has none: one file of 4 MiB in each home (DESIGN section 6).

It is made beside the first segment and holds real blocks. When the disk takes nothing and memory is full, or the process ends
while records wait, it is removed: what waits is written into the space that this gives back. The file belongs to the home, not
to a process, because the space given back is anybody's. It is made again when there is room to spare.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 4 * 1024 * 1024
AGAIN_SECONDS: Final = 600.0
"""After giving it up a process leaves the space alone for so long: a quota does not tell how much of it is left."""
_SPARE: Final = 1.25
_PARTIAL_SUFFIX: Final = ".tmp"


class Reserve:
    """The reserve of a home. Any thread may use it; two that do at once do the same thing twice."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._partial = path.with_name(path.name + _PARTIAL_SUFFIX)
        self._size = size
        self._not_before_s = 0.0

    @property
    def bytes(self) -> int:
        """What it holds now."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def ensure(self) -> None:
        """Make it where it is missing and the disk has more than that to give. A failure leaves things as they were."""
        with contextlib.suppress(OSError):
            if self._path.exists() or time.monotonic() < self._not_before_s:
                return
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < self._size * _SPARE:
                return
            try:
                self._fill()
                # A crash here leaves the partial file, which the next one who makes a reserve writes over.
                self._partial.rename(self._path)
            except OSError:
                self._not_before_s = time.monotonic() + AGAIN_SECONDS
                self._partial.unlink(missing_ok=True)

    def free(self) -> bool:
        """Give the space back to the disk; True where there was any to give."""
        self._not_before_s = time.monotonic() + AGAIN_SECONDS
        freed = False
        for path in (self._path, self._partial):
            with contextlib.suppress(OSError):
                path.unlink()
                freed = True
        return freed

    def _fill(self) -> None:
        """Random bytes, not zeros: of those a file system that compresses keeps none."""
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            block = os.urandom(min(self._size, 64 * 1024))
            left = self._size
            while left > 0:
                left -= os.write(descriptor, block[:left])
        finally:
            os.close(descriptor)
