"""
Coverage-guided fuzzing of the exchange, by atheris, which is no dependency of the project.

    python -m tests.campaign.fuzz_exchange -max_total_time=60

The first two bytes of an input choose endpoint, content type, status and pieces; the rest is the answer. `one_input` is
also run by `test_hostile.py`, over the corpus and random bytes, without atheris.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from tests.campaign.fuzz_note import run
from tests.campaign.hostile_parsers import run_exchange
from tests.capture.recording import EXAMPLES

_ENDPOINTS = ("chat", "responses", "messages")
_HEADERS = (
    {b"content-type": b"text/event-stream"},
    {b"content-type": b"application/json"},
    {b"content-type": b"text/event-stream", b"content-encoding": b"gzip"},
    {b"content-type": b"application/json", b"content-encoding": b"deflate"},
)


def one_input(data: bytes) -> None:
    """One answer: exactly one outcome, which becomes an entry."""
    if len(data) < 2:
        return
    endpoint = _ENDPOINTS[data[0] % 3]
    headers = _HEADERS[data[0] // 3 % 4]
    run_exchange(data[2:], random.Random(data[1]), endpoint, headers, 200 if data[0] < 200 else 400 + data[0])


@cache
def corpus() -> Sequence[bytes]:
    """Every example answer, for its own endpoint and way of coming."""
    found = []
    for number, endpoint in enumerate(_ENDPOINTS):
        for path in sorted((EXAMPLES / endpoint).iterdir()):
            way = 0 if path.suffix == ".sse" else 1
            found.append(bytes([number + 3 * way, 200]) + path.read_bytes())
    return found


if __name__ == "__main__":
    run(one_input, corpus())
