"""
HTTP/1.1 on the emulator's side of a connection: keep-alive, bodies with Content-Length or chunked, answers likewise.

Requests of one connection are answered one after the other. An answer is cut into pieces as asked (`chunk`, else one for
each event of a stream, else the whole body), each piece its own write and, in a stream, its own HTTP chunk; `gap_ms` is
slept between two. The call is booked before the last piece is written, or at the moment the client is seen to have gone.
"""

import asyncio
import hashlib
import http
import itertools
import math
import zlib
from bisect import bisect_right
from collections import deque
from typing import Any, cast

import httptools

from openrouter_audit.testing.emulator.calls import Answer, Request
from openrouter_audit.testing.emulator.desk import Desk, compress
from openrouter_audit.testing.emulator.plan import Frame

MAX_BODY_BYTES = 64 * 2**20
"""A longer request is answered 413 and the connection closed."""

_PIECES_AT_ONCE = 64  # then the other connections have their turn

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


class Connection(asyncio.Protocol):
    """One client connection; owned by the server's loop."""

    def __init__(self, desk: Desk, connections: "set[Connection]") -> None:
        self._desk, self._connections = desk, connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._body: list[bytes] = []
        self._size = 0
        self._headers: dict[str, str] = {}

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # create_server makes no other kind
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the why makes no difference here
        self._connections.discard(self)
        self._writable.set()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= MAX_BODY_BYTES:
            self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=path,
            query=query,
            headers=self._headers,
            body=b"" if self._size > MAX_BODY_BYTES else b"".join(self._body),
            too_large=self._size > MAX_BODY_BYTES,
        )
        self._waiting.append((request, self._parser.should_keep_alive() and not request.too_large))
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection at once; a call under way is booked as that of a client that has gone."""
        if self._transport is not None:
            self._transport.abort()

    # What we do.

    async def _work(self) -> None:
        """Answer what is waiting; one task for the requests that came while it ran."""
        try:
            while self._waiting and not self._gone.done():
                request, keep_alive = self._waiting.popleft()
                answer = self._desk.answer(request)
                if not await self._send(answer, keep_alive=keep_alive, head_only=request.method == "HEAD"):
                    self.close()
                    return
        except Exception as error:  # ours, not the client's: told to whoever watches the loop
            self._loop.call_exception_handler({"message": "the emulator failed", "exception": error})
            self.close()
        finally:
            self._task = None

    async def _send(self, answer: Answer, *, keep_alive: bool, head_only: bool) -> bool:
        """Send one answer, book it, and tell whether the connection may go on."""
        settle = self._desk.settle
        if answer.delay_ms:
            await self._pause(answer.delay_ms)
        if answer.status == 0 or self._left():
            settle(answer, digest=None, tokens=0, hung_up=answer.stream and self._left())
            return False
        asked, telling = answer.behaviour, answer.telling
        frames = telling.frames
        if asked.gzip and frames:
            frames = _compressed(frames, stream=answer.stream, whole=not telling.hold)
        headers = [*answer.headers, ("content-encoding", "gzip")] if asked.gzip else answer.headers
        close = telling.cut or not keep_alive
        length = None if answer.stream else _promised(answer, frames)
        pieces = list(_pieces(frames, asked.chunk))
        head = _head(answer.status, headers, length=length, close=close)
        if head_only:
            pieces = []
        hold = telling.hold and not head_only
        if not pieces and not hold:
            settle(answer, digest=None)
        if not answer.stream and len(pieces) == 1 and not hold:
            settle(answer, digest=hashlib.sha256(pieces[0].data).digest())
            self._write(head + pieces[0].data)
            return not close
        self._write(head)
        await self._send_pieces(answer, pieces, gap_ms=asked.gap_ms or 0.0, hold=hold)
        if self._left():
            return False
        if answer.stream and not telling.cut:
            self._write(b"0\r\n\r\n")
        return not close

    async def _send_pieces(self, answer: Answer, pieces: list[Frame], *, gap_ms: float, hold: bool) -> None:
        digest, sent_tokens, last = hashlib.sha256(), 0, len(pieces) - 1
        for i, (data, tokens) in enumerate(pieces):
            if i and gap_ms:
                await self._pause(gap_ms)
            elif i % _PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not self._writable.is_set():
                await self._writable.wait()
            if self._left():
                # A body that is no stream runs to its end and is billed in full, whoever listens.
                sent = digest.digest() if i else None
                self._desk.settle(answer, digest=sent, tokens=sent_tokens, hung_up=answer.stream)
                return
            digest.update(data)
            sent_tokens = tokens
            if i == last and not hold:
                self._desk.settle(answer, digest=digest.digest())
            self._write(b"%x\r\n%b\r\n" % (len(data), data) if answer.stream else data)
        if hold:
            await self._pause(math.inf)
            self._desk.settle(answer, digest=digest.digest(), tokens=sent_tokens, hung_up=answer.stream)

    def _left(self) -> bool:
        """Whether the client has gone; a failed write tells before the loop does."""
        return self._gone.done() or self._transport is None or self._transport.is_closing()

    async def _pause(self, milliseconds: float) -> None:
        """Sleep, but no longer than the client stays."""
        await asyncio.wait({self._gone}, timeout=None if milliseconds == math.inf else milliseconds / 1000)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._left():
            self._transport.write(data)


def _head(status: int, headers: list[tuple[str, str]], *, length: int | None, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}", *(f"{name}: {value}" for name, value in headers)]
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _promised(answer: Answer, frames: list[Frame]) -> int:
    """Content-Length: that of the frames, or more where the body is to be cut."""
    length = sum(len(frame.data) for frame in frames)
    return length if answer.telling.promised is None else max(length + 1, answer.telling.promised)


def _compressed(frames: list[Frame], *, stream: bool, whole: bool) -> list[Frame]:
    """The frames in gzip; a stream that is not whole lacks the end of it too."""
    if not stream:
        return [Frame(compress(frame.data), frame.tokens) for frame in frames]
    packer = zlib.compressobj(wbits=31)
    packed = [Frame(packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH), tokens) for data, tokens in frames]
    if whole:
        packed[-1] = Frame(packed[-1].data + packer.flush(), packed[-1].tokens)
    return packed


def _pieces(frames: list[Frame], size: int | None) -> list[Frame]:
    """The frames, or the same bytes in pieces of `size`, each with the tokens of the last frame it completes."""
    if size is None:
        return frames
    body = b"".join(frame.data for frame in frames)
    ends = list(itertools.accumulate(len(frame.data) for frame in frames))
    tokens = [0, *(frame.tokens for frame in frames)]
    return [
        Frame(body[start : start + size], tokens[bisect_right(ends, start + size)])
        for start in range(0, len(body), size)
    ]
