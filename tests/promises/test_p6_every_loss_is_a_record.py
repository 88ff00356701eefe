"""
P6: "Every loss is a record. What could not be recorded is counted, and count, window and reason become a signed entry, even
when the disk is full and the process is killed."
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from tests.journal.homes import (
    KEY,
    an_intent,
    an_outcome,
    check_log,
    drain,
    new_home,
    new_spool,
    of_kind,
    run_python,
    segment_files,
    statuses,
    write_calls,
)

import openrouter_audit
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter

CALL = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """A disk that takes nothing, memory that is full, and then `kill -9`."""
    home = tmp_path_factory.mktemp("loss") / "home"
    began = time.time_ns() // 1000
    done = run_python(
        """
import os, signal, sys
from openrouter_audit import AuditLog
from openrouter_audit.journal.backlog import Backlog
from tests.journal.homes import an_intent, an_outcome
audit = AuditLog.open(sys.argv[1], sequencer=False, enrich=False)
audit._spool._backlog = Backlog(2000)
calls = [an_intent() for _ in range(50)]
tokens = [audit.write(call) for call in calls]
def no_space(*_):
    raise OSError(28, "No space left on device")
os.writev = no_space
for call, token in zip(calls, tokens):
    audit.write(an_outcome(call), follows=token)
print(50 - audit._spool.waiting, flush=True)  # of which the others are lost with the process
os.kill(os.getpid(), signal.SIGKILL)
""",
        home,
        check=False,
    )
    return Home(home), int(done.stdout), began


def test_count_window_and_reason_become_an_entry(after):
    home, lost, began = after
    entries = drain(home)
    given_up, waited = of_kind(entries, "log.loss")

    assert 30 < lost < 50
    assert ("disk_and_memory_full", lost) == (given_up["reason"], given_up["count"])
    assert ("process_ended", 50 - lost) == (waited["reason"], waited["count"])
    assert began < given_up["from_us"] <= given_up["until_us"] < time.time_ns() // 1000
    assert ["unknown"] * 50 == list(statuses(entries).values())


def test_the_entry_is_signed(after):
    from openrouter_audit.journal.sqlite import SqliteJournal

    home, _, _ = after
    drain(home)
    policy = decode_policy(home.policy_path.read_bytes())
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        head = journal.head()
    opened = policy.open_checkpoint(head.note.encode())
    assert (head.tree_size, head.root_hash) == (opened.checkpoint.tree_size, opened.checkpoint.root_hash)


def verdict(home: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "openrouter_audit", "--home", str(home), "verify", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"exit": done.returncode, **json.loads(done.stdout)}


@pytest.fixture
def best_effort(tmp_path):
    """An emulator, a client of the openai SDK, and a recorder in `best_effort` that is installed by its setting."""
    with pytest.MonkeyPatch.context() as patch, FakeOpenRouter(seed=4) as fake:
        patch.setenv("OPENROUTER_AUDIT_CAPTURE_MODE", "best_effort")
        patch.setenv("OPENROUTER_AUDIT_ENRICH_SCOPE", "off")
        audit = openrouter_audit.install(tmp_path / "home", hosts=["127.0.0.1"])
        with openai.OpenAI(base_url=fake.url, api_key=KEY, max_retries=0) as client:
            yield audit, fake, client
        openrouter_audit.uninstall()


def ask(client) -> None:
    for part in client.chat.completions.create(**CALL, stream=True):
        assert part.id
    client.chat.completions.create(**CALL)


def test_best_effort_lets_calls_go_and_counts_them(best_effort, monkeypatch):
    """
    Two calls are recorded, two meet a full disk, two are recorded again: all six are answered, and the log says that two calls and
    their outcomes are missing. It is incomplete, not tampered with.
    """
    audit, fake, client = best_effort
    ask(client)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "writev", no_space)
        ask(client)
    ask(client)
    openrouter_audit.uninstall()
    entries = check_log(audit.home)

    assert 6 == len(fake.calls())
    assert ["success"] * 4 == list(statuses(entries).values())
    assert {"disk": 2, "no_intent": 2} == {loss["reason"]: loss["count"] for loss in of_kind(entries, "log.loss")}
    assert {"best_effort"} == {
        entry["mode"] for entry in (*of_kind(entries, "log.opened"), *of_kind(entries, "log.config"))
    }
    found = verdict(audit.home.path)
    assert (2, "incomplete") == (found["exit"], found["verdict"])
    assert {"loss"} == {finding["class"] for finding in found["findings"] if finding["severity"] != "info"}


def test_an_outcome_whose_intent_is_a_recorded_loss_is_incomplete_not_tampered(tmp_path):
    """
    A power cut takes the end of one segment, with an intent in it; the outcome stands whole in the next one.
    """
    home = new_home(tmp_path)
    spool = new_spool(home, mode="best_effort", rotate_bytes=1_000)
    spool.write(an_intent())
    (segment,) = segment_files(home)
    before = segment.stat().st_size
    intent = an_intent()
    token = spool.write(intent)
    while 1 == len(segment_files(home)):
        spool.write(an_intent())
    spool.write(an_outcome(intent), follows=token)
    os.truncate(segment, before)
    del token
    spool.end(closing=True)
    entries = drain(home)

    assert "success" == statuses(entries)[intent.id]
    assert ["missing_tail"] == [loss["reason"] for loss in of_kind(entries, "log.loss")]
    found = verdict(home.path)
    assert (2, "incomplete") == (found["exit"], found["verdict"])
    assert {("loss", "incomplete"), ("outcome_without_intent", "incomplete")} <= {
        (finding["class"], finding["severity"]) for finding in found["findings"]
    }


def test_doctor_says_what_is_lost_and_what_waits(tmp_path):
    """A living program has lost two intents and keeps an outcome in memory, and its spool is over a tenth of its bound."""
    home = new_home(tmp_path)
    spool = new_spool(home, mode="best_effort", retry_s=None, reserve_bytes=0)
    write_calls(spool, 500)
    intent = an_intent()
    token = spool.write(intent)
    with pytest.MonkeyPatch.context() as full:
        full.setattr(os, "writev", lambda *_: 0)
        for _ in range(2):
            spool.write(an_intent())
        spool.write(an_outcome(intent), follows=token)
    done = subprocess.run(
        [sys.executable, "-m", "openrouter_audit", "--home", str(home.path), "doctor", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENROUTER_AUDIT_CAPTURE_SPOOL_MAX_BYTES": "1048576"},
    )
    findings = json.loads(done.stdout)

    assert (2, 0, 2) == (done.returncode, findings["losses"], findings["losses_not_entered"])
    assert "1 outcomes wait in the memory of programs: the disk takes nothing" in findings["problems"]
    assert [said for said in findings["problems"] if "% of its bound" in said]
    assert [said for said in findings["problems"] if said.startswith("records were lost")]
