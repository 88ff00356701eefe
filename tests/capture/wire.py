"""A server that answers with exactly the bytes it is given and keeps exactly the bytes it receives."""

import contextlib
import socket
import threading
import time


class RecordingServer:
    """Speaks just enough HTTP/1.1 to find the end of a request; one connection, one request."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api/v1"
        self.received = []
        self.on_request = lambda: None
        self._answers, self._pause = [], 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def answer(self, status, headers, pieces, *, pause=0.0):
        """Answer every coming request so; without a length the body ends with the connection."""
        self._answers, self._pause = [(status, headers, pieces)], pause

    def answers(self, several):
        """Answer the coming requests one after the other; the last stays."""
        self._answers, self._pause = list(several), 0.0

    def _run(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            data = b""
            while not self._is_whole(data):
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            self.on_request()
            self.received.append(data)
            status, headers, pieces = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            lines = [
                b"HTTP/1.1 %d Whatever" % status,
                *(name + b": " + value for name, value in headers),
                b"connection: close",
            ]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            for piece in pieces:
                if self._pause:
                    time.sleep(self._pause)
                connection.sendall(piece)
            if self._pause:
                time.sleep(self._pause)

    @staticmethod
    def _is_whole(data):
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            return False
        fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
        if b"transfer-encoding" in fields:
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(fields.get(b"content-length", 0))
