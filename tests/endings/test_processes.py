"""
Processes that end in the middle of a call, or fork: what they wrote is whole, and a sweep closes what they could not.

A real process each; a fresh sequencer drains the home afterwards. `tests/campaign` does the same to processes with many
calls, threads and workers: here it is one call, plain or streamed, and every way to go.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.endings.answers import CHAT, event_head, sized
from tests.endings.endings import PLAIN, STREAM, stream_pieces
from tests.endings.server import DEADLINE_S, HANG, HEARD
from tests.journal.homes import drain, of_kind

from openrouter_audit.journal.home import Home

ROOT = Path(__file__).parents[2]
FIRST = stream_pieces(CHAT)[0]

# How, which signal, and what the log says; the exit code tells that it happened as meant.
WAYS = {
    "exit": (signal.SIGUSR1, "unknown", 3),
    "term": (signal.SIGTERM, "unknown", -signal.SIGTERM),
    "kill": (signal.SIGKILL, "unknown", -signal.SIGKILL),
    "interrupt": (signal.SIGINT, "cancelled", -signal.SIGINT),
    "handled-term": (signal.SIGTERM, "cancelled", 4),
}


def begin(home: Path, server, form: str, how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-m", "tests.endings.dying",
         str(home), server.origin + CHAT.path, form, how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "OPENROUTER_AUDIT_ENRICH_SCOPE": "off"},
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes], *, again: int | None = None) -> tuple[int, str]:
    """
    Exit code and what was printed; the words it died with are shown where the code is not the expected one.

    Args:
        again: A signal to repeat, once, to a process that has not ended long after it: the first may have come in the instant
            before the process began to wait for bytes, and is then looked at when there are some.
    """
    if again is not None:
        try:
            process.wait(timeout=DEADLINE_S / 2)
        except subprocess.TimeoutExpired:
            process.send_signal(again)
    out, said = process.communicate(timeout=DEADLINE_S)
    print(said.decode())
    return process.returncode, out.decode()


def strike(process: subprocess.Popen[bytes], number: int) -> None:
    """
    Send a signal once the process waits for bytes.

    One that comes just before it begins to wait is only looked at when the bytes are there, which wait for the signal.
    """
    state = Path(f"/proc/{process.pid}/stat")
    if state.exists():
        deadline = time.monotonic() + DEADLINE_S
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline
            time.sleep(0.001)
    else:
        time.sleep(0.5)
    process.send_signal(number)


def logged(home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one intent and the one outcome of a home, once a fresh sequencer has swept it."""
    entries = drain(Home(home))
    (intent,), (outcome,) = of_kind(entries, "call.intent"), of_kind(entries, "call.outcome")
    assert intent["id"] == outcome["id"]
    assert [] == of_kind(entries, "log.loss")
    return intent, outcome


@pytest.mark.parametrize("form", [PLAIN, STREAM])
@pytest.mark.parametrize("how", WAYS)
def test_a_process_ends_in_the_middle_of_a_call(how, form, server, tmp_path):
    """
    Whoever can still speak says how the call ended; for whoever cannot, the sweep says that nobody knows. And the process
    ends as it would have: by its signal, where nobody handles it.
    """
    number, status, code = WAYS[how]
    process: list[subprocess.Popen[bytes]] = []

    server.play((lambda: strike(process[0], number), HANG) if form == PLAIN else (event_head() + FIRST, HANG))
    process.append(begin(tmp_path / "home", server, form, how))
    if form == STREAM:
        assert b"first\n" == process[0].stdout.readline()
        strike(process[0], number)
    ended_with, _ = ended(process[0], again=number)
    server.dismiss()

    _, outcome = logged(tmp_path / "home")
    assert code == ended_with
    assert (status, False) == (outcome["status"], outcome["complete"])
    if status == "cancelled":
        assert (len(FIRST) if form == STREAM else None) == outcome.get("response_bytes")
        raised = "KeyboardInterrupt" if how == "interrupt" else "SystemExit"
        # Between two reads the signal meets code of the caller's own, and this call is merely closed.
        assert outcome.get("error_code") in ({raised} if form == PLAIN else {raised, None})


@pytest.mark.parametrize("form", [PLAIN, STREAM])
def test_a_fork_in_the_middle_of_a_call_changes_nothing_about_it(form, server, tmp_path):
    """
    The child inherits the call and is mute about it; the parent reads to the end, and one outcome says so.
    """
    process: list[subprocess.Popen[bytes]] = []

    forked = tmp_path / "home.forked"

    def fork():
        strike(process[0], signal.SIGUSR1)
        deadline = time.monotonic() + DEADLINE_S
        again = time.monotonic() + 2
        while not forked.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
            if time.monotonic() > again:  # it may have come in the instant before the process began to wait
                again += 2
                process[0].send_signal(signal.SIGUSR1)

    pieces = stream_pieces(CHAT)
    if form == PLAIN:
        server.play((fork, sized(CHAT.whole)))
    else:
        server.play((event_head() + pieces[0], HEARD, fork, *pieces[1:]))
    process.append(begin(tmp_path / "home", server, form, "fork"))
    if form == STREAM:
        assert b"first\n" == process[0].stdout.readline()
        server.heard()
    code, out = ended(process[0])
    server.dismiss()

    _, outcome = logged(tmp_path / "home")
    facts = CHAT.whole_facts if form == PLAIN else CHAT.stream_facts
    size = len(CHAT.whole) if form == PLAIN else len(b"".join(pieces))
    assert (0, f"{size}\n") == (code, out)
    assert ("success", True, size) == (outcome["status"], outcome["complete"], outcome["response_bytes"])
    assert facts["cost"] == outcome["cost"]


def test_an_interpreter_that_ends_with_an_open_stream_leaves_an_abandoned_call(server, tmp_path):
    """
    Nobody closed it: what is collected last still says so, after the last drain, for the next process on the home.
    """
    server.play((event_head() + FIRST, HANG))
    process = begin(tmp_path / "home", server, STREAM, "end")
    code, out = ended(process)
    server.dismiss()

    _, outcome = logged(tmp_path / "home")
    assert (0, "first\n") == (code, out)
    assert ("abandoned", False, len(FIRST)) == (outcome["status"], outcome["complete"], outcome["response_bytes"])
