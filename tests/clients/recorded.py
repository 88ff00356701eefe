"""
A watched process beside the emulator: what our log says is laid beside what the emulator has booked.

The books are the other side's account of the same requests, so a call that is lost, told twice, mixed up with another or
misread is seen, whatever client made it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.journal.homes import check_log, of_kind

import openrouter_audit
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.testing import FakeOpenRouter

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
MODEL = "openai/gpt-4.1-mini"
EMBEDDING_MODEL = "qwen/qwen3-embedding-8b"
QUESTION = "Which invoice is overdue?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
BOOKED_S = 60.0
"""The emulator books a call whose client has gone when it notices; no test measures how soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as the log has it."""

    intent: dict[str, Any]
    outcome: dict[str, Any]

    @property
    def status(self) -> str:
        return self.outcome["status"]

    @property
    def place(self) -> tuple[str, int]:
        """Group and number of the attempt."""
        return self.intent["group"], self.intent["attempt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The recorder that is installed, and the emulator that is watched."""

    fake: FakeOpenRouter
    audit: openrouter_audit.AuditLog

    @property
    def url(self) -> str:
        """What a client takes as OpenRouter's base URL."""
        return self.fake.url

    def check(self, *statuses: str, unbooked: int = 0) -> list[Call]:
        """
        The calls in order, which ended so; each in the log once and as in the books.

        Args:
            unbooked: How many of them never reached the emulator.
        """
        rows = self._booked(len(statuses) - unbooked)
        self.audit.flush(BOOKED_S)
        calls = calls_of(check_log(self.audit.home))
        assert list(statuses) == [call.status for call in calls]
        compare(calls, rows, unbooked=unbooked)
        assert rows == self.fake.calls()
        assert {} == faults.counts
        return calls

    def _booked(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + BOOKED_S
        while len(self.fake.calls()) < count:
            assert time.monotonic() < deadline, f"{len(self.fake.calls())} of {count} calls are booked"
            time.sleep(0.01)
        return self.fake.calls()


def calls_of(entries: list[dict[str, Any]]) -> list[Call]:
    """Intents with their outcomes, in the order of the log; nothing is there without the other, and none twice."""
    intents, outcomes = of_kind(entries, "call.intent"), of_kind(entries, "call.outcome")
    ended = {outcome["id"]: outcome for outcome in outcomes}
    assert Counter(intent["id"] for intent in intents) == Counter(outcome["id"] for outcome in outcomes)
    assert len(intents) == len(ended)
    assert [] == of_kind(entries, "log.loss") == of_kind(entries, "log.unreadable")
    return [Call(intent=intent, outcome=ended[intent["id"]]) for intent in intents]


def compare(calls: list[Call], rows: list[dict[str, Any]], *, unbooked: int = 0) -> None:
    """One call for each row of the books and one row for each call, with the same generation, status, key and money."""
    assert len(rows) + unbooked == len(calls)
    reached = [call.outcome for call in calls if call.outcome.get("http_status")]
    assert Counter((row["generation_id"], row["status"]) for row in rows if row["status"]) == Counter(
        (outcome.get("generation_id"), outcome["http_status"]) for outcome in reached
    )
    assert {row["key_hash"] for row in rows} <= {call.intent.get("key_hash") for call in calls}
    booked = {row["generation_id"]: row for row in rows}
    for outcome in reached:
        if outcome["status"] == "success":
            row = booked[outcome["generation_id"]]
            assert (row["billed"], row["prompt_tokens"]) == (outcome["cost"], outcome["prompt_tokens"])


@contextmanager
def watched_process(home: Path) -> Iterator[Watched]:
    faults.counts.clear()
    with FakeOpenRouter(seed=11) as fake:
        audit = openrouter_audit.install(home, hosts=[f"127.0.0.1:{fake.port}"])
        try:
            yield Watched(fake=fake, audit=audit)
        finally:
            openrouter_audit.uninstall()
