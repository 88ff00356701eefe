"""
The quick walk finds what the slow one finds: a body is walked supposing that no text holds a finding, and this is told right.
"""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.redaction.pieces import ALL, GLUE, HEX, KEYS, PEM, b64url, encoded_forms, made_up

from openrouter_audit.core.redaction import Cut, OwnPattern, Policy, redact_json, walker
from openrouter_audit.core.redaction.engine import Engine

NEAR_MISSES = [
    "1764000000", "gen-1764000000-abcdefghijklmnopqrst", "0.000123", "2026-11-24T10:22:33.000+01:00", "550e8400-e29b-41d4-a716-446655440000", HEX * 4,
    "123-00-1234", "4111 1111 1111 1112", "std::vector<int>", "user@host", "pkg@1.2.3", "v4.18.0.1", "anthropic/claude-sonnet-4", "internationalization",
    "decode YWJjZGVmZ2hpamtsbW5v", "sk-nothing-here-to-be-seen-at-all", "415 555 267", "4155552671", "DE89 3704 0044 0532 0130 01", "call me at ", "a" * 600,
    "2125550187", "[EMAIL]", "[USER_ID]", "[MEDIA image/png 94 bytes]", "[MEDIA a@b.example]", '{"a": 1', "[1, 2", '"', "{ }", "\n", "", "-----BEGIN ", "Paris.",
]  # fmt: skip
ENCODED = [form for value in ("jane.doe@example.com", KEYS["openai"], "212-555-0187") for form in encoded_forms(value)]
PLANTED = [*ALL, *GLUE, *NEAR_MISSES, *ENCODED]
NAMES = [
    "content", "role", "user", "user_id", "safety_identifier", "phone", "mobilePhone", "ssn", "tel", "Authorization", "x-api-key", "api_key", "cookie", "token",
    "data", "type", "format", "media_type", "signature", "b64_json", "encrypted_content", "transcript", "secretAccessKey", "a@b.example", "", "{name}", "212-555-0187",
    "{", "é", "name with spaces", "created", "id", "authorization\nbearer", "gen-1764000000", "data:image/png;base64,QUJD",
]  # fmt: skip


def strings():
    planted = st.sampled_from(PLANTED)
    return st.one_of(
        planted,
        st.lists(planted, max_size=4).map("".join),
        st.lists(planted, max_size=4).map(" ".join),
        st.text(max_size=12),
    )


def nested(inner):
    text_of = inner.map(json.dumps)
    members = st.dictionaries(st.one_of(st.sampled_from(NAMES), strings()), st.one_of(inner, text_of), max_size=4)
    return st.one_of(st.lists(inner, max_size=3), members, text_of)


NUMBERS = st.sampled_from([1764000000, 4155552671, 4111111111111111, 123456789, 0.000123, 1e300, 12, 2125550187.5, 6304000000000000000])  # fmt: skip
VALUES = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, strings()), nested, max_leaves=10)
POLICIES = [
    Policy(),
    Policy(numbered=True, any_phone=True),
    Policy(off=frozenset({"PEM", "PRIVATE_KEY", "EMAIL"})),
    Policy(off=frozenset({"USER_ID", "MEDIA"})),
    Policy(off=frozenset({"ENCODED", "PHONE", "CREDENTIAL"})),
]


class NeverTells(Engine):
    """Looks through everything, each text by itself."""

    can_tell = False

    def is_clean(self, text):
        return False


QUICK = {policy: Engine(policy) for policy in POLICIES}
SLOW = {policy: NeverTells(policy) for policy in POLICIES}


def both(body, policy):
    """What the quick and the slow walk make of a body, and the media they asked commitments for."""
    results = []
    for engines in (QUICK, SLOW):
        asked = []

        def commit(data, asked=asked):
            asked.append(data)
            return f"c:{len(asked)}"

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(walker, "engine_for", engines.__getitem__)
            done = redact_json(body, policy, commit=commit)
        results.append((repr(done.body), done.findings, asked))
    return results


def same_in_every_form(value, policy):
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    for body in (value, json.dumps(value).encode(), compact, b"\xef\xbb\xbf " + compact, compact[:-1], compact * 2):
        quick, slow = both(body, policy)
        assert quick == slow, body


@settings(deadline=None, max_examples=250)
@given(value=VALUES, policy=st.sampled_from(POLICIES))
def test_the_quick_walk_finds_what_the_slow_one_finds(value, policy):
    """As an object, as JSON with and without escapes, with a mark in front, cut, and as no JSON at all."""
    same_in_every_form(value, policy)


def test_every_planted_text_is_found_under_every_name():
    """One thing at a time, so that nothing else makes the walk look again."""
    for text in PLANTED:
        for name in NAMES:
            quick, slow = both({name: text}, POLICIES[0])
            assert quick == slow, (name, text)


def bodies(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        texts = [made_up(rng) if rng.random() < 0.5 else rng.choice(PLANTED) for _ in range(rng.randrange(1, 6))]
        yield {rng.choice(NAMES): text for text in texts} | {"messages": [{"content": text} for text in texts]}


def test_neighbours_do_not_hide_each_other():
    """The texts of a body are searched as one; each begins on a line of its own, and none reaches into the next."""
    for number, body in enumerate(bodies(1, 400)):
        quick, slow = both(body, POLICIES[number % len(POLICIES)])
        assert quick == slow, body


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1050))
def test_neighbours_do_not_hide_each_other_in_a_hundred_thousand_bodies(seed):
    for number, body in enumerate(bodies(seed, 2_000)):
        quick, slow = both(body, POLICIES[number % len(POLICIES)])
        assert quick == slow, body


def test_a_class_that_is_off_hides_nothing_behind_it():
    """A block that is left as it is would swallow what follows, if it were one text."""
    body = {"a": PEM[:100], "b": "QUJDREVGR0hJSktM jane.doe@example.com"}

    assert {"EMAIL": 1} == redact_json(body, Policy(off=frozenset({"PRIVATE_KEY"}))).counts


def test_a_text_longer_than_a_piece_is_looked_through_by_itself():
    for text in ("x" * 300_000 + " 1764000000", "1764000000 " * 30_000, "word " * 60_000 + "jane.doe@example.com"):
        quick, slow = both({"content": text}, POLICIES[0])
        assert quick == slow


CLEAN = [
    b'{ "model": "m",\n "messages": [ {"role" : "user", "content": "caf\\u00e9 \\u0026 1.50"} ], "n": 1.0 }',
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": "one", "a": "two", "b": 1e-7000}',
    b" [1, 2.50, null]\n",
    b'{"arguments": "{ \\"x\\": \\"\\u0041\\" }", "half": "\\ud800"}',
    b"no JSON, \\u0041 and so on",
    b'{"cut": "in the mid',
    b"\xff\xfe no text",
    b"",
]  # fmt: skip


@pytest.mark.parametrize("body", CLEAN)
def test_a_body_in_which_nothing_was_found_is_the_same_object(body):
    """To the space between members, the mark in front, the way letters were escaped."""
    assert body is redact_json(body).body
    assert body == redact_json(bytearray(body)).body
    assert body == redact_json(memoryview(body)).body


def test_an_object_in_which_nothing_was_found_is_the_same_object():
    value = {"messages": [{"content": ("a", "b")}], 1: {"n": 2.5}}

    assert value is redact_json(value).body


def test_the_second_of_two_equal_names_is_looked_through():
    body = b'{"a": "nothing", "a": "a@b.example"}'

    assert b'{"a":"nothing","a":"[EMAIL]"}' == redact_json(body).body


def test_an_event_stream_is_never_kept_as_it_came():
    """What was not assembled, comments and fields nobody knows, was not looked through."""
    stream = b': a@b.example\n\ndata: {"d": "hello", "e": "a@b.example"}\n\n'

    assert b'{"content":"hello"}' == redact_json(stream, assemble=lambda body: {"content": "hello"}).body


def test_each_of_media_is_committed_to_once_though_the_body_is_walked_twice():
    picture = b64url(bytes(range(60)))
    seen = []

    def commit(data):
        seen.append(data)
        return f"c:{len(seen)}"

    done = redact_json({"b64_json": picture, "list": [{"b64_json": picture}], "mail": "a@b.example"}, commit=commit)

    assert [picture.encode()] * 2 == seen
    assert ("c:1]", "c:2]") == (done.body["b64_json"][-4:], done.body["list"][0]["b64_json"][-4:])
    assert "[EMAIL]" == done.body["mail"]


def test_names_are_known_only_where_they_hold_nothing():
    """And only such as may be a field's; a name that is a secret is found each time, after other policies too."""
    own = Policy(patterns=(OwnPattern(name="ORDER", pattern=r"order_\d+"),))
    secret = "canary" + HEX
    for _ in range(3):
        assert {"[EMAIL]": "hi"} == redact_json({"jane@known.example": "hi"}).body
        assert {"order_77": "hi"} == redact_json({"order_77": "hi"}).body
        assert {"[ORDER]": "hi"} == redact_json({"order_77": "hi"}, own).body
        redact_json({"Jane Doe": secret, "a_field": secret, "x" * 41: 1, "tel 212": secret})

    known = walker._CLEAN_NAMES
    assert "a_field" in known
    assert not {"jane@known.example", "Jane Doe", "x" * 41, "tel 212"} & known.keys()
    assert not [name for name, front in known.items() if "canary" in name + front]


def test_names_that_are_known_have_a_bound(monkeypatch):
    known = walker._Names()
    monkeypatch.setattr(walker, "_CLEAN_NAMES", known)
    redact_json({f"field_of_mine_{number}": 1 for number in range(3 * known.MOST)})
    assert "ok" not in known
    assert {"ok": "[EMAIL]"} == redact_json({"ok": "a@b.example"}).body

    assert known.MOST == len(known)


def test_detectors_see_each_text():
    class Names:
        seen: list[str] = []  # noqa: RUF012 - one test, one list

        def find(self, text):
            self.seen.append(text)
            return [("PERSON", text.index("Jane"), text.index("Jane") + 4)] if "Jane" in text else []

    done = redact_json({"content": "Jane asked", "b": ["and so"]}, Policy(detectors=(Names(),)))

    assert {"content": "[PERSON] asked", "b": ["and so"]} == done.body
    assert ["content", "Jane asked", "b", "and so"] == Names.seen


def test_a_personal_field_that_is_off_is_text_like_any_other():
    policy = Policy(off=frozenset({"USER_ID"}))

    assert (
        b'{"user":"[EMAIL]","user_id":"u-1","end_user_id":5}'
        == redact_json(b'{"user": "a@b.example", "user_id": "u-1", "end_user_id": 5}', policy).body
    )


def test_a_text_that_was_cut_is_cut_back_in_either_walk():
    for text in ("hello world and so", "mail jane.doe@exam", "a@b.example and 4111 1111"):
        for body in ({"content": Cut(text)}, {"content": Cut(text), "mail": "a@b.example"}):
            quick, slow = both(body, POLICIES[0])
            assert quick == slow
