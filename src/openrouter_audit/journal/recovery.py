"""
What can be done for a home that was restored or lost a file, so that nothing is signed twice and every loss is an entry.

Two kinds of repair:

*The same log goes on* where its journal and its keys are there and nothing says that more was signed: a lost vault, spool
or head file becomes a `log.loss`.

*A successor log is opened* where going on would sign a second history, or cannot be signed: the journal was restored or put
back, is damaged or gone, or the signing keys are. The successor has a new origin and new keys. Its first entry is
`log.successor`: which log it follows, how much of that one is there, what was signed and is lost. The log before it
moves to `former/<n>/` and never changes again.

A call that was under way when the former log ends has its intent there and its outcome still to come. The intent is
therefore carried over, word for word, as are the positions of the spool: each frame is in one of the two logs, and what
a finished segment gave is never read again.

How a successor comes into its place, and what a crash leaves:

1. It is made whole in `successor.new/`: keys, policy, head, journal with its first entries, and the folder of the former
   log. A crash leaves that folder, which the next attempt makes anew; the home is as it was.
2. `successor.new/` becomes `successor/`. From here on no sequencer signs in this home, and a recovery that finds this
   folder does the rest, as often as it takes.
3. The former journal moves to `former/<n>/`, the successor's files move to theirs, the journal last. Each step is a rename
   and is passed over where it was done before.
4. `successor/` is removed, and the log goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import quote

import apsw
import msgspec

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.checkpoints import Policy, decode_policy, encode_policy
from openrouter_audit.core.entries import CallOutcome, Facts, LogLoss, LogSuccessor, Writer
from openrouter_audit.core.merkle import EMPTY_ROOT, TILE_WIDTH, Frontier, Tile, leaf_hash
from openrouter_audit.core.notes import encode_base64
from openrouter_audit.errors import HomeError, JournalUnavailable
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.examination import Examination, LostSegment, listed, next_number
from openrouter_audit.journal.files import sync_directory, write_whole
from openrouter_audit.journal.former import former_folders
from openrouter_audit.journal.history import OpenIntent, readable_rows
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import (
    SEALING_FILE,
    SEALING_PUBLIC_FILE,
    SIGNING_FILES,
    LogKeys,
    create_keys,
    load_keys,
)
from openrouter_audit.journal.segments import HEADER_BYTES, SUFFIX, Frame, SegmentHeader, scan
from openrouter_audit.journal.sqlite import Commit, Head, Position, SqliteJournal, open_connection
from openrouter_audit.journal.vault import Vault
from openrouter_audit.journal.writer_state import read_counts
from openrouter_audit.verification.source import KnownHead

_NUMBERED: Final = re.compile(r"/[0-9]+-[0-9a-f]{8}$")
_ORIGIN_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "+")
_PIECE: Final = 4096
_replace = msgspec.structs.replace


def recover(found: Examination, *, at_us: int) -> None:
    """
    Do what the examination proposes. The caller holds the home's lease and the lock on its folder.

    Raises:
        HomeError: Programs record with a key that is lost; nothing was changed.
        JournalUnavailable: A database cannot be written; running it again goes on from there.
    """
    home = found.home
    if found.begun:
        finish_succession(home)
        return
    if found.sealing_lost and is_recorded_into(home):
        raise HomeError(
            "programs record here with a key that is lost: stop them, and start them again afterwards",
            home=str(home.path),
        )
    for directory in (home.keys_dir, home.spool_dir, home.state_dir, home.quarantine_dir):
        directory.mkdir(mode=0o700, exist_ok=True)
    if found.vault == "damaged":
        _put_aside(home.vault_path)
    Vault.open(home.vault_path).close()
    if found.reason is not None:
        _stage_successor(found, at_us)
        finish_succession(home)
    else:
        if found.sealing_lost:
            create_keys(home.keys_dir, found.origin)
        _go_on(found, at_us)
    for lost in found.segments_lost:
        # A crash before this line leaves pages of segments that are final in the journal: nobody counts them again.
        (home.state_dir / lost.segment).unlink(missing_ok=True)


def is_recorded_into(home: Home) -> bool:
    """Whether a living process holds the lock on a segment here."""
    for path in listed(home.spool_dir):
        if path.suffix == SUFFIX:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
    return False


def _put_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    sync_directory(path.parent)


class _Additions:
    """What one transaction of a recovery adds."""

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us
        self.texts: list[bytes] = []
        self.positions: list[tuple[Position | None, Position]] = []
        self.opened: list[tuple[str, str, int]] = []
        self.closed: list[str] = []
        self.rewrites: list[tuple[str, int]] = []
        self._segment, self._process = os.urandom(16).hex(), os.urandom(16).hex()
        self._said = 0

    def say(self, facts: Facts) -> None:
        """Speak as a writer of the recovery's own, whose segment never has a file."""
        self.texts.append(encode(_replace(facts, writer=Writer(segment=self._segment, seq=self._said))))
        self._said += 1

    def end(self) -> None:
        if self._said:
            self.positions.append(
                (
                    None,
                    Position(
                        segment=self._segment,
                        process=self._process,
                        ordinal=0,
                        offset=0,
                        entries=self._said,
                        last_seq=self._said - 1,
                        final=True,
                    ),
                )
            )

    def loss(
        self, reason: str, count: int | None = None, from_us: int | None = None, until_us: int | None = None
    ) -> LogLoss:
        return LogLoss(
            v=1,
            id=os.urandom(16).hex(),
            at_us=self.at_us,
            reason=reason,
            count=count,
            from_us=from_us,
            until_us=until_us,
        )


def _say_losses(additions: _Additions, found: Examination) -> None:
    if found.head_lost and found.reason is None:
        additions.say(additions.loss("head"))
    if found.people_lost is not None:
        additions.say(additions.loss("vault", count=found.people_lost))


def _go_on(found: Examination, at_us: int) -> None:
    """The same log, with entries that say what was lost."""
    home, history, additions = found.home, found.history, _Additions(at_us)
    _say_losses(additions, found)
    for lost in found.segments_lost:
        before = history.positions.get(lost.segment)
        _speak_for(
            additions, found, lost, before=before, carried=[], next_seq=0 if before is None else before.last_seq + 1
        )
    additions.end()
    with SqliteJournal.open(home.journal_path) as journal:
        head = append(journal, load_keys(home.keys_dir), additions) if additions.texts or additions.positions else None
        home.write_head(head or journal.head())


def _speak_for(
    additions: _Additions,
    found: Examination,
    lost: LostSegment,
    *,
    before: Position | None,
    carried: Sequence[OpenIntent],
    next_seq: int,
) -> None:
    """
    Say the last about a segment whose file is gone: what was lost with it, then the calls that were open in it.

    Args:
        before: Its position in the journal that is written to.
        carried: Intents of it that this batch carries over; for the same log they are there.
        next_seq: The first number that no frame in the journal has.
    """
    segment, spoken = lost.segment, list[Facts]()
    counts = read_counts(found.home.state_dir / segment)
    if counts is not None:
        passed = counts.failed | found.history.rewrites.get(segment, set())
        gone = set(range(next_seq, counts.acknowledged)) - passed
        if gone:
            spoken.append(additions.loss("spool", count=len(gone)))
        for reason, loss in counts.losses.items():
            number = counts.waiting if reason == "process_ended" else loss.count
            if number:
                spoken.append(additions.loss(reason, count=number, from_us=loss.from_us, until_us=loss.until_us))
    elif found.reason is None:
        spoken.append(additions.loss("spool"))  # nobody knows how many
    for intent in found.history.open_intents.values():
        if intent.segment == segment:
            spoken.append(CallOutcome(v=1, id=intent.call, at_us=additions.at_us, status="unknown", complete=False))
            if before is not None:
                additions.closed.append(intent.call)
    seq = next_seq
    for facts in spoken:
        additions.texts.append(encode(_replace(facts, writer=Writer(segment=segment, seq=seq))))
        seq += 1
    last = seq - 1 if spoken else max([intent.seq for intent in carried], default=-1)
    if before is not None and not spoken:
        last = before.last_seq
    additions.positions.append(
        (
            before,
            Position(
                segment=segment,
                process=segment if before is None else before.process,
                ordinal=0 if before is None else before.ordinal,
                offset=0 if before is None else before.offset,
                entries=(0 if before is None else before.entries) + len(carried) + len(spoken),
                last_seq=last,
                final=True,
            ),
        )
    )


def append(journal: SqliteJournal, keys: LogKeys, additions: _Additions) -> Head:
    """
    Commit entries to a journal as the sequencer does: fenced, with tiles and a signed checkpoint.

    Raises:
        FenceLost, JournalUnavailable: Nothing was written.
    """
    head = journal.head()
    start = head.tree_size - head.tree_size % TILE_WIDTH
    tail = [leaf_hash(text.encode()) for _, text in journal.entries(start, head.tree_size)]
    tree = Frontier.restore(
        tree_size=head.tree_size, tail=tail, read_tile=lambda level, n: journal.tile(level, n) or b""
    )
    tiles = tree.extend([leaf_hash(text) for text in additions.texts])
    at_us, root = max(additions.at_us, head.at_us), tree.root()
    after = Head(
        origin=keys.origin,
        tree_size=tree.size,
        root_hash=root,
        at_us=at_us,
        note=keys.sign(tree_size=tree.size, root_hash=root, at_us=at_us),
        edge=tree.edge(),
    )
    journal.commit(
        Commit(
            expected_size=head.tree_size,
            entries=[text.decode() for text in additions.texts],
            tiles=tiles,
            head=after,
            keep_checkpoint=True,
            positions=additions.positions,
            opened_calls=additions.opened,
            closed_calls=additions.closed,
            rewrites=additions.rewrites,
        )
    )
    return after


# A successor ------------------------------------------------------------------------------------------------------


def _stage_successor(found: Examination, at_us: int) -> None:
    """Steps 1 and 2: a whole successor in a folder of its own."""
    home, number = found.home, next_number(found.home)
    stage = home.path / "successor.new"
    shutil.rmtree(stage, ignore_errors=True)
    keys_dir, former = stage / "keys", stage / f"former-{number}"
    for directory in (stage, keys_dir, former):
        directory.mkdir(mode=0o700)
    origin = f"{_NUMBERED.sub('', found.origin)}/{number + 1}-{os.urandom(4).hex()}"
    if not found.sealing_lost:
        # Programs that record go on sealing for it, and what waits in the spool was.
        write_whole(keys_dir / SEALING_FILE, (home.keys_dir / SEALING_FILE).read_bytes())
    keys = create_keys(keys_dir, origin)
    _keep_former(found, former, at_us)
    write_whole(stage / "policy", _policy_of(found, keys))
    at_us = max(at_us, 0 if found.history.head is None else _plausible(found.history.head.at_us, at_us))
    note = keys.sign(tree_size=0, root_hash=EMPTY_ROOT, at_us=at_us)
    empty = Head(origin=origin, tree_size=0, root_hash=EMPTY_ROOT, at_us=at_us, note=note, edge=b"")
    with SqliteJournal.create(stage / "journal.db", empty) as journal:
        head = append(journal, keys, _first_entries(found, at_us))
    write_whole(stage / "head", _head_line(head.origin, head.tree_size, head.root_hash))
    sync_directory(stage)
    stage.rename(home.succession_dir)
    sync_directory(home.path)


def _plausible(at_us: object, now_us: int) -> int:
    """The time of a head that may be damaged: none that is more than a day from now."""
    return at_us if isinstance(at_us, int) and abs(at_us - now_us) < 86_400_000_000 else 0


def _head_line(origin: str, tree_size: int, root_hash: bytes) -> bytes:
    return f"{origin} {tree_size} {encode_base64(root_hash)}\n".encode()


def _policy_of(found: Examination, keys: LogKeys) -> bytes:
    """The new log first, then all that was trusted before: former logs are checked by it, too."""
    new = decode_policy(keys.policy())
    old = found.policy
    if old is None:
        return keys.policy()
    return encode_policy(
        Policy(
            logs={**new.logs, **old.logs},
            witnesses=old.witnesses,
            groups=old.groups,
            quorum=old.quorum,
            least_sizes=old.least_sizes,
            urls=old.urls,
        )
    )


def _keep_former(found: Examination, folder: Path, at_us: int) -> None:
    """What stands beside the former journal; that moves there itself, unless only a part of it can be read."""
    signed, history = found.signed, found.history
    if found.policy is not None:
        write_whole(folder / "policy", encode_policy(found.policy))
    if signed is None:
        signed = KnownHead(origin=found.origin, tree_size=history.size, root_hash=history.root)
    write_whole(folder / "head", _head_line(signed.origin, signed.tree_size, signed.root_hash))
    if history.size and not history.readable:
        _salvage(found, folder / "journal.db", at_us)


def _salvage(found: Examination, path: Path, at_us: int) -> None:
    """Write what can be read of a damaged journal into a new one, under the newest checkpoint that still holds."""
    size, note = found.history.signed or (0, "")
    tree = Frontier()
    state = Head(origin=found.origin, tree_size=0, root_hash=EMPTY_ROOT, at_us=at_us, note=note, edge=b"")
    with SqliteJournal.create(path, state) as journal, JournalEvidence.open(found.home.journal_path) as evidence:
        shown, rows = state, readable_rows(evidence)
        while piece := [text for _, text in islice(rows, _PIECE)]:
            start = tree.size
            if start < size <= start + len(piece):  # the state that the note speaks of
                part = tree.copy()
                part.extend([leaf_hash(text) for text in piece[: size - start]])
                shown = replace(state, tree_size=size, root_hash=part.root(), edge=part.edge())
            tiles = tree.extend([leaf_hash(text) for text in piece])
            after = replace(state, tree_size=tree.size, root_hash=tree.root(), edge=tree.edge())
            journal.commit(_commit(start, head=after, entries=[text.decode() for text in piece], tiles=tiles))
        # The last word: head and checkpoint that belong together, and what the entries say of the spool.
        positions = [(None, _own_position(found, segment)) for segment in sorted(found.history.seen)]
        opened = [(one.call, one.segment, one.at_us) for one in found.history.open_intents.values()]
        journal.commit(_commit(tree.size, head=shown, positions=positions, opened=opened))


def _commit(
    expected_size: int,
    *,
    head: Head,
    entries: Sequence[str] = (),
    tiles: Sequence[Tile] = (),
    positions: Sequence[tuple[None, Position]] = (),
    opened: Sequence[tuple[str, str, int]] = (),
) -> Commit:
    return Commit(
        expected_size=expected_size,
        entries=entries,
        tiles=tiles,
        head=head,
        keep_checkpoint=False,
        positions=positions,
        opened_calls=opened,
    )


def _own_position(found: Examination, segment: str) -> Position:
    """Where a segment stands in the former log: what its entries say, with the rest from its table where that is left."""
    seen = found.history.seen[segment]
    known = found.history.positions.get(segment)
    return Position(
        segment=segment,
        process=segment if known is None else known.process,
        ordinal=0 if known is None else known.ordinal,
        offset=0 if known is None else known.offset,
        entries=len(seen),
        last_seq=max(seen),
        final=known is None or known.final,
    )


def _first_entries(found: Examination, at_us: int) -> _Additions:
    """What a successor begins with: whom it follows, what is lost, and what was under way."""
    history, signed, additions = found.history, found.signed, _Additions(at_us)
    lost = signed is not None and signed.tree_size > history.size
    additions.say(
        LogSuccessor(
            v=1,
            id=os.urandom(16).hex(),
            at_us=at_us,
            former=quote(found.origin, safe=_ORIGIN_SAFE)[:255],
            reason=found.reason or "put_back",
            kept_size=history.size,
            kept_root=history.root.hex(),
            signed_size=None if signed is None else signed.tree_size,
            signed_root=None if signed is None else signed.root_hash.hex(),
            lost_from=history.size if lost else None,
            lost_until=signed.tree_size if lost and signed is not None else None,
        )
    )
    _say_losses(additions, found)
    additions.end()
    gone = {lost.segment: lost for lost in found.segments_lost}
    carried: dict[str, list[OpenIntent]] = {}
    for intent in history.open_intents.values():  # in the order of the former log
        carried.setdefault(intent.segment, []).append(intent)
        additions.texts.append(intent.text)
    for segment in sorted(history.positions.keys() | history.seen.keys() | gone.keys()):
        intents = carried.get(segment, [])
        if segment in gone:
            next_seq = max(history.seen.get(segment, ()), default=-1) + 1
            _speak_for(additions, found, gone[segment], before=None, carried=intents, next_seq=next_seq)
        else:
            _carry_on(additions, found, segment, intents)
    return additions


def _carry_on(additions: _Additions, found: Examination, segment: str, intents: Sequence[OpenIntent]) -> None:
    """The position of a segment, so that each of its frames is an entry of one log only; and what is open in it."""
    known = found.history.positions.get(segment) or _found_position(found, segment)
    if known is None:
        return  # an ended segment of a journal whose positions cannot be read: there is no file to read again
    additions.positions.append(
        (None, replace(known, entries=len(intents), last_seq=max([one.seq for one in intents], default=-1)))
    )
    if not known.final:
        additions.opened += [(one.call, segment, one.at_us) for one in intents]
        before = found.history.rewrites.get(segment, set()) | found.history.seen.get(segment, set())
        additions.rewrites += [(segment, seq) for seq in sorted(before | set(range(known.last_seq + 1)))]


def _found_position(found: Examination, segment: str) -> Position | None:
    """For a segment whose position is lost with the journal's tables: read its file again as far as entries know it."""
    seen = found.history.seen[segment]
    try:
        data = (found.home.spool_dir / f"{segment}{SUFFIX}").read_bytes()
    except FileNotFoundError:
        return None
    header = SegmentHeader.decode(data)
    if header is None:
        return None
    offset = HEADER_BYTES
    for item in scan(memoryview(data)[HEADER_BYTES:], header.marker, HEADER_BYTES):
        if isinstance(item, Frame) and item.seq not in seen:
            break
        if isinstance(item, Frame):
            offset = item.end
    return Position(
        segment=segment,
        process=header.process.hex(),
        ordinal=header.ordinal,
        offset=offset,
        entries=len(seen),
        last_seq=max(seen),
        final=False,
    )


def finish_succession(home: Home) -> None:
    """Steps 3 and 4: put a whole successor into its place. Does what is left to do, and may be called again."""
    stage = home.succession_dir
    home.former_dir.mkdir(mode=0o700, exist_ok=True)
    for former in stage.glob("former-*"):
        former.rename(home.former_dir / former.name.removeprefix("former-"))
        sync_directory(home.former_dir)
    for name in (*SIGNING_FILES, SEALING_FILE, SEALING_PUBLIC_FILE):
        _move_in(stage / "keys" / name, home.keys_dir / name)
    _move_in(stage / "policy", home.policy_path)
    if (stage / "journal.db").exists():
        _move_out(home.journal_path, former_folders(home.former_dir)[-1])
        _move_in(stage / "journal.db", home.journal_path)
    _move_in(stage / "head", home.head_path)
    home.backup_path.unlink(missing_ok=True)
    for directory in (home.keys_dir, home.path):
        sync_directory(directory)
    shutil.rmtree(stage)
    sync_directory(home.path)


def _move_in(source: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        source.rename(target)


def _move_out(journal: Path, folder: Path) -> None:
    """
    The former journal into its folder; as `journal.db.damaged` where what could be read of it is there already.

    What a killed program left in its write-ahead log belongs to it, and is written into it first.
    """
    if journal.exists():
        with contextlib.suppress(JournalUnavailable, apsw.Error):
            connection = open_connection(journal)
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()
        whole = folder / journal.name
        target = whole.with_name(f"{whole.name}.damaged") if whole.exists() or not _is_database(journal) else whole
        journal.rename(target)
        wal = journal.with_name(journal.name + "-wal")
        if wal.exists() and wal.stat().st_size:  # nobody could open it: what stands in it is kept as it is
            wal.rename(target.with_name(target.name + "-wal"))
        sync_directory(folder)
    for suffix in ("-wal", "-shm"):  # of programs that still read the former journal, and need no name for it
        journal.with_name(journal.name + suffix).unlink(missing_ok=True)


def _is_database(path: Path) -> bool:
    try:
        JournalEvidence.open(path).close()
    except JournalUnavailable:
        return False
    return True
