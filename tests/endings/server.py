"""
A server that does what a script says, byte by byte, and in step with its client.

A script is what one connection lives through once its request has come: `bytes` are sent, `HEARD` waits until the client
says that the last piece has reached its caller, `HANG` says nothing more until the client hangs up, `RESET` ends the
connection as a crash does, a callable is called. After the last step the server closes. So nothing here is a matter of
time: the second piece leaves when the first has arrived where it belongs, and a piece that is held back on its way stops
everything, until a deadline tells which test it was.

One thread, one connection after the other.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

DEADLINE_S = 30
"""For whatever must happen; only a defect makes anybody wait for it."""
HEARD = "heard"
HANG = "hang"
RESET = "reset"
Step = bytes | str | Callable[[], object]
Script = Sequence[Step]


class ScriptedServer:
    """Plays one script for each connection that carries a request; further ones are closed unanswered."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.received: list[bytes] = []
        """Requests, as they came."""
        self._scripts: deque[Script] = deque()
        self._heard = threading.Semaphore(0)
        self._current: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def play(self, *scripts: Script) -> None:
        """What the coming connections live through, one after the other."""
        self.dismiss()
        self.received.clear()
        self._scripts = deque(scripts)
        self._heard = threading.Semaphore(0)

    def heard(self) -> None:
        """The client's side: a piece has reached the caller."""
        self._heard.release()

    def dismiss(self) -> None:
        """Whatever connections still wait for, it is over. Returns when it is, for all that were begun before."""
        self._scripts = deque()
        self._heard.release(1000)
        current = self._current
        if current is not None:
            with contextlib.suppress(OSError):
                current.shutdown(socket.SHUT_RDWR)
        # Connections are accepted in the order in which they were made: when this one ends, the others have.
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as last:
            last.shutdown(socket.SHUT_WR)
            assert b"" == last.recv(1)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._current = connection
            with connection, contextlib.suppress(OSError):
                self._serve(connection)
            self._current = None

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = _request(connection)
        if request is None:
            return
        self.received.append(request)
        heard = self._heard
        for step in self._scripts.popleft() if self._scripts else ():
            match step:
                case bytes():
                    connection.sendall(step)
                case "heard":
                    if not heard.acquire(timeout=DEADLINE_S):
                        return
                case "hang":
                    while connection.recv(1024):
                        pass
                case "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case _ if callable(step):
                    step()


def _request(connection: socket.socket) -> bytes | None:
    """One request; None where the client hangs up before it is whole, or speaks something else (TLS)."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
        if data[:1] == b"\x16":
            connection.sendall(b"HTTP/1.1 400 this is no TLS\r\n\r\n")
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            return None
        body += more
    return head + b"\r\n\r\n" + body
