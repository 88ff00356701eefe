"""
What a power cut leaves in a spool, and a killed process cannot.

In `buffer` mode nobody syncs a segment, so a disk may have kept anything of it: its frames without its name, its name without
its header, the counter of its writer and nothing else, or a later segment and not the one before. Three things follow, looked
for once, by the first drain of a sequencer, because after a power cut everything starts anew:

- A `.new` file with frames has lost its renaming: a segment is written to only under its own name. It is given that name.
- A segment that is gone, or cannot be read, and of which the journal or the counter says that there was something, is finished
  like any other: what its counter counted and the journal does not have is a loss, and its open intents end as unknown.
- An outcome without an intent says that the intent was lost, which is a record as well, unless a loss of the same process
  says so already.

None of it can be met by a writer that lives: what it has acknowledged stands in a segment of its own name, with a header,
under its lock. A slower sequencer that looks at the same time loses at the fence, as always.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import LogLoss, Writer
from openrouter_audit.journal.batch import Batch
from openrouter_audit.journal.drain import Source
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.segments import HEADER_BYTES, SUFFIX, SegmentHeader
from openrouter_audit.journal.sqlite import Position, SqliteJournal
from openrouter_audit.journal.writer_state import read_counts

PARTIAL_SUFFIX: Final = ".new"
"""Of a segment that is being made."""
STALE_S: Final = 3600.0
"""No segment takes so long to make."""


def name_segments(spool_dir: Path) -> None:
    """Complete the renamings that a disk forgot."""
    for path in spool_dir.glob(f"*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # its writer lives, and has named it meanwhile
            if path.stat().st_size > HEADER_BYTES and _header(path) is not None:
                path.rename(path.with_suffix(SUFFIX))


def vanished(home: Home, positions: Mapping[str, Position], readable: Collection[Source]) -> list[Source]:
    """
    Segments that held something and have no file that can be read, as sources that are finished and empty.

    Args:
        readable: The segments that are read in the ordinary way.
    """
    known = {source.segment for source in readable}
    living = {source.process for source in readable if not source.finished}
    found = []
    for name in sorted({path.name for path in home.state_dir.iterdir()} | positions.keys()):
        position = positions.get(name)
        if name in known or (position is not None and (position.final or position.process in living)):
            continue
        counts = read_counts(home.state_dir / name)
        if position is None and (counts is None or not (counts.acknowledged or counts.losses)):
            continue  # nothing is known of it, or a segment is just being made
        path = home.spool_dir / (name + SUFFIX)
        if _may_be_read(path):
            continue
        header = SegmentHeader(
            segment=bytes.fromhex(name),
            process=bytes.fromhex(name if position is None else position.process),  # its own is gone with its header
            ordinal=0 if position is None else position.ordinal,
            created_us=0,
            marker=b"",
            sealed_key=b"",
        )
        empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        found.append(Source(path, header, None, empty, finished=True))
    return found


def put_away(home: Home, source: Source) -> None:
    """
    Remove what is left of a vanished segment; a file without a header is kept in quarantine, though no key opens it.

    A crash on the way, or a disk that refuses, leaves files of a segment that is final: the next sequencer removes them.
    """
    with contextlib.suppress(OSError):  # it is not there, or quarantine is on another disk: then it is removed as final
        source.path.rename(home.quarantine_dir / source.path.name)
    with contextlib.suppress(OSError):
        source.path.with_suffix(PARTIAL_SUFFIX).unlink(missing_ok=True)
        (home.state_dir / source.segment).unlink(missing_ok=True)


def remove_leftovers(home: Home, positions: Mapping[str, Position]) -> None:
    """
    Remove counters whose segment was removed before them, or was never there: the two stand in different folders.

    One without a segment and without a count may belong to a segment that is just being made, and is given an hour.
    """
    for path in home.state_dir.iterdir():
        position = positions.get(path.name)
        segment = home.spool_dir / (path.name + SUFFIX)
        if position is not None:
            outlived = position.final
        else:
            made = segment.with_suffix(PARTIAL_SUFFIX).exists() or segment.exists()  # in the order of its renaming
            outlived = not made and time.time() - path.stat().st_mtime > STALE_S
        if outlived:
            with contextlib.suppress(OSError):  # the next sequencer tries again
                path.unlink(missing_ok=True)


def outcomes_without_intent(batch: Batch, journal: SqliteJournal) -> Iterator[tuple[str, str]]:
    """Process and segment of each outcome of a batch, not committed yet, whose intent is neither in it nor in the journal."""
    orphans = {call for call in batch.closed_calls if not journal.is_open(call)}
    if orphans:
        for text in batch.texts:
            entry = msgspec.json.decode(text)
            if entry["kind"] == "call.outcome" and entry["id"] in orphans:
                segment = entry["writer"]["segment"]
                yield batch.after[segment].process, segment


def say_lost_intents(
    batch: Batch, positions: Mapping[str, Position], without_intent: Iterable[tuple[str, str]], *, now_us: int
) -> None:
    """
    Add a loss for the intents that a process must have written and nobody has, as far as no other loss stands for them.

    Args:
        without_intent: What `outcomes_without_intent` found since the last look, in this batch and in those before.
    """
    found: dict[str, list[str]] = {}
    for process, segment in without_intent:
        found.setdefault(process, []).append(segment)
    for process, segments in found.items():
        position = batch.after.get(segments[-1]) or positions[segments[-1]]
        said = _losses_said(batch, process)
        if said >= len(segments) or not position.final:
            continue
        # The intents may be among those of a vanished segment, of which nobody can tell whose it was.
        more = len(segments) - said - sum(_losses_said(batch, name) for name in batch.after)
        loss = LogLoss(
            v=1,
            id=os.urandom(16).hex(),
            at_us=now_us,
            reason="missing_tail",
            count=more if more > 0 else None,
            writer=Writer(segment=position.segment, seq=position.last_seq + 1),
        )
        batch.texts.append(encode(loss))
        batch.after[position.segment] = replace(position, entries=position.entries + 1, last_seq=position.last_seq + 1)


def _losses_said(batch: Batch, process: str) -> int:
    """How many records of a process this batch says are lost."""
    said = 0
    for text in batch.texts:
        if b'"log.loss"' in text or b'"log.unreadable"' in text:
            entry = msgspec.json.decode(text)
            position = batch.after.get(entry["writer"]["segment"])
            if position is not None and position.process == process:
                said += entry.get("count", 1 if entry["kind"] == "log.unreadable" else 0)
    return said


def _header(path: Path) -> SegmentHeader | None:
    try:
        with path.open("rb") as file:
            header = SegmentHeader.decode(file.read(HEADER_BYTES))
    except OSError:
        return None
    return header if header is not None and header.segment.hex() == path.stem else None


def _may_be_read(path: Path) -> bool:
    """Whether the segment is there after all: a whole one, or one that somebody holds."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return _header(path) is not None
