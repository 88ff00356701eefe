"""
Plain chat calls per second that the emulator answers: one server process, eight keep-alive connections from another.

    python -m bench.emulator [--calls N]

The client writes prepared bytes and reads up to the content length, so that the server is what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS = 8
BODY = json.dumps({"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}).encode()
REQUEST = (
    b"POST /api/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sk-or-v1-"
    + b"0123456789abcdef" * 4
    + b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


async def call(port: int, calls: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(calls):
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
    writer.close()


async def load(port: int, calls: int) -> None:
    await asyncio.gather(*(call(port, calls // CONNECTIONS) for _ in range(CONNECTIONS)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=16_000)
    calls = parser.parse_args().calls
    command = [sys.executable, "-m", "openrouter_audit", "emulator", "--seed", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = urlsplit(json.loads(server.stdout.readline())["url"]).port or 0
        asyncio.run(load(port, CONNECTIONS * 100))
        started = time.perf_counter()
        asyncio.run(load(port, calls))
        print(json.dumps({"plain_calls_per_s": round(calls / (time.perf_counter() - started))}))
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
