"""
What the sweep of system calls does to a home: one operation each, made ready outside the window in which faults happen.

An operation is tried as the product tries it: what it refuses with a declared error is done again, with the same objects,
since one fault of a disk is not for ever. Each thing the product acknowledged is noted in a ledger in shared memory, which
costs no system call and outlives a kill.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.journal.homes import an_intent, an_outcome, drain, new_spool, now_us, statuses, write_calls

from openrouter_audit.cli.publish import publish_home
from openrouter_audit.core.entries import CallIntent, Private
from openrouter_audit.enrichment.generations import Found, GenerationRecord
from openrouter_audit.enrichment.pending import PendingCost
from openrouter_audit.enrichment.settling import Settlement
from openrouter_audit.errors import AuditUnavailable, CommitUnknown, HomeError, JournalUnavailable
from openrouter_audit.journal.followers import SequencerWorker
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.segments import HEADER_BYTES
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.reports.projection import Projection

LEDGER_BYTES = 1 << 20
IDENTITY_DIGITS = 32
LOST_BEFORE = 2
"""Records that the writer of each prepared segment counts as lost."""


class Ledger:
    """Lines that survive the process that wrote them, written without a system call."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, LEDGER_BYTES)
        self._numbers = memoryview(self._map).cast("Q")
        self.clear()

    def clear(self) -> None:
        self._numbers[0] = 8

    def note(self, *words: object) -> None:
        line = (" ".join(map(str, words)).replace("\n", "\\n") + "\n").encode()
        at = self._numbers[0]
        if at + len(line) <= LEDGER_BYTES:
            self._map[at : at + len(line)] = line
            self._numbers[0] = at + len(line)

    def lines(self) -> list[list[str]]:
        return [line.split(" ", 2) for line in self._map[8 : self._numbers[0]].decode().splitlines()]


class Tool(Protocol):
    """What makes the faults; told when a call would be sent, to hold that against what is on the disk."""

    def sent(self, token: Any) -> None: ...


@dataclass(slots=True)
class Stage:
    """Where an operation is played."""

    home: Home
    public: Path
    ledger: Ledger
    tool: Tool
    known: dict[str, Any] = field(default_factory=dict)
    """What the prepared home holds, from its manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    name: str
    prepared: str
    """The home it starts from."""
    ready: Callable[[Stage], Any]
    """Run before the window; what it returns is handed to `run`."""
    run: Callable[[Stage, Any], None]
    """One try. Done when it returns; tried again after an error of `declared`."""
    declared: tuple[type[Exception], ...]


# Calls -----------------------------------------------------------------------------------------------------------


def _call(stage: Stage, spool: Any, *, strict: bool = False) -> None:
    """One call as capture records it: refused before it is sent, or sent and its outcome told whatever happens."""
    intent = an_intent()
    stage.ledger.note("try", intent.id)
    token = spool.write(intent, Private(user="alice"))
    stage.ledger.note("intent", intent.id)
    if strict:
        spool.sync(token)
        stage.tool.sent(token)
    stage.ledger.note("sent", intent.id)
    written = spool.write(an_outcome(intent), follows=token)
    stage.ledger.note("waits" if written is None else "outcome", intent.id)
    if strict:
        with contextlib.suppress(AuditUnavailable):
            spool.sync(written)


def _calls(count: int, *, strict: bool = False) -> Callable[[Stage, Any], None]:
    def run(stage: Stage, spool: Any) -> None:
        refused = None
        for _ in range(count):
            try:
                _call(stage, spool, strict=strict)
            except AuditUnavailable as error:
                refused = error
        spool.retry_backlog()
        stage.ledger.note("waiting", spool.waiting)
        if refused is not None:
            raise refused

    return run


def _open_spool(*, warm: bool, **options: Any) -> Callable[[Stage], Any]:
    def ready(stage: Stage) -> Any:
        spool = new_spool(stage.home, **options)
        if warm:
            for call in write_calls(spool, 1):
                stage.ledger.note("intent", call)
                stage.ledger.note("outcome", call)
        return spool

    return ready


def _begun_and_waiting(stage: Stage) -> Any:
    spool = new_spool(stage.home)
    intent = an_intent()
    token = spool.write(intent)
    stage.ledger.note("intent", intent.id)
    return spool, intent, token


def _end(stage: Stage, made: Any) -> None:
    spool, intent, token = made
    written = spool.write(an_outcome(intent), follows=token)
    stage.ledger.note("waits" if written is None else "outcome", intent.id)
    spool.end(closing=True)
    stage.ledger.note("waiting", spool.waiting)


def _settle(stage: Stage, made: tuple[Any, CallIntent]) -> None:
    spool, intent = made
    settlement = Settlement(spool, utc_us=now_us)
    call = PendingCost(
        call_id=intent.id,
        generation_id="gen-1",
        base_url="https://openrouter.ai/api/v1",
        key_hash="",
        response_cost="0.0003136",
        ended_us=now_us(),
    )
    record = GenerationRecord(generation_id="gen-1", total_cost="0.0003136")
    settlement.settle(call, Found(record, b"{}"), tries=1)
    stage.ledger.note("cost", intent.id)


def _an_unsettled_call(stage: Stage) -> tuple[Any, CallIntent]:
    spool = new_spool(stage.home, rotate_bytes=1)
    intent = an_intent()
    spool.write(an_outcome(intent, generation_id="gen-1"), follows=spool.write(intent))
    stage.ledger.note("intent", intent.id)
    stage.ledger.note("outcome", intent.id)
    return spool, intent


# Sequencing ------------------------------------------------------------------------------------------------------


def _drain(stage: Stage, sequencer: Sequencer) -> None:
    sequencer.drain()


def _sequence(stage: Stage, _: None) -> None:
    """Open, commit, and let SQLite check-point its log at every commit and at the end."""
    sequencer = Sequencer(stage.home)
    try:
        for database in (sequencer._journal, sequencer._vault):
            database._connection.execute("PRAGMA wal_autocheckpoint = 1").fetchall()
        sequencer.drain()
    finally:
        sequencer.close()


def _work(stage: Stage, worker: SequencerWorker) -> None:
    """The step a recording process repeats, with its lease."""
    worker._step()
    if not worker.holds_lease:
        raise HomeError("somebody has the lease")


# Followers -------------------------------------------------------------------------------------------------------


def _project(stage: Stage, _: None) -> None:
    projection = Projection.open(stage.home.journal_path, stage.home.reports_path)
    try:
        projection.follow()
    finally:
        projection.close()


def _project_anew(stage: Stage) -> None:
    for path in stage.home.path.glob("reports.db*"):
        path.unlink()


def _publish(stage: Stage, _: None) -> None:
    publish_home(stage.home, stage.public)


def _publish_anew(stage: Stage) -> None:
    shutil.rmtree(stage.public)


def _nothing(stage: Stage) -> None:
    return None


def _open_first(stage: Stage, _: None) -> None:
    stage.home.ensure()
    stage.ledger.note("made", stage.home.read_head())


_SEQUENCING = (JournalUnavailable, CommitUnknown, HomeError)
OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            name="append",
            prepared="new",
            ready=_open_spool(warm=True),
            run=_calls(3),
            declared=(AuditUnavailable,),
        ),
        Operation(
            name="strict append",
            prepared="new",
            ready=_open_spool(warm=True, mode="strict"),
            run=_calls(3, strict=True),
            declared=(AuditUnavailable,),
        ),
        Operation(
            name="segment rotation",
            prepared="new",
            ready=_open_spool(warm=False, rotate_bytes=1),
            run=_calls(2),
            declared=(AuditUnavailable,),
        ),
        Operation(
            name="strict rotation",
            prepared="new",
            ready=_open_spool(warm=False, rotate_bytes=1, mode="strict"),
            run=_calls(2, strict=True),
            declared=(AuditUnavailable,),
        ),
        Operation(name="end of a writer", prepared="new", ready=_begun_and_waiting, run=_end, declared=()),
        Operation(name="settle", prepared="new", ready=_an_unsettled_call, run=_settle, declared=(AuditUnavailable,)),
        Operation(
            name="drain and commit",
            prepared="spooled",
            ready=lambda stage: Sequencer(stage.home),
            run=_drain,
            declared=_SEQUENCING,
        ),
        Operation(name="checkpoint", prepared="spooled", ready=_nothing, run=_sequence, declared=_SEQUENCING),
        Operation(
            name="segment deletion",
            prepared="undeleted",
            ready=lambda stage: Sequencer(stage.home),
            run=_drain,
            declared=_SEQUENCING,
        ),
        Operation(
            name="sequencer's step",
            prepared="spooled",
            ready=lambda stage: SequencerWorker(stage.home, lambda _: None),
            run=_work,
            declared=_SEQUENCING,
        ),
        Operation(
            name="projection", prepared="grown", ready=_project_anew, run=_project, declared=(JournalUnavailable,)
        ),
        Operation(name="projection on", prepared="grown", ready=_nothing, run=_project, declared=(JournalUnavailable,)),
        Operation(
            name="publish",
            prepared="grown",
            ready=_publish_anew,
            run=_publish,
            declared=(JournalUnavailable, OSError),
        ),
        Operation(
            name="publish on", prepared="grown", ready=_nothing, run=_publish, declared=(JournalUnavailable, OSError)
        ),
        Operation(name="first open", prepared="empty", ready=_nothing, run=_open_first, declared=(HomeError,)),
    )
}


# Prepared homes --------------------------------------------------------------------------------------------------


def _leave_segment(home: Home, calls: int, *, damaged: bool = False) -> dict[str, str]:
    """A finished segment as a process leaves it that was killed in a call; statuses the journal must tell."""
    before = set(home.spool_dir.glob("*.seg"))
    spool = new_spool(home)
    ends = dict.fromkeys(write_calls(spool, calls), "success")
    open_intent = an_intent()
    token = spool.write(open_intent, Private(user="bob"))
    assert token is not None
    token.state.lose("disk_and_memory_full", now_us(), LOST_BEFORE)
    del token
    ends[open_intent.id] = "unknown"
    del spool
    gc.collect()
    if damaged:
        (path,) = set(home.spool_dir.glob("*.seg")) - before
        data = bytearray(path.read_bytes())
        at = HEADER_BYTES
        for _ in range(2):
            at += 24 + int.from_bytes(data[at + 8 : at + 12])
        data[at + 40] ^= 4  # the outcome of the first call: right in length, wrong inside
        path.write_bytes(data)
        ends[next(iter(ends))] = "unknown"
    return ends


def prepare(folder: Path) -> None:
    """Make the homes that operations start from, each beside a manifest of what it holds."""
    for name in ("empty", "new", "spooled", "undeleted", "grown"):
        stage = folder / name
        stage.mkdir()
        (stage / "public").mkdir()
        home = Home(stage / "home")
        known: dict[str, Any] = {"ends": {}, "unreadable": 0, "losses": 0}
        if name != "empty":
            home.ensure()
        if name in {"spooled", "undeleted"}:
            known["ends"] = {**_leave_segment(home, 5), **_leave_segment(home, 3, damaged=True)}
            known["unreadable"], known["losses"] = 1, 2 * LOST_BEFORE
        if name == "undeleted":
            files = [*home.spool_dir.iterdir(), *home.state_dir.iterdir()]
            kept = {path: path.read_bytes() for path in files}
            drain(home)
            for path, data in kept.items():  # as a crash between commit and removal leaves it
                path.write_bytes(data)
        if name == "grown":
            _grow(folder, stage, home, known)
        (stage / "manifest").write_text(json.dumps(known))


def _grow(folder: Path, stage: Path, home: Home, known: dict[str, Any]) -> None:
    """Enough entries for full tiles, published and projected half way; publications of both sizes to compare with."""
    for reference in ("half", "whole"):
        spool = new_spool(home)
        write_calls(spool, 130)
        spool.end(closing=True)
        del spool
        gc.collect()
        known["ends"] = statuses(drain(home))
        publish_home(home, folder / f"published-{reference}")
        if reference == "half":
            publish_home(home, stage / "public")
            projection = Projection.open(home.journal_path, home.reports_path)
            projection.follow()
            projection.close()


def nature_of(path: str) -> str:
    """What kind of file a path of a stage is: `segment.new`, `journal.db-wal`, `state`, `public`."""
    file = Path(path)
    if "public" in file.parts:
        return "public"
    if "home" not in file.parts:
        return "outside"
    if file.name == "home":
        return "home"
    if len(file.stem) == IDENTITY_DIGITS:
        return f"segment{file.suffix}" if file.suffix else file.parent.name
    return file.name if file.suffix or file.parent.name == "home" else file.parent.name


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".tmp"
    }


def copy(prepared: Path, to: Path) -> None:
    shutil.copytree(prepared, to, copy_function=shutil.copy)
    os.chmod(to, 0o700)
