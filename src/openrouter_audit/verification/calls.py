"""
Entries against entries: does each call have one intent and at most one outcome, and do frames and positions agree?

One pass, entry by entry, in a loop that is written for speed: what it must remember is the intents still open, per segment
how many of its numbers were seen, and one 64-bit hash for each call and generation id. Python's string hash is keyed anew
in each process, so nobody can prepare ids that collide. Where hashes do, or an outcome has no open intent, the names are
kept as *suspects* and looked at in a second pass, which an ordinary log does not need.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Struct

from openrouter_audit.verification.findings import Counts, Finding, finding
from openrouter_audit.verification.source import ShownPosition

OPEN_INTENT_US: Final = 3600 * 1_000_000
"""An intent that waits longer for its outcome is worth a finding (C14)."""
HEAD: Final = "head"
"""Reason of a `log.loss` that is about no record: the file that tells a journal which was put back was gone."""
_BUCKETS: Final = 256


class _Writer(Struct, gc=False):
    segment: str
    seq: int


class Glance(Struct, gc=False, kw_only=True):
    """
    What of an entry this module looks at. Other fields are passed over, so newer entries are read as well.

    Fields stand in the order in which canonical bytes have them, which is where the decoder looks first.
    """

    at_us: int = 0
    count: int | None = None
    former: str | None = None
    generation_id: str | None = None
    id: str
    kept_size: int | None = None
    kind: str
    lost_from: int | None = None
    lost_until: int | None = None
    reason: str | None = None
    signed_size: int | None = None
    state: str | None = None
    status: str | None = None
    writer: _Writer | None = None


glance = msgspec.json.Decoder(Glance).decode
"""Reads an entry's bytes; raises one of `_NO_ENTRY` where they are none."""
_NO_ENTRY: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _try_glance(text: bytes) -> Glance | None:
    try:
        return glance(text)
    except _NO_ENTRY:
        return None


class _Tally:
    """Which numbers of a segment were seen: all below `next`, and those of `ahead`."""

    __slots__ = ("ahead", "next", "repeated")

    def __init__(self) -> None:
        self.next = 0
        self.ahead: set[int] = set()
        self.repeated = 0

    def place(self, seq: int) -> bool:
        """Take a number that is not simply the next one; False where it was seen before."""
        if seq < self.next or seq in self.ahead:
            self.repeated += 1
            return False
        self.ahead.add(seq)
        while self.next in self.ahead:
            self.ahead.remove(self.next)
            self.next += 1
        return True

    @property
    def entries(self) -> int:
        return self.next + len(self.ahead) + self.repeated

    @property
    def last_seq(self) -> int:
        return max(self.ahead, default=self.next - 1)


class _Repeats:
    """Finds values that were put in twice, by their 64-bit hashes: 8 bytes for each value."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]
        self.takers = [bucket.append for bucket in self._buckets]
        """Where a hash goes: `takers[hash & 255](hash)`, so that a loop need not call a method of ours."""

    def found(self) -> frozenset[int]:
        repeated: set[int] = set()
        for bucket in self._buckets:
            if len(set(bucket)) != len(bucket):
                seen: set[int] = set()
                for value in bucket:
                    if value in seen:
                        repeated.add(value)
                    seen.add(value)
        return frozenset(repeated)


@dataclass(slots=True)
class _Suspects:
    """What the second pass looks for."""

    calls: frozenset[int]
    """Hashes of call ids with a second intent."""
    outcomes: set[str]
    """Calls with an outcome that found no open intent."""
    generations: frozenset[int]
    intents_seen: set[str] = field(default_factory=set)
    outcomes_seen: set[str] = field(default_factory=set)
    generations_seen: dict[str, tuple[int, str]] = field(default_factory=dict)


class CallCheck:
    """Takes the entries of a log in order and says where they contradict each other."""

    def __init__(self) -> None:
        self._intents = self._outcomes = self._unknown = self._losses = 0
        self._open: dict[str, tuple[int, int, str]] = {}  # index, time and segment
        self._tallies: dict[str, _Tally] = {}
        self._call_ids, self._generation_ids = _Repeats(), _Repeats()
        self._orphans: dict[str, int] = {}  # outcomes that found no open intent: call, index of the first
        self._unresolved: dict[str, int] = {}
        self._excused: set[str] = set()  # segments with a recorded loss
        self._found: list[Finding] = []

    @property
    def counts(self) -> Counts:
        return Counts(intents=self._intents, outcomes=self._outcomes, unknown=self._unknown, losses=self._losses)

    def add(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Take in index and bytes of some entries; those that cannot be read are a matter for the tree."""
        try:
            entries = [glance(text) for _, text in rows]
        except _NO_ENTRY:
            for index, text in rows:
                entry = _try_glance(text)
                if entry is not None:
                    self._note(index, [entry])
        else:
            if entries and rows[-1][0] - rows[0][0] == len(rows) - 1:
                self._note(rows[0][0], entries)
            else:
                for (index, _), entry in zip(rows, entries, strict=True):
                    self._note(index, [entry])

    def count_writers(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """Take in entries that no checkpoint covers: only for `compare_positions`."""
        for _, text in rows:
            entry = _try_glance(text)
            if entry is not None and entry.writer is not None:
                self._tallies.setdefault(entry.writer.segment, _Tally()).place(entry.writer.seq)

    def _note(self, index: int, entries: list[Glance]) -> None:
        tallies, open_intents = self._tallies, self._open
        call_takers, generation_takers = self._call_ids.takers, self._generation_ids.takers
        unresolved = self._unresolved
        for index, entry in enumerate(entries, index):  # noqa: B020, PLR1704 - counts on from the argument
            call, kind, writer = entry.id, entry.kind, entry.writer
            segment = ""
            if writer is not None:
                segment, seq = writer.segment, writer.seq
                tally = tallies.get(segment)
                if tally is None:
                    tally = tallies[segment] = _Tally()
                if seq == tally.next and not tally.ahead:
                    tally.next = seq + 1
                elif not tally.place(seq):
                    self._say("entry_extra", f"frame {seq} of segment {segment} stands here a second time", index)
            if kind == "call.intent":
                self._intents += 1
                number = hash(call)
                call_takers[number & 255](number)
                if call not in open_intents:
                    open_intents[call] = (index, entry.at_us, segment)
            elif kind == "call.outcome":
                self._outcomes += 1
                if open_intents.pop(call, None) is None:
                    self._orphans.setdefault(call, index)
                generation = entry.generation_id
                if generation is not None:
                    number = hash(generation)
                    generation_takers[number & 255](number)
                if entry.status == "unknown":
                    self._unknown += 1
                    self._say("unknown_outcome", f"call {call}: its process ended before the answer did", index)
            elif kind == "call.cost":
                if entry.state == "unresolved":
                    unresolved[call] = index
                elif unresolved:
                    unresolved.pop(call, None)
            elif kind == "log.loss":
                self._losses += 1
                if entry.reason == HEAD:
                    self._say("head_lost", "the head file was lost: before this, a rollback need not be noticed", index)
                    continue
                self._excused.add(segment)
                count = "an unknown number of" if entry.count is None else entry.count
                self._say("loss", f"{count} records were lost: {entry.reason} (segment {segment})", index)
            elif kind == "log.unreadable":
                self._excused.add(segment)
                self._say("unreadable", f"a frame of segment {segment} became no entry: {entry.reason}", index)

            elif kind == "log.successor":
                self._found.append(_succession(index, entry))

    def _say(self, kind: str, detail: str, index: int) -> None:
        self._found.append(finding(kind, detail, index=index))

    # After the last entry ---------------------------------------------------------------------------------------

    @property
    def suspects(self) -> bool:
        """Whether a second pass over the entries is needed, by `look_closer`."""
        self._suspects = _Suspects(
            calls=self._call_ids.found(), outcomes=set(self._orphans), generations=self._generation_ids.found()
        )
        return bool(self._suspects.calls or self._suspects.outcomes or self._suspects.generations)

    def look_closer(self, rows: Iterable[tuple[int, bytes]], positions: Mapping[str, ShownPosition]) -> None:
        """The second pass: name what stands twice, and outcomes without an intent before them."""
        suspects = self._suspects
        processes = {segment: position.process for segment, position in positions.items()}
        excused = {processes.get(segment, segment) for segment in self._excused}
        for index, text in rows:
            entry = _try_glance(text)
            if entry is None:
                continue
            if entry.kind == "call.intent":
                if hash(entry.id) in suspects.calls or entry.id in suspects.outcomes:
                    if entry.id in suspects.intents_seen:
                        self._say("entry_extra", f"a second intent of call {entry.id}", index)
                    suspects.intents_seen.add(entry.id)
            elif entry.kind == "call.outcome":
                self._look_at_outcome(index, entry, processes, excused)

    def _look_at_outcome(self, index: int, entry: Glance, processes: Mapping[str, str], excused: set[str]) -> None:
        suspects, call = self._suspects, entry.id
        if call in suspects.outcomes or hash(call) in suspects.calls:
            if call in suspects.outcomes_seen:
                self._say("entry_extra", f"a second outcome of call {call}", index)
            elif call not in suspects.intents_seen:
                segment = entry.writer.segment if entry.writer is not None else ""
                covered = processes.get(segment, segment) in excused
                self._found.append(
                    finding(
                        "outcome_without_intent",
                        f"call {call} has no intent before it"
                        + ("; a recorded loss of its writer may be the reason" if covered else ""),
                        index=index,
                        severity="incomplete" if covered else None,
                    )
                )
            suspects.outcomes_seen.add(call)
        if entry.generation_id is not None and hash(entry.generation_id) in suspects.generations:
            before = suspects.generations_seen.setdefault(entry.generation_id, (index, call))
            if before[1] != call:
                self._say("duplicate_generation", f"generation {entry.generation_id}, as entry {before[0]}", index)

    def finish(self, *, now_us: int) -> list[Finding]:
        """
        All that was found.

        Args:
            now_us: The time against which open intents are measured.
        """
        for call, (index, at_us, _) in self._open.items():
            if now_us - at_us > OPEN_INTENT_US:
                self._say("open_intent", f"call {call} has had no outcome for {_hours(now_us - at_us)}", index)
        for call, index in self._unresolved.items():
            self._say("unresolved_cost", f"call {call}: its cost could not be found out", index)
        return self._found

    def compare_positions(self, positions: Mapping[str, ShownPosition]) -> Iterator[str]:
        """Where the stored positions are not what the entries imply, in words."""
        for segment in sorted(self._tallies.keys() | positions.keys()):
            tally, position = self._tallies.get(segment) or _Tally(), positions.get(segment)
            seen = (tally.entries, tally.last_seq)
            if position is None:
                yield f"segment {segment} has {seen[0]} entries and no position"
            elif (position.entries, position.last_seq) != seen:
                yield (
                    f"segment {segment}: its position says {position.entries} entries up to number"
                    f" {position.last_seq}, the log has {seen[0]} up to {seen[1]}"
                )

    def compare_open_calls(self, open_calls: Mapping[str, str]) -> Iterator[str]:
        """Where the stored list of waiting intents is not what the entries imply, in words."""
        implied = {call: segment for call, (_, _, segment) in self._open.items()}
        if implied != open_calls:
            for call in sorted(implied.keys() ^ open_calls.keys()):
                stored = "is" if call in open_calls else "is not"
                yield f"call {call} {stored} in the list of waiting intents, and the entries say otherwise"
            for call in sorted(implied.keys() & open_calls.keys()):
                if implied[call] != open_calls[call]:
                    yield f"call {call} waits in segment {implied[call]}, the list says {open_calls[call]}"


def _succession(index: int, entry: Glance) -> Finding:
    """What a successor says of the log before it: only where that one is known to have ended here is nothing missing."""
    detail = f"this log follows {entry.former} ({entry.reason}), of which {entry.kept_size} entries are kept"
    whole = False
    if entry.lost_from is not None and entry.lost_until is not None:
        detail += f"; entries {entry.lost_from} to {entry.lost_until - 1} were signed and are lost"
    elif entry.signed_size is None or entry.reason == "forked":
        detail += "; what was signed after them is not known"
    else:
        whole = True
    return finding("succession", detail, index=index, severity=None if whole else "incomplete")


def _hours(duration_us: int) -> str:
    return f"{min(duration_us, 2**63) / 3.6e9:.1f} hours"  # a made-up time may be larger than any float
