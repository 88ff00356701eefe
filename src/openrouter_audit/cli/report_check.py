"""
Whether `reports.db` says what the entries say.

The file is disposable and proves nothing, but people read it, so an edited figure in it must not pass. The entries are
projected once more into a temporary file, up to where the reports have come, and the two are laid beside each other: the
statements that made tables and views, and every row. Rows are found by the call they are about.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Self

import apsw

from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.former import FormerLogs, SnapshotHistory
from openrouter_audit.journal.sqlite import open_connection
from openrouter_audit.reports.projector import Projector
from openrouter_audit.reports.rows import COLUMNS
from openrouter_audit.reports.tables.sqlite import FORMAT, SqliteReports
from openrouter_audit.verification.findings import Finding, finding

_ROWS: Final = f"SELECT {', '.join(COLUMNS)} FROM calls ORDER BY call_id"  # noqa: S608 - our own column names
_ASKED: Final = "SELECT id, outcome_index, call_id FROM tool_calls ORDER BY id, outcome_index"
_LONGEST_VALUE: Final = 64


class ShownReports:
    """One state of a `reports.db`, read-only. One thread uses an instance."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """
        Hold on to the present state of the file; None where there is none, or one that will be made anew anyway.

        Open it before the journal: then the journal's state is not behind it.
        """
        if not path.exists():
            return None
        try:
            connection = open_connection(path, read_only=True)
            connection.execute("BEGIN")
            if connection.execute("PRAGMA user_version").get == FORMAT:
                return cls(connection)
            connection.close()
        except (apsw.Error, JournalUnavailable):
            pass
        return None

    def close(self) -> None:
        self._connection.close()

    def next_index(self, origin: str) -> int | None:
        """Entries before this one are in the rows; None where the rows are of another log."""
        row = self._connection.execute("SELECT origin, next_index FROM progress").fetchone()
        return None if row is None or row[0] not in {origin, ""} else int(row[1])

    @property
    def _has_begun(self) -> bool:
        """Whether any entry was taken in: at 0 may stand a file that has seen none, or all of the former logs."""
        return bool(self._connection.execute("SELECT length(last_entry) FROM progress").get)

    def compare(self, evidence: JournalEvidence, *, tree_size: int, former: FormerLogs) -> Iterator[Finding]:
        """
        Name every call whose row is not what its entries, and those of the former logs, lead to.

        Raises:
            JournalUnavailable: The journal or the temporary file cannot be used.
        """
        try:
            yield from self._compare(evidence, tree_size, former)
        except apsw.Error as error:
            raise JournalUnavailable(f"reports.db cannot be read: {error}") from error

    def _compare(self, evidence: JournalEvidence, tree_size: int, former: FormerLogs) -> Iterator[Finding]:
        until = self.next_index(evidence.head().origin)
        if until is None or until > tree_size:
            yield finding("report_mismatch", f"reports.db is not of this log, or of a longer one ({until} entries)")
            return
        with tempfile.TemporaryDirectory(prefix="openrouter-audit-") as folder:
            path = Path(folder) / "reports.db"
            with SqliteReports.open(path) as store:
                if self._has_begun:
                    history = SnapshotHistory(evidence, former)
                    Projector(history, store, first_index=former.first_index).project(until)
            truth = open_connection(path, read_only=True)
            try:
                same_tables = _statements(truth) == _statements(self._connection)
                if not same_tables:
                    yield finding("report_mismatch", "tables or views of reports.db are not those that were made")
                yield from _differences(truth.execute(_ROWS), self._connection.execute(_ROWS))
                asked = zip_longest(truth.execute(_ASKED), self._connection.execute(_ASKED)) if same_tables else ()
                if any(should_be != is_ for should_be, is_ in asked):
                    yield finding("report_mismatch", "table tool_calls of reports.db says what no answer asked for")
            finally:
                truth.close()


def _statements(connection: apsw.Connection) -> set[tuple[Any, ...]]:
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


def _differences(truth: Iterator[tuple[Any, ...]], shown: Iterator[tuple[Any, ...]]) -> Iterator[Finding]:
    """Two tables in the order of their call ids, laid beside each other."""
    true_row, shown_row = next(truth, None), next(shown, None)
    while true_row is not None or shown_row is not None:
        if shown_row is None or (true_row is not None and true_row[0] < shown_row[0]):
            assert true_row is not None  # noqa: S101 - for mypy; one of the two is there
            yield finding("report_mismatch", f"call {true_row[0]} has no row", index=_index(true_row))
            true_row = next(truth, None)
        elif true_row is None or shown_row[0] < true_row[0]:
            yield finding("report_mismatch", f"the row of call {_text(shown_row[0])} has no entries")
            shown_row = next(shown, None)
        else:
            for name, is_, should_be in zip(COLUMNS, shown_row, true_row, strict=True):
                if is_ != should_be:
                    yield finding(
                        "report_mismatch",
                        f"call {true_row[0]}: {name} is {_text(is_)}, the entries say {_text(should_be)}",
                        index=_index(true_row),
                    )
            true_row, shown_row = next(truth, None), next(shown, None)


def _index(row: tuple[Any, ...]) -> int | None:
    values = dict(zip(COLUMNS, row, strict=True))
    for name in ("outcome_index", "intent_index", "cost_index"):
        if values[name] is not None:
            return int(values[name])
    return None


def _text(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
