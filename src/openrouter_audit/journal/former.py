"""
The logs that came before this one, and the whole history as one sequence.

A recovery that opens a successor (`recovery`) leaves the log before it in `former/<n>/`: a folder with `journal.db`,
`policy` and `head`, which never changes again. What calls cost before the recovery is still asked for after it, so
reports follow the whole history. The entries of this log keep their indexes; those before it count backwards from -1,
the last entry of the newest former log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from openrouter_audit.core.merkle import Frontier, leaf_hash
from openrouter_audit.journal.evidence import JournalEvidence, SnapshotReader
from openrouter_audit.journal.sqlite import Head, SqliteJournal


def former_folders(former_dir: Path) -> list[Path]:
    """The folders of former logs, the oldest first."""
    if not former_dir.is_dir():
        return []
    numbered = [(int(path.name), path) for path in former_dir.iterdir() if path.name.isdigit()]
    return [path for _, path in sorted(numbered)]


def root_of_entries(batches: Iterable[list[tuple[int, bytes]]], *, until: int) -> tuple[int, bytes]:
    """How many entries stand in one piece from index 0 on, not more than `until`, and the root over them."""
    tree = Frontier()
    for batch in batches:
        leaves: list[bytes] = []
        for index, text in batch:
            if index != tree.size + len(leaves) or index >= until:
                tree.extend(leaves)
                return tree.size, tree.root()
            leaves.append(leaf_hash(text))
        tree.extend(leaves)
    return tree.size, tree.root()


@dataclass(frozen=True, slots=True)
class _Former:
    evidence: JournalEvidence
    first: int
    """Index of its first entry in the whole history, below 0."""
    size: int


class FormerLogs:
    """The entries of all logs before this one. One thread uses an instance."""

    def __init__(self, logs: list[_Former]) -> None:
        self._logs = logs

    @classmethod
    def open(cls, former_dir: Path) -> Self:
        """
        Open those that have a journal.

        Raises:
            JournalUnavailable: One cannot be read.
        """
        logs: list[_Former] = []
        end = 0
        try:
            for folder in reversed(former_folders(former_dir)):
                path = folder / "journal.db"
                if path.exists():
                    evidence = JournalEvidence.open(path)
                    size = evidence.count_entries()
                    end -= size
                    logs.append(_Former(evidence, end, size))
        except BaseException:
            for log in logs:
                log.evidence.close()
            raise
        return cls(logs[::-1])

    @property
    def first_index(self) -> int:
        """Index of the first entry of the whole history: 0 or below."""
        return self._logs[0].first if self._logs else 0

    def entries(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """Index below 0 and stored text."""
        for log in self._logs:
            low, high = max(start, log.first), min(stop, log.first + log.size)
            if low < high:
                for index, text in log.evidence.texts(low - log.first, high - log.first):
                    yield index + log.first, text.decode("utf-8", "replace")

    def close(self) -> None:
        for log in self._logs:
            log.evidence.close()


class SnapshotHistory:
    """One state of a journal with all that came before it, for a follower that is run over it again."""

    def __init__(self, evidence: JournalEvidence, former: FormerLogs) -> None:
        self._journal, self._former = evidence.as_journal(), former

    def head(self) -> Head:
        return self._journal.head()

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        yield from _entries(self._journal, self._former, start, stop)


class WholeHistory:
    """A journal with all that came before it, as a follower reads a journal. One thread uses an instance."""

    def __init__(self, journal: SqliteJournal, former: FormerLogs) -> None:
        self._journal, self._former = journal, former

    @classmethod
    def open(cls, path: Path) -> Self:
        """
        Open a journal for reading, and the former logs beside it.

        Raises:
            JournalUnavailable: One of them cannot be read.
        """
        journal = SqliteJournal.open(path, read_only=True)
        try:
            return cls(journal, FormerLogs.open(path.parent / "former"))
        except BaseException:
            journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def first_index(self) -> int:
        return self._former.first_index

    def head(self) -> Head:
        return self._journal.head()

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str]]:
        """Rows `(index, stored text)` in index order, those of former logs below 0."""
        yield from _entries(self._journal, self._former, start, stop)

    def close(self) -> None:
        self._journal.close()
        self._former.close()


def _entries(
    journal: SqliteJournal | SnapshotReader, former: FormerLogs, start: int, stop: int | None
) -> Iterator[tuple[int, str]]:
    if start < 0:
        yield from former.entries(start, 0 if stop is None else min(stop, 0))
    if stop is None or stop > 0:
        yield from journal.entries(max(start, 0), stop)
