"""
The emulator as a thing to start and stop: in a thread of the test, or as a process of its own.

    with FakeOpenRouter(seed=7) as fake:
        client = openai.OpenAI(base_url=fake.url, api_key="sk-or-v1-...")
        ...
        assert "0.0000104" == fake.calls()[0]["billed"]
"""

import asyncio
import json
import secrets
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from openrouter_audit.testing.emulator.desk import Desk
from openrouter_audit.testing.emulator.plan import LatencyModel

if TYPE_CHECKING:
    from openrouter_audit.testing.emulator.wire import Connection

_HOST = "127.0.0.1"


def _url(port: int) -> str:
    return f"http://{_HOST}:{port}/api/v1"


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not made for every system; asyncio's own loop does the same, slower
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Server:
    """The listening socket and its connections, on one loop."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, port: int) -> int:
        """Open the socket and return its port."""
        try:
            from openrouter_audit.testing.emulator.wire import Connection
        except ImportError as error:
            raise ImportError("the emulator needs httptools: pip install 'openrouter-audit[testing]'") from error
        self._desk.ledger.open()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._desk, self._connections), _HOST, port, backlog=1024
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, drop every connection, and let calls under way be booked as those of clients that have gone."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        ours = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not ours]
        if left:
            await asyncio.wait(left, timeout=2.0)
        self._desk.ledger.close()


class FakeOpenRouter:
    """
    An OpenRouter on loopback, in a thread with its own event loop; a context manager.

    Args:
        seed: Ids, tokens, words and waiting times follow from it and from the order of the requests.
        port: 0 for any that is free.
        latency_model: How long answers take where the switch `latency_ms` does not say; at once by default.
        books: File to which each finished call is appended as a line of JSON.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        port: int = 0,
        latency_model: LatencyModel | None = None,
        books: str | Path | None = None,
    ) -> None:
        self._desk = Desk(seed, latency_model, None if books is None else Path(books))
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """Base URL for a client: `base_url=` of openai, `server_url=` of openrouter."""
        return _url(self._port)

    def start(self) -> Self:
        """
        Start serving.

        Raises:
            ImportError: The extra `testing` is not installed.
            OSError: The port is taken, or the books cannot be written.
        """
        self._thread = threading.Thread(target=self._run, name="fake-openrouter", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def close(self) -> None:
        """Stop serving; the books stay readable."""
        if self._loop is not None and self._stop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def calls(self) -> list[dict[str, Any]]:
        """The books: every call that has ended, in order of arrival."""
        return self._desk.ledger.calls()

    def script(self, behaviours: Sequence[Mapping[str, Any]]) -> None:
        """
        Queue behaviours, one for each coming call.

        Raises:
            UnknownSwitch: One of them is wrong; none was queued.
        """
        self._desk.script.extend(behaviours)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        loop = self._loop = _new_loop()
        try:
            loop.run_until_complete(self._serve())
        except BaseException as error:  # handed to the thread that waits in start()
            self._failure = error
        finally:
            loop.close()
            self._started.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = _Server(self._desk)
        self._port = await server.listen(self._port)
        self._started.set()
        await self._stop.wait()
        await server.close()


def serve(
    port: int = 0,
    seed: int | None = None,
    books: str | Path | None = None,
    latency_model: LatencyModel | None = None,
) -> None:
    """
    Serve in this process until SIGINT or SIGTERM; the first line on stdout is `{"url": ...}`.

    Args:
        port: 0 for any that is free.
        seed: None draws one, so that two runs never give out the same generation id.
        books: As for `FakeOpenRouter`.
        latency_model: As for `FakeOpenRouter`.

    Raises:
        ImportError: The extra `testing` is not installed.
        OSError: The port is taken, or the books cannot be written.
    """
    desk = Desk(secrets.randbits(32) if seed is None else seed, latency_model, None if books is None else Path(books))

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        server = _Server(desk)
        print(json.dumps({"url": _url(await server.listen(port))}), flush=True)
        await stop.wait()
        await server.close()

    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(run())
