"""
What recording adds to a call, in the thread that makes it.

    python -m bench.inproc [--quick] [--json]

The server is a process of its own and answers from memory, the sequencer is another one, both on another core than the
client; enrichment is off. Two openai clients take turns in blocks, one bare and one recorded; `time.thread_time` counts the
calling thread's CPU. The last line of `--json` is one object: microseconds added (median over rounds of the difference
within a round) and the bare client's own cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable

CHUNKS = 60
KEY = "sk-or-v1-" + "0123456789abcdef" * 4
_ID = "gen-1795424400-WK59PFkl0JfI2yyVlbPe"
_USAGE = {
    "prompt_tokens": 1204,
    "completion_tokens": 87,
    "total_tokens": 1291,
    "cost": 0.0003136,
    "is_byok": False,
    "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
    "cost_details": {"upstream_inference_cost": 0.0003136},
    "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 0, "audio_tokens": 0},
}


def plain_answer() -> bytes:
    body = json.dumps(
        {
            "id": _ID,
            "object": "chat.completion",
            "created": 1795424400,
            "model": "openai/gpt-4.1-mini-2025-04-14",
            "provider": "OpenAI",
            "system_fingerprint": None,
            "choices": [
                {
                    "index": 0,
                    "logprobs": None,
                    "finish_reason": "stop",
                    "native_finish_reason": "stop",
                    "message": {"role": "assistant", "content": "word " * 90, "refusal": None, "reasoning": None},
                }
            ],
            "usage": _USAGE,
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-generation-id: {_ID}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def settled_answer() -> bytes:
    """What `GET /generation` says of a call."""
    body = json.dumps(
        {"data": {"id": _ID, "total_cost": 0.0003136, "tokens_prompt": 1204, "tokens_completion": 87}}
    ).encode()
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def streamed_answer() -> list[bytes]:
    """The head, then one HTTP chunk for each event: 60 with words, finish reason, usage, [DONE]."""

    def event(delta: dict, finish: str | None = None, **extra: object) -> bytes:
        chunk = {
            "id": _ID,
            "object": "chat.completion.chunk",
            "created": 1795424400,
            "model": "openai/gpt-4.1-mini-2025-04-14",
            "provider": "OpenAI",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": finish}],
            **extra,
        }
        return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"

    events = [event({"role": "assistant", "content": f"word{number} "}) for number in range(CHUNKS)]
    events += [event({"role": "assistant", "content": ""}, "stop")]
    events += [event({"role": "assistant", "content": ""}, "stop", usage=_USAGE), b"data: [DONE]\n\n"]
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-generation-id: {_ID}\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head.encode(), *(f"{len(e):x}\r\n".encode() + e + b"\r\n" for e in events), b"0\r\n\r\n"]


def pin(core: int) -> None:
    """The client on one core, server and sequencer on the other: otherwise they push each other around."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def serve(ready: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    """A server that does as little as possible: what it costs must not hide the difference."""
    pin(1)
    plain, streamed, settled = plain_answer(), b"".join(streamed_answer()), settled_answer()

    def answer(body: bytes) -> bytes:
        asked = (body[-400:] + body[:400]).replace(b" ", b"")
        return streamed if b'"stream":true' in asked else plain

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.buffer = transport, b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            head, found, body = self.buffer.partition(b"\r\n\r\n")
            if found:
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                if len(body) >= length:
                    self.buffer = b""
                    self.transport.write(settled if head.startswith(b"GET") else answer(body))

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def sequence(home: str, stop: multiprocessing.synchronize.Event) -> None:  # type: ignore[name-defined]
    from openrouter_audit.journal.home import Home
    from openrouter_audit.journal.sequencer import Sequencer

    pin(1)
    sequencer = Sequencer(Home.locate(home))
    while not stop.wait(0.5):
        sequencer.drain()
    sequencer.close()


def measure(call: Callable[[], object], repeats: int) -> float:
    """Median microseconds of this thread's CPU for one call of a block."""
    costs = []
    for _ in range(repeats):
        started = time.thread_time_ns()
        call()
        costs.append(time.thread_time_ns() - started)
    return statistics.median(costs) / 1000


def paired(
    bare: Callable[[], object], recorded: Callable[[], object], *, rounds: int, repeats: int
) -> tuple[float, float]:
    """Median over rounds of the bare cost, and of what recording added within a round; the two take turns at being first."""
    measure(bare, repeats), measure(recorded, repeats)
    costs, added = [], []
    for turn in range(rounds):
        if turn % 2:
            without, with_it = measure(bare, repeats), measure(recorded, repeats)
        else:
            with_it, without = measure(recorded, repeats), measure(bare, repeats)
        costs.append(without)
        added.append(with_it - without)
    return statistics.median(costs), statistics.median(added)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = 15 if options.quick else 41

    import openai

    from openrouter_audit import AuditLog

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    base_url = f"http://127.0.0.1:{port}/api/v1"
    home = os.path.join(tempfile.mkdtemp(), "home")
    audit = AuditLog.open(home, hosts=[f"127.0.0.1:{port}"], sequencer=False, enrich=False)
    stop = context.Event()
    sequencer = context.Process(target=sequence, args=(home, stop), daemon=True)
    sequencer.start()
    pin(0)

    bare = openai.OpenAI(base_url=base_url, api_key=KEY)
    recorded = audit.wrap(openai.OpenAI(base_url=base_url, api_key=KEY))

    def plain(client: openai.OpenAI, size: int) -> Callable[[], object]:
        messages = [{"role": "user", "content": "x" * size}]
        return lambda: client.chat.completions.create(model="openai/gpt-4.1-mini", messages=messages)

    def streamed(client: openai.OpenAI) -> Callable[[], object]:
        messages = [{"role": "user", "content": "x" * 500}]

        def call() -> None:
            for _ in client.chat.completions.create(model="openai/gpt-4.1-mini", messages=messages, stream=True):
                pass

        return call

    repeats = 60 if options.quick else 150
    bare_plain, plain_added = paired(plain(bare, 500), plain(recorded, 500), rounds=rounds, repeats=repeats)
    _, large_added = paired(plain(bare, 100_000), plain(recorded, 100_000), rounds=rounds, repeats=repeats // 2)
    bare_stream, stream_added = paired(streamed(bare), streamed(recorded), rounds=rounds, repeats=repeats // 6)
    stop.set()
    sequencer.join(10)
    server.terminate()
    audit.close()
    figures = {
        "plain_short_added_us": round(plain_added, 1),
        "plain_100k_added_us": round(large_added, 1),
        "stream_added_us": round(stream_added, 1),
        "bare_plain_us": round(bare_plain, 1),
        "bare_stream_us": round(bare_stream, 1),
    }
    if not options.json:
        print(
            f"short plain call: {bare_plain:.0f} us bare, {plain_added:+.1f} us recorded ({plain_added / bare_plain:.1%})"
        )
        print(f"100 KB prompt: {large_added:+.1f} us recorded")
        print(
            f"stream of {CHUNKS + 3} events: {bare_stream:.0f} us bare, {stream_added:+.1f} us recorded"
            f" ({stream_added / bare_stream:.1%}, {stream_added / (CHUNKS + 3):.2f} us an event)"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
