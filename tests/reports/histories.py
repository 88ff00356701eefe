"""Call histories for the tests of this room: real entries in a real `journal.db`, without the spool and its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from openrouter_audit.core import canonical
from openrouter_audit.core.entries import CallCost, CallImported, CallIntent, CallOutcome, Facts, Writer
from openrouter_audit.journal.sqlite import Commit, Head, SqliteJournal
from openrouter_audit.reports.projector import Projector
from openrouter_audit.reports.tables.sqlite import SqliteReports

ORIGIN = "openrouter-audit.local/test"
START_US = 1_795_428_900_123_456
"""2026-11-23T10:15:00.123456Z"""
KEY_HASH = hashlib.sha256(b"a key").hexdigest()


def ref(number: int | str) -> str:
    """A call id or another reference."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def intent(call: str, *, at_us: int = START_US, **fields: object) -> CallIntent:
    values = {"group": ref(call + "g"), "attempt": 1, "endpoint": "chat", "method": "POST", "path": "/api/v1/chat"}
    values |= {"sdk": "openai/3.54.0", "model": "openai/gpt-4o", "key_hash": KEY_HASH, "stream": False}
    return CallIntent(v=1, id=call, at_us=at_us, **(values | fields))


def outcome(call: str, *, at_us: int = START_US + 812_345, **fields: object) -> CallOutcome:
    values = {"status": "success", "complete": True, "http_status": 200, "generation_id": f"gen-{call[:20]}"}
    values |= {"generation_source": "body", "model": "openai/gpt-4o", "provider": "OpenAI", "last_byte_us": 812_345}
    return CallOutcome(v=1, id=call, at_us=at_us, **(values | fields))


def cost(call: str, total: str | None, *, at_us: int = START_US + 5_000_000, **fields: object) -> CallCost:
    state = "unresolved" if total is None else "settled"
    return CallCost(v=1, id=call, at_us=at_us, **({"state": state, "total_cost": total} | fields))


def imported(call: str, *, row: int = 1, at_us: int = START_US, **fields: object) -> CallImported:
    values = {
        "status": "success",
        "source": KEY_HASH,
        "model_requested": "openai/gpt-4o",
        "model_used": "openai/gpt-4o",
    }
    return CallImported(v=1, id=call, at_us=at_us, row=row, **(values | fields))


class History:
    """A journal that grows by whole commits. Roots and signatures are not looked at in this room."""

    def __init__(self, folder: Path, entries: Iterable[Facts] = (), *, origin: str = ORIGIN) -> None:
        self.folder = folder
        self.origin = origin
        self.size = 0
        self.journal = SqliteJournal.create(folder / "journal.db", self._head(0))
        self.append(list(entries))

    def _head(self, size: int) -> Head:
        return Head(origin=self.origin, tree_size=size, root_hash=bytes(32), at_us=START_US, note="", edge=b"")

    def append(self, entries: Sequence[Facts]) -> None:
        texts = []
        for number, entry in enumerate(entries, start=self.size):
            whole = type(entry)(
                **{name: getattr(entry, name) for name in entry.__struct_fields__ if name != "writer"},
                writer=Writer(segment=ref("segment"), seq=number),
            )
            texts.append(canonical_text(whole))
        self.journal.commit(
            Commit(
                expected_size=self.size,
                entries=texts,
                tiles=(),
                head=self._head(self.size + len(texts)),
                keep_checkpoint=False,
                positions=(),
            )
        )
        self.size += len(texts)

    def reports(self, *, name: str = "reports.db", batch_entries: int = 3_000) -> SqliteReports:
        """The rows of the whole history, projected and opened for reading."""
        with SqliteReports.open(self.folder / name) as store:
            Projector(self.journal, store, batch_entries=batch_entries).project()
        return SqliteReports.open(self.folder / name, read_only=True)


def canonical_text(entry: Facts) -> str:
    encoded = canonical.encode(entry)
    return encoded.decode() if isinstance(encoded, bytes) else encoded
