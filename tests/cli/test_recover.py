"""
Recovery, as a person does it: by the command line, on real homes with real traffic.

"A restored database never signs a second history; `recover` opens a successor log that names the old head and the lost range."
"""

import shutil
from decimal import Decimal

import apsw
import pytest
from tests.cli.drills import answer, billed, call, entries, kinds, recording, run, summary, traffic

from openrouter_audit.errors import FlushTimeout
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter


@pytest.fixture(scope="module")
def fake():
    with FakeOpenRouter(seed=7) as server:
        yield server


def test_a_restore_drill(tmp_path, fake):
    """
    A program records; a backup is made while it does; it goes on; the machine burns down, but for what was published.
    The restored home names exactly what is lost, and no more; both logs are proven; reports know both.
    """
    first = len(fake.calls())
    home, restored = tmp_path / "home", tmp_path / "restored"
    with recording(home) as audit:
        call(audit, fake, 3)
        run(home, "backup", tmp_path / "backup")
        saved = len(fake.calls())
        call(audit, fake, 4, user="bob")
        signed = audit.flush(timeout=60)
    run(home, "publish", tmp_path / "published")
    signed = int((tmp_path / "published" / "checkpoint").read_text().splitlines()[1])
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", restored)
    kept = answer(restored, "verify", "--no-reports", code=None)["tree_size"]
    assert kept < signed

    # Nothing is signed before recovery, and nothing is changed without --yes.
    assert "openrouter-audit recover" in run(restored, "tail", code=69).stderr
    plan = answer(restored, "recover", "--old-head", tmp_path / "published", code=65)
    assert not plan["done"]
    assert "this home is a backup" in plan["troubles"][0]["found"]
    assert f"entries {kept} to {signed - 1}" in plan["troubles"][0]["lost"]
    assert not (restored / "former").exists()
    run(restored, "recover", "--old-head", tmp_path / "published", "--yes")

    said = entries(restored)[0]
    assert "log.successor" == said["kind"]
    assert ("restored", kept, signed, kept, signed) == tuple(
        said[name] for name in ("reason", "kept_size", "signed_size", "lost_from", "lost_until")
    )
    report = answer(restored, "verify", code=2)
    assert ("succession", "incomplete") in kinds(report)
    assert [] == [one for one in report["findings"] if one["severity"] == "tampered"]
    assert any(
        f"entries {kept} to {signed - 1} were signed and are lost" in one["detail"] for one in report["findings"]
    )
    former = answer(restored / "former" / "1", "verify", code=1)
    assert {("rollback", "tampered")} == {kind for kind in kinds(former) if kind[1] == "tampered"}
    assert kept == former["tree_size"]

    # The log goes on, and what the past cost is not forgotten.
    traffic(restored, fake, 2, user="carol")
    assert "incomplete" == answer(restored, "verify", code=2)["verdict"]
    row = summary(restored)
    assert 5 == row["calls"]
    wanted = billed(fake, first=first, last=saved) + billed(fake, first=len(fake.calls()) - 2)
    assert wanted == Decimal(row["cost"])
    spenders = {one["user_id"] for one in answer(restored, "report", "top-spenders")["rows"]}
    assert {"alice", "carol"} == spenders
    assert "nothing to recover" in run(restored, "recover").stdout
    assert Home(restored).read_head()[0] != said["former"]


def without_change(home):
    """All files of a home and what is in them, but for SQLite's own and the lease."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.name != "lease" and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_backup_with_keys_signs_nothing_before_recovery_either(tmp_path, fake):
    """
    It could sign: the keys are there. What it would sign is a second history, if the first one went on.
    """
    home, restored = tmp_path / "home", tmp_path / "restored"
    traffic(home, fake, 1)
    run(home, "backup", restored, "--with-keys")
    size = answer(restored, "verify", "--no-reports")["tree_size"]
    traffic(home, fake, 1)

    with recording(restored) as audit:
        call(audit, fake, 1, user="late")
    assert size == answer(restored, "verify", "--no-reports", code=2)["tree_size"]
    doctor = answer(restored, "doctor", code=2)
    assert doctor["not_committed"] > 0
    before = without_change(restored)
    assert "nobody here knows" in run(restored, "recover", code=65).stdout
    assert before == without_change(restored)
    run(restored, "recover", "--yes")

    report = answer(restored, "verify", code=2)
    assert ("undrained_spool", "incomplete") in kinds(report)
    assert 2 == summary(restored)["calls"], "the call that waited is in the successor, once"
    said = entries(restored)[0]
    assert {"signed_size", "lost_from"} & set(said) == set()
    (succession,) = [one for one in answer(restored, "verify", code=2)["findings"] if one["class"] == "succession"]
    assert "what was signed after them is not known" in succession["detail"]
    assert "proven" == answer(home, "verify")["verdict"], "the home that was copied goes on as before"


def test_a_journal_put_back_under_a_program_that_records(tmp_path, fake):
    """
    The journal alone is put back while a program goes on. It is neither stopped nor harmed: its calls wait in the spool, and
    what of the lost entries still stands there comes back.
    """
    home = tmp_path / "home"
    run(home, "init")
    with recording(home, sequencer=False) as audit:
        call(audit, fake, 2)
        run(home, "tail")
        run(home, "backup", tmp_path / "copy")
        call(audit, fake, 3)
        run(home, "tail")
        signed = Home(home).read_head()[1]
        for path in home.glob("journal.db*"):
            path.unlink()
        shutil.copy(tmp_path / "copy" / "journal.db", home / "journal.db")
        kept = answer(home, "verify", "--no-reports", code=1)["tree_size"]
        call(audit, fake, 1)
        run(home, "recover", "--yes")
        call(audit, fake, 1)
    run(home, "tail")

    said = entries(home)[0]
    assert ("put_back", kept, signed) == (said["reason"], said["kept_size"], said["lost_until"])
    report = answer(home, "verify", code=2)
    assert {"succession", "incomplete"} == {word for kind in kinds(report) for word in kind}
    assert 7 == summary(home)["calls"], "the frames of the lost entries were still in the spool"
    assert 7 == summary(home)["success"]
    frames = [(e["writer"]["segment"], e["writer"]["seq"]) for e in entries(home / "former" / "1") + entries(home)]
    assert len(frames) == len(set(frames)), "no frame is in both logs"


def test_lost_reports_are_made_again_by_themselves(tmp_path, fake):
    home = tmp_path / "home"
    traffic(home, fake, 2)
    before = summary(home)
    for path in home.glob("reports.db*"):
        path.unlink()

    said = run(home, "recover").stdout
    assert ["reports.db is not there: it is made again by itself", "nothing to recover"] == said.splitlines()
    assert before == summary(home)
    assert "proven" == answer(home, "verify")["verdict"]


def test_a_lost_vault_loses_names_and_no_proof(tmp_path, fake):
    home = tmp_path / "home"
    traffic(home, fake, 2)
    traffic(home, fake, 1, user="bob")
    for path in home.glob("vault.db*"):
        path.unlink()

    plan = answer(home, "recover", code=65)
    assert [("vault", "vault.db is not there")] == [(one["what"], one["found"]) for one in plan["troubles"]]
    run(home, "recover", "--yes")
    (loss,) = [entry for entry in entries(home) if entry["kind"] == "log.loss"]
    assert ("vault", 2) == (loss["reason"], loss["count"])
    report = answer(home, "verify", code=2)
    assert [("loss", "incomplete")] == kinds(report)
    assert 3 == summary(home)["calls"]
    rows = answer(home, "tail")
    assert [None] * 3 == [row["user_id"] for row in rows]
    assert all(row["subject_ref"] for row in rows)
    assert "nothing to recover" in run(home, "recover").stdout, "said once"

    # A vault that was made anew by a program that did not ask is noticed as well.
    traffic(home, fake, 1, user="carol")
    for path in home.glob("vault.db*"):
        path.unlink()
    traffic(home, fake, 1, user="dora")
    assert "does not know 1 people" in run(home, "recover", "--yes").stdout


def test_a_damaged_vault_is_put_aside(tmp_path, fake):
    home = tmp_path / "home"
    traffic(home, fake, 1)
    data = bytearray((home / "vault.db").read_bytes())
    data[4096:] = b"x" * (len(data) - 4096)
    (home / "vault.db").write_bytes(data)

    assert "vault.db is damaged" in run(home, "recover", "--yes").stdout
    assert (home / "vault.db.damaged-1").exists()
    traffic(home, fake, 1, user="bob")
    assert [None, "bob"] == [row["user_id"] for row in answer(home, "tail")]


def test_a_lost_spool_is_counted_from_the_state_files(tmp_path, fake):
    """
    A call under way has its intent in the journal, six records wait in the spool; then the folder is gone.
    """
    home = tmp_path / "home"
    run(home, "init")
    with recording(home, sequencer=False) as audit:
        call(audit, fake, 1)
        run(home, "tail")
        call(audit, fake, 3)
        shutil.rmtree(home / "spool")

    plan = answer(home, "recover", code=65)
    assert ["spool"] == [one["what"] for one in plan["troubles"]]
    run(home, "recover", "--yes")
    losses = [entry for entry in entries(home) if entry["kind"] == "log.loss"]
    assert [("spool", 7)] == [(one["reason"], one["count"]) for one in losses], "3 intents, 3 outcomes, the end"
    assert [("loss", "incomplete")] == kinds(answer(home, "verify", code=2))
    assert [] == list((home / "state").iterdir())
    traffic(home, fake, 1)
    assert 2 == summary(home)["calls"]
    assert "nothing to recover" in run(home, "recover").stdout


def test_a_lost_head_is_made_again_and_said(tmp_path, fake):
    home = tmp_path / "home"
    traffic(home, fake, 1)
    (home / "head").unlink()

    assert [("head_lost", "info")] == kinds(answer(home, "verify"))
    assert "the head file is not there" in run(home, "recover", "--yes").stdout
    size = Home(home).read_head()[1]
    assert size == len(entries(home))
    assert [("head_lost", "info")] == kinds(answer(home, "verify")), "now as an entry"
    assert "nothing to recover" in run(home, "recover").stdout


def test_lost_keys_lead_to_a_successor_that_lacks_nothing(tmp_path, fake):
    home = tmp_path / "home"
    traffic(home, fake, 2)
    for name in ("log-ed25519", "log-ml-dsa-44"):
        (home / "keys" / name).unlink()

    assert "the keys that sign the log" in run(home, "recover", "--yes").stdout
    traffic(home, fake, 1)
    report = answer(home, "verify")
    assert ("proven", [("succession", "info")]) == (report["verdict"], kinds(report))
    assert "proven" == answer(home / "former" / "1", "verify")["verdict"]
    assert 3 == summary(home)["calls"]


def test_a_lost_sealing_key_is_not_replaced_under_a_program_that_uses_it(tmp_path, fake):
    home = tmp_path / "home"
    run(home, "init")
    with recording(home, sequencer=False) as audit:
        call(audit, fake, 1)
        shutil.rmtree(home / "keys")
        assert "stop them" in run(home, "recover", "--yes", code=69).stderr
        assert not (home / "former").exists()
    run(home, "recover", "--yes")
    run(home, "tail")
    losses = [entry["reason"] for entry in entries(home) if entry["kind"] == "log.unreadable"]
    assert ["seal"] * len(losses) == losses
    assert 4 <= len(losses), "what waited was sealed for a key that is gone"
    traffic(home, fake, 1)
    assert 1 == summary(home)["calls"]


def test_a_lost_journal_leads_to_a_successor(tmp_path, fake):
    home = tmp_path / "home"
    traffic(home, fake, 1)
    signed = Home(home).read_head()[1]
    for path in home.glob("journal.db*"):
        path.unlink()

    run(home, "recover", "--yes")
    said = entries(home)[0]
    assert ("journal_lost", 0, 0, signed) == tuple(
        said[name] for name in ("reason", "kept_size", "lost_from", "lost_until")
    )
    traffic(home, fake, 1)
    assert 1 == summary(home)["calls"]
    assert ("succession", "incomplete") in kinds(answer(home, "verify", code=2))


def test_a_lost_journal_is_not_made_anew_in_silence(tmp_path, fake):
    """
    Journal and head are gone: with the same keys a new journal would be a second history.
    """
    home = tmp_path / "home"
    traffic(home, fake, 1)
    for path in [*home.glob("journal.db*"), home / "head"]:
        path.unlink()

    assert "run openrouter-audit recover" in run(home, "init", code=69).stderr
    run(home, "recover", "--yes")
    assert "journal_lost" == entries(home)[0]["reason"]


def test_a_damaged_journal_is_salvaged_as_far_as_it_can_be_read(tmp_path, fake):
    """
    Pages in the middle of the file are overwritten. What stands before them is kept, and the range that is lost is named.
    """
    home = tmp_path / "home"
    traffic(home, fake, 40)
    signed = Home(home).read_head()[1]
    connection = apsw.Connection(str(home / "journal.db"))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    data = bytearray((home / "journal.db").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3 * 4096] = b"\xff" * 3 * 4096
    (home / "journal.db").write_bytes(data)

    assert "journal.db is damaged" in run(home, "recover", "--yes").stdout
    said = entries(home)[0]
    assert ("damaged", signed) == (said["reason"], said["lost_until"])
    kept = said["kept_size"]
    assert 5 < kept < signed
    assert kept == said["lost_from"]
    assert kept == len(entries(home / "former" / "1"))
    assert (home / "former" / "1" / "journal.db.damaged").exists()
    report = answer(home, "verify", code=2)
    assert [] == [kind for kind in kinds(report) if kind[1] == "tampered"]
    traffic(home, fake, 1)
    assert summary(home)["calls"] > kept // 2 - 3
    assert "nothing to recover" in run(home, "recover").stdout


def test_a_former_log_that_is_changed_afterwards_is_found_out(tmp_path, fake):
    """
    Its keys are gone, and its successor signed what it was.
    """
    home = tmp_path / "home"
    traffic(home, fake, 2)
    (home / "keys" / "log-ed25519").unlink()
    run(home, "recover", "--yes")
    connection = apsw.Connection(str(home / "former" / "1" / "journal.db"))
    connection.execute("DROP TRIGGER entries_no_update")
    connection.execute("""UPDATE entries SET entry = replace(entry, '"cost":"0', '"cost":"1')""")
    connection.close()

    report = answer(home, "verify", code=1)
    assert ("root_mismatch", "tampered") in kinds(report)


def test_a_process_that_sequences_is_not_disturbed(tmp_path, fake):
    home = tmp_path / "home"
    with recording(home) as audit:
        call(audit, fake, 1)
        audit.flush(timeout=60)
        (home / "head").unlink()
        assert "stop it first" in run(home, "recover", "--yes", code=69).stderr


def test_a_program_that_could_not_go_on_goes_on_after_the_recovery(tmp_path, fake):
    """
    It was started on a journal that was put back. It records, cannot sequence, and stands in nobody's way; it is not restarted.
    """
    home = tmp_path / "home"
    traffic(home, fake, 1)
    run(home, "backup", tmp_path / "copy")
    traffic(home, fake, 1)
    for path in home.glob("journal.db*"):
        path.unlink()
    shutil.copy(tmp_path / "copy" / "journal.db", home / "journal.db")

    with recording(home) as audit:
        call(audit, fake, 1)
        with pytest.raises(FlushTimeout):
            audit.flush(timeout=1)
        run(home, "recover", "--yes")
        call(audit, fake, 1)
        audit.flush(timeout=60)
        assert 3 == summary(home)["calls"]
    assert ["succession"] == [kind for kind, _ in kinds(answer(home, "verify", code=2))]


def test_where_there_is_no_log_there_is_nothing_to_recover(tmp_path):
    assert "there is no log" in run(tmp_path, "recover", "--yes", code=69).stderr
    assert [] == list(tmp_path.iterdir())
    run(tmp_path / "nowhere", "recover", code=69)
    assert not (tmp_path / "nowhere").exists()
