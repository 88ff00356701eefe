"""
What a content mode adds to a recorded call, in the thread that makes it.

    python -m bench.content [--mode redacted] [--quick] [--json]

As `bench.inproc`, with another pair: both clients are recorded, one keeps nothing of bodies and one does. Prose without anything to
find, which is the usual case, and prose with an address in every paragraph. The last line of `--json` is one object: microseconds
added (median over rounds of the difference within a round).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable
from typing import Any

from bench.inproc import KEY, paired, pin, sequence, serve
from bench.redaction import SEED, WORDS


def prose(size: int, *, planted: str = "") -> str:
    rng, parts, length = random.Random(SEED), [], 0
    while length < size:
        sentence = " ".join(rng.choice(WORDS) for _ in range(60)) + f"{planted}. "
        parts.append(sentence)
        length += len(sentence)
    return "".join(parts)[:size]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("preview", "redacted", "full"), default="redacted")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds, repeats = (15, 60) if options.quick else (41, 150)

    import openai

    from openrouter_audit import AuditLog

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    base_url, folder = f"http://127.0.0.1:{port}/api/v1", tempfile.mkdtemp()
    stop, sequencers, logs = context.Event(), [], []

    def client(mode: str) -> Any:
        os.environ["OPENROUTER_AUDIT_CONTENT_MODE"] = mode
        home = os.path.join(folder, mode)
        logs.append(AuditLog.open(home, hosts=[f"127.0.0.1:{port}"], sequencer=False, enrich=False))
        sequencers.append(context.Process(target=sequence, args=(home, stop), daemon=True))
        sequencers[-1].start()
        return logs[-1].wrap(openai.OpenAI(base_url=base_url, api_key=KEY))

    pin(0)
    without, kept = client("none"), client(options.mode)

    def call(sdk: Any, text: str, *, stream: bool = False) -> Callable[[], object]:
        asked = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": text}]}
        if stream:
            return lambda: [*sdk.chat.completions.create(**asked, stream=True)]
        return lambda: sdk.chat.completions.create(**asked)

    def added(text: str, repeats: int, *, stream: bool = False) -> float:
        pair = call(without, text, stream=stream), call(kept, text, stream=stream)
        return round(paired(*pair, rounds=rounds, repeats=repeats)[1], 1)

    figures = {
        "plain_short_added_us": added(prose(500), repeats),
        "plain_100k_added_us": added(prose(100_000), repeats // 2),
        "plain_short_found_added_us": added(prose(500, planted=", write to jane.doe@example.com"), repeats),
        "stream_added_us": added(prose(500), repeats // 6, stream=True),
    }
    stop.set()
    for sequencer in sequencers:
        sequencer.join(10)
    server.terminate()
    for log in logs:
        log.close()
    if not options.json:
        for name, figure in figures.items():
            print(f"mode {options.mode}, {name.removesuffix('_added_us').replace('_', ' ')}: {figure:+.1f} us")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
