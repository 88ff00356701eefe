"""Who a call is for, through blocks, decorators, generators, tasks and threads."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.capture.recording import a_request, begun

from openrouter_audit.capture import attribution as module
from openrouter_audit.capture.attribution import Receipt, attribution, current_scope, reference_for

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
