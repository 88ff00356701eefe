"""`TreeCheck` alone, over random trees and random damage."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_audit.core.merkle import TILE_WIDTH, Frontier, leaf_hash
from openrouter_audit.verification.tree import TreeCheck

LEAVES = [leaf_hash(b"record-%d" % number) for number in range(1_400)]


def tree_of(size):
    """Root and full tiles of the first leaves."""
    frontier = Frontier()
    tiles = {(tile.level, tile.index): tile.data for tile in frontier.extend(LEAVES[:size])}
    return frontier.root(), tiles


def check(rows, size, root, tiles, *, sizes=()):
    """Feed rows as the verifier does, and return what was found."""
    tree = TreeCheck(tree_size=size, root_hash=root, read_tile=lambda level, n: tiles.get((level, n)), sizes=sizes)
    for base in range(0, size, TILE_WIDTH):
        end = min(base + TILE_WIDTH, size)
        block = {index: rows[index] for index in range(base, end) if index in rows}
        if not block and max(rows, default=-1) < base:
            tree.add_absent()
            break
        if len(block) == TILE_WIDTH:
            tree.add_block(list(block.values()))
        else:
            tree.add_rows(block)
    for index in sorted(rows):
        if index >= size:
            tree.add_beyond(index, rows[index])
    return tree.finish()


def named(result):
    return [(one.kind, one.index) for one in result.findings]


def moved(rows, first, by):
    return {index + by if index >= first else index: row for index, row in sorted(rows.items())}


sizes = st.integers(1, 1_400) | st.sampled_from([1, 2, 255, 256, 257, 511, 512, 513, 768])


@given(sizes)
@settings(max_examples=30, deadline=None)
def test_a_genuine_tree_has_no_findings(size):
    root, tiles = tree_of(size)
    result = check(dict(enumerate(LEAVES[:size])), size, root, tiles, sizes=[0, size // 2, size])

    assert ([], root) == (named(result), result.root_hash)


@given(sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_changed_entries_under_full_tiles_are_all_named(size, data):
    """Whichever they are, and no other."""
    root, tiles = tree_of(size)
    full = size - size % TILE_WIDTH
    changed = sorted(data.draw(st.sets(st.integers(0, full - 1), min_size=1, max_size=20))) if full else []
    rows = dict(enumerate(LEAVES[:size])) | {index: leaf_hash(b"other %d" % index) for index in changed}

    assert [("entry_changed", index) for index in changed] == named(check(rows, size, root, tiles))


@given(sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_gaps_are_all_named(size, data):
    root, tiles = tree_of(size)
    gone = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=20)))
    rows = {index: row for index, row in enumerate(LEAVES[:size]) if index not in gone}

    assert [("entry_missing", index) for index in gone] == named(check(rows, size, root, tiles))


@given(sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_one_inserted_row_is_named_wherever_it_stands(size, data):
    root, tiles = tree_of(size)
    place = data.draw(st.integers(0, size))
    rows = moved(dict(enumerate(LEAVES[:size])), place, 1) | {place: leaf_hash(b"made up")}
    result = check(rows, size, root, tiles)

    assert ([("entry_extra", place)] if place < size else []) == named(result)  # beyond the tree is the verifier's
    assert (1 if place < size else 0) == result.shift


@given(sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_one_removed_row_is_named_though_the_others_moved_up(size, data):
    """After the last full tile only the fact can be told: some entry is missing."""
    root, tiles = tree_of(size)
    place = data.draw(st.integers(0, size - 1))
    rows = dict(enumerate(LEAVES[:size]))
    del rows[place]
    full = size - size % TILE_WIDTH

    assert [("entry_missing", place if place < full else size - 1)] == named(
        check(moved(rows, place, -1), size, root, tiles)
    )


def test_a_swap_over_the_edge_of_the_last_full_tile_is_no_insertion():
    """The row after the edge is the entry before it, as if one had been put in; but the log is not longer."""
    root, tiles = tree_of(257)
    rows = dict(enumerate(LEAVES[:257])) | {255: LEAVES[256], 256: LEAVES[255]}

    assert [("entry_reordered", 255), ("entry_reordered", 256)] == named(check(rows, 257, root, tiles))


@given(sizes.filter(lambda size: size > 1), st.data())
@settings(max_examples=40, deadline=None)
def test_two_swapped_rows_are_named_wherever_they_stand(size, data):
    root, tiles = tree_of(size)
    one, other = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=2, max_size=2)))
    rows = dict(enumerate(LEAVES[:size])) | {one: LEAVES[other], other: LEAVES[one]}
    result = check(rows, size, root, tiles)

    assert [("entry_reordered", one), ("entry_reordered", other)] == sorted(named(result))


@given(sizes, st.data())
@settings(max_examples=80, deadline=None)
def test_no_damage_of_any_kind_goes_unnoticed(size, data):
    """Rows shuffled, changed, dropped and added, tiles dropped and changed: something is always found."""
    root, tiles = tree_of(size)
    genuine = dict(enumerate(LEAVES[:size]))
    rows = dict(genuine)
    for index in data.draw(st.lists(st.integers(0, size - 1), max_size=8)):
        kind = data.draw(st.sampled_from(["change", "drop", "copy"]))
        if kind == "drop":
            rows.pop(index, None)
        else:
            rows[index] = leaf_hash(b"other") if kind == "change" else LEAVES[data.draw(st.integers(0, size - 1))]
    shown = dict(tiles)
    for name in data.draw(st.lists(st.sampled_from(sorted(tiles)), max_size=2)) if tiles else []:
        shown[name] = bytes(len(tiles[name]))
    result = check(rows, size, root, shown)

    assert bool(named(result)) == (rows != genuine or shown != tiles)
