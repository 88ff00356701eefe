"""
The follower that turns entries into rows.

It reads the journal in index order, a bounded batch at a time, and gives each batch to the store together with the new
cursor, as one transaction. That transaction is the fence: it holds only if the cursor still stands where this projector
read it, so two processes that project into one file do the work twice at worst, and never write it twice.

A row depends on nothing but the entries of its call (see `rows`) and on which call first named a generation id, and both
are decided in index order; the batches may be cut anywhere. When a later batch adds an outcome or a cost, the earlier
entries of that call are read again from the journal by their indexes, which the row keeps (those of the batch before
are still in memory: most outcomes and many costs come that soon).

The file is disposable. If it belongs to another log, is ahead of this one, or the last entry it saw is no longer the one
the journal has there, the projector starts over by itself.

Where a log succeeds another one, what was before it is read as well: at indexes below 0, from `first_index` on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.reports.rows import CallParts, OutcomeReading, Reading, build_row, read_entry

BATCH_ENTRIES = 3_000
"""Entries per transaction: near a tenth of a second, so that a reader of the file never waits longer for the lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a store has followed which log."""

    origin: str
    """Origin of the log; empty before the first entry."""
    next_index: int
    """Entries before this one are in the rows; below 0 while those of former logs are taken in."""
    last_entry: bytes
    """SHA-256 of the stored text of entry `next_index - 1`; empty before the first entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCall:
    """Which entries a stored row was made of."""

    intent_index: int | None
    outcome_index: int | None
    cost_index: int | None
    duplicate_of: str | None


AskedTool = tuple[str, str, int]
"""Id of a tool call, the call whose answer asks for it, and the index of that outcome."""


class JournalHead(Protocol):
    @property
    def origin(self) -> str: ...
    @property
    def tree_size(self) -> int: ...


class JournalReader(Protocol):
    """What the projector needs of a journal."""

    def head(self) -> JournalHead: ...

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        """Rows `(index, stored text)` in index order, `stop` not included."""
        ...


class CallStore(Protocol):
    """
    Where rows are kept. One thread uses an instance.

    Every method raises `JournalUnavailable` when the file cannot be used; nothing was written then.
    """

    def cursor(self) -> Cursor: ...

    def known_calls(self, call_ids: Sequence[str]) -> Mapping[str, KnownCall]:
        """The rows that exist already."""
        ...

    def holders(self, generation_ids: Sequence[str]) -> Mapping[str, str]:
        """By generation id, the call that named it first (the one whose row is no duplicate)."""
        ...

    def advance(
        self, rows: Iterable[Sequence[Any]], asked: Iterable[AskedTool] = (), *, expected: Cursor, cursor: Cursor
    ) -> bool:
        """
        Write the rows, what answers asked for and the new cursor, or nothing.

        Returns:
            False where the stored cursor is no longer `expected`.
        """
        ...

    def start_over(self) -> None:
        """Drop all rows and put the cursor before the first entry, in one transaction."""
        ...


class Projector:
    """Keeps a store in step with a journal. One thread uses an instance, with connections of its own."""

    def __init__(
        self, journal: JournalReader, store: CallStore, *, batch_entries: int = BATCH_ENTRIES, first_index: int = 0
    ) -> None:
        self._journal = journal
        self._store = store
        self._first_index = first_index
        self._batch_entries = batch_entries
        self._checked = False
        self._recent: dict[int, Reading] = {}
        self._before_recent: dict[int, Reading] = {}

    def project(self, until: int | None = None) -> int:
        """
        Bring the rows up to the journal's head, or to entry `until` (not included), and return where the cursor stands.

        Raises:
            JournalUnavailable: The journal cannot be read or the rows cannot be written; whole batches before are kept.
        """
        head = self._journal.head()
        stop = head.tree_size if until is None else min(until, head.tree_size)
        cursor = self._checked_cursor(head)
        while (start := self._next(cursor)) < stop:
            batch = list(self._journal.entries(start, min(stop, start + self._batch_entries)))
            if not batch or batch[-1][0] != start + len(batch) - 1:
                raise JournalUnavailable(f"journal.db has no unbroken entries from {start} to {stop}")
            after = Cursor(
                origin=head.origin,
                next_index=start + len(batch),
                last_entry=sha256(batch[-1][1].encode()).digest(),
            )
            rows, asked = self._rows_of(batch)
            # A crash before this line leaves the file one batch behind; the next run reads the same batch again.
            if self._store.advance(rows, asked, expected=cursor, cursor=after):
                cursor = after
            else:
                # Another process was first. Its rows are the same as ours would have been.
                cursor = self._store.cursor()
        return self._next(cursor)

    def _next(self, cursor: Cursor) -> int:
        """The entry to read next; a store that has seen none begins with the first there is."""
        return cursor.next_index if cursor.last_entry else self._first_index

    def _checked_cursor(self, head: JournalHead) -> Cursor:
        cursor = self._store.cursor()
        if not cursor.last_entry:
            return cursor
        same = cursor.origin == head.origin and cursor.next_index <= head.tree_size
        if same and not self._checked:
            last = [text for _, text in self._journal.entries(cursor.next_index - 1, cursor.next_index)]
            same = [sha256(text.encode()).digest() for text in last] == [cursor.last_entry]
        if not same:
            self._recent = {}
            self._store.start_over()
            cursor = self._store.cursor()
        self._checked = True
        return cursor

    def _rows_of(self, batch: Sequence[tuple[int, str]]) -> tuple[list[tuple[Any, ...]], list[AskedTool]]:
        # 1. Gather what this batch says, call by call, in order of first appearance.
        self._before_recent, self._recent = self._recent, {}
        recent = self._recent
        calls: dict[str, CallParts] = {}
        claims: list[tuple[str, str]] = []
        asked: list[AskedTool] = []
        for index, text in batch:
            reading = read_entry(text)
            if reading is None:
                continue
            recent[index] = reading
            parts = calls.get(reading.id)
            if parts is None:
                parts = calls[reading.id] = CallParts()
            if parts.take(index, reading) and parts.outcome is reading:
                if parts.outcome.generation_id:
                    claims.append((parts.outcome.generation_id, reading.id))
                if type(reading) is OutcomeReading:
                    asked += [(tool.id, reading.id, index) for tool in reading.tool_calls if tool.id]

        # 2. Add what earlier batches said of the same calls.
        known = self._store.known_calls(list(calls))
        for call_id, before in known.items():
            self._add_earlier(calls[call_id], before)

        # 3. Decide who named a generation id first; a call whose outcome stood already has made its claim before, and has
        #    asked for its tools.
        holders = dict(self._store.holders([generation for generation, _ in claims]))
        for generation, call_id in claims:
            if call_id in known and known[call_id].outcome_index is not None:
                continue
            holder = holders.setdefault(generation, call_id)
            if holder != call_id:
                calls[call_id].duplicate_of = holder
        return [build_row(call_id, parts) for call_id, parts in calls.items()], [
            one for one in asked if one[1] not in known or known[one[1]].outcome_index is None
        ]

    def _add_earlier(self, parts: CallParts, before: KnownCall) -> None:
        parts.duplicate_of = before.duplicate_of
        if before.intent_index is not None:
            parts.intent_index = before.intent_index
            parts.intent = self._read_again(before.intent_index)
        if before.outcome_index is not None:
            parts.outcome_index = before.outcome_index
            parts.outcome = self._read_again(before.outcome_index)
        if parts.cost_index is None and before.cost_index is not None and before.cost_index != before.outcome_index:
            parts.cost_index = before.cost_index
            parts.cost = self._read_again(before.cost_index)

    def _read_again(self, index: int) -> Any:
        reading = self._before_recent.get(index)
        if reading is not None:
            return reading
        for _, text in self._journal.entries(index, index + 1):
            return read_entry(text)
        raise JournalUnavailable(f"journal.db has no entry {index}, which reports.db was made from")
