"""Members read from JSON text: of their declared type or None, on every rung; and what is remembered between calls."""

import json

import httpx2
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from tests.capture.recording import KEY, FakeRecorder

from openrouter_audit.capture import explicit, openrouter
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.json_text import MAX_TEXT, MAX_TREE_BYTES, Text, Whole, parse, scan, text
from openrouter_audit.capture.openrouter import Caller, caller_of

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2 * MAX_TEXT) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["word", "whole"]), inner),
    max_leaves=5,
)


class Inner(Struct):
    word: Text | None = None
    whole: Whole | None = None


class Outer(Struct):
    word: Text | None = None
    whole: Whole | None = None
    flag: bool | None = None
    inner: Inner | None = None
    several: list[Inner] | None = None


def check(read):
    assert read.word is None or (isinstance(read.word, str) and len(read.word) <= MAX_TEXT)
    (read.word or "").encode()
    assert read.whole is None or (type(read.whole) is int and 0 <= read.whole < 10**18)


@given(st.dictionaries(st.sampled_from(Outer.__struct_fields__), ANYTHING))
def test_a_declared_member_is_of_its_type_or_none_whatever_the_text_says(tree):
    """
    The readers of answers and requests use such members unasked, so neither rung may hand out anything else.
    """
    read = parse(Outer, json.dumps(tree).encode())
    assert read is not None
    check(read)
    assert read.flag is None or isinstance(read.flag, bool)
    for inner in (read.inner, *(read.several or ())):
        if inner is not None:
            assert type(inner) is Inner
            check(inner)


def test_one_strange_member_leaves_the_others_what_they_are():
    """
    A word that is too long takes the whole text to the second rung: it is cut there, and the rest reads as on the first.
    """
    text = b'{"whole":7,"flag":true,"inner":{"word":"b","whole":-1},"several":[{"whole":5},null,3],"word":"%s"}'
    read = parse(Outer, text % (b"a" * 300))
    assert Outer("a" * MAX_TEXT, 7, True, Inner("b"), [Inner(None, 5)]) == read


def test_callers_are_told_apart_by_each_header_and_show_nothing():
    """
    What headers say is remembered between calls: two keys of one SDK, or two SDKs with one key, stay two callers.
    """
    agent, other = b"OpenAI/Python 3.54.0", KEY[:-1].encode() + b"0"
    first = caller_of({b"authorization": b"Bearer " + KEY.encode(), b"user-agent": agent})
    assert KEY == first.api_key
    assert first == caller_of({b"authorization": b"Bearer " + KEY.encode(), b"user-agent": agent})
    second = caller_of({b"authorization": b"Bearer " + other, b"user-agent": agent})
    assert (other.decode(), True) == (second.api_key, second.key_hash != first.key_hash)
    assert "curl/8" == caller_of({b"authorization": b"Bearer " + KEY.encode(), b"user-agent": b"curl/8"}).sdk
    assert KEY == caller_of({b"x-api-key": KEY.encode(), b"user-agent": agent}).api_key
    assert Caller(None, None, None) == caller_of({})
    assert KEY not in repr(first)


def test_as_many_callers_are_remembered_as_fit():
    for number in range(3 * openrouter._MAX_CACHED):
        assert f"a/{number}" == caller_of({b"user-agent": b"a/%d" % number}).sdk
    assert len(openrouter._callers) <= openrouter._MAX_CACHED


def test_a_client_that_is_pointed_at_other_hosts_forgets_which_requests_were_calls():
    """
    Method, host and path of a call are remembered by its watch; wrapped again for other hosts, it asks anew.
    """
    answer = httpx2.MockTransport(lambda request: httpx2.Response(200, json={}))
    client, first, second = httpx2.Client(transport=answer), FakeRecorder(), FakeRecorder()
    url = "https://proxy.example/api/v1/chat/completions"
    explicit.wrap(client, first, HostSet(["proxy.example"]))
    for _ in range(2):
        client.post(url, json={"model": "a/b"})
    explicit.wrap(client, second, HostSet())
    client.post(url, json={"model": "a/b"})
    first.check()
    assert (2, 0) == (len(first.intents), len(second.frames))
    client.close()


def test_a_scan_goes_on_past_a_word_that_is_no_members_name():
    """`"user"` is the value of a role before it is the name of the member that says who asks."""
    body = b'{"messages":[{"role":"user","content":"a"},{"role": "user" }],"user" : "alice","other":"user"'

    assert "alice" == text(scan(body, b"user"))
    assert "alice" == text(scan(body, b"user", last=True))
    assert scan(b'"user" ' * 100_000 + b':"bob"', b"user") is None


def test_a_large_text_is_read_by_the_first_rung_or_not_at_all():
    """The second rung would make it into objects of forty times its size."""
    long = "a" * (2 * MAX_TREE_BYTES)

    assert "w" == parse(Outer, f'{{"word":"w","x":"{long}"}}'.encode()).word
    assert parse(Outer, f'{{"word":"w","x":"{long}\\ud800"}}'.encode()) is None
    assert "w" == parse(Outer, b'{"word":"w","x":"\\ud800"}').word


def test_long_paths_and_headers_are_not_remembered():
    """A cache must not keep what a stranger made long."""
    openrouter._routes.clear()
    openrouter._callers.clear()
    openrouter.route("GET", "/api/v1/files/" + "a" * 5000)
    caller_of({b"user-agent": b"a" * 5000, b"authorization": b"Bearer " + KEY.encode()})

    assert ({}, {}) == (openrouter._routes, openrouter._callers)
