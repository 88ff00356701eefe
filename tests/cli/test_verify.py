"""`verify` and `publish` as commands: what they print, how they exit, and that they write nothing they should not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.verification.logs import Log, calls, intent, loss

from openrouter_audit.cli.publish import publish_home
from openrouter_audit.cli.verify import verify, verify_home
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.errors import RolledBack, RootMismatch, VerificationError
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import attacks

ROOT = Path(__file__).parents[2]
RECOMPUTE = ROOT / "examples" / "recompute_root.py"


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "home")
    log.append(calls(300), keep=True)
    yield log
    log.close()


def run(capsys, home, **options):
    code = verify(home=home, **options)
    return code, capsys.readouterr().out


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# verify


def test_json_has_the_agreed_shape(log, capsys):
    """C14, to the letter."""
    log.append([loss("x", count=2)])
    code, out = run(capsys, log.home.path, format="json")
    shown = json.loads(out)

    assert 2 == code
    assert ["verdict", "origin", "tree_size", "root", "checkpoint_time_us", "counts", "findings"] == list(shown)
    assert "incomplete" == shown["verdict"]
    assert "openrouter-audit.local/test" == shown["origin"]
    assert 601 == shown["tree_size"]
    assert (log.home.path / "head").read_text().split()[2] == shown["root"]
    assert log.at_us // 1_000_000 * 1_000_000 == shown["checkpoint_time_us"]
    assert {"intents": 300, "outcomes": 300, "unknown": 0, "losses": 1} == shown["counts"]
    assert [["class", "severity", "index", "detail"]] == [list(one) for one in shown["findings"]]
    assert ("loss", "incomplete", 600) == tuple(shown["findings"][0].values())[:3]


@pytest.mark.parametrize(("attack", "code"), [(None, 0), ("tamper", 1), ("loss", 2), ("policy", 3)])
def test_exits_say_the_verdict(log, tmp_path, capsys, attack, code):
    if attack == "loss":
        log.append([loss("x")])
    home = attacks.copy_home(log.home.path, tmp_path / "copy")
    if attack == "tamper":
        attacks.change_byte(home, 3)
    if attack == "policy":
        (home / "policy").unlink()

    exit_code, out = run(capsys, home)
    assert code == exit_code
    assert {0: "PROVEN", 1: "TAMPERED", 2: "INCOMPLETE", 3: "CANNOT TELL"}[code] == out.split(":")[0]


def test_a_policy_with_one_algorithm_is_refused(log, tmp_path):
    """Both keys must be pinned, or breaking one algorithm would break the log."""
    lines = (log.home.path / "policy").read_text().splitlines()
    (tmp_path / "policy").write_text("\n".join([lines[0], lines[-1]]) + "\n")
    report = verify_home(log.home, policy_path=tmp_path / "policy")

    assert "cannot_tell" == report.verdict
    assert "0x06" in report.reason


@pytest.mark.parametrize("damage", ["no journal", "no database", "torn database", "bad policy"])
def test_what_cannot_be_read_cannot_be_told(log, tmp_path, damage):
    home = attacks.copy_home(log.home.path, tmp_path / "copy")
    if damage == "no journal":
        (home / "journal.db").unlink()
    elif damage == "no database":
        (home / "journal.db").write_bytes(b"this is no database, and it is long enough to see that" * 40)
    elif damage == "torn database":
        data = (home / "journal.db").read_bytes()
        (home / "journal.db").write_bytes(data[:8192] + bytes(len(data) - 8192))
    else:
        (home / "policy").write_text("log nonsense\n")
    report = verify_home(Home(home))

    assert "cannot_tell" == report.verdict
    assert {"verdict", "reason", "findings"} <= set(report.as_json())


def test_verifying_changes_no_file(log, tmp_path):
    """Only the files by which SQLite coordinates readers may appear."""
    home = attacks.copy_home(log.home.path, tmp_path / "copy")
    before = files(home)
    assert "proven" == verify_home(Home(home)).verdict
    changed = {name for name, data in files(home).items() if before.get(name) != data}

    assert changed <= {"journal.db-wal", "journal.db-shm", "reports.db-wal", "reports.db-shm"}


def test_a_log_that_grows_meanwhile_is_proven(log):
    """All is read from one state: what is committed while the verifier is at work does not disturb it."""
    with JournalEvidence.open(log.home.journal_path) as evidence:
        head = evidence.head()
        log.append(calls(50, first=300))

        assert 600 == head.tree_size == evidence.head().tree_size
        assert 600 == sum(len(batch) for batch in evidence.batches())
    assert "proven" == verify_home(log.home).verdict


def test_a_folder_that_cannot_be_written_is_verified(log):
    """As on a read-only medium, where SQLite cannot make the files by which it coordinates readers."""
    script = (
        "import os, sys; from pathlib import Path; from openrouter_audit.cli.verify import *\n"
        "verify_home(Home(Path(sys.argv[2])))\n"  # loads everything: nobody may not be able to read this checkout
        "if os.getuid() == 0: os.setuid(65534)\n"  # root may write everywhere
        "print(verify_home(Home(Path(sys.argv[1]))).verdict, os.access(sys.argv[1], os.W_OK))"
    )
    with tempfile.TemporaryDirectory() as folder:
        home = attacks.copy_home(log.home.path, Path(folder) / "copy")
        for path in [Path(folder), home, *home.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [sys.executable, "-c", script, str(home), str(log.home.path)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        for path in (Path(folder), home):
            path.chmod(0o755)

    assert "proven False" == told.stdout.strip()


def test_the_commands_are_reached_from_the_command_line(log, tmp_path):
    """Exit codes pass through `main`; a folder with something else in it is bad data."""
    from openrouter_audit.cli import main

    home = f"--home={log.home.path}"
    assert 0 == main([home, "verify", "--format", "json"])
    assert 0 == main([home, "publish", str(tmp_path / "public"), "--format", "json"])
    assert 65 == main([home, "publish", str(tmp_path)])
    assert 3 == main([f"--home={tmp_path / 'nowhere'}", "verify"])


# publish


def test_a_stranger_recomputes_the_root_without_our_code(log, tmp_path):
    """Python's standard library and 40 lines; and an entry changed in the files is noticed by it."""
    publish_home(log.home, tmp_path / "public")
    command = [sys.executable, "-I", str(RECOMPUTE), str(tmp_path / "public")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)

    _, size, root = (log.home.path / "head").read_text().split()
    assert f"{size} {root}\n" == told.stdout
    assert len(RECOMPUTE.read_text().splitlines()) <= 40

    bundle = tmp_path / "public" / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes().replace(b'"stream":false', b'"stream":true ', 1))
    assert 0 != subprocess.run(command, capture_output=True, check=False).returncode


def test_the_layout_is_that_of_tlog_tiles(log, tmp_path):
    publish_home(log.home, tmp_path / "public")

    assert {
        "checkpoint",
        "policy",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/88",
    } == set(files(tmp_path / "public"))
    assert decode_policy((tmp_path / "public" / "policy").read_bytes()).open_checkpoint(
        (tmp_path / "public" / "checkpoint").read_bytes()
    )


def test_publishing_again_writes_only_what_is_new(log, tmp_path):
    """Step by step, the folder is always what one run over the whole log writes, but for old partial tiles."""
    public, fresh = tmp_path / "public", tmp_path / "fresh"
    publish_home(log.home, public)
    assert 0 == publish_home(log.home, public).files_written
    for first, number in ((300, 1), (301, 300), (601, 39), (640, 20)):
        log.append(calls(number, first=first))
        publish_home(log.home, public)
    publish_home(log.home, fresh)

    assert files(fresh).items() <= files(public).items()


def test_an_empty_log_is_published(tmp_path):
    home = Home(tmp_path / "home")
    home.ensure()
    publish_home(home, tmp_path / "public")

    assert {"checkpoint", "policy"} == set(files(tmp_path / "public"))
    subprocess.run([sys.executable, "-I", str(RECOMPUTE), str(tmp_path / "public")], check=True, capture_output=True)


def test_foreign_folders_are_left_as_they_are(log, tmp_path):
    """Another log, a longer one, one of another history, and a folder with something else in it."""
    other = Log(tmp_path / "other")
    other.append([intent("other"), *calls(400, first=1000)])
    public = tmp_path / "public"
    publish_home(other.home, public)
    other.close()
    before = files(public)
    with pytest.raises((RolledBack, VerificationError)):
        publish_home(log.home, public)
    assert before == files(public)

    log.append(calls(200, first=300))
    with pytest.raises(RootMismatch):
        publish_home(log.home, public)
    assert before == files(public)

    Home(tmp_path / "stranger").ensure(origin="openrouter-audit.local/stranger")
    with pytest.raises(VerificationError, match="holds the log"):
        publish_home(Home(tmp_path / "stranger"), public)
    assert before == files(public)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo").write_bytes(b"")
    with pytest.raises(VerificationError, match="holds no log"):
        publish_home(log.home, tmp_path / "full")


def test_a_tampered_log_gets_no_new_checkpoint(log, tmp_path):
    publish_home(log.home, tmp_path / "public")
    before = files(tmp_path / "public")
    log.append(calls(300, first=300))
    home = attacks.copy_home(log.home.path, tmp_path / "copy")
    attacks.rewrite_everything(home, 1000)
    with pytest.raises(VerificationError):
        publish_home(Home(home), tmp_path / "public")

    assert before.items() <= files(tmp_path / "public").items()
    publish_home(log.home, tmp_path / "public")
    shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
    publish_home(log.home, tmp_path / "fresh")
    assert files(tmp_path / "fresh").items() <= files(tmp_path / "public").items()
