"""
Undoes a response's content-encoding piece by piece, beside the client library that does the same for its caller.

Only reading needs this: hashes and sizes are those of the raw bytes (C8). What cannot be decoded here is not decoded; its
facts then come from the headers, and the stream ends with its close or its last byte.
"""

from __future__ import annotations

import importlib
import zlib
from typing import Any, Protocol

MAX_STEP_BYTES = 256 * 1024
"""Decoded at once: a small piece that unpacks to gigabytes is read in steps."""
MAX_STEPS = 64
"""Handed on of one piece: of what unpacks to more than 16 MiB both ends, which is where answers say what they cost."""
MAX_PIECE_BYTES = 128 * 1024 * 1024
"""What one piece may unpack to; more is made to keep a reader busy, and decoded no further."""


class Decoder(Protocol):
    def decode(self, piece: bytes) -> list[bytes]: ...


class _Steps:
    """What one piece unpacks to, step by step."""

    __slots__ = ("_size", "taken")

    def __init__(self) -> None:
        self._size = 0
        self.taken: list[bytes] = []

    def add(self, step: bytes) -> None:
        """
        Put a step behind the others; past `MAX_STEPS` the one in the middle gives way.

        Raises:
            ValueError: The piece unpacks to more than `MAX_PIECE_BYTES`.
        """
        self._size += len(step)
        if self._size > MAX_PIECE_BYTES:
            raise ValueError(f"more than {MAX_PIECE_BYTES} bytes in one piece")
        if len(self.taken) == MAX_STEPS:
            del self.taken[MAX_STEPS // 2]
        self.taken.append(step)


class _Zlib:
    """gzip, and deflate with its header or without: some servers leave it out, and browsers forgave them."""

    __slots__ = ("_inflater", "_start")

    def __init__(self, *, gzip: bool) -> None:
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16 if gzip else zlib.MAX_WBITS)
        self._start: bytes | None = None if gzip else b""

    def decode(self, piece: bytes) -> list[bytes]:
        if self._start is not None:
            piece = self._start + piece
            if len(piece) < 2:
                self._start = piece
                return []
            self._start = None
            # RFC 1950: method 8 in the low bits, and the two bytes are a multiple of 31.
            if piece[0] & 0x0F != 8 or int.from_bytes(piece[:2], "big") % 31:
                self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater = self._inflater
        if inflater.eof:
            return []
        step = inflater.decompress(piece, MAX_STEP_BYTES)
        if not inflater.unconsumed_tail:
            return [step]
        steps = _Steps()
        steps.add(step)
        # At its end zlib keeps what follows in `unconsumed_tail`, too, and would give nothing for it again and again.
        while inflater.unconsumed_tail and not inflater.eof:
            steps.add(inflater.decompress(inflater.unconsumed_tail, MAX_STEP_BYTES))
        return steps.taken


class _Brotli:
    """Brotli, of either package; a server uses it only when the client library has one of them and said so."""

    __slots__ = ("_inflater", "_limits")

    def __init__(self, inflater: Any) -> None:
        self._inflater = inflater
        # Before 1.2 neither package can stop within a piece; the client library unpacks as much beside us then.
        self._limits = {"output_buffer_limit": MAX_STEP_BYTES} if hasattr(inflater, "can_accept_more_data") else {}

    def decode(self, piece: bytes) -> list[bytes]:
        inflater, limits = self._inflater, self._limits
        if inflater.is_finished():
            return []
        steps, step = _Steps(), inflater.process(piece, **limits)
        steps.add(step)
        # A step of full size means that there may be more, also where all of the input is taken in already.
        while limits and (len(step) >= MAX_STEP_BYTES or not inflater.can_accept_more_data()):
            if inflater.is_finished():
                break
            step = inflater.process(b"", **limits)
            steps.add(step)
        return steps.taken


class _Zstd:
    """Zstandard as the standard library has it since Python 3.14, and its backport."""

    __slots__ = ("_inflater",)

    def __init__(self, inflater: Any) -> None:
        self._inflater = inflater

    def decode(self, piece: bytes) -> list[bytes]:
        inflater = self._inflater
        if inflater.eof:
            return []
        steps = _Steps()
        steps.add(inflater.decompress(piece, MAX_STEP_BYTES))
        while not inflater.needs_input and not inflater.eof:
            steps.add(inflater.decompress(b"", MAX_STEP_BYTES))
        return steps.taken


class _Zstandard:
    """Zstandard by the package of that name, whose writer gives each step by itself."""

    __slots__ = ("_steps", "_writer")

    def __init__(self, inflater: Any) -> None:
        self._steps = _Steps()
        self._writer = inflater.stream_writer(self, write_size=MAX_STEP_BYTES)

    def write(self, step: bytes) -> int:
        """Called by the writer, also where one piece gives many steps."""
        self._steps.add(bytes(step))
        return len(step)

    def decode(self, piece: bytes) -> list[bytes]:
        self._steps = _Steps()
        self._writer.write(piece)
        return self._steps.taken


def _brotli() -> Decoder | None:
    for name in ("brotlicffi", "brotli"):
        try:
            return _Brotli(importlib.import_module(name).Decompressor())
        except ImportError:
            continue
    return None


def _zstd() -> Decoder | None:
    for name, factory in (
        ("compression.zstd", "ZstdDecompressor"),
        ("backports.zstd", "ZstdDecompressor"),
        ("zstandard", "ZstdDecompressor"),
    ):
        try:
            inflater = getattr(importlib.import_module(name), factory)()
        except ImportError:
            continue
        return _Zstandard(inflater) if name == "zstandard" else _Zstd(inflater)
    return None


def decoder_for(content_encoding: str) -> Decoder | None:
    """A decoder for one content-encoding; None for one that is not known here, and for a chain of several."""
    match content_encoding:
        case "gzip" | "x-gzip":
            return _Zlib(gzip=True)
        case "deflate":
            return _Zlib(gzip=False)
        case "br":
            return _brotli()
        case "zstd":
            return _zstd()
        case _:
            return None
