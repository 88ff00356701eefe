import json

import msgspec
import pytest
from tests.enrichment.fakes import EXAMPLES, MemoryRecorder, a_call

from openrouter_audit.core.entries import AlertRaised, CallCost
from openrouter_audit.enrichment.generations import (
    CostMissing,
    Found,
    IdMismatch,
    NotYet,
    ServerTrouble,
    Throttled,
    Unauthorized,
    read_answer,
)
from openrouter_audit.enrichment.settling import Settlement, cost_mismatch, settled_cost, unresolved_cost
from openrouter_audit.errors import AuditUnavailable

RECORDS = sorted(path for path in (EXAMPLES / "generation").glob("*.json") if "content" not in path.name)


def found(total_cost="0.5"):
    return read_answer(b'{"data":{"id":"gen-1","total_cost":%s}}' % total_cost.encode(), "gen-1")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_example_record_makes_an_entry_within_the_vocabulary(path):
    """
    No field of a recorded answer is outside what `call.cost` may hold, and nothing of its free text is in it.
    """
    raw = path.read_bytes()
    generation_id = json.loads(raw)["data"]["id"]
    fact = settled_cost(a_call(generation_id), read_answer(raw, generation_id), tries=1, at_us=7)
    encoded = msgspec.json.encode(fact)

    assert fact == msgspec.json.decode(encoded, type=CallCost)
    for private in (b"customer-8841", b"sess-2026", b"app.example.org", b"python-httpx"):
        assert private not in encoded


@pytest.mark.parametrize(
    ("answer", "reason", "status"),
    [
        (NotYet(), "not_found", 404),
        (CostMissing(found().record, b""), "cost_missing", 200),
        (IdMismatch(), "id_mismatch", 200),
        (Unauthorized(403), "unauthorized", 403),
        (Throttled(None), "throttled", 429),
        (ServerTrouble(524, "http"), "server_trouble", 524),
        (ServerTrouble(None, "ConnectError"), "unreachable", None),
    ],
)
def test_each_way_to_stay_unknown_has_its_word(answer, reason, status):
    """
    Whoever reads `unresolved` finds out why, and which key was asked with.
    """
    call = a_call("gen-1")
    fact = unresolved_cost(call, answer, tries=3, at_us=7)

    assert ("unresolved", reason, status, 3, call.key_hash, "gen-1") == (
        fact.state,
        fact.reason,
        fact.http_status,
        fact.tries,
        fact.key_hash,
        fact.generation_id,
    )
    assert fact == msgspec.json.decode(msgspec.json.encode(fact), type=CallCost)


@pytest.mark.parametrize(
    ("response", "generation", "differs"),
    [
        ("1e-7", "0.0000001", False),
        ("0", "0.00", False),
        ("-0", "0", False),
        ("0.00046869999999999995", "0.0004687", True),
        ("0.1", "0.10000000000000001", True),
        (None, "0.5", False),
        ("not a number", "0.5", False),
    ],
)
def test_amounts_are_compared_as_the_numbers_they_are(response, generation, differs):
    """
    As decimals, exactly: two texts of one number agree, two numbers that floats take for one do not.
    """
    alert = cost_mismatch(a_call("gen-1", response_cost=response), found(generation), alert_id="a" * 32, at_us=7)

    assert differs == (alert is not None)


class NoAlerts(MemoryRecorder):
    """Takes costs and refuses alerts."""

    def write(self, facts, private=None, *, follows=None):
        if isinstance(facts, AlertRaised):
            raise AuditUnavailable("the spool is full", reason="full")
        return super().write(facts, private, follows=follows)


def test_neither_a_lost_alert_nor_a_broken_receipt_makes_a_cost_be_written_twice():
    """
    Both come after the cost; a failure of theirs is no reason to ask again.
    """

    def broken(call_id, total_cost):
        raise ValueError(total_cost)

    recorder = NoAlerts()
    settlement = Settlement(recorder, utc_us=lambda: 7, on_cost=broken)

    assert settlement.settle(a_call("gen-1", response_cost="0.1"), found(), tries=1)
    assert [("0.5", 7)] == [(cost.total_cost, cost.at_us) for cost in recorder.facts]
    assert isinstance(found(), Found)
