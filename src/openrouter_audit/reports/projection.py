"""The projector with its two databases: the follower that a recording process runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.reports.projector import Projector
from openrouter_audit.reports.tables.sqlite import SqliteReports


@dataclass(slots=True)
class Projection:
    """Follows `journal.db`, which it only reads, into `reports.db`. One thread at a time."""

    _journal: SqliteJournal
    _reports: SqliteReports
    _projector: Projector

    @classmethod
    def open(cls, journal: Path, reports: Path) -> Self:
        """
        Open both; `reports` is made where it is missing.

        Raises:
            JournalUnavailable: One of them cannot be used; nothing was written.
        """
        source = SqliteJournal.open(journal, read_only=True)
        try:
            store = SqliteReports.open(reports)
        except BaseException:
            source.close()
            raise
        return cls(source, store, Projector(source, store))

    def follow(self) -> int:
        """Take in what was committed since the last time, and return the tree size the reports stand at."""
        return self._projector.project()

    def close(self) -> None:
        self._journal.close()
        self._reports.close()
