"""
Spool, sequencer and reports under schedules that hypothesis thinks up, with a crash wherever one can come.

The machine plays several processes in one: a writer is a spool whose segments are locked through descriptors of their
own, so closing these without a word is what the kernel does with a dead process; a sequencer dies by an exception from
inside the step it is at, and what it had open is closed. Time, threads and the scheduler have no part, so a failure is
a short list of steps that fails again.

After each step the whole log is computed again, and compared with what the machine knows was acknowledged, who is
alive, and what each call's caller was told. `STATE_MACHINE_SEED` repeats a run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.campaign.lifecycle_tools import seed_of
from tests.campaign.results import Result, recorded
from tests.journal.homes import an_intent, an_outcome, check_log, new_home, new_spool, of_kind, statuses

from openrouter_audit.errors import CommitUnknown, JournalUnavailable
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import load_keys
from openrouter_audit.journal.sealing import open_segment_cipher
from openrouter_audit.journal.segments import HEADER_BYTES, Frame, SegmentHeader, scan
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.spool import Spool
from openrouter_audit.reports.projection import Projection
from openrouter_audit.reports.tables.sqlite import SqliteReports

ROOM = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""No power is cut here, so nothing has to be waited for that a disk would do."""
CALLS = st.integers(0, 3)


class Crash(BaseException):
    """The process is gone. No handler of the product may take it for anything else."""


class Writer:
    """A process that records."""

    def __init__(self, home: Home, *, rotate_bytes: int) -> None:
        self.spool: Spool = new_spool(home, rotate_bytes=rotate_bytes)
        self.open: list[tuple[Any, Any]] = []  # intent, token
        self.begun: list[str] = []
        self.ended = False

    def die(self) -> None:
        """All descriptors are closed, and nothing is said."""
        for segment in list(self.spool._segments):
            segment.close()
        self.open.clear()


class Log(RuleBasedStateMachine):
    template: Path
    """A home with nothing in it, made once."""
    counts: Counter[str]
    """What happened in all schedules; a new one for each campaign."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=ROOM, prefix="schedule-"))
        self.home = Home(shutil.copytree(self.template, self.folder / "home"))
        self.keys = load_keys(self.home.keys_dir)
        self.writers: list[Writer] = []
        self.sequencers: list[Sequencer | None] = [None, None]
        self.projection: Projection | None = None
        self.intents: set[str] = set()
        self.outcomes: set[str] = set()
        self.dead: set[str] = set()
        """Calls of processes that are gone, begun and not ended."""
        self.saved: list[tuple[Path, bytes]] = []
        self.size = 0
        self.counts["schedules"] += 1

    # Writers ----------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.writers.append(Writer(self.home, rotate_bytes=10**6))

    @precondition(lambda self: len(self.writers) < 4)
    @rule(rotate_bytes=st.sampled_from((1, 700, 2_500, 10**6)))
    def a_process_starts(self, rotate_bytes: int) -> None:
        self.writers.append(Writer(self.home, rotate_bytes=rotate_bytes))

    @rule(data=st.data())
    def an_intent_is_written(self, data: Any) -> None:
        writer = self._any(data, [each for each in self.writers if not each.ended])
        if writer is not None:
            self._begin_call(writer)

    @rule(data=st.data())
    def an_outcome_is_written(self, data: Any) -> None:
        writer = self._any(data, [each for each in self.writers if each.open])
        if writer is not None:
            self._end_call(writer, data.draw(st.integers(0, len(writer.open) - 1)))

    def _begin_call(self, writer: Writer) -> None:
        intent = an_intent()
        token = writer.spool.write(intent)
        writer.open.append((intent, token))
        writer.begun.append(intent.id)
        self.intents.add(intent.id)

    def _end_call(self, writer: Writer, which: int) -> None:
        intent, token = writer.open.pop(which)
        assert writer.spool.write(an_outcome(intent), follows=token) is not None
        self.outcomes.add(intent.id)

    def _work(self, calls: int) -> None:
        """Everybody records a little, so that what follows has something to do. Some calls stay open."""
        for writer in self.writers:
            for number in range(calls):
                if not writer.ended:
                    self._begin_call(writer)
                if writer.open and (writer.ended or number):
                    self._end_call(writer, 0)

    @rule(data=st.data())
    def a_segment_grows_old(self, data: Any) -> None:
        writer = self._any(data, self.writers)
        if writer is not None and writer.spool._newest:
            writer.spool._newest[0][1].rotate_s = 0.0

    @rule(data=st.data())
    def a_process_dies(self, data: Any) -> None:
        writer = self._any(data, self.writers)
        if writer is not None:
            self.writers.remove(writer)
            self.dead.update(call for call in writer.begun if call not in self.outcomes)
            writer.die()
            self.counts["deaths of writers"] += 1

    @rule(data=st.data())
    def a_recorder_is_closed(self, data: Any) -> None:
        """Its calls under way end in the log all the same."""
        writer = self._any(data, [each for each in self.writers if not each.ended])
        if writer is not None:
            writer.spool.end(closing=True)
            writer.ended = True

    # Sequencers -------------------------------------------------------------------------------------------------

    def _sequencer(self, which: int) -> Sequencer:
        made = self.sequencers[which]
        if made is None:
            made = self.sequencers[which] = Sequencer(self.home)
        return made

    def _dies(self, which: int) -> None:
        """SQLite rolls back what was not committed, as it would find it to do after a death."""
        sequencer, self.sequencers[which] = self.sequencers[which], None
        if sequencer is not None:
            sequencer.close()
        self.counts["deaths of sequencers"] += 1

    @rule(which=st.integers(0, 1), calls=CALLS)
    def the_spool_is_drained(self, which: int, calls: int) -> None:
        self._work(calls)
        self._sequencer(which).drain()

    @rule(
        which=st.integers(0, 1),
        calls=CALLS,
        step=st.sampled_from(
            (
                "before the vault",
                "after the vault",
                "before the journal",
                "inside the journal",
                "after the journal",
                "after the head",
                "before a removal",
                "inside a removal",
            )
        ),
    )
    def a_sequencer_dies_at(self, which: int, calls: int, step: str) -> None:
        self._work(calls)
        sequencer = self._sequencer(which)
        journal, vault, reader = sequencer._journal, sequencer._vault, sequencer._reader

        def after(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> None:
                original(*arguments)
                raise Crash

            return call

        def before(*_: Any) -> None:
            raise Crash

        head = Home.write_head
        try:
            match step:
                case "before the vault":
                    vault.put_calls = before
                case "after the vault":
                    vault.commit = after(vault.commit)
                case "before the journal":
                    journal.commit = before
                case "inside the journal":
                    journal._write = after(journal._write)
                case "after the journal":
                    Home.write_head = before
                case "after the head":
                    Home.write_head = after(head)
                case "before a removal":
                    reader.forget = before
                case "inside a removal":
                    reader._remove = lambda path: after((reader._state_directory / path.stem).unlink)(True)
            sequencer.drain()
        except Crash:
            self.counts[step] += 1
        finally:
            Home.write_head = head
        self._dies(which)

    @rule(which=st.integers(0, 1), calls=CALLS, kept=st.booleans())
    def a_commit_fails(self, which: int, calls: int, kept: bool) -> None:
        """In both of its forms: lost, and kept though it failed. The same sequencer goes on."""
        self._work(calls)
        sequencer = self._sequencer(which)
        journal, commit = sequencer._journal, sequencer._journal.commit

        def fail(batch: Any) -> None:
            del journal.commit
            if not kept:
                raise JournalUnavailable("the disk took nothing")
            commit(batch)
            raise CommitUnknown("COMMIT failed")

        journal.commit = fail
        try:
            sequencer.drain()
        except (JournalUnavailable, CommitUnknown):
            self.counts["commits kept though failed" if kept else "commits lost"] += 1
        finally:
            journal.__dict__.pop("commit", None)

    @rule(calls=CALLS, late=CALLS)
    def two_sequencers_race(self, calls: int, late: int) -> None:
        """The second commits between the first one's look and its commit, what the first has seen and more: the fence."""
        self._work(calls)
        first, second = self._sequencer(0), self._sequencer(1)
        journal, commit = first._journal, first._journal.commit

        def overtaken(batch: Any) -> None:
            del journal.commit
            self._work(late)
            before = second.tree_size
            if second.drain() != before:
                self.counts["races"] += 1
            commit(batch)

        journal.commit = overtaken
        try:
            first.drain()
        finally:
            journal.__dict__.pop("commit", None)

    # Files ------------------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def a_segment_is_backed_up(self, data: Any) -> None:
        path = self._any(data, sorted(self.home.spool_dir.glob("*.seg")))
        if path is not None:
            self.saved.append((path, path.read_bytes()))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def a_segment_comes_back(self, data: Any) -> None:
        """Only one that is gone from the spool: what is final is known for ever, and is not drained twice."""
        path, content = self._any(data, self.saved)
        if not path.exists():
            path.write_bytes(content)
            self.counts["segments put back"] += 1

    # Reports ----------------------------------------------------------------------------------------------------

    def _reports(self) -> Projection:
        if self.projection is None:
            self.projection = Projection.open(self.home.journal_path, self.home.reports_path)
        return self.projection

    @rule()
    def the_reports_follow(self) -> None:
        self._reports().follow()
        self._compare_reports()

    @rule(kept=st.booleans())
    def a_projector_dies(self, kept: bool) -> None:
        projection = self._reports()
        store, advance = projection._reports, projection._reports.advance

        def crash(*arguments: Any, **named: Any) -> bool:
            if kept:
                advance(*arguments, **named)
            raise Crash

        store.advance = crash
        try:
            projection.follow()
        except Crash:
            self.counts["deaths of projectors"] += 1
        projection.close()
        self.projection = None

    @rule()
    def the_reports_are_deleted(self) -> None:
        if self.projection is not None:
            self.projection.close()
            self.projection = None
        for path in self.home.path.glob("reports.db*"):
            path.unlink()

    def _compare_reports(self) -> None:
        fresh = self.folder / "fresh.db"
        projection = Projection.open(self.home.journal_path, fresh)
        projection.follow()
        projection.close()
        with SqliteReports.open(fresh, read_only=True) as computed:
            expected = list(computed.rows())
        with SqliteReports.open(self.home.reports_path, read_only=True) as reports:
            assert expected == list(reports.rows())
        for path in self.folder.glob("fresh.db*"):
            path.unlink()

    # What is true after each step --------------------------------------------------------------------------------

    @invariant()
    def the_log_is_whole(self) -> None:
        self.counts["steps"] += 1
        entries = check_log(self.home)  # root, tiles, positions; nothing twice
        assert len(entries) >= self.size, "the log has become shorter"
        self.size = len(entries)
        found = statuses(entries)
        begun = set()
        for entry in entries:
            if entry["kind"] == "call.intent":
                begun.add(entry["id"])
            elif entry["kind"] == "call.outcome":
                assert entry["id"] in begun, "an outcome before its intent"
        assert [] == of_kind(entries, "log.loss") + of_kind(entries, "log.unreadable")
        unknown = {call for call, status in found.items() if status == "unknown"}
        assert unknown <= self.dead, "a call is given up whose process lives"
        real = set(found) - unknown
        assert real <= self.outcomes, "an outcome that nobody wrote"
        intents, outcomes = self._spooled()
        assert self.intents <= begun | intents, "an acknowledged intent is neither in the log nor in the spool"
        assert self.outcomes <= real | outcomes, "an acknowledged outcome is neither in the log nor in the spool"

    def _spooled(self) -> tuple[set[str], set[str]]:
        """Ids of intents and outcomes in the files of the spool, read without the sequencer's reader."""
        found: tuple[set[str], set[str]] = set(), set()
        for path in self.home.spool_dir.glob("*.seg"):
            data = path.read_bytes()
            header = SegmentHeader.decode(data)
            assert header is not None
            cipher = open_segment_cipher(self.keys.sealing, header.segment, header.sealed_key)
            assert cipher is not None
            for item in scan(memoryview(data)[HEADER_BYTES:], header.marker, HEADER_BYTES):
                assert isinstance(item, Frame)
                plain = cipher.open(item.seq, item.sealed)
                assert plain is not None
                facts = msgspec.msgpack.decode(plain)[0]
                if facts["kind"] in {"call.intent", "call.outcome"}:
                    found[facts["kind"] == "call.outcome"].add(facts["id"])
        return found

    def teardown(self) -> None:
        """All processes die; one sequencer ends what they left."""
        try:
            if self.writers or self.intents:
                for writer in self.writers:
                    self.dead.update(call for call in writer.begun if call not in self.outcomes)
                    writer.die()
                self.writers.clear()
                for which in range(2):
                    self._dies(which)
                sequencer = Sequencer(self.home)
                sequencer.drain()
                sequencer.close()
                self.the_log_is_whole()
                found = statuses(check_log(self.home))
                assert self.intents == set(found), "a call without an end"
                assert [] == list(self.home.spool_dir.iterdir()) == list(self.home.state_dir.glob("*")), (
                    "files are left"
                )
                self.the_reports_follow()
                self.counts["calls"] += len(found)
        finally:
            if self.projection is not None:
                self.projection.close()
            for made in self.sequencers:
                if made is not None:
                    made.close()
            shutil.rmtree(self.folder)

    @staticmethod
    def _any(data: Any, choices: list[Any]) -> Any:
        # From a range that is always the same: how many files there are may depend on when the collector came by.
        place = data.draw(st.integers(0, 5040))
        return choices[place % len(choices)] if choices else None


def survive(tmp_path: Path, *, schedules: int, campaign: str) -> None:
    chosen = seed_of("STATE_MACHINE_SEED")
    machine = seed(chosen)(type("Schedule", (Log,), {"template": new_home(tmp_path).path, "counts": Counter()}))
    result = Result(
        campaign=campaign,
        what="spool, 2 sequencers and reports under random schedules, each step one of 20 with crashes among them",
        unit="crashes",
        seed=chosen,
        again=f"STATE_MACHINE_SEED={chosen} python3 dev.py test tests/campaign/test_state_machine.py",
    )
    with recorded(result):
        result.broken = {"schedules that broke a promise": 1}
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=schedules,
                    stateful_step_count=30,
                    deadline=None,
                    database=None,
                    print_blob=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            result.broken = {"schedules that broke a promise": 0}
        finally:
            counts = machine.counts
            calm = ("schedules", "steps", "calls", "segments put back", "races", "deaths of sequencers")
            result.points = sum(count for name, count in counts.items() if name not in calm)
            result.figures = {name: f"{counts[name]:,}" for name in (*calm, "deaths of writers")}
            print(dict(counts))
    assert result.points > schedules, "hardly anything was broken: nothing is shown"
    assert counts["races"] > 0


def test_no_schedule_of_crashes_breaks_the_log(tmp_path):
    survive(tmp_path, schedules=200, campaign="5-schedules")


@pytest.mark.long
def test_five_thousand_schedules(tmp_path):
    survive(tmp_path, schedules=5_000, campaign="5-schedules-long")
