"""What a recovery does to the files of a home: whole after every crash, and each frame an entry once."""

import os
from collections import Counter
from pathlib import Path

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

from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.entries import LogSuccessor, Private
from openrouter_audit.core.notes import decode_base64
from openrouter_audit.errors import HomeError
from openrouter_audit.journal.backup import copy_home
from openrouter_audit.journal.examination import examine
from openrouter_audit.journal.files import locked_directory
from openrouter_audit.journal.former import WholeHistory, former_folders
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.recovery import recover
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.verification.source import KnownHead

NOW_US = 1_795_465_329_833_389


def mend(home, **options):
    found = examine(home, **options)
    with locked_directory(home.path):
        recover(found, at_us=NOW_US)
    return found


def forget_journal(home, copy):
    """Put the journal of a copy into a home."""
    for path in home.path.glob("journal.db*"):
        path.unlink()
    (home.path / "journal.db").write_bytes((copy / "journal.db").read_bytes())


def copied(home, path):
    path.mkdir()
    copy_home(home, path, with_keys=True, at_us=NOW_US)
    return path


def frames_of(*logs):
    return Counter((entry["writer"]["segment"], entry["writer"]["seq"]) for log in logs for entry in log)


def test_a_call_under_way_is_carried_over_and_ends_in_the_successor(tmp_path):
    """
    Of four calls under way at the copy: one ends before, one after the recovery, one is never ended and swept, and one was
    in a segment whose file is gone, of which only the outcome could be lost.
    """
    home = new_home(tmp_path)
    spool, gone = new_spool(home), new_spool(home)
    intents = [an_intent() for _ in range(3)]
    tokens = [spool.write(intent) for intent in intents]
    elsewhere = an_intent()
    gone.write(elsewhere)
    drain(home)
    copy = copied(home, tmp_path / "copy")
    spool.write(an_outcome(intents[0]), follows=tokens[0])
    gone.end(closing=True)
    del gone
    drain(home)
    forget_journal(home, copy)

    found = mend(home)
    assert "put_back" == found.reason
    spool.write(an_outcome(intents[1]), follows=tokens[1])
    after = drain(home)
    assert {intents[0].id: "success", intents[1].id: "success", elsewhere.id: "unknown"} == statuses(after)
    spool.end(closing=True)
    del spool, tokens
    after = drain(home)
    assert {intents[2].id: "unknown"}.items() <= statuses(after).items()

    before = check_log(Home(home.former_dir / "1"))
    carried = [entry for entry in after if entry in before]
    assert {intent.id for intent in [*intents, elsewhere]} == {entry["id"] for entry in carried}, "word for word"
    twice = [frame for frame, count in frames_of(before, after).items() if count > 1]
    assert len(carried) == len(twice)
    assert [] == of_kind(after, "log.loss"), "nothing is counted as lost that the former log has"
    assert 0 == len([one for one in verify_home(home).findings if one.severity == "tampered"])


def test_no_frame_is_an_entry_twice_and_none_is_passed_over(tmp_path):
    """
    Records before the copy, records that the lost entries held and the spool still has, and records after.
    """
    home = new_home(tmp_path)
    spool = new_spool(home, rotate_bytes=20_000)
    calls = write_calls(spool, 30)
    drain(home)
    copy = copied(home, tmp_path / "copy")
    lately = write_calls(spool, 5)
    drain(home)
    forget_journal(home, copy)
    mend(home)
    later = write_calls(spool, 5)
    spool.end(closing=True)
    del spool
    after, before = drain(home), check_log(Home(home.former_dir / "1"))

    assert max(frames_of(before, after).values()) == 1
    assert set(calls) == set(statuses(before))
    assert set(lately + later) == set(statuses(after))
    assert [] == of_kind(after, "log.loss")
    assert [] == list(home.spool_dir.glob("*.seg"))
    with WholeHistory.open(home.journal_path) as history:
        indexes = [index for index, _ in history.entries(history.first_index)]
    assert list(range(-len(before), len(after))) == indexes


def test_a_segment_of_a_restored_spool_is_not_drained_twice(tmp_path):
    """
    A segment that was read to its end before the copy is put back with an old spool.
    """
    home = new_home(tmp_path)
    spool = new_spool(home)
    calls = write_calls(spool, 3)
    spool.end(closing=True)
    del spool
    (path,) = home.spool_dir.glob("*.seg")
    old = path.read_bytes()
    drain(home)
    copy = copied(home, tmp_path / "copy")
    write_calls(new_spool(home), 1)
    drain(home)
    forget_journal(home, copy)
    mend(home)
    path.write_bytes(old)
    after = drain(home)

    assert not set(calls) & set(statuses(after))
    assert not path.exists()


@pytest.mark.parametrize("damage", ["put back", "unreadable", "keys"])
def test_a_crash_at_any_step_is_ended_by_the_next_recovery(tmp_path, monkeypatch, damage):
    """
    Every rename and every removal in turn is the last thing that the recovery does. In between nothing is signed.
    """
    step, done = 0, False
    while not done:
        home = new_home(tmp_path / f"step{step}") if (tmp_path / f"step{step}").mkdir() is None else None
        spool = new_spool(home)
        write_calls(spool, 2)
        drain(home)
        copy = copied(home, tmp_path / f"step{step}" / "copy")
        write_calls(spool, 1)
        drain(home)
        if damage == "put back":
            forget_journal(home, copy)
        elif damage == "unreadable":
            (home.path / "journal.db").write_bytes(b"no database" * 1000)
            for suffix in ("-wal", "-shm"):
                (home.path / f"journal.db{suffix}").unlink(missing_ok=True)
        else:
            (home.keys_dir / "log-ed25519").unlink()
        found = examine(home)
        done = crash_after(step, monkeypatch, found)
        if not done and home.succession_dir.exists():
            with pytest.raises(HomeError, match="recovery was begun"):
                Sequencer(home)
        if not done:
            mend(home)
        write_calls(spool, 1)
        spool.end(closing=True)
        del spool
        after = drain(home)
        assert "log.successor" == after[0]["kind"], step
        assert 1 == len(of_kind(after, "log.successor"))
        assert [] == [path.name for path in home.path.glob("successor*")]
        assert ["1"] == [path.name for path in former_folders(home.former_dir)]
        report = verify_home(home)
        assert [] == [one for one in report.findings if one.severity == "tampered"], step
        assert 4 == len(set(statuses(after)) | former_calls(home, damage))
        step += 1
    assert step > 8


def former_calls(home, damage):
    if damage == "unreadable":  # nothing of it could be read; but its records were in the spool still, and came again
        return set()
    return set(statuses(check_log(Home(home.former_dir / "1"))))


class _Crash(BaseException):
    pass


def crash_after(steps, monkeypatch, found):
    """Run a recovery whose process ends before the file operation with this number; True where it came to its end."""
    left = [steps]
    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "mkdir"):
            real = getattr(Path, name)

            def operation(self, *arguments, real=real, **options):
                if left[0] == 0:
                    raise _Crash
                left[0] -= 1
                return real(self, *arguments, **options)

            patch.setattr(Path, name, operation)
        try:
            with locked_directory(found.home.path):
                recover(found, at_us=NOW_US)
        except _Crash:
            return False
    return True


def test_a_second_recovery_makes_a_second_successor(tmp_path):
    """
    Keys are lost twice: three logs in a row, and each is pinned by the next.
    """
    home = new_home(tmp_path)
    for number in range(2):
        spool = new_spool(home)
        write_calls(spool, 1)
        spool.end(closing=True)
        del spool
        drain(home)
        (home.keys_dir / "log-ml-dsa-44").unlink()
        mend(home)
        assert number + 1 == len(former_folders(home.former_dir))

    origins = [check_log(Home(home.former_dir / "2"))[0]["former"], check_log(home)[0]["former"]]
    assert home.read_head()[0].rsplit("/", 1)[0] == origins[0]
    assert origins[1].startswith(origins[0] + "/2-")
    assert home.read_head()[0].startswith(origins[0] + "/3-")
    report = verify_home(home)
    assert "proven" == report.verdict
    with WholeHistory.open(home.journal_path) as history:
        texts = [text for _, text in history.entries(history.first_index)]
    assert 2 == sum('"kind":"call.outcome"' in text for text in texts)
    for path in (home.former_dir / "1").glob("journal.db*"):
        path.unlink()
    assert "incomplete" == verify_home(home).verdict, "a former log that is not here is missed"


def test_a_head_from_outside_that_contradicts_the_journal(tmp_path):
    """
    The same size and another root: two histories were signed. The successor says so.
    """
    home = new_home(tmp_path)
    spool = new_spool(home)
    write_calls(spool, 1)
    drain(home)
    origin, size, root = home.read_head()
    other = KnownHead(origin=origin, tree_size=size, root_hash=bytes(32))

    assert examine(home, heads=[KnownHead(origin=origin, tree_size=size, root_hash=decode_base64(root))]).troubles == []
    found = mend(home, heads=[other])
    assert ("forked", other) == (found.reason, found.signed)
    with pytest.raises(HomeError, match="is of the log"):
        examine(home, heads=[KnownHead(origin="another.example/log", tree_size=1, root_hash=bytes(32))])


def test_an_origin_outside_of_the_vocabulary_is_named_in_ascii(tmp_path):
    home = Home(tmp_path / "home")
    home.ensure(origin="protokoll.example/übung")
    (home.keys_dir / "log-ed25519").unlink()
    mend(home)

    assert "protokoll.example/%C3%BCbung" == check_log(home)[0]["former"]


def test_people_are_not_missed_where_the_vault_is_ahead(tmp_path):
    """An orphan in the vault is harmless; a reference without a row is a loss, said once."""
    home = new_home(tmp_path)
    spool = new_spool(home)
    spool.write(an_intent(), Private(user="alice", commitment_key=os.urandom(32)))
    drain(home)
    copy = copied(home, tmp_path / "copy")
    spool.write(an_intent(), Private(user="bob", commitment_key=os.urandom(32)))
    drain(home)
    assert [] == examine(home).troubles
    for path in home.path.glob("vault.db*"):
        path.unlink()
    home.vault_path.write_bytes((copy / "vault.db").read_bytes())

    assert 1 == mend(home).people_lost, "bob; alice is in the older vault"
    assert [] == examine(home).troubles


def test_a_successor_fits_its_schema_and_says_nothing_unknown(tmp_path):
    """
    What is not known is left out: a restored copy of which nobody knows what came after.
    """
    home = new_home(tmp_path)
    write_calls(new_spool(home), 1)
    drain(home)
    copy = Home(copied(home, tmp_path / "copy"))
    with pytest.raises(HomeError, match="this is a backup"):
        Sequencer(copy)
    mend(copy)

    (entry,) = of_kind(check_log(copy), "log.successor")
    names = set(LogSuccessor.__struct_fields__) & set(entry)
    assert {"v", "id", "at_us", "writer", "former", "reason", "kept_size", "kept_root"} == names
    assert "incomplete" == verify_home(copy).verdict
    assert not copy.backup_path.exists()


def test_a_segment_that_had_nothing_more_to_say_is_no_loss(tmp_path):
    """
    All that its writer acknowledged is in the former log; it dies after the recovery without another word.
    """
    home = new_home(tmp_path)
    spool = new_spool(home)
    calls = write_calls(spool, 3)
    drain(home)
    copy = copied(home, tmp_path / "copy")
    write_calls(new_spool(home), 1)
    drain(home)
    forget_journal(home, copy)
    mend(home)
    del spool
    after = drain(home)

    assert [] == of_kind(after, "log.loss")
    assert not set(calls) & set(statuses(after))
    assert [] == list(home.spool_dir.glob("*.seg"))
