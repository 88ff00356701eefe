"""A journal whose file was written, or damaged, by somebody else: named, or said to be unreadable, and never a fault of ours."""

from __future__ import annotations

import apsw
import pytest
from tests.verification.logs import Log, calls, classes

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.errors import JournalUnavailable, UnknownOrigin
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import attacks
from openrouter_audit.verification.source import ShownHead
from openrouter_audit.verification.verifier import Verifier


@pytest.fixture
def copy(tmp_path):
    log = Log(tmp_path / "log")
    log.append(calls(20), keep=True)
    log.append(calls(20, first=20))
    log.close()
    return attacks.copy_home(log.home.path, tmp_path / "copy")


def written_by_force(home, *statements):
    """As somebody with an own build of SQLite could: types and constraints of the tables are not asked."""
    connection = apsw.Connection(str(home / "journal.db"))
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f'DROP TRIGGER "{name}"')
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    schemas = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(replace(replace(sql, ' STRICT', ''), ' NOT NULL', ''), ', WITHOUT', ' WITHOUT')"
        " WHERE type = 'table'"
    )
    connection.close()
    connection = apsw.Connection(str(home / "journal.db"))
    for statement in statements:
        connection.execute(statement)
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    for name, sql in schemas:
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name))
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE head SET root = 'text'",
        "UPDATE head SET tree_size = NULL",
        "UPDATE head SET note = NULL",
        "UPDATE checkpoints SET note = NULL",
        "UPDATE positions SET entries = 'many'",
        "UPDATE positions SET last_seq = NULL",
        "UPDATE positions SET process = x'ff'",
    ],
)
def test_a_value_of_another_type_than_its_column_cannot_be_told(copy, statement):
    """STRICT holds for those who write by way of it; a reader takes nothing on trust."""
    written_by_force(copy, statement)
    report = verify_home(Home(copy))

    assert "cannot_tell" == report.verdict
    assert "journal.db" in report.reason


def test_an_entry_that_is_null_is_named(copy):
    written_by_force(copy, "UPDATE entries SET entry = NULL WHERE idx = 7")

    assert ("entry_changed", 7) in classes(verify_home(Home(copy)))


def test_an_entry_of_a_megabyte_is_named_and_not_read_whole(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE entries SET entry = hex(zeroblob(500000)) WHERE idx = 7")
    with JournalEvidence.open(copy / "journal.db") as evidence:
        rows = [row for batch in evidence.batches() for row in batch]

    assert 16 * 1024 + 1 == max(len(text) for _, text in rows)
    assert ("entry_changed", 7) in classes(verify_home(Home(copy)))


def test_a_value_larger_than_memory_should_hold_cannot_be_told(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE entries SET entry = hex(zeroblob(10000000)) WHERE idx = 7")

    assert "cannot_tell" == verify_home(Home(copy)).verdict


def test_a_kept_checkpoint_under_another_size_is_named(copy):
    """Its note is genuine; the number beside it is not what was signed."""
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE checkpoints SET tree_size = tree_size + 1")

    assert [("checkpoint_signature", None)] == classes(verify_home(Home(copy)))


def test_a_head_of_an_unknown_log_whose_note_cannot_be_read_is_of_an_unknown_log(copy):
    """It has kept checkpoints, and the policy has no keys to try on them."""
    with JournalEvidence.open(copy / "journal.db") as evidence:
        shown = evidence.head()

        class Renamed:
            def __getattr__(self, name):
                return getattr(evidence, name)

            def head(self):
                return ShownHead(
                    origin="other", tree_size=shown.tree_size, root_hash=shown.root_hash, at_us=0, note=b"x", edge=b""
                )

        with pytest.raises(UnknownOrigin):
            Verifier(Renamed(), decode_policy((copy / "policy").read_bytes())).verify()


def test_a_changed_entry_after_the_last_tile_is_named_without_trying_all_pairs(copy, monkeypatch):
    """The stored hashes say which it is; trying each pair for a swap takes a third of a second in a full block."""

    def tried(*_):
        raise AssertionError("pairs were tried")

    monkeypatch.setattr("openrouter_audit.verification.tree._find_swap", tried)
    attacks.change_byte(copy, 33)

    assert [("entry_changed", 33)] == classes(verify_home(Home(copy)))


def test_a_file_that_is_no_database_cannot_be_told(copy):
    (copy / "journal.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(JournalUnavailable):
        JournalEvidence.open(copy / "journal.db")

    assert "cannot_tell" == verify_home(Home(copy)).verdict
