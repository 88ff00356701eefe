"""Logs for the tests of this room: real entries, keys, tiles and checkpoints in a real home, without the spool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import CallCost, CallIntent, CallOutcome, Facts, LogLoss, LogUnreadable, Writer
from openrouter_audit.core.merkle import Frontier, leaf_hash
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import load_keys
from openrouter_audit.journal.sqlite import Commit, Head, Position, SqliteJournal
from openrouter_audit.reports.projector import Projector
from openrouter_audit.reports.tables.sqlite import SqliteReports

START_US = 1_795_428_900_000_000
ORIGIN = "openrouter-audit.local/test"


def ref(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


def intent(call: object, **fields: object) -> CallIntent:
    values = {"group": ref(f"{call} group"), "attempt": 1, "endpoint": "chat", "method": "POST", "stream": False}
    return CallIntent(v=1, id=ref(call), **({"at_us": START_US} | values | fields))


def outcome(call: object, **fields: object) -> CallOutcome:
    values = {"status": "success", "complete": True, "http_status": 200, "cost": "0.0003136"}
    values |= {"generation_id": f"gen-{ref(call)}", "generation_source": "body"}
    return CallOutcome(v=1, id=ref(call), **({"at_us": START_US + 900_000} | values | fields))


def cost(call: object, total: str | None) -> CallCost:
    state = "unresolved" if total is None else "settled"
    return CallCost(v=1, id=ref(call), at_us=START_US + 5_000_000, state=state, total_cost=total)


def loss(name: object, **fields: object) -> LogLoss:
    return LogLoss(v=1, id=ref(name), at_us=START_US, reason="torn_frame", **fields)


def unreadable(name: object) -> LogUnreadable:
    return LogUnreadable(v=1, id=ref(name), at_us=START_US, reason="seal", frame_bytes=9, frame_digest="a" * 64)


def calls(number: int, *, first: int = 0) -> list[Facts]:
    """Intents, each followed by its outcome: two entries a call."""
    return [facts for call in range(first, first + number) for facts in (intent(call), outcome(call))]


class Log:
    """A home whose journal grows by whole commits, signed as the sequencer signs them."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.home.ensure(origin=ORIGIN)
        self.keys = load_keys(self.home.keys_dir)
        self.journal = SqliteJournal.open(self.home.journal_path)
        self.frontier = Frontier()
        self.positions: dict[str, Position] = {}
        self.open: dict[str, str] = {}
        self.at_us = START_US

    def append(
        self, entries: Sequence[Facts], *, segment: object = "segment", keep: bool = False, minutes: int = 10
    ) -> int:
        """Commit entries as frames of one segment, some minutes later; keep the checkpoint if asked to."""
        name = ref(segment)
        before = self.positions.get(name)
        seq = before.last_seq + 1 if before else 0
        texts = []
        opened: dict[str, str] = {}
        closed = []
        for number, facts in enumerate(entries, seq):
            writer = facts.writer or Writer(segment=name, seq=number)
            texts.append(encode(msgspec.structs.replace(facts, writer=writer)))
            if isinstance(facts, CallIntent):
                opened[facts.id] = name
            elif isinstance(facts, CallOutcome) and opened.pop(facts.id, None) is None:
                closed.append(facts.id)
        after = Position(
            segment=name,
            process=before.process if before else ref("process"),
            ordinal=0,
            offset=(before.offset if before else 1180) + 100 * len(texts),
            entries=(before.entries if before else 0) + len(texts),
            last_seq=seq + len(texts) - 1,
            final=False,
        )
        size = self.frontier.size
        tiles = self.frontier.extend([leaf_hash(text) for text in texts])
        self.at_us += minutes * 60_000_000
        root = self.frontier.root()
        head = Head(
            origin=ORIGIN,
            tree_size=self.frontier.size,
            root_hash=root,
            at_us=self.at_us,
            note=self.keys.sign(tree_size=self.frontier.size, root_hash=root, at_us=self.at_us),
            edge=self.frontier.edge(),
        )
        self.journal.commit(
            Commit(
                expected_size=size,
                entries=[text.decode() for text in texts],
                tiles=tiles,
                head=head,
                keep_checkpoint=keep,
                positions=[(before, after)],
                opened_calls=[(call, segment_, START_US) for call, segment_ in opened.items()],
                closed_calls=closed,
            )
        )
        self.positions[name] = after
        self.home.write_head(head)
        return self.frontier.size

    def project(self) -> None:
        with SqliteReports.open(self.home.reports_path) as store:
            Projector(self.journal, store).project()

    def close(self) -> None:
        self.journal.close()


def classes(report: object, *, severity: str | None = None) -> list[tuple[str, int | None]]:
    """Class and index of each finding of a report."""
    found: Iterable = report.findings
    return [(one.kind, one.index) for one in found if severity is None or one.severity == severity]
