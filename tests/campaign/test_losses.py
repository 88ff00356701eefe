"""
Issue 3.4: the sum of the `log.loss` entries is what the harness knows was lost, exactly, in each of many random fault schedules; and
nothing is sent in `strict` without a durable intent.

`LOSS_SEED` sets the seed of a run, which is printed; `LOSS_ONLY` runs one schedule of it by its number.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from tests.campaign.losses import OF_INTENTS, THREADS, Book, FaultyDisk, Schedule, StrictCalls
from tests.campaign.results import Result, recorded
from tests.journal.homes import new_home

from openrouter_audit.errors import SpoolError
from openrouter_audit.journal import backlog
from openrouter_audit.journal import spool as spool_module
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.spool import Segment
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.writer_state import LossCounts, WriterState

SCHEDULES_IN_CI, SCHEDULES_LONG = 3_000, 10_000
TOGETHER = 40
"""Schedules that one drain serves: what a schedule costs is then mostly its own."""
OF_ONE_HOME = 480
"""Schedules after which there is a new home: the positions of all segments are kept for ever, and read at each look."""


@pytest.fixture
def folder():
    """In memory where there is such a place: the disk of these campaigns is a fake, and a real one would only be slow."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


class Log:
    """The log of a home, read as far as it was not read before."""

    def __init__(self, home):
        self._sequencer = Sequencer(home)
        self._journal = SqliteJournal.open(home.journal_path, read_only=True)
        self._read = 0

    def close(self):
        self._sequencer.close()
        self._journal.close()

    def drain(self):
        self._sequencer.drain()

    def news(self):
        """For each process: its entries since the last time."""
        size = self._journal.head().tree_size
        entries = [json.loads(text) for _, text in self._journal.entries(self._read, size)]
        self._read = size
        positions = self._journal.positions()
        by_process: dict[str, list[dict]] = {}
        for entry in entries:
            by_process.setdefault(positions[entry["writer"]["segment"]].process, []).append(entry)
        return by_process


def judge(book: Book, entries: list[dict]) -> list[str]:
    """What of this schedule's log is not as the book has it."""
    present = Counter((entry["kind"], entry["id"]) for entry in entries if entry.get("status") != "unknown")
    lost = Counter()
    for entry in entries:
        if entry["kind"] == "log.loss":
            lost[entry["reason"]] += entry["count"]
    unreadable = sum(entry["kind"] == "log.unreadable" for entry in entries)
    gone = sum(record not in present for record in book.accepted) + book.internal_gone - book.unplaced
    told = sum(lost.values()) + unreadable
    wrong = []
    about = THREADS if book.damaged and book.threads else 0
    if not gone - about <= told <= gone + about:
        wrong.append(f"{gone} records are gone, {told} are told: {dict(lost)}")
    if any(count > 1 for count in present.values()):
        wrong.append("a record stands in the log twice")
    if book.refused & present.keys():
        wrong.append("a refused record stands in the log")
    if book.unplaced_beside_a_page:
        wrong.append("losses were counted in memory though there was a page")
    if not book.unplaced and not book.in_flight:
        intents = sum(lost[reason] for reason in OF_INTENTS)
        if (intents, lost["no_intent"]) != (book.lost_intents, book.outcomes_without):
            wrong.append(
                f"{intents} intents and {lost['no_intent']} outcomes of theirs are counted,"
                f" not {book.lost_intents} and {book.outcomes_without}"
            )
    return wrong


def run_schedules(folder, seed: int, count: int, result: Result | None = None, *, first: bool = False) -> list[str]:
    """
    Run them, and return what was found wrong, each with the number of its schedule.

    Args:
        first: Stop when something was found.
    """
    only = os.environ.get("LOSS_ONLY")
    numbers = [int(only)] if only else list(range(count))
    found: list[str] = []
    totals: Counter[str] = Counter()
    logging.getLogger("openrouter_audit").setLevel(logging.ERROR)
    try:
        for start in range(0, len(numbers), OF_ONE_HOME):
            home = new_home(folder / str(start))
            found += _run_on(home, seed, numbers[start : start + OF_ONE_HOME], totals, first=first)
            shutil.rmtree(home.path)
            if first and found:
                break
    finally:
        logging.getLogger("openrouter_audit").setLevel(logging.NOTSET)
    if result is not None:
        result.points = totals["injected"]
        result.figures = {
            "schedules": f"{count:,}",
            "records accepted": f"{totals['accepted']:,}",
            "of which lost, and told": f"{totals['lost']:,}",
            "refused": f"{totals['refused']:,}",
            "counts that no page could hold": f"{totals['unplaced']:,}",
        }
    return found


def _run_on(home, seed: int, numbers: list[int], totals: Counter[str], *, first: bool) -> list[str]:
    log, disk = Log(home), FaultyDisk(home.path)
    found: list[str] = []
    try:
        for start in range(0, len(numbers), TOGETHER):
            together = numbers[start : start + TOGETHER]
            books = [Schedule(home, disk, seed * 1_000_003 + number, log.drain).run() for number in together]
            log.drain()
            news = log.news()
            for number, book in zip(together, books, strict=True):
                entries = [entry for process in book.processes for entry in news.pop(process, [])]
                found += [f"schedule {number}: {wrong}" for wrong in judge(book, entries)]
                totals["accepted"] += len(book.accepted)
                totals["refused"] += len(book.refused)
                totals["unplaced"] += book.unplaced
                totals["lost"] += sum(entry["count"] for entry in entries if entry["kind"] == "log.loss")
            if first and found:
                break
            found += [f"schedules {together}: entries of process {process}, which nobody knows" for process in news]
    finally:
        log.close()
    totals["injected"] += disk.injected
    return found


@pytest.mark.parametrize("count", [SCHEDULES_IN_CI, pytest.param(SCHEDULES_LONG, marks=pytest.mark.long)])
def test_what_is_told_to_be_lost_is_what_was_lost(folder, count):
    seed = int(os.environ.get("LOSS_SEED", random.randrange(10**6)))
    print(f"LOSS_SEED={seed}")
    with recorded(
        Result(
            campaign="4-losses",
            what="random fault schedules over a spool: full, failing and dying disks, kills, cut tails, three modes",
            seed=seed,
            again=f"LOSS_SEED={seed} python3 dev.py test --long tests/campaign/test_losses.py",
        )
    ) as result:
        found = run_schedules(folder, seed, count, result)
        result.broken = {"schedules whose losses are not told exactly": len(found)}
    assert [] == found


def _lost_counter(patch):
    patch.setattr(LossCounts, "lose", lambda *_: None)


def _counted_twice(patch):
    real = LossCounts._add
    patch.setattr(LossCounts, "_add", lambda counts, row, count, *when: real(counts, row, 2 * count, *when))


def _not_taken_back(patch):
    patch.setattr(WriterState, "written_after_all", lambda *_: None)
    patch.setattr(backlog, "naming", lambda plain, *_: plain)


def _taken_back_after_writing_only(patch):
    """Then a kill between the write and the note counts a record that is there."""
    patch.setattr(backlog, "naming", lambda plain, *_: plain)


def _memory_dropped(patch):
    patch.setattr(WriterState, "wait", lambda *_: 2**62)


@pytest.mark.parametrize(
    "bug",
    [
        _lost_counter,
        _counted_twice,
        _not_taken_back,
        _taken_back_after_writing_only,
        _memory_dropped,
    ],
)
def test_a_wrong_count_is_found(folder, monkeypatch, bug):
    bug(monkeypatch)
    assert [] != run_schedules(folder, 7, 3_000, first=True)


CALLS_IN_CI, CALLS_LONG = 10_000, 100_000


@pytest.mark.parametrize("count", [CALLS_IN_CI, pytest.param(CALLS_LONG, marks=pytest.mark.long)])
def test_strict_sends_nothing_without_a_durable_intent(folder, count):
    """Real calls through a client; its transport asks, when the request arrives, what the disk has for sure."""
    seed = int(os.environ.get("LOSS_SEED", random.randrange(10**6)))
    print(f"LOSS_SEED={seed}")
    with recorded(
        Result(
            campaign="4-strict",
            what="calls in mode `strict` on a disk that fails at random: open, write, rename, sync of file and folder",
            seed=seed,
            again=f"LOSS_SEED={seed} python3 dev.py test --long tests/campaign/test_losses.py",
        )
    ) as result:
        calls = StrictCalls(folder, seed)
        calls.run(count)
        result.points = calls.injected
        result.broken = {"sent without a durable intent": len(calls.unsafe), "neither sent nor refused": calls.odd}
        result.figures = {"calls": f"{count:,}", "sent": f"{calls.sent:,}", "refused": f"{calls.refused:,}"}
    assert ([], 0) == (calls.unsafe, calls.odd)
    assert count == calls.sent + calls.refused
    assert min(calls.sent, calls.refused) > count // 20


def _no_sync_of_the_file(patch):
    patch.setattr(Segment, "sync", lambda _: None)


def _no_sync_of_the_folder(patch):
    patch.setattr(spool_module, "sync_directory", lambda _: None)


def _failed_sync_ignored(patch):
    real = Segment.sync

    def sync(segment):
        with contextlib.suppress(SpoolError):
            real(segment)

    patch.setattr(Segment, "sync", sync)


@pytest.mark.parametrize("bug", [_no_sync_of_the_file, _no_sync_of_the_folder, _failed_sync_ignored])
def test_a_missing_sync_is_found(folder, monkeypatch, bug):
    bug(monkeypatch)
    calls = StrictCalls(folder, 7)
    calls.run(300)
    assert [] != calls.unsafe
