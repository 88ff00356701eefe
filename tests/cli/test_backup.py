"""The backup of a home that is in use: one state, everything that refers to something finds it, and it is proven."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest
from tests.cli.drills import answer, call, entries, recording, run, summary, traffic
from tests.docs.pages import blocks, page

from openrouter_audit.journal.backup import copy_home, find_changes
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.vault import Vault
from openrouter_audit.testing import FakeOpenRouter


@pytest.fixture(scope="module")
def fake():
    with FakeOpenRouter(seed=8) as server:
        yield server


def people_without_a_name(path):
    """References of intents that the vault beside them does not know."""
    subjects = {entry["subject"] for entry in entries(path) if entry["kind"] == "call.intent"}
    with Vault.open(path / "vault.db", read_only=True) as vault:
        return subjects - set(vault.users(sorted(subjects)))


def test_a_backup_of_a_busy_home_is_one_state(tmp_path, fake):
    """
    Two threads make calls for new people all the while, and this process sequences them.
    """
    home, stop = tmp_path / "home", threading.Event()

    def go_on(audit, name):
        number = 0
        while not stop.is_set():
            number += 1
            call(audit, fake, 1, user=f"{name}{number}")

    with recording(home) as audit:
        call(audit, fake, 1)
        threads = [threading.Thread(target=go_on, args=(audit, name)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        made = [answer(home, "backup", tmp_path / f"copy{number}") for number in range(3)]
        stop.set()
        for thread in threads:
            thread.join()
    sizes = [one["tree_size"] for one in made]
    assert sizes == sorted(sizes)
    for number, one in enumerate(made):
        copy = tmp_path / f"copy{number}"
        assert set() == people_without_a_name(copy), "the journal is copied first, then the vault"
        assert [] == find_changes(Home(copy))
        report = answer(copy, "verify", "--no-reports", code=None)
        assert (one["tree_size"], one["root"]) == (report["tree_size"], report["root"])
        assert report["verdict"] == "proven"
    assert [] == list(tmp_path.glob("*.partial-*"))


def test_what_is_in_a_backup(tmp_path, fake):
    """Private by its modes, without private keys, reports and spool; the manifest names the rest."""
    home, copy = tmp_path / "home", tmp_path / "copy"
    traffic(home, fake, 1)
    (home / "config.toml").write_text("[report]\ntz = 'Europe/Berlin'\n")
    done = run(home, "backup", copy)
    assert "private keys are not in this backup" in done.stderr

    names = {str(path.relative_to(copy)) for path in copy.rglob("*")}
    assert {
        "backup.json",
        "config.toml",
        "head",
        "journal.db",
        "policy",
        "quarantine",
        "spool",
        "state",
        "vault.db",
    } == names
    for path in [copy, *copy.rglob("*")]:
        assert (0o700 if path.is_dir() else 0o600) == stat.S_IMODE(path.stat().st_mode), path
    manifest = json.loads((copy / "backup.json").read_text())
    assert {"config.toml", "head", "journal.db", "policy", "vault.db"} == set(manifest["files"])
    assert manifest["tree_size"] == len(entries(home))
    (copy / "policy").write_text("changed on its way\n")
    assert ["policy"] == find_changes(Home(copy))


def test_private_keys_are_copied_when_they_are_asked_for_and_it_is_said(tmp_path, fake):
    home, copy = tmp_path / "home", tmp_path / "copy"
    traffic(home, fake, 1)
    done = run(home, "backup", copy, "--with-keys")

    assert "whoever reads it can sign" in done.stderr
    for name in ("log-ed25519", "log-ml-dsa-44", "sealing", "sealing.pub"):
        assert (home / "keys" / name).read_bytes() == (copy / "keys" / name).read_bytes()
        assert 0o600 == stat.S_IMODE((copy / "keys" / name).stat().st_mode)


def test_former_logs_are_in_a_backup(tmp_path, fake):
    home, copy = tmp_path / "home", tmp_path / "copy"
    traffic(home, fake, 1)
    (home / "keys" / "log-ed25519").unlink()
    run(home, "recover", "--yes")
    run(home, "backup", copy)

    assert entries(home / "former" / "1") == entries(copy / "former" / "1")
    assert "proven" == answer(copy, "verify", "--no-reports")["verdict"]


def test_a_home_that_does_not_verify_gives_no_backup(tmp_path, fake):
    """
    A backup of what was tampered with would take the place of a good one.
    """
    home = tmp_path / "home"
    traffic(home, fake, 1)
    connection = apsw.Connection(str(home / "journal.db"))
    connection.execute("DROP TRIGGER entries_no_update")
    connection.execute("""UPDATE entries SET entry = replace(entry, '"attempt":1', '"attempt":2')""")
    connection.close()

    assert "does not verify" in run(home, "backup", tmp_path / "copy", code=65).stderr
    assert not (tmp_path / "copy").exists()
    assert [] == list(tmp_path.glob("*.partial-*"))


@pytest.mark.parametrize("where", ["a folder with something in it", "inside of the home", "no home"])
def test_where_no_backup_is_made(tmp_path, fake, where):
    home = tmp_path / "home"
    run(home, "init")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    if where == "no home":
        run(tmp_path / "nothing", "backup", tmp_path / "copy", code=69)
        assert not (tmp_path / "nothing").exists()
    else:
        target = tmp_path / "full" if where.startswith("a folder") else home / "copy"
        run(home, "backup", target, code=69)
        assert ["mine"] == os.listdir(tmp_path / "full")
        assert not (home / "copy").exists()


def test_a_disk_that_is_full_leaves_no_folder(tmp_path, fake, monkeypatch):
    """
    The third file that is written finds no space; nothing with the name of the backup is ever seen.
    """
    from openrouter_audit.journal import backup

    home = tmp_path / "home"
    traffic(home, fake, 1)
    left, real = [2], backup.write_whole

    def write(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(backup, "write_whole", write)
    with pytest.raises(OSError, match="No space"), backup.partial_folder(tmp_path / "copy", home=Home(home)) as partial:
        copy_home(Home(home), partial, with_keys=True, at_us=1)
    assert ["home"] == os.listdir(tmp_path)


def test_a_restored_copy_that_was_torn_is_named(tmp_path, fake):
    home, restored = tmp_path / "home", tmp_path / "restored"
    traffic(home, fake, 1)
    run(home, "backup", tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", restored)
    data = (restored / "vault.db").read_bytes()
    (restored / "vault.db").write_bytes(data[: len(data) // 2])

    done = run(restored, "recover", code=65)
    assert "vault.db is not as the backup was made" in done.stderr
    assert "vault.db is damaged" in done.stdout


def test_the_page_does_what_it_says(tmp_path, fake):
    """
    All commands of docs/how-to/back-up-and-restore.md, in their order. The log goes on between backup and publishing.
    """
    home = tmp_path / "home"
    traffic(home, fake, 1)
    scripts = [body for _, body in blocks(page("docs/how-to/back-up-and-restore.md"), "sh")]
    assert scripts[0].startswith("openrouter-audit backup backup-1\n")
    scripts[:1] = scripts[0].splitlines()
    said = []
    for number, script in enumerate(scripts):
        if number == 1:
            traffic(home, fake, 1)
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path,
            env={
                **os.environ,
                "OPENROUTER_AUDIT_HOME": str(home),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "not found" not in done.stderr
        said.append(done.stdout)
    assert "nothing was changed" in said[2]
    assert said[3].endswith("\n2\n")
    assert "were signed and are lost" in said[3]
    assert "tampered" not in said[3]
    assert "former/1" in said[4]
    assert not (tmp_path / "drill").exists()
    assert 1 == summary(tmp_path / "restored")["calls"]
    assert 2 == summary(home)["calls"]
