"""The life of a generation record: not yet, refused, incomplete, there, and at last different."""

import math
import time

import pytest
from tests.testing.asking import KEY, OTHER_KEY, chat_body

from openrouter_audit.testing.emulator.calls import Request
from openrouter_audit.testing.emulator.desk import Desk


def cost(asker, generation_id):
    return asker.record(generation_id).json["data"]["total_cost"]


def test_record_agrees_with_answer_and_books(asker, fake):
    sent = asker.chat(user="customer-8841", session_id="sess-7").json
    data, (row,) = asker.record(sent["id"]).json["data"], fake.calls()
    assert sent["id"] == data["id"]
    assert sent["usage"]["cost"] == data["total_cost"] == data["usage"] == float(row["billed"])
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        data["native_tokens_prompt"],
        data["native_tokens_completion"],
    )
    assert ("customer-8841", "sess-7", False) == (data["external_user"], data["session_id"], data["streamed"])


def test_record_is_a_404_until_its_time_has_come():
    """
    On a clock of our own: one millisecond early it is not there, then it is.
    """
    now = [100.0]
    desk = Desk(1, clock=lambda: now[0])

    def send(method, path, query="", body=b"", **headers):
        headers = {"authorization": f"Bearer {KEY}", **headers}
        return desk.answer(Request(method=method, path=f"/api/v1{path}", query=query, headers=headers, body=body))

    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    answer = send("POST", "/chat/completions", body=body, **{"x-emulator": "record_delay_ms=300000"})
    query = f"id={answer.call.generation_id}"
    assert 404 == send("GET", "/generation", query).status  # the call has not even ended
    desk.settle(answer, digest=b"")
    now[0] += 299.999
    assert 404 == send("GET", "/generation", query).status
    now[0] += 0.001
    assert 200 == send("GET", "/generation", query).status


@pytest.mark.parametrize("switches", ["record=never", "record_delay_ms=never", "record_delay_ms=-1"])
def test_some_records_never_come(asker, fake, switches):
    sent = asker.chat(switches).json
    told = asker.record(sent["id"])
    assert (404, f"Generation {sent['id']} not found") == (told.status, told.json["error"]["message"])
    assert fake.calls()[0]["billed"] is not None


def test_failed_calls_and_unknown_ids_look_the_same(asker):
    failed = asker.chat("status=429").headers["x-generation-id"]
    for generation_id in (failed, "gen-1-abc"):
        assert f"Generation {generation_id} not found" == asker.record(generation_id).json["error"]["message"]


def test_only_the_key_that_called_reads_the_record(asker):
    sent = asker.chat().json["id"]
    assert (401, "User not found.") == (
        asker.record(sent, key=OTHER_KEY).status,
        asker.record(sent, key=OTHER_KEY).json["error"]["message"],
    )
    assert "Missing Authentication header" == asker.record(sent, key=None).json["error"]["message"]
    assert 200 == asker.record(sent).status


def test_generation_status_answers_first(asker):
    """
    Twice 429, once 500, then the record; without a number the refusal lasts.
    """
    sent = asker.chat("generation_status=429x2,500x1").json["id"]
    assert [429, 429, 500, 200, 200] == [asker.record(sent).status for _ in range(5)]
    sent = asker.chat("generation_status=401").json["id"]
    assert {401} == {asker.record(sent).status for _ in range(4)}


def test_cost_null_then_present(asker, fake):
    sent = asker.chat("record=null_cost").json
    assert [None, sent["usage"]["cost"]] == [cost(asker, sent["id"]), cost(asker, sent["id"])]
    assert float(fake.calls()[0]["billed"]) == sent["usage"]["cost"]


def test_drift_shows_from_the_second_read_and_is_what_the_books_say(asker, fake):
    sent = asker.chat("record=drift;cost=0.00001").json
    assert [0.00001, 0.000011, 0.000011] == [cost(asker, sent["id"]) for _ in range(3)]
    assert "0.000011" == fake.calls()[0]["billed"]


def test_other_cost_differs_from_the_answer_at_once(asker, fake):
    sent = asker.chat("record=other_cost;cost=0.00001").json
    assert (0.00001, 0.000011) == (sent["usage"]["cost"], cost(asker, sent["id"]))
    assert "0.000011" == fake.calls()[0]["billed"]


def test_disfigured_records(asker):
    """
    Another id, nulls wherever they may be, optional members missing, values nobody knows.
    """
    told = {
        name: asker.record(asker.chat(f"record={name}").json["id"]).json["data"]
        for name in ("ok", "nulls", "absent", "unknown")
    }
    sent = asker.chat("record=other_id").json["id"]
    assert sent != asker.record(sent).json["data"]["id"]
    assert told["nulls"]["provider_name"] is None is told["nulls"]["streamed"]
    assert {"session_id", "request_id", "response_cache_source_id"} == set(told["ok"]) - set(told["absent"])
    assert ("telepathy", "a_new_member" in told["unknown"]) == (told["unknown"]["api_type"], True)


def test_byok_record_keeps_the_providers_bill_apart(asker):
    sent = asker.chat("byok=fee").json
    data = asker.record(sent["id"]).json["data"]
    assert data["is_byok"]
    assert data["upstream_inference_cost"] == sent["usage"]["cost_details"]["upstream_inference_cost"]
    assert math.isclose(data["total_cost"] * 20, data["upstream_inference_cost"])


def test_looking_up_is_quick_and_in_no_books(asker, fake):
    """
    Nothing is searched: with thousands of calls behind it a look-up is a dictionary's. GETs of accounts are no calls.
    """
    sent = asker.chat().json["id"]
    for path in (
        f"/generation?id={sent}",
        "/key",
        "/credits",
        "/models",
        "/models/openai/gpt-4.1-mini/endpoints",
        "/providers",
    ):
        asker.get(path)
    assert 1 == len(fake.calls())


def test_delayed_record_appears_by_itself(asker):
    """
    The same with the clock on the wall.
    """
    sent = asker.chat("record_delay_ms=150").json["id"]
    assert 404 == asker.record(sent).status
    deadline = time.monotonic() + 10
    while asker.record(sent).status == 404 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert 200 == asker.record(sent).status


def test_embeddings_have_records(asker):
    sent = asker.post("/embeddings", {"model": "qwen/qwen3-embedding-8b", "input": "x" * 28}).json
    data = asker.record(sent["id"]).json["data"]
    assert ("embeddings", 1e-7) == (data["api_type"], data["total_cost"])
    assert chat_body()["model"] != data["model"]
