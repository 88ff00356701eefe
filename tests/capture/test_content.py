"""What is kept of bodies: by rule and mode, in every shape, and what a finding does."""

import json

import httpx2
import openai
import pytest
from tests.capture.recording import KEY, MODEL, FakeRecorder, installed
from tests.promises.servers import STREAM_HEAD, RawServer, whole

from openrouter_audit.capture.assembly import MAX_TEXT, assembled
from openrouter_audit.capture.content import (
    MAX_ANSWER_BYTES,
    ContentPolicy,
    ContentRule,
    Treatment,
    preview_of,
)
from openrouter_audit.core.redaction import Cut, OwnPattern, Policy
from openrouter_audit.errors import ContentBlocked, PatternError

QUESTION = "Write to jane.doe@example.com, her card is 4111 1111 1111 1111"
SECRET = "sk-or-v1-" + "fedcba9876543210" * 4
ANSWER = {
    "id": "gen-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "Call her at +1 212-555-0187.",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "send", "arguments": json.dumps({"to": "jane.doe@example.com"})},
                    }
                ],
            },
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 1e-7},
}


def policy(mode="redacted", action="redact", *, redaction=Policy(), **options):  # noqa: B008 - frozen
    return ContentPolicy(mode=mode, action=action, redaction=redaction, **options)


def recorder(*arguments, **options):
    fake = FakeRecorder()
    fake.content = policy(*arguments, **options)
    return fake


def answering(value, fields="", status="200 OK"):
    text = value if isinstance(value, str) else json.dumps(value)
    return RawServer(lambda *_: [whole(text, status=status, fields=fields)])


def streaming(*events, pieces=None):
    lines = b"".join(
        b"data: %b\n\n" % (each if isinstance(each, bytes) else json.dumps(each).encode()) for each in events
    )
    return RawServer(lambda *_: [STREAM_HEAD, *(pieces(lines) if pieces else [lines])])


def ask(server, said=QUESTION, **options):
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0) as sdk:
        done = sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": said}], **options)
        return list(done) if options.get("stream") else done


def kept(fake, kind):
    """What stands beside the intent or the outcome of the only call."""
    ((facts, private, _),) = [frame for frame in fake.frames if type(frame[0]).__name__ == kind]
    return facts, None if private is None else private.content


def counts(facts):
    return {found.kind: found.count for found in facts.findings}


# Modes --------------------------------------------------------------------------------------------------------------


def test_without_settings_nothing_is_kept():
    fake = FakeRecorder()
    with answering(ANSWER) as server, installed(fake):
        ask(server)

    intent, request = kept(fake, "CallIntent")
    outcome, answer = kept(fake, "CallOutcome")
    assert (None, None, None) == (request, answer, intent.content_mode)
    assert ((), ()) == (intent.findings, outcome.findings)


def test_redacted_keeps_both_bodies_without_what_was_found():
    fake = recorder("redacted")
    with answering(ANSWER) as server, installed(fake):
        ask(server)
        assert QUESTION.encode() in server.requests[0]  # and the server got them as they were

    intent, request = kept(fake, "CallIntent")
    outcome, answer = kept(fake, "CallOutcome")
    assert "redacted" == intent.content_mode
    assert {"EMAIL": 1, "CARD": 1} == counts(intent)
    assert [{"role": "user", "content": "Write to [EMAIL], her card is [CARD]"}] == json.loads(request.text)["messages"]
    message = json.loads(answer.text)["choices"][0]["message"]
    assert "Call her at [PHONE]." == message["content"]
    assert {"to": "[EMAIL]"} == json.loads(message["tool_calls"][0]["function"]["arguments"])
    assert {"EMAIL": 1, "PHONE": 1} == counts(outcome)
    assert (len(request.text), None) == (request.whole_bytes, request.cut)


def test_preview_keeps_the_first_words_of_question_and_answer():
    fake = recorder("preview")
    with answering(ANSWER) as server, installed(fake):
        ask(server, QUESTION + " and so on" * 100)

    assert (
        kept(fake, "CallIntent")[1].text.decode() == ("Write to [EMAIL], her card is [CARD]" + " and so on" * 100)[:200]
    )
    assert b"Call her at [PHONE]." == kept(fake, "CallOutcome")[1].text


def test_full_keeps_the_very_bytes_and_looks_for_nothing():
    fake = recorder("full")
    with answering(ANSWER) as server, installed(fake):
        ask(server)
        sent = server.requests[0].partition(b"\r\n\r\n")[2]

    intent, request = kept(fake, "CallIntent")
    assert (sent, ()) == (request.text, intent.findings)
    assert json.dumps(ANSWER).encode() == kept(fake, "CallOutcome")[1].text


def test_full_with_an_action_looks_and_keeps_the_bytes_all_the_same():
    fake = recorder("full", "report")
    with answering(ANSWER) as server, installed(fake):
        ask(server)

    intent, request = kept(fake, "CallIntent")
    assert QUESTION.encode() in request.text
    assert {"EMAIL": 1, "CARD": 1} == counts(intent)


@pytest.mark.parametrize(
    ("text", "preview"),
    [
        ('{"prompt":"Once upon","model":"m"}', "Once upon"),
        ('{"input":"What is"}', "What is"),
        ('{"input":[{"role":"user","content":[{"type":"input_text","text":"What is"}]},{"role":"assistant","content":"x"}]}', "What is"),
        ('{"messages":[{"role":"user","content":"first"},{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"last"}]}]}', "last"),
        ('{"choices":[{"message":{"content":null,"reasoning":"r","tool_calls":[]}}]}', '{"choices":[{"message":{"content":null,"reasoning":"r","tool_calls":[]}}]}'),
        ('{"choices":[{"text":"upon a time"}]}', "upon a time"),
        ('{"type":"message","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"Hello"}]}', "Hello"),
        ('{"output":[{"type":"reasoning","summary":[]},{"type":"message","content":[{"type":"output_text","text":"Hello"}]}]}', "Hello"),
        ('{"error":{"code":429,"message":"slow down"}}', "slow down"),
        ("<html>", "<html>"),
        ("[1, 2]", "[1, 2]"),
        ("[" * 10_000, "[" * 200),
        ("", ""),
    ],
)  # fmt: skip
def test_a_preview_is_of_what_somebody_said(text, preview):
    assert preview == preview_of(text.encode()).decode()


# Rules --------------------------------------------------------------------------------------------------------------

FACTS = {"endpoint": "chat", "model": "openai/gpt-4.1-mini", "key": "ab" * 32, "user": "u-1"}


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"endpoint": "chat"}, True),
        ({"endpoint": "responses"}, False),
        ({"model": "openai/*"}, True),
        ({"model": "openai"}, False),
        ({"key": "ABAB"}, True),
        ({"key": "ba"}, False),
        ({"user": "u-1"}, True),
        ({"user": "u-2"}, False),
        ({"tag": "team=search"}, True),
        ({"tag": "team=other"}, False),
        ({"endpoint": "chat", "user": "u-2"}, False),
        ({}, True),
    ],
)
def test_the_first_rule_that_fits_all_it_names_decides(rule, fits):
    rules = [ContentRule(mode="full", **rule), ContentRule(mode="preview")]
    chosen = policy("none", rules=rules).treatment(FACTS, {"team": "search"})

    assert Treatment("full" if fits else "preview", "redact") == chosen


def test_a_call_that_says_nothing_fits_no_rule_that_asks_for_something():
    rules = [
        ContentRule(model="*?", mode="full"),
        ContentRule(key="a", mode="full"),
        ContentRule(user="u", mode="full"),
    ]
    unknown = {"endpoint": "files", "model": None, "key": None, "user": None}

    assert Treatment("none", "redact") == policy("none", rules=rules).treatment(unknown, {})


def test_a_rule_may_change_the_action_alone():
    chosen = policy("redacted", rules=[ContentRule(user="u-1", action="block")])

    assert Treatment("redacted", "block") == chosen.treatment(FACTS, {})
    assert Treatment("redacted", "redact") == chosen.treatment({**FACTS, "user": "u-2"}, {})


def test_a_policy_that_concerns_no_call_says_so():
    assert policy("none").is_idle
    assert not policy("none", rules=[ContentRule(user="u", mode="preview")]).is_idle
    assert not policy("none", "report").is_idle


def test_a_bad_pattern_is_refused_when_the_policy_is_made():
    with pytest.raises(PatternError):
        policy(redaction=Policy(patterns=(OwnPattern(name="BAD", pattern="("),)))


# Actions ------------------------------------------------------------------------------------------------------------


def test_block_sends_nothing_and_both_records_say_so():
    fake = recorder("none", "block")
    with answering(ANSWER) as server, installed(fake):
        with pytest.raises(ContentBlocked) as raised:
            ask(server)
        assert not server.requests

    blocked = raised.value
    assert ("CARD", "EMAIL") == blocked.kinds
    assert "jane" not in str(blocked)
    intent, request = kept(fake, "CallIntent")
    outcome, answer = kept(fake, "CallOutcome")
    assert intent.id == blocked.call_id
    assert ("refused", "ContentBlocked") == (outcome.status, outcome.error_code)
    assert {"CARD": 1, "EMAIL": 1} == counts(intent)
    assert (None, None) == (request, answer)


@pytest.mark.parametrize("client", [httpx2.Client, httpx2.AsyncClient])
def test_a_bare_client_gets_the_refusal_itself(client):
    import asyncio

    fake = recorder("none", "block")
    with answering(ANSWER) as server, installed(fake):
        url, body = f"{server.url}/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]}
        with pytest.raises(ContentBlocked):
            if client is httpx2.Client:
                with client() as http:
                    http.post(url, json=body)
            else:

                async def run():
                    async with client() as http:
                        await http.post(url, json=body)

                asyncio.run(run())
        assert not server.requests


def test_block_lets_by_what_has_nothing_to_find_and_what_belongs_into_a_request():
    """
    A picture and the id of an end user are replaced in what is kept, and are no reason to refuse.
    """
    picture = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" * 20
    said = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": picture}}]
    fake = recorder("redacted", "block")
    with answering(ANSWER) as server, installed(fake):
        ask(server, said, user="u-17")

    intent, request = kept(fake, "CallIntent")
    assert {"MEDIA": 1, "USER_ID": 1} == counts(intent)
    url = json.loads(request.text)["messages"][0]["content"][1]["image_url"]["url"]
    assert url.startswith("[MEDIA image/png ")
    assert " hmac-sha256:" in url


def test_block_refuses_a_request_that_nobody_can_look_through():
    fake = recorder("none", "block")
    with answering(ANSWER) as server, installed(fake):
        with httpx2.Client() as http, pytest.raises(ContentBlocked) as raised:
            http.post(
                f"{server.url}/chat/completions",
                content=iter([b'{"messages"', b":[]}"]),
                headers={"content-type": "application/json"},
            )
        assert ("WITHHELD",) == raised.value.kinds

        class Broken:
            def find(self, text):
                raise RuntimeError("no model")

        fake.frames.clear()
        fake.content = policy("redacted", "block", redaction=Policy(detectors=(Broken(),)))
        with pytest.raises(ContentBlocked):
            ask(server, "hello")
        assert not server.requests


def test_report_raises_an_alert_for_the_call_and_sends_it():
    fake = recorder("none", "report")
    with answering(ANSWER) as server, installed(fake):
        ask(server)
        assert 1 == len(server.requests)
        ask(server, "hello")

    alerts = [facts for facts, _, _ in fake.frames if type(facts).__name__ == "AlertRaised"]
    intents = [facts for facts, _, _ in fake.frames if type(facts).__name__ == "CallIntent"]
    assert [("content_found", intents[0].id)] == [(alert.rule, alert.call) for alert in alerts]


# Answers ------------------------------------------------------------------------------------------------------------


def chunk(delta, **more):
    return {"id": "gen-2", "model": MODEL, "choices": [{"index": 0, "delta": delta} | more]}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_secret_that_is_cut_over_events_and_pieces_is_found(size):
    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": f"key {SECRET} end"[at : at + 5]}) for at in range(0, len(SECRET) + 8, 5)]
    events += [chunk({"reasoning": "mail jane."}), chunk({"reasoning": "doe@example.com"})]
    events += [
        chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"to":"+1 212-'}}]})
    ]
    events += [chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"arguments": '555-0187"}'}}]})]
    events += [chunk({}, finish_reason="stop"), b"[DONE]"]

    def cut(data):
        return [data[at : at + size] for at in range(0, len(data), size)]

    fake = recorder()
    with streaming(*events, pieces=cut) as server, installed(fake):
        ask(server, "hello", stream=True)

    outcome, answer = kept(fake, "CallOutcome")
    choice = json.loads(answer.text)["choices"][0]
    assert {"role": "assistant", "content": "key [API_KEY] end", "reasoning": "mail [EMAIL]"} | {
        "tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"to":"[PHONE]"}'}}]
    } == choice["message"]
    assert "stop" == choice["finish_reason"]
    assert {"API_KEY": 1, "EMAIL": 1, "PHONE": 1} == counts(outcome)


def test_of_a_stream_that_broke_off_what_came_is_kept():
    with streaming(chunk({"content": "one "}), chunk({"content": "two jane.doe@exam"})) as server:
        fake = recorder()
        with installed(fake):
            ask(server, "hello", stream=True)

    outcome, answer = kept(fake, "CallOutcome")
    assert "error" == outcome.status
    assert b"one two" in answer.text


def test_an_error_that_quotes_the_prompt_is_kept_without_what_it_quotes():
    error = {
        "error": {"code": 403, "message": "flagged", "metadata": {"flagged_input": QUESTION, "raw": json.dumps({"q": QUESTION})}},
        "user_id": "user_2abc",
    }  # fmt: skip
    fake = recorder()
    with (
        answering(error, status="403 Forbidden") as server,
        installed(fake),
        pytest.raises(openai.PermissionDeniedError),
    ):
        ask(server)

    outcome, answer = kept(fake, "CallOutcome")
    said = json.loads(answer.text)
    assert {"q": "Write to [EMAIL], her card is [CARD]"} == json.loads(said["error"]["metadata"]["raw"])
    assert "[USER_ID]" == said["user_id"]
    assert {"EMAIL": 2, "CARD": 2, "USER_ID": 1} == counts(outcome)


def test_a_sound_is_kept_as_its_type_size_and_commitment():
    body = b"\x00\xff" * 500
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"
    fake = recorder()
    with RawServer(lambda *_: [head, body]) as server, installed(fake), httpx2.Client() as http:
        http.post(f"{server.url}/audio/speech", json={"input": "hello"})

    text = kept(fake, "CallOutcome")[1].text.decode()
    assert text.startswith("[MEDIA audio/mpeg 1000 bytes hmac-sha256:")


def test_vectors_are_not_kept():
    fake = recorder("full")
    with answering({"data": [{"embedding": [0.123456789] * 100}]}) as server, installed(fake), httpx2.Client() as http:
        http.post(f"{server.url}/embeddings", json={"input": "hello"})

    assert kept(fake, "CallIntent")[1] is not None
    assert kept(fake, "CallOutcome")[1] is None


def test_of_a_long_body_both_ends_are_kept_after_it_was_redacted():
    fake = recorder("redacted", max_bytes=1024)
    with answering(ANSWER) as server, installed(fake):
        ask(server, f"{QUESTION} {'ä' * 5_000} {QUESTION}")

    intent, request = kept(fake, "CallIntent")
    assert {"EMAIL": 2, "CARD": 2} == counts(intent)
    assert "size" == request.cut
    assert 1024 >= len(request.text) < request.whole_bytes
    text = request.text.decode()
    assert text.count("[EMAIL]") == 2
    assert " bytes left out …]" in text


def test_an_answer_beyond_all_bounds_is_withheld():
    fake = recorder()
    with answering({"choices": [], "x": "a" * MAX_ANSWER_BYTES}) as server, installed(fake):
        ask(server)

    outcome, answer = kept(fake, "CallOutcome")
    assert (b"[WITHHELD]", {"WITHHELD": 1}) == (answer.text, counts(outcome))


def test_a_request_beyond_all_bounds_is_withheld(monkeypatch):
    from openrouter_audit.capture import content

    monkeypatch.setattr(content, "MAX_REQUEST_BYTES", 50)
    fake = recorder()
    with answering(ANSWER) as server, installed(fake):
        ask(server)

    intent, request = kept(fake, "CallIntent")
    assert (b"[WITHHELD]", {"WITHHELD": 1}) == (request.text, counts(intent))


def test_a_fault_costs_the_content_and_not_the_call(monkeypatch):
    from openrouter_audit.capture.recorded_call import faults
    from openrouter_audit.core import redaction

    fake = recorder()

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(redaction, "redact_json", broken)
    with answering(ANSWER) as server, installed(fake):
        assert "gen-1" == ask(server, metadata={"k": "v"}).id

    assert (b"[WITHHELD]", "success") == (kept(fake, "CallIntent")[1].text, kept(fake, "CallOutcome")[0].status)
    assert faults.counts["content"] >= 1
    ((_, private, _),) = [frame for frame in fake.frames if type(frame[0]).__name__ == "CallIntent"]
    assert private.context is None  # nor are its claims


def test_free_words_beside_the_body_are_redacted_with_it():
    fake = recorder()
    with answering(ANSWER) as server, installed(fake):
        ask(server, "hello", metadata={"contact": "jane.doe@example.com"}, extra_body={"trace": {"name": SECRET}})

    ((_, private, _),) = [frame for frame in fake.frames if type(frame[0]).__name__ == "CallIntent"]
    assert {"contact": "[EMAIL]"} == private.context.claimed.metadata
    assert {"name": "[API_KEY]"} == private.context.claimed.trace


def test_equal_values_of_a_call_get_equal_numbers_in_request_and_answer():
    fake = recorder(redaction=Policy(numbered=True))
    said = "from john@example.com to jane.doe@example.com"
    with (
        answering({"choices": [{"message": {"content": "jane.doe@example.com, and max@example.com"}}]}) as server,
        installed(fake),
    ):
        ask(server, said)

    assert b"from [EMAIL_1] to [EMAIL_2]" in kept(fake, "CallIntent")[1].text
    assert b"[EMAIL_2], and [EMAIL_3]" in kept(fake, "CallOutcome")[1].text


# Assembly -----------------------------------------------------------------------------------------------------------


def stream_of(*events):
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def test_messages_are_put_together_from_their_blocks():
    events = [
        {"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "content": [], "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]  # fmt: skip
    assert {
        "id": "msg_1",
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 5},
        "stop_reason": "end_turn",
    } == assembled(stream_of(*events))


def test_of_responses_the_last_word_is_taken_and_without_one_what_came():
    said = [
        {"type": "response.created", "response": {"id": "r", "output": [], "instructions": "be brief"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hel"},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "lo"},
        {"type": "response.output_item.done", "output_index": 1, "item": {"type": "function_call", "arguments": "{}"}},
    ]
    whole_answer = {"id": "r", "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]}
    assert whole_answer == assembled(stream_of(*said, {"type": "response.completed", "response": whole_answer}))
    assert {
        "output": [{"type": "output_text", "text": "Hello"}, {"type": "function_call", "arguments": "{}"}]
    } == assembled(stream_of(*said))


def test_tool_calls_of_one_index_and_two_ids_are_two():
    events = [
        chunk({"tool_calls": [{"index": 0, "id": name, "function": {"name": name, "arguments": piece}}]})
        for name, piece in (("a", "{"), ("a", "}"), ("b", "[]"))
    ]
    calls = assembled(stream_of(*events))["choices"][0]["message"]["tool_calls"]
    assert [("a", "{}"), ("b", "[]")] == [(call["id"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"data: [DONE]\n\n",
        b"data: {\n\n",
        b"data: [1]\n\n",
        b"data: " + b'{"a":' * 5_000 + b"\n\n",
        stream_of({"choices": 7}, {"choices": [7, {"index": "x", "delta": 3}]}),
        stream_of({"type": "response.output_text.delta", "delta": 3}, {"type": "content_block_delta", "delta": []}),
        stream_of({"type": "message_start", "message": "m"}, {"type": "unheard.of", "text": "t"}),
    ],
)
def test_no_stream_breaks_the_assembler(stream):
    assert isinstance(assembled(stream), dict | None)


def test_what_is_longer_than_all_bounds_is_cut_and_says_so():
    value = assembled(stream_of(*[chunk({"content": "a" * 60_000})] * 20))
    content = value["choices"][0]["message"]["content"]
    assert isinstance(content, Cut)
    assert MAX_TEXT == len(content)


def test_half_characters_and_an_error_are_kept():
    value = assembled(
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'
        + stream_of({"type": "error", "error": {"message": "m"}})
    )
    assert {"message": "m"} == value["error"]
    assert "\ud83d" == value["choices"][0]["message"]["content"]


def test_full_keeps_of_a_stream_the_answer_it_was():
    fake = recorder("full")
    with (
        streaming(chunk({"content": "one jane.doe@"}), chunk({"content": "example.com"}), b"[DONE]") as server,
        installed(fake),
    ):
        ask(server, "hello", stream=True)

    message = json.loads(kept(fake, "CallOutcome")[1].text)["choices"][0]["message"]
    assert {"content": "one jane.doe@example.com"} == message


def test_of_a_stream_that_says_nothing_nothing_is_kept():
    fake = recorder()
    with streaming(b"[DONE]") as server, installed(fake):
        ask(server, "hello", stream=True)

    assert kept(fake, "CallOutcome")[1] is None


def test_a_fault_in_the_middle_of_an_answer_withholds_it(monkeypatch):
    from openrouter_audit.capture import assembly

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(assembly.StreamAssembler, "feed", broken)
    fake = recorder()
    with streaming(chunk({"content": "one"}), b"[DONE]") as server, installed(fake):
        assert ask(server, "hello", stream=True)

    outcome, answer = kept(fake, "CallOutcome")
    assert ("success", b"[WITHHELD]", {"WITHHELD": 1}) == (outcome.status, answer.text, counts(outcome))


def test_of_more_members_than_anybody_means_the_first_are_kept():
    many = assembled(stream_of(*[chunk({"tool_calls": [{"index": n, "id": f"c{n}"} for n in range(5_000)]})]))
    plain = assembled(stream_of(*[chunk({"images": list(range(3_000))})] * 2))

    assert 512 == len(many["choices"][0]["message"]["tool_calls"])
    assert 512 == len(plain["choices"][0]["message"]["images"])


def test_input_of_a_tool_that_is_no_json_is_kept_as_text():
    events = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}}
    ]

    assert {"content": [{"input": '{"a":'}]} == assembled(stream_of(*events))
