"""
Reading the spool: which segments there are, which are finished, what is new in them.

The order of looking is what makes an outcome never overtake its intent and no intent be given up too early:

1. *Finished* is asked first, and the folder is listed again after it. A segment counts as finished only when we get
   `LOCK_EX` on it, so every outcome of an intent in it, also one in a later segment, was written before that listing.
2. Sizes are taken from the newest segment of a process to its oldest. An outcome seen in a newer segment was written
   after its intent, which therefore stands within the size taken later of the older one.
3. Frames are read from the oldest segment to the newest (C27).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openrouter_audit.journal.forks import no_fork
from openrouter_audit.journal.sealing import SegmentCipher, open_segment_cipher
from openrouter_audit.journal.segments import FRAME_HEAD_BYTES, HEADER_BYTES, SUFFIX, Damage, Frame, SegmentHeader, scan
from openrouter_audit.journal.sqlite import Position

READ_BYTES: Final = 4 * 1024 * 1024
"""How much of a segment is looked at in one piece; many times the largest frame."""
_STALE_PARTIAL_S: Final = 3600.0


@dataclass(slots=True)
class Source:
    """One segment file, open for reading. Owned by the sequencer's thread."""

    path: Path
    header: SegmentHeader
    cipher: SegmentCipher | None
    """None where its key was sealed for another journal: then every frame is unreadable."""
    descriptor: int
    finished: bool = False

    @property
    def segment(self) -> str:
        return self.header.segment.hex()

    @property
    def process(self) -> str:
        return self.header.process.hex()

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def check_finished(self) -> None:
        """Ask for the lock its writer holds for life; once finished, always finished."""
        if not self.finished:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.finished = True

    def read(self, start: int, stop: int) -> Iterator[Frame | Damage]:
        """
        Frames and damage between two file offsets, in file order, up to the last whole frame.

        Damage that is only the end of what was read is not reported (see `scan`).
        """
        at = max(start, HEADER_BYTES)
        while at < stop:
            data = os.pread(self.descriptor, min(READ_BYTES, stop - at), at)
            if len(data) < min(READ_BYTES, stop - at):
                return  # the file became shorter since its size was taken: look again
            reached = at
            for item in scan(memoryview(data), self.header.marker, at):
                yield item
                reached = item.end
            if at + len(data) >= stop:
                return  # all was read; the rest is no whole frame (yet)
            # Nothing found in a piece that is larger than any frame: damage, and the next frame is further on.
            at = reached if reached != at else at + len(data) - FRAME_HEAD_BYTES

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class SpoolReader:
    """The segments of a spool folder, kept open between looks. Owned by the sequencer's thread."""

    def __init__(self, directory: Path, state_directory: Path, private_key: bytes) -> None:
        self._directory, self._state_directory = directory, state_directory
        self._private_key = private_key
        self._sources: dict[str, Source] = {}

    def look(self, positions: Mapping[str, Position]) -> list[list[tuple[Source, int]]]:
        """
        What there is to read: for each process its segments, oldest first, with the size to read up to.

        Args:
            positions: Segments marked final there are never read again, whatever stands in the folder.
        """
        self._find(positions)
        for source in self._sources.values():
            source.check_finished()
        self._find(positions)  # again: an outcome may be in a segment that was made between the two
        groups: dict[str, list[Source]] = {}
        for source in self._sources.values():
            groups.setdefault(source.process, []).append(source)
        looked = []
        for group in groups.values():
            group.sort(key=lambda source: source.header.ordinal, reverse=True)
            looked.append([(source, source.size()) for source in group][::-1])
        return looked

    def forget(self, source: Source) -> None:
        """Close a segment that is final, and remove its files: all of it is in the journal."""
        self._sources.pop(source.path.name, None)
        self._remove(source.path)
        source.close()

    def _remove(self, path: Path) -> None:
        """
        The state file first: after a crash in between, the other one is found again and brings us back here.

        So does what the disk refuses to remove now: it is final, and nobody reads it meanwhile.
        """
        with contextlib.suppress(OSError):
            (self._state_directory / path.stem).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def holds(self, segment: str, seq: int, stop: int) -> bool:
        """Whether a whole frame of this number stands before `stop`, though its write failed and another replaces it."""
        source = self._sources.get(segment + SUFFIX)
        return source is not None and any(
            isinstance(item, Frame) and item.seq == seq for item in source.read(HEADER_BYTES, stop)
        )

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources.clear()

    def _find(self, positions: Mapping[str, Position]) -> None:
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name in self._sources:
                continue
            if not name.endswith(SUFFIX):
                self._remove_stale(name)
                continue
            known = positions.get(name.removesuffix(SUFFIX))
            if known is not None and known.final:
                self._remove(self._directory / name)  # a crash came between commit and removal
                continue
            with no_fork():  # a child closes what it finds in `_sources`
                source = self._open(name)
                if source is not None:
                    self._sources[name] = source

    def _open(self, name: str) -> Source | None:
        path = self._directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            header = SegmentHeader.decode(os.pread(descriptor, HEADER_BYTES, 0))
        except IsADirectoryError:
            header = None
        except OSError:
            os.close(descriptor)
            raise
        if header is None or header.segment.hex() + SUFFIX != name:
            os.close(descriptor)
            return None  # not one of our segments; `doctor` and `verify` name it as undrained
        cipher = open_segment_cipher(self._private_key, header.segment, header.sealed_key)
        return Source(path, header, cipher, descriptor)

    def _remove_stale(self, name: str) -> None:
        """A `.new` file whose maker died before the rename holds a header and nothing else."""
        path = self._directory / name
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_PARTIAL_S:
                self._remove(path)


def count_waiting(directory: Path, positions: Mapping[str, Position]) -> int:
    """Whole frames that are not in the journal yet. Needs no key: frames are counted, not opened."""
    return sum(count for count, _ in waiting_frames(directory, positions).values())


def waiting_frames(directory: Path, positions: Mapping[str, Position]) -> dict[str, tuple[int, int]]:
    """For each segment that has any: how many whole frames are not in the journal yet, and where the last one ends."""
    waiting = {}
    for path in directory.glob(f"*{SUFFIX}"):
        position = positions.get(path.stem)
        if position is not None and position.final:
            continue
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            data = path.read_bytes()
            header = SegmentHeader.decode(data)
            if header is not None:
                start = position.offset if position is not None else HEADER_BYTES
                found = scan(memoryview(data)[start:], header.marker, start)
                ends = [item.end for item in found if isinstance(item, Frame)]
                if ends:
                    waiting[path.stem] = (len(ends), ends[-1])
    return waiting
