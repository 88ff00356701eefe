"""Both official SDKs against the emulator, watched: the log says what the emulator's books say."""

import asyncio
import gc

import httpx
import httpx2
import openai
import pytest
from openrouter import OpenRouter
from openrouter.utils import BackoffStrategy, RetryConfig
from tests.capture.recording import KEY, MESSAGES, MODEL, FakeRecorder

from openrouter_audit.capture.attribution import attribution
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.testing import FakeOpenRouter


@pytest.fixture(scope="module")
def emulator():
    with FakeOpenRouter(seed=3) as running:
        yield running


@pytest.fixture(params=["buffer", "strict"])
def recorder(request):
    return FakeRecorder(mode=request.param)


@pytest.fixture
def watched(emulator, recorder):
    """Everything in the process is recorded; checks afterwards that nothing of ours failed."""
    faults.counts.clear()
    instrument(recorder, HostSet(["127.0.0.1"]))
    before = len(emulator.calls())
    yield lambda: emulator.calls()[before:]
    uninstrument()
    assert {} == faults.counts
    recorder.check()


def with_openai(emulator, **options):
    return openai.OpenAI(base_url=emulator.url, api_key=KEY, **options)


def with_openrouter(emulator, **options):
    return OpenRouter(api_key=KEY, server_url=emulator.url, **options)


def check_books(recorder, books):
    """Each call of the books has its outcome, with the same generation, tokens and money."""
    assert len(books) == len(recorder.outcomes)
    ours = {outcome.generation_id: outcome for outcome in recorder.outcomes}
    for row in books:
        outcome = ours[row["generation_id"]]
        assert row["status"] == outcome.http_status
        if outcome.status == "success":
            assert (row["prompt_tokens"], row["billed"]) == (outcome.prompt_tokens, outcome.cost)
            assert row["model"].lower() == outcome.model.lower()
            assert outcome.provider in {row["provider"], None}
    assert {row["key_hash"] for row in books} == {intent.key_hash for intent in recorder.intents}


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_openai_sync(emulator, recorder, watched, library):
    """
    Chat plain and streamed, Responses, embeddings, with the SDK's own client and with a legacy one handed to it.
    """
    own = {} if library == "httpx2" else {"http_client": httpx.Client()}
    with with_openai(emulator, **own) as client:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
        list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
        client.responses.create(model=MODEL, input="Which invoice is overdue?")
        list(client.responses.create(model=MODEL, input="Which invoice is overdue?", stream=True))
        client.embeddings.create(model="qwen/qwen3-embedding-8b", input=["a", "b"])
        with client.chat.completions.with_streaming_response.create(model=MODEL, messages=MESSAGES) as raw:
            raw.read()
    check_books(recorder, watched())
    assert ["chat", "chat", "responses", "responses", "embeddings", "chat"] == [i.endpoint for i in recorder.intents]
    assert {("success", True)} == {(o.status, o.complete) for o in recorder.outcomes}
    assert {"openai/3.54.0"[:7]} == {intent.sdk[:7] for intent in recorder.intents}


def test_openai_async(emulator, recorder, watched):
    """
    The same without blocking, several at once.
    """

    async def run():
        async with openai.AsyncOpenAI(base_url=emulator.url, api_key=KEY) as client:

            async def streamed(start):
                return [chunk async for chunk in await start]

            await asyncio.gather(
                client.chat.completions.create(model=MODEL, messages=MESSAGES),
                streamed(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)),
                client.responses.create(model=MODEL, input="Which?"),
                streamed(client.responses.create(model=MODEL, input="Which?", stream=True)),
                client.embeddings.create(model="qwen/qwen3-embedding-8b", input="a"),
            )

    asyncio.run(run())
    check_books(recorder, watched())
    assert {("success", True)} == {(o.status, o.complete) for o in recorder.outcomes}


def test_openrouter_sync_and_async(emulator, recorder, watched):
    async def run():
        async with with_openrouter(emulator) as client:
            await client.chat.send_async(model=MODEL, messages=MESSAGES)
            stream = await client.chat.send_async(model=MODEL, messages=MESSAGES, stream=True)
            async with stream:
                assert [chunk async for chunk in stream]

    with with_openrouter(emulator) as client:
        client.chat.send(model=MODEL, messages=MESSAGES)
        with client.chat.send(model=MODEL, messages=MESSAGES, stream=True) as stream:
            list(stream)
        client.embeddings.generate(model="qwen/qwen3-embedding-8b", input="a")
        client.generations.get_generation(id=recorder.outcomes[0].generation_id)
        client.models.list()
    asyncio.run(run())
    check_books(recorder, watched())
    assert {("success", True)} == {(o.status, o.complete) for o in recorder.outcomes}
    assert {"openrouter"} == {intent.sdk.partition("/")[0] for intent in recorder.intents}


def test_an_sdk_retry_is_a_second_attempt_of_one_group(emulator, recorder, watched):
    """
    429, then 200: two exchanges, two calls, one group; the next call is a group of its own.
    """
    emulator.script([{"status": 429, "retry_after": "0"}, {}, {}])
    with with_openai(emulator, max_retries=1) as client:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    first, second, third = recorder.intents
    assert [1, 2, 1] == [first.attempt, second.attempt, third.attempt]
    assert first.group == second.group != third.group
    assert ["error", "success", "success"] == [outcome.status for outcome in recorder.outcomes]
    assert ("429", "http", 0) == (
        recorder.outcomes[0].error_code, recorder.outcomes[0].error_source, recorder.outcomes[0].retry_after_ms,
    )  # fmt: skip


def test_an_async_retry_and_an_openrouter_retry_are_attempts_too(emulator, recorder, watched):
    async def run():
        emulator.script([{"status": 500}, {}])
        async with openai.AsyncOpenAI(base_url=emulator.url, api_key=KEY, max_retries=2) as client:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)

    asyncio.run(run())
    emulator.script([{"status": 500}, {}])
    quick = RetryConfig("backoff", BackoffStrategy(1, 5, 1.5, 5000), True)
    with with_openrouter(emulator) as client:
        client.chat.send(model=MODEL, messages=MESSAGES, retries=quick)
    assert [1, 2, 1, 2] == [intent.attempt for intent in recorder.intents]
    groups = [intent.group for intent in recorder.intents]
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_an_abandoned_stream_says_so_however_it_is_left(emulator, recorder, watched):
    """
    Closed by its user, dropped without a word, and never read at all.
    """
    with with_openai(emulator) as client:
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        next(iter(stream))
        stream.close()
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        next(iter(stream))
        del stream
        gc.collect()
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        response = stream.response
        del stream
        response.close()
    assert 3 == len(recorder.outcomes)
    assert {("abandoned", False, 200)} == {(o.status, o.complete, o.http_status) for o in recorder.outcomes}
    assert all(o.generation_id for o in recorder.outcomes)


def test_a_cancelled_task_is_cancelled_wherever_it_waits(emulator, recorder, watched):
    """
    Before the answer, inside the stream, and while its user is doing something else with a piece.
    """

    async def run():
        async with openai.AsyncOpenAI(base_url=emulator.url, api_key=KEY, max_retries=0) as client:

            async def plain():
                await client.chat.completions.create(
                    model=MODEL, messages=MESSAGES, extra_headers={"X-Emulator": "latency_ms=20000"}
                )

            async def streamed():
                slow = {"X-Emulator": "gap_ms=5000"}
                stream = await client.chat.completions.create(
                    model=MODEL, messages=MESSAGES, stream=True, extra_headers=slow
                )
                async for _ in stream:
                    pass

            async def busy():
                async with client.chat.completions.with_streaming_response.create(
                    model=MODEL, messages=MESSAGES, stream=True
                ) as raw:
                    async for _ in raw.iter_bytes():
                        await asyncio.sleep(20)

            for work in (plain, streamed, busy):
                task = asyncio.create_task(work())
                await asyncio.sleep(0.3)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(run())
    assert ["cancelled"] * 3 == [outcome.status for outcome in recorder.outcomes]


def test_a_refused_connection_and_a_time_out_are_told_apart(emulator, recorder, watched):
    with (
        openai.OpenAI(base_url="http://127.0.0.1:1/api/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    with with_openai(emulator, max_retries=0, timeout=0.2) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers={"X-Emulator": "latency_ms=3000"})
    refused, late = recorder.outcomes
    assert ("error", "connect", "ConnectError", "client") == (
        refused.status, refused.error_type, refused.error_code, refused.error_source,
    )  # fmt: skip
    assert ("timeout", "ReadTimeout") == (late.status, late.error_code)


@pytest.mark.parametrize(
    ("end", "status", "complete"),
    [
        ("done", "success", True), ("no_done", "success", False), ("cut_frame", "error", False), ("cut_boundary", "error", False),
        ("error_first", "error", None), ("error_mid", "error", None), ("error_usage", "error", True), ("native_error", "error", True),
    ],
)  # fmt: skip
def test_each_stream_end_of_the_emulator_is_named(emulator, recorder, watched, end, status, complete):
    with httpx2.Client() as client:
        try:
            with client.stream(
                "POST",
                f"{emulator.url}/chat/completions",
                json={"model": MODEL, "messages": MESSAGES, "stream": True},
                headers={"Authorization": f"Bearer {KEY}", "X-Emulator": f"end={end}; chunk=37"},
            ) as response:
                for _ in response.iter_raw():
                    pass
        except httpx2.RemoteProtocolError:
            assert end == "cut_frame"
    (outcome,) = recorder.outcomes
    assert status == outcome.status
    assert complete is None or complete == outcome.complete


def test_gzip_answers_are_read(emulator, recorder, watched):
    with with_openai(emulator) as client:
        for stream in (False, True):
            answer = client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=stream, extra_headers={"X-Emulator": "gzip=1"}
            )
            if stream:
                list(answer)
    check_books(recorder, watched())
    assert {("success", True)} == {(o.status, o.complete) for o in recorder.outcomes}


def test_receipts_grow_with_the_calls_of_the_block(emulator, recorder, watched):
    with with_openai(emulator) as client, attribution(user="customer-8841", tags={"team": "a"}) as receipts:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert ("success", recorder.outcomes[0].cost) == (receipts[0].status, str(receipts[0].total_cost))
        client.chat.completions.create(model=MODEL, messages=MESSAGES, user="ignored")
    assert [intent.id for intent in recorder.intents] == [receipt.call_id for receipt in receipts]
    privates = [private for _, private, _ in recorder.frames if private is not None]
    assert ["customer-8841"] * 2 == [private.user for private in privates]
    assert privates[0].reference == privates[1].reference != None  # noqa: E711
    assert {"team": "a"} == privates[0].tags
    assert all(KEY == call.api_key and KEY not in repr(call) for call in recorder.finished_calls)
