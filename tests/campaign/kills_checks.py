"""What must still be true after the last kill: every check computes from the files alone, and counts what is broken."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
from tests.journal.homes import check_log, of_kind

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.merkle import TILE_WIDTH, Frontier, leaf_hash
from openrouter_audit.core.tiles import TilePath, decode_bundle, encode_path
from openrouter_audit.errors import OpenRouterAuditError
from openrouter_audit.journal.drain import count_waiting
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.vault import Vault
from openrouter_audit.reports.projection import Projection

COUNTED: Final = (
    "acknowledged lost",
    "strict acknowledged lost",
    "costs lost",
    "doubled",
    "corrupt",
    "outcomes before intents",
    "people lost",
    "losses told of",
    "reports unequal",
    "published folder broken",
)


@dataclass(slots=True)
class Acknowledged:
    """Ids of calls whose record was acknowledged, as the harness heard it."""

    intents: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    strict_intents: list[str] = field(default_factory=list)
    strict_outcomes: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)

    def hear(self, kind: str, call_id: str) -> None:
        {
            "i": self.intents,
            "o": self.outcomes,
            "I": self.strict_intents,
            "O": self.strict_outcomes,
            "c": self.costs,
        }[kind].append(call_id)

    @property
    def records(self) -> int:
        return sum(map(len, (self.intents, self.outcomes, self.strict_intents, self.strict_outcomes, self.costs)))


@dataclass(slots=True)
class Verdict:
    """What is broken, each of which must be 0, and the first few cases of each in words."""

    broken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    cases: list[str] = field(default_factory=list)
    entries: int = 0
    segments: int = 0
    waiting: int = 0
    """Records that were in the spool when the last process was killed."""
    recovery_s: float = 0.0
    """Until a fresh sequencer had opened the journal, drained what waited and removed it."""

    def count(self, what: str, cases: Iterable[object]) -> None:
        named = list(cases)
        self.broken[what] += len(named)
        self.cases += [f"{what}: {case}" for case in named[:5]]


def check(home: Home, published: Path, acknowledged: Acknowledged) -> Verdict:
    """Recover the home, and lay everything it holds beside what was acknowledged."""
    verdict = Verdict()
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        verdict.waiting = count_waiting(home.spool_dir, journal.positions())
    began = time.perf_counter()
    try:
        made = Sequencer(home)
        made.drain()
    except OpenRouterAuditError as error:
        verdict.count("corrupt", [f"a fresh sequencer refuses: {error}"])
        return verdict
    verdict.recovery_s = time.perf_counter() - began
    made.close()
    entries = _entries(home)
    verdict.entries = len(entries)
    _check_calls(verdict, entries, acknowledged)
    _check_proof(verdict, home)
    _check_people(verdict, home, entries)
    _check_reports(verdict, home)
    _check_files(verdict, home)
    _check_published(verdict, home, published)
    return verdict


def _entries(home: Home) -> list[dict[str, Any]]:
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        return [json.loads(text) for _, text in journal.entries()]


def _check_calls(verdict: Verdict, entries: Sequence[dict[str, Any]], acknowledged: Acknowledged) -> None:
    intents, outcomes, costs = (_places(entries, kind) for kind in ("call.intent", "call.outcome", "call.cost"))
    real = {call for call, places in outcomes.items() if entries[places[0]]["status"] == "success"}
    verdict.count("acknowledged lost", {*acknowledged.intents} - intents.keys())
    verdict.count("acknowledged lost", {*acknowledged.outcomes} - real)
    verdict.count("strict acknowledged lost", {*acknowledged.strict_intents} - intents.keys())
    verdict.count("strict acknowledged lost", {*acknowledged.strict_outcomes} - real)
    verdict.count("costs lost", {*acknowledged.costs} - costs.keys())

    for places in (intents, outcomes, costs):
        verdict.count("doubled", [f"{call} at {at}" for call, at in places.items() if len(at) > 1])
    frames = Counter((entry["writer"]["segment"], entry["writer"]["seq"]) for entry in entries)
    verdict.count("doubled", [frame for frame, times in frames.items() if times > 1])

    verdict.count(
        "outcomes before intents",
        [f"{call} at {at[0]}" for call, at in outcomes.items() if call not in intents or at[0] < intents[call][0]],
    )
    verdict.count("corrupt", [f"{call} has no end" for call in intents.keys() - outcomes.keys()])
    verdict.count("corrupt", [f"{call} costs and has no end" for call in costs.keys() - outcomes.keys()])
    verdict.count("corrupt", _altered(of_kind(entries, "call.intent"), "request_bytes", slice(0, 8)))
    verdict.count("corrupt", _altered(of_kind(entries, "call.outcome"), "response_bytes", slice(8, 16)))
    verdict.count("corrupt", [f"{entry}" for entry in of_kind(entries, "log.unreadable")])
    verdict.count("losses told of", of_kind(entries, "log.loss"))
    verdict.count(
        "corrupt", [f"{call} ended as error" for call in outcomes if entries[outcomes[call][0]]["status"] == "error"]
    )


def _places(entries: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if entry["kind"] == kind:
            places.setdefault(entry["id"], []).append(index)
    return places


def _altered(entries: Iterable[Mapping[str, Any]], name: str, digits: slice) -> list[str]:
    """Records of the harness's own writers whose number is not the one that follows from their id."""
    return [
        f"{entry['id']}: {name} {entry.get(name)}"
        for entry in entries
        if "path" not in entry  # the application's intents have one, and other numbers
        and "http_status" not in entry
        and entry.get("status") != "unknown"
        and entry.get(name) != int(entry["id"][digits], 16)
    ]


def _check_proof(verdict: Verdict, home: Home) -> None:
    try:
        check_log(home)
    except AssertionError as error:
        verdict.count("corrupt", [f"check_log: {str(error)[:500]}"])
    report = verify_home(home, check_reports=False)
    if report.verdict != "proven":
        verdict.count("corrupt", [f"verify: {report.verdict}: {report.reason} {report.findings[:3]}"])


def _check_people(verdict: Verdict, home: Home, entries: Sequence[dict[str, Any]]) -> None:
    """The vault was committed before the entries that refer to it: every reference leads to the person who called."""
    from tests.campaign.kills_victims import its_user

    own = [entry for entry in of_kind(list(entries), "call.intent") if "path" not in entry]
    with Vault.open(home.vault_path, read_only=True) as vault:
        users = vault.users(sorted({entry["subject"] for entry in own if "subject" in entry}))
        kept = vault.calls([entry["id"] for entry in own])
    verdict.count(
        "people lost",
        [
            entry["id"]
            for entry in own
            if users.get(entry.get("subject", "")) != its_user(entry["id"]) or entry["id"] not in kept
        ],
    )


def _check_reports(verdict: Verdict, home: Home) -> None:
    """Follow with the file that lived through the kills, and with none: the same rows, tables and cursor."""
    with tempfile.TemporaryDirectory(prefix="reports-") as folder:
        anew = Path(folder) / "reports.db"
        for path in (home.reports_path, anew):
            projection = Projection.open(home.journal_path, path)
            projection.follow()
            projection.close()
        survived, rebuilt = _dump(home.reports_path), _dump(anew)
    verdict.count("reports unequal", survived.symmetric_difference(rebuilt))


def _dump(path: Path) -> set[tuple[Any, ...]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        schema = set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"))
        tables = [name for kind, name, *_ in schema if kind in {"table", "view"} and not name.startswith("sqlite_")]
        return schema.union(
            *({(table, *row) for row in connection.execute(f"SELECT * FROM {table}")} for table in tables)
        )
    finally:
        connection.close()


def _check_files(verdict: Verdict, home: Home) -> None:
    """All that was spooled is in the journal: no segment is left, and no state but of those killed before their birth."""
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        positions = journal.positions()
    verdict.segments = len(positions)
    verdict.count("corrupt", [f"{name} is not final" for name, position in positions.items() if not position.final])
    verdict.count("corrupt", [f"left in the spool: {path.name}" for path in home.spool_dir.glob("*.seg")])
    beginnings = {path.stem for path in home.spool_dir.glob("*.new")}
    verdict.count(
        "corrupt", [f"left in state: {path.name}" for path in home.state_dir.iterdir() if path.name not in beginnings]
    )


def _check_published(verdict: Verdict, home: Home, published: Path) -> None:
    """As the last publisher left it, and once more when it was brought up to date."""
    from openrouter_audit.cli.publish import publish_home

    try:
        FolderReader(published, home.policy_path).read()
        done = publish_home(home, published)
        assert FolderReader(published, home.policy_path).read() == done.tree_size == verdict.entries
    except Exception as error:
        verdict.count("published folder broken", [f"{type(error).__name__}: {error}"])


class FolderReader:
    """
    A stranger's copy of a published folder: the checkpoint first, then every file it speaks of.

    What was read of full blocks is kept in memory between two looks, as a mirror does it; everything else is read again.
    """

    def __init__(self, folder: Path, policy: Path) -> None:
        self._folder = folder
        self._policy = decode_policy(policy.read_bytes())
        self._tree = Frontier()
        self._size = 0

    def read(self) -> int | None:
        """
        Size of the tree that was verified; None where nothing is published yet.

        Raises:
            Exception: The checkpoint is not signed, or a file it speaks of is missing or leads to another root.
        """
        path = self._folder / "checkpoint"
        if not path.exists():
            assert self._size == 0, "the checkpoint is gone"
            return None
        checkpoint = self._policy.open_checkpoint(path.read_bytes()).checkpoint
        assert checkpoint.tree_size >= self._size, f"from {self._size} back to {checkpoint.tree_size}"
        tree = self._tree
        for start in range(tree.size, checkpoint.tree_size, TILE_WIDTH):
            count = min(TILE_WIDTH, checkpoint.tree_size - start)
            if count < TILE_WIDTH:
                tree = tree.copy()
            name = encode_path(TilePath(level=None, index=start // TILE_WIDTH, width=count))
            bundle = decode_bundle((self._folder / name).read_bytes(), count=count)
            for tile in tree.extend([leaf_hash(entry) for entry in bundle]):
                assert tile.data == self._tile(tile.level, tile.index, TILE_WIDTH), f"tile {tile.level}/{tile.index}"
        for tile in tree.partial_tiles():
            assert tile.data == self._tile(tile.level, tile.index, len(tile.data) // 32), (
                f"tile {tile.level}/{tile.index}"
            )
        assert tree.root() == checkpoint.root_hash, f"another root at {checkpoint.tree_size}"
        self._size = checkpoint.tree_size
        return self._size

    def _tile(self, level: int, index: int, width: int) -> bytes:
        return (self._folder / encode_path(TilePath(level=level, index=index, width=width))).read_bytes()
