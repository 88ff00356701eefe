"""An HTTP server of a few lines: says exactly the bytes a test wants, and lets it look around before it answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Self

Answer = Callable[[bytes, bytes], Iterable[bytes]]
"""Takes head and body of a request; yields what is sent, piece by piece."""


def whole(body: str, *, status: str = "200 OK", fields: str = "") -> bytes:
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{fields}"
    return head.encode() + b"Connection: close\r\n\r\n" + data


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class RawServer:
    """Listens on loopback; each connection carries one request."""

    def __init__(self, answer: Answer, *, on_first_byte: Callable[[], None] = lambda: None) -> None:
        self._answer, self._on_first_byte = answer, on_first_byte
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/api/v1"
        self.requests: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._accepting.join(5)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = connection.recv(1)
            if not data:
                return
            self._on_first_byte()
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + body)
            try:
                for piece in self._answer(head, body):
                    connection.sendall(piece)
            except OSError:
                pass  # the client is gone
