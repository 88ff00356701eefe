from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core import vectors

from openrouter_audit.core import merkle, tiles
from openrouter_audit.core.tiles import TilePath, decode_path, encode_path
from openrouter_audit.errors import TileError

RECORDS = vectors.records(300)
LEAVES = [merkle.leaf_hash(record) for record in RECORDS]


def layout(size):
    """All files of the log over the first records, by path; made by the frontier and the bundle encoder."""
    frontier = merkle.Frontier()
    parts = [*frontier.extend(LEAVES[:size]), *frontier.partial_tiles()]
    files = {TilePath(level=tile.level, index=tile.index, width=len(tile.data) // 32): tile.data for tile in parts}
    for path in list(files):
        if path.level == 0:
            entries = RECORDS[path.index * 256 : path.index * 256 + path.width]
            files[TilePath(level=None, index=path.index, width=path.width)] = tiles.encode_bundle(entries)
    return files


def test_files_of_the_300_entry_log_are_the_published_ones():
    files = {encode_path(path): data for path, data in layout(300).items()}
    assert vectors.V6_FILES == {path: (len(data), sha256(data).hexdigest()) for path, data in files.items()}
    assert files["tile/entries/001.p/44"].startswith(bytes.fromhex("000a7265636f72642d323536"))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 300])
def test_list_of_files_is_what_the_frontier_makes(size):
    assert sorted(map(encode_path, layout(size))) == sorted(map(encode_path, tiles.tile_paths(size)))


def test_list_of_files_since_a_size_holds_only_what_changed():
    assert ["tile/entries/001.p/44", "tile/0/001.p/44"] == [
        encode_path(path) for path in tiles.tile_paths(300, since_size=256)
    ]
    assert [] == list(tiles.tile_paths(300, since_size=300))


def test_pruned_log_still_proves_what_it_kept():
    """
    Pruned to index 256: the first full tile is deleted. The root and index 256 stand, index 255 cannot be proven.
    """
    files = layout(300)
    del files[TilePath(level=0, index=0)]
    del files[TilePath(level=None, index=0)]
    root = merkle.compute_root(300, tiles.hash_reader(300, files.__getitem__))
    assert vectors.V5_CHECKPOINTS[300].split("\n")[2] == vectors.base64.b64encode(root).decode()
    path = merkle.prove_inclusion(leaf_index=256, tree_size=300, read_hash=tiles.hash_reader(300, files.__getitem__))
    merkle.verify_inclusion(LEAVES[256], leaf_index=256, tree_size=300, inclusion_path=path, root_hash=root)
    with pytest.raises(KeyError):
        merkle.prove_inclusion(leaf_index=255, tree_size=300, read_hash=tiles.hash_reader(300, files.__getitem__))


def test_proofs_read_from_tiles_are_the_published_ones():
    reader = tiles.hash_reader(300, layout(300).__getitem__)
    assert vectors.unbase64(vectors.V9_PATH) == merkle.prove_inclusion(leaf_index=123, tree_size=300, read_hash=reader)
    for (old_size, new_size), path in vectors.V4_CONSISTENCY.items():
        if new_size == 300:
            assert vectors.unbase64(path) == merkle.prove_consistency(
                old_size=old_size, new_size=new_size, read_hash=reader
            )


def test_reader_refuses_what_is_not_in_the_tree_or_has_another_length():
    reader = tiles.hash_reader(300, layout(300).__getitem__)
    for level, index in [(0, 300), (0, -1), (9, 0), (8, 1)]:
        with pytest.raises(TileError):
            reader(level, index)
    with pytest.raises(TileError):
        tiles.hash_reader(300, lambda _path: bytes(8191))(0, 0)


def test_root_of_a_tile_is_one_hash_of_the_level_above():
    files = layout(300)
    assert files[TilePath(level=1, index=0, width=1)] == tiles.tile_root(files[TilePath(level=0, index=0)])
    with pytest.raises(TileError):
        tiles.tile_root(files[TilePath(level=0, index=1, width=44)])


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (0, "000"),
        (5, "005"),
        (999, "999"),
        (1000, "x001/000"),
        (1234067, "x001/x234/067"),
        (123456789, "x123/x456/789"),
    ],
)
def test_paths_are_written_in_groups_of_three(index, text):
    assert f"tile/63/{text}" == encode_path(TilePath(level=63, index=index))
    assert f"tile/entries/{text}.p/255" == encode_path(TilePath(level=None, index=index, width=255))


@given(
    st.builds(
        TilePath,
        level=st.none() | st.integers(0, 63),
        index=st.integers(0, tiles.MAX_TILE_INDEX),
        width=st.integers(1, 256),
    )
)
def test_path_reads_as_it_was_written(path):
    assert path == decode_path(encode_path(path))


@pytest.mark.parametrize(
    "text",
    [
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x000/001",
        "tile/0/01",
        "tile/0/0001",
        "tile/0/x01/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/044",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/64/000",
        "tile/00/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/../000",
        "tile/../0/000",
        "tile/0/%30%30%30",
        "tile/0/000/",
        "/tile/0/000",
        "tile//000",
        "tile/0/",
        "tile/0",
        "tile/8/0/005",
        "tile/data/000",
        "tile/entries/64/000",
        "checkpoint",
        "tile/0/X001/000",
        "tile/0/x001/000.p/1.p/1",
        "tile/0/000.P/1",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
    ],
)
def test_path_in_any_other_spelling_is_refused(text):
    with pytest.raises(TileError):
        decode_path(text)


@pytest.mark.parametrize(
    "text", ["", "tile/0/000\n", " tile/0/000", "tile/0/000\0", "tile/0/" + "x000/" * 5000 + "000"]
)
def test_path_with_anything_around_it_is_refused(text):
    with pytest.raises(TileError):
        decode_path(text)


@pytest.mark.parametrize(
    "path",
    [
        TilePath(level=64, index=0),
        TilePath(level=-1, index=0),
        TilePath(level=0, index=-1),
        TilePath(level=0, index=0, width=0),
        TilePath(level=0, index=0, width=257),
    ],
)
def test_impossible_path_is_not_written(path):
    with pytest.raises(TileError):
        encode_path(path)


def test_partial_widths():
    assert (0, 1, 0) == tuple(tiles.partial_width(level, 256) for level in range(3))
    assert (112, 17, 1, 0) == tuple(tiles.partial_width(level, 70_000) for level in range(4))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=256))
def test_bundle_reads_as_it_was_written(entries):
    assert entries == tiles.decode_bundle(tiles.encode_bundle(entries), count=len(entries))


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=5), st.data())
def test_bundle_cut_short_lengthened_or_miscounted_is_refused(entries, data):
    bundle = tiles.encode_bundle(entries)
    cut = data.draw(st.integers(0, len(bundle) - 1))
    for bad, count in [
        (bundle[:cut], len(entries)),
        (bundle + b"\0", len(entries)),
        (bundle, len(entries) - 1),
        (bundle, len(entries) + 1),
    ]:
        with pytest.raises(TileError):
            tiles.decode_bundle(bad, count=count)


def test_changed_byte_of_a_bundle_is_refused_or_gives_another_root():
    """
    A length that no longer fits is refused; a changed entry has another leaf hash.
    """
    bundle = tiles.encode_bundle(RECORDS[:7])
    for changed in vectors.all_changes(bundle):
        try:
            entries = tiles.decode_bundle(changed, count=7)
        except TileError:
            continue
        frontier = merkle.Frontier()
        frontier.extend([merkle.leaf_hash(entry) for entry in entries])
        assert vectors.V1_ROOTS[7] != frontier.root().hex()


def test_bundle_has_room_for_65535_bytes_and_256_entries():
    assert [b"x" * 65_535] == tiles.decode_bundle(tiles.encode_bundle([b"x" * 65_535]), count=1)
    for entries in ([b"x" * 65_536], [], [b""] * 257):
        with pytest.raises(TileError):
            tiles.encode_bundle(entries)


def test_tile_is_split_only_at_its_width():
    assert LEAVES[:256] == tiles.split_tile(b"".join(LEAVES[:256]))
    for data, width in [(bytes(8191), 256), (bytes(8192), 255), (bytes(64), 1)]:
        with pytest.raises(TileError):
            tiles.split_tile(data, width)
