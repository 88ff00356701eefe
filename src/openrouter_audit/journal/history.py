"""
All that a journal still says, read in one pass: also one that is damaged.

A recovery has to know what is there before it decides anything: how far the entries stand in one piece, which root they
lead to, which frames of which segment they came from, which calls wait for their outcome, which people they name.
Everything is derived from the entries, as `verify` does it; of the tables beside them only what entries cannot tell
(how far into a file a segment was read) is taken over, where it can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from openrouter_audit.core.checkpoints import Policy, open_checkpoint
from openrouter_audit.core.merkle import EMPTY_ROOT, Frontier, leaf_hash
from openrouter_audit.errors import CheckpointError, JournalUnavailable, NoteError
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.sqlite import Position
from openrouter_audit.verification.source import ShownHead


class _Writer(Struct, gc=False):
    segment: str
    seq: int


class _Glance(Struct, gc=False, kw_only=True):
    at_us: int = 0
    id: str = ""
    kind: str = ""
    reason: str | None = None
    subject: str | None = None
    writer: _Writer | None = None


_glance = msgspec.json.Decoder(_Glance).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIntent:
    """An intent without an outcome, word for word."""

    call: str
    segment: str
    seq: int
    at_us: int
    text: bytes


@dataclass(slots=True, kw_only=True)
class History:
    """What was found. `size` and `root` are those of the entries that stand in one piece from the first on."""

    size: int = 0
    root: bytes = EMPTY_ROOT
    missing: bool = False
    readable: bool = False
    """The file can be opened and read to its end, whatever it says."""
    fault: str | None = None
    """Why no sequencer may go on with this file; None where it is whole and as it was signed."""
    head: ShownHead | None = None
    roots: dict[int, bytes] = field(default_factory=dict)
    """At the sizes that were asked for."""
    signed: tuple[int, str] | None = None
    """Size and note of the newest checkpoint that is signed and that these entries lead to."""
    positions: dict[str, Position] = field(default_factory=dict)
    rewrites: dict[str, set[int]] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)
    """By segment, the numbers of its frames that are entries here."""
    open_intents: dict[str, OpenIntent] = field(default_factory=dict)
    subjects: dict[str, int] = field(default_factory=dict)
    """By reference of a person, the index of the last intent that names it."""
    calls: int = 0
    last_vault_loss: int = -1
    """Index of the last entry that says that the vault was lost."""

    def take(self, index: int, text: bytes) -> None:
        try:
            entry = _glance(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if entry.writer is not None:
            self.seen.setdefault(entry.writer.segment, set()).add(entry.writer.seq)
        if entry.kind in {"call.intent", "call.imported"}:
            self.calls += 1
            if entry.subject is not None:
                self.subjects[entry.subject] = index
            if entry.kind == "call.intent" and entry.writer is not None:
                self.open_intents[entry.id] = OpenIntent(
                    call=entry.id, segment=entry.writer.segment, seq=entry.writer.seq, at_us=entry.at_us, text=text
                )
        elif entry.kind == "call.outcome":
            self.open_intents.pop(entry.id, None)
        elif entry.kind == "log.loss" and entry.reason == "vault":
            self.last_vault_loss = index


def read_history(path: Path, policy: Policy | None, sizes: Iterable[int]) -> History:
    """
    Read a `journal.db`, however much of it can be read. Changes nothing.

    Args:
        policy: Whose keys the checkpoint must hold under; None where there is none to ask.
        sizes: At which the root is wanted.
    """
    if not path.exists():
        return History(missing=True, fault="journal.db is not there")
    try:
        evidence = JournalEvidence.open(path)
    except JournalUnavailable as error:
        return History(fault=str(error))
    with evidence:
        history = History(fault=evidence.find_fault())
        history.readable = history.fault is None
        notes = _read_tables(history, evidence, policy)
        wanted = {*sizes, *notes} | ({history.head.tree_size} if history.head is not None else set())
        _read_entries(history, evidence, sorted(wanted))
        history.readable = history.readable and history.size == evidence.count_entries()
    signed = [size for size, (root, _) in notes.items() if history.roots.get(size) == root]
    if signed:
        history.signed = max(signed), notes[max(signed)][1]
    head = history.head
    if history.fault is None and head is not None:
        if (history.size, history.root) != (head.tree_size, head.root_hash):
            history.fault = f"journal.db has not the {head.tree_size} entries and the root it signed"
        elif policy is not None and head.origin in policy.logs and (history.signed or (-1, ""))[0] != head.tree_size:
            history.fault = "the checkpoint in journal.db is not signed by the keys of the policy"
    return history


def readable_rows(evidence: JournalEvidence) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of the entries in one piece from 0 on, up to the first that cannot be read or is no text."""
    at = 0
    try:
        for batch in evidence.batches(0):
            for index, text in batch:
                if index != at or not _is_text(text):
                    return
                yield index, text
                at += 1
    except JournalUnavailable:
        # Somewhere in this batch; those before it one by one.
        while True:
            try:
                (row,) = evidence.texts(at, at + 1)
            except (JournalUnavailable, ValueError):
                return
            if not _is_text(row[1]):
                return
            yield row
            at += 1


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_tables(history: History, evidence: JournalEvidence, policy: Policy | None) -> dict[int, tuple[bytes, str]]:
    """Head, positions and rewrites where they can be read; root and note of the checkpoints that hold, by size."""
    found: list[bytes] = []
    try:
        history.head = evidence.head()
        found.append(history.head.note)
        found += [note for _, note in evidence.checkpoints()]
    except (JournalUnavailable, TypeError) as error:
        history.fault = history.fault or str(error)
    try:
        history.positions = dict(evidence.positions())
        for segment, seq in evidence.rewrites():
            history.rewrites.setdefault(segment, set()).add(seq)
    except JournalUnavailable as error:
        history.fault = history.fault or str(error)
    notes = {}
    keys = None if policy is None or history.head is None else policy.logs.get(history.head.origin)
    for note in found:
        if keys is not None:
            try:
                checkpoint = open_checkpoint(note, log_keys=keys).checkpoint
            except (NoteError, CheckpointError):
                continue
            notes[checkpoint.tree_size] = (checkpoint.root_hash, note.decode())
    return notes


def _read_entries(history: History, evidence: JournalEvidence, sizes: list[int]) -> None:
    """Every readable entry, the roots at these sizes, and whether full tiles are what the entries lead to."""
    tree, leaves = Frontier(), list[bytes]()
    wanted = [size for size in sizes if size >= 0]

    def flush() -> None:
        for tile in tree.extend(leaves):
            try:
                whole = evidence.tile(tile.level, tile.index) == tile.data
            except JournalUnavailable:
                whole = False
            if not whole:
                history.fault = history.fault or f"tile {tile.level}/{tile.index} does not fit its entries"
        leaves.clear()

    for index, text in readable_rows(evidence):
        while wanted and wanted[0] <= index:
            flush()
            history.roots[wanted.pop(0)] = tree.root()
        history.take(index, text)
        leaves.append(leaf_hash(text))
        if len(leaves) == 4096:
            flush()
    flush()
    while wanted and wanted[0] <= tree.size:
        history.roots[wanted.pop(0)] = tree.root()
    history.size, history.root = tree.size, tree.root()
