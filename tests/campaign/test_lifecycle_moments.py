"""
Moments at which a recorder is not alone with itself: finalisers and signal handlers that write inside a write, clocks that
step, two homes in one process, and file systems that a home is not made on.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

import httpx
import pytest
from tests.campaign.lifecycle_fork_points import OPERATIONS, Halt
from tests.campaign.lifecycle_tools import (
    Acknowledgements,
    acknowledged_calls,
    assert_whole,
    emulator,
    output_of,
    prove,
    python,
    seed_of,
)
from tests.journal.homes import KEY, an_intent, an_outcome, check_log, drain, new_home, new_spool, of_kind, statuses

from openrouter_audit import AuditLog
from openrouter_audit.capture.exchange import SystemClock
from openrouter_audit.errors import HomeError
from openrouter_audit.journal.home import Home, file_system_of, refuse_foreign_file_system
from openrouter_audit.journal.sequencer import Sequencer

HOUR_NS = 3_600_000_000_000
BODY = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def openrouter(tmp_path_factory):
    with emulator(tmp_path_factory.mktemp("emulator")) as server:
        yield server


# Inside a write -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_whoever_interrupts_a_write_at_any_line_may_write(tmp_path, operation):
    """
    A signal handler, or a finaliser run by the garbage collector, records a whole call in the middle of another's record.
    """
    home = new_home(tmp_path)
    acknowledge = Acknowledgements(tmp_path / "acknowledged")
    spool = new_spool(home, **OPERATIONS[operation])
    acknowledged_calls(spool, 1, acknowledge)
    at = 0
    while True:
        at += 1
        halt = Halt(at, lambda: acknowledged_calls(spool, 1, acknowledge), opcodes=False)
        intent = an_intent()
        sys.settrace(halt)
        try:
            token = spool.write(intent)
            spool.write(ended := an_outcome(intent), follows=token)
        finally:
            sys.settrace(None)
        acknowledge.say("i", intent)
        acknowledge.say("o", ended)
        if halt.place is None:
            break
    spool.end(closing=True)

    proof = prove(home, acknowledge.read())
    assert_whole(proof)
    assert {"success": 2 * at} == dict(proof.ends)
    assert at > 40


def test_signals_that_write_during_writes_lose_and_double_nothing(tmp_path):
    """
    A timer interrupts the writing thread every few milliseconds, and its handler writes and rotates.
    """
    home = new_home(tmp_path)
    acknowledge = Acknowledgements(tmp_path / "acknowledged")
    spool = new_spool(home, rotate_bytes=20_000)
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.003))  # may come while this handler is at work
        acknowledged_calls(spool, 1 if handled % 3 else 0, acknowledge)

    rng = random.Random(seed_of("SIGNAL_SEED"))
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        while handled < 100:
            acknowledged_calls(spool, 1, acknowledge)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    spool.end(closing=True)

    assert_whole(prove(home, acknowledge.read()))


def test_the_collector_may_find_abandoned_streams_inside_the_system_call(tmp_path, openrouter, monkeypatch):
    """
    Streams in cycles are collected while another record's `writev` is on its way; their finalisers write their ends.
    """
    with AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"], enrich=False) as audit:
        writev, collected = os.writev, 0

        class Stream(httpx.SyncByteStream):
            def __iter__(self):
                yield b'data: {"id":"gen-1","model":"m","choices":[]}\n\n'
                yield b"data: [DONE]\n\n"

        def collecting(descriptor: int, pieces: object) -> int:
            nonlocal collected
            collected += gc.collect() > 0
            return writev(descriptor, pieces)

        client = audit.httpx_client(transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Stream())))
        gc.disable()
        try:
            for _ in range(20):
                for _ in range(3):
                    request = client.build_request("POST", "http://127.0.0.1/api/v1/chat/completions", json=BODY)
                    response = client.send(request, stream=True)
                    next(response.iter_raw())
                    response.cycle = [response]
                    del response, request
                monkeypatch.setattr(os, "writev", collecting)
                acknowledged_calls(audit, 1, Acknowledgements(tmp_path / "acknowledged"))
                monkeypatch.undo()
        finally:
            gc.enable()
        client.close()
        audit.flush(60)

    found = list(statuses(check_log(audit.home)).values())
    assert collected > 0
    assert (20, 60) == (found.count("success"), found.count("abandoned"))


# Clocks -------------------------------------------------------------------------------------------------------------


def test_a_clock_that_steps_changes_neither_order_nor_latency(tmp_path, openrouter, monkeypatch):
    """
    The wall clock jumps by an hour, forth and back, between and inside calls: entries keep the order in which they were
    written, durations come from the clock that does not step, and signed times never go back.
    """
    real, step = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: real() + step)
    monkeypatch.setattr(time, "time", lambda: (real() + step) / 1e9)
    monkeypatch.setattr(SystemClock, "wall_ns", staticmethod(time.time_ns))  # it holds the function itself
    home = tmp_path / "home"
    signed = []
    with AuditLog.open(home, hosts=["127.0.0.1"], enrich=False) as audit, audit.httpx_client() as client:
        for step in (0, HOUR_NS, -HOUR_NS, 0, -HOUR_NS):
            client.post(openrouter.url + "/chat/completions", json=BODY, headers={"Authorization": f"Bearer {KEY}"})
            stream = client.build_request(
                "POST",
                openrouter.url + "/chat/completions",
                json={**BODY, "stream": True},
                headers={"Authorization": f"Bearer {KEY}"},
            )
            response = client.send(stream, stream=True)
            step += HOUR_NS * random.choice((-1, 1))  # in the middle of a call
            response.read()
            response.close()
            audit.flush(60)
            signed.append(audit_head(audit.home).at_us)
    entries = check_log(audit.home)
    outcomes = of_kind(entries, "call.outcome")

    assert 10 == len(outcomes)
    assert {"success"} == {entry["status"] for entry in outcomes}
    assert all(0 <= entry["last_byte_us"] < 600_000_000 for entry in outcomes)
    assert signed == sorted(signed)
    numbers = [entry["writer"]["seq"] for entry in entries]
    assert numbers == sorted(numbers), "one segment, in the order of its writes"
    times = [entry["at_us"] for entry in of_kind(entries, "call.intent")]
    assert times != sorted(times), "the clock did not step"
    assert [] == of_kind(entries, "log.loss") + of_kind(entries, "log.unreadable")


def audit_head(home: Home):
    from openrouter_audit.journal.sqlite import SqliteJournal

    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        return journal.head()


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_sequencer_whose_clock_steps_gives_up_nobody(tmp_path, step):
    """
    What is finished is told by locks, never by time: a live writer's call stays open, a dead one's is closed.
    """
    home = new_home(tmp_path)
    shift = 0
    sequencer = Sequencer(home, clock_us=lambda: time.time_ns() // 1000 + shift)
    living, dying = new_spool(home), new_spool(home)
    open_call, token = an_intent(), None
    token = living.write(open_call)
    orphan = an_intent()
    dying.write(orphan)
    sequencer.drain()
    shift = step * 1_000_000
    sequencer.drain()
    for segment in list(dying._segments):
        segment.close()
    sequencer.drain()
    sequencer.close()
    found = statuses(check_log(home))
    assert {orphan.id: "unknown"} == found

    living.write(an_outcome(open_call), follows=token)
    assert "success" == statuses(drain(home))[open_call.id]


# Two homes ----------------------------------------------------------------------------------------------------------


def test_two_homes_in_a_process_keep_apart_in_threads_and_children(tmp_path, openrouter):
    """
    Explicit clients of two logs, used by turns in threads and forked children: every call is in its own log alone.
    """
    done = python(
        """
import os, sys, threading
import httpx
from openrouter_audit import AuditLog
logs = [AuditLog.open(home, hosts=["127.0.0.1"], enrich=False) for home in sys.argv[1:3]]
def run(turns):
    clients = [log.httpx_client() for log in logs]
    for _ in range(turns):
        for model, client in zip(("one", "two"), clients):
            answer = client.post(sys.argv[3] + "/chat/completions", headers={"Authorization": "Bearer sk-or-v1-" + "0123456789abcdef" * 4},
                json={"model": "openai/gpt-4.1-mini", "models": ["test/" + model], "messages": [{"role": "user", "content": "hi"}]})
            assert answer.status_code == 200, answer.text
    for client in clients: client.close()
run(1)
threads = [threading.Thread(target=run, args=(3,)) for _ in range(3)]
for thread in threads: thread.start()
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run(2)
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
for thread in threads: thread.join()
for pid in children: assert 0 == os.waitpid(pid, 0)[1]
logs[0].close(60)
run_second = logs[1].httpx_client()
run_second.close()
logs[1].close(60)
""",
        tmp_path / "one",
        tmp_path / "two",
        openrouter.url,
    )
    output_of(done)
    for name in ("one", "two"):
        proof = prove(Home(tmp_path / name))
        assert_whole(proof)
        asked = [entry.get("models") for entry in of_kind(proof.entries, "call.intent")]
        assert [[f"test/{name}"]] * (1 + 9 + 4) == asked
        assert {"success": 14} == dict(proof.ends)


# File systems -------------------------------------------------------------------------------------------------------

MOUNTS = b"""\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/net rw - nfs4 server:/export rw
31 30 0:41 / /mnt/net/local rw - tmpfs tmpfs rw
32 22 0:42 / /mnt/with\\040blank rw - fuse.sshfs host:/ rw
33 22 0:43 / /mnt/donn\xc3\xa9es rw - cifs //server/share rw
34 22 0:44 / /mnt/\xff\xfe rw - 9p share rw
35 22 0:45 / /over rw - nfs server:/ rw
36 22 0:46 / /over rw - xfs /dev/vdb rw
37 22 0:47 / /guest rw master:3 propagate_from:2 - virtiofs share rw
38 22 0:48 / /back\\134slash rw - fuseblk /dev/sda1 rw

a line of another kind
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/", "ext4"),
        (b"/home/somebody", "ext4"),
        (b"/mnt/network", "ext4"),
        (b"/mnt/net", "nfs4"),
        (b"/mnt/net/home", "nfs4"),
        (b"/mnt/net/local/home", "tmpfs"),
        (b"/mnt/with blank/home", "fuse.sshfs"),
        ("/mnt/données/home".encode(), "cifs"),
        (b"/mnt/\xff\xfe/home", "9p"),
        (b"/over/home", "xfs"),
        (b"/guest/home", "virtiofs"),
        (b"/back\\slash/home", "fuseblk"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_longest_and_last_mount(path, kind):
    assert kind == file_system_of(path, MOUNTS)


def test_a_local_file_system_is_taken(tmp_path):
    refuse_foreign_file_system(tmp_path)


def test_a_home_on_a_fuse_file_system_is_refused(tmp_path):
    """
    A real one, of an empty folder, mounted in a mount namespace of its own and served by a few lines.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("NOT TESTED: mounting a FUSE file system needs root and /dev/fuse")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-W", "error", "-m", "tests.campaign.test_lifecycle_moments", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "no mount" in done.stdout:
        pytest.skip(f"NOT TESTED: {done.stdout.strip()}")
    assert 0 == done.returncode, done.stderr
    assert "is on a fuse file system; the home needs a local one" in done.stdout
    assert [] == list((tmp_path / "mnt").iterdir())


def serve_an_empty_folder(descriptor: int) -> None:
    """The least of FUSE: there is a folder, nothing is in it, and nothing can be made. Ends with the mount."""
    while True:
        try:
            request = os.read(descriptor, 2**20)
        except OSError:
            return
        _, opcode, unique = struct.unpack_from("=IIQ", request)
        error, answer = -38, b""  # ENOSYS
        if opcode == 26:  # INIT
            error, answer = 0, struct.pack("=IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 10, 65536, 1, 0, 0, 0)
        elif opcode == 3:  # GETATTR
            attributes = struct.pack("=QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
            error, answer = 0, struct.pack("=QII", 1, 0, 0) + attributes
        elif opcode == 1:  # LOOKUP
            error = -2  # ENOENT
        elif opcode in {2, 36}:  # FORGET and INTERRUPT are not answered
            continue
        os.write(descriptor, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)


def refused_on_fuse(folder: str) -> None:
    point = os.path.join(folder, "mnt")
    os.mkdir(point)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"test", point.encode(), b"fuse", 0, options) != 0:
        print(f"no mount: {os.strerror(ctypes.get_errno())}")
        return
    threading.Thread(target=serve_an_empty_folder, args=(descriptor,), daemon=True).start()
    try:
        AuditLog.open(point)
    except HomeError as error:
        print(error)
    finally:
        libc.umount2(point.encode(), 2)


if __name__ == "__main__":
    refused_on_fuse(sys.argv[1])
