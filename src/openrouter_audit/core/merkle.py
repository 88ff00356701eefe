"""
The Merkle tree of the log: hashes, the growing edge, and proofs.

Theory of operation. A leaf hash is SHA-256 over 0x00 and the entry's bytes, a node hash over 0x01 and its two children, so
that no entry can pose as a node. The root of n > 1 leaves splits them at the largest power of two below n: the left part is
a full subtree, the right part again a tree of this kind. A tree is therefore a row of full subtrees, one for each set bit of
its size, the largest first. Appending a leaf is adding one in binary: as long as a subtree of equal size stands at the end
of the row, both become one of twice the size. `Frontier` holds this row, and beside it the hashes of the tiles not yet full.

A tile (C2SP tlog-tiles) gathers eight binary levels: hash j of tile (L, N) is the root of the leaves
`[(256 N + j) 256^L, (256 N + j + 1) 256^L)`. The root of a full tile is one hash of the level above; this alone is why state
can be made again from full tiles and the last, at most 255, leaf hashes.

Follows RFC 6962 section 2.1 and RFC 9162 section 2.1; names are theirs. Hashing is hashlib's: CPython's own `_sha256` is
four times slower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from openrouter_audit.errors import RootMismatch, TileError, VerificationError

HASH_BYTES = 32
TILE_WIDTH = 256
"""Hashes in a full tile; C2SP fixes it, older Go logs chose it by a height in the path."""
TILE_BYTES = TILE_WIDTH * HASH_BYTES
MAX_PROOF_HASHES = 63
"""A tree has below 2^63 leaves, so no path is longer; also what the witness protocol allows."""
MAX_TREE_SIZE = 2**63 - 1
EMPTY_ROOT = sha256(b"").digest()
"""Root hash of the tree without leaves."""

HashReader = Callable[[int, int], bytes]
"""
Called with (binary level, index): the root of the leaves `[index 2^level, (index + 1) 2^level)`, a full subtree.

`tiles.hash_reader` makes one from stored tiles.
"""
TileReader = Callable[[int, int], bytes]
"""Called with (tile level, index): the 8,192 bytes of that full tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Up to 256 neighbouring hashes of one level."""

    level: int
    """0 for leaf hashes; hashes of level L stand for 256^L leaves each."""
    index: int
    """Place among the tiles of its level, counted from 0."""
    data: bytes
    """The hashes, 32 bytes each; 8,192 bytes when full."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry's bytes exactly as stored, never a re-encoding of them."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: bytes) -> bytes:
    """
    Root of a full subtree from its joined hashes of one level.

    Args:
        hashes: 32 bytes each, a power of two of them; callers have checked the length.
    """
    while len(hashes) > HASH_BYTES:
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 64]).digest() for at in range(0, len(hashes), 64)])
    return hashes


class Frontier:
    """
    The right edge of a growing tree: enough to append, to tell the root and to cut tiles.

    Not safe for concurrent use; owned by whoever appends. `copy` before a transaction that may fail.
    """

    __slots__ = ("_pending", "_size", "_stack")

    def __init__(self) -> None:
        self._size = 0
        self._stack: list[bytes] = []  # roots of the full subtrees, the largest first
        self._pending: list[bytearray] = []  # by level: the hashes of the tile not yet full

    @classmethod
    def restore(cls, *, tree_size: int, tail: Sequence[bytes], read_tile: TileReader) -> Self:
        """
        Make the state again from what a store keeps: full tiles and the leaf hashes after the last full tile.

        At most 255 tiles of each level are read, those whose roots stand in the unfinished tile one level up.

        Args:
            tree_size: Number of leaves.
            tail: The last `tree_size % 256` leaf hashes, oldest first.

        Raises:
            TileError: `tail` or a tile read has another length than `tree_size` implies.
        """
        if len(tail) != tree_size % TILE_WIDTH:
            raise TileError(f"tree size {tree_size} ends in {tree_size % TILE_WIDTH} loose leaves, got {len(tail)}")
        _require_hashes(tail)
        frontier = cls()
        frontier._size = tree_size
        frontier._pending.append(bytearray().join(tail))
        full_tiles = tree_size // TILE_WIDTH
        while full_tiles:
            level = len(frontier._pending)
            first = full_tiles - full_tiles % TILE_WIDTH
            roots = [
                _full_tile_root(read_tile(level - 1, index), level - 1, index) for index in range(first, full_tiles)
            ]
            frontier._pending.append(bytearray().join(roots))
            full_tiles //= TILE_WIDTH
        for hashes in reversed(frontier._pending):
            frontier._stack += _peaks(bytes(hashes))
        return frontier

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def copy(self) -> "Frontier":
        twin = Frontier()
        twin._size = self._size
        twin._stack = self._stack.copy()
        twin._pending = [hashes.copy() for hashes in self._pending]
        return twin

    def append(self, leaf: bytes) -> list[Tile]:
        """Append one leaf hash; the answer is that of `extend`."""
        return self.extend((leaf,))

    def extend(self, leaves: Sequence[bytes]) -> list[Tile]:
        """
        Append leaf hashes and return the tiles that became full, in the order in which they did.

        A tile comes before the one above that holds its root.

        Raises:
            TileError: A leaf hash has not 32 bytes; nothing was appended.
        """
        _require_hashes(leaves)
        full: list[Tile] = []
        if leaves and not self._pending:
            self._pending.append(bytearray())
        at, end = 0, len(leaves)
        while at < end:
            used = self._size % TILE_WIDTH
            if not used and end - at >= TILE_WIDTH:  # a whole tile at once: no hash of it needs the stack
                data = b"".join(leaves[at : at + TILE_WIDTH])
                full.append(Tile(level=0, index=self._size // TILE_WIDTH, data=data))
                self._push(1, self._size // TILE_WIDTH, perfect_root(data), full)
                self._size += TILE_WIDTH
                at += TILE_WIDTH
            else:
                stop = min(end, at + TILE_WIDTH - used)
                for leaf in leaves[at:stop]:
                    self._push(0, self._size, leaf, full)
                    self._size += 1
                at = stop
        return full

    def root(self) -> bytes:
        """Root hash of the leaves so far; costs one hash for each set bit of the size but one."""
        if not self._stack:
            return EMPTY_ROOT
        root = self._stack[-1]
        for peak in self._stack[-2::-1]:
            root = node_hash(peak, root)
        return root

    def edge(self) -> bytes:
        """The leaf hashes of the unfinished tile, joined; empty where the last one is full."""
        return bytes(self._pending[0]) if self._pending else b""

    def partial_tiles(self) -> list[Tile]:
        """The tiles not yet full, lowest level first; a level whose last tile is full has none."""
        return [
            Tile(level=level, index=self._size >> 8 * (level + 1), data=bytes(hashes))
            for level, hashes in enumerate(self._pending)
            if hashes
        ]

    def _push(self, level: int, position: int, subtree_root: bytes, full: list[Tile]) -> None:
        """Put one hash of a tile level after the others, carrying as far as its own tile reaches, then level by level."""
        while True:
            if level == len(self._pending):
                self._pending.append(bytearray())
            pending = self._pending[level]
            pending += subtree_root
            carry = position % TILE_WIDTH
            while carry & 1:
                subtree_root = sha256(b"\x01" + self._stack.pop() + subtree_root).digest()
                carry >>= 1
            if position % TILE_WIDTH != TILE_WIDTH - 1:
                self._stack.append(subtree_root)
                return
            full.append(Tile(level=level, index=position // TILE_WIDTH, data=bytes(pending)))
            pending.clear()
            level, position = level + 1, position // TILE_WIDTH


def compute_root(tree_size: int, read_hash: HashReader) -> bytes:
    """Root hash of the first `tree_size` leaves of a stored tree, with one read for each set bit of the size."""
    return _range_root(0, tree_size, read_hash) if tree_size else EMPTY_ROOT


def prove_inclusion(*, leaf_index: int, tree_size: int, read_hash: HashReader) -> list[bytes]:
    """
    Sibling hashes from the leaf's neighbour upwards (RFC 9162, section 2.1.3.1).

    Raises:
        VerificationError: There is no such leaf in a tree of this size.
    """
    _require_sizes(0 <= leaf_index < tree_size <= MAX_TREE_SIZE, f"no leaf {leaf_index} in a tree of size {tree_size}")
    path = []
    start, end = 0, tree_size
    while end - start > 1:
        middle = start + _split(end - start)
        if leaf_index < middle:
            path.append(_range_root(middle, end, read_hash))
            end = middle
        else:
            path.append(_range_root(start, middle, read_hash))
            start = middle
    return path[::-1]


def prove_consistency(*, old_size: int, new_size: int, read_hash: HashReader) -> list[bytes]:
    """
    Hashes that show the tree of `old_size` to be the beginning of the tree of `new_size` (RFC 9162, section 2.1.4.1).

    Raises:
        VerificationError: The sizes are not 0 < `old_size` <= `new_size`; the empty tree is the beginning of every tree.
    """
    _require_sizes(0 < old_size <= new_size <= MAX_TREE_SIZE, f"no proof from size {old_size} to size {new_size}")
    path = []
    start, end = 0, new_size
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_range_root(middle, end, read_hash))
            end = middle
        else:
            path.append(_range_root(start, middle, read_hash))
            start = middle
    if start:  # otherwise the part that is left is the old tree itself, whose root the verifier has
        path.append(_range_root(start, end, read_hash))
    return path[::-1]


def verify_inclusion(
    leaf_hash: bytes, *, leaf_index: int, tree_size: int, inclusion_path: Sequence[bytes], root_hash: bytes
) -> None:
    """
    Check that a leaf stands at `leaf_index` in the tree of `tree_size` leaves.

    Follows RFC 9162, section 2.1.3.2; the names are the RFC's.

    Args:
        leaf_index: Place of the leaf, counted from 0.
        tree_size: Number of leaves, one more than the last index.
        inclusion_path: Sibling hashes, 32 bytes each, from the leaf upwards.

    Raises:
        VerificationError: The path cannot belong to this index and size.
        RootMismatch: It can, and leads to another root.
    """
    _require_sizes(0 <= leaf_index < tree_size <= MAX_TREE_SIZE, f"no leaf {leaf_index} in a tree of size {tree_size}")
    _require_path((leaf_hash, root_hash), inclusion_path)
    fn, sn, r = leaf_index, tree_size - 1, leaf_hash
    for p in inclusion_path:
        if sn == 0:
            raise VerificationError(f"inclusion path is too long for leaf {leaf_index} of {tree_size}")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError(f"inclusion path is too short for leaf {leaf_index} of {tree_size}")
    if r != root_hash:
        raise RootMismatch(tree_size=tree_size, expected=root_hash, computed=r)


def verify_consistency(
    *, old_size: int, new_size: int, old_root: bytes, new_root: bytes, consistency_path: Sequence[bytes]
) -> None:
    """
    Check that the tree of `new_size` leaves begins with the tree of `old_size` leaves.

    Follows RFC 9162, section 2.1.4.2; the names are the RFC's. Size 0 proves nothing and is refused.

    Args:
        consistency_path: Hashes, 32 bytes each, as `prove_consistency` gives them; empty for equal sizes.

    Raises:
        VerificationError: The path cannot belong to these sizes.
        RootMismatch: It can, and leads to another old or new root.
    """
    _require_sizes(0 < old_size <= new_size <= MAX_TREE_SIZE, f"no proof from size {old_size} to size {new_size}")
    _require_path((old_root, new_root), consistency_path)
    if old_size == new_size:
        if consistency_path:
            raise VerificationError(f"consistency path between equal sizes {new_size} must be empty")
        if old_root != new_root:
            raise RootMismatch(tree_size=new_size, expected=new_root, computed=old_root)
        return
    path = list(consistency_path)
    if not old_size & (old_size - 1):  # a full subtree: its root is the first hash and known to both sides
        path.insert(0, old_root)
    if not path:
        raise VerificationError(f"consistency path from {old_size} to {new_size} is empty")
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise VerificationError(f"consistency path is too long for sizes {old_size} and {new_size}")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise VerificationError(f"consistency path is too short for sizes {old_size} and {new_size}")
    if fr != old_root:
        raise RootMismatch(tree_size=old_size, expected=old_root, computed=fr)
    if sr != new_root:
        raise RootMismatch(tree_size=new_size, expected=new_root, computed=sr)


def _split(count: int) -> int:
    """The largest power of two below `count` (> 1): where a tree of so many leaves is divided."""
    return 1 << (count - 1).bit_length() - 1


def _range_root(start: int, end: int, read_hash: HashReader) -> bytes:
    """Root of the leaves `[start, end)` where `start` is a multiple of a power of two not below their number."""
    peaks = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(read_hash(level, start >> level))
        start += 1 << level
    root = peaks.pop()
    while peaks:
        root = node_hash(peaks.pop(), root)
    return root


def _peaks(hashes: bytes) -> list[bytes]:
    """Roots of the full subtrees over a row of hashes, the largest first."""
    peaks, at = [], 0
    while at < len(hashes):
        width = HASH_BYTES << ((len(hashes) - at) // HASH_BYTES).bit_length() - 1
        peaks.append(perfect_root(hashes[at : at + width]))
        at += width
    return peaks


def _full_tile_root(data: bytes, level: int, index: int) -> bytes:
    if len(data) != TILE_BYTES:
        raise TileError(f"full tile {level}/{index} has {len(data)} bytes")
    return perfect_root(data)


def _require_hashes(hashes: Sequence[bytes]) -> None:
    if not set(map(len, hashes)) <= {HASH_BYTES}:
        raise TileError("a hash has not 32 bytes")


def _require_sizes(possible: bool, otherwise: str) -> None:
    if not possible:
        raise VerificationError(otherwise)


def _require_path(ends: Sequence[bytes], path: Sequence[bytes]) -> None:
    if len(path) > MAX_PROOF_HASHES:
        raise VerificationError(f"a path of {len(path)} hashes; no tree is that high")
    if not set(map(len, (*ends, *path))) <= {HASH_BYTES}:
        raise VerificationError("a hash has not 32 bytes")
