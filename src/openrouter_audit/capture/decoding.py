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
"""Decoded at once: a small piece that unpacks to gigabytes is read in steps, and what is kept of it is bounded anyway."""


class Decoder(Protocol):
    def decode(self, piece: bytes) -> list[bytes]: ...


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
        steps = [self._inflater.decompress(piece, MAX_STEP_BYTES)]
        while self._inflater.unconsumed_tail:
            steps.append(self._inflater.decompress(self._inflater.unconsumed_tail, MAX_STEP_BYTES))
        return steps


class _Foreign:
    """A decoder of another package; a server uses these only when the client library has the package and said so."""

    __slots__ = ("_step",)

    def __init__(self, step: Any) -> None:
        self._step = step

    def decode(self, piece: bytes) -> list[bytes]:
        return [self._step(piece)]


def _brotli() -> Decoder | None:
    for name in ("brotlicffi", "brotli"):
        try:
            inflater = importlib.import_module(name).Decompressor()
        except ImportError:
            continue
        return _Foreign(inflater.decompress if hasattr(inflater, "decompress") else inflater.process)
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
        return _Foreign(inflater.decompressobj().decompress if name == "zstandard" else inflater.decompress)
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
