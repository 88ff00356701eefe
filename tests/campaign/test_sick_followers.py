"""
A sick follower slows no call: reports that hang, fail or cannot be opened, and a `/generation` that never answers.

Every sickness lasts for the whole of a run, and the calls of that run are made, recorded and committed while it lasts: the
behaviour is asserted. What it adds is measured beside a healthy log, call by call in turn, and only noted down: for whole
calls, and for the two writes of a call alone, because the network's own noise is larger than a millisecond.
`SICK_CALLS` sets how many calls a run makes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import pytest
from tests.campaign.results import Result, recorded
from tests.journal.homes import KEY, an_intent, an_outcome, check_log, of_kind, statuses
from tests.promises.servers import RawServer, whole

from openrouter_audit.audit_log import AuditLog
from openrouter_audit.journal.sqlite import SqliteJournal
from openrouter_audit.reports.tables.sqlite import SqliteReports

CALLS = int(os.environ.get("SICK_CALLS", "150"))
PAIRS = 10 * CALLS
WAIT_S = 60.0
BODY = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}]}


class Service:
    """OpenRouter as far as it is needed here: answers calls at once, and `/generation` when it is well again."""

    def __init__(self) -> None:
        self.asked, self.well = threading.Event(), threading.Event()
        self._number = 0

    def answer(self, head: bytes, body: bytes) -> Iterator[bytes]:
        if b"/generation" in head.split(b"\r\n")[0]:
            self.asked.set()
            self.well.wait(WAIT_S)
            yield whole('{"error":{"code":404,"message":"not found"}}', status="404 Not Found")
            return
        self._number += 1
        yield whole(
            json.dumps(
                {
                    "id": f"gen-{self._number}",
                    "object": "chat.completion",
                    "model": "openai/gpt-4.1-mini",
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
                    ],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.0001},
                }
            )
        )


class SickFollower:
    """A projection with a switch: it stands still, or fails as a full disk does, until it is well."""

    def __init__(self, real: Callable[[], Any], sickness: str) -> None:
        self._real, self._sickness = real, sickness
        self._follower: Any = None
        self.entered, self.well = threading.Event(), threading.Event()

    def follow(self) -> int:
        self.entered.set()
        if self._sickness == "full" and not self.well.is_set():
            raise OSError(28, "No space left on device")
        self.well.wait(WAIT_S)
        if self._follower is None:
            self._follower = self._real()
        return int(self._follower.follow())

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()


@contextmanager
def sick(audit: AuditLog, sickness: str, service: Service) -> Iterator[Callable[[], bool]]:
    """Make a log sick; yields what tells whether the sickness was met."""
    reports = audit.home.reports_path
    if sickness in {"hangs", "full"}:
        follower = SickFollower(audit._open_projection, sickness)
        audit._open_projection = lambda: follower
        try:
            yield lambda: follower.entered.wait(WAIT_S)
        finally:
            follower.well.set()
    elif sickness == "locked":
        SqliteReports.open(reports).close()
        holder = apsw.Connection(str(reports))
        holder.execute("BEGIN EXCLUSIVE")
        try:
            yield lambda: True
        finally:
            holder.execute("ROLLBACK")
            holder.close()
    elif sickness == "no file":
        reports.mkdir()
        try:
            yield lambda: True
        finally:
            reports.rmdir()
    else:
        try:
            yield lambda: service.asked.wait(WAIT_S)
        finally:
            service.well.set()


def committed(audit: AuditLog, calls: int) -> bool:
    """Wait until that many outcomes are in the journal, whatever the reports do."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with SqliteJournal.open(audit.home.journal_path, read_only=True) as journal:
            if calls <= sum('"kind":"call.outcome"' in text for _, text in journal.entries()):
                return True
        time.sleep(0.05)
    return False


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def added(times: dict[str, list[float]], share: float) -> str:
    more = percentile(times["sick"], share) - percentile(times["healthy"], share)
    return f"{more * 1000:+.3f} ms (healthy {percentile(times['healthy'], share) * 1000:.3f})"


def write_pair(audit: AuditLog) -> float:
    """Record a call as capture does, without a network in between; seconds it took."""
    intent = an_intent()
    outcome = an_outcome(intent)
    began = time.perf_counter()
    token = audit.write(intent)
    audit.write(outcome, follows=token)
    return time.perf_counter() - began


@pytest.mark.parametrize("sickness", ["hangs", "full", "locked", "no file", "generation"])
def test_a_sick_follower_slows_no_call(tmp_path, sickness):
    """
    A healthy and a sick log record the same traffic in turn. All of it is in the journal while the sickness lasts; then it
    ends, and the reports catch up.
    """
    total = CALLS + PAIRS
    result = Result(
        campaign=f"6-sick-{sickness.replace(' ', '-')}",
        what={
            "hangs": "calls while the report projector hangs",
            "full": "calls while the report disk is full",
            "locked": "calls while another program holds reports.db locked",
            "no file": "calls while reports.db cannot be opened",
            "generation": "calls while `/generation` never answers",
        }[sickness],
        unit="calls",
        again="SICK_CALLS=2000 python3 -m pytest tests/campaign/test_sick_followers.py",
    )
    service = Service()
    took: dict[str, list[float]] = {"healthy": [], "sick": []}
    wrote: dict[str, list[float]] = {"healthy": [], "sick": []}
    with (
        recorded(result),
        RawServer(service.answer) as server,
        AuditLog.open(tmp_path / "healthy", hosts=["127.0.0.1"], enrich=False) as healthy,
        AuditLog.open(tmp_path / "sick", hosts=["127.0.0.1"], enrich=sickness == "generation") as audit,
        sick(audit, sickness, service) as was_met,
        healthy.httpx_client(timeout=WAIT_S) as one,
        audit.httpx_client(timeout=WAIT_S) as other,
    ):
        for _ in range(CALLS):
            for name, client in (("healthy", one), ("sick", other)):
                began = time.perf_counter()
                client.post(f"{server.url}/chat/completions", json=BODY, headers={"Authorization": f"Bearer {KEY}"})
                took[name].append(time.perf_counter() - began)
        for _ in range(PAIRS):
            for name, log in (("healthy", healthy), ("sick", audit)):
                wrote[name].append(write_pair(log))
        result.points = total
        assert committed(audit, total), "the journal goes on"
        assert was_met(), "the sickness was there"
        result.broken = {"calls not recorded": total - len(statuses(check_log(audit.home)))}
        result.figures = {
            "added to a call, p50": added(took, 0.5),
            "added to writing intent and outcome, p50": added(wrote, 0.5),
            "p99": added(wrote, 0.99),
        }
        print(result.figures)
    assert {"calls not recorded": 0} == result.broken
    assert ["success"] * total == list(statuses(check_log(audit.home)).values())

    with AuditLog.open(tmp_path / "sick", enrich=False) as audit:
        audit.flush(timeout=WAIT_S)
        with SqliteReports.open(audit.home.reports_path, read_only=True) as reports:
            assert total == reports.count(), "the reports catch up"
    assert [] == of_kind(check_log(audit.home), "log.loss")
