"""
A log as files that anybody can check: the C2SP tile layout, written into a folder.

Everything but `checkpoint` and `policy` never changes once a checkpoint speaks of it, so publishing again writes only what
is new. The order makes every moment of it readable: bundles and tiles first, each whole or not there, and the checkpoint
last. A crash before that leaves files that no checkpoint speaks of; the next run writes them again.

What is written was hashed on the way out and led to the signed root, or no checkpoint is written: a folder that holds
another log, a longer one or one that this log does not continue is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from openrouter_audit.core.checkpoints import Policy
from openrouter_audit.core.merkle import TILE_WIDTH, Frontier, leaf_hash
from openrouter_audit.core.notes import TreeHead, parse_note, parse_tree_head
from openrouter_audit.core.tiles import TilePath, encode_bundle, encode_path
from openrouter_audit.errors import RolledBack, RootMismatch, VerificationError
from openrouter_audit.journal.files import locked_directory, make_directory, sync_directory, write_synced
from openrouter_audit.verification.source import LogSource

CHECKPOINT: Final = "checkpoint"
POLICY: Final = "policy"
_OURS: Final = frozenset({CHECKPOINT, POLICY, "tile"})
_PARTIAL_SUFFIX: Final = ".tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a run of `publish` left in the folder."""

    origin: str
    tree_size: int
    root_hash: bytes
    files_written: int
    """Tiles, bundles, policy and checkpoint that were new or had changed."""


def publish(
    source: LogSource,
    directory: Path,
    *,
    policy: Policy,
    policy_text: bytes,
    progress: Callable[[int, int], None] | None = None,
) -> Publication:
    """
    Bring a folder up to the log's checkpoint.

    Args:
        policy: Under which the checkpoint must hold; strangers get it as `policy_text`, byte for byte.
        progress: Called with entries written and entries in all.

    Raises:
        VerificationError: The checkpoint does not hold, the log does not lead to it, or the folder has another log, a
            longer one, or one that this log does not continue. Nothing a published checkpoint speaks of was changed.
        OSError: The folder cannot be written; the checkpoint in it still stands.
        JournalUnavailable: The journal cannot be read.
    """
    note = source.head().note
    checkpoint = policy.open_checkpoint(note).checkpoint
    make_directory(directory)
    with locked_directory(directory):
        published = _published(directory)
        if published is not None:
            if published.origin != checkpoint.origin:
                raise VerificationError(f"{directory} holds the log {published.origin}, this is {checkpoint.origin}")
            if published.tree_size > checkpoint.tree_size:
                raise RolledBack(
                    origin=checkpoint.origin, tree_size=checkpoint.tree_size, least_size=published.tree_size
                )
        folder = _Folder(directory)
        # 1. What no checkpoint speaks of yet. A crash leaves files that are written again.
        _write_tree(source, folder, published, checkpoint.tree_size, checkpoint.root_hash, progress)
        folder.put(POLICY, policy_text)
        folder.sync_directories()
        # 2. The checkpoint. A crash before leaves the old one, after it the new one, each with all of its files.
        folder.put(CHECKPOINT, note)
        folder.sync_directories()
    return Publication(
        origin=checkpoint.origin,
        tree_size=checkpoint.tree_size,
        root_hash=checkpoint.root_hash,
        files_written=folder.written,
    )


def _write_tree(
    source: LogSource,
    folder: _Folder,
    published: TreeHead | None,
    tree_size: int,
    root_hash: bytes,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write tiles and bundles of a tree, from the last full block that is published already."""
    since = 0 if published is None else published.tree_size
    base = since - since % TILE_WIDTH
    tree = Frontier.restore(tree_size=base, tail=(), read_tile=lambda level, n: source.tile(level, n) or b"")
    rows = chain.from_iterable(source.batches(base))
    while True:
        block = list(islice(rows, min(TILE_WIDTH, tree_size - base)))
        entries = [text for _, text in block]
        if [index for index, _ in block] != list(range(base, base + len(block))):
            raise VerificationError(f"the entries from {base} on are not numbered as they must be: run verify")
        leaves = [leaf_hash(entry) for entry in entries]
        if published is not None and base <= since <= base + len(block):
            part = tree.copy()
            part.extend(leaves[: since - base])
            if part.root() != published.root_hash:  # before the first file is written
                raise RootMismatch(tree_size=since, expected=published.root_hash, computed=part.root())
        full = tree.extend(leaves)
        for tile in full:
            if source.tile(tile.level, tile.index) != tile.data:
                raise VerificationError(f"tile {tile.level}/{tile.index} does not fit its entries: run verify")
        if entries:
            folder.put(
                encode_path(TilePath(level=None, index=base // TILE_WIDTH, width=len(entries))), encode_bundle(entries)
            )
        for tile in full:
            folder.put(encode_path(TilePath(level=tile.level, index=tile.index)), tile.data)
        base += len(entries)
        if progress is not None:
            progress(base, tree_size)
        if len(entries) < TILE_WIDTH or base == tree_size:
            break
    if tree.size != tree_size or tree.root() != root_hash:
        raise RootMismatch(tree_size=tree_size, expected=root_hash, computed=tree.root())
    for tile in tree.partial_tiles():
        width = len(tile.data) // 32
        folder.put(encode_path(TilePath(level=tile.level, index=tile.index, width=width)), tile.data)


def _published(directory: Path) -> TreeHead | None:
    """
    The checkpoint that is there, None where the folder is empty or was only begun.

    Raises:
        VerificationError: It is not one, or the folder holds something else.
    """
    path = directory / CHECKPOINT
    if path.exists():
        return parse_tree_head(parse_note(path.read_bytes()).text)
    for entry in directory.iterdir():
        if entry.name not in _OURS and not entry.name.endswith(_PARTIAL_SUFFIX):
            raise VerificationError(f"{directory} is not empty and holds no log")
    return None


class _Folder:
    """Writes files that are whole or not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._touched: set[Path] = set()
        self.written = 0

    def put(self, name: str, data: bytes) -> None:
        """Write a file, unless it is there with these bytes. It is durable once its directory is synced, too."""
        path = self._path / name
        if path.parent not in self._touched:
            self._make(path.parent)
        try:
            if path.read_bytes() == data:
                return
        except FileNotFoundError:
            pass
        partial = path.with_name(path.name + _PARTIAL_SUFFIX)
        write_synced(partial, data, mode=0o644)
        partial.rename(path)
        self.written += 1

    def sync_directories(self) -> None:
        for directory in self._touched:
            sync_directory(directory)

    def _make(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        while directory != self._path:
            self._touched.add(directory)
            directory = directory.parent
        self._touched.add(self._path)
