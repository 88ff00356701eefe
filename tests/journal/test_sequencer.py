"""From spool to journal: once, in order, whatever fails on the way, and whoever else is at it."""

import gc
import os
import threading

import apsw
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

from openrouter_audit.core.entries import Private
from openrouter_audit.errors import CommitUnknown, HomeError, JournalUnavailable
from openrouter_audit.journal import drain as drain_module
from openrouter_audit.journal.segments import HEADER_BYTES
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.journal.vault import Vault


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


@pytest.fixture
def sequencer(home):
    made = Sequencer(home)
    yield made
    made.close()


def frames_of(data):
    """Offsets and ends of the frames of an undamaged segment."""
    at, found = HEADER_BYTES, []
    while at < len(data):
        end = at + 24 + int.from_bytes(data[at + 8 : at + 12])
        found.append((at, end))
        at = end
    return found


def finished_segment(home, calls):
    spool = new_spool(home)
    ids = write_calls(spool, calls)
    spool.end(closing=True)
    del spool
    gc.collect()
    (path,) = segment_files(home)
    return ids, path


@pytest.mark.parametrize("place", ["marker", "length", "number_low", "number_high", "crc", "sealed"])
def test_damage_costs_one_record_is_an_entry_and_the_drain_goes_on(home, place):
    """
    One byte of the third frame is changed. Its record is unreadable or lost, in either case signed; all others are there.
    """
    ids, path = finished_segment(home, 4)
    data = bytearray(path.read_bytes())
    start, _ = frames_of(data)[2]  # log.opened, intent, and here the outcome of the first call
    at = {"marker": 0, "length": 11, "number_low": 19, "number_high": 12, "crc": 22, "sealed": 40}[place]
    data[start + at] ^= 0x04
    path.write_bytes(data)
    entries = drain(home)

    assert ids == [entry["id"] for entry in of_kind(entries, "call.intent")]
    assert {ids[0]: "unknown", **dict.fromkeys(ids[1:], "success")} == statuses(entries)
    losses, unreadable = of_kind(entries, "log.loss"), of_kind(entries, "log.unreadable")
    assert 1 == len(losses) + len(unreadable)
    for loss in losses:
        assert 1 == loss["count"]
    for entry in unreadable:
        assert (home.quarantine_dir / entry["frame_digest"]).stat().st_size == entry["frame_bytes"]
    assert [] == segment_files(home)


def test_a_frame_with_a_forged_number_is_no_poison(home):
    """
    Right marker, length and checksum, a number no entry can have, and no seal: it is passed over.
    """
    from openrouter_audit.journal.segments import SegmentHeader, frame_head

    ids, path = finished_segment(home, 2)
    data = path.read_bytes()
    header = SegmentHeader.decode(data)
    assert header is not None
    for number in (2**64 - 1, 2**53, 0):
        data += frame_head(header.marker, number, b"f" * 50) + b"f" * 50
    path.write_bytes(data)

    assert dict.fromkeys(ids, "success") == statuses(drain(home))


def test_a_segment_sealed_for_another_journal_is_unreadable_and_finished(home, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    stranger = new_home(other)
    finished_segment(stranger, 2)
    (path,) = segment_files(stranger)
    path.rename(home.spool_dir / path.name)
    entries = drain(home)

    assert ["seal"] * 6 == [entry["reason"] for entry in of_kind(entries, "log.unreadable")]
    assert [] == segment_files(home)


def test_a_cut_tail_of_acknowledged_records_is_a_loss(home):
    """
    The file system lost the end of a file; the state file beside it knows how many were acknowledged.
    """
    _, path = finished_segment(home, 3)
    start, _ = frames_of(path.read_bytes())[-3]
    os.truncate(path, start + 10)
    losses = of_kind(drain(home), "log.loss")

    assert [("missing_tail", 3)] == [(loss["reason"], loss["count"]) for loss in losses]


def test_a_hole_larger_than_what_is_read_at_once_does_not_end_the_segment(home, monkeypatch):
    monkeypatch.setattr(drain_module, "READ_BYTES", 2000)
    ids, path = finished_segment(home, 40)
    data = bytearray(path.read_bytes())
    frames = frames_of(data)
    data[frames[10][0] : frames[30][0]] = bytes(frames[30][0] - frames[10][0])
    path.write_bytes(data)
    entries = drain(home)

    assert "success" == statuses(entries)[ids[-1]]
    assert [20] == [loss["count"] for loss in of_kind(entries, "log.loss")]


def test_files_that_are_no_segments_do_not_stop_the_drain(home):
    (home.spool_dir / "folder.seg").mkdir(mode=0o700)
    (home.spool_dir / "junk.seg").write_bytes(b"junk")
    spool = new_spool(home)
    write_calls(spool, 1)

    assert 1 == len(statuses(drain(home)))


def test_an_intent_is_swept_when_its_writer_is_gone_and_never_before(home, sequencer):
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    sequencer.drain()
    assert {} == statuses(check_log(home))

    spool._newest = []
    sequencer.drain()
    assert {} == statuses(check_log(home)), "the exchange still holds its segment"

    del token
    gc.collect()
    sequencer.drain()
    assert {intent.id: "unknown"} == statuses(check_log(home))


def test_an_outcome_in_a_later_segment_closes_an_intent_of_an_earlier_one(home, sequencer):
    """
    The segment was rotated while the call was under way (C27): it stays locked, and then goes without a sweep.
    """
    spool = new_spool(home, rotate_bytes=1000)
    intent = an_intent()
    token = spool.write(intent)
    write_calls(spool, 10)
    sequencer.drain()
    assert intent.id not in statuses(check_log(home))
    assert token.name + ".seg" in {path.name for path in segment_files(home)}

    spool.write(an_outcome(intent), follows=token)
    name = token.name
    del token
    gc.collect()
    sequencer.drain()
    assert {"success"} == set(statuses(check_log(home)).values())
    assert name + ".seg" not in {path.name for path in segment_files(home)}


def test_a_segment_made_while_the_sequencer_looks_is_not_overlooked(home, sequencer, monkeypatch):
    """
    Between listing the folder and asking for the lock, the writer rotates, ends the call in a new segment and lets the old
    one go. The intent has its outcome: it must not be swept.
    """
    spool = new_spool(home, rotate_bytes=1)
    intent = an_intent()
    held = [spool.write(intent)]
    original = drain_module.Source.check_finished

    def meanwhile(source):
        if held:
            spool.write(an_outcome(intent), follows=held[0])
            held.clear()
            gc.collect()
        original(source)

    monkeypatch.setattr(drain_module.Source, "check_finished", meanwhile)
    sequencer.drain()
    sequencer.drain()

    assert {intent.id: "success"} == statuses(check_log(home))


def test_two_threads_that_rotate_at_once_keep_intents_before_outcomes(home):
    """
    The slower thread's segment has the lower number: it must not become the current one after the other's.
    """
    spool = new_spool(home)
    inside, go_on = threading.Event(), threading.Event()

    def slow_hostname():
        if threading.current_thread() is slow:
            inside.set()
            go_on.wait(10)
        return "host"

    from openrouter_audit.journal import spool as module

    real = module.socket.gethostname
    module.socket.gethostname = slow_hostname
    try:
        slow = threading.Thread(target=lambda: write_calls(spool, 1))
        slow.start()
        inside.wait(10)
        intent = an_intent()
        token = spool.write(intent)  # into segment 1, while segment 0 is being made
        go_on.set()
        slow.join()
        spool.write(an_outcome(intent), follows=token)
    finally:
        module.socket.gethostname = real
    kinds = [(e["kind"], e["id"]) for e in drain(home)]

    assert kinds.index(("call.intent", intent.id)) < kinds.index(("call.outcome", intent.id))
    assert 1 == sum(kind == ("call.outcome", intent.id) for kind in kinds)


def test_a_segment_that_is_put_back_is_not_drained_twice(home):
    _, path = finished_segment(home, 3)
    copy = path.read_bytes()
    before = drain(home)
    path.write_bytes(copy)

    assert before == drain(home)
    assert not path.exists()


def test_a_sequencer_that_was_overtaken_reads_the_state_again(home, sequencer):
    """
    It has read the same frames from the same positions, and its batch was made for a log that has grown meanwhile.
    """
    spool = new_spool(home)
    ids = write_calls(spool, 3)
    assert sorted(ids) == sorted(statuses(drain(home)))
    assert spool.has_written  # and so alive: its segment is there to be read once more
    sequencer.drain()
    assert sorted(ids) == sorted(statuses(check_log(home)))


def test_two_sequencers_at_once_double_nothing(home):
    """
    Two instances and a writer in three threads: the fence lets one of them win each time.
    """
    spool = new_spool(home, rotate_bytes=20_000)
    ids: list[str] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def sequence():
        try:
            sequencer = Sequencer(home)
            while not stop.is_set():
                try:
                    sequencer.drain()
                except JournalUnavailable:
                    continue
            sequencer.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=sequence) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        ids += write_calls(spool, 20)
    stop.set()
    for thread in threads:
        thread.join()
    entries = drain(home)

    assert [] == failures
    assert sorted(ids) == sorted(statuses(entries))
    assert {"success"} == set(statuses(entries).values())


def test_a_journal_behind_its_head_file_is_not_appended_to(home):
    """
    An older database was put back: it must not sign a second history.
    """
    spool = new_spool(home)
    write_calls(spool, 1)
    drain(home)
    head = home.head_path.read_text()
    origin, size, root = head.split()
    home.head_path.write_text(f"{origin} {int(size) + 1} {root}\n")
    write_calls(spool, 1)
    with pytest.raises(HomeError):
        Sequencer(home)

    home.head_path.write_text(
        f"{origin} {size} {root[:-2]}A=\n" if root[-2] != "A" else f"{origin} {size} B{root[1:]}\n"
    )
    with pytest.raises(HomeError):
        Sequencer(home)
    home.head_path.write_text(head)
    assert 2 == len(statuses(drain(home)))


def test_a_head_file_that_is_written_between_two_reads_is_no_rollback(home, sequencer, monkeypatch):
    """
    Another sequencer commits just after we read the journal's head.
    """
    spool = new_spool(home)
    write_calls(spool, 1)
    read = SqliteJournal.head
    other = []

    def head(journal):
        found = read(journal)
        if not other:
            other.append(1)
            drain(home)
        return found

    monkeypatch.setattr(SqliteJournal, "head", head)
    second = Sequencer(home)
    monkeypatch.undo()
    write_calls(spool, 1)
    second.drain()
    second.close()

    assert 2 == len(statuses(check_log(home)))


@pytest.mark.parametrize("kept", [False, True])
def test_a_commit_that_ends_without_an_answer_is_neither_lost_nor_doubled(home, sequencer, monkeypatch, kept):
    spool = new_spool(home)
    ids = write_calls(spool, 3)
    commit = SqliteJournal.commit

    def fails(journal, batch):
        if kept:
            commit(journal, batch)
        monkeypatch.undo()
        raise CommitUnknown("no answer")

    monkeypatch.setattr(SqliteJournal, "commit", fails)
    with pytest.raises(CommitUnknown):
        sequencer.drain()
    assert (7 if kept else 0) == len(check_log(home))
    ids += write_calls(spool, 1)
    sequencer.drain()

    assert sorted(ids) == sorted(statuses(check_log(home)))


def test_a_vault_that_fails_leaves_the_journal_unwritten(home, sequencer, monkeypatch):
    spool = new_spool(home)
    spool.write(an_intent(), Private(user="alice"))

    def refuses(_vault, _calls):
        raise JournalUnavailable("vault.db cannot be written: full")

    monkeypatch.setattr(Vault, "put_calls", refuses)
    with pytest.raises(JournalUnavailable):
        sequencer.drain()
    assert [] == check_log(home)
    monkeypatch.undo()
    sequencer.drain()
    (intent,) = of_kind(check_log(home), "call.intent")
    with Vault.open(home.vault_path, read_only=True) as vault:
        assert {intent["subject"]: "alice"} == vault.users([intent["subject"]])


def test_a_database_that_is_full_takes_nothing_and_goes_on_later(home, sequencer):
    """
    SQLite's own page bound: it rolls back by itself, and the spool still has everything.
    """
    connection = sequencer._journal._connection
    connection.execute("PRAGMA max_page_count = 30")
    spool = new_spool(home)
    ids = write_calls(spool, 400)
    with pytest.raises(JournalUnavailable):
        sequencer.drain()
    assert [] == check_log(home)
    connection.execute("PRAGMA max_page_count = 100000")
    sequencer.drain()

    assert sorted(ids) == sorted(statuses(check_log(home)))


def test_large_batches_fill_tiles_and_keep_positions(home, monkeypatch):
    from openrouter_audit.journal import batch

    monkeypatch.setattr(batch, "FULL_ENTRIES", 100)
    spool = new_spool(home, rotate_bytes=50_000)
    ids = write_calls(spool, 400)
    entries = drain(home)

    assert ids == [entry["id"] for entry in of_kind(entries, "call.intent")]
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        assert 3 == len(list(journal.tiles()))


def test_the_journal_refuses_to_be_rewritten(home):
    spool = new_spool(home)
    write_calls(spool, 150)
    drain(home)
    connection = apsw.Connection(str(home.journal_path))
    for statement in (
        "UPDATE entries SET entry = '{}' WHERE idx = 1",
        "DELETE FROM entries WHERE idx = 1",
        "DELETE FROM entries",
        "INSERT INTO entries VALUES (100000, '{}')",
        "UPDATE tiles SET hashes = x'00'",
        "DELETE FROM tiles",
        "UPDATE checkpoints SET note = ''",
        "DELETE FROM checkpoints",
    ):
        with pytest.raises(apsw.ConstraintError):
            connection.execute(statement)
    connection.close()
    check_log(home)


@pytest.mark.parametrize(("database", "version"), [("journal_path", 1), ("vault_path", 3)])
def test_databases_run_with_the_settings_they_rely_on(home, database, version):
    from openrouter_audit.journal.sqlite import open_connection

    connection = open_connection(getattr(home, database))
    answers = {
        name: connection.execute(f"PRAGMA {name}").get for name in ("journal_mode", "synchronous", "user_version")
    }
    strict = connection.execute(
        "SELECT min(strict) FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'"
    )

    assert {"journal_mode": "wal", "synchronous": 2, "user_version": version} == answers
    assert 1 == strict.get
    connection.close()


def test_a_reference_that_was_proposed_twice_does_not_stop_the_drain(home):
    """
    A process proposes for a person what the vault gave somebody else.
    """
    spool = new_spool(home)
    for user in ("alice", "bob"):
        spool.write(an_intent(), Private(user=user, reference="a" * 32))
    subjects = [entry["subject"] for entry in of_kind(drain(home), "call.intent")]
    with Vault.open(home.vault_path, read_only=True) as vault:
        assert dict(zip(subjects, ("alice", "bob"), strict=True)) == vault.users(subjects)


def test_two_processes_that_propose_for_one_person_agree_on_the_first(home):
    spools = [new_spool(home), new_spool(home)]
    for number, spool in enumerate(spools):
        spool.write(an_intent(), Private(user="alice", reference=f"{number}" * 32))
    (subject,) = {entry["subject"] for entry in of_kind(drain(home), "call.intent")}
    with Vault.open(home.vault_path, read_only=True) as vault:
        assert dict.fromkeys(("0" * 32, "1" * 32), "alice") == vault.users(["0" * 32, "1" * 32])
        assert [subject] == vault.references("alice")
