import json
import logging
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.enrichment.fakes import EXAMPLES, KEY, ScriptedServer

from openrouter_audit.enrichment.generations import (
    MAX_ANSWER_BYTES,
    CostMissing,
    Found,
    GenerationClient,
    IdMismatch,
    NotYet,
    ServerTrouble,
    Throttled,
    Unauthorized,
    read_answer,
    read_retry_after,
)

RECORDS = sorted(path for path in (EXAMPLES / "generation").glob("*.json") if "content" not in path.name)


def answer_of(**data):
    return json.dumps({"data": {"id": "gen-1", "total_cost": 0.5} | data}).encode()


def ask(*answers, key=KEY, generation_id="gen-1"):
    client = GenerationClient(timeout_s=2)
    try:
        with ScriptedServer(*answers) as server:
            return client.ask(server.url, generation_id, key), server
    finally:
        client.close()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_example_record_is_found_with_the_very_digits_of_its_cost(path):
    """
    The money in the record is the text that stands in the file, whatever is null or missing beside it.
    """
    raw = path.read_bytes()
    answer = read_answer(raw, json.loads(raw)["data"]["id"])

    assert isinstance(answer, Found)
    assert answer.raw == raw
    assert f'"total_cost": {answer.record.total_cost},'.encode() in raw
    if answer.record.upstream_cost is not None:
        assert f'"upstream_inference_cost": {answer.record.upstream_cost},'.encode() in raw


def test_a_byok_record_keeps_fee_and_upstream_bill_apart():
    """
    Under BYOK the account pays a fee and the provider sends its own bill.
    """
    raw = (EXAMPLES / "generation" / "byok.json").read_bytes()
    record = read_answer(raw, "gen-1795424460-gBPrUhRZdsvDQuc8dWrd").record

    assert ("0.00001656", "0.0003312", True) == (record.total_cost, record.upstream_cost, record.is_byok)
    assert (780, 12, "412", "1390") == (
        record.prompt_tokens,
        record.completion_tokens,
        record.latency_ms,
        record.generation_time_ms,
    )
    assert [("Azure", 200)] == [(attempt.provider, attempt.status) for attempt in record.attempts]


@pytest.mark.parametrize(
    "digits", ["1e-7", "1.2E-07", "0.00046869999999999995", "0.0076509169000000005", "0", "-0.5", "12"]
)
def test_a_cost_keeps_the_digits_it_came_with(digits):
    """
    No float stands between the wire and the entry.
    """
    answer = read_answer(b'{"data":{"id":"gen-1","total_cost":%s}}' % digits.encode(), "gen-1")

    assert digits == answer.record.total_cost


@pytest.mark.parametrize(
    "cost",
    [b"null", b'""', b'"a lot"', b"[]", b"true", b"{}", b"1e-12345", b"0." + b"1" * 70],
    ids=lambda cost: cost[:9],
)
def test_a_cost_that_is_no_amount_is_missing_and_never_zero(cost):
    """
    Unknown is not free: such a record is asked for again.
    """
    answer = read_answer(b'{"data":{"id":"gen-1","total_cost":%s,"model":"a/b"}}' % cost, "gen-1")

    assert isinstance(answer, CostMissing)
    assert answer.record.total_cost is None
    assert "a/b" == answer.record.model
    assert isinstance(read_answer(b'{"data":{"id":"gen-1"}}', "gen-1"), CostMissing)


def test_the_record_of_another_generation_is_not_accepted():
    """
    One recording of OpenRouter hints at it; a price of somebody else's call would be worse than none.
    """
    assert IdMismatch() == read_answer(answer_of(id="gen-2"), "gen-1")
    assert IdMismatch() == read_answer(answer_of(id=None), "gen-1")


def test_unknown_members_and_odd_types_do_not_cost_us_the_price():
    """
    Every field beside id and cost has a type nobody expected, and a string holds half a character.
    """
    odd = {
        "is_byok": "yes", "model": 7, "provider_name": ["x"], "native_tokens_prompt": 1.5, "native_tokens_completion": -3,
        "native_tokens_cached": 10**30, "latency": "soon", "provider_responses": [7, {"status": None}], "new": {"a": [None]},
        "finish_reason": "", "cancelled": 1, "external_user": "\ud800",
    }  # fmt: skip
    record = read_answer(answer_of(**odd), "gen-1").record

    assert "0.5" == record.total_cost
    assert (None,) * 8 == (
        record.is_byok, record.model, record.provider, record.prompt_tokens, record.completion_tokens,
        record.cached_tokens, record.latency_ms, record.cancelled,
    )  # fmt: skip
    assert 1 == len(record.attempts)
    assert "?" == read_answer(answer_of(model="\ud800"), "gen-1").record.model


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(lambda value: json.dumps({"data": value}).encode())
)
def test_no_body_makes_reading_fail(body):
    """
    Whatever a server sends becomes an answer, not an exception.
    """
    assert isinstance(read_answer(body, "gen-1"), ServerTrouble | IdMismatch | CostMissing | Found)


def test_a_body_nested_beyond_reason_is_trouble_not_a_crash():
    """
    Deep nesting exhausts the parser's stack.
    """
    assert ServerTrouble(200, "body") == read_answer(b'{"data":' + b"[" * 200_000, "gen-1")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((404, {}, b"{}"), NotYet()),
        ((401, {}, b"{}"), Unauthorized(401)),
        ((403, {}, b"{}"), Unauthorized(403)),
        ((429, {}, b"{}"), Throttled(None)),
        ((429, {"Retry-After": "7"}, b"{}"), Throttled(7_000_000)),
        ((503, {"Retry-After": "3"}, b"{}"), ServerTrouble(503, "http", 3_000_000)),
        ((524, {}, b"error code: 524"), ServerTrouble(524, "http")),
        ((408, {}, b""), ServerTrouble(408, "http")),
        ((500, {}, b"<html>"), ServerTrouble(500, "http")),
        ((200, {}, b"<html>"), ServerTrouble(200, "body")),
        ((200, {}, b'{"data":null}'), ServerTrouble(200, "body")),
        ((200, {}, b" " * (MAX_ANSWER_BYTES + 1)), ServerTrouble(200, "too_long")),
    ],
    ids=lambda value: f"{value[0]}" if isinstance(value, tuple) else "",
)
def test_each_status_has_its_answer(answer, expected):
    """
    Over a socket; the key and the id are in the places where OpenRouter looks for them.
    """
    got, server = ask(answer)

    assert expected == got
    path, headers = server.requests[0]
    assert ("/api/v1/generation?id=gen-1", f"Bearer {KEY}", "identity") == (
        path,
        headers["Authorization"],
        headers["Accept-Encoding"],
    )
    assert 1 == len(server.requests)


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else():
    """
    A key belongs to the origin of its call (C7), whoever says that the record has moved.
    """
    with ScriptedServer((200, {}, answer_of())) as elsewhere:
        got, _ = ask((302, {"Location": elsewhere.url + "/generation?id=gen-1"}, b""))

        assert ServerTrouble(302, "http") == got
        assert [] == elsewhere.requests


def test_cookies_of_one_question_are_not_sent_with_the_next():
    """
    The edge sets cookies; two keys of one process are not to be tied together by them.
    """
    client = GenerationClient()
    with ScriptedServer((200, {"Set-Cookie": "__cf_bm=abc; Path=/"}, answer_of())) as server:
        client.ask(server.url, "gen-1", KEY)
        client.ask(server.url, "gen-1", KEY)
    client.close()

    assert [None, None] == [headers.get("Cookie") for _, headers in server.requests]


def test_an_id_is_quoted_so_that_it_stays_one_parameter():
    """
    Ids are opaque: nothing in them may become another question.
    """
    _, server = ask((404, {}, b""), generation_id="gen-1&x=/..?#é")

    assert "/api/v1/generation?id=gen-1%26x%3D%2F..%3F%23%C3%A9" == server.requests[0][0]


@pytest.mark.parametrize("key", [KEY + "\n", KEY + "é", KEY + "\ud800", KEY + "\0"])
def test_a_key_that_fits_no_header_appears_in_no_answer_and_no_log(key, caplog):
    """
    The codecs and h11 quote the header they cannot send, key and all, and httpcore2 logs what they say.
    """
    caplog.set_level(logging.DEBUG)
    got, server = ask((200, {}, answer_of()), key=key)

    assert ServerTrouble(None, "key") == got
    assert [] == server.requests
    assert KEY[9:] not in repr(got) + caplog.text


def test_a_key_that_is_sent_appears_in_no_log(caplog):
    """
    Everything at DEBUG: neither ours nor a library's line names the key.
    """
    caplog.set_level(logging.DEBUG)
    ask((200, {}, answer_of()))
    ask((401, {}, b"{}"))

    assert "httpcore2" in caplog.text
    assert KEY[9:] not in caplog.text


def test_a_forked_child_uses_no_connection_of_its_parent(tmp_path):
    """
    Two processes reading from one connection would get each other's answers: the child opens its own, the parent keeps its.
    """
    script = tmp_path / "forks.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {os.getcwd()!r})
        from openrouter_audit.enrichment.generations import Found, GenerationClient
        from tests.enrichment.fakes import KEY
        client = GenerationClient()
        ask = lambda: isinstance(client.ask(sys.argv[1], "gen-1", KEY), Found)
        assert ask()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if ask() and ask() else 1)
        assert 0 == os.waitpid(pid, 0)[1]
        assert ask()
        client.close()
        """)
    )
    with ScriptedServer((200, {}, answer_of())) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script), server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ("", 0) == (done.stderr, done.returncode)
        parent, child, child_again, parent_again = server.ports
        assert parent == parent_again != child == child_again


def test_nobody_at_home_is_an_answer():
    """
    A refused connection, a silent server and an impossible address are all trouble, told by a word.
    """
    client = GenerationClient(timeout_s=0.2)
    with ScriptedServer("hang") as server:
        silent = client.ask(server.url, "gen-1", KEY)
        port = server.url
    refused = client.ask(port, "gen-1", KEY)
    client.close()

    assert ServerTrouble(None, "ReadTimeout") == silent
    assert ServerTrouble(None, "ConnectError") == refused
    assert isinstance(client.ask("not an address", "gen-1", KEY), ServerTrouble)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0), ("120", 120_000_000), (" 5 ", 5_000_000), ("Thu, 01 Jan 1970 00:01:40 GMT", 40_000_000),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0), ("Thu, 01 Jan 1970 00:01:40 -0000", 40_000_000),
        ("soon", None), ("-3", None), ("1.5", None), ("9" * 40, None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_as_a_date(value, expected):
    """
    Both forms of RFC 9110; anything else is as if nothing had been said.
    """
    assert expected == read_retry_after(value, utc_s=60.0)
