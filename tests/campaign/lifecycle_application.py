"""
What the applications of test_lifecycle_*.py have in common; run as `python -m tests.campaign.lifecycle_application`.

Usage: … PLAY HOME URL [ARGUMENT…]. PLAY is a function of this module. Every call is made with the openai client against
an emulator of another process. Calls whose answer the application has in its hands are acknowledged, by generation id,
in HOME.told.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

import openrouter_audit
from openrouter_audit.errors import FlushTimeout

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
REQUEST: dict[str, Any] = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}]}
EX_RECYCLE = 0x9B
"""How a worker of billiard (celery's pool) says that it has done its share."""
HOME = URL = ""


def calls(count: int = 1, *, key: str = KEY, **switches: object) -> None:
    header = ";".join(f"{name}={value}" for name, value in switches.items())
    with openai.OpenAI(base_url=URL, api_key=key, max_retries=0, timeout=120) as sdk:
        for number in range(count):
            if number % 2:
                ids = {
                    each.id
                    for each in sdk.chat.completions.create(
                        **REQUEST, stream=True, extra_headers={"X-Emulator": header}
                    )
                }
                tell(ids.pop())
            else:
                tell(sdk.chat.completions.create(**REQUEST, extra_headers={"X-Emulator": header}).id)


def stream(**switches: object) -> Any:
    header = ";".join(f"{name}={value}" for name, value in switches.items())
    sdk = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
    return sdk.chat.completions.create(**REQUEST, stream=True, extra_headers={"X-Emulator": header})


def tell(generation: str) -> None:
    descriptor = os.open(HOME + ".told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{generation}\n".encode())
    os.close(descriptor)


def install() -> Any:
    # In CPython before 3.12 what a first asker works out of the platform it does under a lock, and each SDK asks with its first
    # call: a fork meanwhile would leave the child waiting for ever, recorded or not.
    platform.platform()
    return openrouter_audit.install(HOME, hosts=["127.0.0.1"])


def child(run: Callable[[], object]) -> int:
    """Fork as servers do: the child never comes back."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Servers ------------------------------------------------------------------------------------------------------------


def task(count: int) -> int:
    install()
    calls(count)
    return os.getpid()


def pool(method: str) -> None:
    """`multiprocessing.Pool` whose workers are replaced after two tasks."""
    import multiprocessing

    install()
    calls(1)
    with multiprocessing.get_context(method).Pool(2, maxtasksperchild=2) as workers:
        pids = set(workers.map(task, [2] * 6, chunksize=1))
        workers.close()
        workers.join()
    assert len(pids) >= 3, pids
    calls(1)


def preload() -> None:
    """
    gunicorn --preload: the application is loaded, and so recording begins, in the master, which then forks workers.

    A worker ends its request on SIGTERM and leaves by `sys.exit(0)`; one that hangs is killed by the master and replaced.
    """
    audit = install()
    calls(1)
    audit.flush(60)  # the master's threads run, with open databases

    def worker() -> None:
        alive = True

        def stop(*_: object) -> None:
            nonlocal alive
            alive = False

        signal.signal(signal.SIGTERM, stop)
        calls(3)
        tell("ready")
        while alive:
            time.sleep(0.01)
        calls(1)  # the request that was under way
        sys.exit(0)

    workers = [child(worker) for _ in range(3)]
    told = Path(HOME + ".told")

    def stopped(*_: object) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, stopped)
    killed = False
    try:
        while True:
            ready = told.read_text().count("ready\n")
            if ready >= 3 and not killed:
                killed = True
                victim = workers.pop()
                os.kill(victim, signal.SIGKILL)
                ended(victim)
                workers.append(child(worker))
            if ready >= 4:
                print("serving", flush=True)
                time.sleep(3600)
            time.sleep(0.01)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        assert [0] * 3 == [ended(pid) for pid in workers]
        calls(1)


def prefork() -> None:
    """celery's prefork pool: the master makes no calls, a worker ends by `os._exit` after its share and is replaced."""
    install()
    for generation in range(3):
        workers = [child(lambda: (calls(3), os._exit(EX_RECYCLE))) for _ in range(2)]
        assert [EX_RECYCLE] * 2 == [ended(pid) for pid in workers], generation


def threadless() -> None:
    """
    uWSGI without `--enable-threads`: no thread of Python's ever starts, in the master or in a worker.
    """
    import _thread

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    _thread.start_new_thread = threading._start_new_thread = refuse
    if hasattr(threading, "_start_joinable_thread"):
        _thread.start_joinable_thread = threading._start_joinable_thread = refuse
    audit = install()
    calls(1)
    workers = [child(lambda: calls(3)) for _ in range(3)]
    assert [0] * 3 == [ended(pid) for pid in workers]
    assert 1 == threading.active_count()
    try:
        audit.flush(0.5)
    except (FlushTimeout, RuntimeError):
        print("waiting", flush=True)


def without_handlers() -> None:
    """A fork in C, of which Python is not told: no handler runs in the child, only the pid tells."""
    import ctypes

    audit = install()
    calls(1)
    audit.flush(60)
    held = stream(tokens=3)
    next(held)
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        code = 1
        try:
            held.close()  # the parent's call: nothing may be said of it here
            calls(3)
            code = 0
        finally:
            os._exit(code)
    assert 0 == ended(pid)
    tell({each.id for each in held}.pop())
    calls(1)


def flushing_child() -> None:
    """The parent is gone, and its child, forked without handlers, must sequence with connections of its own."""
    import ctypes

    audit = install()
    calls(1)
    audit.flush(60)
    read, write = os.pipe()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        try:
            os.read(read, 1)
            calls(2)
            print(audit.flush(60), flush=True)
            code = 0
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            code = 1
        os._exit(code)
    audit.close(60)
    os.write(write, b"x")
    sys.exit(ended(pid))


# Forks beside calls -------------------------------------------------------------------------------------------------


def fork_beside_calls() -> None:
    """Children are forked while calls are in flight in other threads, and while a stream is half read."""
    install()
    half = stream(tokens=4, gap_ms=1)
    next(half)
    threads = [threading.Thread(target=calls, args=(2,), kwargs={"latency_ms": 150}) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(6):

        def run(number: int = number) -> None:
            if number % 2:
                half.close()  # inherited: mute
            calls(1)

        children.append(child(run))
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert [0] * 6 == [ended(pid) for pid in children]
    tell({each.id for each in half}.pop())


def fork_in_a_task() -> None:
    """A task forks while the calls of others are in flight on the same loop."""
    import asyncio

    install()

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120) as sdk:

            async def one() -> None:
                answer = await sdk.chat.completions.create(**REQUEST, extra_headers={"X-Emulator": "latency_ms=150"})
                tell(answer.id)

            flying = [asyncio.create_task(one()) for _ in range(4)]
            await asyncio.sleep(0.05)
            children = [child(lambda: calls(2)) for _ in range(2)]
            await asyncio.gather(*flying)
            await one()
            for pid in children:
                assert 0 == await asyncio.to_thread(ended, pid)

    asyncio.run(main())


# Ends ---------------------------------------------------------------------------------------------------------------


def end_at_once() -> None:
    install()
    calls(2)
    held = stream(tokens=4, gap_ms=50)
    next(held)
    os._exit(7)


def wait_for_signal(handler: str) -> None:
    """Calls in three threads and an open stream in the main one, until a signal comes."""
    install()

    def leave(*_: object) -> None:
        raise SystemExit(5)

    if handler == "python":
        signal.signal(signal.SIGTERM, leave)

    def forever() -> None:
        while True:
            calls(2)

    for _ in range(2):
        threading.Thread(target=forever, daemon=True).start()
    for _ in stream(tokens=100_000, gap_ms=20):
        print("streaming", flush=True)


def end_with_threads_in_calls() -> None:
    """The interpreter ends while daemon threads are inside calls and streams are half read."""
    install()
    held = [stream(tokens=50, gap_ms=20) for _ in range(2)]
    next(held[0])
    for _ in range(3):
        threading.Thread(target=calls, args=(1,), kwargs={"latency_ms": 5_000}, daemon=True).start()
    for _ in range(2):
        threading.Thread(target=calls, args=(100,), daemon=True).start()
    time.sleep(0.3)
    calls(1)


# Places -------------------------------------------------------------------------------------------------------------


def contained(wish: str) -> None:
    """One container: says its pid, holds a call open, and dies or ends it as it is told."""
    install()
    calls(2)
    held = stream(tokens=30, gap_ms=20)
    next(held)
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    if wish == "die":
        os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != 1 else os._exit(9)
    tell({each.id for each in held}.pop())
    calls(1)


def frozen() -> None:
    """Records without a pause until it is told to stop."""
    install()
    held = stream(tokens=4, gap_ms=1)
    next(held)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            calls(2)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    print("recording", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    tell({each.id for each in held}.pop())


if __name__ == "__main__":
    play, HOME, URL, *rest = sys.argv[1:]
    # Functions that spawned workers import must find the same names in the module they import.
    import tests.campaign.lifecycle_application as itself

    itself.HOME, itself.URL = HOME, URL
    os.environ["LIFECYCLE_HOME"], os.environ["LIFECYCLE_URL"] = HOME, URL
    getattr(itself, play)(*rest)
else:
    HOME, URL = os.environ.get("LIFECYCLE_HOME", ""), os.environ.get("LIFECYCLE_URL", "")
