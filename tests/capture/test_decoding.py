"""Content-encodings undone beside the client library: in steps, to their end and no further."""

import gzip
import os
import zlib

import pytest

from openrouter_audit.capture.decoding import (
    MAX_PIECE_BYTES,
    MAX_STEP_BYTES,
    MAX_STEPS,
    _Brotli,
    _Zstandard,
    _Zstd,
    decoder_for,
)

TEXT = os.urandom(1000) * 3000


class Endless:
    """Decoders of other packages, which need not be installed here: each gives as much as it is asked for, so often."""

    def __init__(self, steps, limited=True):
        self.left, self.eof, self.needs_input = steps, False, False
        if limited:
            self.can_accept_more_data = lambda: True

    def _step(self, limit):
        self.left -= 1
        self.eof = self.left <= 0
        self.needs_input = self.eof
        return bytes(limit)

    def is_finished(self):
        return self.eof

    def process(self, piece, output_buffer_limit=5):
        return self._step(output_buffer_limit)

    def decompress(self, piece, limit):
        return self._step(limit)

    def stream_writer(self, target, write_size):
        writer = self

        class Writer:
            def write(self, piece):
                while not writer.eof:
                    target.write(writer._step(write_size))

        return Writer()


@pytest.mark.parametrize("tail", [b"", b"junk", b"\x1f\x8b" * 500, bytes(1_000_000)])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_follows_the_end_is_left_alone(encoding, tail):
    """It was asked for again and again, for ever, where the end came after more than one step."""
    data = gzip.compress(TEXT, mtime=0) if encoding == "gzip" else zlib.compress(TEXT)
    decoder = decoder_for(encoding)

    assert TEXT == b"".join(decoder.decode(data + tail))
    assert [] == decoder.decode(tail)


@pytest.mark.parametrize("cut", [1, 7, 1000, 10**9])
def test_any_cutting_gives_the_same_bytes(cut):
    data = gzip.compress(TEXT, mtime=0)
    decoder = decoder_for("gzip")

    assert TEXT == b"".join(step for at in range(0, len(data), cut) for step in decoder.decode(data[at : at + cut]))


def test_of_a_piece_that_unpacks_to_much_both_ends_are_handed_on():
    data = gzip.compress(b"front" + bytes(60_000_000) + b"back", mtime=0)
    steps = decoder_for("gzip").decode(data)

    assert MAX_STEPS == len(steps)
    assert (b"front", b"back") == (steps[0][:5], steps[-1][-4:])
    assert max(map(len, steps)) <= MAX_STEP_BYTES


@pytest.mark.parametrize("decoder", [_Brotli, _Zstd, _Zstandard])
def test_decoders_of_other_packages_are_asked_for_steps(decoder):
    steps = decoder(Endless(100)).decode(b"x")

    assert MAX_STEPS == len(steps)
    assert {MAX_STEP_BYTES} == {len(step) for step in steps}
    with pytest.raises(ValueError, match=str(MAX_PIECE_BYTES)):
        decoder(Endless(10**9)).decode(b"x")


@pytest.mark.parametrize("decoder", [_Brotli, _Zstd])
def test_after_their_end_they_are_asked_no_more(decoder):
    inflater = decoder(Endless(1))
    inflater.decode(b"x")

    assert [] == inflater.decode(b"more")


def test_an_older_brotli_gives_what_it_gives():
    """It cannot stop within a piece."""
    assert [bytes(5)] == _Brotli(Endless(3, limited=False)).decode(b"x")
