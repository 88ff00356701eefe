"""What a recovery can read of a damaged journal, and how it goes on with a spool whose positions are lost."""

import msgspec
import pytest
from tests.journal.homes import (
    an_intent,
    an_outcome,
    check_log,
    drain,
    new_home,
    new_spool,
    of_kind,
    statuses,
    write_calls,
)
from tests.journal.test_recovery import NOW_US, mend
from tests.verification.logs import ORIGIN, Log, calls, intent
from tests.verification.test_hostile_journals import written_by_force

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.checkpoints import Policy, decode_policy
from openrouter_audit.core.merkle import Frontier, leaf_hash
from openrouter_audit.errors import JournalUnavailable
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.former import FormerLogs, WholeHistory, former_folders, root_of_entries
from openrouter_audit.journal.history import History, read_history, readable_rows
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import attacks


@pytest.fixture
def log(tmp_path):
    """20 entries under a kept checkpoint, and 20 more."""
    log = Log(tmp_path / "log")
    log.append(calls(10), keep=True)
    log.append(calls(10, first=10))
    log.close()
    return log


@pytest.fixture
def copy(log, tmp_path):
    return attacks.copy_home(log.home.path, tmp_path / "copy")


def read(home, *sizes, policy=None):
    policy = decode_policy((home / "policy").read_bytes()) if policy is None else policy
    return read_history(home / "journal.db", policy, sizes)


def test_a_whole_journal_has_no_fault(copy, log):
    history = read(copy, 0, 20, 40, 41)

    assert (None, True, 40, log.frontier.root()) == (history.fault, history.readable, history.size, history.root)
    assert {0, 20, 40} == set(history.roots)
    assert 40 == history.signed[0]
    assert (20, {}) == (history.calls, history.open_intents)


def test_a_journal_with_fewer_entries_than_it_signed_is_at_fault(copy):
    """What is left leads to the checkpoint that was kept, which is then the newest one that holds."""
    with attacks._tampering(copy) as journal:
        journal.execute("DELETE FROM entries WHERE idx >= 30")
    history = read(copy)

    assert "journal.db has not the 40 entries and the root it signed" == history.fault
    assert (30, 20) == (history.size, history.signed[0])


def test_a_journal_that_other_keys_signed_is_at_fault(copy, tmp_path):
    """The policy names the log, and keys that are not those of its checkpoint."""
    other = Home(tmp_path / "other")
    other.ensure(origin=ORIGIN)
    history = read(copy, policy=decode_policy(other.policy_path.read_bytes()))

    assert "the checkpoint in journal.db is not signed by the keys of the policy" == history.fault
    assert None is history.signed


def test_a_policy_that_does_not_know_the_log_says_nothing_about_it(copy):
    history = read(copy, policy=Policy(logs={}))

    assert (None, None) == (history.fault, history.signed)


@pytest.mark.parametrize(
    ("statement", "size"),
    [
        ("UPDATE entries SET idx = idx + 100 WHERE idx >= 25", 25),
        ("UPDATE entries SET entry = CAST(x'ff00fe7b' AS TEXT) WHERE idx = 25", 25),
        ("DELETE FROM entries", 0),
    ],
)
def test_entries_are_read_up_to_the_first_that_is_none(copy, statement, size):
    """A gap in the numbers, or bytes that are no text."""
    with attacks._tampering(copy) as journal:
        journal.execute(statement)
    history = read(copy)

    assert size == history.size
    assert history.fault is not None


def test_entries_before_a_page_that_cannot_be_read_are_read_one_by_one(copy):
    """One value is longer than any may be: the batch it is in cannot be read, and each row before it can."""
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE entries SET entry = hex(zeroblob(10000000)) WHERE idx = 33")
    with JournalEvidence.open(copy / "journal.db") as evidence:
        assert list(range(33)) == [index for index, _ in readable_rows(evidence)]

    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE entries SET entry = CAST(x'ff' AS TEXT) WHERE idx = 31")
    with JournalEvidence.open(copy / "journal.db") as evidence:
        assert list(range(31)) == [index for index, _ in readable_rows(evidence)]


@pytest.mark.parametrize("statement", ["UPDATE head SET root = 'text'", "UPDATE positions SET entries = 'many'"])
def test_a_damaged_table_is_the_fault_and_the_entries_are_read(copy, statement):
    written_by_force(copy, statement)
    history = read(copy, 20)

    assert statement.split()[1] in history.fault
    assert (40, {20}) == (history.size, {20} & set(history.roots))
    assert ("head" in statement) == (history.head is None)
    assert ("positions" in statement) == (history.positions == {})


@pytest.mark.parametrize("statement", ["UPDATE tiles SET hashes = zeroblob(8192)", "DELETE FROM tiles"])
def test_a_tile_that_does_not_fit_is_the_fault(tmp_path, statement):
    """In a log of more entries than are hashed at once."""
    log = Log(tmp_path / "log")
    log.append(calls(2_100))
    log.close()
    assert None is read(log.home.path).fault
    with attacks._tampering(log.home.path) as journal:
        journal.execute(statement)
    history = read(log.home.path)

    assert "tile 0/0 does not fit its entries" == history.fault
    assert 4_200 == history.size


def test_a_tile_that_cannot_be_read_is_the_fault(tmp_path):
    log = Log(tmp_path / "log")
    log.append(calls(130))
    log.close()
    with attacks._tampering(log.home.path) as journal:
        journal.execute("UPDATE tiles SET hashes = zeroblob(20000000)")

    assert "tile 0/0 does not fit its entries" == read(log.home.path).fault


def test_a_kept_checkpoint_that_does_not_hold_is_passed_over(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE checkpoints SET note = 'nothing'")
    history = read(copy)

    assert (None, 40) == (history.fault, history.signed[0])


def test_entries_are_followed_as_far_as_they_are_understood():
    """An import is a call that waits for nothing; what is no entry, or says no writer, is passed over."""
    history = History()
    imported = msgspec.json.encode({"at_us": 1, "id": "ab" * 16, "kind": "call.imported", "subject": "cd" * 16})
    for index, text in enumerate(
        [
            imported,
            b"nothing",
            b"\xff",
            b'{"at_us":2,"id":"x","kind":"call.intent"}',
            b'{"at_us":2,"id":"y","kind":"call.outcome"}',
            b'{"at_us":3,"id":"z","kind":"log.loss","reason":"vault"}',
            b'{"at_us":3,"id":"z","kind":"log.loss","reason":"full"}',
            b'{"at_us":3,"id":"z","kind":"log.later"}',
        ]
    ):
        history.take(index, text)

    assert (2, {"cd" * 16: 0}, {}, 5) == (
        history.calls,
        history.subjects,
        history.open_intents,
        history.last_vault_loss,
    )


# Recovery ---------------------------------------------------------------------------------------------------------------


def test_a_damaged_end_is_salvaged_under_the_newest_checkpoint_that_holds(log, tmp_path):
    """The former log keeps all that can be read, and its head is the one that its signature still covers."""
    with attacks._tampering(log.home.path) as journal:
        journal.execute("UPDATE entries SET entry = hex(zeroblob(10000000)) WHERE idx = 30")
    found = mend(log.home)

    assert "damaged" == found.reason
    former = log.home.former_dir / "1"
    with JournalEvidence.open(former / "journal.db") as evidence:
        assert 20 == evidence.head().tree_size
        assert 30 == evidence.count_entries()
    report = verify_home(Home(former))
    assert {"checkpoint_behind"} <= {one.kind for one in report.findings}
    assert {"rollback"} == {one.kind for one in report.findings if one.severity == "tampered"}, (
        "its head file knows of 40"
    )


def test_each_frame_is_an_entry_once_though_the_positions_are_lost(tmp_path):
    """
    Files of the spool are read again, each as far as entries know it: one that is read to its end, one with more in it,
    and one that is gone.
    """
    home = new_home(tmp_path)
    spool, later, gone = (new_spool(home) for _ in range(3))
    first = write_calls(spool, 3)
    pending = an_intent()
    token = later.write(pending)
    write_calls(gone, 1)
    drain(home)
    later.write(an_outcome(pending), follows=token)
    more = write_calls(later, 2)
    gone_name = gone._newest[0][1].name
    written_by_force(home.path, "UPDATE positions SET entries = 'many'")
    gone.end(closing=True)
    (home.spool_dir / f"{gone_name}.seg").unlink()
    (home.state_dir / gone_name).unlink()

    found = mend(home)
    assert "damaged" == found.reason
    spool.end(closing=True)
    later.end(closing=True)
    del spool, later, gone, token
    after = drain(home)
    former = check_log_of_former(home)

    frames = [(entry["writer"]["segment"], entry["writer"]["seq"]) for entry in former]
    again = [(entry["writer"]["segment"], entry["writer"]["seq"]) for entry in after]
    carried = [entry for entry in after if entry in former]
    assert len(set(frames) & set(again)) == len(carried)
    assert set(first) <= set(statuses(former))
    assert {*more, pending.id} <= set(statuses(after))
    assert [] == [entry for entry in of_kind(after, "call.intent") if entry["id"] in first]


def check_log_of_former(home):
    with JournalEvidence.open(home.former_dir / "1" / "journal.db") as evidence:
        return [msgspec.json.decode(text) for batch in evidence.batches() for _, text in batch]


def test_a_page_of_losses_is_said_in_the_successor_and_no_empty_count(tmp_path):
    """A segment that is gone had counted records as lost, some of them waiting, and some that it knew to have failed."""
    home = new_home(tmp_path)
    spool = new_spool(home)
    write_calls(spool, 2)
    drain(home)
    segment = spool._newest[0][1]
    segment.state.lose("full", 5, 3)
    segment.state.wait(6)
    segment.state.written_after_all(7)
    name = segment.name
    del segment
    spool.end(closing=True)
    del spool
    (home.spool_dir / f"{name}.seg").unlink()
    found = mend(home)

    assert [name] == [lost.segment for lost in found.segments_lost]
    assert [("spool", 1), ("full", 3)] == [
        (loss["reason"], loss.get("count")) for loss in of_kind(check_log(home), "log.loss")
    ]


def test_a_successor_of_a_log_without_a_policy_pins_its_own_keys(log):
    """Nobody knows any more what was trusted before: the former log is kept, and nothing vouches for it."""
    log.home.policy_path.unlink()
    with attacks._tampering(log.home.path) as journal:
        journal.execute("DELETE FROM entries WHERE idx >= 30")
    found = mend(log.home)

    assert None is found.policy
    assert 1 == len(decode_policy(log.home.policy_path.read_bytes()).logs)
    assert not (log.home.former_dir / "1" / "policy").exists()
    assert "incomplete" == verify_home(log.home).verdict


def test_a_head_that_cannot_be_read_is_a_lost_head(tmp_path):
    home = new_home(tmp_path)
    spool = new_spool(home)
    write_calls(spool, 1)
    size = len(drain(home))
    origin, _, _ = home.head_path.read_text().split()
    home.head_path.write_text(f"{origin} {size} no-base64-at-all!\n")
    found = mend(home)

    assert found.head_lost
    assert (origin, size + 1) == home.read_head()[:2], "one entry says so"
    assert ["head_lost"] == [one.kind for one in verify_home(home).findings]


# Former logs ------------------------------------------------------------------------------------------------------------


def test_the_root_of_the_entries_of_a_former_log_ends_where_they_do(log):
    """At a gap, at the size that was asked for, or at the end of what is there."""
    log = Log(log.home.path.with_name("again"))
    log.append(calls(5))
    rows = [(index, text.encode()) for index, text in log.journal.entries()]
    log.close()

    def root(size):
        tree = Frontier()
        tree.extend([leaf_hash(text) for _, text in rows[:size]])
        return size, tree.root()

    assert root(10) == root_of_entries([rows[:4], rows[4:]], until=99)
    assert root(7) == root_of_entries([rows[:4], rows[4:]], until=7)
    assert root(6) == root_of_entries([rows[:4], rows[4:6], rows[7:]], until=99)
    assert root(0) == root_of_entries([], until=99)


def test_a_former_log_that_cannot_be_read_is_said_and_nothing_stays_open(log, tmp_path):
    """Two are there, and one of them is no database; a folder without a journal is passed over."""
    former = log.home.former_dir
    for number in ("1", "2", "3"):
        (former / number).mkdir(parents=True)
    (former / "notes").mkdir()
    (former / "1" / "journal.db").write_bytes(b"no database" * 1000)
    (former / "2" / "journal.db").write_bytes(log.home.journal_path.read_bytes())
    assert ["1", "2", "3"] == [path.name for path in former_folders(former)]
    with pytest.raises(JournalUnavailable):
        FormerLogs.open(former)
    with pytest.raises(JournalUnavailable):
        WholeHistory.open(log.home.journal_path)

    (former / "1" / "journal.db").unlink()
    with WholeHistory.open(log.home.journal_path) as history:
        assert -40 == history.first_index
        assert 40 == history.head().tree_size
        assert [*range(-40, 40)] == [index for index, _ in history.entries(-40)]
        assert [*range(-3, 0)] == [index for index, _ in history.entries(-3, 0)]
        assert [*range(5)] == [index for index, _ in history.entries(0, 5)]


def test_an_intent_that_waits_is_known_with_the_segment_it_stands_in(tmp_path):
    log = Log(tmp_path / "log")
    log.append([*calls(1), intent("waits")])
    log.close()
    history = read(log.home.path)
    (waiting,) = history.open_intents.values()

    assert (2, 1) == (waiting.seq, len(history.positions))
    assert NOW_US > waiting.at_us
