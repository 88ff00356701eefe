from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core import vectors

from openrouter_audit.core import merkle
from openrouter_audit.core.merkle import Frontier, leaf_hash, node_hash
from openrouter_audit.errors import RootMismatch, TileError, VerificationError

LEAVES = [leaf_hash(record) for record in vectors.records(70_000)]


def naive_root(leaves):
    """The definition of RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_reader(leaves):
    return lambda level, index: naive_root(leaves[index << level : (index + 1) << level])


def naive_level(leaves, level):
    """All hashes of a tile level."""
    span = 256**level
    return [naive_root(leaves[at : at + span]) for at in range(0, len(leaves) // span * span, span)]


def frontier_of(size, batch=1000):
    frontier, tiles = Frontier(), []
    for at in range(0, size, batch):
        tiles += frontier.extend(LEAVES[at : min(at + batch, size)])
    return frontier, tiles


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size):
    frontier, _ = frontier_of(size)
    assert vectors.V1_ROOTS[size] == frontier.root().hex()
    assert vectors.V1_ROOTS[size] == merkle.compute_root(size, naive_reader(LEAVES[:size])).hex()


def test_roots_of_the_classic_leaf_set():
    frontier = Frontier()
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in vectors.V2_LEAVES]
    frontier.append(leaves[0])
    assert frontier.root().hex().startswith("6e340b9c")
    assert frontier.root().hex().endswith("17afa01d")
    frontier.extend(leaves[1:])
    assert vectors.V2_ROOT_OF_8 == frontier.root().hex()


def test_root_is_the_definition_at_every_size_to_600():
    """
    Leaves come one by one; a tile is told exactly when its last leaf came, and its hashes are those of the definition.
    """
    frontier, tiles = Frontier(), []
    for size in range(601):
        assert naive_root(LEAVES[:size]) == frontier.root()
        assert size == frontier.size
        assert size // 256 == len(tiles)
        new = frontier.append(LEAVES[size])
        assert ((size + 1) % 256 == 0) == bool(new)
        tiles += new
    assert [(0, 0), (0, 1)] == [(tile.level, tile.index) for tile in tiles]
    assert b"".join(LEAVES[256:512]) == tiles[1].data


def test_tiles_of_every_level_are_told_and_are_those_of_the_definition():
    """
    70,000 leaves: 273 full tiles at level 0, one at level 1, and partial ones of widths 112, 17 and 1.
    """
    frontier, tiles = frontier_of(70_000, batch=777)
    assert [(0, index) for index in range(273)] == [(t.level, t.index) for t in tiles if t.level == 0]
    assert [(1, 0)] == [(t.level, t.index) for t in tiles if t.level]
    position = [(t.level, t.index) for t in tiles].index((1, 0))
    assert (0, 255) == (tiles[position - 1].level, tiles[position - 1].index)
    level_1 = naive_level(LEAVES, 1)
    assert b"".join(level_1[:256]) == tiles[position].data
    assert [(0, 273, 112), (1, 1, 17), (2, 0, 1)] == [
        (t.level, t.index, len(t.data) // 32) for t in frontier.partial_tiles()
    ]
    assert b"".join(level_1[256:]) == frontier.partial_tiles()[1].data
    assert naive_level(LEAVES, 2)[0] == frontier.partial_tiles()[2].data
    assert naive_root(LEAVES) == frontier.root()


@given(st.lists(st.integers(0, 700), max_size=8))
def test_how_leaves_are_batched_makes_no_difference(batches):
    frontier, tiles, at = Frontier(), [], 0
    for count in batches:
        tiles += frontier.extend(LEAVES[at : at + count])
        at += count
    expected, expected_tiles = frontier_of(at, batch=1)
    assert (expected.root(), expected_tiles) == (frontier.root(), tiles)
    assert expected.partial_tiles() == frontier.partial_tiles()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 300, 511, 512, 65_535, 65_536, 65_537, 69_000])
def test_state_is_made_again_from_full_tiles_and_loose_leaves(size):
    """
    Only what a store keeps is handed over; the new frontier goes on exactly as the old one.
    """
    frontier, tiles = frontier_of(size)
    stored = {(tile.level, tile.index): tile.data for tile in tiles}
    restored = Frontier.restore(
        tree_size=size, tail=LEAVES[size - size % 256 : size], read_tile=lambda level, index: stored[level, index]
    )
    assert (frontier.size, frontier.root()) == (restored.size, restored.root())
    more = LEAVES[size : size + 600]
    assert frontier.extend(more) == restored.extend(more)
    assert frontier.root() == restored.root()
    assert frontier.partial_tiles() == restored.partial_tiles()


def test_state_is_not_made_from_a_wrong_number_of_leaves_or_a_short_tile():
    with pytest.raises(TileError):
        Frontier.restore(tree_size=300, tail=LEAVES[256:299], read_tile=lambda _level, _index: bytes(8192))
    with pytest.raises(TileError):
        Frontier.restore(tree_size=300, tail=LEAVES[256:300], read_tile=lambda _level, _index: bytes(8191))


def test_copy_is_not_touched_by_what_is_appended_afterwards():
    frontier, _ = frontier_of(300)
    kept = frontier.copy()
    frontier.extend(LEAVES[300:900])
    assert (300, naive_root(LEAVES[:300])) == (kept.size, kept.root())
    kept.extend(LEAVES[300:900])
    assert frontier.root() == kept.root()


def test_hash_of_another_length_is_refused_and_nothing_is_appended():
    frontier, _ = frontier_of(5)
    with pytest.raises(TileError):
        frontier.extend([LEAVES[5], b"short"])
    assert (5, vectors.V1_ROOTS[5]) == (frontier.size, frontier.root().hex())


@pytest.mark.parametrize("place", vectors.V3_INCLUSION)
def test_inclusion_proofs_are_the_published_ones(place):
    leaf_index, tree_size = place
    leaves = LEAVES[:tree_size]
    path = merkle.prove_inclusion(leaf_index=leaf_index, tree_size=tree_size, read_hash=naive_reader(leaves))
    assert vectors.unbase64(vectors.V3_INCLUSION[place]) == path
    merkle.verify_inclusion(
        LEAVES[leaf_index],
        leaf_index=leaf_index,
        tree_size=tree_size,
        inclusion_path=path,
        root_hash=naive_root(leaves),
    )


@pytest.mark.parametrize("sizes", vectors.V4_CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(sizes):
    old_size, new_size = sizes
    path = merkle.prove_consistency(old_size=old_size, new_size=new_size, read_hash=naive_reader(LEAVES[:new_size]))
    assert vectors.unbase64(vectors.V4_CONSISTENCY[sizes]) == path
    merkle.verify_consistency(
        old_size=old_size,
        new_size=new_size,
        old_root=naive_root(LEAVES[:old_size]),
        new_root=naive_root(LEAVES[:new_size]),
        consistency_path=path,
    )


def test_every_proof_of_every_small_tree_verifies():
    roots = [naive_root(LEAVES[:size]) for size in range(71)]
    for size in range(1, 71):
        read_hash = naive_reader(LEAVES[:size])
        for place in range(size):
            path = merkle.prove_inclusion(leaf_index=place, tree_size=size, read_hash=read_hash)
            merkle.verify_inclusion(
                LEAVES[place], leaf_index=place, tree_size=size, inclusion_path=path, root_hash=roots[size]
            )
            path = merkle.prove_consistency(old_size=place + 1, new_size=size, read_hash=read_hash)
            merkle.verify_consistency(
                old_size=place + 1,
                new_size=size,
                old_root=roots[place + 1],
                new_root=roots[size],
                consistency_path=path,
            )


def mutations(path):
    return st.one_of(
        st.integers(0, len(path)).map(lambda at: [*path[:at], bytes(32), *path[at:]]),
        *(
            [
                st.integers(0, len(path) - 1).map(lambda at: path[:at] + path[at + 1 :]),
                st.tuples(st.integers(0, len(path) - 1), st.integers(0, 255)).map(
                    lambda bit: [
                        (int.from_bytes(p, "big") ^ 1 << bit[1]).to_bytes(32, "big") if at == bit[0] else p
                        for at, p in enumerate(path)
                    ]
                ),
                st.permutations(path).filter(lambda other: other != path),
            ]
            if len(path) > 1
            else []
        ),
    )


@given(st.data())
def test_mutated_inclusion_proof_never_verifies(data):
    """
    One hash changed, dropped, added, or two exchanged; another index, another leaf: none of it proves anything.
    """
    size = data.draw(st.integers(1, 2000), label="size")
    place = data.draw(st.integers(0, size - 1), label="place")
    leaves = LEAVES[:size]
    root = naive_root(leaves)
    path = merkle.prove_inclusion(leaf_index=place, tree_size=size, read_hash=naive_reader(leaves))
    merkle.verify_inclusion(LEAVES[place], leaf_index=place, tree_size=size, inclusion_path=path, root_hash=root)
    bad = data.draw(mutations(path), label="bad")
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(LEAVES[place], leaf_index=place, tree_size=size, inclusion_path=bad, root_hash=root)
    other = data.draw(st.integers(-1, size).filter(lambda index: index != place), label="other")
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(LEAVES[place], leaf_index=other, tree_size=size, inclusion_path=path, root_hash=root)
    with pytest.raises(RootMismatch):
        merkle.verify_inclusion(LEAVES[size], leaf_index=place, tree_size=size, inclusion_path=path, root_hash=root)


@given(st.data())
def test_mutated_consistency_proof_never_verifies(data):
    new_size = data.draw(st.integers(2, 2000), label="new")
    old_size = data.draw(st.integers(1, new_size - 1), label="old")
    old_root, new_root = naive_root(LEAVES[:old_size]), naive_root(LEAVES[:new_size])
    sizes = {"old_size": old_size, "new_size": new_size}
    path = merkle.prove_consistency(**sizes, read_hash=naive_reader(LEAVES[:new_size]))
    merkle.verify_consistency(**sizes, old_root=old_root, new_root=new_root, consistency_path=path)
    bad = data.draw(mutations(path), label="bad")
    for old, new, hashes in (
        (old_root, new_root, bad),
        (LEAVES[old_size], new_root, path) if old_size > 1 else (new_root, new_root, path),
        (old_root, LEAVES[0], path),
        (new_root, new_root, path),
    ):
        with pytest.raises(VerificationError):
            merkle.verify_consistency(**sizes, old_root=old, new_root=new, consistency_path=hashes)


def test_impossible_sizes_and_paths_are_refused_before_hashing():
    root = naive_root(LEAVES[:7])
    for leaf_index, tree_size in [(7, 7), (-1, 7), (0, 0), (0, -1), (0, 2**63)]:
        with pytest.raises(VerificationError, match="no leaf"):
            merkle.verify_inclusion(
                LEAVES[0], leaf_index=leaf_index, tree_size=tree_size, inclusion_path=[], root_hash=root
            )
    for old_size, new_size in [(0, 7), (8, 7), (-1, 7), (1, 2**63)]:
        with pytest.raises(VerificationError, match="no proof"):
            merkle.verify_consistency(
                old_size=old_size, new_size=new_size, old_root=root, new_root=root, consistency_path=[]
            )
    for path in ([b"short"], [bytes(33)], [bytes(32)] * 64):
        with pytest.raises(VerificationError, match=r"32 bytes|no tree is that high"):
            merkle.verify_inclusion(LEAVES[0], leaf_index=0, tree_size=7, inclusion_path=path, root_hash=root)
        with pytest.raises(VerificationError, match=r"32 bytes|no tree is that high"):
            merkle.verify_consistency(old_size=3, new_size=7, old_root=root, new_root=root, consistency_path=path)
    with pytest.raises(VerificationError, match="must be empty"):
        merkle.verify_consistency(old_size=7, new_size=7, old_root=root, new_root=root, consistency_path=[root])
    with pytest.raises(RootMismatch):
        merkle.verify_consistency(old_size=7, new_size=7, old_root=root, new_root=LEAVES[0], consistency_path=[])


def test_node_posing_as_leaf_with_a_shortened_path_is_refused():
    """
    The upper part of a genuine path leads from an inner node to the right root; only its length gives it away.
    """
    root = naive_root(LEAVES[:8])
    path = merkle.prove_inclusion(leaf_index=0, tree_size=8, read_hash=naive_reader(LEAVES[:8]))
    for height in (1, 2, 3):
        with pytest.raises(VerificationError, match="too short"):
            merkle.verify_inclusion(
                naive_root(LEAVES[: 1 << height]),
                leaf_index=0,
                tree_size=8,
                inclusion_path=path[height:],
                root_hash=root,
            )
    with pytest.raises(VerificationError, match="too long"):
        merkle.verify_inclusion(LEAVES[0], leaf_index=0, tree_size=8, inclusion_path=[*path, bytes(32)], root_hash=root)


def test_consistency_path_that_ends_before_the_root_is_refused():
    """
    One hash leads from 4 leaves to the root of 8; shown as the root of 16 it is too short.
    """
    path = merkle.prove_consistency(old_size=4, new_size=8, read_hash=naive_reader(LEAVES[:8]))
    with pytest.raises(VerificationError, match="too short"):
        merkle.verify_consistency(
            old_size=4,
            new_size=16,
            old_root=naive_root(LEAVES[:4]),
            new_root=naive_root(LEAVES[:8]),
            consistency_path=path,
        )


def test_an_empty_consistency_path_between_different_sizes_is_refused():
    with pytest.raises(VerificationError, match="is empty"):
        merkle.verify_consistency(
            old_size=3,
            new_size=8,
            old_root=naive_root(LEAVES[:3]),
            new_root=naive_root(LEAVES[:8]),
            consistency_path=(),
        )


def test_mismatch_says_both_roots():
    with pytest.raises(RootMismatch) as caught:
        merkle.verify_inclusion(LEAVES[0], leaf_index=0, tree_size=1, inclusion_path=[], root_hash=LEAVES[1])
    assert (1, LEAVES[1], LEAVES[0]) == (caught.value.tree_size, caught.value.expected, caught.value.computed)


def test_an_entry_cannot_pose_as_a_node():
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_the_edge_of_a_tree_is_what_stands_after_its_last_full_tile():
    """Leaf hashes, joined, oldest first; nothing where the last tile is full, or nothing is there."""
    assert b"" == Frontier().edge()
    for size in (1, 255, 256, 257, 600):
        frontier, _ = frontier_of(size)
        assert b"".join(LEAVES[size - size % 256 : size]) == frontier.edge()


def test_nothing_appended_to_nothing_leaves_nothing():
    frontier = Frontier()

    assert [] == frontier.extend([])
    assert [] == frontier._pending
    assert frontier.partial_tiles() == []


def no_hash(level, index):
    """Of a tree all of whose leaves are alike."""
    hash_ = bytes(32)
    for _ in range(level):
        hash_ = node_hash(hash_, hash_)
    return hash_


def test_the_largest_tree_there_may_be_has_proofs_and_no_larger_one():
    """2^63 - 1 leaves; a path in it has 63 hashes at most, and one of exactly that many is read."""
    largest = merkle.MAX_TREE_SIZE
    path = merkle.prove_inclusion(leaf_index=0, tree_size=largest, read_hash=no_hash)
    assert 63 == len(path) == merkle.MAX_PROOF_HASHES
    root = merkle.compute_root(largest, no_hash)
    merkle.verify_inclusion(no_hash(0, 0), leaf_index=0, tree_size=largest, inclusion_path=path, root_hash=root)
    assert 62 == len(merkle.prove_consistency(old_size=2**62, new_size=largest, read_hash=no_hash)) + 61
    ends = merkle.prove_consistency(old_size=largest, new_size=largest, read_hash=no_hash)
    merkle.verify_consistency(old_size=largest, new_size=largest, old_root=root, new_root=root, consistency_path=ends)
    for refused in (
        lambda: merkle.prove_inclusion(leaf_index=0, tree_size=largest + 1, read_hash=no_hash),
        lambda: merkle.prove_inclusion(leaf_index=5, tree_size=5, read_hash=no_hash),
        lambda: merkle.prove_consistency(old_size=1, new_size=largest + 1, read_hash=no_hash),
        lambda: merkle.prove_consistency(old_size=0, new_size=5, read_hash=no_hash),
    ):
        with pytest.raises(VerificationError, match=r"no (leaf|proof)"):
            refused()


def test_a_mismatch_says_of_which_tree():
    """Of the old one, of the new one, or of both where they are of one size."""
    leaves = LEAVES[:7]
    reader = naive_reader(leaves)
    old, new = naive_root(leaves[:3]), naive_root(leaves)
    path = merkle.prove_consistency(old_size=3, new_size=7, read_hash=reader)
    for roots, size in (((bytes(32), new), 3), ((old, bytes(32)), 7)):
        with pytest.raises(RootMismatch) as caught:
            merkle.verify_consistency(
                old_size=3, new_size=7, old_root=roots[0], new_root=roots[1], consistency_path=path
            )
        assert size == caught.value.tree_size
    with pytest.raises(RootMismatch) as caught:
        merkle.verify_consistency(old_size=7, new_size=7, old_root=old, new_root=new, consistency_path=[])
    assert (7, new, old) == (caught.value.tree_size, caught.value.expected, caught.value.computed)


@pytest.mark.parametrize(
    ("error", "said", "refused"),
    [
        (TileError, "tree size 258 ends in 2 loose leaves, got 1", lambda: Frontier.restore(tree_size=258, tail=LEAVES[:1], read_tile=None)),
        (TileError, "full tile 0/1 has 5 bytes", lambda: Frontier.restore(tree_size=512, tail=[], read_tile=lambda level, n: b"".join(LEAVES[:256]) if n == 0 else b"short")),
        (TileError, "full tile 1/0 has 1 bytes", lambda: Frontier.restore(tree_size=65_536, tail=[], read_tile=lambda level, n: bytes(1) if level else bytes(8_192))),
        (TileError, "a hash has not 32 bytes", lambda: Frontier().append(b"short")),
        (VerificationError, "a hash has not 32 bytes", lambda: merkle.verify_inclusion(b"s", leaf_index=0, tree_size=1, inclusion_path=[], root_hash=bytes(32))),
        (VerificationError, "a path of 64 hashes; no tree is that high", lambda: merkle.verify_inclusion(bytes(32), leaf_index=0, tree_size=1, inclusion_path=[bytes(32)] * 64, root_hash=bytes(32))),
        (VerificationError, "no leaf 1 in a tree of size 1", lambda: merkle.prove_inclusion(leaf_index=1, tree_size=1, read_hash=no_hash)),
        (VerificationError, "no proof from size 2 to size 1", lambda: merkle.prove_consistency(old_size=2, new_size=1, read_hash=no_hash)),
        (VerificationError, "consistency path is too long for sizes 1 and 2", lambda: merkle.verify_consistency(old_size=1, new_size=2, old_root=bytes(32), new_root=bytes(32), consistency_path=[bytes(32)] * 9)),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_words(error, said, refused):
    with pytest.raises(error) as caught:
        refused()

    assert said == str(caught.value)
