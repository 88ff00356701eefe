"""
The application of test_soak.py: one process that records for as long as it is told to, and says how large it has become.

Usage: python -m tests.campaign.soak HOME URL SECONDS SEED

Every kind of call, in rounds: plain, streamed, in threads, in tasks, refused with 429, broken off by the server, left by the
caller, in a forked child, in a forked child that is killed; sequencer, reports and settling run in the process, as they do
in an application of one process. Each half of a hundred samples is a line of JSON on stdout: memory, descriptors, threads,
records. Calls whose answer it has in its hands are acknowledged by generation id, as in lifecycle_application.py.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
from tests.campaign import lifecycle_application as application
from tests.campaign.lifecycle_application import KEY, REQUEST, child, tell

import openrouter_audit

SAMPLES = 50


def main(home: str, url: str, seconds: float, seed: int) -> None:
    application.HOME, application.URL = home, url
    audit = application.install()
    chance = random.Random(seed)
    began = time.monotonic()
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as sdk:
        rounds, next_sample = 0, 0.0
        while (elapsed := time.monotonic() - began) < seconds:
            kind = chance.choices(KINDS, WEIGHTS)[0]
            kind(sdk, chance)
            rounds += 1
            if elapsed >= next_sample:
                next_sample = elapsed + seconds / SAMPLES
                audit.flush(300)
                print(json.dumps({"at_s": round(elapsed, 1), "rounds": rounds, **size_of_this_process()}), flush=True)
    audit.flush(300)
    openrouter_audit.uninstall()


def size_of_this_process() -> dict[str, int]:
    """Memory without what other processes share, in bytes; what it holds open; its threads."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    return {
        "private_bytes": private * 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def create(sdk: openai.OpenAI, *, switches: str = "", **options: Any) -> Any:
    return sdk.chat.completions.create(**REQUEST, extra_headers={"X-Emulator": switches}, **options)


def plain(sdk: openai.OpenAI, chance: random.Random) -> None:
    with openrouter_audit.attribution(user=f"user-{chance.randrange(100)}", tags={"round": str(chance.randrange(9))}):
        tell(create(sdk).id)


def streamed(sdk: openai.OpenAI, chance: random.Random) -> None:
    tell({piece.id for piece in create(sdk, stream=True, switches=f"tokens={chance.randrange(1, 60)}")}.pop())


def in_threads(sdk: openai.OpenAI, chance: random.Random) -> None:
    seeds = [chance.random() for _ in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda seed: plain(sdk, random.Random(seed)), seeds))


def in_tasks(_sdk: openai.OpenAI, _chance: random.Random) -> None:
    async def calls() -> None:
        async with openai.AsyncOpenAI(base_url=application.URL, api_key=KEY, max_retries=0, timeout=120) as sdk:
            answers = await asyncio.gather(*(sdk.chat.completions.create(**REQUEST) for _ in range(5)))
            for answer in answers:
                tell(answer.id)

    asyncio.run(calls())


def refused(sdk: openai.OpenAI, _chance: random.Random) -> None:
    try:
        create(sdk, switches="status=429")
    except openai.RateLimitError:
        pass


def broken_off(sdk: openai.OpenAI, chance: random.Random) -> None:
    try:
        for _ in create(sdk, stream=True, switches=f"end={chance.choice(['cut_frame', 'cut_boundary', 'error_mid'])}"):
            pass
    except (openai.APIError, openai.APIConnectionError, OSError):
        pass
    except Exception as error:  # the client library's own, which the openai SDK lets through while it reads
        if type(error).__module__.partition(".")[0] not in {"httpx2", "httpcore2"}:
            raise


def left(sdk: openai.OpenAI, _chance: random.Random) -> None:
    with create(sdk, stream=True) as stream:
        next(iter(stream))


def forked(_sdk: openai.OpenAI, _chance: random.Random) -> None:
    os.waitpid(child(lambda: application.calls(2)), 0)


def forked_and_killed(_sdk: openai.OpenAI, chance: random.Random) -> None:
    pid = child(lambda: application.calls(1000))
    time.sleep(chance.uniform(0.05, 0.4))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


WEIGHTED: dict[Callable[[openai.OpenAI, random.Random], None], float] = {
    plain: 60,
    streamed: 20,
    in_threads: 5,
    in_tasks: 3,
    refused: 3,
    broken_off: 3,
    left: 3,
    forked: 1,
    forked_and_killed: 1,
}
KINDS, WEIGHTS = list(WEIGHTED), list(WEIGHTED.values())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
