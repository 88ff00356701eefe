"""
The one writer of the journal: drains the spool into entries, tiles and a signed checkpoint (DESIGN section 2.3).

What a crash leaves, step by step:

1. Frames are read and turned into entries in memory. Nothing is left; they are read again.
2. The vault commits what the entries will refer to. Rows that nobody refers to are left, which is harmless: the next
   drain of the same frames writes the same rows, or finds the person's reference already there.
3. The journal commits entries, full tiles, positions, open calls, head and checkpoint as one transaction, which is the
   fence: it fails where another sequencer was faster. All of it is there, or nothing.
4. The `head` file is replaced. It may be one commit behind its journal, never ahead.
5. Finished segments are removed. If not, their position is marked final and they are never read again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa  # noqa: F401 - needed to sign: not first in a thread

from openrouter_audit.core.merkle import TILE_WIDTH, Frontier, leaf_hash
from openrouter_audit.core.notes import encode_base64
from openrouter_audit.errors import FenceLost, HomeError, JournalUnavailable
from openrouter_audit.journal import aftermath
from openrouter_audit.journal.batch import Batch
from openrouter_audit.journal.drain import Source, SpoolReader
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import LogKeys, load_keys
from openrouter_audit.journal.sqlite import Commit, Head, Position, SqliteJournal
from openrouter_audit.journal.vault import Vault
from openrouter_audit.journal.writer_state import read_counts

CHECKPOINT_EVERY_US: Final = 3600 * 1_000_000
"""One checkpoint an hour is kept for ever (DESIGN section 10); the newest is always in the head row."""
_MAX_FENCE_TRIES: Final = 5


class Sequencer:
    """
    Turns what is spooled into the journal, one call of `drain` at a time. One thread uses an instance.

    Correct beside other sequencers on the same home, only then one of them works in vain.
    """

    def __init__(self, home: Home, *, clock_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._home = home
        self._clock_us = clock_us
        self._is_first_drain = True
        self._without_intent: list[tuple[str, str]] = []
        home.refuse_unfit()
        self._keys: LogKeys = load_keys(home.keys_dir)
        self._unsure = False
        self._journal = SqliteJournal.open(home.journal_path)
        self._vault = Vault.open(home.vault_path)
        self._reader = SpoolReader(home.spool_dir, home.state_dir, self._keys.sealing)
        self._head: Head
        self._frontier: Frontier
        self._positions: dict[str, Position]
        self._last_kept_us: int
        self._load()

    @property
    def tree_size(self) -> int:
        """Entries that are committed, as far as this sequencer knows."""
        return self._head.tree_size

    def drain(self) -> int:
        """
        Commit everything that was in the spool when this was called, and return the tree size.

        Raises:
            JournalUnavailable: Disk or database do not take it; what is not committed is still in the spool.
            CommitUnknown: As for SqliteJournal.commit; the next call reads the state again and goes on.
            HomeError: The journal is not the one that was signed.
        """
        for _ in range(_MAX_FENCE_TRIES):
            try:
                if self._unsure:
                    self._reopen()
                self._drain_once()
            except FenceLost:
                self._load()
            except OSError as error:
                raise JournalUnavailable(f"the spool cannot be read: {error.strerror}") from error
            else:
                return self._head.tree_size
        raise FenceLost(f"{_MAX_FENCE_TRIES} times another sequencer was faster")

    def close(self) -> None:
        self._reader.close()
        self._journal.close()
        self._vault.close()

    # State ------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read the state that transactions are fenced by, and refuse a journal that was put back to an older one."""
        outside = self._home.read_head()  # before the journal: another sequencer may be at work, and it writes them the
        head = self._journal.head()  # other way round
        if outside is not None and (
            outside[1] > head.tree_size
            or (outside[1] == head.tree_size and outside[2] != encode_base64(head.root_hash))
        ):
            raise HomeError(
                f"journal.db has {head.tree_size} entries, but {outside[1]} were signed: it was put back, and must not"
                " sign a second history; openrouter-audit recover opens a successor",
                home=str(self._home.path),
            )
        if head.origin != self._keys.origin:
            raise HomeError(
                f"journal.db is of the log {head.origin}, the keys are of {self._keys.origin}",
                home=str(self._home.path),
            )
        tail_start = head.tree_size - head.tree_size % TILE_WIDTH
        tail = [leaf_hash(text.encode()) for _, text in self._journal.entries(tail_start, head.tree_size)]
        frontier = Frontier.restore(tree_size=head.tree_size, tail=tail, read_tile=self._read_tile)
        if frontier.root() != head.root_hash:
            raise HomeError("journal.db does not have the root it signed: run verify", home=str(self._home.path))
        positions, last_kept_us = dict(self._journal.positions()), self._journal.last_kept_us()
        # All of it is read: a failure before left the state as it was.
        self._head, self._frontier = head, frontier
        self._positions, self._last_kept_us = positions, last_kept_us

    def _read_tile(self, level: int, n: int) -> bytes:
        tile = self._journal.tile(level, n)
        if tile is None:
            raise HomeError(f"tile {level}/{n} is missing: run verify", home=str(self._home.path))
        return tile

    # Draining ---------------------------------------------------------------------------------------------------

    def _drain_once(self) -> None:
        batch, gone = self._new_batch(), list[Source]()
        self._without_intent.clear()
        if self._is_first_drain:
            aftermath.name_segments(self._home.spool_dir)
        try:
            groups = self._reader.look(self._positions)
            for group in groups:
                for source, size in group:
                    if not self._is_final(source):
                        batch = self._drain_segment(batch, source, size)
                # Every frame of this process is in, so an intent without outcome has none.
                for source, size in group:
                    if source.finished and not self._is_final(source):
                        self._finish(batch, source, size)
            gone += self._finish_vanished(batch, [source for group in groups for source, _ in group])
            self._commit(batch)
        finally:
            self._vault.roll_back()
            for source in gone:
                source.close()
        for source in gone:
            aftermath.put_away(self._home, source)
        if self._is_first_drain:
            aftermath.remove_leftovers(self._home, self._positions)
            self._is_first_drain = False
        for group in self._reader.look(self._positions):
            for source, _ in group:
                if self._is_final(source):
                    self._reader.forget(source)

    def _drain_segment(self, batch: Batch, source: Source, size: int) -> Batch:
        while not batch.add(source, source.read(batch.position(source).offset, size), now_us=self._clock_us()):
            if self._is_first_drain:
                self._without_intent += aftermath.outcomes_without_intent(batch, self._journal)
            self._commit(batch)
            batch = self._new_batch()
        return batch

    def _finish(self, batch: Batch, source: Source, size: int) -> None:
        batch.finish(
            source,
            read_counts(self._home.state_dir / source.segment),
            self._journal.open_calls(source.segment),
            self._journal.rewritten(source.segment) | {seq for name, seq in batch.rewrites if name == source.segment},
            size=size,
            now_us=self._clock_us(),
        )

    def _finish_vanished(self, batch: Batch, readable: list[Source]) -> list[Source]:
        """Say what a power cut took: once, and after everything that can be read."""
        if not self._is_first_drain:
            return []
        gone = aftermath.vanished(self._home, self._positions, readable)
        for source in gone:
            self._finish(batch, source, batch.position(source).offset)
        self._without_intent += aftermath.outcomes_without_intent(batch, self._journal)
        aftermath.say_lost_intents(batch, self._positions, self._without_intent, now_us=self._clock_us())
        return gone

    def _is_final(self, source: Source) -> bool:
        position = self._positions.get(source.segment)
        return position is not None and position.final

    def _new_batch(self) -> Batch:
        return Batch(self._positions, self._vault, self._home.quarantine_dir, self._reader.holds)

    def _commit(self, batch: Batch) -> None:
        if batch.is_empty:
            return
        # 2. The vault first (C9).
        self._vault.put_calls(batch.private_calls)
        self._vault.put_contents(batch.contents)
        self._vault.put_notes(batch.notes)
        self._vault.commit()
        # 3. The journal, fenced.
        frontier = self._frontier.copy()
        tiles = frontier.extend([leaf_hash(text) for text in batch.texts])
        at_us = max(self._clock_us(), self._head.at_us)
        root = frontier.root()
        head = Head(
            origin=self._keys.origin,
            tree_size=frontier.size,
            root_hash=root,
            at_us=at_us,
            note=self._keys.sign(tree_size=frontier.size, root_hash=root, at_us=at_us),
            edge=frontier.edge(),
        )
        keep = at_us - self._last_kept_us >= CHECKPOINT_EVERY_US and bool(batch.texts)
        try:
            self._journal.commit(
                Commit(
                    expected_size=self._head.tree_size,
                    entries=[text.decode() for text in batch.texts],
                    tiles=tiles,
                    head=head,
                    keep_checkpoint=keep,
                    positions=[(self._positions.get(name), after) for name, after in batch.after.items()],
                    opened_calls=[(call, *opened) for call, opened in batch.opened_calls.items()],
                    closed_calls=batch.closed_calls,
                    rewrites=batch.rewrites,
                )
            )
        except JournalUnavailable:
            raise
        except BaseException:
            self._unsure = True
            raise
        self._head, self._frontier = head, frontier
        self._positions.update(batch.after)
        if keep:
            self._last_kept_us = at_us
        # 4. Outside the database.
        with contextlib.suppress(OSError):
            self._home.write_head(head)

    def _reopen(self) -> None:
        """After a commit of unknown end: the file tells which of its two states it has, once it can be read."""
        self._journal.close()
        self._journal = SqliteJournal.open(self._home.journal_path)
        self._load()
        self._unsure = False
