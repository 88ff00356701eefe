"""
P2, Once: "`kill -9` at any instant loses no acknowledged record and doubles none."

Four writers (threads, asyncio, and one that sequences for itself) and a sequencer share a home; whoever chance points at is
killed and started again. Set `CRASH_KILLS` and `CRASH_SEED` for a longer or a certain run.
"""

import json
import os
import random
import subprocess
import sys

import pytest
from tests.journal.homes import drain, new_home, of_kind, statuses


def survive(tmp_path, kills, seed):
    print(f"CRASH_SEED={seed} CRASH_KILLS={kills}")
    home = new_home(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.promises.crash_harness", str(home.path), str(seed), str(kills)],
        capture_output=True,
        text=True,
        check=False,
        timeout=kills * 2 + 30,
    )
    assert 0 == done.returncode, done.stderr
    acknowledged = json.loads(done.stdout.splitlines()[-1])
    entries = drain(home)  # proves root, tiles, positions; no intent and no outcome twice

    place = {entry["id"]: index for index, entry in enumerate(entries) if entry["kind"] == "call.intent"}
    ends = {entry["id"]: index for index, entry in enumerate(entries) if entry["kind"] == "call.outcome"}
    assert kills * 2 < len(acknowledged["i"])
    assert set() == set(acknowledged["i"]) - set(place), "an acknowledged intent is lost"
    real = {call for call, status in statuses(entries).items() if status == "success"}
    assert set() == set(acknowledged["o"]) - real, "an acknowledged outcome is lost"
    assert set(place) == set(ends), "an intent without an end, or an end without an intent"
    assert all(place[call] < index for call, index in ends.items())
    assert [] == of_kind(entries, "log.loss")
    assert [] == of_kind(entries, "log.unreadable")
    assert [] == list(home.spool_dir.glob("*.seg"))
    beginnings = {path.stem for path in home.spool_dir.glob("*.new")}  # killed before they were segments
    assert {path.name for path in home.state_dir.iterdir()} <= beginnings
    print(len(entries), "entries;", len(acknowledged["i"]), "calls acknowledged;", len(ends) - len(real), "unknown")


def test_fifty_kills_lose_nothing_acknowledged_and_double_nothing(tmp_path):
    survive(
        tmp_path, int(os.environ.get("CRASH_KILLS", "50")), int(os.environ.get("CRASH_SEED", random.randrange(2**32)))
    )


@pytest.mark.long
def test_a_thousand_kills(tmp_path):
    survive(tmp_path, 1000, random.randrange(2**32))
