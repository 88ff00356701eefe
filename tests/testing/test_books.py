"""The books list what clients saw, to the byte and the last digit, and what they did not stay to see."""

import hashlib
import json
import socket
import time
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from tests.testing.asking import KEY, Asker, chat_body

from openrouter_audit.testing import FakeOpenRouter, LatencyModel
from openrouter_audit.testing.emulator.calls import is_call

COLUMNS = "n generation_id path status key_hash model provider prompt_tokens completion_tokens billed cancelled request_sha256 response_sha256"


def until(condition, *, seconds=10.0):
    """Wait for what another thread will do; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def start_call(fake, emulator, **more):
    """Send a call on a raw socket and return the socket."""
    parts = urlsplit(fake.url)
    body = json.dumps(chat_body(**more)).encode()
    head = f"POST /api/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nx-emulator: {emulator}\r\n"
    opened = socket.create_connection((parts.hostname, parts.port), timeout=10)
    opened.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    return opened


def test_books_equal_what_clients_saw(asker, fake):
    """
    Digests of both bodies, tokens, cost, id, status: of plain, streamed, zipped and refused calls.
    """
    bodies, replies = [], []
    for switches, stream in (
        ("", False),
        ("", True),
        ("gzip=1", False),
        ("gzip=1;chunk=7", True),
        ("status=502", False),
    ):
        bodies.append(json.dumps(chat_body(stream=stream)).encode())
        replies.append(asker.post("/chat/completions", bodies[-1], emulator=switches))
    rows = fake.calls()
    assert COLUMNS.split() == list(rows[0])
    assert [1, 2, 3, 4, 5] == [row["n"] for row in rows]
    for row, body, reply in zip(rows, bodies, replies, strict=True):
        assert hashlib.sha256(body).hexdigest() == row["request_sha256"]
        assert hashlib.sha256(reply.raw).hexdigest() == row["response_sha256"]
        assert (reply.status, reply.headers["x-generation-id"]) == (row["status"], row["generation_id"])
        assert hashlib.sha256(KEY.encode()).hexdigest() == row["key_hash"]
    usage = replies[0].json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
        rows[0]["prompt_tokens"],
        rows[0]["completion_tokens"],
    )
    assert f'"cost":{rows[0]["billed"]},'.encode() in replies[0].raw
    assert (None, None) == (rows[4]["billed"], rows[4]["model"])


def test_key_usage_is_the_sum_of_the_books(asker, fake):
    for text in ("1e-7", "0.0076509169000000005", "0.3"):
        asker.chat(f"cost={text}")
    asker.chat("status=500")
    total = sum(Decimal(row["billed"]) for row in fake.calls() if row["billed"])
    assert f'"usage":{total}'.encode() in asker.get("/key").raw


def test_same_seed_and_order_give_the_same_bytes(tmp_path):
    """
    Two runs agree in every id, word and digit; another seed in none of the ids.
    """

    def run(seed):
        with FakeOpenRouter(seed) as fake:
            asker = Asker(fake)
            raws = [asker.chat().raw, asker.stream().raw, asker.chat("status=500").raw, asker.chat("cache=hit").raw]
            raws.append(asker.record(fake.calls()[0]["generation_id"]).raw)
            return raws, fake.calls()

    first, again, other = run(5), run(5), run(6)
    assert first == again
    assert not {row["generation_id"] for row in first[1]} & {row["generation_id"] for row in other[1]} - {None}


def test_hanging_up_on_a_stream_is_booked_as_cancelled_with_partial_cost(asker, fake):
    """
    The client leaves after the first tokens: generation stops, what was delivered is billed, the record says cancelled.
    """
    call = start_call(fake, "tokens=400;gap_ms=5;keepalives=0", stream=True)
    received = b""
    while received.count(b'"content"') < 3:
        received += call.recv(65536)
    call.close()
    until(fake.calls)
    (row,) = fake.calls()
    assert row["cancelled"]
    assert 3 <= row["completion_tokens"] < 400
    expected = row["prompt_tokens"] * Decimal("0.0000004") + row["completion_tokens"] * Decimal("0.0000016")
    assert expected == Decimal(row["billed"])
    data = asker.record(row["generation_id"]).json["data"]
    assert (True, None, row["completion_tokens"]) == (
        data["cancelled"],
        data["finish_reason"],
        data["native_tokens_completion"],
    )


def test_providers_that_cannot_abort_bill_all_of_it(asker, fake):
    call = start_call(fake, "tokens=300;gap_ms=5;provider=Groq", stream=True)
    call.recv(10)
    call.close()
    until(fake.calls)
    (row,) = fake.calls()
    assert (False, 300) == (row["cancelled"], row["completion_tokens"])
    assert not asker.record(row["generation_id"]).json["data"]["cancelled"]


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_vanishes_before_the_answer_is_booked(fake, stream):
    """
    Not streamed the call runs to its end and costs all of it; streamed it stops before its first token.
    """
    start_call(fake, "latency_ms=60000;tokens=9", stream=stream).close()
    until(fake.calls)
    (row,) = fake.calls()
    assert (200, None, stream) == (row["status"], row["response_sha256"], row["cancelled"])
    assert (0 if stream else 9) == row["completion_tokens"]
    assert row["billed"] is not None


def test_slow_reader_that_leaves_is_billed_for_what_it_could_get(fake):
    """
    The writer waits for its reader, so a stream of 12 MB is not booked as delivered because it fitted some buffer.
    """
    call = start_call(fake, "tokens=50000", stream=True)
    call.recv(10)
    time.sleep(0.7)  # longer than all of it takes to write
    assert not fake.calls()
    call.close()
    until(fake.calls)
    (row,) = fake.calls()
    assert row["cancelled"]
    assert 0 < row["completion_tokens"] < 50_000


def test_explicit_cost_holds_for_a_cancelled_call_too(fake):
    start_call(fake, "latency_ms=60000;cost=0.125", stream=True).close()
    until(fake.calls)
    assert "0.125" == fake.calls()[0]["billed"]


def test_calls_under_way_when_the_emulator_stops_are_booked():
    with FakeOpenRouter() as fake:
        call = start_call(fake, "latency_ms=60000", stream=True)
        until(lambda: fake._desk._arrived == 1)
    call.close()
    assert [True] == [row["cancelled"] for row in fake.calls()]


def test_books_file_holds_the_same_rows(tmp_path):
    """
    A line of JSON per call, appended: a second run goes on in the same file.
    """
    file = tmp_path / "books.jsonl"
    rows = []
    for seed in (1, 2):
        with FakeOpenRouter(seed, books=file) as fake:
            Asker(fake).chat()
            Asker(fake).stream()
        rows += fake.calls()
    assert rows == [json.loads(line) for line in file.read_text().splitlines()]


def test_latency_model_is_drawn_from_the_seed(asker):
    """
    Equal draws wait equally long, and half of all calls wait less than the median.
    """
    model = LatencyModel(median_ms=40, sigma=0.5)
    assert model.delay_ms(0.5) == pytest.approx(40)
    assert model.delay_ms(0.1) < 40 < model.delay_ms(0.9)
    with FakeOpenRouter(1, latency_model=LatencyModel(median_ms=60, sigma=0.0)) as fake:
        started = time.monotonic()
        Asker(fake).chat()
        assert 0.06 <= time.monotonic() - started


def test_what_counts_as_a_call():
    """
    The list of the recorder and that of the books are one list.
    """
    for path in (
        "/models",
        "/models/a/b/endpoints",
        "/key",
        "/keys",
        "/credits",
        "/generation",
        "/providers",
        "/endpoints/zdr",
    ):
        assert not is_call("GET", f"/api/v1{path}")
        assert is_call("POST", f"/api/v1{path}")
    for path in ("/api/v1/activity", "/api/v1/generation/content", "/api/v1/videos/x", "/other"):
        assert is_call("GET", path)
    assert not is_call("GET", "/api/v1/__emulator/calls")
