"""Homes, spools and records for the tests of the journal, and a proof of a whole log that is run after each step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from openrouter_audit.core.entries import CallIntent, CallOutcome
from openrouter_audit.core.merkle import Frontier, leaf_hash
from openrouter_audit.core.notes import encode_base64
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import load_sealing_public_key
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.spool import Spool
from openrouter_audit.journal.sqlite import SqliteJournal

KEY = "sk-or-v1-" + "0123456789abcdef" * 4


def new_home(path: Path) -> Home:
    home = Home(path / "home")
    home.ensure()
    return home


def new_spool(home: Home, **options: Any) -> Spool:
    return Spool(home.spool_dir, home.state_dir, load_sealing_public_key(home.keys_dir), **options)


def now_us() -> int:
    return time.time_ns() // 1000


def an_intent(**changes: Any) -> CallIntent:
    call = os.urandom(16).hex()
    facts = {
        "v": 1,
        "id": call,
        "at_us": now_us(),
        "group": call,
        "attempt": 1,
        "endpoint": "chat",
        "method": "POST",
        "model": "openai/gpt-4.1-mini",
    }
    return CallIntent(**{**facts, **changes})


def an_outcome(intent: CallIntent, **changes: Any) -> CallOutcome:
    facts = {"v": 1, "id": intent.id, "at_us": now_us(), "status": "success", "complete": True, "cost": "0.0003136"}
    return CallOutcome(**{**facts, **changes})


def write_calls(spool: Spool, count: int) -> list[str]:
    """Whole calls, one after the other; their ids."""
    ids = []
    for _ in range(count):
        intent = an_intent()
        token = spool.write(intent)
        spool.write(an_outcome(intent), follows=token)
        ids.append(intent.id)
    return ids


def drain(home: Home) -> list[dict[str, Any]]:
    """Sequence what is spooled, and prove the log."""
    sequencer = Sequencer(home)
    try:
        sequencer.drain()
    finally:
        sequencer.close()
    return check_log(home)


def check_log(home: Home) -> list[dict[str, Any]]:
    """
    Compute the whole log again: root, tiles, positions, numbers of frames, and outcomes after their intents, once each.

    Returns its entries.
    """
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        head = journal.head()
        rows = list(journal.entries())
        tiles = {(level, n): data for level, n, data in journal.tiles()}
        positions = journal.positions()
    assert [index for index, _ in rows] == list(range(head.tree_size))

    frontier = Frontier()
    full = frontier.extend([leaf_hash(text.encode()) for _, text in rows])
    assert frontier.root() == head.root_hash
    assert {(tile.level, tile.index): tile.data for tile in full} == tiles
    assert head.note.splitlines()[:3] == [head.origin, str(head.tree_size), encode_base64(head.root_hash)]

    entries = [json.loads(text) for _, text in rows]
    written = Counter(entry["writer"]["segment"] for entry in entries)
    assert dict(written) == {name: p.entries for name, p in positions.items() if p.entries}
    frames = [(entry["writer"]["segment"], entry["writer"]["seq"]) for entry in entries]
    assert len(frames) == len(set(frames))
    for segment, seq in frames:
        assert seq <= positions[segment].last_seq

    seen: set[str] = set()
    ended: set[str] = set()
    for entry in entries:
        if entry["kind"] == "call.intent":
            assert entry["id"] not in seen
            seen.add(entry["id"])
        elif entry["kind"] == "call.outcome":
            assert entry["id"] not in ended
            ended.add(entry["id"])
    return entries


def of_kind(entries: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["kind"] == kind]


def statuses(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Status of each call that has an outcome."""
    return {entry["id"]: entry["status"] for entry in of_kind(entries, "call.outcome")}


def run_python(
    code: str, *arguments: object, check: bool = True, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, warnings being errors there as well."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        check=check,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def segment_files(home: Home) -> list[Path]:
    return sorted(home.spool_dir.glob("*.seg"), key=lambda path: path.stat().st_mtime_ns)
