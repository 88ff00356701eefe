"""OpenRouter seen from request line, headers and bodies; the pure parts, with their corners."""

import hashlib
import itertools
import json
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.capture.recording import KEY, FakeRecorder, a_request, begun, example

from openrouter_audit.capture.attribution import attribution, current_scope
from openrouter_audit.capture.event_stream import EventScanner, Excerpt
from openrouter_audit.capture.exchange import SentRequest, SystemClock
from openrouter_audit.capture.grouping import Place, place_of, remember_failure
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.json_text import scan
from openrouter_audit.capture.log_line import log_call
from openrouter_audit.capture.openrouter import api_key, headers_of, key_hash, retry_after_ms, route, sdk, target_of
from openrouter_audit.capture.recorded_call import RecordedCall
from openrouter_audit.capture.request_facts import read_request
from openrouter_audit.core.entries import Parameters


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "is_call", "shown", "base"),
    [
        ("POST", "/api/v1/chat/completions", "chat", True, "/api/v1/chat/completions", "/api/v1"),
        ("POST", "/api/v1/completions", "completions", True, "/api/v1/completions", "/api/v1"),
        ("POST", "/api/v1/messages", "messages", True, "/api/v1/messages", "/api/v1"),
        ("POST", "/api/v1/audio/speech", "speech", True, "/api/v1/audio/speech", "/api/v1"),
        ("POST", "/api/v1/audio/transcriptions", "transcriptions", True, "/api/v1/audio/transcriptions", "/api/v1"),
        ("GET", "/api/v1/videos/gen-vid-1/content", "videos", True, "/api/v1/videos/~/content", "/api/v1"),
        ("POST", "/api/beta/batches", "batches", True, "/api/beta/batches", "/api/v1"),
        ("POST", "/api/alpha/decisions", "decisions", True, "/api/alpha/decisions", "/api/v1"),
        ("POST", "/api/v1/api/alpha/decisions", "decisions", True, "/api/v1/api/alpha/decisions", "/api/v1"),
        ("POST", "/api/v1/presets/my-secret/chat/completions", "presets", True, "/api/v1/presets/~/chat/completions", "/api/v1"),
        ("DELETE", "/api/v1/files/or_file_1", "files", True, "/api/v1/files/~", "/api/v1"),
        ("GET", "/api/v1/models", "data", False, "/api/v1/models", "/api/v1"),
        ("GET", "/api/v1/models/a/b/endpoints", "data", False, "/api/v1/models/~/~/endpoints", "/api/v1"),
        ("GET", "/api/v1/generation", "data", False, "/api/v1/generation", "/api/v1"),
        ("GET", "/api/v1/generation/content", "data", True, "/api/v1/generation/content", "/api/v1"),
        ("POST", "/api/v1/generation/feedback", "data", True, "/api/v1/generation/feedback", "/api/v1"),
        ("GET", "/api/v1/keys/abc", "data", False, "/api/v1/keys/~", "/api/v1"),
        ("POST", "/api/v1/messages/count_tokens", "unclassified", True, None, "/api/v1"),
        ("POST", "/v1/chat/completions", "chat", True, "/v1/chat/completions", "/v1"),
        ("POST", "/proxy/api/v1/responses", "responses", True, "/~/api/v1/responses", "/proxy/api/v1"),
    ],
)  # fmt: skip
def test_a_path_is_classified_and_shown_without_what_people_chose(method, path, endpoint, is_call, shown, base):
    assert (endpoint, is_call, shown, base) == route(method, path)


@pytest.mark.parametrize(
    ("fields", "product"),
    [
        ([(b"User-Agent", b"OpenAI/Python 3.54.0"), (b"X-Stainless-Package-Version", b"3.54.0")], "openai/3.54.0"),
        ([(b"User-Agent", b"AsyncOpenAI/Python 3.54.0"), (b"X-Stainless-Package-Version", b"3.54.0")], "openai/3.54.0"),
        ([(b"User-Agent", b"Agents/Python 0.24.0"), (b"X-Stainless-Package-Version", b"3.54.0")], "agents/0.24.0"),
        ([(b"User-Agent", b"pydantic-ai/2.68.0"), (b"X-Stainless-Package-Version", b"3.54.0")], "pydantic-ai/2.68.0"),
        ([(b"User-Agent", b"shop-bot"), (b"X-Stainless-Package-Version", b"3.54.0")], "shop-bot"),
        ([(b"User-Agent", b"shop/bot of ours"), (b"X-Stainless-Package-Version", b"3.54.0")], "shop/bot"),
        ([(b"User-Agent", b"Python/3.11 aiohttp/3.14.5")], "aiohttp/3.14.5"),
        ([(b"user-agent", b"speakeasy-sdk/python 1.3.84 2.914.0 1.0.0 openrouter")], "openrouter/1.3.84"),
        ([(b"user-agent", b"python-httpx2/2.16.2")], "python-httpx2/2.16.2"),
        ([], None),
    ],
)
def test_the_sdk_names_itself(fields, product):
    assert product == sdk(headers_of(fields))


def test_a_key_is_known_by_openrouters_own_hash():
    for fields in ([(b"Authorization", b"Bearer " + KEY.encode())], [(b"X-Api-Key", KEY.encode())]):
        assert KEY == api_key(headers_of(fields))
    assert hashlib.sha256(KEY.encode()).hexdigest() == key_hash(KEY)
    assert None is api_key({b"authorization": b"Basic abc"})


@pytest.mark.parametrize(
    ("value", "wait"), [(b"7", 7000), (b"0.5", 500), (b"-1", None), (b"Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_retry_after_is_milliseconds(value, wait):
    assert wait == retry_after_ms({b"retry-after": value})


def test_a_chat_request_says_what_was_asked():
    facts = read_request(example("requests/chat.json"))
    fields = facts.fields
    assert ("openai/gpt-4.1-mini", True, 2) == (fields["model"], fields["stream"], fields["message_count"])
    assert ("openai/gpt-4.1-mini", "anthropic/claude-haiku-4.5") == fields["models"]
    provider = fields["provider"]
    assert (("openai", "azure"), True, "deny", True, "price") == (
        provider.order, provider.allow_fallbacks, provider.data_collection, provider.zdr, provider.sort,
    )  # fmt: skip
    assert (("find_invoice",), 1, ("web",)) == (fields["tools"], fields["tool_count"], fields["plugins"])
    parameters = fields["parameters"]
    assert (256, "0.2", "7", "auto", "auto") == (
        parameters.max_tokens, parameters.temperature, parameters.seed, parameters.service_tier, parameters.tool_choice,
    )  # fmt: skip
    assert "invoice is overdue" not in repr(facts)


def test_a_responses_and_a_messages_request_too():
    facts = read_request(example("requests/responses.json"))
    assert (256, "customer-8841") == (facts.fields["parameters"].max_tokens, facts.user)
    facts = read_request(example("requests/messages.json"))
    assert (1, "customer-8841", "sess-2026-11-23-7f") == (facts.fields["message_count"], facts.user, facts.session)
    facts = read_request(b'{"input":[{},{}],"text":{"format":{"type":"json_schema"}},"reasoning":{"effort":"low"}}')
    assert 2 == facts.fields["message_count"]
    assert Parameters(response_format="json_schema", reasoning_effort="low") == facts.fields["parameters"]


def test_more_tools_and_models_than_fit_are_counted():
    body = {
        "models": [f"a/{n}" for n in range(20)],
        "tools": [{"type": "function", "function": {"name": f"t{n}"}} for n in range(70)],
    }
    fields = read_request(json.dumps(body).encode()).fields
    assert (16, 20, 64, 70) == (
        len(fields["models"]),
        fields["model_count"],
        len(fields["tools"]),
        fields["tool_count"],
    )


@pytest.mark.parametrize(
    "odd",
    [
        b'{"x":"\\ud800","model":"a/b","stream":true}',
        b'{"model":"a/b","stream":true,"messages":7}',
        b'{"model":"a/b","stream":true,',
        b'  {"stream":true,"model":"a/b"}',
    ],
)
def test_an_odd_body_still_says_its_model(odd):
    fields = read_request(odd).fields
    assert ("a/b", True) == (fields["model"], fields["stream"])


@given(st.binary(max_size=300))
def test_no_body_breaks_the_reader(body):
    read_request(body)
    read_request(b"{" + body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "models", "provider", "tools", "plugins", "text", "reasoning", "function", "user", "metadata", "input", "messages", "order", "tool_choice"]), inner, max_size=6), max_leaves=20))  # fmt: skip
def test_no_json_breaks_the_reader(value):
    """
    Members of every wrong type, at every level.
    """
    read_request(json.dumps(value).encode())
    exchange, _, _ = begun()
    exchange.head(200, {b"content-type": b"application/json"})
    exchange.body(
        json.dumps(
            {"choices": value, "usage": value, "error": value, "openrouter_metadata": value, "id": value}
        ).encode()
    )
    assert exchange.end_of_body().complete


@given(st.text(max_size=5), st.integers(), st.text(alphabet="a\ud800\U0001f600", max_size=2000))
def test_facts_can_always_be_put_into_a_frame(word, count, person):
    """
    Lone surrogates, integers past every machine word, texts without end: msgpack takes them, in less than 256 KiB.
    """
    body = {
        "model": word + person,
        "user": person,
        "max_tokens": count,
        "temperature": count,
        "tools": [{"name": person}] * 99,
    }
    answer = {
        "id": person,
        "model": word,
        "usage": {"prompt_tokens": count, "cost": 10**400},
        "error": {"code": person},
    }
    with attribution(user=person, tags={str(n): person for n in range(99)}):
        exchange, intent, private = begun(a_request("/x" * 9000, body=json.dumps(body).encode()), scope=current_scope())
    exchange.head(200, {b"content-type": b"application/json", b"x-generation-id": b"\xff" * 9000})
    exchange.body(json.dumps(answer).encode())
    outcome = exchange.end_of_body()
    assert len(msgspec.msgpack.encode([intent, private, outcome])) < 256 * 1024


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_an_excerpt_is_the_whole_text_while_it_is_short(pieces):
    excerpt = Excerpt()
    for piece in pieces:
        excerpt.add(piece)
    assert b"".join(pieces) == excerpt.take()
    assert b"" == excerpt.take()


@given(st.text(alphabet='ab"\\\n\r:[]{}, DONEdatusge', max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_the_scanner_finds_the_same_lines_however_they_are_cut(text, cuts):
    body = text.encode()
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})

    def found(pieces):
        scanner = EventScanner()
        lines = [line for piece in pieces for line in scanner.feed(piece)]
        return lines + list(scanner.flush())

    assert found([body]) == found([body[a:b] for a, b in itertools.pairwise(edges)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'x"usage" : {"a":"}","b":[{}]} ', b'{"a":"}","b":[{}]}'),
        (b'"usage":1e-7,', b"1e-7"),
        (b'"usage":"a\\"b"', b'"a\\"b"'),
        (b'"usage":{"a"', None),
    ],
)
def test_a_scan_finds_a_value_up_to_its_end(text, value):
    found = scan(text, b"usage")
    assert value == (None if found is None else bytes(found))


def test_hosts_are_watched_by_name_and_by_name_and_port():
    hosts = HostSet(["proxy.local", " localhost:8080 ", "[::1]:9", ""])
    assert hosts.watches("openrouter.ai", 443)
    assert hosts.watches("eu.openrouter.ai", 443)
    assert hosts.watches("proxy.local", 1)
    assert hosts.watches("localhost", 8080)
    assert not hosts.watches("localhost", 80)
    assert hosts.watches("::1", 9)
    assert not hosts.watches("evil-openrouter.ai", 443)
    assert not hosts.watches("openrouter.ai.evil", 443)
    for number in range(100):
        hosts.notice(f"h{number}", 443, "/api/v1/chat/completions")
    hosts.notice("other", None, "/weather")
    assert 16 == len(hosts.strangers)
    assert "other" not in hosts.strangers


def test_a_retry_is_an_attempt_only_after_its_own_failure():
    """
    Another body, another URL, a count out of order: new groups; two equal calls that fail in turn do not mix.
    """

    class Request:
        pass

    def sent(count, body=b"x", url="u", request=None):
        headers = {} if count is None else {b"x-stainless-retry-count": count}
        target = target_of("POST", "https", "openrouter.ai", None, "/api/v1/chat/completions")
        return SentRequest(
            request=request or Request(), url=url, method="POST", target=target, headers=headers, body=body
        )

    def place(count, **request):
        return place_of(sent(count, **request), fresh=f"{next(numbers):032x}")

    numbers = iter(range(100))
    first = place(b"0")
    remember_failure(sent(b"0"), first)
    other = place(b"0")
    remember_failure(sent(b"0"), other)
    assert Place(other.group, 2) == place(b"1")
    assert (
        1
        == place(b"2").attempt
        == place(b"1", body=b"y").attempt
        == place(b"1", url="v").attempt
        == place(None).attempt
    )
    same = Request()
    again = [place(None, body=None, request=same) for _ in range(3)]
    assert [1, 2, 3] == [one.attempt for one in again]
    assert 1 == len({one.group for one in again})


def test_the_log_line_has_the_twelve_keys_and_no_person(caplog):
    recorder = FakeRecorder()
    call = RecordedCall.begin(recorder, a_request(body=b'{"model":"a/b","user":"customer-8841"}'), clock=SystemClock())
    call.head(200, [(b"content-type", b"application/json")])
    call.piece(example("chat/nonstream.json"))
    call.end()
    (finished,) = recorder.finished_calls
    log_call(finished)
    assert [] == caplog.records
    with caplog.at_level(logging.INFO, "openrouter_audit.calls"):
        log_call(finished)
        log_call(finished, log_user_ids=True)
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert {
        "call_id", "timestamp", "generation_id", "model_requested", "model_used", "prompt_tokens", "completion_tokens", "total_cost",
        "latency_ms", "status", "user_id", "prompt_hash", "error_code",
    } == set(lines[0])  # fmt: skip
    assert ("0.0003136", "success", "a/b") == (lines[0]["total_cost"], lines[0]["status"], lines[0]["model_requested"])
    assert finished.private.reference == lines[0]["user_id"]
    assert "customer-8841" == lines[1]["user_id"]
    assert KEY not in caplog.text
    assert "Invoice INV" not in caplog.text


def test_a_request_about_to_be_sent_does_not_show_its_key():
    """
    Tracebacks print the locals of their frames where somebody asks them to.
    """
    sent = a_request(body=b"a prompt")
    assert KEY.encode() in sent.headers[b"authorization"]
    assert KEY not in repr(sent)
    assert "prompt" not in repr(sent)
