"""
Entries against tiles against the signed root.

Theory of operation. The signed root decides what is genuine, and nothing else does. The entries are hashed into a tree of
their own, 256 at a time. Where the leaf hashes of such a block are not the stored tile, a second tree goes on with the
hashes of the tiles. At the end three roots can be compared: the signed one, that of the entries, that of the tiles.

- The entries lead to the signed root: they are genuine, and a tile that differs from them was changed.
- The tiles lead to it: they are genuine, and each hash in them tells which entry is not what it was. The rows that
  differ are aligned with the hashes that differ, as a diff does, to tell a changed entry from a missing, added or moved one.
- Neither does: something was made over to fit. What can still be said is said by older checkpoints, which are kept every
  hour: the first one that does not fit bounds the place from above, the last one that does from below.

The hashes of entries after the last full tile stand beside the checkpoint, as the store's word. A gap between the rows
shows by its index; for the rest we try which single repair (one entry taken out) leads to the signed root, and if one does,
it is proven to be the one. Where none does and the stored hashes lead to the signed root, they are genuine, and name each
entry that is not what it was. Where they do not, we try all pairs of entries: two may have been swapped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from openrouter_audit.core.merkle import HASH_BYTES, TILE_BYTES, TILE_WIDTH, Frontier, Tile, node_hash, perfect_root
from openrouter_audit.verification.findings import MAX_FINDINGS_PER_CLASS, Finding, finding

ReadTile = Callable[[int, int], bytes | None]
"""Called with (tile level, index): the stored full tile, None where there is none."""
_NO_HASH: Final = bytes(HASH_BYTES)
"""Stands where a row is missing and no tile tells its hash; the root is then not that of any log."""
_MAX_DIFFERENCES: Final = 65_536
"""So many differing rows are held against each other; where every row differs, the first ones tell why."""
_LONGEST_INSERTION: Final = 64
"""So many foreign rows in a row are recognised as added; more look like as many changed ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeResult:
    """What the tree said once all entries are in."""

    root_hash: bytes
    """Root over the entries as they are."""
    whole: bool
    """There was a row, or at least a hash, for every index."""
    findings: tuple[Finding, ...]
    shift: int
    """Rows that were added less rows that were taken out, with the later ones renumbered."""


class TreeCheck:
    """
    Takes the rows of a log in order and says where they are not what was signed.

    Args:
        tree_size: As the checkpoint says.
        root_hash: As the checkpoint says.
        edge: Leaf hashes after the last full tile, joined, as the store has them; may be empty.
        sizes: Sizes of older checkpoints at which the root is wanted; see `roots`.
    """

    def __init__(
        self, *, tree_size: int, root_hash: bytes, read_tile: ReadTile, edge: bytes = b"", sizes: Sequence[int] = ()
    ) -> None:
        self._tree_size, self._root_hash, self._read_tile = tree_size, root_hash, read_tile
        self._sizes = sorted(size for size in sizes if size <= tree_size)
        self._next_size = self._sizes[0] if self._sizes else tree_size + 1
        self._tail_start = tree_size - tree_size % TILE_WIDTH
        self._edge = [edge[at : at + HASH_BYTES] for at in range(0, len(edge), HASH_BYTES)]
        self._entries = Frontier()
        self._tiles: Frontier | None = None  # from the first difference on: the tree over the stored hashes
        self._unlike_entries: list[tuple[int, int]] = []  # stored tiles that the entries do not lead to
        self._unlike_children: list[tuple[int, int]] = []  # stored tiles that are not what the tiles below say
        self._expected: list[tuple[int, bytes]] = []  # index and stored hash, where the row has another hash
        self._actual: list[tuple[int, bytes]] = []  # index and hash of those rows
        self._tail: dict[int, bytes] = {}  # rows after the last full tile, those beyond the tree too
        self._missing: list[int] = []
        self._cut = tree_size  # first index of those after which there is no row at all
        self._full_part: Frontier | None = None
        self.roots: dict[int, bytes] = {}
        """Root over the first entries, for each of the wanted sizes."""

    # Taking rows in ---------------------------------------------------------------------------------------------

    def add_block(self, leaves: list[bytes]) -> None:
        """Take in the leaf hashes of a whole block of 256, none missing."""
        base = self._entries.size
        self._note_roots(leaves)
        full = self._entries.extend(leaves)
        if self._tiles is None:
            for tile in full:
                if self._read_tile(tile.level, tile.index) != tile.data:
                    break
            else:
                return
        self._add_slowly(base, dict(enumerate(leaves, base)), leaves, full)

    def add_rows(self, rows: Mapping[int, bytes]) -> None:
        """Take in a block with gaps, or the last one: hashes by index, all of one block."""
        base = self._entries.size
        end = min(base + TILE_WIDTH, self._tree_size)
        missing = [index for index in range(base, end) if index not in rows]
        self._missing += missing
        stored = self._stored_hashes(base // TILE_WIDTH) if missing and end - base == TILE_WIDTH else None
        leaves = [
            rows.get(index) or (_NO_HASH if stored is None else stored[index - base]) for index in range(base, end)
        ]
        self._note_roots(leaves)
        if base == self._tail_start:
            self._tail.update(rows)
            self._full_part = (self._tiles or self._entries).copy()
            if self._tiles is not None:
                self._tiles.extend(leaves)
            self._entries.extend(leaves)
            return
        self._add_slowly(base, rows, leaves, self._entries.extend(leaves))

    def add_absent(self) -> None:
        """There is no row from here on, however many the checkpoint claims."""
        first = self._entries.size
        self._cut = first
        self._missing += range(first, min(self._tree_size, first + 2 * MAX_FINDINGS_PER_CLASS))

    def add_beyond(self, index: int, leaf: bytes) -> None:
        """Take in a row after the last index of the tree: it may be an old one, moved by an insertion."""
        if len(self._tail) < 4 * TILE_WIDTH:
            self._tail[index] = leaf

    def _add_slowly(self, base: int, rows: Mapping[int, bytes], leaves: list[bytes], full: list[Tile]) -> None:
        n = base // TILE_WIDTH
        if self._tiles is None:
            self._tiles = self._before(base)
        stored = self._stored_hashes(n)
        for tile in full:
            if self._read_tile(tile.level, tile.index) != tile.data:
                self._unlike_entries.append((tile.level, tile.index))
        if stored is None:
            self._unlike_children.append((0, n))
            stored = leaves
        for index, hash_ in enumerate(stored, base):
            row = rows.get(index)
            if row != hash_ and len(self._expected) < _MAX_DIFFERENCES:
                self._expected.append((index, hash_))
                if row is not None:
                    self._actual.append((index, row))
        for tile in self._tiles.extend(stored):
            if tile.level and self._read_tile(tile.level, tile.index) != tile.data:
                self._unlike_children.append((tile.level, tile.index))

    def _before(self, base: int) -> Frontier:
        """The tree up to the block that differs first: there entries and tiles agree."""
        return Frontier.restore(tree_size=base, tail=(), read_tile=lambda level, n: self._read_tile(level, n) or b"")

    def _stored_hashes(self, n: int) -> list[bytes] | None:
        data = self._read_tile(0, n)
        if data is None or len(data) != TILE_BYTES:
            return None
        return [data[at : at + HASH_BYTES] for at in range(0, TILE_BYTES, HASH_BYTES)]

    def _note_roots(self, leaves: list[bytes]) -> None:
        """Keep the roots of the wanted sizes that end within this block. Called before it is taken in."""
        base = self._entries.size
        while self._next_size <= base + len(leaves):
            part = self._entries.copy()
            part.extend(leaves[: self._next_size - base])
            self.roots[self._next_size] = part.root()
            place = bisect_left(self._sizes, self._next_size + 1)
            self._next_size = self._sizes[place] if place < len(self._sizes) else self._tree_size + 1

    # Saying what is wrong ---------------------------------------------------------------------------------------

    def finish(self) -> TreeResult:
        """Compare the roots and name what differs. Called once, after the last row."""
        whole = self._entries.size == self._tree_size and not any(
            index >= self._tail_start or not self._has_hash(index) for index in self._missing
        )
        root = self._entries.root()
        if whole and root == self._root_hash:
            found = [_changed_tile(level, n) for level, n in self._unlike_entries]
            found += [_missing(index) for index in self._missing]
            if self._edge and self._edge != [self._tail[index] for index in range(self._tail_start, self._tree_size)]:
                found.append(_changed_tile(0, self._tail_start // TILE_WIDTH))
            return TreeResult(root_hash=root, whole=True, findings=tuple(found), shift=0)
        found = [_changed_tile(level, n) for level, n in self._unlike_children]
        alignment = _Alignment(
            self._expected,
            self._actual,
            self._tail,
            last_full=self._tail_start - 1,
            long=any(index >= self._tree_size for index in self._tail),
            short=self._cut < self._tree_size or self._tree_size - 1 in self._missing,
        )
        found += alignment.findings
        shift = alignment.shift
        tail_missing = [index for index in self._missing if index >= min(self._tail_start, self._cut)]
        if alignment.shift < 0:  # the last rows are absent because earlier ones were taken out
            tail_missing = tail_missing[: max(0, len(tail_missing) + alignment.shift)]
        found += [_missing(index) for index in tail_missing]
        if not tail_missing and self._tiles_root(alignment) != self._root_hash:
            repair = (
                self._added_to_tail(alignment) or self._named_by_edge(alignment) or self._swapped_in_tail(alignment)
            )
            shift += sum(one.kind == "entry_extra" for one in repair)
            found += repair or [self._root_finding(root)]
        return TreeResult(root_hash=root, whole=whole, findings=tuple(found), shift=shift)

    def _has_hash(self, index: int) -> bool:
        return self._stored_hashes(index // TILE_WIDTH) is not None

    def _tail_rows(self, alignment: _Alignment) -> list[bytes | None]:
        """Hashes of the rows after the last full tile, put back to their places; None for one that is not there."""
        shift = alignment.shift
        rows = self._tail | alignment.put_back
        if shift < 0:
            rows |= dict(self._actual[-2 * TILE_WIDTH :])
        return [rows.get(index + shift) for index in range(self._tail_start, self._tree_size)]

    def _tail_hashes(self, alignment: _Alignment) -> list[bytes] | None:
        """The same, or None where one is not there."""
        hashes = self._tail_rows(alignment)
        return None if None in hashes else [hash_ for hash_ in hashes if hash_ is not None]

    def _full_tree(self) -> Frontier:
        """The tree up to the last full tile, over the stored hashes."""
        whole = self._full_part if self._full_part is not None else self._tiles or self._entries
        return whole.copy()

    def _tiles_root(self, alignment: _Alignment) -> bytes | None:
        """Root over the tiles and the rows after them; None where rows are missing."""
        hashes = self._tail_hashes(alignment)
        if hashes is None:
            return None
        tree = self._full_tree()
        tree.extend(hashes)
        return tree.root()

    def _added_to_tail(self, alignment: _Alignment) -> list[Finding]:
        """The one row after the last full tile without which the others lead to the signed root, if there is one."""
        hashes = self._tail_hashes(alignment)
        beyond = self._tail.get(self._tree_size + alignment.shift)
        if hashes is not None and beyond is not None:
            left = self._full_tree()
            for place in range(len(hashes)):
                tree = left.copy()
                tree.extend([*hashes[:place], *hashes[place + 1 :], beyond])
                if tree.root() == self._root_hash:
                    return [finding("entry_extra", "an entry that was not signed", index=self._tail_start + place)]
        return []

    def _swapped_in_tail(self, alignment: _Alignment) -> list[Finding]:
        """
        The one swap after the last full tile that leads to the signed root, if there is one.

        Asked last: where the stored hashes are genuine they say it at once, and here all pairs are tried.
        """
        hashes = self._tail_hashes(alignment)
        pair = None if hashes is None else _find_swap(self._full_tree(), hashes, self._root_hash)
        if pair is None:
            return []
        one, other = (self._tail_start + place for place in pair)
        return [
            finding("entry_reordered", f"holds entry {there}", index=here)
            for here, there in ((one, other), (other, one))
        ]

    def _named_by_edge(self, alignment: _Alignment) -> list[Finding]:
        """The rows after the last full tile that are not what their stored hashes say, where these are genuine."""
        tree = self._full_tree()
        tree.extend([hash_ for hash_ in self._edge if len(hash_) == HASH_BYTES])
        if tree.size != self._tree_size or tree.root() != self._root_hash:
            return []
        signed = dict(enumerate(self._edge, self._tail_start))
        rows = dict(enumerate(self._tail_rows(alignment), self._tail_start))
        differing = {index: hash_ for index, hash_ in signed.items() if rows[index] != hash_}
        homes = {hash_: index for index, hash_ in signed.items()}
        found = []
        for index, hash_ in differing.items():
            row = rows[index]
            if row is None:
                found.append(_missing(index))
            elif homes.get(row) in differing:
                found.append(finding("entry_reordered", f"holds entry {homes[row]}", index=index))
            else:
                detail = f"its hash is {row.hex()}, signed is {hash_.hex()}"
                found.append(finding("entry_changed", detail, index=index))
        return found

    def _root_finding(self, root: bytes) -> Finding:
        detail = f"the entries lead to root {root.hex()}, signed is {self._root_hash.hex()}"
        if self._tree_size > self._tail_start and not self._expected and self._tiles is None:
            detail += f"; entries and tiles agree, and no tile holds the hashes from {self._tail_start} on"
        return finding("root_mismatch", detail)


class _Alignment:
    """
    Which rows and which signed hashes belong together, where they differ.

    Args:
        expected: Index and signed hash, ascending.
        actual: Index and hash of the rows there, ascending; an index may be absent.
        later: Rows that no tile speaks of.
        last_full: Index of the last entry a tile speaks of.
        short: The last row of the log is not there.
        long: There are rows after it.
    """

    def __init__(
        self,
        expected: list[tuple[int, bytes]],
        actual: list[tuple[int, bytes]],
        later: Mapping[int, bytes],
        *,
        last_full: int,
        short: bool,
        long: bool,
    ) -> None:
        self._expected, self._actual, self._later = expected, actual, later
        self._last_full, self._short, self._long = last_full, short, long
        self._home = {hash_: index for index, hash_ in expected}
        self._place = {hash_: index for index, hash_ in later.items()} | {hash_: index for index, hash_ in actual}
        self._rows = {**later, **dict(actual)}
        self.findings: list[Finding] = []
        self.shift = 0
        """Rows that were added less rows that were taken out, with the later ones renumbered."""
        self.put_back: dict[int, bytes] = {}
        """Hashes of rows after the last full tile that were exchanged with rows before."""
        self._align()

    def _align(self) -> None:
        expected, actual = self._expected, self._actual
        e = a = 0
        while e < len(expected) and a < len(actual):
            (index, hash_), (at, row) = expected[e], actual[a]
            if hash_ == row:
                e, a = e + 1, a + 1
            elif index + self.shift not in self._rows:  # a gap: nothing was renumbered here
                self._say("entry_missing", "there is no such row", index)
                e += 1
            elif row not in self._home and self._is_insertion(at, hash_):
                self._say("entry_extra", "an entry that was not signed", at)
                a, self.shift = a + 1, self.shift + 1
            elif hash_ not in self._place and self._is_deletion(e, row):
                self._say("entry_missing", "the entries after it were renumbered", index)
                e, self.shift = e + 1, self.shift - 1
            elif row in self._home:
                self._say("entry_reordered", f"holds entry {self._home[row]}", index)
                e, a = e + 1, a + 1
            elif hash_ in self._place:
                place = self._place[hash_]
                self._say("entry_reordered", f"stands at {place}", index)
                if place in self._later:
                    self._say("entry_reordered", f"holds entry {index}", place)
                    self.put_back[place] = row
                e, a = e + 1, a + 1
            else:
                self._say("entry_changed", f"its hash is {row.hex()}, signed is {hash_.hex()}", index)
                e, a = e + 1, a + 1
        if len(expected) == _MAX_DIFFERENCES:
            return  # what follows was not looked at
        for index, hash_ in expected[e:]:
            if index + self.shift not in self._rows:
                self._say("entry_missing", "there is no such row", index)
            elif hash_ not in self._place:
                self._say("entry_missing", "another row stands in its place", index)

    def _is_insertion(self, at: int, hash_: bytes) -> bool:
        """Whether the signed hash follows after some foreign rows."""
        for further in range(at + 1, at + 1 + _LONGEST_INSERTION):
            row = self._rows.get(further)
            if row == hash_:  # one step over the last full tile this is also what an exchange looks like
                return further <= self._last_full or self._long
            if row is None or row in self._home:
                return False
        return False

    def _is_deletion(self, e: int, row: bytes) -> bool:
        """Whether the row is a later entry, after some signed hashes that are nowhere."""
        for _, hash_ in self._expected[e + 1 : e + 1 + _LONGEST_INSERTION]:
            if hash_ == row:
                return True
            if hash_ in self._place:
                return False
        return self._short and self._expected[e][0] == self._last_full

    def _say(self, kind: str, detail: str, index: int) -> None:
        self.findings.append(finding(kind, detail, index=index))


def _changed_tile(level: int, n: int) -> Finding:
    return finding("tile_mismatch", f"tile {level}/{n} is not what the hashes below it lead to")


def _missing(index: int) -> Finding:
    return finding("entry_missing", "there is no such row", index=index)


def _peaks(tree: Frontier) -> list[bytes]:
    """Roots of the full subtrees a tree of whole blocks consists of, the largest first."""
    peaks = []
    for tile in reversed(tree.partial_tiles()):
        at = 0
        while at < len(tile.data):
            width = HASH_BYTES << ((len(tile.data) - at) // HASH_BYTES).bit_length() - 1
            peaks.append(perfect_root(tile.data[at : at + width]))
            at += width
    return peaks


def _find_swap(left: Frontier, hashes: list[bytes], root_hash: bytes) -> tuple[int, int] | None:
    """The two places in the unfinished block whose exchange leads to the root: at most 32,640 pairs are tried."""
    levels = [list(hashes)]  # full subtrees over the block, by height; an odd last one has no parent
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    peaks = _peaks(left)
    heights = [height for height in range(len(levels) - 1, -1, -1) if len(hashes) >> height & 1]

    def root_with(changes: dict[int, bytes]) -> bytes:
        ends: dict[int, bytes] = {}
        for height, level in enumerate(levels):
            if height in heights:
                last = len(level) - 1
                ends[height] = changes.get(last, level[last])
            above: dict[int, bytes] = {}
            for at in changes:
                parent = at >> 1
                if parent not in above and (at | 1) < len(level):
                    one, other = at & ~1, at | 1
                    above[parent] = sha256(
                        b"\x01" + changes.get(one, level[one]) + changes.get(other, level[other])
                    ).digest()
            changes = above
        row = [*peaks, *(ends[height] for height in heights)]
        root = row.pop()
        while row:
            root = node_hash(row.pop(), root)
        return root

    for other in range(1, len(hashes)):
        for one in range(other):
            if root_with({one: hashes[other], other: hashes[one]}) == root_hash:
                return one, other
    return None
