"""Who a call is for, through blocks, decorators, generators, tasks and threads."""

import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.capture.recording import a_request, begun

from openrouter_audit.capture import attribution as module
from openrouter_audit.capture.attribution import Receipt, attribution, current_scope, reference_for
from openrouter_audit.core.entries import Claimed, Context, Decision

MONTH = 1_795_424_400_000_000


def who():
    scope = current_scope()
    return None if scope is None else scope.user


def test_inner_blocks_win_member_by_member_and_tags_are_merged():
    with attribution(user="a", tenant="t", tags={"x": "1", "y": "1"}) as outer:
        with attribution(user="b", session="s", tags={"y": "2"}) as inner:
            scope = current_scope()
            assert ("b", "t", "s", None, {"x": "1", "y": "2"}) == (
                scope.user, scope.tenant, scope.session, scope.purpose, scope.tags,
            )  # fmt: skip
            scope.receipt("ab" * 16, 1)
        assert "a" == who()
    assert None is who()
    assert outer[0] is inner[0]
    assert ["ab" * 16] == [receipt.call_id for receipt in outer]


def test_a_block_ends_with_an_exception_too_and_can_be_used_again():
    block = attribution(user="a")
    for _ in range(2):
        with pytest.raises(ValueError), block as receipts:
            assert "a" == who()
            assert [] == receipts
            current_scope().receipt("cd" * 16, 1)
            raise ValueError
        assert None is who()


def test_a_decorated_function_coroutine_and_generator_run_in_the_scope_and_their_consumer_does_not():
    """
    The scope of a generator is there while it runs, and gone while its consumer holds what it yielded.
    """

    @attribution(user="f")
    def function():
        return who()

    @attribution(user="c")
    async def coroutine():
        await asyncio.sleep(0)
        return who()

    @attribution(user="g")
    def generator():
        try:
            got = yield who()
            yield (who(), got)
        except KeyError:
            yield "thrown"
        finally:
            closed.append(who())
        return "end"

    @attribution(user="ag")
    async def asynchronous():
        got = yield who()
        await asyncio.sleep(0)
        yield (who(), got)

    async def consume():
        running = asynchronous()
        first = await anext(running)
        assert None is who()
        second = await running.asend(5)
        assert None is who()
        with pytest.raises(StopAsyncIteration):
            await anext(running)
        return first, second

    closed = []
    assert "f" == function()
    assert "c" == asyncio.run(coroutine())
    running = generator()
    assert "g" == next(running)
    assert None is who()
    assert ("g", 7) == running.send(7)
    assert None is who()
    assert "thrown" == running.throw(KeyError())
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert "end" == stop.value.value
    assert None is who()
    assert ("ag", ("ag", 5)) == asyncio.run(consume())
    assert ["g"] == closed


def test_tasks_inherit_and_threads_do_not():
    async def run():
        with attribution(user="a"):
            task = asyncio.create_task(asyncio.sleep(0, who()))
            return await task, await asyncio.gather(one("b"), one("c"))

    async def one(name):
        with attribution(user=name):
            await asyncio.sleep(0.001)
            return who()

    assert ("a", ["b", "c"]) == asyncio.run(run())
    seen = []
    with attribution(user="a"):
        thread = threading.Thread(target=lambda: seen.append(who()))
        thread.start()
        thread.join()
    assert [None] == seen


def test_ours_wins_over_the_body_and_the_body_over_nothing():
    """
    A `user` or `session_id` in the request is a claim; what the application says in its block is another, and stronger.
    """
    request = a_request(body=b'{"model":"a/b","user":"claimed","session_id":"s1"}', headers=[(b"x-session-id", b"s2")])
    _, _, private = begun(request)
    assert ("claimed", "s1") == (private.user, private.session)
    with attribution(user="ours"):
        _, _, private = begun(request, scope=current_scope())
    assert ("ours", "s1") == (private.user, private.session)
    _, _, private = begun(a_request(body=b'{"metadata":{"user_id":"m"}}', headers=[(b"x-session-id", b"s2")]))
    assert ("m", "s2") == (private.user, private.session)
    _, intent, private = begun(a_request())
    assert None is private.user is private.reference is intent.subject


def claimed(request, **ours):
    with attribution(**ours):
        _, _, private = begun(request, scope=current_scope() if ours else None)
    return private


def test_a_claim_stands_beside_what_the_application_says_or_in_its_place_and_is_marked():
    """
    A claim that fills an empty place is named in `fills` and told once; one that does not is kept as it was.
    """
    body = b'{"model":"a/b","user":"mallory","session_id":"s1"}'
    private = claimed(a_request(body=body))
    assert ("mallory", "s1", Claimed(fills=("user_id", "session_id"))) == (
        private.user, private.session, private.context.claimed,
    )  # fmt: skip
    private = claimed(a_request(body=body), user="alice")
    assert ("alice", "s1", Claimed(user="mallory", fills=("session_id",))) == (
        private.user, private.session, private.context.claimed,
    )  # fmt: skip
    private = claimed(a_request(body=body), user="alice", session="s0")
    assert Claimed(user="mallory", session="s1") == private.context.claimed
    assert None is claimed(a_request()).context
    assert None is claimed(a_request(), user="alice").context


TRACEPARENT = "00-5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174-01"


def test_every_claim_of_a_request_is_picked_up_in_every_shape():
    body = {
        "metadata": {"ticket": "5", "count": 3, "deep": {"a": "b"}, "user_id": "m"},
        "trace": {"trace_name": "t", "parent_span_id": "p", "tries": [1]},
        "safety_identifier": "hash-of-me",
    }
    text = json.dumps(body).encode()
    private = claimed(a_request(body=text, headers=[(b"traceparent", TRACEPARENT.encode())]))
    expected = Claimed(
        metadata={"ticket": "5"},
        trace={"trace_name": "t", "parent_span_id": "p"},
        safety_identifier="hash-of-me",
        traceparent=TRACEPARENT,
        fills=("user_id",),
    )
    assert ("m", expected) == (private.user, private.context.claimed)
    private = claimed(a_request(body=text.replace(b"{", b'{"user":"u",', 1)))
    assert ("u", {"ticket": "5", "user_id": "m"}) == (private.user, private.context.claimed.metadata)


def test_a_body_that_only_the_second_rung_reads_makes_the_same_claims():
    """
    One lone surrogate anywhere, in a value that is kept or in one that is not.
    """
    whole = b'{"metadata":{"ticket":"5"},"trace":{"trace_name":"t"},"safety_identifier":"x","messages":["%s"]}'
    expected = claimed(a_request(body=whole % b"a")).context.claimed
    assert {"ticket": "5"} == expected.metadata
    assert expected == claimed(a_request(body=whole % b"\\ud800")).context.claimed
    broken = claimed(a_request(body=b'{"metadata":{"ticket":"\\ud800","b":"c"}}')).context.claimed
    assert {"ticket": "?", "b": "c"} == broken.metadata


def test_claims_are_bounded():
    """
    Sixteen pairs of 64 and 512 characters, as OpenRouter has it; an object that is much longer is none that is meant.
    """
    many = {f"{number}{'n' * 100}": "v" * 1000 for number in range(40)}
    body = json.dumps({"metadata": many, "trace": many, "safety_identifier": "i" * 5000}).encode()
    got = claimed(a_request(body=body, headers=[(b"traceparent", b"0" * 5000)])).context.claimed
    for pairs in (got.metadata, got.trace):
        assert 16 == len(pairs)
        assert {64} == {len(name) for name in pairs}
        assert {512} == {len(value) for value in pairs.values()}
    assert (1024, 128) == (len(got.safety_identifier), len(got.traceparent))
    huge = json.dumps({"metadata": {"user_id": "u"} | {str(n): "x" for n in range(20_000)}}).encode()
    private = claimed(a_request(body=huge))
    assert ("u", {}) == (private.user, private.context.claimed.metadata)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(max_size=3), lambda each: st.lists(each)))
def test_claims_of_any_shape_never_stop_a_call(value):
    if not isinstance(value, bytes):
        value = json.dumps(value).encode()
    for name in (b"metadata", b"trace", b"safety_identifier"):
        begun(a_request(body=b'{"%s":%s}' % (name, value)))


def test_a_decision_goes_with_the_call_and_an_inner_one_stands_alone():
    """
    The arm of one rule says nothing beside the name of another.
    """
    with attribution(decision={"rule": "cheapest", "version": 3, "arm": "b"}):
        assert Context(decision=Decision(rule="cheapest", version="3", arm="b")) == claimed_here()
        with attribution(decision={"rule": "fastest"}):
            assert Context(decision=Decision(rule="fastest")) == claimed_here()
        with attribution(user="u"):
            assert "b" == claimed_here().decision.arm
    with pytest.raises(ValueError, match="'why' is none"):
        attribution(decision={"why": "x"})


def claimed_here():
    return begun(a_request(), scope=current_scope())[2].context


def test_a_person_has_one_reference_a_month_and_another_the_next():
    first = reference_for("u", MONTH)
    assert first == reference_for("u", MONTH + 1)
    assert 32 == len(first)
    assert first != reference_for("v", MONTH)
    assert first != reference_for("u", MONTH + 31 * 86_400_000_000)


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30))
def test_references_are_bounded(users):
    module._references.clear()
    limit, module.MAX_REFERENCES = module.MAX_REFERENCES, 5
    try:
        for user in users:
            assert reference_for(user, MONTH)
        assert len(module._references) <= 5
    finally:
        module.MAX_REFERENCES = limit


def test_a_receipt_prints_its_call_and_nothing_private():
    assert "Receipt(abc, attempt 2, open)" == repr(Receipt("abc", 2))
