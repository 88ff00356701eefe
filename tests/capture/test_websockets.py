"""WebSockets are not recorded; that there was one to a watched host is."""

import asyncio
import json
import subprocess
import sys

import aiohttp
import httpx2
import pytest
from tests.capture.recording import KEY, FakeRecorder, installed
from tests.capture.websocket_server import WebSocketServer

import openrouter_audit.capture.watch
from openrouter_audit import AuditLog
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.core.entries import AlertRaised
from openrouter_audit.errors import AuditUnavailable


@pytest.fixture
def server():
    with WebSocketServer() as running:
        yield running


def by_aiohttp(server, host="127.0.0.1"):
    async def main():
        async with aiohttp.ClientSession() as session, session.ws_connect(server.url(host=host)) as opened:
            return (await opened.receive()).data

    return asyncio.run(main())


def by_aiohttp_over_http(server, host="127.0.0.1"):
    async def main():
        async with aiohttp.ClientSession() as session, session.ws_connect(server.url("http", host)) as opened:
            return (await opened.receive()).data

    return asyncio.run(main())


def by_httpx2(server, host="127.0.0.1"):
    pytest.importorskip("wsproto")
    with httpx2.Client() as client, client.websocket(server.url(host=host)) as opened:
        return opened.receive_text()


def by_httpx2_async(server, host="127.0.0.1"):
    pytest.importorskip("wsproto")

    async def main():
        async with httpx2.AsyncClient() as client, client.websocket(server.url(host=host)) as opened:
            return await opened.receive_text()

    return asyncio.run(main())


def by_websockets(server, host="127.0.0.1"):
    client = pytest.importorskip("websockets.sync.client")
    with client.connect(server.url(host=host), proxy=None) as opened:
        return opened.recv()


def by_websockets_async(server, host="127.0.0.1"):
    client = pytest.importorskip("websockets.asyncio.client")

    async def main():
        async with client.connect(server.url(host=host), proxy=None) as opened:
            return await opened.recv()

    return asyncio.run(main())


def by_openai(server, host="127.0.0.1"):
    pytest.importorskip("websockets")
    import openai

    base = f"http://{host}:{server.port}/api/v1"
    with openai.OpenAI(api_key=KEY, base_url=base) as client, client.responses.connect() as connection:
        return connection.recv_bytes().decode()


CLIENTS = [
    by_aiohttp,
    by_aiohttp_over_http,
    by_httpx2,
    by_httpx2_async,
    by_websockets,
    by_websockets_async,
    by_openai,
]


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")  # openai's use
@pytest.mark.parametrize("connect", CLIENTS)
def test_a_connection_to_a_watched_host_is_an_alert_and_no_call(server, connect):
    """
    The text arrives as without us; the alert says that there was something, and nothing of what it was.
    """
    recorder = FakeRecorder()
    with installed(recorder):
        assert "hi" == connect(server)
    assert [AlertRaised] == [type(facts) for facts, _, _ in recorder.frames]
    alert, private, follows = recorder.frames[0]
    assert ("websocket_not_recorded", None, None) == (alert.rule, alert.call, alert.expected)
    assert private is None is follows
    assert {} == faults.counts


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")  # openai's use
@pytest.mark.parametrize("connect", CLIENTS)
def test_other_hosts_are_noticed_and_raise_nothing(server, connect):
    hosts, recorder = HostSet(), FakeRecorder()
    with installed(recorder, hosts):
        assert "hi" == connect(server, "localhost")
    assert [] == recorder.frames
    assert (f"localhost:{server.port}",) == hosts.strangers


def test_one_alert_a_minute_for_each_host_is_enough(server, monkeypatch):
    """
    A client that connects again and again fills no log; another host, or a minute later, is news.
    """
    now = [1000.0]
    monkeypatch.setattr(openrouter_audit.capture.watch.time, "monotonic", lambda: now[0])
    recorder = FakeRecorder()
    with WebSocketServer() as other, installed(recorder):
        for _ in range(3):
            by_aiohttp(server)
        assert 1 == len(recorder.frames)
        by_aiohttp(other)
        assert 2 == len(recorder.frames)
        now[0] += 61
        by_aiohttp(server)
        assert 3 == len(recorder.frames)
    assert 4 == server.connections


@pytest.mark.parametrize("error", [AuditUnavailable("full", reason="full"), OSError("a fault of ours")])
def test_an_alert_that_cannot_be_written_stops_no_connection(server, error):
    """
    Nothing was promised about WebSockets that refusing one would keep. The next one tries again.
    """

    class Refusing(FakeRecorder):
        def write(self, *_, **__):
            raise error

    with installed(Refusing()):
        assert "hi" == by_aiohttp(server)
        assert "hi" == by_aiohttp(server)
    assert {"alert": 2} == faults.counts


def test_doctor_says_so(server, tmp_path):
    """
    The whole way: capture, spool, journal, command.
    """
    with AuditLog.open(tmp_path, hosts=["127.0.0.1"], enrich=False) as audit:
        with installed(audit, audit.hosts):
            by_aiohttp(server)
        assert audit.flush(30.0) > 0
    done = subprocess.run(
        [sys.executable, "-m", "openrouter_audit", "--home", str(tmp_path), "doctor", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    findings = json.loads(done.stdout)
    assert (1, 1) == (findings["alerts"], findings["websockets_not_recorded"])
    said = [problem for problem in findings["problems"] if "alert" in problem]
    assert 1 == len(said)
    assert "WebSocket" in said[0]
    assert 2 == done.returncode
