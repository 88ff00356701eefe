"""
What somebody with the file and without the keys can do to a log: for tests and demonstrations, on copies.

Every attack takes a copied home (`copy_home`), first drops the triggers that refuse changes, as an attacker would, and
then does one thing, as well as it can be done. `verify` must find it, name it, and tell the index where one is given here.

Copies are opened with the standard library's SQLite. It must never touch a home that a recording process uses, because
a second copy of SQLite takes that process's locks away.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import apsw

from openrouter_audit.core.merkle import Frontier, leaf_hash
from openrouter_audit.core.notes import encode_base64

_DATABASES: Final = ("journal.db", "vault.db", "reports.db")
_LEFT_OUT: Final = ("keys", "lease", "*.db", "*.db-wal", "*.db-shm", "*.tmp")


def copy_home(home: Path, target: Path) -> Path:
    """Copy a home without its private keys; safe while processes record into it, even this one. Returns `target`."""
    shutil.copytree(home, target, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for name in _DATABASES:
        if (home / name).exists():
            (target / name).touch(mode=0o600)
            with (
                closing(apsw.Connection(str(home / name), flags=apsw.SQLITE_OPEN_READONLY)) as source,
                closing(apsw.Connection(str(target / name))) as copy,
                copy.backup("main", source, "main") as backup,
            ):
                backup.step()
    return target


def change_byte(home: Path, index: int) -> None:
    """Change one digit of an entry."""
    with _tampering(home) as journal:
        text = _text(journal, index)
        place = max(at for at, char in enumerate(text) if char in "0123456789")
        changed = f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}"
        journal.execute("UPDATE entries SET entry = ? WHERE idx = ?", (changed, index))


def change_cost(home: Path, index: int, cost: str = "0.01") -> None:
    """Give the entry of an outcome another cost."""
    with _tampering(home) as journal:
        journal.execute("UPDATE entries SET entry = ? WHERE idx = ?", (_with_cost(_text(journal, index), cost), index))


def delete_row(home: Path, index: int, *, renumber: bool = False) -> None:
    """Take an entry out, and close the gap if asked to."""
    with _tampering(home) as journal:
        journal.execute("DELETE FROM entries WHERE idx = ?", (index,))
        if renumber:
            _shift(journal, index + 1, -1)


def insert_row(home: Path, index: int) -> None:
    """Put a made-up entry before entry `index`; all later ones move up by one."""
    with _tampering(home) as journal:
        made_up = _text(journal, index).replace('"v":1', '"v":2')
        _shift(journal, index, 1)
        journal.execute("INSERT INTO entries VALUES (?, ?)", (index, made_up))


def swap_rows(home: Path, one: int, other: int) -> None:
    """Exchange two entries."""
    with _tampering(home) as journal:
        texts = _text(journal, one), _text(journal, other)
        journal.execute("UPDATE entries SET entry = ? WHERE idx = ?", (texts[1], one))
        journal.execute("UPDATE entries SET entry = ? WHERE idx = ?", (texts[0], other))


def cut_tail(home: Path, size: int) -> None:
    """Delete every entry from index `size` on, with the tiles over them, and let the head row say so."""
    with _tampering(home) as journal:
        journal.execute("DELETE FROM entries WHERE idx >= ?", (size,))
        journal.execute("DELETE FROM tiles WHERE (n + 1) << 8 * (level + 1) > ?", (size,))
        journal.execute("UPDATE head SET tree_size = ?", (size,))


def change_tile(home: Path, level: int, n: int) -> None:
    """Change one byte in the middle of a tile."""
    with _tampering(home) as journal:
        (tile,) = journal.execute("SELECT hashes FROM tiles WHERE level = ? AND n = ?", (level, n)).fetchone()
        middle = len(tile) // 2
        changed = tile[:middle] + bytes([tile[middle] ^ 1]) + tile[middle + 1 :]
        journal.execute("UPDATE tiles SET hashes = ? WHERE level = ? AND n = ?", (changed, level, n))


def put_back_checkpoint(home: Path, older: Path) -> None:
    """Put the genuine checkpoint of an older copy into the head row; entries and tiles stay."""
    with closing(sqlite3.connect(older / "journal.db")) as journal:
        head = journal.execute("SELECT tree_size, root, at_us, note, edge FROM head").fetchone()
    with _tampering(home) as journal:
        journal.execute("UPDATE head SET tree_size = ?, root = ?, at_us = ?, note = ?, edge = ?", head)


def put_back_journal(home: Path, older: Path) -> None:
    """Put the whole `journal.db` of an older copy in place of this one."""
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (home / name).unlink(missing_ok=True)
        if (older / name).exists():
            shutil.copyfile(older / name, home / name)


def rewrite_everything(
    home: Path, index: int, *, change: Callable[[Path, int], None] = change_byte, checkpoint: bool = False
) -> None:
    """
    Change an entry and make all tiles over it again: without a key, the best there is.

    Args:
        change: What to do to the entry.
        checkpoint: Also write the new root into checkpoint, head row and head file; the signatures stay as they are.
    """
    change(home, index)
    with _tampering(home) as journal:
        tree = Frontier()
        tiles = tree.extend(
            [leaf_hash(text.encode()) for (text,) in journal.execute("SELECT entry FROM entries ORDER BY idx")]
        )
        journal.execute("DELETE FROM tiles")
        journal.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?)", [(tile.level, tile.index, tile.data) for tile in tiles]
        )
        journal.execute("UPDATE head SET edge = ?", (tree.edge(),))
        if checkpoint:
            origin, size, note = journal.execute("SELECT origin, tree_size, note FROM head").fetchone()
            root = encode_base64(tree.root())
            forged = "\n".join([origin, str(size), root, *note.split("\n")[3:]])
            journal.execute("UPDATE head SET root = ?, note = ?", (tree.root(), forged))
            (home / "head").write_text(f"{origin} {size} {root}\n")


def edit_report_cost(home: Path, cost: str = "0.01") -> str:
    """Give the first priced call another cost in `reports.db`, and return its call id."""
    with closing(sqlite3.connect(home / "reports.db")) as reports, reports:
        (call_id,) = reports.execute(
            "SELECT call_id FROM calls WHERE total_cost IS NOT NULL ORDER BY rowid LIMIT 1"
        ).fetchone()
        reports.execute("UPDATE calls SET total_cost = ? WHERE call_id = ?", (cost, call_id))
    return str(call_id)


def find_entry(home: Path, matches: Callable[[str], bool]) -> int:
    """
    Index of the first entry whose text matches.

    Raises:
        LookupError: There is none.
    """
    with closing(sqlite3.connect(home / "journal.db")) as journal:
        for index, text in journal.execute("SELECT idx, entry FROM entries ORDER BY idx"):
            if matches(text):
                return int(index)
    raise LookupError("no such entry")


@contextmanager
def _tampering(home: Path) -> Iterator[sqlite3.Connection]:
    """The journal of a copy without its triggers, in one transaction."""
    with closing(sqlite3.connect(home / "journal.db")) as journal, journal:
        for (name,) in journal.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            journal.execute(f'DROP TRIGGER "{name}"')
        yield journal


def _text(journal: sqlite3.Connection, index: int) -> str:
    row = journal.execute("SELECT entry FROM entries WHERE idx = ?", (index,)).fetchone()
    if row is None:
        raise LookupError(f"there is no entry {index}")
    return str(row[0])


def _with_cost(text: str, cost: str) -> str:
    changed, number = re.subn(r'("(?:cost|total_cost)":")[^"]*"', rf'\g<1>{cost}"', text, count=1)
    if not number:
        raise LookupError("an entry without a cost")
    return changed


def _shift(journal: sqlite3.Connection, first: int, by: int) -> None:
    """Renumber the entries from `first` on; by way of negative numbers, so that no two meet."""
    journal.execute("UPDATE entries SET idx = -1 - idx WHERE idx >= ?", (first,))
    journal.execute("UPDATE entries SET idx = -1 - idx + ? WHERE idx < 0", (by,))
