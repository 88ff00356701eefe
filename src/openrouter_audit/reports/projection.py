"""The projector with its two databases: the follower that a recording process runs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.former import WholeHistory
from openrouter_audit.reports.projector import Projector
from openrouter_audit.reports.tables.sqlite import SqliteReports


class Projection:
    """
    Follows `journal.db`, which it only reads, and the logs before it into `reports.db`. One thread at a time.

    A recovery may put a successor in the journal's place while a program runs; then that one is followed.
    """

    def __init__(self, path: Path, reports: SqliteReports) -> None:
        """Use `open`."""
        self._path = path
        self._reports = reports
        self._file = _identity(path)  # before it is opened: at worst a successor is opened twice
        self._history = WholeHistory.open(path)
        self._projector = Projector(self._history, reports, first_index=self._history.first_index)

    @classmethod
    def open(cls, journal: Path, reports: Path) -> Self:
        """
        Open both; `reports` is made where it is missing.

        Raises:
            JournalUnavailable: One of them cannot be used; nothing was written.
        """
        _identity(journal)  # no reports are made of no journal
        store = SqliteReports.open(reports)
        try:
            return cls(journal, store)
        except BaseException:
            store.close()
            raise

    def follow(self) -> int:
        """Take in what was committed since the last time, and return the tree size the reports stand at."""
        file = _identity(self._path)
        if file != self._file:
            history = WholeHistory.open(self._path)
            self._history.close()
            self._history, self._file = history, file
            self._projector = Projector(history, self._reports, first_index=history.first_index)
        return self._projector.project()

    def close(self) -> None:
        self._history.close()
        self._reports.close()


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise JournalUnavailable(f"{path.name} does not exist") from error
    return status.st_dev, status.st_ino
