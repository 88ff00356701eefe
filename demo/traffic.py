"""
One application process of the demo: `install()`, then ordinary SDK calls that know nothing of it.

    python -m demo.traffic ROLE HOME BASE_URL

The API key comes from `$OPENROUTER_API_KEY`. The SDKs are the official ones and the server is a real one on loopback;
the header `X-Emulator` asks it for what a real one does now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import openrouter_audit
from openrouter_audit import attribution

MODELS = ("openai/gpt-4.1-mini", "anthropic/claude-sonnet-4.6", "deepseek/deepseek-chat-v3.1")


def question(number: int) -> list[Any]:
    return [{"role": "user", "content": f"Which of the {number + 2} invoices is overdue?"}]


def emulate(behaviour: str) -> dict[str, str]:
    return {"X-Emulator": behaviour}


def alice(base_url: str) -> None:
    """The synchronous client: plain calls, streams, responses, embeddings, and what goes wrong in a day."""
    import openai

    client = openai.OpenAI(base_url=base_url)
    chat = client.chat.completions
    with attribution(user="alice", purpose="triage", tags={"team": "billing"}):
        for number in range(45):
            chat.create(model=MODELS[number % 3], messages=question(number))
        for number in range(25):
            for _ in chat.create(model=MODELS[number % 3], messages=question(number), stream=True):
                pass
        for number in range(8):
            client.responses.create(model=MODELS[0], input=f"Summary {number}, please.")
            client.embeddings.create(model="qwen/qwen3-embedding-8b", input=["overdue invoice", f"invoice {number}"])
        # An answer that costs a number binary floats do not have, and one of a ten-millionth.
        for cost in ("0.0076509169000000005", "1e-7"):
            chat.create(model=MODELS[0], messages=question(1), extra_headers=emulate(f"cost={cost}"))
        # 503 twice, then an answer: three attempts of one call. 429 once.
        chat.create(model=MODELS[0], messages=question(2), extra_headers=emulate("status=503; times=2"))
        chat.create(model=MODELS[1], messages=question(3), extra_headers=emulate("status=429; times=1; retry_after=0"))
        for behaviour in ("status=402", "status=403", "status=404"):
            with contextlib.suppress(openai.APIError):
                chat.create(model=MODELS[0], messages=question(4), extra_headers=emulate(behaviour))
        with contextlib.suppress(openai.APIError):
            for _ in chat.create(
                model=MODELS[2], messages=question(5), stream=True, extra_headers=emulate("end=error_mid")
            ):
                pass
        # A stream that its reader walks away from: what it cost only OpenRouter knows.
        abandoned = chat.create(
            model=MODELS[1], messages=question(6), stream=True, extra_headers=emulate("tokens=60; gap_ms=25")
        )
        for _, _ in zip(range(5), abandoned, strict=False):
            pass
        abandoned.close()


async def bob(base_url: str) -> None:
    """The asynchronous client, eight calls at a time."""
    import openai

    client = openai.AsyncOpenAI(base_url=base_url)
    gate = asyncio.Semaphore(8)

    async def plain(number: int) -> None:
        async with gate:
            await client.chat.completions.create(model=MODELS[number % 3], messages=question(number))

    async def streamed(number: int) -> None:
        async with gate:
            stream = await client.chat.completions.create(
                model=MODELS[number % 3], messages=question(number), stream=True
            )
            async for _ in stream:
                pass

    with attribution(user="bob", session="support-4711"):
        await asyncio.gather(*(plain(number) for number in range(50)), *(streamed(number) for number in range(20)))


def both(base_url: str) -> None:
    """OpenRouter's own SDK, for both people."""
    from openrouter import OpenRouter

    with OpenRouter(api_key=os.environ["OPENROUTER_API_KEY"], server_url=base_url) as client:
        for number in range(30):
            with attribution(user=("alice", "bob")[number % 2]):
                client.chat.send(model=MODELS[number % 3], messages=question(number))
        with attribution(user="bob"):
            for number in range(10):
                with client.chat.send(model=MODELS[number % 3], messages=question(number), stream=True) as events:
                    for _ in events:
                        pass


def victim(base_url: str) -> None:
    """A process that will be killed while its answer is on the way. It says so on stdout, and waits for it."""
    import openai

    client = openai.OpenAI(base_url=base_url)
    with attribution(user="bob"):
        stream = client.chat.completions.create(
            model=MODELS[1], messages=question(7), stream=True, extra_headers=emulate("tokens=40; gap_ms=100")
        )
        for _, _ in zip(range(4), stream, strict=False):
            pass
        print("answering", flush=True)
        time.sleep(60)


ROLES: dict[str, Callable[[str], Any]] = {
    "alice": alice,
    "bob": lambda base_url: asyncio.run(bob(base_url)),
    "both": both,
    "victim": victim,
}


def main() -> None:
    role, home, base_url = sys.argv[1:]
    openrouter_audit.install(home)
    ROLES[role](base_url)


if __name__ == "__main__":
    main()
