"""
What a verifier is shown: the Protocol through which it sees a log, whatever keeps it.

Nothing that comes through here is believed. Rows are bytes, because a text that was tampered with need not be UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownHead:
    """The newest state, as the store has it beside the signed note."""

    origin: str
    tree_size: int
    root_hash: bytes
    at_us: int
    note: bytes
    """The signed checkpoint, byte for byte."""
    edge: bytes
    """Leaf hashes of the entries after the last full tile, joined; empty where the store does not have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHead:
    """Size and root that were written down outside the store, in `<home>/head`."""

    origin: str
    tree_size: int
    root_hash: bytes


class ShownPosition(Protocol):
    """How far one spool segment has become entries, as the store says."""

    @property
    def process(self) -> str: ...
    @property
    def entries(self) -> int:
        """Entries whose `writer.segment` is this segment."""
        ...

    @property
    def last_seq(self) -> int:
        """Highest `writer.seq` among them; -1 where there is none."""
        ...


class LogSource(Protocol):
    """
    One state of a log, the same through all calls. One thread uses an instance.

    Every method raises `OpenRouterAuditError` where the store cannot be read.
    """

    def head(self) -> ShownHead: ...

    def batches(self, start: int | None = None) -> Iterator[list[tuple[int, bytes]]]:
        """
        Index and stored bytes of the entries, of all or from `start` on, in ascending order of index.

        Some hundred at a time, cut anywhere: handing on single rows would cost as much as hashing them.
        """
        ...

    def tile(self, level: int, n: int) -> bytes | None:
        """A full tile, or None where there is none."""
        ...

    def tile_names(self) -> Iterator[tuple[int, int]]:
        """Level and index of every tile that is kept."""
        ...

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """The checkpoints that are kept for ever: tree size and signed note, by ascending size."""
        ...

    def positions(self) -> Mapping[str, ShownPosition]:
        """By segment."""
        ...

    def open_calls(self) -> Mapping[str, str]:
        """Intents that wait for their outcome, as the store says: call id and segment."""
        ...
