"""
The emulator's books: one row for every call it was sent, and behind a billed call the record that GET /generation tells.

A row is written when the call has ended, and before the last bytes of the answer are handed to the socket: a client that
has seen the end of an answer finds it in the books. Rows carry the number of the call's arrival, and are shown in that
order. Kept small: 100,000 rows with their records are some 100 MB at most.
"""

import json
import math
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from openrouter_audit.testing.emulator.switches import Behaviour


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One call."""

    n: int
    """Order of arrival, from 1."""
    generation_id: str | None
    """As sent in the header; a failed call can have one too."""
    path: str
    status: int
    """HTTP status sent; 0 if the connection was closed before."""
    key_digest: bytes | None
    """SHA-256 of the key."""
    model: str | None
    provider: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    billed: str | None
    """Charged to the account, as on the wire; None if no generation came about."""
    cancelled: bool
    request_digest: bytes
    """SHA-256 of the body as received, after transfer coding."""
    response_digest: bytes | None
    """SHA-256 of the body as sent, before transfer coding and after gzip; None if no answer was sent."""

    def as_dict(self) -> dict[str, Any]:
        """The row as `/__emulator/calls` shows it."""
        return {
            "n": self.n,
            "generation_id": self.generation_id,
            "path": self.path,
            "status": self.status,
            "key_hash": self.key_digest.hex() if self.key_digest else None,
            "model": self.model,
            "provider": self.provider,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "billed": self.billed,
            "cancelled": self.cancelled,
            "request_sha256": self.request_digest.hex(),
            "response_sha256": self.response_digest.hex() if self.response_digest else None,
        }


@dataclass(slots=True, kw_only=True)
class Generation:
    """What a record tells beyond its row."""

    row: Row
    request_id: str
    created: int
    api_type: str
    streamed: bool
    finish_reason: str | None
    native_finish_reason: str | None
    told_cost: str
    """What the answer said was charged."""
    upstream_cost: str
    """The provider's bill under BYOK, else 0."""
    is_byok: bool
    cache_source: str | None
    tried: tuple[tuple[str, str, int], ...]
    """Provider, model and status of each attempt."""
    latency_ms: int
    generation_ms: int
    user_agent: str | None
    referer: str | None
    external_user: str | None
    session_id: str | None
    behaviour: Behaviour
    visible_from: float
    """Monotonic seconds; infinite for never."""
    reads: int = 0
    """How often it was asked for once it was visible."""
    refused: int = 0
    """How often `generation_status` has answered instead."""


@dataclass(slots=True)
class Ledger:
    """All rows; written by the server's thread, read by any."""

    file: Path | None = None
    """Rows are appended here as JSON lines, each flushed."""
    _rows: list[Row] = field(default_factory=list)
    _generations: dict[str, Generation] = field(default_factory=dict)
    _spent: dict[bytes | None, Decimal] = field(default_factory=dict)
    _stream: TextIO | None = None

    def open(self) -> None:
        """
        Open the file, so that books which cannot be kept are known before the first call.

        Raises:
            OSError: It cannot be written.
        """
        if self.file is not None and self._stream is None:
            self._stream = self.file.open("a", encoding="utf-8")

    def enter(self, row: Row, generation: Generation | None) -> None:
        """Book a call that has ended."""
        self._rows.append(row)
        if row.billed is not None:
            self._spent[row.key_digest] = self._spent.get(row.key_digest, Decimal(0)) + Decimal(row.billed)
        if generation is not None and row.generation_id is not None and generation.visible_from < math.inf:
            self._generations[row.generation_id] = generation
        if self._stream is not None:
            self._stream.write(json.dumps(row.as_dict(), ensure_ascii=False) + "\n")
            self._stream.flush()

    def find(self, generation_id: str, *, now: float) -> Generation | None:
        """The record with that id if it exists and its time has come."""
        generation = self._generations.get(generation_id)
        return generation if generation is not None and generation.visible_from <= now else None

    def spent(self, key_digest: bytes | None) -> Decimal:
        """Everything billed to that key so far."""
        return self._spent.get(key_digest, Decimal(0))

    def total(self) -> Decimal:
        return sum(self._spent.values(), Decimal(0))

    def calls(self) -> list[dict[str, Any]]:
        """Every call that has ended, in order of arrival."""
        return [row.as_dict() for row in sorted(self._rows, key=lambda row: row.n)]

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
