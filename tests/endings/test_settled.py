"""
A stream that was left or cancelled named no price: what it was billed is asked for, and found.

Against the emulator, which notices that its client hung up and bills the part it had produced; Messages against a server
that answers as OpenRouter does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time

import pytest
from tests.endings.answers import MESSAGES, SHAPES, example
from tests.endings.endings import join
from tests.endings.hands import ASYNC, LIBRARIES, SYNC, Hand, run
from tests.journal.homes import check_log, of_kind
from tests.promises.servers import STREAM_HEAD, RawServer, whole

from openrouter_audit import AuditLog
from openrouter_audit.reports.tables.sqlite import SqliteReports
from openrouter_audit.testing import FakeOpenRouter

DEADLINE_S = 60


class _Elsewhere:
    """The address of a server that nobody has to tell when a piece has arrived."""

    def __init__(self, url: str) -> None:
        self.origin = url.removesuffix("/api/v1")

    def heard(self) -> None:
        pass


@contextlib.contextmanager
def emulated():
    """Answers slowly, so that there is something to leave; its books say what it billed."""
    with FakeOpenRouter(seed=5) as fake:
        fake.script([{"gap_ms": 30, "tokens": 200}] * 2)
        yield fake.url, lambda: {row["generation_id"]: row["billed"] for row in fake.calls()}


@contextlib.contextmanager
def anthropic_like():
    """Opens a stream and falls silent; then knows what it cost. Each call has a generation of its own."""
    billed: dict[str, str] = {}
    over = threading.Event()
    record = json.loads(example("generation/cancelled_partial.json"))

    def answer(head, body):
        path = head.split(b" ")[1].decode()
        if "/generation" in path:
            name = path.rpartition("id=")[2]
            record["data"] |= {"id": name, "total_cost": float(billed[name])}
            yield whole(json.dumps(record))
            return
        name = f"gen-1795426560-{len(billed):020}"
        billed[name] = f"0.00{len(billed) + 1}"
        opening = join(MESSAGES.stream[: MESSAGES.opened])
        yield STREAM_HEAD + opening.replace(MESSAGES.stream_facts["generation_id"].encode(), name.encode())
        over.wait(DEADLINE_S)

    with RawServer(answer) as server:
        yield server.url, lambda: billed
        over.set()


async def left(hand: Hand) -> None:
    async with hand.opened_client(), hand.streamed() as response:
        async for _ in hand.reading(response):
            break


async def cancelled(hand: Hand) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with hand.opened_client(), hand.streamed() as response:
            async for _ in hand.reading(response):
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def settled(audit: AuditLog, count: int) -> list[dict]:
    """Entries of the log once so many costs are in it."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        audit.flush(DEADLINE_S)
        entries = check_log(audit.home)
        if len(of_kind(entries, "call.cost")) >= count or time.monotonic() > deadline:
            return entries
        time.sleep(0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_that_was_left_or_cancelled_is_settled_from_its_record(shape, tmp_path, monkeypatch):
    """
    The id of the generation came in the header or in the first event; the answer never said what it cost.
    """
    monkeypatch.setenv("OPENROUTER_AUDIT_ENRICH_MAX_PER_SECOND", "100")
    with (
        anthropic_like() if shape == "messages" else emulated() as (url, books),
        AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"]) as audit,
    ):
        for kind, play in ((SYNC, left), (ASYNC, cancelled)):
            hand = Hand(LIBRARIES["httpx2"], kind, _Elsewhere(url), SHAPES[shape], stream=True)
            hand.watch = audit
            run(kind, play(hand))
        entries = settled(audit, 2)
        outcomes, costs = of_kind(entries, "call.outcome"), of_kind(entries, "call.cost")
        assert [("abandoned", None), ("cancelled", None)] == [(one["status"], one.get("cost")) for one in outcomes]
        assert {one["generation_id"] for one in outcomes} == set(books()) == {one["generation_id"] for one in costs}
        assert books() == {one["generation_id"]: one["total_cost"] for one in costs}
        with SqliteReports.open(audit.home.reports_path, read_only=True) as reports:
            rows = reports.rows_of([one["id"] for one in outcomes])
        assert [("settled", "generation")] * 2 == [(row["cost_state"], row["cost_source"]) for row in rows]
