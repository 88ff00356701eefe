"""Every attack on a copy is found, and named by class and index."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest
from tests.verification.logs import ORIGIN, Log, calls, classes, intent, outcome

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.checkpoints import LeastSize, decode_policy, encode_policy
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import attacks

SIZE = 700
"""Two full tiles and 188 entries after them."""


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    """A log of 700 entries, with reports, a kept checkpoint at 300 and at 600."""
    log = Log(tmp_path_factory.mktemp("genuine") / "home")
    log.append(calls(150), keep=True, minutes=60)
    log.append(calls(150, first=150), keep=True, minutes=60)
    log.append(calls(50, first=300))
    log.project()
    log.close()
    return log.home.path


@pytest.fixture
def copy(genuine, tmp_path):
    return attacks.copy_home(genuine, tmp_path / "copy")


def verified(home, **options):
    return verify_home(Home(home), **options)


def test_a_copy_without_keys_is_proven(copy):
    """Nothing but the policy is needed, and it is enough."""
    assert not (copy / "keys").exists()
    report = verified(copy)

    assert "proven" == report.verdict
    assert () == report.findings
    assert SIZE == report.tree_size
    assert (350, 350) == (report.counts.intents, report.counts.outcomes)


@pytest.mark.parametrize("index", [0, 255, 256, 300, 511, 512, 600, 699])
def test_a_changed_byte_is_named_by_its_index(copy, index):
    attacks.change_byte(copy, index)
    report = verified(copy)

    assert "tampered" == report.verdict
    assert [("entry_changed", index)] == classes(report, severity="tampered")


def test_two_neighbours_and_a_third_are_all_named(copy):
    for index in (10, 11, 400):
        attacks.change_byte(copy, index)

    assert [("entry_changed", 10), ("entry_changed", 11), ("entry_changed", 400)] == classes(verified(copy))


def test_changed_and_removed_entries_after_the_last_tile_are_all_named(copy):
    """The hashes beside the checkpoint lead to the signed root, so each of them tells which entry is not what it was."""
    for index in (520, 521, 690):
        attacks.change_byte(copy, index)
    attacks.swap_rows(copy, 530, 640)
    report = verified(copy)

    assert [
        ("entry_changed", 520),
        ("entry_changed", 521),
        ("entry_changed", 690),
        ("entry_reordered", 530),
        ("entry_reordered", 640),
    ] == classes(report, severity="tampered")


def test_a_changed_hash_beside_the_checkpoint_is_named_as_the_tile_it_belongs_to(copy):
    """The entries lead to the signed root and are genuine; what stands beside them was changed."""
    edit_edge(copy, lambda edge: bytes(32) + edge[32:])

    assert [("tile_mismatch", None)] == classes(verified(copy))


def edit_edge(home, change):
    with closing(sqlite3.connect(home / "journal.db")) as journal, journal:
        (edge,) = journal.execute("SELECT edge FROM head").fetchone()
        journal.execute("UPDATE head SET edge = ?", (change(edge),))


def test_a_changed_byte_after_the_last_tile_is_bounded_where_its_hash_was_made_to_fit(copy):
    """No genuine hash tells which one it is; the checkpoint at 600 tells that it is not before, the reports which call."""
    attacks.change_cost(copy, 651)
    edit_edge(copy, lambda edge: bytes(len(edge)))
    report = verified(copy)
    mismatch = next(one for one in report.findings if one.kind == "root_mismatch")

    assert "the first 600 entries are as an earlier checkpoint has them" in mismatch.detail
    assert ("report_mismatch", 651) in classes(report)


@pytest.mark.parametrize("index", [0, 130, 255, 511, 512, 600, 699])
def test_a_deleted_row_is_named(copy, index):
    attacks.delete_row(copy, index)
    report = verified(copy)

    assert [("entry_missing", index)] == [one for one in classes(report) if one[0].startswith("entry_")]
    assert "root_mismatch" not in dict(classes(report))


@pytest.mark.parametrize("index", [0, 130, 255, 256, 511])
def test_a_deleted_row_is_named_though_the_gap_was_closed(copy, index):
    attacks.delete_row(copy, index, renumber=True)
    report = verified(copy)

    assert [("entry_missing", index)] == [one for one in classes(report) if one[0].startswith("entry_")]
    assert "root_mismatch" not in dict(classes(report))


@pytest.mark.parametrize("index", [0, 130, 255, 256, 511, 512, 600])
def test_an_inserted_row_is_named(copy, index):
    attacks.insert_row(copy, index)
    report = verified(copy)

    assert [("entry_extra", index)] == [one for one in classes(report) if one[0].startswith("entry_")]
    assert "root_mismatch" not in dict(classes(report))


def test_a_row_added_at_the_end_is_named(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("INSERT INTO entries SELECT 700, entry FROM entries WHERE idx = 3")

    assert [("entry_extra", 700)] == classes(verified(copy))


def test_a_row_with_a_negative_number_is_named(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("INSERT INTO entries SELECT -1, entry FROM entries WHERE idx = 3")

    assert ("entry_extra", -1) in classes(verified(copy))


def test_however_many_rows_with_negative_numbers_hide_no_other(copy):
    """More of them than a block has: each is named, and each entry is still held against its own hash."""
    with attacks._tampering(copy) as journal:
        journal.executemany(
            "INSERT INTO entries SELECT ?, entry FROM entries WHERE idx = 3", [(-at,) for at in range(1, 301)]
        )
    attacks.change_byte(copy, 520)

    assert [("entry_changed", 520), *(("entry_extra", -at) for at in range(300, 0, -1))] == classes(verified(copy))


def test_a_row_with_a_negative_number_in_an_empty_log_is_named(tmp_path):
    log = Log(tmp_path / "log")
    log.close()
    with attacks._tampering(log.home.path) as journal:
        journal.execute("INSERT INTO entries VALUES (-1, '{}')")

    assert [("entry_extra", -1)] == classes(verified(log.home.path))


@pytest.mark.parametrize("pair", [(0, 1), (3, 400), (255, 256), (100, 650), (520, 521), (512, 699)])
def test_swapped_rows_are_named(copy, pair):
    attacks.swap_rows(copy, *pair)
    report = verified(copy)

    assert [("entry_reordered", index) for index in pair] == classes(report, severity="tampered")


def test_a_changed_tile_is_not_blamed_on_entries(copy):
    attacks.change_tile(copy, 0, 1)
    report = verified(copy)

    assert [("tile_mismatch", None)] == classes(report)
    assert "tile 0/1" in report.findings[0].detail


def test_a_missing_tile_is_named(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("DELETE FROM tiles WHERE n = 0")

    assert [("tile_mismatch", None)] == classes(verified(copy))


def test_a_cut_tail_is_named_entry_by_entry_and_as_rollback(copy):
    attacks.cut_tail(copy, 690)
    report = verified(copy)

    assert [("entry_missing", index) for index in range(690, 700)] == [
        one for one in classes(report) if one[0] == "entry_missing"
    ]
    assert "rollback" in dict(classes(report))


def test_an_older_checkpoint_put_back_is_a_rollback(genuine, tmp_path):
    """The head file knows better; without it the entries beyond the checkpoint still make the log incomplete."""
    log = Log(tmp_path / "log")
    log.append(calls(100))
    older = attacks.copy_home(log.home.path, tmp_path / "older")
    log.append(calls(100, first=100))
    log.close()
    copy = attacks.copy_home(log.home.path, tmp_path / "copy")
    attacks.put_back_checkpoint(copy, older)

    assert "rollback" in dict(classes(verified(copy), severity="tampered"))
    (copy / "head").unlink()
    assert [("checkpoint_behind", None), ("head_lost", None)] == classes(verified(copy))
    assert "incomplete" == verified(copy).verdict


def test_full_tiles_over_entries_after_an_older_checkpoint_are_no_finding_of_their_own(tmp_path):
    """They belong to the entries that the checkpoint does not cover, which are named as such; one without entries is."""
    log = Log(tmp_path / "log")
    log.append(calls(50))
    older = attacks.copy_home(log.home.path, tmp_path / "older")
    log.append(calls(250, first=50))
    log.close()
    copy = attacks.copy_home(log.home.path, tmp_path / "copy")
    attacks.put_back_checkpoint(copy, older)
    (copy / "head").unlink()
    assert [("checkpoint_behind", None), ("head_lost", None)] == classes(verified(copy))

    with attacks._tampering(copy) as journal:
        journal.execute("INSERT INTO tiles VALUES (0, 2, zeroblob(8192)), (1, 0, zeroblob(8192))")
    assert ["tile 0/2 belongs to no tree of size 100", "tile 1/0 belongs to no tree of size 100"] == [
        one.detail for one in verified(copy).findings if one.kind == "tile_mismatch"
    ]


def test_a_changed_row_after_an_older_checkpoint_contradicts_the_positions(tmp_path):
    """No signature covers it; the frames that became entries are still counted, and one is not there."""
    log = Log(tmp_path / "log")
    log.append(calls(50))
    older = attacks.copy_home(log.home.path, tmp_path / "older")
    log.append(calls(5, first=50))
    log.close()
    copy = attacks.copy_home(log.home.path, tmp_path / "copy")
    attacks.put_back_checkpoint(copy, older)
    (copy / "head").unlink()
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE entries SET entry = 'nothing' WHERE idx = 104")
        journal.execute("UPDATE entries SET entry = json_remove(entry, '$.writer') WHERE idx = 105")
    report = verified(copy)

    assert [("position_mismatch", None)] == classes(report, severity="tampered")
    assert "position says 110 entries up to number 109, the log has 108 up to 109" in report.findings[0].detail


def test_an_older_journal_put_back_whole_is_a_rollback(tmp_path):
    """Everything in it is genuine. Only what stands outside of it tells: the head file, or the reader's own policy."""
    log = Log(tmp_path / "log")
    log.append(calls(100))
    older = attacks.copy_home(log.home.path, tmp_path / "older")
    log.append(calls(100, first=100))
    log.close()
    copy = attacks.copy_home(log.home.path, tmp_path / "copy")
    attacks.put_back_journal(copy, older)
    assert [("rollback", None)] == classes(verified(copy))

    shutil.copyfile(older / "head", copy / "head")
    assert "proven" == verified(copy).verdict

    policy = decode_policy((copy / "policy").read_bytes())
    policy.least_sizes[ORIGIN] = LeastSize(tree_size=400, root_hash=log.frontier.root())
    (tmp_path / "own-policy").write_bytes(encode_policy(policy))
    assert [("rollback", None)] == classes(verified(copy, policy_path=tmp_path / "own-policy"))


def test_a_rewritten_history_does_not_lead_to_the_signed_root(copy):
    """All tiles fit the changed entry; the root does not, and the kept checkpoints bound where it was changed."""
    attacks.rewrite_everything(copy, 450)
    report = verified(copy)
    found = dict(classes(report, severity="tampered"))

    assert "tampered" == report.verdict
    assert "root_mismatch" in found
    detail = next(one.detail for one in report.findings if one.kind == "root_mismatch")
    assert "the first 300 entries are" in detail
    assert "the first 600 are not" in detail


def test_a_replaced_checkpoint_fails_by_its_signature(copy):
    """Root, head row, head file and tiles all fit; only the keys were missing."""
    attacks.rewrite_everything(copy, 450, checkpoint=True)
    report = verified(copy)

    assert "checkpoint_signature" in dict(classes(report, severity="tampered"))
    assert "fork" in dict(classes(report, severity="tampered"))
    assert report.checkpoint_time_us is None


def test_another_tree_of_the_same_size_is_a_fork(copy):
    """Both signed, of one size, and not the same: the head file is the evidence."""
    origin, size, _ = (copy / "head").read_text().split()
    (copy / "head").write_text(f"{origin} {size} {'A' * 43}=\n")

    assert [("fork", None)] == classes(verified(copy))


def test_an_edited_cost_in_the_reports_is_named(copy):
    call = attacks.edit_report_cost(copy)
    report = verified(copy)

    assert [("report_mismatch", 1)] == classes(report)
    assert f"call {call}: total_cost is 0.01, the entries say 0.0003136" == report.findings[0].detail


def test_a_hidden_row_and_a_changed_view_in_the_reports_are_named(copy):
    import sqlite3

    reports = sqlite3.connect(copy / "reports.db")
    reports.execute("DELETE FROM calls WHERE rowid = 5")
    reports.execute("DROP VIEW audit_log")
    reports.commit()
    reports.close()

    assert {("report_mismatch", None), ("report_mismatch", 9)} == set(classes(verified(copy)))


def test_changed_positions_are_found(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE positions SET entries = entries - 1")

    assert [("position_mismatch", None)] == classes(verified(copy))


def test_a_removed_waiting_intent_is_found(tmp_path):
    """Else it would never be swept."""
    log = Log(tmp_path / "log")
    log.append([*calls(3), intent("waits")])
    log.close()
    assert "proven" == verified(log.home.path).verdict
    copy = attacks.copy_home(log.home.path, tmp_path / "copy")
    with attacks._tampering(copy) as journal:
        journal.execute("DELETE FROM open_calls")

    assert [("position_mismatch", None)] == classes(verified(copy))


def test_a_signature_line_taken_away_is_found(copy):
    """One algorithm is not enough: every pinned key must sign."""
    with attacks._tampering(copy) as journal:
        (note,) = journal.execute("SELECT note FROM head").fetchone()
        journal.execute("UPDATE head SET note = ?", ("\n".join(note.split("\n")[:-2]) + "\n",))

    assert [("checkpoint_signature", None)] == classes(verified(copy))


def test_a_checkpoint_that_cannot_be_read_is_found_and_its_log_still_looked_at(copy):
    """Size and root are then those of the head row, which nobody signed."""
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE head SET note = 'nothing'")
    attacks.change_byte(copy, 7)
    report = verified(copy)

    assert [("entry_changed", 7), ("checkpoint_signature", None)] == classes(report)
    assert (SIZE, None) == (report.tree_size, report.checkpoint_time_us)


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("left", [0, 1])
def test_a_policy_with_one_of_the_two_keys_proves_nothing(copy, tmp_path, left, readable):
    """Who breaks one algorithm could sign another history; so both keys are asked for before anything is said."""
    policy = decode_policy((copy / "policy").read_bytes())
    policy.logs[ORIGIN] = (policy.logs[ORIGIN][left],)
    (tmp_path / "own-policy").write_bytes(encode_policy(policy))
    if not readable:
        with attacks._tampering(copy) as journal:
            journal.execute("UPDATE head SET note = 'nothing'")
    report = verified(copy, policy_path=tmp_path / "own-policy")

    assert "cannot_tell" == report.verdict
    assert f"{ORIGIN} must have one key of type 0x01 and one of type 0x06; both must sign" in report.reason


def test_a_head_file_of_another_log_is_a_fork(copy):
    """Somebody put the journal of another log, genuine as it may be, in place of the one this home had."""
    _, size, root = (copy / "head").read_text().split()
    (copy / "head").write_text(f"openrouter-audit.local/other {size} {root}\n")
    report = verified(copy)

    assert [("fork", None)] == classes(report)
    assert f"the head file is of the log openrouter-audit.local/other, this is {ORIGIN}" == report.findings[0].detail


def test_whoever_waits_for_a_long_log_is_told_how_far_it_is(tmp_path):
    """Every 16,384 entries, and at the end."""
    log = Log(tmp_path / "log")
    log.append(calls(8_200))
    log.close()
    told = []
    report = verified(log.home.path, progress=lambda done, size: told.append((done, size)))

    assert "proven" == report.verdict
    assert [(16_384, 16_400), (16_400, 16_400)] == told


def test_a_forged_kept_checkpoint_is_found(copy):
    with attacks._tampering(copy) as journal:
        journal.execute(
            "UPDATE checkpoints SET note = replace(note, char(10) || '300' || char(10), char(10) || '301' || char(10))"
        )

    assert "checkpoint_signature" in dict(classes(verified(copy)))


def test_bytes_that_are_not_text_do_not_stop_the_verifier(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("UPDATE entries SET entry = CAST(x'ff00fe7b' AS TEXT) WHERE idx = 7")

    assert ("entry_changed", 7) in classes(verified(copy))


def test_far_away_rows_do_not_make_it_endless(copy):
    with attacks._tampering(copy) as journal:
        journal.execute("INSERT INTO entries VALUES (4611686018427387904, '{}')")

    assert [("entry_extra", 2**62)] == classes(verified(copy))


def test_a_claim_of_endless_entries_ends(copy):
    """Nobody signed it, so it is found by its signature, and the claim is not followed to its end."""
    with attacks._tampering(copy) as journal:
        (note,) = journal.execute("SELECT note FROM head").fetchone()
        journal.execute("UPDATE head SET note = ?, tree_size = ?", (note.replace("700", str(2**62), 1), 2**62))
    found = classes(verified(copy), severity="tampered")

    assert "checkpoint_signature" in dict(found)
    assert ("entry_missing", 700) in found


@pytest.mark.parametrize("size", [0, 1, 256, 512, 600])
def test_a_log_cut_anywhere_is_named(copy, size):
    attacks.cut_tail(copy, size)
    missing = [index for kind, index in classes(verified(copy)) if kind == "entry_missing"]

    assert list(range(size, SIZE)) == missing


def test_a_table_that_became_a_view_cannot_be_told(copy):
    """It could show anything, without end."""
    with attacks._tampering(copy) as journal:
        journal.execute("ALTER TABLE entries RENAME TO hidden")
        journal.execute("CREATE VIEW entries AS SELECT idx, entry FROM hidden")
    report = verified(copy)

    assert "cannot_tell" == report.verdict
    assert "entries" in report.reason


def test_a_log_whose_keys_are_not_pinned_cannot_be_told(tmp_path):
    """A policy of another log says nothing about this one."""
    log, other = Log(tmp_path / "log"), tmp_path / "other"
    log.append([intent("a"), outcome("a")])
    log.close()
    Home(other).ensure(origin="openrouter-audit.local/other")
    report = verified(log.home.path, policy_path=other / "policy")

    assert 3 == report.exit_code
    assert "openrouter-audit.local/test" in report.reason
