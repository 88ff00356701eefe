"""
P1: "Nothing leaves unrecorded. An intent has left the process (it survives `kill -9`; in `strict` it is synced) before the
first request byte leaves. The outcome is written before the caller is handed the chunk in which the terminal line
completes. A crash in between leaves an intent, which a sweep closes as `unknown`."
"""

import os
import signal
import subprocess
import sys
import threading

import httpx
import openai
import pytest
from tests.journal.homes import KEY, drain, of_kind, statuses
from tests.promises.servers import STREAM_HEAD, RawServer, whole

from openrouter_audit import AuditLog
from openrouter_audit.journal import spool as spool_module

ANSWER = (
    '{"id":"gen-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    '"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
MESSAGES = [{"role": "user", "content": "hello"}]


def opened(path, mode="buffer"):
    return AuditLog.open(path / "home", mode=mode, hosts=["127.0.0.1"], sequencer=False, enrich=False)


@pytest.mark.parametrize("mode", ["buffer", "strict"])
def test_the_intent_is_in_the_spool_when_the_first_byte_arrives(tmp_path, monkeypatch, mode):
    """
    The server looks into the journal when it has received one byte: the call is there, and has no outcome.
    """
    audit, seen, syncs = opened(tmp_path, mode), [], []
    real = spool_module._fdatasync
    monkeypatch.setattr(spool_module, "_fdatasync", lambda descriptor: (syncs.append(1), real(descriptor)))

    def look():
        seen.append((drain(audit.home), len(syncs)))

    with RawServer(lambda *_: [whole(ANSWER)], on_first_byte=look) as server, audit.httpx2_client() as client:
        sdk = openai.OpenAI(base_url=server.url, api_key=KEY, http_client=client)
        sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages=MESSAGES)
    ((entries, synced),) = seen

    assert 1 == len(of_kind(entries, "call.intent"))
    assert {} == statuses(entries)
    assert (2 if mode == "strict" else 0) == synced
    assert ["success"] == list(statuses(drain(audit.home)).values())
    assert (3 if mode == "strict" else 0) == len(syncs)
    audit.close()


def test_a_process_that_is_killed_in_between_leaves_an_unknown_outcome(tmp_path):
    """
    The server kills its client when the request has arrived.
    """
    script = f"""
import sys, openai, openrouter_audit
audit = openrouter_audit.install(sys.argv[1], hosts=["127.0.0.1"])
sdk = openai.OpenAI(base_url=sys.argv[2], api_key={KEY!r})
print("ready", flush=True)
sdk.chat.completions.create(model="openai/gpt-4.1-mini", messages={MESSAGES!r})
"""
    pid: list[int] = []

    def kill(*_):
        os.kill(pid[0], signal.SIGKILL)
        return []

    with RawServer(kill) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "home"), server.url], stdout=subprocess.PIPE
        )
        pid.append(process.pid)
        process.communicate(timeout=30)
    assert -signal.SIGKILL == process.returncode
    audit = opened(tmp_path)

    assert ["unknown"] == list(statuses(drain(audit.home)).values())
    audit.close()


@pytest.mark.parametrize("ending", ["terminal event", "whole body"])
def test_the_outcome_is_written_before_the_last_bytes_are_handed_on(tmp_path, ending):
    """
    The caller looks into the journal as soon as it holds the piece with the end of the answer.
    """
    audit, go_on = opened(tmp_path), threading.Event()
    chunk = b'data: {"id":"gen-1","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'

    def stream(*_):
        yield STREAM_HEAD + chunk
        go_on.wait(10)
        yield b"data: [DONE]\n\n"
        yield b": later\n\n"

    def body(*_):
        data = whole(ANSWER)
        yield data[:-10]
        go_on.wait(10)
        yield data[-10:]

    found = []
    with (
        RawServer(stream if ending == "terminal event" else body) as server,
        audit.httpx_client() as client,
        client.stream(
            "POST", server.url + "/chat/completions", json={"model": "m", "messages": MESSAGES, "stream": True}
        ) as response,
    ):
        assert isinstance(client, httpx.Client)
        received = b""
        for piece in response.iter_raw():
            received += piece
            found.append((received.endswith((b"[DONE]\n\n", b"}}")), statuses(drain(audit.home))))
            go_on.set()
            if found[-1][0]:
                break

    assert {} == found[0][1], "nothing is known after the first piece"
    assert ["success"] == list(found[-1][1].values())
    audit.close()


def test_an_sdk_stream_has_its_outcome_when_the_loop_ends(tmp_path):
    audit = opened(tmp_path)
    chunk = (
        b'data: {"id":"gen-1","object":"chat.completion.chunk","created":1,"model":"m",'
        b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    )
    with (
        RawServer(lambda *_: [STREAM_HEAD, chunk, b"data: [DONE]\n\n"]) as server,
        audit.httpx2_client() as client,
        openai.OpenAI(base_url=server.url, api_key=KEY, http_client=client) as sdk,
    ):
        for _ in sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            pass
        found = drain(audit.home)

    assert ["success"] == list(statuses(found).values())
    audit.close()
