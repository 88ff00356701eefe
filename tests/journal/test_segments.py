"""The format of spool files: whatever happens to the bytes, whole frames are found and torn ones are not taken."""

from hypothesis import given, settings
from hypothesis import strategies as st

from openrouter_audit.journal.segments import HEADER_BYTES, Damage, Frame, SegmentHeader, frame_head, scan

MARKER = bytes(range(200, 208))
contents = st.lists(st.binary(min_size=16, max_size=120), min_size=1, max_size=8)


def a_file(sealed: list[bytes]) -> bytes:
    return b"".join(frame_head(MARKER, seq, each) + each for seq, each in enumerate(sealed))


def items(data: bytes) -> list[Frame | Damage]:
    return list(scan(memoryview(data), MARKER, 0))


def whole(data: bytes) -> list[tuple[int, bytes]]:
    return [(item.seq, bytes(item.sealed)) for item in items(data) if isinstance(item, Frame)]


def test_a_header_comes_back_as_it_was_written():
    header = SegmentHeader(
        segment=b"s" * 16, process=b"p" * 16, ordinal=3, created_us=5, marker=MARKER, sealed_key=b"k" * 80
    )
    data = header.encode()

    assert HEADER_BYTES == len(data)
    assert header == SegmentHeader.decode(data + b"frames")


@given(st.integers(min_value=0, max_value=HEADER_BYTES - 1), st.integers(min_value=1, max_value=255))
def test_a_header_with_a_changed_byte_is_none(at, flip):
    header = SegmentHeader(
        segment=b"s" * 16, process=b"p" * 16, ordinal=3, created_us=5, marker=MARKER, sealed_key=b"k" * 80
    )
    data = bytearray(header.encode())
    data[at] ^= flip

    assert SegmentHeader.decode(bytes(data)) is None


@given(contents)
def test_frames_are_read_as_they_were_written(sealed):
    assert list(enumerate(sealed)) == whole(a_file(sealed))
    assert all(isinstance(item, Frame) for item in items(a_file(sealed)))


@given(contents, st.data())
def test_a_file_cut_anywhere_gives_its_whole_frames_and_no_damage(sealed, data):
    """
    A live segment ends wherever its writer is: the rest is "not yet", and never damage.
    """
    full = a_file(sealed)
    cut = data.draw(st.integers(min_value=0, max_value=len(full)))
    found = items(full[:cut])

    assert all(isinstance(item, Frame) for item in found)
    expected, end = [], 0
    for seq, each in enumerate(sealed):
        end += 24 + len(each)
        if end <= cut:
            expected.append((seq, each))
    assert expected == whole(full[:cut])


@settings(max_examples=300)
@given(contents, st.data())
def test_a_changed_byte_costs_one_frame_and_no_other(sealed, data):
    full = bytearray(a_file(sealed))
    at = data.draw(st.integers(min_value=0, max_value=len(full) - 1))
    full[at] ^= data.draw(st.integers(min_value=1, max_value=255))
    start, hit = 0, 0
    for seq, each in enumerate(sealed):
        if start <= at < start + 24 + len(each):
            hit = seq
        start += 24 + len(each)

    assert [(seq, each) for seq, each in enumerate(sealed) if seq != hit] == whole(bytes(full))


@given(contents, st.data())
def test_a_torn_frame_between_whole_ones_is_skipped(sealed, data):
    """
    A short write of one thread, followed by a frame of another.
    """
    torn = frame_head(MARKER, 99, b"t" * 100) + b"t" * 100
    kept = data.draw(st.integers(min_value=1, max_value=len(torn) - 1))
    before = data.draw(st.integers(min_value=0, max_value=len(sealed) - 1))
    head, tail = a_file(sealed[:before]), a_file(sealed)[len(a_file(sealed[:before])) :]
    found = items(head + torn[:kept] + tail)

    assert list(enumerate(sealed)) == [(i.seq, bytes(i.sealed)) for i in found if isinstance(i, Frame)]
    assert [(len(head), len(head) + kept)] == [(i.offset, i.end) for i in found if isinstance(i, Damage)]


def test_a_torn_frame_whose_length_ends_with_the_file_does_not_swallow_the_next():
    """
    The torn frame says 200 bytes; 60 came, and the frame after it happens to end just where the 200 would.
    """
    torn = (frame_head(MARKER, 0, b"t" * 200) + b"t" * 200)[:84]
    following = frame_head(MARKER, 1, b"f" * 116) + b"f" * 116

    found = items(torn + following)
    assert [Damage, Frame] == [type(item) for item in found]
    assert [(1, b"f" * 116)] == whole(torn + following)


@given(st.permutations(range(5)))
def test_numbers_may_come_in_any_order(order):
    """
    Threads take their number before they write: the file has them as they came.
    """
    data = b"".join(frame_head(MARKER, seq, b"x" * 40) + b"x" * 40 for seq in order)

    assert list(order) == [seq for seq, _ in whole(data)]
