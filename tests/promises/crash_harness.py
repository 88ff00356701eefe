"""
Four writers and a sequencer on one home, killed at random; run by test_survives_sigkill.py in a process of its own.

Usage: python -m tests.promises.crash_harness HOME SEED KILLS. The last line of its output is a JSON object with the ids
whose records were acknowledged: the writer tells the harness through a pipe, after `write` returned.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.journal.homes import an_intent, an_outcome, new_spool

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.core.entries import Facts, Private
from openrouter_audit.errors import OpenRouterAuditError
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sequencer import Sequencer

PAUSE_S = 0.004
Write = Callable[..., object]


def one_call(write: Write, acknowledge: Callable[[str, Facts], None], rng: random.Random) -> Callable[[], None] | None:
    """Write an intent; what writes its outcome is returned, or None for a call that never ends."""
    intent = an_intent()
    token = write(intent, Private(user=f"user{rng.randrange(5)}", commitment_key=os.urandom(32)))
    acknowledge("i", intent)
    if rng.random() < 0.05:
        return None

    def end() -> None:
        outcome = an_outcome(intent)
        write(outcome, follows=token)
        acknowledge("o", outcome)

    return end


def threads(write: Write, acknowledge: Callable[[str, Facts], None], seed: int) -> None:
    def run(rng: random.Random) -> None:
        while True:
            end = one_call(write, acknowledge, rng)
            time.sleep(PAUSE_S * rng.random())
            if end is not None:
                end()

    for number in range(3):
        threading.Thread(target=run, args=(random.Random(seed + number),)).start()


def tasks(write: Write, acknowledge: Callable[[str, Facts], None], seed: int) -> None:
    async def run(rng: random.Random) -> None:
        while True:
            end = one_call(write, acknowledge, rng)
            await asyncio.sleep(PAUSE_S * rng.random())
            if end is not None:
                end()

    async def all_of_them() -> None:
        await asyncio.gather(*(run(random.Random(seed + number)) for number in range(5)))

    asyncio.run(all_of_them())


def writer(home: Home, kind: int, seed: int, pipe: int) -> None:
    """Never returns: killed."""

    def acknowledge(what: str, facts: Facts) -> None:
        os.write(pipe, f"{what}{facts.id}\n".encode())

    if kind == 0:  # an application that sequences for itself
        write: Write = AuditLog.open(home.path, enrich=False).write
    else:
        write = new_spool(home, rotate_bytes=random.Random(seed).choice((3_000, 30_000, 10**6)), mode="buffer").write
    (tasks if kind == 1 else threads)(write, acknowledge, seed)
    time.sleep(3600)


def sequencer(home: Home) -> None:
    """Never returns: killed."""
    made = Sequencer(home)
    while True:
        try:
            made.drain()
        except OpenRouterAuditError:
            pass
        time.sleep(0.005)


def spawn(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(3)
    return pid


def main(home: Home, seed: int, kills: int) -> dict[str, list[str]]:
    rng = random.Random(seed)
    acknowledged: dict[str, list[str]] = {"i": [], "o": []}
    rest: dict[int, bytes] = {}
    running: dict[int, tuple[int, int]] = {}  # kind -> pid, pipe
    selector = selectors.DefaultSelector()

    def start(kind: int) -> None:
        read, write = os.pipe()
        pid = spawn(lambda: writer(home, kind, rng.randrange(2**32), write))
        os.close(write)
        running[kind] = pid, read
        rest[read] = b""
        selector.register(read, selectors.EVENT_READ)

    def listen(pipe: int) -> bool:
        data = os.read(pipe, 65536)
        *lines, rest[pipe] = (rest[pipe] + data).split(b"\n")
        for line in lines:
            acknowledged[chr(line[0])].append(line[1:].decode())
        return bool(data)

    def kill(kind: int) -> None:
        pid, pipe = running.pop(kind)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        selector.unregister(pipe)
        while listen(pipe):
            pass
        os.close(pipe)

    for kind in range(4):
        start(kind)
    sequencing = spawn(lambda: sequencer(home))
    done = 0
    while done < kills:
        until = time.monotonic() + rng.uniform(0.01, 0.12)
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                listen(key.fd)
        if rng.random() < 0.2:
            os.kill(sequencing, signal.SIGKILL)
            os.waitpid(sequencing, 0)
            sequencing = spawn(lambda: sequencer(home))
        else:
            kind = rng.randrange(4)
            kill(kind)
            done += 1
            start(kind)
    for kind in list(running):
        kill(kind)
    os.kill(sequencing, signal.SIGKILL)
    os.waitpid(sequencing, 0)
    return acknowledged


if __name__ == "__main__":
    print(json.dumps(main(Home(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))))
