"""
`openrouter-audit import`: the calls of an older log (C18).

Each row becomes one `call.imported`, marked as unproven. Its call id is made from the digest of the file and the number of
the row, so the same file gives the same ids; rows whose id or generation id the log already has are left out. The file is
only read, without a lock that its own program could notice, and not trusted: its table must be a real one, which a view
without end is not, no value of it may be large, and no more rows are read than a file of its size can hold.

The older log wrote a cost of 0 where it could not learn one. Zero is kept where it can be meant, for a model with the
suffix `:free` or a call without tokens; else the cost is null and the entry names `total_cost` among its anomalies.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import apsw
import msgspec
from cyclopts import Parameter

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.capture.attribution import MAX_WORD, reference_for
from openrouter_audit.capture.json_text import clean
from openrouter_audit.cli import EXIT_BAD_DATA, EXIT_UNAVAILABLE
from openrouter_audit.cli.common import HomeOption, flush, hint, progress
from openrouter_audit.core.entries import CallImported, Private
from openrouter_audit.errors import ConfigError
from openrouter_audit.reports.tables.sqlite import SqliteReports

COLUMNS = (
    "id",
    "timestamp",
    "generation_id",
    "model_requested",
    "model_used",
    "prompt_tokens",
    "completion_tokens",
    "total_cost",
    "latency_ms",
    "status",
    "user_id",
    "prompt_hash",
    "error_code",
)
_PIECE = 2_000
_MAX_REPORTED = 20
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MAX_VALUE_BYTES = 4 * 1024 * 1024
"""SQLite makes no larger value out of this file; an honest row has some hundred bytes."""
_LEAST_ROW_BYTES = 4
"""Of a file: what the smallest row and its pointer take at least."""
_MAX_STATED = 200
"""Characters of a complaint that quotes the file."""


class BadRow(ValueError):
    """A row cannot become an entry; nothing was written for it."""


class UnreadableFile(ValueError):
    """The file is no database, has no such table, or is damaged; rows read before the damage stand."""


def import_(
    *,
    from_skill: Annotated[Path, Parameter(name="--from-skill")],
    home: HomeOption = None,
) -> int:
    """
    Take in the table audit_log of a SQLite file, row by row. Running it twice adds nothing.

    Exits 65 if any row could not be taken in; the others are.

    Parameters
    ----------
    from_skill:
        The database file; it is only read.
    """
    if not from_skill.is_file():
        raise ConfigError(f"{from_skill} is no file")
    with from_skill.open("rb") as file:
        source = file_digest(file, "sha256").hexdigest()
    try:
        with open_table(from_skill) as table:
            return _import(table, source, home)
    except UnreadableFile as error:
        hint(f"{from_skill.name} is no such database, or damaged: {error}")
        return EXIT_BAD_DATA


def _import(table: Table, source: str, home: Path | None) -> int:
    added = there = bad = 0
    with AuditLog.open(home, enrich=False, telemetry=False) as audit, progress("importing", table.rows) as tell:
        for piece in pieces(table):
            if flush(audit, quiet=True):
                hint("another process has the log and does not take records in; run this again later")
                return EXIT_UNAVAILABLE
            known = _Known.of(audit, source, [row for row in piece if row is not None])
            for row in piece:
                try:
                    if row is None:
                        raise BadRow("holds text that is not UTF-8")
                    facts, private = imported_call(row, source=source)
                except BadRow as error:
                    bad += 1
                    if bad <= _MAX_REPORTED:
                        hint(f"row {'' if row is None else row['id']!r}: {error}"[:_MAX_STATED])
                    continue
                if known.has(facts):
                    there += 1
                else:
                    audit.write(facts, private)
                    added += 1
            tell(added + there + bad)
        flush(audit)
    if bad > _MAX_REPORTED:
        hint(f"{bad - _MAX_REPORTED} more rows are bad")
    print(f"imported {added}, already there {there}, bad {bad}")
    return EXIT_BAD_DATA if bad else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The table of an older log, open for reading."""

    connection: apsw.Connection
    rows: int
    most_rows: int
    """A file of this size cannot hold more; one that shows more was made to have no end."""


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """
    The table `audit_log` of a SQLite file.

    Raises:
        UnreadableFile: It is no database, or has no such table.
    """
    try:
        with closing(_open(path)) as connection:
            kind = connection.execute(
                "SELECT type FROM sqlite_schema WHERE name = 'audit_log' COLLATE NOCASE AND rootpage > 0"
            ).get
            if kind != "table":
                raise UnreadableFile("it has no table audit_log")
            most = path.stat().st_size // _LEAST_ROW_BYTES
            rows = connection.execute("SELECT count(*) FROM (SELECT 1 FROM audit_log LIMIT ?)", (most,)).get
            yield Table(connection=connection, rows=rows, most_rows=most)
    except (apsw.Error, UnicodeDecodeError) as error:
        raise UnreadableFile(str(error)[:_MAX_STATED]) from error


def _open(path: Path) -> apsw.Connection:
    address = f"file:{quote(str(path.absolute()))}"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(f"{address}?mode=ro", flags=flags)
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF").fetchall()
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        # On read-only media SQLite cannot make the files it shares with writers; there are no writers then.
        connection = apsw.Connection(f"{address}?immutable=1", flags=flags)
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF").fetchall()
    return connection


def pieces(table: Table) -> Iterator[list[dict[str, Any] | None]]:
    """
    The rows, some at a time; None stands for one with text that is not UTF-8.

    Raises:
        UnreadableFile: The file is damaged here.
    """
    try:
        rows = table.connection.execute(
            f"SELECT {', '.join(COLUMNS)} FROM audit_log ORDER BY id LIMIT ?",  # noqa: S608 - own names
            (table.most_rows,),
        )
        piece: list[dict[str, Any] | None] = []
        while True:
            try:
                row = next(rows, None)
            except UnicodeDecodeError:  # apsw goes on with the next one
                piece.append(None)
                continue
            if row is not None:
                piece.append(dict(zip(COLUMNS, row, strict=True)))
            if len(piece) >= _PIECE or (row is None and piece):
                yield piece
                piece = []
            if row is None:
                return
    except apsw.Error as error:
        raise UnreadableFile(str(error)[:_MAX_STATED]) from error


class _Known:
    """Which of some rows the log has already, and which this run has just added."""

    def __init__(self, call_ids: set[str], generations: set[str]) -> None:
        self._call_ids, self._generations = call_ids, generations

    @classmethod
    def of(cls, audit: AuditLog, source: str, rows: Sequence[dict[str, Any]]) -> _Known:
        calls = [call_id(source, row["id"]) for row in rows]
        generations = [row["generation_id"] for row in rows if isinstance(row["generation_id"], str)]
        with SqliteReports.open(audit.home.reports_path, read_only=True) as reports:
            return cls(set(reports.known_calls(calls)), set(reports.holders(generations)))

    def has(self, facts: CallImported) -> bool:
        """Whether it is there; what is asked for once is there from then on."""
        if facts.id in self._call_ids or facts.generation_id in self._generations:
            return True
        self._call_ids.add(facts.id)
        if facts.generation_id is not None:
            self._generations.add(facts.generation_id)
        return False


def call_id(source: str, row: int) -> str:
    """The call id of a row: the same for the same file and row, wherever it is imported."""
    return sha256(f"openrouter-audit/import/v1\n{source}\n{row}".encode()).hexdigest()[:32]


def imported_call(row: dict[str, Any], *, source: str) -> tuple[CallImported, Private]:
    """
    State what a row says.

    Args:
        row: The columns of `COLUMNS`.
        source: SHA-256 of the file in hex.

    Raises:
        BadRow: A value is missing or outside of the vocabulary of entries; it says which.
    """
    at_us = _microseconds(row["timestamp"])
    cost = _number_text(row["total_cost"], "total_cost")
    free = any(str(row[name] or "").endswith(":free") for name in ("model_requested", "model_used"))
    ambiguous = cost is not None and not float(cost) and not free and bool(row["prompt_tokens"])
    values = {
        "v": 1,
        "id": call_id(source, row["id"]),
        "at_us": at_us,
        "source": source,
        "row": row["id"],
        "status": row["status"],
        "generation_id": row["generation_id"],
        "model_requested": row["model_requested"],
        "model_used": row["model_used"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "total_cost": None if ambiguous else cost,
        "latency_ms": _number_text(row["latency_ms"], "latency_ms"),
        "error_code": row["error_code"],
        "prompt_hash": row["prompt_hash"],
        "anomalies": ("total_cost",) if ambiguous else (),
    }
    try:
        # The tag of the class is not asked for in a plain dict of its fields, only where one is told apart from others.
        facts = msgspec.convert(values | {"kind": "call.imported"}, type=CallImported)
    except msgspec.ValidationError as error:
        raise BadRow(str(error)) from error
    user = row["user_id"]
    if user is None:
        return facts, Private()
    if not isinstance(user, str):
        raise BadRow("user_id is no text")
    user = clean(user, MAX_WORD)
    return facts, Private(user=user, reference=reference_for(user, at_us))


def _microseconds(text: object) -> int:
    """ISO 8601, as Python writes it or as SQLite does; without a zone it is UTC, which is what the older log wrote."""
    try:
        moment = dt.datetime.fromisoformat(str(text))
        at = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
        at_us = (at - _EPOCH) // dt.timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise BadRow("timestamp is no time") from error
    if at_us < 0:
        raise BadRow("timestamp is before 1970")
    return at_us


def _number_text(value: object, name: str) -> str | None:
    """The shortest text that reads as the same number: the digits a float still has."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadRow(f"{name} is no amount")
    return repr(value)
