"""instructor: a structured answer of an openai client it wraps, asked for again where the model does not give one."""

from __future__ import annotations

import asyncio

import instructor
import openai
import pytest
from instructor.core import InstructorRetryException
from pydantic import BaseModel
from tests.clients.recorded import KEY, MESSAGES, MODEL


class Invoice(BaseModel):
    number: int


ASKED = {"model": MODEL, "messages": MESSAGES, "response_model": Invoice, "max_retries": 2}


def test_each_question_it_asks_is_a_call_of_its_own(watched):
    """
    The emulator's words are no invoice: instructor asks twice more, with the error in the prompt.
    """
    client = instructor.from_openai(openai.OpenAI(base_url=watched.url, api_key=KEY), mode=instructor.Mode.JSON)
    with pytest.raises(InstructorRetryException):
        client.chat.completions.create(**ASKED)

    calls = watched.check("success", "success", "success")
    assert 3 == len({call.intent["group"] for call in calls})


def test_the_same_without_blocking(watched):
    async def run():
        async with openai.AsyncOpenAI(base_url=watched.url, api_key=KEY) as held:
            client = instructor.from_openai(held, mode=instructor.Mode.JSON)
            with pytest.raises(InstructorRetryException):
                await client.chat.completions.create(**ASKED)

    asyncio.run(run())
    watched.check("success", "success", "success")


def test_an_answer_without_a_model_and_a_stream_are_recorded_once(watched):
    client = instructor.from_openai(openai.OpenAI(base_url=watched.url, api_key=KEY))
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES, response_model=None).choices
    assert list(client.chat.completions.create(model=MODEL, messages=MESSAGES, response_model=None, stream=True))

    watched.check("success", "success")
