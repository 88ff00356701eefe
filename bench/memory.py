"""
What a recording process holds: memory over many calls, memory of open streams, and syncs of strict calls.

    python -m bench.memory [--calls N] [--minutes M] [--streams N] [--only flat,streams,strict] [--json]

*Flat*: one process makes N calls one after the other, every tenth a stream, with sequencer and reports in it; memory, threads and
descriptors of its first tenth after the warm-up are laid beside those of its last tenth.

*Streams*: one process opens N streams at once, on a server that sends the first part of each answer and holds the rest back. What
it then has more than before, per stream, less the same without recording, is what an exchange holds; once with many short answers
and once with few of which a mebibyte has come. All of them are then read to their end, and counted in the journal.

*Strict*: syncs a call, counted where the recorder calls them, at 1, 8 and 32 threads: two where a call is alone, shared where not.

The server and, but for *flat*, the sequencer are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from bench import stage
from bench.inproc import KEY, pin, streamed_answer

SAMPLES: Final = 1000
WARM_UP_CALLS: Final = 20_000
"""More than the receipts that are remembered; at most a tenth of the calls."""
STREAM_EVERY: Final = 10
BAR_GROWTH_MIB: Final = 4.0
BAR_EXCHANGE_KIB: Final = 256.0
BAR_SYNCS: Final = 2.0

STREAMS_OF_A_CLIENT: Final = 250
"""A pool looks through all of its connections for each request: one of ten thousand would be what is measured."""
OPENING: Final = 200
"""Streams that are being opened at a time: a listening socket has a queue of its own length."""
PATIENCE_S: Final = 1200
LONG_STREAMS: Final = 200
LONG_BYTES: Final = 1024 * 1024
THREADS: Final = (1, 8, 32)
CALLS_OF_A_THREAD: Final = {1: 400, 8: 100, 32: 50}

HEADERS: Final = {"authorization": f"Bearer {KEY}"}


def body(*, stream: bool) -> dict[str, Any]:
    return {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "x" * 500}], "stream": stream}


def resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def in_child(work: Callable[..., None], *arguments: object) -> Any:
    """What `work` sends through the pipe that it is given, run in a fresh process."""
    here, there = stage.CONTEXT.Pipe()
    process = stage.CONTEXT.Process(target=work, args=(there, *arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{work.__name__} ended without a figure") from None
    finally:
        process.join()


# Flat --------------------------------------------------------------------------------------------------------------


def many_calls(said: Connection, port: int, home: str, calls: int, minutes: float) -> None:
    """Makes the calls, and samples itself in between."""
    import httpx2

    from openrouter_audit import AuditLog

    pin(0)
    audit = AuditLog.open(home, hosts=[f"127.0.0.1:{port}"], enrich=False)
    client = audit.wrap(httpx2.Client(headers=HEADERS))
    url = f"http://127.0.0.1:{port}/api/v1/chat/completions"
    bodies = body(stream=False), body(stream=True)
    warm_up, each = min(WARM_UP_CALLS, calls // 10), max(1, calls // SAMPLES)
    samples: list[tuple[int, int, int]] = []
    started = time.monotonic()
    made = 0
    for made in range(1, warm_up + calls + 1):
        client.post(url, json=bodies[made % STREAM_EVERY == 0]).raise_for_status()
        if made > warm_up and made % each == 0:
            samples.append((resident_kib(), threading.active_count(), len(os.listdir("/proc/self/fd"))))
            if time.monotonic() - started > minutes * 60:
                break
    seconds = time.monotonic() - started
    pending = audit.pending()
    entries = audit.flush(600)
    tenth = max(1, len(samples) // 10)
    first, last = (tuple(zip(*part, strict=True)) for part in (samples[:tenth], samples[-tenth:]))
    said.send(
        {
            "calls": made - warm_up,
            "warm_up_calls": warm_up,
            "seconds": round(seconds, 1),
            "rss_first_tenth_mib": round(statistics.median(first[0]) / 1024, 2),
            "rss_last_tenth_mib": round(statistics.median(last[0]) / 1024, 2),
            "rss_max_mib": round(max(rss for rss, _, _ in samples) / 1024, 2),
            "threads": [max(first[1]), max(last[1])],
            "descriptors": [max(first[2]), max(last[2])],
            "waiting_at_the_end": pending,
            "entries": entries,
        }
    )
    audit.close()


def flat(calls: int, minutes: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder, stage.serving() as port:
        figures: dict[str, Any] = in_child(many_calls, port, f"{folder}/home", calls, minutes)
    grown = round(figures["rss_last_tenth_mib"] - figures["rss_first_tenth_mib"], 2)
    return {
        **figures,
        "grown_mib": grown,
        "grown_bytes_a_call": round(grown * 2**20 / (0.9 * figures["calls"]), 2),
        "bar_mib": BAR_GROWTH_MIB,
        "held": grown <= BAR_GROWTH_MIB
        and all(last <= first for first, last in (figures["threads"], figures["descriptors"])),
    }


# Streams -----------------------------------------------------------------------------------------------------------


def all_descriptors() -> None:
    """As many as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def hold(ready: Connection, first_bytes: int) -> None:
    """A server that sends at least so much of each answer, and the rest to all of them when it gets a GET."""
    pin(1)
    all_descriptors()
    head, *events, end = streamed_answer()
    word, finish = events[0], events[-3:]
    _, _, payload = word.removesuffix(b"\r\n").partition(b"\r\n")
    answer = head + word * -(-first_bytes // len(payload))
    held: list[asyncio.WriteTransport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.WriteTransport)
            self.transport, self.buffer = transport, b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            if self.buffer.startswith(b"GET"):
                while held:
                    held.pop().write(b"".join((*finish, end)))
                self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                self.buffer = b""
            elif self.buffer.endswith(b"}"):  # of the body, which is short
                self.transport.write(answer)
                held.append(self.transport)
                self.buffer = b""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class Crowd:
    """How far the streams of a process have come."""

    def __init__(self, size: int) -> None:
        self.size, self.opened, self.failures = size, 0, list[str]()
        self.gate = asyncio.Semaphore(OPENING)
        self.there = asyncio.Event()
        """Each has opened, or failed to."""

    def count(self, failure: str | None = None) -> None:
        if failure is None:
            self.opened += 1
        else:
            self.failures.append(failure)
        self.gate.release()
        if self.opened + len(self.failures) == self.size:
            self.there.set()


def open_streams(said: Connection, port: int, home: str | None, count: int, first_bytes: int) -> None:
    """Opens them all, says what it holds, has the server go on, and reads all of them to their end."""
    import httpx2

    pin(0)
    all_descriptors()
    audit = None
    if home is not None:
        from openrouter_audit import AuditLog

        audit = AuditLog.open(home, hosts=[f"127.0.0.1:{port}"], sequencer=False, enrich=False)
    url = f"http://127.0.0.1:{port}/api/v1/chat/completions"

    def new_client() -> Any:
        client = httpx2.AsyncClient(headers=HEADERS, timeout=None, limits=httpx2.Limits(max_connections=None))
        return client if audit is None else audit.wrap(client)

    async def read(client: Any, crowd: Crowd) -> bool:
        """Whether it came to its end; it counts as open when as much as the server sends at first has come."""
        came = 0
        await crowd.gate.acquire()
        try:
            async with client.stream("POST", url, json=body(stream=True)) as response:
                async for piece in response.aiter_raw():
                    if came < first_bytes <= came + len(piece):
                        crowd.count()
                    came += len(piece)
            return True
        except (OSError, httpx2.TransportError) as error:
            if came < first_bytes:
                crowd.count(f"{type(error).__name__}: {error}")
            return False

    async def hold_open(size: int) -> tuple[int, int, Crowd]:
        """KiB while they are open, and how many came to their end."""
        crowd = Crowd(size)
        clients = [new_client() for _ in range(-(-size // STREAMS_OF_A_CLIENT))]
        reading = [asyncio.create_task(read(clients[number % len(clients)], crowd)) for number in range(size)]
        async with asyncio.timeout(PATIENCE_S):
            await crowd.there.wait()
        gc.collect()
        kib = resident_kib()
        async with httpx2.AsyncClient(timeout=None) as other:
            await other.get(url)
        ended = sum(await asyncio.gather(*reading))
        for client in clients:
            await client.aclose()
        return kib, ended, crowd

    async def main() -> None:
        await hold_open(3)  # what is loaded and made once
        gc.collect()
        before = resident_kib()
        kib, ended, crowd = await hold_open(count)
        said.send(
            {
                "opened": crowd.opened,
                "ended": ended,
                "before_mib": round(before / 1024, 1),
                "open_mib": round(kib / 1024, 1),
                "kib_a_stream": (kib - before) / max(1, crowd.opened),
                "failed": sorted(set(crowd.failures)),
            }
        )

    asyncio.run(main())
    if audit is not None:
        audit.close()


def streams(count: int, first_bytes: int) -> dict[str, Any]:
    """The same streams, not recorded and recorded."""
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder, stage.serving(hold, first_bytes) as port:
        home = Path(folder) / "home"
        bare = in_child(open_streams, port, None, count, first_bytes)
        recorded = in_child(open_streams, port, str(home), count, first_bytes)
        in_journal = stage.recorded_calls(home) - 3
    more = round(recorded["kib_a_stream"] - bare["kib_a_stream"], 2)
    return {
        "asked": count,
        "opened": [bare["opened"], recorded["opened"]],
        "ended": [bare["ended"], recorded["ended"]],
        "in_journal": in_journal,
        "bytes_come": first_bytes,
        "open_mib": [bare["open_mib"], recorded["open_mib"]],
        "bare_kib_a_stream": round(bare["kib_a_stream"], 2),
        "kib_an_exchange": more,
        "bar_kib": BAR_EXCHANGE_KIB,
        "failed": sorted({*bare["failed"], *recorded["failed"]}),
        "held": more <= BAR_EXCHANGE_KIB and recorded["opened"] == in_journal,
    }


# Strict ------------------------------------------------------------------------------------------------------------


def strict_calls(said: Connection, port: int, home: str, threads: int, calls: int) -> None:
    """Each thread with a client of its own, all at the same time."""
    assert "openrouter_audit" not in sys.modules  # it takes the function once
    synced: list[int] = []

    def counted(sync: Callable[[int], None]) -> Callable[[int], None]:
        def counting(descriptor: int) -> None:
            synced.append(descriptor)
            sync(descriptor)

        return counting

    os.fsync, os.fdatasync = counted(os.fsync), counted(os.fdatasync)

    import httpx2

    from openrouter_audit import AuditLog

    audit = AuditLog.open(home, mode="strict", hosts=[f"127.0.0.1:{port}"], sequencer=False, enrich=False)
    url = f"http://127.0.0.1:{port}/api/v1/chat/completions"
    together = threading.Barrier(threads)

    def make() -> None:
        with httpx2.Client(headers=HEADERS) as client:
            audit.wrap(client)
            client.post(url, json=body(stream=False))
            if together.wait() == 0:
                synced.clear()  # what the start of a process syncs
            together.wait()
            for _ in range(calls):
                client.post(url, json=body(stream=False)).raise_for_status()

    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(make) for _ in range(threads)]:
            one.result()
    said.send(round(len(synced) / (threads * calls), 3))
    audit.close()


def strict() -> dict[str, Any]:
    figures: dict[str, float] = {}
    for threads in THREADS:
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder, stage.serving() as port:
            home = Path(folder) / "home"
            figures[str(threads)] = in_child(strict_calls, port, str(home), threads, CALLS_OF_A_THREAD[threads])
    alone, *shared = figures.values()
    return {
        "syncs_a_call": figures,
        "bar": BAR_SYNCS,
        "held": alone <= BAR_SYNCS and all(one < alone for one in shared),
    }


# Telling -----------------------------------------------------------------------------------------------------------


def show(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: {'held' if figures['held'] else 'MISSED'}")
    for field, figure in figures.items():
        if field != "held":
            print(f"  {field:20} {figure}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no more calls are made")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--only", default="strict,streams,flat")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "strict": strict,
        "streams": lambda: streams(options.streams, 4096),
        "long_streams": lambda: streams(LONG_STREAMS, LONG_BYTES),
        "flat": lambda: flat(options.calls, options.minutes),
    }
    asked = options.only.split(",")
    result = {}
    for name, part in parts.items():
        if name.removeprefix("long_") in asked:
            result[name] = part()
            if not options.json:
                show(name, result[name])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
