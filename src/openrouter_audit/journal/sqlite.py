"""
The journal in one SQLite file.

Append-only is enforced by the schema: entries, full tiles and hourly checkpoints refuse UPDATE and DELETE. Three tables
are mutable on purpose, because each holds one newest fact: `head` (size, root, checkpoint), `positions` (how far each
spool segment was read) and `open_calls` (intents still waiting for their outcome); `verify` derives all three again
from the entries.

The transaction is the fence (DESIGN section 2.3): it compares the head and every position with what the sequencer had
read, so of two sequencers on one home the slower one rolls back, whatever locks said.

Only apsw may open this file, one owner per process: a second SQLite copy, or a plain `open` and `close`, silently drops
this process's locks (DEPENDENCIES section 11.1). One statement per `execute`, and the pragmas are read back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import apsw

from openrouter_audit.core.merkle import Tile
from openrouter_audit.errors import CommitUnknown, FenceLost, JournalUnavailable

SCHEMA_VERSION = 1

_SCHEMA = (
    "CREATE TABLE entries (idx INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT",
    "CREATE TABLE tiles (level INTEGER NOT NULL, n INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (level, n))"
    " STRICT",
    "CREATE TABLE checkpoints (tree_size INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, note TEXT NOT NULL) STRICT",
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL, tree_size INTEGER NOT NULL,"
    " root BLOB NOT NULL, at_us INTEGER NOT NULL, note TEXT NOT NULL, edge BLOB NOT NULL) STRICT",
    "CREATE TABLE positions (segment TEXT PRIMARY KEY, process TEXT NOT NULL, ordinal INTEGER NOT NULL,"
    " offset INTEGER NOT NULL, entries INTEGER NOT NULL, last_seq INTEGER NOT NULL, final INTEGER NOT NULL) STRICT",
    "CREATE TABLE open_calls (call_id TEXT PRIMARY KEY, segment TEXT NOT NULL, at_us INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID",
    "CREATE INDEX open_calls_segment ON open_calls (segment)",
    "CREATE TABLE rewrites (segment TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (segment, seq))"
    " STRICT, WITHOUT ROWID",
    *(
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
        f" BEGIN SELECT raise(ABORT, '{table} is append-only'); END"
        for table in ("entries", "tiles", "checkpoints")
        for verb in ("UPDATE", "DELETE")
    ),
    "CREATE TRIGGER entries_no_gap BEFORE INSERT ON entries"
    " WHEN new.idx <> (SELECT coalesce(max(idx) + 1, 0) FROM entries)"
    " BEGIN SELECT raise(ABORT, 'entries are numbered without gaps'); END",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_PRAGMAS = (
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("foreign_keys", "ON", 1),
    ("busy_timeout", "10000", 10000),
    ("wal_autocheckpoint", "4000", 4000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far one spool segment has become entries."""

    segment: str
    process: str
    ordinal: int
    offset: int
    """Bytes of the segment file that were read, header included."""
    entries: int
    """Entries of the journal whose `writer.segment` is this segment."""
    last_seq: int
    """Highest `writer.seq` among them; -1 before the first."""
    final: bool
    """The segment was finished and read to its end; its file may be gone, and is never read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest signed state of the log."""

    origin: str
    tree_size: int
    root_hash: bytes
    at_us: int
    note: str
    edge: bytes
    """Leaf hashes of the unfinished tile, joined: with them `verify` can name an entry that no full tile speaks of yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one transaction adds and what it relies on."""

    expected_size: int
    entries: Sequence[str]
    tiles: Sequence[Tile]
    """Those that became full."""
    head: Head
    keep_checkpoint: bool
    """Also keep this checkpoint as an append-only row (one an hour)."""
    positions: Sequence[tuple[Position | None, Position]]
    """For each segment touched: the position that was read before (None: none), and the new one."""
    opened_calls: Sequence[tuple[str, str, int]] = ()
    """Intents without outcome in this batch: call id, segment, time."""
    closed_calls: Sequence[str] = ()
    rewrites: Sequence[tuple[str, int]] = ()
    """
    Numbers that are no loss where they are missing from a segment: segment, sequence number. Torn frames that a later
    frame replaces, and in a successor log those of a segment that the former one has.
    """


def open_connection(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """
    Open a database of this project with the settings it relies on, and read them back.

    Raises:
        JournalUnavailable: The file cannot be opened, or SQLite does not accept a setting.
    """
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    try:
        if not read_only and not path.exists():  # nobody has locks on it yet; -wal and -shm inherit its 0600
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = apsw.Connection(str(path), flags=flags)
        if not read_only and connection.readonly("main"):  # SQLite's second choice where the first open fails, for good
            raise JournalUnavailable(f"{path.name} can only be read now")
        connection.set_busy_timeout(10_000)
        for name, value, effective in _PRAGMAS:
            if read_only and name in {"journal_mode", "synchronous"}:
                continue
            connection.execute(f"PRAGMA {name} = {value}").fetchall()
            seen = connection.execute(f"PRAGMA {name}").get
            if seen != effective:
                raise JournalUnavailable(f"{path.name}: SQLite answered {name} = {seen!r}, needed {effective!r}")
    except (apsw.Error, OSError) as error:
        raise JournalUnavailable(f"{path.name} cannot be opened: {error}") from error
    return connection


def create_schema(connection: apsw.Connection, statements: Sequence[str]) -> None:
    """Run the statements as one transaction, unless an earlier run already did: the last one sets `user_version`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").get == 0:
            for statement in statements:
                connection.execute(statement)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class SqliteJournal:
    """
    An append-only sequence of entries and the tree over them, in `journal.db`.

    Writes are durable when `commit` returns. One thread uses an instance; other threads and processes open their own
    with `read_only=True` and see whole transactions only. Every method raises JournalUnavailable where the file cannot be
    read.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @classmethod
    def create(cls, path: Path, head: Head) -> Self:
        """
        Make the file with `head`, the signed checkpoint of the empty tree, as its first state.

        Callers hold the home's lock, so that one process makes it; a crash half way leaves a file that this finishes.
        """
        connection = open_connection(path)
        try:
            create_schema(connection, _SCHEMA)
            connection.execute(
                "INSERT OR IGNORE INTO head VALUES (1, ?, ?, ?, ?, ?, ?)",
                (head.origin, head.tree_size, head.root_hash, head.at_us, head.note, head.edge),
            )
        except apsw.Error as error:
            connection.close()
            raise JournalUnavailable(f"{path.name} cannot be made: {error}") from error
        return cls(connection)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """
        Open an existing journal.

        Raises:
            JournalUnavailable: There is none, or its format is not ours; nothing was written.
        """
        if not path.exists():
            raise JournalUnavailable(f"{path.name} does not exist")
        connection = open_connection(path, read_only=read_only)
        try:
            version = connection.execute("PRAGMA user_version").get
        except apsw.Error as error:
            connection.close()
            raise JournalUnavailable(f"{path.name} cannot be read: {error}") from error
        if version != SCHEMA_VERSION:
            connection.close()
            raise JournalUnavailable(f"{path.name} has format {version}, this program reads format {SCHEMA_VERSION}")
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading ----------------------------------------------------------------------------------------------------

    def head(self) -> Head:
        row = self._one("SELECT origin, tree_size, root, at_us, note, edge FROM head")
        if row is None:
            raise JournalUnavailable("journal.db has no head row")
        origin, size, root, at_us, note, edge = row
        return Head(origin=origin, tree_size=size, root_hash=root, at_us=at_us, note=note, edge=edge)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        """Rows `(index, stored text)` from `start` up to, not including, `stop`, in index order."""
        end = 2**62 if stop is None else stop
        yield from self._rows("SELECT idx, entry FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx", (start, end))

    def tile(self, level: int, n: int) -> bytes | None:
        """The 8,192 bytes of a full tile, or None where there is none."""
        row = self._one("SELECT hashes FROM tiles WHERE level = ? AND n = ?", (level, n))
        return None if row is None else bytes(row[0])

    def tiles(self) -> Iterator[tuple[int, int, bytes]]:
        yield from self._rows("SELECT level, n, hashes FROM tiles ORDER BY level, n")

    def last_kept_us(self) -> int:
        """When the newest of them was signed; 0 where there is none."""
        row = self._one("SELECT max(at_us) FROM checkpoints")
        return int(row[0] or 0) if row is not None else 0

    def positions(self) -> Mapping[str, Position]:
        return {
            row[0]: Position(
                segment=row[0],
                process=row[1],
                ordinal=row[2],
                offset=row[3],
                entries=row[4],
                last_seq=row[5],
                final=bool(row[6]),
            )
            for row in self._rows("SELECT segment, process, ordinal, offset, entries, last_seq, final FROM positions")
        }

    def open_calls(self, segment: str) -> list[tuple[str, int]]:
        """Intents of a segment that have no outcome yet: call id and time."""
        return list(self._rows("SELECT call_id, at_us FROM open_calls WHERE segment = ? ORDER BY at_us", (segment,)))

    def is_open(self, call_id: str) -> bool:
        """Whether there is an intent of this call that has no outcome yet."""
        return bool(list(self._rows("SELECT 1 FROM open_calls WHERE call_id = ?", (call_id,))))

    def rewritten(self, segment: str) -> frozenset[int]:
        """Sequence numbers of torn frames of a segment that were written again elsewhere."""
        return frozenset(row[0] for row in self._rows("SELECT seq FROM rewrites WHERE segment = ?", (segment,)))

    def _one(self, sql: str, values: tuple[int, ...] = ()) -> Any:
        rows = list(self._rows(sql, values))  # to the end: a statement left half way would hold its snapshot
        return rows[0] if rows else None

    def _rows(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
        try:
            yield from self._connection.execute(sql, values)
        except apsw.Error as error:
            raise JournalUnavailable(f"journal.db cannot be read: {error}") from error

    # Writing ----------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> None:
        """
        Append one batch, or nothing.

        Raises:
            FenceLost: Another sequencer committed first; nothing was written, read again from its state.
            JournalUnavailable: Nothing was written.
            CommitUnknown: COMMIT itself failed: all of it or none of it was written. Open the journal again.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise JournalUnavailable(f"journal.db cannot be written: {error}") from error
        try:
            self._check_fence(commit)
            self._write(commit)
        except BaseException as error:
            self._roll_back()
            if isinstance(error, apsw.Error):
                raise JournalUnavailable(f"journal.db cannot be written: {error}") from error
            raise
        # A crash before this line leaves nothing, after it everything: SQLite's WAL decides which.
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            self._roll_back()
            raise CommitUnknown(f"COMMIT failed: {error}") from error

    def _roll_back(self) -> None:
        with contextlib.suppress(apsw.Error):  # the file has the last word, and what failed before says more
            if self._connection.in_transaction:  # SQLite itself rolls back where the disk is full
                self._connection.execute("ROLLBACK")

    def _check_fence(self, commit: Commit) -> None:
        size = self._connection.execute("SELECT tree_size FROM head").get
        if size != commit.expected_size:
            raise FenceLost(f"the log has {size} entries, this batch was made for {commit.expected_size}")
        for before, after in commit.positions:
            row = self._connection.execute(
                "SELECT offset, last_seq, final FROM positions WHERE segment = ?", (after.segment,)
            ).fetchone()
            read = None if before is None else (before.offset, before.last_seq, int(before.final))
            if row != read:
                raise FenceLost(f"segment {after.segment} stands at {row}, this batch read it from {read}")

    def _write(self, commit: Commit) -> None:
        execute, many = self._connection.execute, self._connection.executemany
        many(
            "INSERT INTO entries (idx, entry) VALUES (?, ?)",
            enumerate(commit.entries, start=commit.expected_size),
        )
        many(
            "INSERT INTO tiles (level, n, hashes) VALUES (?, ?, ?)", [(t.level, t.index, t.data) for t in commit.tiles]
        )
        many(
            "INSERT INTO positions VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (segment) DO UPDATE SET"
            " offset = excluded.offset, entries = excluded.entries, last_seq = excluded.last_seq, final = excluded.final",
            [
                (p.segment, p.process, p.ordinal, p.offset, p.entries, p.last_seq, int(p.final))
                for _, p in commit.positions
            ],
        )
        many("INSERT OR REPLACE INTO open_calls VALUES (?, ?, ?)", commit.opened_calls)
        many("DELETE FROM open_calls WHERE call_id = ?", [(call,) for call in commit.closed_calls])
        many("INSERT OR IGNORE INTO rewrites VALUES (?, ?)", commit.rewrites)
        head = commit.head
        execute(
            "UPDATE head SET tree_size = ?, root = ?, at_us = ?, note = ?, edge = ? WHERE one = 1",
            (head.tree_size, head.root_hash, head.at_us, head.note, head.edge),
        )
        if commit.keep_checkpoint:
            execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (head.tree_size, head.at_us, head.note))
