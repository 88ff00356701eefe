"""`TreeCheck` alone, over random trees and random damage."""

from __future__ import annotations

import pytest
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


def check(rows, size, root, tiles, *, sizes=(), edge=()):
    """Feed rows as the verifier does, and return what was found."""
    tree = TreeCheck(
        tree_size=size,
        root_hash=root,
        read_tile=lambda level, n: tiles.get((level, n)),
        sizes=sizes,
        edge=b"".join(edge),
    )
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


# What is in the way of each other -------------------------------------------------------------------------------


def damaged(size, *, inserted=(), removed=(), changed=()):
    """
    The rows of a log after some were made up, taken out, or written over.

    Places are those of the log that was signed; later rows are renumbered, as an attacker would do it.
    """
    rows = [leaf_hash(b"other %d" % at) if at in changed else row for at, row in enumerate(LEAVES[:size])]
    for place in sorted({*inserted, *removed}, reverse=True):
        if place in removed:
            del rows[place]
        else:
            rows.insert(place, leaf_hash(b"made up %d" % place))
    return dict(enumerate(rows))


def found_in(rows, size=300, *, edge=None):
    root, tiles = tree_of(size)
    stored = LEAVES[size - size % TILE_WIDTH : size] if edge is None else edge
    return named(check(rows, size, root, tiles, edge=stored))


def test_a_row_made_up_and_the_last_one_taken_out_are_both_named():
    """Rows are as many as before, and each after the made-up one stands one further on."""
    assert [("entry_extra", 10), ("entry_missing", 299)] == found_in(damaged(300, inserted=[10], removed=[299]))


def test_a_row_made_up_and_the_last_one_taken_out_leave_the_root_where_no_hash_tells_more():
    """Without the hashes beside the checkpoint nobody can say which entry is the last one."""
    assert [("entry_extra", 10), ("root_mismatch", None)] == found_in(
        damaged(300, inserted=[10], removed=[299]), edge=()
    )


def test_a_row_taken_out_and_a_later_one_changed_are_both_named_and_no_other():
    """The rows behind stand one place before their hashes; they are held against them where they belong."""
    assert [("entry_missing", 10), ("entry_changed", 290)] == found_in(damaged(300, removed=[10], changed=[290]))


def test_a_row_made_up_and_a_later_one_changed_are_both_named_and_no_other():
    assert [("entry_extra", 10), ("entry_changed", 290)] == found_in(damaged(300, inserted=[10], changed=[290]))


def test_rows_swapped_over_the_edge_and_one_changed_after_it_are_named_once_each():
    rows = damaged(300, changed=[290]) | {100: LEAVES[270], 270: LEAVES[100]}

    assert [("entry_reordered", 100), ("entry_reordered", 270), ("entry_changed", 290)] == found_in(rows)


def test_a_row_added_at_the_end_hides_no_changed_one_after_the_last_tile():
    """That one is the verifier's to name; without it the others still lead to another root."""
    rows = damaged(300, changed=[290]) | {300: leaf_hash(b"added")}

    assert [("entry_changed", 290)] == found_in(rows)
    assert [("root_mismatch", None)] == found_in(rows, edge=())


def test_an_entry_whose_place_after_a_made_up_one_was_written_over_is_missing():
    """Entry 255 would stand at 256, where no tile tells; there is another row."""
    rows = damaged(300, inserted=[10])
    rows[256] = leaf_hash(b"other")

    assert [("entry_extra", 10), ("entry_missing", 255)] == found_in(rows)


def test_an_entry_moved_over_another_one_is_named_at_both_places():
    """Entry 9 is gone, entry 5 stands in its place, and a made-up one where that stood."""
    rows = damaged(300, changed=[5]) | {9: LEAVES[5]}

    assert [("entry_reordered", 5), ("entry_reordered", 9)] == found_in(rows)


def test_a_changed_entry_beside_two_that_were_swapped_is_not_taken_for_a_missing_one():
    rows = damaged(300, changed=[5]) | {6: LEAVES[7], 7: LEAVES[6]}

    assert [("entry_changed", 5), ("entry_reordered", 6), ("entry_reordered", 7)] == found_in(rows)


def test_of_endless_rows_after_the_end_few_are_kept():
    """Whatever somebody appends, it neither hides the entry before it nor fills the memory."""
    size = 10
    root, tiles = tree_of(size)
    tree = TreeCheck(tree_size=size, root_hash=root, read_tile=lambda level, n: tiles.get((level, n)))
    tree.add_rows(dict(enumerate(LEAVES[:size])) | {3: leaf_hash(b"other")})
    for index in range(size, size + 5_000):
        tree.add_beyond(index, leaf_hash(b"added"))

    assert 4 * TILE_WIDTH == len(tree._tail)
    assert [("root_mismatch", None)] == named(tree.finish())


@pytest.fixture(scope="module")
def high():
    """A tree of 257 full tiles and 8 leaves, high enough for a tile over tiles; with its root and tiles."""
    leaves = [leaf_hash(b"%d" % number) for number in range(257 * TILE_WIDTH + 8)]
    frontier = Frontier()
    tiles = {(tile.level, tile.index): tile.data for tile in frontier.extend(leaves)}
    return leaves, frontier.root(), tiles


def test_a_changed_tile_over_tiles_is_named_beside_a_changed_entry(high):
    """The tiles below it lead to the signed root, so it is the one that was changed, and entry 7 is named all the same."""
    leaves, root, tiles = high
    rows = dict(enumerate(leaves)) | {7: leaf_hash(b"other")}
    shown = tiles | {(1, 0): tiles[1, 0][:-1] + b"x"}
    result = check(rows, len(leaves), root, shown)

    assert [("tile_mismatch", None), ("entry_changed", 7)] == named(result)
    assert "tile 1/0" in result.findings[0].detail


def test_a_changed_tile_over_tiles_is_named_where_the_entries_are_genuine(high):
    leaves, root, tiles = high
    result = check(dict(enumerate(leaves)), len(leaves), root, tiles | {(1, 0): bytes(len(tiles[1, 0]))})

    assert [("tile_mismatch", None)] == named(result)
    assert "tile 1/0" in result.findings[0].detail


def test_a_row_made_up_before_more_rows_than_are_compared_is_named_alone(high):
    """Only the first 65,536 that differ are held against each other: the last of them has not lost its entry."""
    leaves, root, tiles = high
    rows = dict(enumerate([leaf_hash(b"made up"), *leaves]))

    assert [("entry_extra", 0)] == named(check(rows, len(leaves), root, tiles))
