"""
P6: "Every loss is a record. What could not be recorded is counted, and count, window and reason become a signed entry, even
when the disk is full and the process is killed."
"""

import time

import pytest
from tests.journal.homes import drain, of_kind, run_python, statuses

from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.journal.home import Home


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """A disk that takes nothing, memory that is full, and then `kill -9`."""
    home = tmp_path_factory.mktemp("loss") / "home"
    began = time.time_ns() // 1000
    done = run_python(
        """
import os, signal, sys
from openrouter_audit import AuditLog
from openrouter_audit.journal import spool
from tests.journal.homes import an_intent, an_outcome
spool.BACKLOG_BYTES = 2000
audit = AuditLog.open(sys.argv[1], sequencer=False, enrich=False)
calls = [an_intent() for _ in range(50)]
tokens = [audit.write(call) for call in calls]
def no_space(*_):
    raise OSError(28, "No space left on device")
os.writev = no_space
for call, token in zip(calls, tokens):
    audit.write(an_outcome(call), follows=token)
print(50 - audit._spool.waiting, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        home,
        check=False,
    )
    return Home(home), int(done.stdout), began


def test_count_window_and_reason_become_an_entry(after):
    home, lost, began = after
    entries = drain(home)
    (loss,) = of_kind(entries, "log.loss")

    assert 30 < lost
    assert ("disk_and_memory_full", lost) == (loss["reason"], loss["count"])
    assert began < loss["from_us"] <= loss["until_us"] < time.time_ns() // 1000
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
