"""
What the campaign on life cycles shares: an emulator in a process of its own, acknowledgements that survive any death,
and the proof of a home at the end.

A process acknowledges a record by one `write` to a file opened with O_APPEND, after the recorder returned: a line
`i <id>` or `o <id>`. Whatever happens to the process then, the line tells what must be in the log.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.journal.homes import an_intent, an_outcome, check_log, drain, of_kind, statuses

from openrouter_audit.core.entries import Facts
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sequencer import Sequencer
from openrouter_audit.journal.sqlite import SqliteJournal

ROOT = Path(__file__).resolve().parents[2]
MODEL = "openai/gpt-4.1-mini"
MESSAGES = [{"role": "user", "content": "hello"}]
HOSTS = "127.0.0.1"


def seed_of(name: str) -> int:
    """The seed in `$name`, else any; printed, so that a failure can be repeated."""
    seed = int(os.environ.get(name) or random.randrange(2**32))
    print(f"{name}={seed}")
    return seed


# Acknowledgements ---------------------------------------------------------------------------------------------------


class Acknowledgements:
    """Where processes say which of their records were taken; the same file for all of them, also over a fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(self, what: str, facts: Facts) -> None:
        os.write(self._descriptor, f"{what} {facts.id}\n".encode())

    def read(self) -> dict[str, list[str]]:
        """Ids of the intents under `i`, of the outcomes under `o`."""
        said: dict[str, list[str]] = {"i": [], "o": []}
        for line in self._path.read_text().splitlines():
            what, name = line.split()
            said[what].append(name)
        return said

    def close(self) -> None:
        os.close(self._descriptor)


def acknowledged_calls(recorder: Any, count: int, acknowledge: Acknowledgements) -> None:
    """Whole calls, one after the other, each record acknowledged when it was taken."""
    for _ in range(count):
        intent = an_intent()
        token = recorder.write(intent)
        acknowledge.say("i", intent)
        outcome = an_outcome(intent)
        recorder.write(outcome, follows=token)
        acknowledge.say("o", outcome)


# Proof --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the log of a home says, against what was acknowledged."""

    entries: list[dict[str, Any]]
    lost: list[str]
    """Acknowledged intents that are not there, and acknowledged outcomes that are not there as they were told."""
    doubled: list[str]
    """Ids with two intents or two outcomes."""
    too_early: list[str]
    """Calls whose outcome stands before their intent, or without one."""
    losses: int
    """`log.loss` and `log.unreadable` entries: no life cycle has a reason for one."""

    @property
    def broken(self) -> dict[str, int]:
        """What has to be 0."""
        return {
            "acknowledged lost": len(self.lost),
            "doubled": len(self.doubled),
            "outcomes before intents": len(self.too_early),
            "losses said": self.losses,
        }

    @property
    def ends(self) -> Counter[str]:
        """How many calls ended how."""
        return Counter(statuses(self.entries).values())


def prove(home: Home, acknowledged: dict[str, list[str]] | None = None) -> Proof:
    """Drain what is left, compute the log again, and compare."""
    said = acknowledged or {"i": [], "o": []}
    begun: dict[str, int] = {}
    ended: dict[str, tuple[int, str]] = {}
    doubled, too_early = [], []
    for index, entry in enumerate(everything(home)):
        if entry["kind"] == "call.intent":
            if entry["id"] in begun:
                doubled.append(entry["id"])
            begun.setdefault(entry["id"], index)
        elif entry["kind"] == "call.outcome":
            if entry["id"] in ended:
                doubled.append(entry["id"])
            if entry["id"] not in begun:
                too_early.append(entry["id"])
            ended.setdefault(entry["id"], (index, entry["status"]))
    lost = [call for call in said["i"] if call not in begun]
    lost += [call for call in said["o"] if ended.get(call, (0, "unknown"))[1] == "unknown"]
    entries = check_log(home) if not doubled else everything(home)
    return Proof(
        entries=entries,
        lost=lost,
        doubled=doubled,
        too_early=too_early,
        losses=len(of_kind(entries, "log.loss")) + len(of_kind(entries, "log.unreadable")),
    )


def everything(home: Home) -> list[dict[str, Any]]:
    """Every entry, with what was still in the spool."""
    sequencer = Sequencer(home)
    try:
        sequencer.drain()
    finally:
        sequencer.close()
    with SqliteJournal.open(home.journal_path, read_only=True) as journal:
        return [json.loads(text) for _, text in journal.entries()]


def assert_whole(proof: Proof) -> None:
    assert {name: 0 for name in proof.broken} == proof.broken, (proof.lost, proof.doubled, proof.too_early)


# Processes ----------------------------------------------------------------------------------------------------------


def python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """
    A script in a process of its own, its output to be read.

    Warnings are errors, but for the one of newer Pythons that a process with threads forks: that is what is tried here.
    """
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def output_of(process: subprocess.Popen[str], *, expected: int | None = 0, timeout: float = 120) -> str:
    """Wait for its end, and say what it said when that is not the expected one."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a child that hangs would keep the pipes open
        out, err = process.communicate()
        raise AssertionError(f"no end after {timeout} s\n{out}\n{err}") from None
    assert expected is None or expected == process.returncode, f"exit {process.returncode}\n{out}\n{err}"
    return out


@dataclass(slots=True, kw_only=True)
class Emulator:
    """An OpenRouter of its own process."""

    url: str
    books: Path

    def booked(self) -> list[str]:
        """Generation ids of all calls it has answered."""
        rows = [json.loads(line) for line in self.books.read_text().splitlines()]
        return [row["generation_id"] for row in rows if row.get("status") == 200]


@contextmanager
def emulator(folder: Path) -> Iterator[Emulator]:
    books = folder / "books.jsonl"
    books.touch()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from openrouter_audit.testing.emulator import serve; serve(books=sys.argv[1])",
            str(books),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield Emulator(url=json.loads(process.stdout.readline())["url"], books=books)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def until(condition: Any, what: str, *, seconds: float = 60) -> None:
    """Wait for something that has to come; no test measures how soon."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.01)


def drained(home: Home) -> list[dict[str, Any]]:
    """As `drain`, where the home was made by somebody else."""
    assert home.exists
    return drain(home)
