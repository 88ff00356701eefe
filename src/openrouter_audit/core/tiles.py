"""
The static layout of a log: paths, tiles and entry bundles (C2SP tlog-tiles).

Every file of the layout but `checkpoint` never changes once written, so its path says all there is to know: level, place,
and the number of hashes where the tile is not full yet. A path, a tile and a bundle each have exactly one spelling, and
decoding refuses every other: what two readers could read differently would be two logs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from openrouter_audit.core.merkle import HASH_BYTES, TILE_BYTES, TILE_WIDTH, HashReader, perfect_root
from openrouter_audit.errors import TileError

MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535
"""An entry's length is 16 bits in a bundle; our own entries stay far below."""
MAX_TILE_INDEX = 2**55 - 1
"""A tree below 2^63 leaves has no more tiles than this at level 0."""

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePath:
    """Which file of the layout: a tile, or the bundle of entries under a tile of level 0."""

    level: int | None
    """Tile level 0..63; None for an entry bundle."""
    index: int
    """Place among the tiles of its level, counted from 0."""
    width: int = TILE_WIDTH
    """Hashes (or entries) in the file: 256 when full, else 1..255."""


def encode_path(path: TilePath) -> str:
    """
    Spell a path, for example `tile/0/x001/x234/067.p/44`.

    Raises:
        TileError: Level, index or width is out of range.
    """
    if path.level is not None and not 0 <= path.level <= MAX_LEVEL:
        raise TileError(f"tile level {path.level} is not 0..{MAX_LEVEL}")
    if not 0 <= path.index <= MAX_TILE_INDEX:
        raise TileError(f"tile index {path.index} is out of range")
    if not 1 <= path.width <= TILE_WIDTH:
        raise TileError(f"tile width {path.width} is not 1..{TILE_WIDTH}")
    rest, last = divmod(path.index, 1000)
    groups = f"{last:03}"
    while rest:
        rest, group = divmod(rest, 1000)
        groups = f"x{group:03}/{groups}"
    suffix = "" if path.width == TILE_WIDTH else f".p/{path.width}"
    return f"tile/{'entries' if path.level is None else path.level}/{groups}{suffix}"


def decode_path(text: str) -> TilePath:
    """
    Read a path, refusing any that `encode_path` would spell otherwise.

    Raises:
        TileError: This is not the path of a tile or bundle.
    """
    match = _PATH.fullmatch(text)
    if match is None or len(text) > 80:
        raise TileError("not the path of a tile or entry bundle")
    level, groups, width = match.groups()
    path = TilePath(
        level=None if level == "entries" else int(level),
        index=int(groups.replace("x", "").replace("/", "")),
        width=TILE_WIDTH if width is None else int(width),
    )
    if encode_path(path) != text:
        raise TileError("the path of a tile or bundle in another spelling than its own")
    return path


def partial_width(level: int, tree_size: int) -> int:
    """Hashes in the last, unfinished tile of a level; 0 where there is none."""
    return (tree_size >> 8 * level) % TILE_WIDTH


def tile_paths(tree_size: int, *, since_size: int = 0) -> Iterator[TilePath]:
    """
    The files a tree of `tree_size` consists of, bundles first, then tiles from the lowest level up.

    Args:
        since_size: Leave out what was already full at this size, and what a tree of this size had no need to change.
    """
    yield from _level_paths(None, since_size, tree_size)
    level = 0
    while tree_size >> 8 * level:
        yield from _level_paths(level, since_size >> 8 * level, tree_size >> 8 * level)
        level += 1


def split_tile(data: bytes, width: int = TILE_WIDTH) -> list[bytes]:
    """
    The hashes of a tile, in order.

    Raises:
        TileError: The tile has not `width` hashes of 32 bytes.
    """
    if len(data) != width * HASH_BYTES:
        raise TileError(f"a tile of width {width} has {len(data)} bytes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def tile_root(data: bytes) -> bytes:
    """
    Root of a full tile: the hash that stands for it one level up. A partial tile is never hashed into the level above.

    Raises:
        TileError: The tile is not full.
    """
    if len(data) != TILE_BYTES:
        raise TileError(f"a full tile has {TILE_BYTES} bytes, this one {len(data)}")
    return perfect_root(data)


def hash_reader(tree_size: int, read_tile: Callable[[TilePath], bytes]) -> HashReader:
    """
    Read single hashes of a stored tree for `prove_*` and `compute_root`.

    Each tile is read at most once in the life of the reader: make one for each proof or small group of proofs.

    Args:
        tree_size: Size of the tree; decides which tiles are partial, and of what width.
        read_tile: Gives the bytes of a tile; asked for none that a tree of this size does not have.

    Raises:
        TileError: (by the reader) A tile has another length than its path says, or lies outside of the tree.
    """
    tiles: dict[tuple[int, int], bytes] = {}

    def read_hash(binary_level: int, index: int) -> bytes:
        if not 0 <= index << binary_level < (index + 1) << binary_level <= tree_size:
            raise TileError(f"subtree {index} of 2^{binary_level} leaves is not in a tree of size {tree_size}")
        level, height = divmod(binary_level, 8)
        tile_index, first = divmod(index << height, TILE_WIDTH)
        if (level, tile_index) not in tiles:
            full = tile_index < tree_size >> 8 * (level + 1)
            width = TILE_WIDTH if full else partial_width(level, tree_size)
            data = read_tile(TilePath(level=level, index=tile_index, width=width))
            if len(data) != width * HASH_BYTES:
                raise TileError(f"tile {level}/{tile_index} of width {width} has {len(data)} bytes")
            tiles[level, tile_index] = data
        return perfect_root(tiles[level, tile_index][first * HASH_BYTES : (first + (1 << height)) * HASH_BYTES])

    return read_hash


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """
    Join the entries of one tile, each after its length as 16 bits, big-endian.

    Raises:
        TileError: There are none or more than 256, or one is longer than 65,535 bytes.
    """
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise TileError(f"a bundle holds 1..{TILE_WIDTH} entries, not {len(entries)}")
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileError(f"an entry of {len(entry)} bytes fits no bundle")
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def decode_bundle(data: bytes, *, count: int) -> list[bytes]:
    """
    The entries of a bundle, byte for byte as they were hashed.

    Args:
        count: The width of the tile over it.

    Raises:
        TileError: A length points past the end, bytes are left over, or there are not `count` entries.
    """
    entries: list[bytes] = []
    at = 0
    for _ in range(count):
        start = at + 2
        if start > len(data):
            raise TileError(f"the bundle ends before its entry {len(entries)} of {count}")
        at = start + (data[at] << 8 | data[at + 1])
        if at > len(data):
            raise TileError(f"entry {len(entries)} of the bundle points past its end")
        entries.append(data[start:at])
    if at != len(data):
        raise TileError(f"{len(data) - at} bytes after the last of {count} entries")
    return entries


def _level_paths(level: int | None, since: int, count: int) -> Iterator[TilePath]:
    """Paths for `count` hashes of a level of which `since` were there before."""
    if since == count:
        return
    for index in range(since // TILE_WIDTH, count // TILE_WIDTH):
        yield TilePath(level=level, index=index)
    if count % TILE_WIDTH:
        yield TilePath(level=level, index=count // TILE_WIDTH, width=count % TILE_WIDTH)
