"""
A process that records for half an hour, with everything going wrong beside it, is no larger at its end than after its start.

The short version is a slice of the same, long enough to see the machinery work and a gross leak.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest
from tests.campaign.lifecycle_tools import ROOT, emulator, output_of, prove, seed_of
from tests.campaign.results import Result, recorded
from tests.journal.homes import of_kind

from openrouter_audit.journal.home import Home

SECONDS = {"short": 20, "long": int(os.environ.get("SOAK_SECONDS", "1800"))}
WARM = 0.2
"""Share of the samples that come before caches and pools have their size."""
MAX_GROWTH_BYTES = 8 * 1024 * 1024
MAX_MORE_DESCRIPTORS = 4
"""A connection that is asked for, a file that is just being read: what leaks does so with every call."""


@pytest.mark.parametrize("length", ["short", pytest.param("long", marks=pytest.mark.long)])
def test_a_recording_process_stays_as_it_is(tmp_path, length):
    """
    Mixed load with forks, kills, cuts and errors: the same memory, descriptors and threads in the second half as in the first,
    every answer that was handed on is in the log, once, and the spool is empty at the end.
    """
    seed = seed_of("SOAK_SEED")
    home = Home(tmp_path / "home")
    result = Result(
        campaign=f"9-soak-{length}",
        what="mixed load: plain, streams, threads, tasks, errors, cuts, left streams, forked children, killed children",
        unit="seconds",
        seed=seed,
        again=f"SOAK_SEED={seed} python3 dev.py test {'--long ' * (length == 'long')}tests/campaign/test_soak.py -k {length}",
    )
    with recorded(result), emulator(tmp_path) as openrouter:
        application = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.soak", home.path, openrouter.url, str(SECONDS[length]), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OPENROUTER_AUDIT_ENRICH_MAX_PER_SECOND": "200"},
            start_new_session=True,
        )
        out = output_of(application, timeout=SECONDS[length] * 2 + 600)
        samples = [json.loads(line) for line in out.splitlines()]
        warm = samples[int(len(samples) * WARM) :]
        assert len(warm) > 4, samples
        halves = warm[: len(warm) // 2], warm[len(warm) // 2 :]
        memory, descriptors, threads = (
            [statistics.median(sample[name] for sample in half) for half in halves]
            for name in ("private_bytes", "descriptors", "threads")
        )
        proof = prove(home)
        outcomes = of_kind(proof.entries, "call.outcome")
        generations = [entry["generation_id"] for entry in outcomes if "generation_id" in entry]
        told = set((tmp_path / "home.told").read_text().split())
        result.points = SECONDS[length]
        result.broken = {
            **proof.broken,
            "calls missing": len(told - set(generations)),
            "twice": len(generations) - len(set(generations)),
            "segments left": len(list(home.spool_dir.glob("*.seg"))),
            "memory grew": int(memory[1] - memory[0] > MAX_GROWTH_BYTES),
            "descriptors grew": int(descriptors[1] > descriptors[0] + MAX_MORE_DESCRIPTORS),
            "threads grew": int(threads[1] > threads[0]),
        }
        result.figures = {
            "calls": f"{len(outcomes):,}",
            "memory of its own, first and second half after warming up": " and ".join(
                f"{n / 2**20:.1f} MiB" for n in memory
            ),
            "descriptors": " and ".join(f"{n:.0f}" for n in descriptors),
            "threads": " and ".join(f"{n:.0f}" for n in threads),
            "calls that ended otherwise than well": f"{len(outcomes) - proof.ends['success']:,}",
        }
        print(result.figures)
    assert dict.fromkeys(result.broken, 0) == result.broken
