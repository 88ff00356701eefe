"""AuditLog, from an application's side: waiting, closing, threads, forks, exits, and memory."""

import asyncio
import gc
import threading
import time
import weakref

import httpx
import httpx2
import openai
import pytest
from tests.journal.homes import KEY, an_intent, check_log, drain, of_kind, run_python, statuses, write_calls

import openrouter_audit
from openrouter_audit import AuditLog
from openrouter_audit.errors import AlreadyInstalled, AuditUnavailable, FlushTimeout, HomeError
from openrouter_audit.journal.home import Home
from openrouter_audit.testing import FakeOpenRouter

MODEL = "openai/gpt-4.1-mini"
MESSAGES = [{"role": "user", "content": "hello"}]
BODY = {"model": MODEL, "messages": MESSAGES}
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def openrouter():
    with FakeOpenRouter(seed=4) as fake:
        yield fake


def opened(path, name="home", **options):
    return AuditLog.open(path / name, **{"hosts": ["127.0.0.1"], "enrich": False, **options})


# Waiting ------------------------------------------------------------------------------------------------------------


def test_flush_returns_the_size_once_everything_is_committed_and_reported(tmp_path):
    from openrouter_audit.reports.tables.sqlite import SqliteReports

    with opened(tmp_path) as audit:
        ids = write_calls(audit, 10)
        size = audit.flush()
        with SqliteReports.open(audit.home.reports_path, read_only=True) as reports:
            assert ids == [row["call_id"] for row in reports.rows_of(ids)]
        assert 22 == size == len(check_log(audit.home))
        assert 0 == audit.pending()


def test_flush_of_an_empty_log_is_zero(tmp_path):
    with opened(tmp_path) as audit:
        assert 0 == audit.flush()


def test_flush_says_how_many_wait_when_nobody_sequences(tmp_path):
    with opened(tmp_path, sequencer=False) as audit:
        write_calls(audit, 3)
        with pytest.raises(FlushTimeout) as late:
            audit.flush(0.1)
        assert 8 == late.value.pending  # log.opened and log.config as well
        drain(audit.home)
        assert 8 == audit.flush()


def test_flush_waits_for_whoever_has_the_lease(tmp_path):
    """
    Another process on this home sequences; its work is what we wait for.
    """
    other = opened(tmp_path)
    write_calls(other, 1)
    other.flush()
    done = run_python(
        """
import sys
from openrouter_audit import AuditLog
from tests.journal.homes import write_calls
audit = AuditLog.open(sys.argv[1], enrich=False)
write_calls(audit, 5)
print(audit.flush(20), audit._sequencer.holds_lease)
audit.close()
""",
        other.home.path,
    )
    size, held = done.stdout.split()

    assert (16, "False") == (int(size), held)
    other.close()
    assert 6 == len(statuses(check_log(other.home)))


def test_flush_does_not_wait_for_a_frame_that_is_torn(tmp_path):
    """
    A live writer's retired segment ends in half a frame: that is no record.
    """
    audit = opened(tmp_path, sequencer=False)
    token = audit.write(an_intent())
    segment = audit.home.spool_dir / (token.name + ".seg")
    with segment.open("ab") as file:
        file.write(token.header.marker + b"\0\0\1")
    drain(audit.home)

    assert 3 == audit.flush(1)
    audit.close()


# Opening and closing ------------------------------------------------------------------------------------------------


def test_close_commits_and_refuses_what_comes_after(tmp_path, openrouter):
    audit = opened(tmp_path)
    client = audit.httpx_client()
    assert 200 == client.post(openrouter.url + "/chat/completions", json=BODY, headers=HEADERS).status_code
    audit.close()
    audit.close()
    with pytest.raises(AuditUnavailable) as refused:
        client.post(openrouter.url + "/chat/completions", json=BODY, headers=HEADERS)
    client.close()

    assert "closed" == refused.value.reason
    entries = check_log(audit.home)
    assert ["success"] == list(statuses(entries).values())
    assert 1 == len(of_kind(entries, "log.closed"))
    assert [] == list(audit.home.spool_dir.iterdir())


def test_a_home_is_opened_again_and_goes_on(tmp_path):
    for _ in range(3):
        with opened(tmp_path) as audit:
            write_calls(audit, 2)
    entries = check_log(audit.home)

    assert 6 == len(statuses(entries))
    assert 3 == len(of_kind(entries, "log.opened")) == len(of_kind(entries, "log.config"))


def test_two_logs_on_two_homes_keep_apart(tmp_path, openrouter):
    with opened(tmp_path, "one") as one, opened(tmp_path, "two") as two:
        with one.httpx_client() as first, two.httpx2_client() as second:
            first.post(openrouter.url + "/chat/completions", json=BODY, headers=HEADERS)
            second.post(openrouter.url + "/chat/completions", json=BODY, headers=HEADERS)
            second.post(openrouter.url + "/chat/completions", json=BODY, headers=HEADERS)
        one.flush()
        two.flush()
        assert (1, 2) == (len(statuses(check_log(one.home))), len(statuses(check_log(two.home))))


def test_a_home_that_cannot_be_made_is_a_home_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError):
        AuditLog.open(tmp_path / "file" / "home")


def test_a_sealing_key_of_another_length_is_found_when_opening(tmp_path):
    opened(tmp_path).close()
    (tmp_path / "home" / "keys" / "sealing.pub").write_text("abcd\n")
    with pytest.raises(HomeError):
        opened(tmp_path)


def test_install_is_idempotent_refuses_another_home_and_is_taken_back(tmp_path):
    before = httpx.Client.send, httpx2.Client.send, httpx.AsyncClient.send, httpx2.AsyncClient.send
    audit = openrouter_audit.install(tmp_path / "home")
    try:
        assert audit is openrouter_audit.install(tmp_path / "home")
        assert before[0] is not httpx.Client.send
        with pytest.raises(AlreadyInstalled) as refused:
            openrouter_audit.install(tmp_path / "other")
        assert str(tmp_path / "other") == refused.value.requested
    finally:
        openrouter_audit.uninstall()

    assert before == (httpx.Client.send, httpx2.Client.send, httpx.AsyncClient.send, httpx2.AsyncClient.send)
    openrouter_audit.uninstall()


def test_a_stream_that_is_open_when_the_log_is_closed_ends_in_the_log(tmp_path, openrouter):
    openrouter_audit.install(tmp_path / "home", hosts=["127.0.0.1"])
    with openai.OpenAI(base_url=openrouter.url, api_key=KEY) as sdk:
        stream = sdk.chat.completions.create(**BODY, stream=True)
        next(iter(stream))
        openrouter_audit.uninstall()
        list(stream)
    del stream

    assert ["success"] == list(statuses(drain(Home(tmp_path / "home"))).values())


# Threads, tasks, processes ------------------------------------------------------------------------------------------


def test_threads_and_tasks_record_every_call_once(tmp_path, openrouter):
    before = len(openrouter.calls())
    with opened(tmp_path) as audit:

        def thread():
            with audit.httpx_client() as client:
                for _ in range(5):
                    client.post(openrouter.url + "/chat/completions", json=BODY, headers=HEADERS)

        async def tasks():
            async with audit.httpx2_async_client() as client:
                sdk = openai.AsyncOpenAI(base_url=openrouter.url, api_key=KEY, http_client=client)
                await asyncio.gather(*(sdk.chat.completions.create(**BODY) for _ in range(20)))

        threads = [threading.Thread(target=thread) for _ in range(4)]
        for each in threads:
            each.start()
        asyncio.run(tasks())
        for each in threads:
            each.join()
        audit.flush()
        outcomes = of_kind(check_log(audit.home), "call.outcome")
    booked = {call["generation_id"] for call in openrouter.calls()[before:]}

    assert 40 == len(outcomes)
    assert booked == {outcome["generation_id"] for outcome in outcomes}


PARENT = """
import multiprocessing, os, sys
import httpx
import openrouter_audit

def calls(url, count):
    with httpx.Client() as client:
        for _ in range(count):
            client.post(url + "/chat/completions", json={"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hi"}]},
                        headers={"Authorization": "Bearer sk-or-v1-" + "0123456789abcdef" * 4})

def spawned(home, url):
    openrouter_audit.install(home, hosts=["127.0.0.1"])
    calls(url, 2)
"""


def test_a_forked_child_and_its_parent_both_record(tmp_path, openrouter):
    run_python(
        PARENT
        + """
home, url = sys.argv[1:]
openrouter_audit.install(home, hosts=["127.0.0.1"])
calls(url, 2)
child = os.fork()
if child == 0:
    calls(url, 3)
    os._exit(0)
os.waitpid(child, 0)
calls(url, 1)
""",
        tmp_path / "home",
        openrouter.url,
    )
    assert 6 == len(statuses(drain(Home(tmp_path / "home"))))


def test_a_forked_child_that_recorded_nothing_ends_at_once(tmp_path):
    """
    It inherits workers without threads: at its exit it must not wait for them.
    """
    run_python(
        """
import os, signal, sys, threading
from openrouter_audit import AuditLog
from tests.journal.homes import write_calls
audit = AuditLog.open(sys.argv[1], enrich=False)
write_calls(audit, 1)
audit.flush()
condition, held, forked = audit._sequencer._worker._condition, threading.Event(), threading.Event()
def hold():
    with condition:
        held.set()
        forked.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    sys.exit(0)
forked.set()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        tmp_path / "home",
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_records_in_every_process(tmp_path, openrouter, method):
    script = tmp_path / "script.py"
    script.write_text(
        PARENT
        + f"""
if __name__ == "__main__":
    home, url = sys.argv[1:]
    openrouter_audit.install(home, hosts=["127.0.0.1"])
    calls(url, 1)
    processes = [multiprocessing.get_context({method!r}).Process(target=spawned, args=(home, url)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode for process in processes))
"""
    )
    run_python(
        "import runpy, sys; sys.argv.pop(0)\nrunpy.run_path(sys.argv[0], run_name='__main__')",
        script,
        tmp_path / "home",
        openrouter.url,
    )

    assert 5 == len(statuses(drain(Home(tmp_path / "home"))))


# Exits --------------------------------------------------------------------------------------------------------------


def test_a_short_script_has_its_calls_in_the_journal_without_a_flush(tmp_path, openrouter):
    run_python(
        PARENT + "\nopenrouter_audit.install(sys.argv[1], hosts=['127.0.0.1'])\ncalls(sys.argv[2], 2)\n",
        tmp_path / "home",
        openrouter.url,
    )

    assert ["success"] * 2 == list(statuses(check_log(Home(tmp_path / "home"))).values())


def test_an_interpreter_that_exits_with_open_streams_tells_how_they_ended(tmp_path, openrouter):
    done = run_python(
        """
import sys, openai, openrouter_audit
openrouter_audit.install(sys.argv[1], hosts=["127.0.0.1"])
sdk = openai.OpenAI(base_url=sys.argv[2], api_key="sk-or-v1-" + "0123456789abcdef" * 4)
streams = [sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages=[dict(role="user", content="hi")], stream=True) for _ in range(3)]
next(iter(streams[0]))
""",
        tmp_path / "home",
        openrouter.url,
    )
    found = statuses(drain(Home(tmp_path / "home")))

    assert "Traceback" not in done.stderr
    assert 3 == len(found)
    assert set(found.values()) <= {"abandoned", "unknown"}


# Memory -------------------------------------------------------------------------------------------------------------


def memory_after(tmp_path, calls):
    done = run_python(
        """
import sys, httpx
from openrouter_audit import AuditLog

def rss():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])

answer = b'{"id":"gen-1","model":"m","choices":[{"finish_reason":"stop","message":{"content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
audit = AuditLog.open(sys.argv[1], hosts=["127.0.0.1"], enrich=False)
client = audit.httpx_client(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=answer)))
calls = int(sys.argv[2])
def run(count):
    for n in range(count):
        client.post("http://127.0.0.1/api/v1/chat/completions", json={"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "hi"}]})
        if n % 1000 == 999:
            audit.flush(30)
run(calls // 4)
first = rss()
run(calls - calls // 4)
print(first, rss(), audit.flush(30))
""",
        tmp_path / "home",
        calls,
        timeout=600,
    )
    return [int(each) for each in done.stdout.split()]


def test_memory_stays_flat_over_ten_thousand_calls(tmp_path):
    before, after, size = memory_after(tmp_path, 10_000)

    assert 20_000 <= size
    assert after - before < 12_000, "KiB"


@pytest.mark.long
def test_memory_stays_flat_over_a_hundred_thousand_calls(tmp_path):
    before, after, _ = memory_after(tmp_path, 100_000)
    assert after - before < 16_000, "KiB"


def test_workers_of_closed_logs_are_let_go(tmp_path):
    with opened(tmp_path) as audit:
        write_calls(audit, 1)
        audit.flush()
        worker = weakref.ref(audit._sequencer)
    deadline = time.monotonic() + 5
    while worker() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert worker() is None


# Tools --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_calls_of_an_agent_are_linked_by_its_tool_calls(tmp_path, openrouter, stream):
    """
    A real SDK: the answer asks for a tool, the next request brings the result, and the log joins the two.
    """
    from openrouter_audit.reports.tables.sqlite import SqliteReports

    tools = [{"type": "function", "function": {"name": "find_invoice", "parameters": {"type": "object"}}}]
    with opened(tmp_path) as audit:
        client = openai.OpenAI(base_url=openrouter.url, api_key=KEY, http_client=audit.httpx2_client())
        answer = client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            tools=tools,
            stream=stream,
            extra_headers={"X-Emulator": "finish_reason=tool_calls"},
        )
        if stream:
            pieces = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
            call_id, name = pieces[0].id, pieces[0].function.name
            arguments = "".join(piece.function.arguments or "" for piece in pieces)
        else:
            (call,) = answer.choices[0].message.tool_calls
            call_id, name, arguments = call.id, call.function.name, call.function.arguments
        asked = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        history = [
            *MESSAGES,
            {"role": "assistant", "tool_calls": [asked]},
            {"role": "tool", "tool_call_id": call_id, "content": "canaryresult"},
        ]
        client.chat.completions.create(model=MODEL, messages=history, tools=tools)
        audit.flush(30)
        entries = check_log(audit.home)
        (first, second), (outcome, _) = of_kind(entries, "call.intent"), of_kind(entries, "call.outcome")
        with SqliteReports.open(audit.home.reports_path, read_only=True) as reports:
            askers = reports.askers([call_id], before=entries.index(second), key_hash=second["key_hash"])
        client.close()

    assert [{"id": call_id, "name": name, "argument_bytes": len(arguments.encode())}] == outcome["tool_calls"]
    assert [call_id] == second["tool_results"]
    assert {call_id: first["id"]} == askers
    assert "canaryresult" not in str(entries)


HEAVY = (
    "cryptography", "apsw", "sqlite3", "re2", "openrouter_audit.enrichment.enricher", "openrouter_audit.core.notes",
    "openrouter_audit.core.merkle", "openrouter_audit.core.redaction",
)  # fmt: skip


def test_installing_loads_nothing_that_only_a_call_needs(tmp_path):
    """
    Applications install at their start, and some never make a call: on a home that is there, cryptography, databases and
    settlement come with the first record.
    """
    AuditLog.open(tmp_path / "home").close()
    done = run_python(
        f"import sys, openrouter_audit; openrouter_audit.install(sys.argv[1]); print(*({set(HEAVY)!r} & set(sys.modules)))",
        tmp_path / "home",
    )

    assert "\n" == done.stdout
