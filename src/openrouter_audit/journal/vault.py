"""
All that can be erased, in `vault.db`: who a reference is, and what each call carried that may not stand in the tree.

It is written *before* the entries that refer to it are committed (C9). A crash in between leaves rows nobody refers to,
which is harmless; the next drain of the same frames finds them and changes nothing. It is never on the proof path:
losing it loses names, not proof.

Rows are plain under 0600 until keys and erasure are built; the key columns are there so that this needs no rewriting.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self

import apsw
import msgspec

from openrouter_audit.core.entries import Content, Context
from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.sqlite import create_schema, open_connection

SCHEMA_VERSION = 3
_READABLE = (1, 2, 3)
"""Formats that a reader takes as they are: nobody may have written here since this program came."""
_CONTENTS = (
    "CREATE TABLE contents (call_id TEXT NOT NULL, part TEXT NOT NULL, mode TEXT NOT NULL, text BLOB NOT NULL,"
    " whole_bytes INTEGER NOT NULL, cut TEXT, wrapped_key BLOB, epoch INTEGER, PRIMARY KEY (call_id, part)) STRICT"
)
"""What people wrote, as far as it is kept: `part` is `request` or `answer`."""
_SCHEMA = (
    # A person in a month. `reference` is what entries carry; `wrapped_key` and `epoch` are for erasing.
    "CREATE TABLE subjects (reference TEXT PRIMARY KEY, user_id TEXT, month TEXT NOT NULL, wrapped_key BLOB,"
    " epoch INTEGER, UNIQUE (user_id, month)) STRICT, WITHOUT ROWID",
    # References that processes proposed (and log lines show) before they could know the one above.
    "CREATE TABLE aliases (alias TEXT PRIMARY KEY, reference TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE calls (call_id TEXT PRIMARY KEY, subject TEXT, commitment_key BLOB, tenant TEXT, session_id TEXT,"
    " purpose TEXT, tags TEXT, base_url TEXT, path TEXT, wrapped_key BLOB, epoch INTEGER, context TEXT)"
    " STRICT, WITHOUT ROWID",
    # Host and pid of a process, operator of an access: free text that other kinds of entries refer to by their id.
    "CREATE TABLE notes (id TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (id, name))"
    " STRICT, WITHOUT ROWID",
    _CONTENTS,
    "CREATE INDEX calls_subject ON calls (subject)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_UPGRADES = {
    1: ("ALTER TABLE calls ADD COLUMN context TEXT", "PRAGMA user_version = 2"),
    2: (_CONTENTS, "PRAGMA user_version = 3"),
}
"""From each format to the next. Tables are added, and columns that may be null at the end: no row is written anew."""
_REMEMBERED_SUBJECTS = 50_000
_QUERY_PIECE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateCall:
    """What the vault keeps of one call."""

    call_id: str
    subject: str | None = None
    commitment_key: bytes | None = field(default=None, repr=False)
    tenant: str | None = None
    session_id: str | None = None
    purpose: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    context: Context | None = None
    base_url: str | None = None
    path: str | None = None


class KeptContent(NamedTuple):
    """A body, as far as it is kept. Printing it shows nothing of it."""

    call_id: str
    part: Literal["request", "answer"]
    content: Content

    def __repr__(self) -> str:
        return f"KeptContent({self.call_id}, {self.part})"


def _upgrade(connection: apsw.Connection) -> None:
    """One transaction for all steps: a crash leaves the old format, and the next opening does it again."""
    if connection.execute("PRAGMA user_version").get not in _UPGRADES:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again: another process may have been first.
        while (steps := _UPGRADES.get(connection.execute("PRAGMA user_version").get)) is not None:
            for statement in steps:
                connection.execute(statement)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def month_of(at_us: int) -> str:
    """`2026-11`: the period of a subject reference, in UTC."""
    moment = dt.datetime.fromtimestamp(at_us / 1e6, dt.UTC)
    return f"{moment.year:04d}-{moment.month:02d}"


class Vault:
    """
    The erasable side of a home. One thread writes through an instance; readers open their own, read-only.

    `subject_for`, `put_calls`, `put_notes`, `commit` and `roll_back` belong to the sequencer: everything since the last
    commit becomes durable together, before the journal's transaction starts. They raise JournalUnavailable where the disk
    or the database refuses; then nothing since the last commit is kept.
    """

    def __init__(self, connection: apsw.Connection, *, version: int = SCHEMA_VERSION) -> None:
        self._connection = connection
        self._context = "context" if version > 1 else "NULL"
        self._has_contents = version > 2
        self._subjects: dict[tuple[str, str], str] = {}
        self._aliases: set[str] = set()

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """
        Open the vault, and make it where there is none. One of an older format is brought to this one, unless it is only read.

        Raises:
            JournalUnavailable: It cannot be opened; nothing was written.
        """
        connection = open_connection(path, read_only=read_only)
        try:
            if not read_only:
                create_schema(connection, _SCHEMA)
                _upgrade(connection)
            version = connection.execute("PRAGMA user_version").get
        except apsw.Error as error:
            connection.close()
            raise JournalUnavailable(f"{path.name} cannot be opened: {error}") from error
        if version not in (_READABLE if read_only else (SCHEMA_VERSION,)):
            connection.close()
            raise JournalUnavailable(f"{path.name} has format {version}, this program reads format {SCHEMA_VERSION}")
        return cls(connection, version=version)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
        except apsw.Error as error:
            self.roll_back()
            raise JournalUnavailable(f"vault.db cannot be written: {error}") from error

    def commit(self) -> None:
        with self._writing() as connection:
            connection.execute("COMMIT")

    def roll_back(self) -> None:
        self._subjects.clear()
        self._aliases.clear()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise JournalUnavailable(f"vault.db cannot be rolled back: {error}") from error

    def subject_for(self, user: str, *, at_us: int, proposed: str | None) -> str:
        """The reference of this person in the month of `at_us`: the one on record, else `proposed`, else a new one."""
        month = month_of(at_us)
        known = self._subjects.get((user, month))
        if known is None:
            with self._writing() as connection:
                known = connection.execute(
                    "SELECT reference FROM subjects WHERE user_id = ? AND month = ?", (user, month)
                ).get
                if known is None:
                    known = proposed if proposed and not self._is_taken(proposed) else os.urandom(16).hex()
                    connection.execute(
                        "INSERT INTO subjects (reference, user_id, month) VALUES (?, ?, ?)", (known, user, month)
                    )
            if len(self._subjects) >= _REMEMBERED_SUBJECTS:
                self._subjects.clear()
                self._aliases.clear()
            self._subjects[user, month] = known
        if proposed not in {None, known} and proposed not in self._aliases:
            with self._writing() as connection:
                if not self._is_taken(str(proposed)):  # else it means another person, and goes on meaning that one
                    connection.execute("INSERT OR IGNORE INTO aliases VALUES (?, ?)", (proposed, known))
            self._aliases.add(str(proposed))
        return str(known)

    def _is_taken(self, reference: str) -> bool:
        """Whether it already is somebody else's: a process that proposes it again does not get it."""
        return self._connection.execute("SELECT 1 FROM subjects WHERE reference = ?", (reference,)).get is not None

    def put_calls(self, calls: Iterable[PrivateCall]) -> None:
        """Keep what the calls carried; a call that is already there stays as it is."""
        rows = [
            (
                call.call_id,
                call.subject,
                call.commitment_key,
                call.tenant,
                call.session_id,
                call.purpose,
                msgspec.json.encode(call.tags, order="sorted").decode() if call.tags else None,
                call.base_url,
                call.path,
                None if call.context is None else msgspec.json.encode(call.context).decode(),
            )
            for call in calls
        ]
        with self._writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO calls (call_id, subject, commitment_key, tenant, session_id, purpose, tags,"
                " base_url, path, context) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def put_contents(self, contents: Iterable[KeptContent]) -> None:
        """Keep bodies; what is already there stays as it is."""
        rows = [(call, part, kept.mode, kept.text, kept.whole_bytes, kept.cut) for call, part, kept in contents]
        if rows:
            with self._writing() as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO contents (call_id, part, mode, text, whole_bytes, cut) VALUES (?, ?, ?, ?, ?, ?)",
                    rows,
                )

    def put_notes(self, notes: Iterable[tuple[str, str, str]]) -> None:
        """Keep free text that an entry refers to by `id`: rows of id, name, value."""
        with self._writing() as connection:
            connection.executemany("INSERT OR IGNORE INTO notes VALUES (?, ?, ?)", notes)

    # Reading ----------------------------------------------------------------------------------------------------

    def calls(self, call_ids: Sequence[str]) -> dict[str, PrivateCall]:
        """What is kept of these calls, by call id; calls that are not there are left out."""
        found = {}
        for start in range(0, len(call_ids), _QUERY_PIECE):
            piece = call_ids[start : start + _QUERY_PIECE]
            rows = self._connection.execute(
                "SELECT call_id, subject, commitment_key, tenant, session_id, purpose, tags, base_url, path,"  # noqa: S608 - a column's name and question marks are inserted
                f" {self._context} FROM calls WHERE call_id IN ({','.join('?' * len(piece))})",
                piece,
            )
            for call_id, subject, key, tenant, session, purpose, tags, base_url, path, context in rows:
                found[call_id] = PrivateCall(
                    call_id=call_id,
                    subject=subject,
                    commitment_key=key,
                    tenant=tenant,
                    session_id=session,
                    purpose=purpose,
                    tags=msgspec.json.decode(tags, type=dict[str, str]) if tags else {},
                    context=msgspec.json.decode(context, type=Context) if context else None,
                    base_url=base_url,
                    path=path,
                )
        return found

    def contents(self, call_id: str) -> dict[str, Content]:
        """What is kept of a call's bodies, by part."""
        if not self._has_contents:
            return {}
        rows = self._connection.execute(
            "SELECT part, mode, text, whole_bytes, cut FROM contents WHERE call_id = ? ORDER BY part DESC", (call_id,)
        )
        return {
            part: Content(mode=mode, text=text, whole_bytes=whole_bytes, cut=cut)
            for part, mode, text, whole_bytes, cut in rows
        }

    def users(self, references: Sequence[str]) -> dict[str, str]:
        """User ids of subject references (aliases too); erased and unknown ones are left out."""
        found = {}
        for start in range(0, len(references), _QUERY_PIECE):
            piece = references[start : start + _QUERY_PIECE]
            marks = ",".join("?" * len(piece))
            for reference, user in self._connection.execute(
                f"SELECT reference, user_id FROM subjects WHERE reference IN ({marks}) AND user_id IS NOT NULL"  # noqa: S608
                " UNION ALL SELECT a.alias, s.user_id FROM aliases a JOIN subjects s USING (reference)"
                f" WHERE a.alias IN ({marks}) AND s.user_id IS NOT NULL",
                (*piece, *piece),
            ):
                found[reference] = user
        return found

    def references(self, user: str) -> list[str]:
        """All subject references of a person, one for each month they were seen in."""
        return [row[0] for row in self._connection.execute("SELECT reference FROM subjects WHERE user_id = ?", (user,))]

    def notes(self, note_id: str) -> dict[str, str]:
        return dict(self._connection.execute("SELECT name, value FROM notes WHERE id = ?", (note_id,)))
