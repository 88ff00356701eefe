"""The databases of a home when they are not what they should be: a declared error, and nothing written."""

from dataclasses import replace

import apsw
import pytest
from tests.journal.homes import an_intent, drain, new_home, new_spool, write_calls
from tests.verification.logs import Log, calls
from tests.verification.test_hostile_journals import written_by_force

from openrouter_audit.core.entries import CallCost, Private
from openrouter_audit.errors import CommitUnknown, FenceLost, HomeError, JournalUnavailable
from openrouter_audit.journal import vault as vault_module
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.sqlite import Commit, SqliteJournal
from openrouter_audit.journal.vault import PrivateCall, Vault
from openrouter_audit.testing import attacks


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "log")
    log.append(calls(10), keep=True)
    yield log
    log.close()


def change(path, *statements):
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_journal_that_is_not_there_is_not_made_by_opening(tmp_path):
    with pytest.raises(JournalUnavailable, match=r"journal\.db does not exist"):
        SqliteJournal.open(tmp_path / "journal.db")

    assert [] == list(tmp_path.iterdir())


def test_a_journal_of_another_format_is_left_alone(log):
    log.close()
    change(log.home.journal_path, "PRAGMA user_version = 9")
    for opener in (SqliteJournal.open, JournalEvidence.open):
        with pytest.raises(JournalUnavailable, match="has format 9, this program reads format 1"):
            opener(log.home.journal_path)


def test_a_file_that_is_no_database_is_no_journal(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5_000)
    for read_only in (True, False):
        with pytest.raises(JournalUnavailable, match=r"journal\.db cannot be"):
            SqliteJournal.open(tmp_path / "journal.db", read_only=read_only)


def test_a_schema_is_made_whole_or_not_at_all(tmp_path, log):
    """One of its tables is there already, made by somebody else: none of the others is made."""
    path = tmp_path / "journal.db"
    path.touch()
    change(path, "CREATE TABLE head (one)")
    with pytest.raises(JournalUnavailable, match=r"journal\.db cannot be made: .*head"):
        SqliteJournal.create(path, log.journal.head())

    connection = apsw.Connection(str(path))
    assert [("head",)] == connection.execute("SELECT name FROM sqlite_schema").fetchall()
    connection.close()


def test_a_journal_without_its_head_says_so(log):
    log.close()
    change(log.home.journal_path, "DELETE FROM head")
    with (
        SqliteJournal.open(log.home.journal_path) as journal,
        pytest.raises(JournalUnavailable, match="has no head row"),
    ):
        journal.head()
    with (
        JournalEvidence.open(log.home.journal_path) as evidence,
        pytest.raises(JournalUnavailable, match="has no head row"),
    ):
        evidence.head()


def a_commit(log, **changes):
    before = log.positions[next(iter(log.positions))]
    after = replace(before, entries=before.entries + 1, last_seq=before.last_seq + 1)
    values = {
        "expected_size": log.frontier.size,
        "entries": ['{"made":"up"}'],
        "tiles": [],
        "head": replace(log.journal.head(), tree_size=log.frontier.size + 1),
        "keep_checkpoint": False,
        "positions": [(before, after)],
    }
    return Commit(**(values | changes))


def state(log):
    return log.journal.head(), list(log.journal.entries()), log.journal.positions()


def test_a_batch_is_refused_where_another_was_faster(log):
    """By the size of the log, and by the place of each segment, also of one that was not there."""
    before = state(log)
    (position,) = log.positions.values()
    with pytest.raises(FenceLost, match="the log has 20 entries, this batch was made for 19"):
        log.journal.commit(a_commit(log, expected_size=19))
    with pytest.raises(FenceLost, match="stands at"):
        log.journal.commit(a_commit(log, positions=[(replace(position, offset=1), position)]))
    with pytest.raises(FenceLost, match="this batch read it from None"):
        log.journal.commit(a_commit(log, positions=[(None, position)]))

    assert before == state(log)


def test_a_batch_that_a_table_refuses_leaves_nothing(log):
    before = state(log)
    with pytest.raises(JournalUnavailable, match="cannot be written"):
        log.journal.commit(a_commit(log, opened_calls=[("call", None, 1)]))

    assert before == state(log)


def test_a_closed_journal_takes_and_gives_nothing(log):
    commit = a_commit(log)
    log.journal.close()
    with pytest.raises(JournalUnavailable, match=r"journal\.db cannot be written"):
        log.journal.commit(commit)
    for read in (log.journal.head, log.journal.positions, log.journal.last_kept_us, lambda: list(log.journal.tiles())):
        with pytest.raises(JournalUnavailable, match=r"journal\.db cannot be read"):
            read()


def test_a_second_sequencer_on_the_same_state_is_told_to_read_again(log):
    """Both read one state; what the slower one writes is fenced off whole."""
    other = SqliteJournal.open(log.home.journal_path)
    mine, yours = a_commit(log), a_commit(log)
    other.commit(yours)
    with pytest.raises(FenceLost):
        log.journal.commit(mine)
    assert 21 == other.head().tree_size
    other.close()


def test_faults_of_a_damaged_file_are_told(log):
    """The file is longer than its pages, or not: what SQLite itself says of it is handed on."""
    with JournalEvidence.open(log.home.journal_path) as evidence:
        assert None is evidence.find_fault()
    evidence = JournalEvidence.open(log.home.journal_path)
    evidence.close()
    assert "closed" in evidence.find_fault()


@pytest.mark.parametrize("beside", [b"", b"something"])
def test_what_waits_beside_a_journal_on_a_medium_that_cannot_be_written_is_not_overlooked(log, monkeypatch, beside):
    """SQLite would make a file of its own there; an unchanged file is read without one, but only where nothing waits."""
    log.close()
    connect = apsw.Connection

    def on_such_a_medium(name, flags):
        if not name.startswith("file:"):
            raise apsw.CantOpenError("unable to open database file")
        return connect(name, flags=flags)

    path = log.home.journal_path
    path.with_name("journal.db-wal").write_bytes(beside)
    monkeypatch.setattr("openrouter_audit.journal.evidence.apsw.Connection", on_such_a_medium)
    if beside:
        with pytest.raises(JournalUnavailable, match=r"journal\.db cannot be read"):
            JournalEvidence.open(path)
    else:
        with JournalEvidence.open(path) as evidence:
            assert 20 == evidence.count_entries()


# The vault ----------------------------------------------------------------------------------------------------------


def test_a_vault_forgets_people_only_in_memory(tmp_path, monkeypatch):
    """It remembers so many; who comes again after that is found in the table, under the same reference."""
    monkeypatch.setattr(vault_module, "_REMEMBERED_SUBJECTS", 3)
    with Vault.open(tmp_path / "vault.db") as vault:
        first = {user: vault.subject_for(user, at_us=10**15, proposed=None) for user in "abcdef"}
        again = {user: vault.subject_for(user, at_us=10**15, proposed=None) for user in "abcdef"}
        vault.commit()
        assert first == again
        assert [first["a"]] == vault.references("a")


def test_what_a_process_says_of_itself_is_kept_in_the_vault(tmp_path):
    with Vault.open(tmp_path / "vault.db") as vault:
        vault.put_notes([("id", "host", "here"), ("id", "pid", "7")])
        vault.commit()

        assert {"host": "here", "pid": "7"} == vault.notes("id")
        assert {} == vault.notes("other")


def test_a_vault_that_is_closed_says_so(tmp_path):
    vault = Vault.open(tmp_path / "vault.db")
    vault.close()
    for use in (
        vault.roll_back,
        lambda: vault.subject_for("a", at_us=1, proposed=None),
        lambda: vault.put_calls([PrivateCall(call_id="a")]),
    ):
        with pytest.raises(JournalUnavailable, match=r"vault\.db cannot be"):
            use()


# The sequencer --------------------------------------------------------------------------------------------------------


def test_a_journal_under_other_keys_is_not_appended_to(tmp_path):
    home, other = new_home(tmp_path), new_home(tmp_path / "other")
    for path in other.keys_dir.glob("log-*"):
        (home.keys_dir / path.name).write_bytes(path.read_bytes())
    with pytest.raises(HomeError, match="the keys are of"):
        Sequencer(home)


def test_a_journal_without_a_tile_is_not_appended_to(tmp_path):
    """Nobody can tell the root of what it would sign."""
    log = Log(tmp_path / "log")
    log.append(calls(200))
    log.close()
    with attacks._tampering(log.home.path) as journal:
        journal.execute("DELETE FROM tiles")
    with pytest.raises(HomeError, match="tile 0/0 is missing: run verify"):
        Sequencer(log.home)


def test_a_journal_whose_root_is_not_the_signed_one_is_not_appended_to(tmp_path):
    log = Log(tmp_path / "log")
    log.append(calls(2))
    log.close()
    attacks.change_byte(log.home.path, 1)
    with pytest.raises(HomeError, match="does not have the root it signed"):
        Sequencer(log.home)


def test_a_spool_that_cannot_be_read_is_read_later(tmp_path):
    home = new_home(tmp_path)
    spool = new_spool(home)
    write_calls(spool, 2)
    sequencer = Sequencer(home)
    aside = home.spool_dir.rename(home.path / "aside")
    with pytest.raises(JournalUnavailable, match="the spool cannot be read"):
        sequencer.drain()
    aside.rename(home.spool_dir)
    size = sequencer.drain()
    sequencer.close()
    assert size == sequencer.tree_size == len(drain(home))


def test_a_sequencer_that_is_always_overtaken_gives_up_and_says_so(tmp_path, monkeypatch):
    home = new_home(tmp_path)
    write_calls(new_spool(home), 1)
    sequencer = Sequencer(home)

    def overtaken(self, commit):
        raise FenceLost("another was faster")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteJournal, "commit", overtaken)
        with pytest.raises(FenceLost, match="times another sequencer was faster"):
            sequencer.drain()
    sequencer.drain()
    sequencer.close()
    drain(home)


def test_a_commit_that_fails_at_its_end_is_unknown(log, monkeypatch):
    """A reader in the middle of a deferred check: SQLite refuses COMMIT itself, and everything is rolled back."""
    connection = log.journal._connection

    class Refusing:
        def __getattr__(self, name):
            return getattr(connection, name)

        def execute(self, sql, *values):
            if sql == "COMMIT":
                raise apsw.FullError("disk is full")
            return connection.execute(sql, *values)

    before = state(log)
    commit = a_commit(log)
    monkeypatch.setattr(log.journal, "_connection", Refusing())
    with pytest.raises(CommitUnknown, match="COMMIT failed"):
        log.journal.commit(commit)
    assert before == state(log)


def test_private_parts_of_other_records_go_nowhere(tmp_path):
    """Only calls, processes and accesses have words for the vault."""
    home = new_home(tmp_path)
    spool = new_spool(home)
    spool.write(an_intent())
    cost = CallCost(v=1, id="ab" * 16, at_us=1, state="settled", total_cost="0.1")
    spool.write(cost, Private(user="alice", host="here"))
    (kept,) = [entry for entry in drain(home) if entry["kind"] == "call.cost"]

    assert "alice" not in str(kept)
    with Vault.open(home.vault_path) as vault:
        assert [] == vault.references("alice")
        assert {} == vault.notes(cost.id)


def test_positions_of_another_type_cannot_be_read(log, tmp_path):
    log.close()
    copy = attacks.copy_home(log.home.path, tmp_path / "copy")
    written_by_force(copy, "UPDATE positions SET entries = 'many'")
    with JournalEvidence.open(copy / "journal.db") as evidence:
        with pytest.raises(JournalUnavailable, match="a row of positions"):
            evidence.positions()
        assert 20 == sum(len(batch) for batch in evidence.batches())
