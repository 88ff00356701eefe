"""Sentences of the pages that are about other people's code, which may change under them."""

from __future__ import annotations

import asyncio
import shutil

import openai
import openrouter
import pytest

import openrouter_audit
from openrouter_audit.errors import AuditUnavailable
from openrouter_audit.testing import FakeOpenRouter

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
CALL = {"model": "openai/gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def full(tmp_path):
    """An emulator, and a recorder whose spool takes nothing any more."""
    with FakeOpenRouter(seed=2) as fake:
        audit = openrouter_audit.install(tmp_path / "home", hosts=["127.0.0.1"])
        shutil.rmtree(audit.home.spool_dir)
        audit.home.spool_dir.touch()
        yield fake
        audit.home.spool_dir.unlink()
        openrouter_audit.uninstall()


def ask_openai(url: str) -> None:
    with openai.OpenAI(base_url=url, api_key=KEY) as client:
        client.chat.completions.create(**CALL)


def ask_openai_async(url: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
            await client.chat.completions.create(**CALL)

    asyncio.run(ask())


def ask_openrouter(url: str) -> None:
    with openrouter.OpenRouter(api_key=KEY, server_url=url) as client:
        client.chat.send(**CALL)


@pytest.mark.parametrize("ask", [ask_openai, ask_openai_async, ask_openrouter])
def test_a_refusal_goes_through_the_sdks_as_it_is(full, ask):
    """python.md: neither retried nor wrapped, and nothing was sent."""
    with openrouter_audit.attribution(user="alice") as receipts, pytest.raises(AuditUnavailable) as refused:
        ask(full.url)

    assert ("write", 1) == (refused.value.reason, refused.value.retry_after_s)
    assert [] == receipts
    assert [] == full.calls()
