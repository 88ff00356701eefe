"""
How long a killed sequencer is gone: measured on a journal that is large, by killing it in the middle of a drain.

Usage: python -m tests.campaign.kills_recovery FOLDER SEED CALLS. A call is three entries. The last line is a JSON object.

Before each kill a second's worth of records is spooled, as by an application that goes on meanwhile. What the next
sequencer does, from opening the journal (with the write-ahead log that was left) until all that waits is committed, is the
recovery. It is done in a fork of its own, whose processor time is its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.journal import spool_calls
from tests.journal.homes import check_log, new_home, new_spool

from openrouter_audit.journal import batch
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sequencer import Sequencer

KILLS: Final = 10
WAITING_CALLS: Final = 300
"""Records of three entries that wait at each kill: more than the busiest half second of most homes."""


def forked(run: Callable[[], Any]) -> tuple[int, int]:
    """The pid of a fork that runs it, and a pipe with what it returned."""
    heard, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(pipe, json.dumps(run()).encode())
            os._exit(0)
        finally:
            os._exit(3)
    os.close(pipe)
    return pid, heard


def result_of(run: Callable[[], Any]) -> Any:
    pid, heard = forked(run)
    with os.fdopen(heard) as pipe:
        said = pipe.read()
    assert 0 == os.waitpid(pid, 0)[1], "a fork failed"
    return json.loads(said)


def spool(home: Home, calls: int) -> None:
    made = new_spool(home, max_bytes=8 * 1024**3)
    spool_calls(made, calls)
    made.end(closing=True)


def drain(home: Home, *, entries_at_once: int = batch.FULL_ENTRIES) -> int:
    batch.FULL_ENTRIES = entries_at_once
    made = Sequencer(home)
    size = made.drain()
    made.close()
    return size


def recover(home: Home) -> dict[str, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    made = Sequencer(home)
    opened = time.perf_counter() - clock
    made.drain()
    spent = {"s": time.perf_counter() - clock, "cpu_s": time.process_time() - cpu, "open_s": opened}
    made.close()
    return spent


def main(folder: Path, seed: int, calls: int) -> dict[str, Any]:
    rng = random.Random(seed)
    home = new_home(folder)
    spool(home, calls)
    result_of(lambda: drain(home))
    recoveries = []
    for _ in range(KILLS):
        result_of(lambda: spool(home, WAITING_CALLS))
        pid, heard = forked(lambda: drain(home, entries_at_once=50))
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(heard)
        result_of(lambda: spool(home, WAITING_CALLS))
        recoveries.append(result_of(lambda: recover(home)))
    entries = check_log(home)
    intents = sum(entry["kind"] == "call.intent" for entry in entries)
    return {
        "entries": len(entries),
        "kills": KILLS,
        "wrong": abs(intents - calls - 2 * KILLS * WAITING_CALLS),
        **{f"longest_{name}": max(recovery[name] for recovery in recoveries) for name in ("s", "cpu_s", "open_s")},
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
