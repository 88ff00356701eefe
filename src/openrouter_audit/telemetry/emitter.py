"""
The follower that tells a collector of finished calls, in index order, at least once.

Where it stands is in a file of its own: the next index, and which calls were open there, whose intents it reads again. It
moves only when the receiver has taken what was before it, so a receiver that is away for a day hears of the day afterwards,
and a crash makes some calls told twice, under the same ids. It begins with what ends after it was switched on.

One process of a home emits, the one that has the lease of this file; the others look now and then whether it is gone.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from openrouter_audit.core.merkle import leaf_hash
from openrouter_audit.errors import JournalUnavailable, TelemetryUnavailable
from openrouter_audit.journal.files import write_whole
from openrouter_audit.journal.home import Lease
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.vault import Vault
from openrouter_audit.telemetry.conventions import Call, Intent, Outcome

BATCH_ENTRIES = 512
"""About two hundred calls to a request."""
MAX_OPEN = 10_000
"""Intents remembered until their outcome comes; the oldest are told without what they asked for."""


class Export(Protocol):
    """Where the calls go: `OtlpExport`."""

    def send(self, calls: Sequence[Call]) -> None:
        """
        Return when the receiver has taken them.

        Raises:
            TelemetryUnavailable: They are to be sent again.
        """
        ...

    def close(self) -> None: ...


class _Place(Struct):
    """How far which log was told."""

    origin: str
    next_index: int
    since_us: int
    """Calls that ended before this are not told."""
    open: dict[str, int] = {}
    """Index of each intent that waits for its outcome."""


_read: Callable[[str], Intent | Outcome] = msgspec.json.Decoder(Intent | Outcome).decode


class Emitter:
    """Follows a home's journal. One thread uses an instance."""

    def __init__(
        self,
        *,
        journal: Path,
        vault: Path,
        place: Path,
        since_us: int,
        make_export: Callable[[], Export],
        user_ids: bool = False,
    ) -> None:
        """
        Args:
            place: The file that says where it stands; beside it is one for the lease.
            since_us: UTC, microseconds: where there is no such file, calls that ended before are not told.
            make_export: Called once, when there is something to tell.
            user_ids: Tell who the calls were for.
        """
        self._journal_path, self._vault_path, self._path = journal, vault, place
        self._since_us, self._make_export, self._user_ids = since_us, make_export, user_ids
        self._export: Export | None = None
        self._databases: tuple[SqliteJournal, Vault] | None = None
        self._file = (0, 0)
        self._lease = Lease(place.with_name(place.name + ".lease"))
        self._place: _Place | None = None
        self._intents: dict[str, Intent] = {}
        _LEASES.add(self._lease)

    def follow(self) -> int:
        """
        Tell what was committed since the last time; returns the tree size it stands at.

        Raises:
            TelemetryUnavailable: The receiver does not take it, or where this stands cannot be written down.
            JournalUnavailable: A database cannot be read.
        """
        if not self._lease.held:
            self._place = None  # somebody else may have moved it
            if not self._lease.acquire():
                return 0
        journal, vault = self._open()
        head = journal.head()
        place = self._place_in(journal, head.origin)
        while place.next_index < head.tree_size:
            stop = min(head.tree_size, place.next_index + BATCH_ENTRIES)
            calls = self._calls(list(journal.entries(place.next_index, stop)), place, vault)
            if calls:
                if self._export is None:
                    self._export = self._make_export()
                self._export.send(calls)
            # A crash before the next line has these told again, under the same ids.
            self._move(place, stop, calls)
        return place.next_index

    def close(self) -> None:
        if self._export is not None:
            self._export.close()
        self._close_databases()
        self._lease.release()

    def _calls(self, batch: list[tuple[int, str]], place: _Place, vault: Vault) -> list[Call]:
        """The calls that end in this batch. Sending may fail: what this changes in `place` may be done twice."""
        ended: list[tuple[int, bytes, Outcome]] = []
        for index, text in batch:
            entry = _entry(text)
            if isinstance(entry, Intent):
                self._intents[entry.id] = entry
                place.open.setdefault(entry.id, index)
            elif entry is not None and entry.at_us >= place.since_us:
                ended.append((index, leaf_hash(text.encode()), entry))
            elif entry is not None:
                self._intents.pop(entry.id, None)
                place.open.pop(entry.id, None)
        if not ended:
            return []
        carried = vault.calls([outcome.id for _, _, outcome in ended])
        intents = [self._intents.get(o.id) or Intent(id=o.id, at_us=o.at_us - (o.last_byte_us or 0)) for *_, o in ended]
        users = {}
        if self._user_ids:
            users = vault.users(sorted({intent.subject for intent in intents if intent.subject is not None}))
        calls = []
        for (index, leaf, outcome), intent in zip(ended, intents, strict=True):
            private = carried.get(outcome.id)
            span = private.context.span if private is not None and private.context is not None else None
            calls.append(
                Call(
                    intent=intent,
                    outcome=outcome,
                    index=index,
                    leaf_hash=leaf,
                    origin=place.origin,
                    trace_id=None if span is None else span.trace_id,
                    parent_id=None if span is None else span.span_id,
                    user=users.get(intent.subject or ""),
                    session=private.session_id if self._user_ids and private is not None else None,
                )
            )
        return calls

    # Where it stands --------------------------------------------------------------------------------------------

    def _move(self, place: _Place, stop: int, calls: list[Call]) -> None:
        for call in calls:
            self._intents.pop(call.outcome.id, None)
            place.open.pop(call.outcome.id, None)
        while len(place.open) > MAX_OPEN:
            oldest = next(iter(place.open))
            del place.open[oldest]
            self._intents.pop(oldest, None)
        place.next_index = stop
        if calls:
            self._save(place)

    def _place_in(self, journal: SqliteJournal, origin: str) -> _Place:
        place = self._place
        if place is None:
            place = self._place = self._load()
            if place is None:
                place = self._place = _Place(origin, 0, self._since_us)
                self._save(place)
            self._intents = {}
        if place.origin != origin:  # a recovery opened a successor: all of it is new
            place.origin, place.next_index, place.open = origin, 0, {}
            self._intents = {}
        for call, index in place.open.items():
            if call not in self._intents:
                for _, text in journal.entries(index, index + 1):
                    if isinstance(entry := _entry(text), Intent):
                        self._intents[call] = entry
        return place

    def _load(self) -> _Place | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Place)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise TelemetryUnavailable(f"{self._path.name} cannot be read: {error}") from error

    def _save(self, place: _Place) -> None:
        try:
            write_whole(self._path, msgspec.json.encode(place))
        except OSError as error:
            raise TelemetryUnavailable(f"{self._path.name} cannot be written: {error.strerror}") from error

    # Databases --------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[SqliteJournal, Vault]:
        """A recovery may put a successor in the journal's place while a program runs; then that one is followed."""
        try:
            status = self._journal_path.stat()
        except OSError as error:
            raise JournalUnavailable(f"{self._journal_path.name} does not exist") from error
        file = status.st_dev, status.st_ino
        if self._databases is None or file != self._file:
            self._close_databases()
            journal = SqliteJournal.open(self._journal_path, read_only=True)
            try:
                self._databases = journal, Vault.open(self._vault_path, read_only=True)
            except BaseException:
                journal.close()
                raise
            self._file = file
        return self._databases

    def _close_databases(self) -> None:
        databases, self._databases = self._databases, None
        if databases is not None:
            for database in databases:
                database.close()


def _entry(text: str) -> Intent | Outcome | None:
    """None for every other kind, and for a shape nobody has yet."""
    try:
        return _read(text)
    except msgspec.ValidationError:
        return None


_LEASES: weakref.WeakSet[Lease] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A child that keeps a copy of the descriptor would keep the lease of a parent that is gone."""
    for lease in list(_LEASES):
        lease.release()


os.register_at_fork(after_in_child=_after_fork_in_child)
