"""
The format of spool files: one header, then frames (DESIGN section 2.2).

A frame is `marker (8) | length (4) | sequence number (8) | crc32 (4) | sealed bytes`, numbers big-endian, at most
256 KiB. The marker is random for each segment, so that a reader who meets torn bytes finds the next frame by looking
for it; the crc tells torn from whole without any key, and the seal (sealing.py) tells genuine from forged.

Nothing here opens or locks files: writers are in spool.py, readers in drain.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from openrouter_audit.journal.sealing import SEALED_KEY_BYTES

MAX_FRAME_BYTES: Final = 256 * 1024
SUFFIX: Final = ".seg"
MARKER_BYTES: Final = 8
_MAGIC: Final = b"ORAUDIT\x01"
_HEADER = struct.Struct(f">8s16s16sQQ{MARKER_BYTES}s{SEALED_KEY_BYTES}s")
HEADER_BYTES: Final = _HEADER.size + 4
_FRAME = struct.Struct(f">{MARKER_BYTES}sIQI")
FRAME_HEAD_BYTES: Final = _FRAME.size
_PATIENCE: Final = 16
"""After so many frames with a wrong sum, one with another inside is passed over unsummed: in a file made of nothing but markers
each would cost the sum of all that follow. Sealed bytes hold the marker by chance once in 2^64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """The first bytes of a segment file."""

    segment: bytes
    """128 random bits: the segment's name, for ever."""
    process: bytes
    """128 random bits, the same in all segments of one process."""
    ordinal: int
    """Place among the segments of its process, counted from 0."""
    created_us: int
    marker: bytes
    sealed_key: bytes

    def encode(self) -> bytes:
        packed = _HEADER.pack(
            _MAGIC, self.segment, self.process, self.ordinal, self.created_us, self.marker, self.sealed_key
        )
        return packed + crc32(packed).to_bytes(4)

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader | None:
        """The header, or None where the bytes are not a whole one of this format."""
        if len(data) < HEADER_BYTES or data[:8] != _MAGIC:
            return None
        packed = data[: _HEADER.size]
        if crc32(packed).to_bytes(4) != data[_HEADER.size : HEADER_BYTES]:
            return None
        _, segment, process, ordinal, created_us, marker, sealed_key = _HEADER.unpack(packed)
        return cls(
            segment=segment,
            process=process,
            ordinal=ordinal,
            created_us=created_us,
            marker=marker,
            sealed_key=sealed_key,
        )


def frame_head(marker: bytes, seq: int, sealed: bytes) -> bytes:
    """What stands before the sealed bytes of a frame."""
    return _FRAME.pack(marker, len(sealed), seq, crc32(sealed, crc32(seq.to_bytes(8))))


def _crc(seq: int, sealed: bytes | memoryview) -> int:
    return crc32(sealed, crc32(seq.to_bytes(8)))


def _begins_inside(data: bytes | None, marker: bytes, at: int, stop: int) -> bool:
    """Whether another frame begins within one."""
    return data is not None and data.find(marker, at + 1, stop) >= 0


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: its bytes are those that were written."""

    seq: int
    offset: int
    end: int
    sealed: memoryview


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes between two frames, or a frame of the right length, that are not what was written."""

    offset: int
    end: int
    seq: int | None
    """The number the frame gives itself, where its length still makes sense. It may be what was damaged."""


def scan(data: memoryview, marker: bytes, base: int) -> Iterator[Frame | Damage]:
    """
    Frames and damage in `data`, which starts at file offset `base`, up to the last whole frame.

    What follows the last whole frame is not reported: in a live segment it is a frame still being written, in a
    finished one the caller knows it to be the end.
    """
    at, end = 0, len(data)
    failed = 0
    searchable: bytes | None = None
    while end - at >= FRAME_HEAD_BYTES:
        found, length, seq, crc = _FRAME.unpack_from(data, at)
        stop = at + FRAME_HEAD_BYTES + length
        plausible = found == marker and length <= MAX_FRAME_BYTES
        if plausible and stop <= end and not (failed >= _PATIENCE and _begins_inside(searchable, marker, at, stop)):
            sealed = data[at + FRAME_HEAD_BYTES : stop]
            if _crc(seq, sealed) == crc:
                yield Frame(seq, base + at, base + stop, sealed)
                at = stop
                continue
            failed += 1
            searchable = bytes(data) if searchable is None else searchable
            alone = not _begins_inside(searchable, marker, at, stop)  # else it is torn
            if alone and (stop == end or data[stop : stop + MARKER_BYTES] == marker):  # right in length, wrong inside
                yield Damage(base + at, base + stop, seq)
                at = stop
                continue
        searchable = bytes(data) if searchable is None else searchable
        following = searchable.find(marker, at + 1)
        if following < 0 or end - following < FRAME_HEAD_BYTES:
            return
        yield Damage(base + at, base + following, None)
        at = following
