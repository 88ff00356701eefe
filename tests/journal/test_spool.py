"""The hot path: what is acknowledged is in the file, and what cannot be written is refused, waits, or is counted."""

import errno
import gc
import os
import stat
import threading
import time

import pytest
from tests.journal.homes import (
    an_intent,
    an_outcome,
    drain,
    new_home,
    new_spool,
    of_kind,
    run_python,
    segment_files,
    statuses,
    write_calls,
)

from openrouter_audit.core.entries import LogConfig, Parameters, Private
from openrouter_audit.errors import AuditUnavailable
from openrouter_audit.journal import spool as spool_module
from openrouter_audit.journal.segments import HEADER_BYTES


@pytest.fixture
def home(tmp_path):
    return new_home(tmp_path)


class FullDisk:
    """`os.writev` and `os.write` of a disk that takes `room` more bytes; None: as much as you like."""

    def __init__(self, monkeypatch):
        self.room = None
        self._writev, self._write = os.writev, os.write
        monkeypatch.setattr(os, "writev", self.writev)

    def writev(self, descriptor, buffers):
        data = b"".join(buffers)
        if self.room is None:
            return self._writev(descriptor, buffers)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: self.room]
        self.room -= len(taken)
        return self._write(descriptor, taken)


def test_each_record_becomes_one_entry_in_order(home):
    spool = new_spool(home)
    ids = write_calls(spool, 5)

    entries = drain(home)
    assert ["log.opened", *["call.intent", "call.outcome"] * 5] == [entry["kind"] for entry in entries]
    assert ids == [entry["id"] for entry in of_kind(entries, "call.intent")]


def test_nothing_plain_is_in_the_spool(home):
    spool = new_spool(home)
    intent = an_intent(model="openai/canary-model")
    token = spool.write(intent, Private(user="canary-user"))

    data = segment_files(home)[0].read_bytes()
    assert b"canary" not in data
    assert intent.id.encode() not in data
    assert token is not None


def test_everything_is_for_the_owner_alone(home):
    spool = new_spool(home)
    write_calls(spool, 2)
    drain(home)

    for folder, folders, files in os.walk(home.path):
        for name in folders:
            assert 0o700 == stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode), name
        for name in files:
            assert 0o600 == stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode), name
    assert 0o700 == stat.S_IMODE(home.path.stat().st_mode)


def test_threads_write_at_once_and_nothing_is_lost_or_doubled(home):
    spool = new_spool(home, rotate_bytes=8000)
    ids: list[list[str]] = []
    threads = [threading.Thread(target=lambda: ids.append(write_calls(spool, 100))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    entries = drain(home)
    assert sorted(each for some in ids for each in some) == sorted(statuses(entries))
    assert {"success"} == set(statuses(entries).values())
    assert [] == of_kind(entries, "log.loss")


def test_a_short_write_is_written_again_whole_and_is_no_loss(home, monkeypatch):
    """
    The disk takes 30 bytes of a frame, and then everything again (somebody made room).
    """
    spool = new_spool(home)
    write_calls(spool, 2)
    disk, taken = FullDisk(monkeypatch), []
    intent = an_intent()
    original = disk.writev

    def once(descriptor, buffers):
        disk.room = None if taken else 30
        taken.append(1)
        return original(descriptor, buffers)

    monkeypatch.setattr(os, "writev", once)
    token = spool.write(intent)
    spool.write(an_outcome(intent), follows=token)
    spool.end(closing=True)
    del token
    entries = drain(home)

    assert "success" == statuses(entries)[intent.id]
    assert 3 == len(of_kind(entries, "call.intent"))
    assert [] == of_kind(entries, "log.loss")
    assert [] == segment_files(home)


def test_a_real_file_size_limit_loses_nothing_that_was_acknowledged(home):
    """
    RLIMIT_FSIZE in a process of its own: the kernel cuts the frame that crosses it, and the spool goes on elsewhere.
    """
    done = run_python(
        """
import resource, signal, sys
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.journal.homes import new_spool, write_calls
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = new_spool(Home(Path(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_001, 10_001))
print(*write_calls(spool, 100))
""",
        home.path,
    )
    entries = drain(home)

    assert sorted(done.stdout.split()) == sorted(statuses(entries))
    assert {"success"} == set(statuses(entries).values())
    assert 3 <= len(of_kind(entries, "log.opened"))
    assert [] == of_kind(entries, "log.loss")


def test_a_lost_frame_is_a_loss_though_another_frame_was_written_again(home, monkeypatch):
    """
    One frame is torn and named by its replacement; another one is damaged beyond recognition. Only the first is no loss.
    """
    spool = new_spool(home)
    write_calls(spool, 3)
    path = segment_files(home)[0]
    size = path.stat().st_size
    disk = FullDisk(monkeypatch)
    original = disk.writev

    def once(descriptor, buffers):
        monkeypatch.setattr(os, "writev", disk._writev)
        disk.room = 30
        return original(descriptor, buffers)

    monkeypatch.setattr(os, "writev", once)
    write_calls(spool, 1)
    spool.end(closing=True)
    with path.open("r+b") as file:  # marker and length of the second frame
        first = HEADER_BYTES + 24 + int.from_bytes(path.read_bytes()[HEADER_BYTES + 8 : HEADER_BYTES + 12])
        file.seek(first)
        file.write(b"\0" * 12)
    assert size < path.stat().st_size
    losses = of_kind(drain(home), "log.loss")

    assert [("torn_frame", 1)] == [(loss["reason"], loss["count"]) for loss in losses]


def test_an_intent_is_refused_when_the_disk_is_full_and_leaves_no_litter(home, monkeypatch):
    spool = new_spool(home)
    write_calls(spool, 1)
    disk = FullDisk(monkeypatch)
    disk.room = 0
    before = sorted(path.name for path in (*home.spool_dir.iterdir(), *home.state_dir.iterdir()))

    for _ in range(3):
        with pytest.raises(AuditUnavailable) as refused:
            spool.write(an_intent())
        assert "write" == refused.value.reason
    assert before == sorted(path.name for path in (*home.spool_dir.iterdir(), *home.state_dir.iterdir()))

    disk.room = None
    write_calls(spool, 1)
    assert 2 == len(statuses(drain(home)))


def test_a_state_file_that_cannot_be_made_whole_refuses_the_intent(home, monkeypatch):
    """
    A disk with a few bytes left takes half of it: the call is refused, and does not go out unrecorded.
    """
    spool = new_spool(home)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:100]) if len(data) == 4096 else real(fd, data))

    with pytest.raises(AuditUnavailable):
        spool.write(an_intent())
    assert [] == list(home.state_dir.iterdir())


def test_any_fault_of_the_spool_refuses_an_intent(home, monkeypatch):
    """
    Also one that is no error of the disk: what is not recorded is not sent.
    """
    spool = new_spool(home)
    monkeypatch.setattr(spool_module, "new_segment_cipher", lambda *_: 1 / 0)

    with pytest.raises(AuditUnavailable):
        spool.write(an_intent())


def test_an_outcome_waits_in_memory_and_is_written_when_there_is_room(home, monkeypatch):
    spool = new_spool(home)
    intents = [an_intent() for _ in range(3)]
    tokens = [spool.write(intent) for intent in intents]
    disk = FullDisk(monkeypatch)
    disk.room = 0
    for intent, token in zip(intents, tokens, strict=True):
        assert spool.write(an_outcome(intent), follows=token) is None
    assert 3 == spool.waiting
    del tokens, token
    gc.collect()
    assert {} == statuses(drain(home)), "an outcome that waits keeps its intent from being swept"

    disk.room = None
    write_calls(spool, 1)
    assert 0 == spool.waiting
    assert {"success"} == set(statuses(drain(home)).values())


def test_a_backlog_survives_a_fault_that_is_no_disk_error(home, monkeypatch):
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    monkeypatch.setattr(os, "writev", lambda *_: 1 / 0)
    spool.write(an_outcome(intent), follows=token)
    with pytest.raises(AuditUnavailable):
        spool.write(an_intent())
    monkeypatch.undo()

    assert 0 == spool.retry_backlog()
    assert "success" == statuses(drain(home))[intent.id]


def test_outcomes_beyond_the_memory_bound_are_counted_though_the_process_is_killed(home):
    """
    Disk full, memory bound reached, `kill -9`: the count is in a file that was made before.
    """
    run_python(
        """
import os, signal, sys
from pathlib import Path
from openrouter_audit.journal.home import Home
from tests.journal.homes import an_intent, an_outcome, new_spool
spool = new_spool(Home(Path(sys.argv[1])), backlog_bytes=1000)
intents = [an_intent() for _ in range(20)]
tokens = [spool.write(intent) for intent in intents]
def full(*_): raise OSError(28, "No space left on device")
os.writev = full
for intent, token in zip(intents, tokens):
    spool.write(an_outcome(intent), follows=token)
os.kill(os.getpid(), signal.SIGKILL)
""",
        home.path,
        check=False,
    )
    entries = drain(home)
    losses = of_kind(entries, "log.loss")

    assert ["disk_and_memory_full", "process_ended"] == [loss["reason"] for loss in losses]
    assert 10 <= losses[0]["count"] < 20
    assert 20 == losses[0]["count"] + losses[1]["count"]
    assert losses[0]["from_us"] <= losses[0]["until_us"]
    assert ["unknown"] * 20 == list(statuses(entries).values())


def test_a_full_spool_refuses_intents_and_keeps_outcomes(home):
    spool = new_spool(home, max_bytes=4000, rotate_bytes=4000)
    intent = an_intent()
    token = spool.write(intent)
    with pytest.raises(AuditUnavailable) as refused:
        write_calls(spool, 50)
    assert "full" == refused.value.reason

    spool.write(an_outcome(intent), follows=token)
    assert 1 <= spool.waiting
    token_segment = home.spool_dir / f"{token.name}.seg"
    del token
    gc.collect()
    drain(home)  # the segment cannot go: its outcome waits
    assert token_segment in segment_files(home)

    spool._max_bytes = 100_000
    assert 0 == spool.retry_backlog()
    assert "success" == statuses(drain(home))[intent.id]


class Syncs:
    """`fdatasync` with a switch; counts what came before each."""

    def __init__(self, monkeypatch):
        self.count, self.fail = 0, False
        self._real = os.fdatasync
        monkeypatch.setattr(spool_module, "_fdatasync", self)

    def __call__(self, descriptor):
        self.count += 1
        if self.fail:
            raise OSError(errno.EIO, "Input/output error")
        self._real(descriptor)


def test_strict_syncs_the_segment_when_it_is_made_and_what_is_asked_for(home, monkeypatch):
    syncs = Syncs(monkeypatch)
    spool = new_spool(home, mode="strict")
    token = spool.write(an_intent())
    made = syncs.count
    spool.sync(token)

    assert 1 == made
    assert 2 == syncs.count


def test_a_failed_sync_is_final_for_its_segment(home, monkeypatch):
    """
    The kernel may have dropped the pages: a second sync that succeeds proves nothing.
    """
    syncs = Syncs(monkeypatch)
    spool = new_spool(home, mode="strict")
    token = spool.write(an_intent())
    syncs.fail = True
    with pytest.raises(AuditUnavailable) as refused:
        spool.sync(token)
    assert "sync" == refused.value.reason
    syncs.fail = False
    with pytest.raises(AuditUnavailable):
        spool.sync(token)

    following = spool.write(an_intent())
    assert following is not token
    spool.sync(following)


def test_one_sync_serves_all_who_wait(home, monkeypatch):
    """
    Twenty threads write and then wait while one sync is held up: a second sync covers all of them.
    """
    spool = new_spool(home, mode="strict")
    first = spool.write(an_intent())
    assert first is not None
    gate, entered, count = threading.Event(), threading.Event(), []

    def slow(_descriptor):
        count.append(1)
        entered.set()
        gate.wait(10)

    monkeypatch.setattr(spool_module, "_fdatasync", slow)
    tokens = [spool.write(an_intent()) for _ in range(21)]
    threads = [threading.Thread(target=spool.sync, args=(token,)) for token in tokens]
    threads[0].start()
    entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 10
    while "count(24)" != repr(tokens[0]._tickets) and time.monotonic() < deadline:
        time.sleep(0.001)  # until all of them wait: two tickets at the start, two for the first, one for each other
    gate.set()
    for thread in threads:
        thread.join()

    assert 2 == len(count)


def test_what_is_under_way_when_the_recorder_is_closed_still_gets_its_outcome(home):
    """
    `close()` while a stream is open: new calls are refused, the open one ends in the log as it ended.
    """
    spool = new_spool(home)
    intent = an_intent()
    token = spool.write(intent)
    spool.end(closing=True)
    with pytest.raises(AuditUnavailable) as refused:
        spool.write(an_intent())
    assert "closed" == refused.value.reason

    spool.write(an_outcome(intent), follows=token)
    assert 0 == spool.waiting
    del token
    gc.collect()
    entries = drain(home)
    assert {intent.id: "success"} == statuses(entries)
    assert 1 == len(of_kind(entries, "log.closed"))
    assert 1 == len(of_kind(entries, "log.opened"))
    assert [] == segment_files(home)


def test_strange_values_cost_the_value_and_not_the_record(home):
    """
    Lone surrogates, 2^70, floats, objects, depth, a megabyte: the entry is there, without them, and says so.
    """
    deep: object = "x"
    for _ in range(5000):
        deep = [deep]
    strange = {
        "surrogate": an_intent(model="\ud800"),
        "large": an_intent(request_bytes=2**70, parameters=Parameters(max_tokens=2**63)),
        "float": an_intent(message_count=1.5),
        "object": an_intent(model=object()),
        "deep": an_intent(models=(deep,)),
        "long": an_intent(model="m" * 1_000_000),
        "many": an_intent(tools=tuple(f"tool{n}" for n in range(50_000))),
        "spaces": an_intent(model="not a model", host="h i"),
    }
    spool = new_spool(home)
    key = os.urandom(32)
    for intent in strange.values():
        token = spool.write(intent, Private(user="u\ud800", commitment_key=key))
        spool.write(an_outcome(intent), follows=token)
    entries = drain(home)

    assert [intent.id for intent in strange.values()] == [e["id"] for e in of_kind(entries, "call.intent")]
    found = {e["id"]: e for e in of_kind(entries, "call.intent")}
    assert "model" in found[strange["long"].id]["anomalies"]
    assert "parameters.max_tokens" not in found[strange["large"].id].get("parameters", {})
    assert 64 == len(found[strange["many"].id]["tools"])
    assert ["model", "host"] == found[strange["spaces"].id]["anomalies"] or ["host", "model"] == found[
        strange["spaces"].id
    ]["anomalies"]
    from openrouter_audit.journal.vault import Vault

    with Vault.open(home.vault_path, read_only=True) as vault:
        kept = vault.calls([intent.id for intent in strange.values()])
    assert {key} == {call.commitment_key for call in kept.values()}
    assert 8 == len(kept)


def test_a_private_part_that_fits_no_frame_is_cut_and_the_call_is_recorded(home):
    spool = new_spool(home)
    intent = an_intent()
    key = os.urandom(32)
    spool.write(intent, Private(user="alice", session="s" * 1_000_000, commitment_key=key))
    entries = drain(home)
    from openrouter_audit.journal.vault import Vault

    assert ["private"] == of_kind(entries, "call.intent")[0]["anomalies"]
    with Vault.open(home.vault_path, read_only=True) as vault:
        kept = vault.calls([intent.id])[intent.id]
        assert {kept.subject: "alice"} == vault.users([str(kept.subject)])
    assert (key, None) == (kept.commitment_key, kept.session_id)


def test_a_strange_private_value_does_not_cost_the_commitment_key(home):
    spool = new_spool(home)
    intent, key = an_intent(), os.urandom(32)
    spool.write(intent, Private(user=5, tags={"team": "x", "n": 3}, commitment_key=key))
    drain(home)
    from openrouter_audit.journal.vault import Vault

    with Vault.open(home.vault_path, read_only=True) as vault:
        kept = vault.calls([intent.id])[intent.id]
    assert (key, {"team": "x"}, None) == (kept.commitment_key, kept.tags, kept.subject)


def test_settings_are_an_entry_of_each_process(home):
    settings = LogConfig(
        v=1, id="0" * 32, at_us=0, policy="a" * 64, mode="buffer", content_mode="none", enrich_scope="all"
    )
    spool = new_spool(home, settings=settings, rotate_bytes=2000)
    write_calls(spool, 30)
    entries = drain(home)

    assert 1 == len(of_kind(entries, "log.config"))
    assert 2 <= len(of_kind(entries, "log.opened"))


def test_descriptors_are_not_left_open(home):
    gc.collect()  # what earlier tests left behind is not to be closed while we count
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        spool = new_spool(home, rotate_bytes=2000)
        write_calls(spool, 30)
        spool.end(closing=True)
        drain(home)
    del spool
    gc.collect()

    assert len(os.listdir("/proc/self/fd")) <= before
