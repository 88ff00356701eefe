"""
The steps of the demo. Each does one thing for real and returns whether it held.

It reads the books through the emulator's HTTP interface and the log through the command line, as anybody could: no figure
on the screen is a constant.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from demo.screen import Screen
from openrouter_audit.testing import attacks

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-or-v1-" + "0123456789abcdef" * 4
VICTIMS_KEY = "sk-or-v1-" + "fedcba9876543210" * 4
"""A key of its own, so that the books say which call the killed process made."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays."""

    screen: Screen
    home: Path
    work: Path
    url: str

    def environment(self, key: str = KEY) -> dict[str, str]:
        """What the applications and commands run with: the emulator is watched, and may be asked 200 times a second."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("OPENROUTER")},
            "OPENROUTER_API_KEY": key,
            "OPENAI_API_KEY": key,
            "OPENROUTER_AUDIT_HOSTS": urlsplit(self.url).netloc,
            "OPENROUTER_AUDIT_ENRICH_MAX_PER_SECOND": "200",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": str(self.screen.width - 4),
        }

    def command(self, *words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `openrouter-audit` on the home, as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "openrouter_audit", "--home", str(home or self.home), *words],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
            cwd=self.work,
        )

    def start(self, role: str, key: str = KEY, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "demo.traffic", role, str(self.home), self.url],
            env=self.environment(key),
            text=True,
            cwd=ROOT,
            **options,
        )


@contextmanager
def emulated_openrouter() -> Iterator[str]:
    """A server process on loopback; yields its base URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "openrouter_audit", "emulator", "--seed", "7"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait(10)


def record_traffic(stage: Stage) -> bool:
    """Three applications at once, both SDKs, two people, on one home."""
    workers = {role: stage.start(role) for role in ("alice", "bob", "both")}
    held = True
    with stage.screen.waiting("three applications are calling: openai (sync), openai (async), openrouter"):
        for role, worker in workers.items():
            held &= stage.screen.check(
                worker.wait(60) == 0, f"application {role!r} ended by itself, exit {worker.returncode}"
            )
    return held


def kill_one(stage: Stage) -> bool:
    """`kill -9` in the middle of an answer."""
    worker = stage.start("victim", VICTIMS_KEY, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    answering = worker.stdout.readline().strip() == "answering"
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(10)
    worker.stdout.close()
    return stage.screen.check(answering, f"kill -9 {worker.pid}, an application in the middle of a streamed answer")


def settle(stage: Stage) -> bool:
    done = stage.command("settle")
    stage.screen.quote("openrouter-audit settle", done.stdout or done.stderr)
    return stage.screen.check(
        done.returncode == 0, "what OpenRouter charged is known for every call it has a record of"
    )


def compare(stage: Stage) -> bool:
    """The emulator's books beside our log: calls, tokens and money, to the last digit."""
    with urllib.request.urlopen(stage.url.removesuffix("/api/v1") + "/__emulator/calls", timeout=10) as answer:
        booked = json.load(answer)
    exported = stage.command("export", "--format", "jsonl")
    logged = [json.loads(line) for line in exported.stdout.splitlines()]

    killed = {row["key_hash"] for row in logged if row["status"] == "unknown"}
    theirs = [row for row in booked if row["key_hash"] not in killed]
    ours = [row for row in logged if row["status"] != "unknown"]
    rows: list[tuple[str, Decimal | int, Decimal | int]] = [
        ("calls", len(theirs), len(ours)),
        ("prompt tokens", _sum(theirs, "prompt_tokens"), _sum(ours, "prompt_tokens")),
        ("completion tokens", _sum(theirs, "completion_tokens"), _sum(ours, "completion_tokens")),
        ("cost, USD", _sum(theirs, "billed"), _sum(ours, "total_cost")),
    ]
    stage.screen.comparison([(name, left, right, left - right) for name, left, right in rows])
    unseen = {row["generation_id"] for row in theirs if row["billed"] is not None} ^ {
        row["generation_id"] for row in ours if row["total_cost"] is not None
    }
    stage.screen.killed(
        billed=", ".join(str(row["billed"]) for row in booked if row["key_hash"] in killed),
        unknown=sum(row["status"] == "unknown" for row in logged),
    )
    screen = stage.screen
    return all(
        [
            screen.check(len(ours) >= 200, f"{len(ours)} calls of both SDKs are in the log"),
            screen.check(all(left == right for _, left, right in rows), "calls, tokens and cost agree, difference 0"),
            screen.check(not unseen, "every generation id that was billed is in both, and nowhere else"),
            screen.check(
                len(logged) - len(ours) == 1 and len(booked) - len(theirs) == 1,
                "the killed call is in both: sent, and its outcome unknown to us",
            ),
            screen.check({"alice", "bob"} == {row["user_id"] for row in ours}, "each call has its person"),
            screen.check(
                any(row["attempt"] == 3 for row in ours) and {"error", "abandoned"} < {row["status"] for row in ours},
                "retries, errors and the abandoned stream are there as what they were",
            ),
        ]
    )


def _sum(rows: Sequence[dict[str, Any]], name: str) -> Decimal:
    return sum((Decimal(str(row[name])) for row in rows if row[name] is not None), Decimal(0))


def report(stage: Stage) -> bool:
    held = True
    for words in (("summary",), ("daily-cost",), ("top-spenders",), ("errors",)):
        done = stage.command("report", *words)
        held &= done.returncode == 0
        stage.screen.quote(f"openrouter-audit report {' '.join(words)}", done.stdout or done.stderr)
    return stage.screen.check(held, "the daily questions have answers")


def prove(stage: Stage) -> bool:
    """The log is whole; and a stranger finds the same root with forty lines of standard library."""
    done = stage.command("verify", "--format", "json")
    verdict = json.loads(done.stdout or "{}")
    counts = verdict.get("counts", {})
    held = stage.screen.check(
        done.returncode == 0 and verdict.get("verdict") == "proven",
        f"verify: {verdict.get('verdict')}: {verdict.get('tree_size')} entries, {counts.get('intents')} intents,"
        f" {counts.get('outcomes')} outcomes, {counts.get('unknown')} of them unknown",
    )
    published = stage.work / "published"
    done = stage.command("publish", str(published))
    held &= stage.screen.check(done.returncode == 0, "publish: checkpoint, tiles and entries as plain files")
    script = [sys.executable, "-I", str(ROOT / "examples" / "recompute_root.py"), str(published)]
    computed = subprocess.run(script, capture_output=True, text=True, check=False)
    stage.screen.quote("python examples/recompute_root.py published", computed.stdout or computed.stderr)
    return held & stage.screen.check(
        computed.returncode == 0 and str(verdict.get("root")) in computed.stdout,
        "a script of the standard library alone computes the same root",
    )


def attack(stage: Stage) -> bool:
    """Four ways to tamper, each on a copy of its own; each must be named."""
    copy = stage.work / "attacked"
    held = True
    for name, tamper, expected in (
        ("the cost in an entry is changed", _change_a_cost, "entry_changed"),
        ("an entry is deleted", _delete_an_entry, "entry_missing"),
        ("two entries are swapped", _swap_two_entries, "entry_reordered"),
        ("an entry is rewritten and all tiles made again, without the key", _rewrite_everything, "root_mismatch"),
    ):
        attacks.copy_home(stage.home, copy)
        touched = tamper(copy)
        done = stage.command("verify", "--format", "json", home=copy)
        findings = json.loads(done.stdout or "{}").get("findings", [])
        named = [finding for finding in findings if finding["severity"] == "tampered"]
        found = [f["class"] if f["index"] is None else f"{f['class']} at {f['index']}" for f in named]
        stage.screen.attacked(f"{name} (at {touched})", found)
        held &= stage.screen.check(
            done.returncode == 1
            and any(finding["class"] == expected for finding in named)
            and any(finding["index"] == touched for finding in named),
            f"verify exits {done.returncode}, and names class and index",
        )
        shutil.rmtree(copy)
    return held


def _change_a_cost(copy: Path) -> int:
    index = attacks.find_entry(copy, lambda text: '"kind":"call.outcome"' in text and '"cost":"' in text)
    attacks.change_cost(copy, index, "0.0000001")
    return index


def _delete_an_entry(copy: Path) -> int:
    index = attacks.find_entry(copy, lambda text: '"status":"error"' in text)
    attacks.delete_row(copy, index)
    return index


def _swap_two_entries(copy: Path) -> int:
    index = attacks.find_entry(copy, lambda text: '"kind":"call.outcome"' in text)
    attacks.swap_rows(copy, index, index + 1)
    return index


def _rewrite_everything(copy: Path) -> int:
    index = attacks.find_entry(copy, lambda text: '"kind":"call.outcome"' in text and '"cost":"' in text)
    attacks.rewrite_everything(copy, index, change=attacks.change_cost)
    return index
