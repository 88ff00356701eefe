"""
What sequencing, reporting and verifying cost, and how much room a call takes.

    python -m bench.journal [--calls N]

Spools N calls with an outcome and a settled cost each (three entries), then times, in this process: the drain (open, check,
encode, hash, commit, sign), the projection into reports.db, and the verification of tree and pairs. Rates are per second of
CPU and of wall time; on a busy machine the former is the one to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from openrouter_audit.core.entries import CallCost, CallIntent, CallOutcome, Parameters, Private
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import load_sealing_public_key
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.spool import Spool
from openrouter_audit.reports.projection import Projection

MODELS = ("openai/gpt-4.1-mini", "anthropic/claude-sonnet-4.6", "deepseek/deepseek-chat-v3.1")


def spool_calls(spool: Spool, calls: int) -> None:
    """As the capture of an openai client states them."""
    for number in range(calls):
        random = os.urandom(48)
        call_id, now = random[:16].hex(), time.time_ns() // 1000
        generation = f"gen-{now // 1_000_000}-{os.urandom(10).hex()}"
        intent = CallIntent(
            v=1,
            id=call_id,
            at_us=now,
            group=os.urandom(16).hex(),
            attempt=1,
            endpoint="chat",
            method="POST",
            path="/api/v1/chat/completions",
            host="openrouter.ai",
            sdk="openai/3.54.0",
            model=MODELS[number % 3],
            message_count=2,
            stream=False,
            parameters=Parameters(max_tokens=256, temperature="0.2"),
            key_hash="6f3fc1fd3a97c370587bb1ff60c686106150a0a755583d156bf47597271abf87",
            request_bytes=533,
            request_commitment=os.urandom(32).hex(),
            mode="buffer",
            policy="c" * 64,
        )
        token = spool.write(
            intent,
            Private(
                commitment_key=random[16:],
                user=f"user-{number % 500}",
                base_url="https://openrouter.ai/api/v1",
                session=f"session-{number % 5000}",
            ),
        )
        outcome = CallOutcome(
            v=1,
            id=call_id,
            at_us=now + 43_212,
            status="success",
            complete=True,
            http_status=200,
            generation_id=generation,
            generation_source="body",
            edge_ray=os.urandom(8).hex() + "-FRA",
            model=MODELS[number % 3] + "-20260217",
            provider="Amazon Bedrock",
            finish_reason="stop",
            native_finish_reason="end_turn",
            prompt_tokens=1204,
            completion_tokens=87,
            reasoning_tokens=0,
            cached_tokens=1024,
            cost="0.0003136",
            upstream_cost="0.0003136",
            is_byok=False,
            service_tier="default",
            first_byte_us=41_234,
            last_byte_us=43_212,
            response_bytes=1133,
            chunks=1,
            response_commitment=os.urandom(32).hex(),
        )
        spool.write(outcome, follows=token)
        cost = CallCost(
            v=1,
            id=call_id,
            at_us=now + 1_500_000,
            state="settled",
            generation_id=generation,
            tries=1,
            http_status=200,
            total_cost="0.0003136",
            upstream_cost="0",
            cache_discount="0.0003072",
            is_byok=False,
            model=MODELS[number % 3] + "-20260217",
            provider="Amazon Bedrock",
            prompt_tokens=1204,
            completion_tokens=87,
            reasoning_tokens=0,
            cached_tokens=1024,
            request_id=f"req-{now // 1_000_000}-{os.urandom(10).hex()}",
            finish_reason="stop",
            native_finish_reason="end_turn",
            cancelled=False,
            latency_ms="412",
            generation_time_ms="1390",
            answer_commitment=os.urandom(32).hex(),
        )
        spool.write(cost)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=100_000)
    calls = parser.parse_args().calls
    home = Home(Path(tempfile.mkdtemp()) / "home")
    home.ensure()
    spool = Spool(home.spool_dir, home.state_dir, load_sealing_public_key(home.keys_dir), max_bytes=8 * 1024**3)
    spooling = timed(lambda: spool_calls(spool, calls))
    spool.end(closing=True)

    sequencer = Sequencer(home)
    draining = timed(sequencer.drain)
    entries = sequencer.tree_size
    sequencer.close()
    projection = Projection.open(home.journal_path, home.reports_path)
    projecting = timed(projection.follow)
    projection.close()

    from openrouter_audit.cli.verify import verify_home

    verifying = timed(lambda: verify_home(home, check_reports=False))
    figures = {"entries": entries, "bytes_per_call": _bytes_per_call(home, calls)}
    for name, (cpu, wall) in {
        "spooled": spooling,
        "sequenced": draining,
        "projected": projecting,
        "verified": verifying,
    }.items():
        figures[f"{name}_per_cpu_s"], figures[f"{name}_per_s"] = round(entries / cpu), round(entries / wall)
    both = draining[0] + projecting[0]
    figures["sequenced_with_reports_per_cpu_s"] = round(entries / both)
    print(json.dumps(figures, indent=1))


def _bytes_per_call(home: Home, calls: int) -> dict[str, int]:
    sizes = {
        path.name: path.stat().st_size // calls for path in (home.journal_path, home.reports_path, home.vault_path)
    }
    return {**sizes, "journal+reports": sizes["journal.db"] + sizes["reports.db"]}


if __name__ == "__main__":
    main()
