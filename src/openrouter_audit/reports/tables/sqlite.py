"""
`reports.db`: the table `calls`, one row per call, and the view `audit_log` with the columns of older logs.

The file is disposable: it holds nothing that the journal does not, and no user id. It may be opened by any SQLite of
another process; money is decimal text there, so sums belong into exact arithmetic. Only the view casts money to REAL,
for queries that call `SUM()` on it.

WAL with `synchronous=NORMAL`: after a power cut some of the last batches are missing, cursor and rows together, and the
projector writes them again. Rows are numbered in the order in which the log first spoke of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import apsw

from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.sqlite import open_connection
from openrouter_audit.reports.projector import AskedTool, Cursor, KnownCall
from openrouter_audit.reports.rows import COLUMNS, INTEGER_COLUMNS

FORMAT = 2
"""`user_version` of the file. Raise it whenever a row would be built differently: every home then projects anew."""

_TABLE = ", ".join(
    f"{name} {'INTEGER' if name in INTEGER_COLUMNS else 'TEXT'}{' NOT NULL UNIQUE' if name == 'call_id' else ''}"
    for name in COLUMNS
)
_SCHEMA = (
    f"CREATE TABLE calls ({_TABLE}) STRICT",
    "CREATE INDEX calls_generation ON calls (generation_id) WHERE generation_id IS NOT NULL",
    "CREATE INDEX calls_timestamp ON calls (timestamp)",
    "CREATE INDEX calls_waiting ON calls (cost_state) WHERE cost_state IN ('provisional', 'unresolved')",
    # For queries written for older logs: their time has a space and no zone, their money is a float.
    "CREATE VIEW audit_log AS SELECT rowid AS id,"
    " substr(timestamp, 1, 10) || ' ' || substr(timestamp, 12, 15) AS timestamp, generation_id, model_requested,"
    " model_used, prompt_tokens, completion_tokens, CAST(total_cost AS REAL) AS total_cost,"
    " CAST(latency_ms AS REAL) AS latency_ms, status, subject_ref AS user_id, prompt_hash, error_code"
    " FROM calls WHERE status <> 'open'",
    # Which answers asked for which tools: so that a request with the results finds the call they belong to.
    "CREATE TABLE tool_calls (id TEXT NOT NULL, outcome_index INTEGER NOT NULL, call_id TEXT NOT NULL,"
    " PRIMARY KEY (id, outcome_index)) STRICT, WITHOUT ROWID",
    "CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL,"
    " next_index INTEGER NOT NULL, last_entry BLOB NOT NULL) STRICT",
    "INSERT INTO progress VALUES (1, '', 0, x'')",
    f"PRAGMA user_version = {FORMAT}",
)
_PUT = (
    f"INSERT INTO calls ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - own names only
    f" ON CONFLICT (call_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[1:])}"
)
_ALL = ", ".join(COLUMNS)
_UNSETTLED = (
    "cost_state IN ('provisional', 'unresolved') AND status <> 'open' AND generation_id IS NOT NULL"
    " AND duplicate_of IS NULL AND intent_index IS NOT NULL"
)
_QUERY_PIECE = 500
_PAGE_ROWS = 1_000
_CACHE_KIB = 16 * 1024
"""Call ids are random, so inserts touch the whole index; the default of 2 MB rereads it from the system at every turn."""


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


class SqliteReports:
    """
    The rows of one home. One thread uses an instance; readers open their own with `read_only=True`.

    Readers that go over many rows do so a page at a time, so that no reading transaction holds up the file for long.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """
        Open the file; for writing, make it where there is none and replace it where it is no such file.

        Raises:
            JournalUnavailable: It cannot be opened; read-only, also where it is missing or of another format.
        """
        if read_only:
            if not path.exists():
                raise JournalUnavailable(f"{path.name} does not exist")
            reports = cls(open_connection(path, read_only=True))
            reports._check_format(path.name)
            return reports
        try:
            return cls._open_for_writing(path)
        except (apsw.NotADBError, apsw.CorruptError):
            # Not a database, or a broken one. Nothing in it is worth keeping.
            try:
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)
            except OSError as error:
                raise JournalUnavailable(f"{path.name} cannot be replaced: {error.strerror}") from error
        except apsw.Error as error:
            raise JournalUnavailable(f"{path.name} cannot be opened: {error}") from error
        try:
            return cls._open_for_writing(path)
        except apsw.Error as error:
            raise JournalUnavailable(f"{path.name} cannot be made: {error}") from error

    @classmethod
    def _open_for_writing(cls, path: Path) -> Self:
        try:
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = open_connection(path)
        except OSError as error:
            raise JournalUnavailable(f"{path.name} cannot be made: {error.strerror}") from error
        except JournalUnavailable as error:
            if isinstance(error.__cause__, (apsw.NotADBError, apsw.CorruptError)):
                raise error.__cause__ from error
            raise
        try:
            connection.execute("PRAGMA synchronous = NORMAL").fetchall()
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
            reports = cls(connection)
            if connection.execute("PRAGMA user_version").get != FORMAT:
                reports._make_anew()
        except BaseException:
            connection.close()
            raise
        return reports

    def _check_format(self, name: str) -> None:
        try:
            version = self._connection.execute("PRAGMA user_version").get
        except apsw.Error as error:
            self.close()
            raise JournalUnavailable(f"{name} cannot be read: {error}") from error
        if version != FORMAT:
            self.close()
            raise JournalUnavailable(f"{name} has format {version}, this program reads format {FORMAT}")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing, for the projector ---------------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        try:
            row = self._connection.execute("SELECT origin, next_index, last_entry FROM progress").fetchone()
        except apsw.Error as error:
            raise JournalUnavailable(f"reports.db cannot be read: {error}") from error
        origin, next_index, last_entry = row or ("", 0, b"")
        return Cursor(origin=origin, next_index=next_index, last_entry=last_entry)

    def known_calls(self, call_ids: Sequence[str]) -> Mapping[str, KnownCall]:
        found = {}
        for row in self._in_pieces(
            "SELECT call_id, intent_index, outcome_index, cost_index, duplicate_of FROM calls WHERE call_id IN",
            call_ids,
        ):
            found[row[0]] = KnownCall(intent_index=row[1], outcome_index=row[2], cost_index=row[3], duplicate_of=row[4])
        return found

    def holders(self, generation_ids: Sequence[str]) -> Mapping[str, str]:
        return dict(
            self._in_pieces(
                "SELECT generation_id, call_id FROM calls WHERE duplicate_of IS NULL AND outcome_index IS NOT NULL"
                " AND generation_id IN",
                generation_ids,
            )
        )

    def _in_pieces(self, select: str, values: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        try:
            for start in range(0, len(values), _QUERY_PIECE):
                piece = values[start : start + _QUERY_PIECE]
                yield from self._connection.execute(f"{select} ({_marks(piece)})", piece)
        except apsw.Error as error:
            raise JournalUnavailable(f"reports.db cannot be read: {error}") from error

    def advance(
        self, rows: Iterable[Sequence[Any]], asked: Iterable[AskedTool] = (), *, expected: Cursor, cursor: Cursor
    ) -> bool:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if self.cursor() != expected:
                    connection.execute("ROLLBACK")
                    return False
                connection.executemany(_PUT, rows)
                connection.executemany(
                    "INSERT OR REPLACE INTO tool_calls (id, call_id, outcome_index) VALUES (?, ?, ?)", asked
                )
                connection.execute(
                    "UPDATE progress SET origin = ?, next_index = ?, last_entry = ? WHERE one = 1",
                    (cursor.origin, cursor.next_index, cursor.last_entry),
                )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except apsw.Error as error:
            raise JournalUnavailable(f"reports.db cannot be written: {error}") from error
        return True

    def start_over(self) -> None:
        try:
            self._make_anew()
        except apsw.Error as error:
            raise JournalUnavailable(f"reports.db cannot be written: {error}") from error

    def _make_anew(self) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for kind, name in list(
                connection.execute(
                    "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
                )
            ):
                quoted = name.replace('"', '""')
                connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    # Reading ----------------------------------------------------------------------------------------------------

    def figures(
        self, columns: Sequence[str], *, since: str | None, until: str | None, model: str | None
    ) -> Iterator[tuple[Any, ...]]:
        """
        Some columns of every ended call, for a report.

        Args:
            columns: Names out of `COLUMNS`.
            since: First timestamp, as the column has it; None for no bound.
            until: First timestamp that no longer belongs.
            model: Only calls that asked for this model or were served by it.
        """
        where, values = _bounds(since, until)
        if model is not None:
            where += " AND (model_used = ? OR model_requested = ?)"
            values += [model, model]
        yield from self._connection.execute(
            f"SELECT {_named(columns)} FROM calls WHERE status <> 'open'{where}",  # noqa: S608 - checked names
            values,
        )

    def rows(self, *, since: str | None = None, until: str | None = None) -> Iterator[dict[str, Any]]:
        """All calls that started in the period, open ones too, in the order in which the log first spoke of them."""
        where, values = _bounds(since, until)
        last = 0
        while True:
            page = list(
                self._connection.execute(
                    f"SELECT rowid, {_ALL} FROM calls NOT INDEXED WHERE rowid > ?{where} ORDER BY rowid LIMIT ?",  # noqa: S608
                    (last, *values, _PAGE_ROWS),
                )
            )
            for row in page:
                yield dict(zip(COLUMNS, row[1:], strict=True))
            if len(page) < _PAGE_ROWS:
                return
            last = page[-1][0]

    def count(
        self, *, since: str | None = None, until: str | None = None, where: Mapping[str, str] | None = None
    ) -> int:
        """How many calls started in the period, with these values in these columns."""
        bounds, values = _bounds(since, until)
        for name, value in (where or {}).items():
            bounds += f" AND {_named([name])} = ?"
            values.append(value)
        number: int = self._connection.execute(f"SELECT count(*) FROM calls WHERE 1{bounds}", values).get  # noqa: S608
        return number

    def last_rows(self, number: int) -> list[dict[str, Any]]:
        """The newest calls, the oldest of them first."""
        rows = list(
            self._connection.execute(f"SELECT {_ALL} FROM calls ORDER BY rowid DESC LIMIT ?", (max(number, 0),))  # noqa: S608
        )
        return [dict(zip(COLUMNS, row, strict=True)) for row in reversed(rows)]

    def rows_of(self, call_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of these calls, in the order in which the log first spoke of them."""
        found = sorted(self._in_pieces(f"SELECT rowid, {_ALL} FROM calls WHERE call_id IN", call_ids))  # noqa: S608
        return [dict(zip(COLUMNS, row[1:], strict=True)) for row in found]

    def find(self, name: str, *, limit: int = 3) -> list[dict[str, Any]]:
        """The calls meant by a call id, the beginning of one, or a generation id; at most `limit`."""
        if not name:
            return []
        rows = self._connection.execute(
            f"SELECT {_ALL} FROM calls WHERE (call_id >= ? AND call_id < ?) OR generation_id = ?"  # noqa: S608
            " ORDER BY duplicate_of IS NOT NULL, rowid LIMIT ?",
            (name, f"{name}g", name, limit),
        )
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def askers(self, tool_call_ids: Sequence[str], *, before: int, key_hash: str | None) -> dict[str, str]:
        """
        By id of a tool call, the call whose answer asked for it: of several the last one before an entry.

        Some providers give ids that are unique in one conversation only; a call with the same key goes before others.

        Args:
            before: Index of the entry that brings the results.
        """
        found = {}
        for name in tool_call_ids:
            row = self._connection.execute(
                "SELECT t.call_id FROM tool_calls t JOIN calls c USING (call_id) WHERE t.id = ? AND t.outcome_index < ?"
                " ORDER BY c.key_hash IS ? DESC, t.outcome_index DESC LIMIT 1",
                (name, before, key_hash),
            ).fetchone()
            if row is not None:
                found[name] = row[0]
        return found

    def unsettled(self) -> Iterator[dict[str, Any]]:
        """Recorded calls with a generation whose bill is not known: unpriced ones first, then by age."""
        for row in list(
            self._connection.execute(
                f"SELECT {_ALL} FROM calls WHERE {_UNSETTLED} ORDER BY total_cost IS NOT NULL, rowid"  # noqa: S608
            )
        ):
            yield dict(zip(COLUMNS, row, strict=True))

    def count_unsettled(self) -> tuple[int, int]:
        """How many calls `unsettled` gives, and how many of them have no price at all."""
        row = self._connection.execute(
            f"SELECT count(*), count(*) - count(total_cost) FROM calls WHERE {_UNSETTLED}"  # noqa: S608
        ).fetchone()
        return row or (0, 0)

    def data_version(self) -> int:
        """Changes whenever another connection has committed."""
        version: int = self._connection.execute("PRAGMA data_version").get
        return version


def _named(columns: Sequence[str]) -> str:
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise ValueError(f"no such columns: {', '.join(sorted(unknown))}")
    return ", ".join(columns)


def _bounds(since: str | None, until: str | None) -> tuple[str, list[str]]:
    clauses, values = "", []
    if since is not None:
        clauses, values = " AND timestamp >= ?", [since]
    if until is not None:
        clauses += " AND timestamp < ?"
        values.append(until)
    return clauses, values
