"""Both official SDKs take the emulator for OpenRouter, in all four of their forms."""

import asyncio

import openai
import pytest
from openrouter import OpenRouter
from openrouter.errors import OpenRouterError
from openrouter.utils import BackoffStrategy, RetryConfig
from tests.testing.asking import KEY

MESSAGES = [{"role": "user", "content": "Which invoice is overdue?"}]
MODEL = "openai/gpt-4.1-mini"


def openai_client(fake, **options):
    return openai.OpenAI(base_url=fake.url, api_key=KEY, **options)


def openrouter_client(fake):
    return OpenRouter(api_key=KEY, server_url=fake.url)


def test_openai_chat_plain_and_streamed_says_what_the_books_say(fake):
    """
    A newcomer's first program: the text of the stream is that of an answer, tokens and cost are those of the books.
    """
    with openai_client(fake) as client:
        plain = client.chat.completions.create(model=MODEL, messages=MESSAGES)
        chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))

    first, second = fake.calls()
    assert plain.choices[0].message.content
    assert (plain.id, plain.usage.completion_tokens) == (first["generation_id"], first["completion_tokens"])
    assert "openai/gpt-4.1-mini-2025-04-14" == plain.model
    spoken = [chunk for chunk in chunks if chunk.choices[0].delta.content]
    assert second["completion_tokens"] == chunks[-1].usage.completion_tokens == len(spoken)
    assert {chunk.id for chunk in chunks} == {second["generation_id"]}


def test_openai_async_plain_and_streamed(fake):
    """
    The same through the asynchronous client, several calls at once.
    """

    async def run():
        async with openai.AsyncOpenAI(base_url=fake.url, api_key=KEY) as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(5))
            )
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            return answers, [chunk async for chunk in stream]

    answers, chunks = asyncio.run(run())
    assert {answer.id for answer in answers} | {chunks[0].id} == {row["generation_id"] for row in fake.calls()}


def test_openrouter_plain_streamed_and_record(fake):
    """
    The stricter SDK validates every member of an answer, of each chunk and of the generation record.
    """
    with openrouter_client(fake) as client:
        plain = client.chat.send(model=MODEL, messages=MESSAGES)
        with client.chat.send(model=MODEL, messages=MESSAGES, stream=True) as stream:
            chunks = list(stream)
        record = client.generations.get_generation(id=plain.id)

    assert plain.usage.cost == record.data.total_cost == float(fake.calls()[0]["billed"])
    assert chunks[-1].usage.cost == float(fake.calls()[1]["billed"])


def test_openrouter_async_plain_and_streamed(fake):
    """
    And its asynchronous half.
    """

    async def run():
        async with openrouter_client(fake) as client:
            plain = await client.chat.send_async(model=MODEL, messages=MESSAGES)
            async with await client.chat.send_async(model=MODEL, messages=MESSAGES, stream=True) as stream:
                return plain, [chunk async for chunk in stream]

    plain, chunks = asyncio.run(run())
    assert [plain.id, chunks[0].id] == [row["generation_id"] for row in fake.calls()]


def test_embeddings_through_both(fake):
    """
    One SDK asks for base64 and decodes it, the other takes numbers; equal inputs give equal vectors.
    """
    with openai_client(fake) as client:
        first = client.embeddings.create(model="qwen/qwen3-embedding-8b", input=["overdue", "paid"])
    with openrouter_client(fake) as client:
        second = client.embeddings.generate(model="qwen/qwen3-embedding-8b", input=["overdue", "paid"])

    assert pytest.approx(first.data[1].embedding, abs=1e-4) == second.data[1].embedding
    assert first.data[0].embedding != first.data[1].embedding
    assert all(row["generation_id"].startswith("gen-emb-") for row in fake.calls())


def test_responses_plain_and_streamed(fake):
    """
    The events of /responses end in the whole response, whose text is that of the deltas.
    """
    with openai_client(fake) as client:
        plain = client.responses.create(model=MODEL, input="Which invoice is overdue?")
        events = list(client.responses.create(model=MODEL, input="Which invoice is overdue?", stream=True))

    assert plain.output_text
    assert "response.completed" == events[-1].type
    assert events[-1].response.output_text == "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert list(range(len(events))) == [event.sequence_number for event in events]


def test_openrouter_responses_plain_and_streamed(fake):
    """
    The stricter SDK accepts each event and the whole body too.
    """
    with openrouter_client(fake) as client:
        plain = client.beta.responses.send(model=MODEL, input="Which invoice is overdue?")
        with client.beta.responses.send(model=MODEL, input="Which invoice is overdue?", stream=True) as stream:
            events = list(stream)

    assert "completed" == plain.status
    assert "response.completed" == events[-1].type


def test_legacy_completions(fake):
    """
    The oldest interface answers with text instead of messages.
    """
    with openai_client(fake) as client:
        plain = client.completions.create(model="openai/gpt-3.5-turbo-instruct", prompt="Paris is")
        chunks = list(client.completions.create(model="openai/gpt-3.5-turbo-instruct", prompt="Paris is", stream=True))

    assert plain.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chunks)


def test_sdk_retries_are_calls_of_their_own(fake):
    """
    503 twice, then an answer: the SDK shows one call, the books three, and only the last one costs.
    """
    with openai_client(fake, max_retries=3) as client:
        client.chat.completions.create(
            model=MODEL, messages=MESSAGES, extra_headers={"X-Emulator": "status=503;times=2;retry_after=0"}
        )
    assert [503, 503, 200] == [row["status"] for row in fake.calls()]
    assert [True, True, False] == [row["billed"] is None for row in fake.calls()]


def test_openrouter_sdk_retries_too(fake):
    """
    This SDK does not number its attempts, so the emulator counts equal requests.
    """
    quick = RetryConfig("backoff", BackoffStrategy(1, 5, 1.0, 5000), retry_connection_errors=True)
    with openrouter_client(fake) as client:
        answer = client.chat.send(
            model=MODEL, messages=MESSAGES, retries=quick, http_headers={"X-Emulator": "status=502;times=2"}
        )
    assert answer.id == fake.calls()[2]["generation_id"]
    assert [502, 502, 200] == [row["status"] for row in fake.calls()]


def test_errors_reach_the_sdks_as_their_own_exceptions(fake):
    """
    A spent key cap is a 403 on the wire.
    """
    fake.script([{"error": "403_key_limit"}, {"status": 402}])
    with openai_client(fake, max_retries=0) as client, pytest.raises(openai.PermissionDeniedError, match="Key limit"):
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    with openrouter_client(fake) as client, pytest.raises(OpenRouterError) as caught:
        client.chat.send(model=MODEL, messages=MESSAGES)
    assert 402 == caught.value.status_code
