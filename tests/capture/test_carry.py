"""Attribution where work is handed to somebody else: pools, threads, tasks, other loops. Real calls, and their receipts."""

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio.to_thread
import pytest
from tests.journal.homes import KEY, check_log

from openrouter_audit import AuditLog, attribution, carry
from openrouter_audit.capture.attribution import current_scope
from openrouter_audit.journal.vault import Vault
from openrouter_audit.testing import FakeOpenRouter

HEADERS = {"Authorization": f"Bearer {KEY}"}
COUNT = 6


@pytest.fixture(scope="module")
def openrouter():
    with FakeOpenRouter(seed=11) as fake:
        yield fake


@pytest.fixture
def audit(tmp_path):
    with AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"], enrich=False) as log:
        yield log


@pytest.fixture
def ask(openrouter, audit):
    """One call, made wherever this is called."""
    body = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}]}
    with audit.httpx2_client(headers=HEADERS) as client:

        def ask(number):
            assert 200 == client.post(f"{openrouter.url}/chat/completions", json=body).status_code
            return number, threading.get_ident()

        yield ask


@pytest.fixture
def ask_async(openrouter, audit):
    body = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}]}

    async def ask(number):
        async with audit.httpx2_async_client(headers=HEADERS) as client:
            assert 200 == (await client.post(f"{openrouter.url}/chat/completions", json=body)).status_code
        return number

    return ask


def by_submit(pool, ask):
    return [future.result() for future in [pool.submit(carry(ask), number) for number in range(COUNT)]]


def by_map(pool, ask):
    return list(pool.map(carry(ask), range(COUNT)))


def by_partial(pool, ask):
    return [pool.submit(carry(functools.partial(ask, number))).result() for number in range(COUNT)]


def by_copied_context(pool, ask):
    futures = [pool.submit(contextvars.copy_context().run, ask, number) for number in range(COUNT)]
    return [future.result() for future in futures]


def by_run_in_executor(pool, ask):
    async def run():
        loop = asyncio.get_running_loop()
        carried = carry(ask)
        return await asyncio.gather(*(loop.run_in_executor(pool, carried, number) for number in range(COUNT)))

    return asyncio.run(run())


def by_to_thread(_pool, ask):
    async def run():
        return await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(COUNT)))

    return asyncio.run(run())


def by_anyio(_pool, ask):
    async def run():
        return await asyncio.gather(*(anyio.to_thread.run_sync(ask, number) for number in range(COUNT)))

    return asyncio.run(run())


def by_thread(_pool, ask):
    done = []
    carried = carry(lambda number: done.append(ask(number)))
    threads = [threading.Thread(target=carried, args=(number,)) for number in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(done)


@pytest.mark.parametrize(
    "way",
    [by_submit, by_map, by_partial, by_copied_context, by_run_in_executor, by_to_thread, by_anyio, by_thread],
)
def test_calls_in_other_threads_are_for_whom_the_block_says_and_their_receipts_arrive(audit, ask, way):
    """
    Two blocks, one after the other, on the same threads of one pool: nobody gets the other's.
    """
    receipts = {}
    with ThreadPoolExecutor(3) as pool:
        for user in ("alice", "bob"):
            with attribution(user=user) as receipts[user]:
                answers = way(pool, ask)
            assert list(range(COUNT)) == [number for number, _ in answers]
            assert threading.get_ident() not in {thread for _, thread in answers}
        assert {None} == {pool.submit(current_scope).result() for _ in range(COUNT)}
    check_people(audit, receipts)


def by_task_group(ask):
    async def run():
        async with asyncio.TaskGroup() as group:
            for number in range(COUNT):
                group.create_task(ask(number))

    asyncio.run(run())


def by_other_loop(ask):
    """The loop was started before anybody was named."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=contextvars.Context().run, args=(loop.run_forever,))
    thread.start()
    try:
        carried = carry(ask)
        futures = [asyncio.run_coroutine_threadsafe(carried(number), loop) for number in range(COUNT)]
        assert list(range(COUNT)) == [future.result() for future in futures]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("way", [by_task_group, by_other_loop])
def test_calls_of_tasks_are_for_whom_the_block_says_and_their_receipts_arrive(audit, ask_async, way):
    receipts = {}
    for user in ("alice", "bob"):
        with attribution(user=user) as receipts[user]:
            way(ask_async)
    check_people(audit, receipts)


def check_people(audit, receipts):
    audit.flush()
    subjects = {e["id"]: e["subject"] for e in check_log(audit.home) if "call.intent" == e["kind"]}
    with Vault.open(audit.home.vault_path, read_only=True) as vault:
        users = vault.users(sorted(set(subjects.values())))
    for user, found in receipts.items():
        assert [user] * COUNT == [users[subjects[receipt.call_id]] for receipt in found]
        assert {"success"} == {receipt.status for receipt in found}
    assert 2 * COUNT == len(subjects)


def test_what_is_carried_outlives_its_block_and_leaves_nothing_behind():
    def who():
        scope = current_scope()
        return None if scope is None else scope.user

    def people():
        yield who()
        yield who()

    async def later():
        await asyncio.sleep(0)
        return who()

    async def people_later():
        yield who()

    async def first():
        return [each async for each in carried_later()]

    outside = carry(who)
    with attribution(user="alice"):
        carried, generator, coroutine, carried_later = carry(who), carry(people), carry(later), carry(people_later)
        assert None is outside()  # what was open where it was carried from: nobody
        assert "alice" == who()
    with attribution(user="bob"):
        assert "alice" == carried()
        assert ["alice", "alice"] == list(generator())
        assert "alice" == asyncio.run(coroutine())
        assert ["alice"] == asyncio.run(first())
        assert "bob" == who()
    with pytest.raises(ZeroDivisionError):
        carry(lambda: 1 / 0)()
    assert None is who()
    assert "who" == carried.__name__
