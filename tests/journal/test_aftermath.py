"""What a power cut leaves in a spool, made by hand: each file there, not there, or torn, and what the first drain says of it."""

import os
import time

import pytest
from tests.journal.homes import (
    an_intent,
    an_outcome,
    check_log,
    drain,
    new_home,
    new_spool,
    of_kind,
    segment_files,
    statuses,
    write_calls,
)

from openrouter_audit.journal.aftermath import STALE_S
from openrouter_audit.journal.segments import HEADER_BYTES, SegmentHeader
from openrouter_audit.journal.sequencer import Sequencer


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


def ended(home, spool):
    """The process is gone; its segments are there."""
    spool.end(closing=True)
    return segment_files(home)


def two_segments(home):
    """A call whose intent is in one segment and whose outcome is in the next, both of one process that is gone."""
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    token.failed = True  # as after a failed write: what follows goes into another segment
    spool.write(an_outcome(intent), follows=token)
    del token
    first, second = sorted(ended(home, spool), key=lambda path: SegmentHeader.decode(path.read_bytes()).ordinal)
    del spool
    return intent, first, second


def test_a_segment_whose_name_the_disk_forgot_is_read(home):
    """Its frames were acknowledged under the name it was given; the folder has the one before."""
    spool = new_spool(home)
    calls = write_calls(spool, 3)
    (path,) = ended(home, spool)
    del spool
    path.rename(path.with_suffix(".new"))

    assert dict.fromkeys(calls, "success") == statuses(drain(home))
    assert [] == list(home.spool_dir.iterdir())


@pytest.mark.parametrize("content", ["header", "garbage", "another"])
def test_a_beginning_without_frames_or_of_another_segment_is_given_no_name(home, content):
    """Of a maker that may live: it names it itself. What is no segment is none under another name either."""
    spool = new_spool(home)
    write_calls(spool, 1)
    (path,) = ended(home, spool)
    del spool
    data = path.read_bytes()
    path.unlink()
    (home.state_dir / path.stem).unlink()
    beginning = home.spool_dir / (("ab" * 16 if content == "another" else path.stem) + ".new")
    beginning.write_bytes({"header": data[:HEADER_BYTES], "garbage": bytes(len(data)), "another": data}[content])

    assert [] == drain(home)
    assert [beginning] == list(home.spool_dir.iterdir())


def test_a_segment_that_is_gone_is_counted_by_its_page(home):
    """The name was lost with all it held: the counter of its writer says how much that was."""
    spool = new_spool(home)
    write_calls(spool, 3)
    (path,) = ended(home, spool)
    del spool
    path.unlink()
    entries = drain(home)

    assert [("missing_tail", 8)] == [(loss["reason"], loss["count"]) for loss in of_kind(entries, "log.loss")]
    assert [] == list(home.state_dir.iterdir())
    assert entries == drain(home), "said once"


def test_a_page_that_counts_nothing_says_nothing(home):
    """A segment is just being made: its page is there before its name. After an hour nobody makes it any more."""
    page = home.state_dir / ("ab" * 16)
    page.write_bytes(bytes(4096))
    assert [] == drain(home)
    assert page.exists()

    os.utime(page, (0, time.time() - STALE_S - 60))
    assert [] == drain(home)
    assert not page.exists()


def test_a_segment_without_a_header_is_lost_and_kept(home):
    """No key opens it; its page tells what was in it, and the file goes to quarantine."""
    spool = new_spool(home)
    write_calls(spool, 2)
    (path,) = ended(home, spool)
    del spool
    data = path.read_bytes()
    path.write_bytes(bytes(HEADER_BYTES) + data[HEADER_BYTES:])
    entries = drain(home)

    assert [("missing_tail", 6)] == [(loss["reason"], loss["count"]) for loss in of_kind(entries, "log.loss")]
    assert [path.name] == [kept.name for kept in home.quarantine_dir.iterdir()]
    assert [] == list(home.spool_dir.iterdir())


def test_an_outcome_whose_intent_a_disk_forgot_says_that_one_is_missing(home):
    """The first segment is gone with its page, and nothing but the outcome in the second tells that there was an intent."""
    intent, first, second = two_segments(home)
    first.unlink()
    (home.state_dir / first.stem).unlink()
    entries = drain(home)

    assert {intent.id: "success"} == statuses(entries)
    (loss,) = of_kind(entries, "log.loss")
    assert ("missing_tail", 1, second.stem) == (loss["reason"], loss["count"], loss["writer"]["segment"])
    assert entries == drain(home)


def test_an_intent_that_may_be_among_what_a_page_counts_is_missing_without_a_count(home):
    """The page of the first segment is there, and counts it; whose segment that was nobody can tell."""
    intent, first, second = two_segments(home)
    first.unlink()
    entries = drain(home)

    assert {intent.id: "success"} == statuses(entries)
    assert [("missing_tail", 2, first.stem), ("missing_tail", None, second.stem)] == [
        (loss["reason"], loss.get("count"), loss["writer"]["segment"]) for loss in of_kind(entries, "log.loss")
    ]


def test_a_loss_that_is_said_of_the_process_already_stands_for_the_intent(home):
    """A frame that cannot be read and an outcome without intent, of one process: the frame was that intent."""
    intent, first, _ = two_segments(home)
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    entries = drain(home)

    assert {intent.id: "success"} == statuses(entries)
    assert 1 == len(of_kind(entries, "log.unreadable") + of_kind(entries, "log.loss"))


def test_what_a_running_process_has_in_hand_is_not_missed(home):
    """Its intent is in the journal already, its outcome comes: a later sequencer sees no outcome without intent."""
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    drain(home)
    spool.write(an_outcome(intent), follows=token)
    entries = drain(home)

    assert {intent.id: "success"} == statuses(entries)
    assert [] == of_kind(entries, "log.loss")


def test_a_counter_that_outlived_its_segment_is_removed(home):
    """A crash came between the removal of one file and that of the other: it counts nothing any more."""
    spool = new_spool(home)
    write_calls(spool, 1)
    (path,) = ended(home, spool)
    del spool
    page = (home.state_dir / path.stem).read_bytes()
    entries = drain(home)
    (home.state_dir / path.stem).write_bytes(page)

    assert entries == drain(home)
    assert [] == list(home.state_dir.iterdir())


def test_a_segment_under_a_living_lock_is_not_missed_though_its_header_cannot_be_read(home):
    """Somebody holds it, so somebody writes it."""
    spool = new_spool(home)
    write_calls(spool, 1)
    (path,) = segment_files(home)
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(HEADER_BYTES))
        file.flush()
        assert [] == drain(home)
        file.seek(0)
        file.write(data[:HEADER_BYTES])
    ended(home, spool)
    del spool

    assert 1 == len(statuses(drain(home)))


def test_nothing_is_looked_for_twice_by_one_sequencer(home):
    """After the first drain everything there is was there when it began."""
    sequencer = Sequencer(home)
    try:
        sequencer.drain()
        (home.state_dir / ("ab" * 16)).write_bytes(bytes(4096))
        os.utime(home.state_dir / ("ab" * 16), (0, 0))
        sequencer.drain()
        assert 0 == sequencer.tree_size
    finally:
        sequencer.close()
    assert (home.state_dir / ("ab" * 16)).exists()
    check_log(home)
