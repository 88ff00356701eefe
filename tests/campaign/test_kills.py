"""
P2, Once: "`kill -9` at any instant loses no acknowledged record and doubles none."

Eleven kinds of process share a home: writers with threads, with tasks, with forked children, in mode strict; an application
that makes real calls over HTTP, sequences, reports and settles; sequencers with and without the lease; a publisher; a maker
of homes. Chance kills one, several or all of them (kills.py), for ever anew, and then the files are laid beside what was
acknowledged (kills_checks.py).

`KILLS_SEED` repeats the choices of a run, though not the scheduler's; `KILLS` and `KILLS_HOMES` are other numbers of kills on
a home, and of homes in the long version.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
from tests.campaign.kills_checks import COUNTED
from tests.campaign.kills_marks import OPERATIONS
from tests.campaign.results import Result, recorded

from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.notes import ED25519, SignerKey
from openrouter_audit.errors import HomeError
from openrouter_audit.journal.files import write_whole
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import load_keys

KILLS = int(os.environ.get("KILLS", "1000"))
HOMES = int(os.environ.get("KILLS_HOMES", "20"))
WHAT = (
    "SIGKILL at random instants of 10 kinds of process on one home: writers (threads, tasks, forks, strict, real calls),"
    " sequencers with and without the lease, projection, settling, publisher, makers of homes; lease holders stopped"
)


def run(module, *arguments, timeout):
    """In a process of its own, which forks; what it printed last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaign.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def new_seed():
    return int(os.environ.get("KILLS_SEED", random.randrange(2**32)))


def again(seed, name, *, options=""):
    return f"KILLS_SEED={seed} python3 dev.py test {options}tests/campaign/test_kills.py -k {name}"


def add_up(result, found, total):
    """Add one campaign to the row of the table, and to what all campaigns together hit."""
    verdict, tally = found["verdict"], found["tally"]
    result.points += tally["kills"]
    for name in COUNTED:
        result.broken[name] = result.broken.get(name, 0) + verdict["broken"][name]
    result.broken["complaints"] = result.broken.get("complaints", 0) + len(tally["complaints"])
    for name, hits in tally["hits"].items():
        total[name] = total.get(name, 0) + hits
    for name in ("idle", "stopped", "continued", "copies"):
        total[name] = total.get(name, 0) + tally[name]
    for name in ("entries", "segments"):
        total[name] = total.get(name, 0) + verdict[name]
    total["acknowledged"] = total.get("acknowledged", 0) + found["acknowledged"]
    total["recovery"] = max(total.get("recovery", (0, 0)), (verdict["recovery_s"], verdict["waiting"]))
    result.figures = {
        "records acknowledged": f"{total['acknowledged']:,}",
        "entries": f"{total['entries']:,}",
        "segments": f"{total['segments']:,}",
        "lease holders stopped": f"{total['stopped']:,} ({total['continued']:,} let loose again)",
        "published folder read": f"{total['copies']:,} times",
        "longest recovery": f"{total['recovery'][0]:.2f} s, with {total['recovery'][1]:,} records waiting",
        "kills by operation under way": "; ".join(f"{name} {total[name]:,}" for name in OPERATIONS),
        "between operations": f"{total['idle']:,}",
    }
    for name, value in result.figures.items():
        print(f"  {name}: {value}")
    assert [] == tally["complaints"]
    assert dict.fromkeys(COUNTED, 0) == verdict["broken"], verdict["cases"]


def test_a_thousand_kills_lose_double_and_corrupt_nothing(tmp_path):
    """
    What was acknowledged is in the log, once and whole, after its intent; the reports are those that a rebuild makes; the
    published folder held at every instant; and every operation was under way when some kill came.
    """
    seed = new_seed()
    print(f"KILLS_SEED={seed} KILLS={KILLS}")
    row = Result(campaign="1-kills", what=WHAT, unit="kills", seed=seed, again=again(seed, "a_thousand"))
    total = {}
    with recorded(row) as result:
        add_up(result, run("kills", tmp_path, seed, KILLS, timeout=KILLS * 2 + 600), total)
    assert KILLS <= result.points
    assert [] == [name for name in OPERATIONS if KILLS >= 1000 and total[name] < 1], "no kill came during these"
    assert KILLS < total["acknowledged"]
    assert 0 < total["continued"]
    assert 0 < total["copies"]


@pytest.mark.long
def test_twenty_thousand_kills_lose_double_and_corrupt_nothing(tmp_path):
    """Twenty homes, a thousand kills each."""
    seed = new_seed()
    print(f"KILLS_SEED={seed}")
    what = f"{HOMES} homes, one after the other: {WHAT}"
    row = Result(
        campaign="1-kills-long", what=what, unit="kills", seed=seed, again=again(seed, "twenty", options="--long ")
    )
    total = {}
    with recorded(row) as result:
        for number in range(HOMES):
            folder = tmp_path / str(number)
            folder.mkdir()
            add_up(result, run("kills", folder, seed + number, KILLS, timeout=KILLS * 2 + 600), total)
            shutil.rmtree(folder)
    assert HOMES * KILLS <= result.points


@pytest.mark.long
def test_a_sequencer_that_was_killed_is_back_within_two_seconds_of_computing_per_million_entries(tmp_path):
    """
    Killed again and again while it drains into a journal of 300,000 entries; each time a fresh one opens the journal,
    drains what waits and goes on. Counted is its processor time, which other processes on the machine do not lengthen.
    """
    seed = new_seed()
    print(f"KILLS_SEED={seed}")
    row = Result(
        campaign="1-kills-recovery",
        what="SIGKILL of a sequencer in a drain, on a large journal: time until a fresh one has opened it and drained",
        unit="kills",
        seed=seed,
        again=again(seed, "two_seconds", options="--long "),
    )
    with recorded(row) as result:
        found = run("kills_recovery", tmp_path, seed, 100_000, timeout=1800)
        result.points = found["kills"]
        per_million = found["longest_cpu_s"] / found["entries"] * 1e6
        result.broken = {
            "recoveries over 2 s of computing per million entries": int(per_million > 2),
            "lost or doubled": found["wrong"],
        }
        result.figures = {
            "entries": f"{found['entries']:,}",
            "recovery, processor": f"{per_million:.2f} s per million entries at most",
            "recovery, clock": f"{found['longest_s'] / found['entries'] * 1e6:.2f} s per million entries at most",
            "of that opening": f"{found['longest_open_s']:.3f} s at most",
        }
        print(found)
    assert not any(result.broken.values())


# What the campaign found -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["log-ed25519", "log-ml-dsa-44"])
def test_a_home_killed_between_its_two_keys_is_finished_under_the_origin_of_the_first(tmp_path, half):
    """Each maker draws an origin of its own; keys of two origins would sign nothing, and the home was lost for good."""
    home = Home(tmp_path / "home")
    home.keys_dir.mkdir(parents=True)
    key_type = ED25519 if half == "log-ed25519" else 0x06
    begun = SignerKey(name="openrouter-audit.local/begun", key_type=key_type, seed=bytes(32))
    write_whole(home.keys_dir / half, begun.encode().encode() + b"\n")

    home.ensure()

    assert {"openrouter-audit.local/begun"} == {signer.name for signer in load_keys(home.keys_dir).signers}
    assert ["openrouter-audit.local/begun"] == list(decode_policy(home.policy_path.read_bytes()).logs)
    with pytest.raises(HomeError, match=r"already holds the log openrouter-audit\.local/begun"):
        home.ensure(origin="example.org/another")
