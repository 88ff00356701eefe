"""Every client library, asked the same of the emulator: the record says the same, whichever library made the call."""

import asyncio
import contextlib
import json

import aiohttp
import httpx
import httpx2
import msgspec
import pytest
import requests
from tests.capture.recording import HOSTS, KEY, MESSAGES, MODEL, FakeRecorder

from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.testing import FakeOpenRouter

CHANGING = {
    *("id", "at_us", "first_byte_us", "first_token_us", "last_byte_us", "chunks", "response_commitment"),
    *("error_code", "generation_id", "request_id", "edge_ray"),
}


@pytest.fixture(autouse=True)
def no_faults(clean):
    yield
    assert {} == faults.counts


def by_httpx2(url, body, headers):
    with httpx2.Client() as client, client.stream("POST", url, content=body, headers=headers) as response:
        return b"".join(response.iter_bytes())


def by_httpx(url, body, headers):
    with httpx.Client() as client, client.stream("POST", url, content=body, headers=headers) as response:
        return b"".join(response.iter_bytes())


def by_requests(url, body, headers):
    with requests.Session() as session:
        return session.post(url, data=body, headers=headers).content


def by_requests_lines(url, body, headers):
    with requests.post(url, data=body, headers=headers, stream=True) as response:
        return list(response.iter_lines())


def by_aiohttp(url, body, headers):
    async def main():
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, data=body) as response,
        ):
            return await response.read()

    return asyncio.run(main())


def by_aiohttp_lines(url, body, headers):
    async def main():
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, data=body) as response,
        ):
            return [line async for line in response.content]

    return asyncio.run(main())


CLIENTS = [by_httpx2, by_httpx, by_requests, by_requests_lines, by_aiohttp, by_aiohttp_lines]
PATHS = {
    "/chat/completions": {"model": MODEL, "messages": MESSAGES},
    "/responses": {"model": MODEL, "input": "Which invoice is overdue?"},
    "/messages": {"model": MODEL, "messages": MESSAGES, "max_tokens": 100},
}
ENDS = [
    *("done", "no_done", "cut_frame", "cut_boundary"),
    *("error_first", "error_mid", "error_usage", "choice_error", "native_error"),
]
PLAIN = ["", "status=429", "status=402", "status=503", "error=true; status=200", "gzip=true", "finish_reason=length"]


def told(ask, path, behaviour, *, stream):
    """The outcome of one call to a fresh emulator, without what differs from call to call; and what the emulator billed."""
    recorder = FakeRecorder()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    if behaviour:
        headers["X-Emulator"] = behaviour
    body = json.dumps({**PATHS[path], "stream": stream}).encode()
    with FakeOpenRouter(seed=7) as emulator:
        instrument(recorder, HOSTS)
        try:
            with contextlib.suppress(Exception):
                ask(emulator.url + path, body, headers)
        finally:
            uninstrument()
        books = emulator.calls()
    assert 1 == len(books) == len(recorder.intents)
    recorder.check()
    intent, outcome = recorder.intents[0], recorder.outcomes[0]
    facts = {name: value for name, value in msgspec.structs.asdict(outcome).items() if name not in CHANGING}
    return facts, intent.request_bytes, outcome.generation_id == books[0]["generation_id"]


def alike(tell):
    measure, *others = [tell(ask) for ask in CLIENTS]
    for ask, (facts, *rest) in zip(CLIENTS[1:], others, strict=True):
        differing = {name for name, value in facts.items() if value != measure[0][name]}
        assert (set(), measure[1:]) == (differing, tuple(rest)), ask.__name__


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("end", ENDS)
def test_streams_are_told_alike_however_they_end(path, end):
    """
    httpx2 is the measure; status, errors, usage, cost, provider and size of the others are equal to its.
    """
    alike(lambda ask: told(ask, path, f"end={end}; chunk=40", stream=True))


@pytest.mark.parametrize("behaviour", PLAIN)
def test_plain_answers_are_told_alike(behaviour):
    alike(lambda ask: told(ask, "/chat/completions", behaviour, stream=False))
