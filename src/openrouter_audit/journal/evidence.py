"""
A journal as a verifier or a publisher is shown it: one state, read-only, as bytes.

The file is opened for reading alone. All rows come out of one read transaction, so a sequencer may commit meanwhile and
the answer is still about one state. Where the folder cannot be written (a copy on a read-only medium) SQLite cannot make
the files it coordinates readers with; then the database is opened as immutable, which is right because nobody can write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import apsw

from openrouter_audit.core.entries import MAX_ENTRY_BYTES
from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.sqlite import _SCHEMA, SCHEMA_VERSION, Head, Position
from openrouter_audit.verification.source import ShownHead

_TABLES: Final = tuple(statement for statement in _SCHEMA if statement.startswith("CREATE TABLE"))
"""Held against the file's own: in a table of another making a number may be anything, and a view may have no end."""
_BATCH_ROWS: Final = 1024
_BATCH: Final = (
    f"SELECT idx, substr(CAST(entry AS BLOB), 1, {MAX_ENTRY_BYTES + 1}) FROM entries"  # noqa: S608 - a number
    " WHERE idx >= ? ORDER BY idx LIMIT ?"
)
"""Cut where no entry of ours can be the same any more: a batch of what somebody else put there has its bounds, too."""
_text_of = itemgetter(1)
_FIRST_INDEX: Final = -(2**63)
"""SQLite's smallest row number: a row below 0 is one that somebody added."""
_MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
"""SQLite makes no larger value out of this file: what it holds need not be what we wrote."""
_BUSY_MS: Final = 10_000
_CACHE_KIB: Final = 8 * 1024


class JournalEvidence:
    """
    One state of a `journal.db`. Implements `verification.source.LogSource`; one thread uses an instance.

    Every method raises JournalUnavailable where the file cannot be read.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """
        Open a journal and hold on to its present state until `close`.

        Raises:
            JournalUnavailable: There is none, it cannot be read, or its format is not ours.
        """
        if not path.exists():
            raise JournalUnavailable(f"{path.name} does not exist")
        with _reading(path.name):
            connection = _open_snapshot(path)
            version = connection.execute("PRAGMA user_version").get
            tables = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'")}
        missing = [statement.split()[2] for statement in _TABLES if statement not in tables]
        if version == SCHEMA_VERSION and not missing:
            return cls(connection)
        connection.close()
        if missing and version == SCHEMA_VERSION:
            raise JournalUnavailable(f"{path.name}: {', '.join(missing)} is not a table of this program's making")
        raise JournalUnavailable(f"{path.name} has format {version}, this program reads format {SCHEMA_VERSION}")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For a verifier ---------------------------------------------------------------------------------------------

    def head(self) -> ShownHead:
        with _reading():
            row = self._connection.execute(
                "SELECT origin, tree_size, root, at_us, CAST(note AS BLOB), CAST(edge AS BLOB) FROM head"
            ).get
        if row is None:
            raise JournalUnavailable("journal.db has no head row")
        if [*map(type, row)] != [str, int, bytes, int, bytes, bytes]:  # a damaged file keeps to no type
            raise JournalUnavailable("the head row of journal.db is damaged")
        origin, size, root, at_us, note, edge = row
        return ShownHead(origin=origin, tree_size=size, root_hash=root, at_us=at_us, note=note, edge=edge)

    def batches(self, start: int | None = None) -> Iterator[list[tuple[int, bytes]]]:
        next_index = _FIRST_INDEX if start is None else start
        while True:
            with _reading():
                rows: list[Any] = self._connection.execute(_BATCH, (next_index, _BATCH_ROWS)).fetchall()
            if None in map(_text_of, rows):  # SQLite itself takes NOT NULL for granted
                rows = [(index, text or b"") for index, text in rows]
            if rows:
                yield rows
            if len(rows) < _BATCH_ROWS:
                return
            next_index = rows[-1][0] + 1

    def tile(self, level: int, n: int) -> bytes | None:
        with _reading():
            tile: bytes | None = self._connection.execute(
                "SELECT CAST(hashes AS BLOB) FROM tiles WHERE level = ? AND n = ?", (level, n)
            ).get
        return tile

    def tile_names(self) -> Iterator[tuple[int, int]]:
        for level, n in self._rows("SELECT level, n FROM tiles ORDER BY level, n"):
            _check_types((level, n), (int, int), "tiles")
            yield level, n

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        for size, note in self._rows("SELECT tree_size, CAST(note AS BLOB) FROM checkpoints ORDER BY tree_size"):
            _check_types((size, note), (int, bytes), "checkpoints")
            yield size, note

    def positions(self) -> Mapping[str, Position]:
        found = {}
        for row in self._rows("SELECT segment, process, ordinal, offset, entries, last_seq, final FROM positions"):
            _check_types(row, (str, str, int, int, int, int, int), "positions")
            segment, process, ordinal, offset, entries, last_seq, final = row
            found[segment] = Position(
                segment=segment,
                process=process,
                ordinal=ordinal,
                offset=offset,
                entries=entries,
                last_seq=last_seq,
                final=bool(final),
            )
        return found

    def open_calls(self) -> Mapping[str, str]:
        found = {}
        for row in self._rows("SELECT call_id, segment FROM open_calls"):
            _check_types(row, (str, str), "open_calls")
            found[row[0]] = row[1]
        return found

    # For a projector --------------------------------------------------------------------------------------------

    def texts(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Index and stored bytes from `start` up to, not including, `stop`."""
        yield from self._rows(
            "SELECT idx, CAST(entry AS BLOB) FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx", (start, stop)
        )

    def count_entries(self) -> int:
        """How many entries there are in one piece from the first on, where none was taken out."""
        with _reading():
            last: int | None = self._connection.execute("SELECT max(idx) FROM entries").get
        return 0 if last is None else last + 1

    def find_fault(self) -> str | None:
        """What SQLite finds wrong with the file, None where nothing is; reads all of it."""
        try:
            said: str = self._connection.execute("PRAGMA integrity_check(1)").get
        except apsw.Error as error:
            return str(error)
        return None if said == "ok" else said.splitlines()[-1]

    def rewrites(self) -> Iterator[tuple[str, int]]:
        """Numbers that are no loss where they are missing: segment, sequence number."""
        yield from self._rows("SELECT segment, seq FROM rewrites")

    def as_journal(self) -> SnapshotReader:
        """The same state, read as a follower reads a journal."""
        return SnapshotReader(self)

    def _rows(self, sql: str, values: tuple[int, ...] = ()) -> Iterator[Any]:
        with _reading():
            yield from self._connection.execute(sql, values)


class SnapshotReader:
    """Head and texts of one state, for followers that are run over it."""

    def __init__(self, evidence: JournalEvidence) -> None:
        self._evidence = evidence

    def head(self) -> Head:
        shown = self._evidence.head()
        return Head(
            origin=shown.origin,
            tree_size=shown.tree_size,
            root_hash=shown.root_hash,
            at_us=shown.at_us,
            note=shown.note.decode("utf-8", "replace"),
            edge=shown.edge,
        )

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        for index, text in self._evidence.texts(start, 2**62 if stop is None else stop):
            yield index, text.decode("utf-8", "replace")


def _check_types(row: tuple[Any, ...], types: tuple[type, ...], table: str) -> None:
    """Columns of STRICT tables have their types when they are written; a damaged file may hold anything."""
    if tuple(map(type, row)) != types:
        raise JournalUnavailable(f"a row of {table} in journal.db is damaged")


@contextmanager
def _reading(name: str = "journal.db") -> Iterator[None]:
    try:
        yield
    except (apsw.Error, UnicodeDecodeError) as error:
        raise JournalUnavailable(f"{name} cannot be read: {error}") from error


def _open_snapshot(path: Path) -> apsw.Connection:
    try:
        return _begin(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY))
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            raise  # what stands in it would be overlooked
        uri = f"file:{quote(str(path))}?immutable=1"
        return _begin(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI))


def _begin(connection: apsw.Connection) -> apsw.Connection:
    try:
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # takes the snapshot
    except BaseException:
        connection.close()
        raise
    return connection
