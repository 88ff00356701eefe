"""HTTP as clients really speak it, and the emulator as a process of its own."""

import itertools
import json
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.testing.asking import KEY, Asker, chat_body

from openrouter_audit.testing import FakeOpenRouter
from openrouter_audit.testing.emulator import wire
from openrouter_audit.testing.emulator.plan import Frame

BODY = json.dumps(chat_body()).encode()
HEAD = f"POST /api/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()


@pytest.fixture
def line(fake):
    parts = urlsplit(fake.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as opened:
        yield opened


def read_answer(line):
    """Status and body of one answer with a Content-Length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += line.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += line.recv(65536)
    return int(head.split(b" ")[1]), body


def test_keep_alive_serves_one_call_after_another(line, fake):
    for _ in range(3):
        line.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        assert 200 == read_answer(line)[0]
    assert 3 == len(fake.calls())


def test_chunked_request_body(line, fake):
    line.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for byte in range(0, len(BODY), 9):
        piece = BODY[byte : byte + 9]
        line.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    line.sendall(b"0\r\n\r\n")
    assert 200 == read_answer(line)[0]
    line.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    assert 200 == read_answer(line)[0]
    assert 1 == len({row["request_sha256"] for row in fake.calls()})


def test_expect_100_continue(line):
    line.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == line.recv(25)
    line.sendall(BODY)
    assert 200 == read_answer(line)[0]


def test_requests_sent_ahead_are_answered_in_order(line, fake):
    one = HEAD + b"x-emulator: status=%d\r\ncontent-length: 0\r\n\r\n"
    line.sendall(one % 503 + one % 402)
    received = b""
    while received.count(b'"error"') < 2:
        received += line.recv(65536)
    assert received.index(b"HTTP/1.1 503") < received.index(b"HTTP/1.1 402")
    assert [503, 402] == [row["status"] for row in fake.calls()]


def test_connection_close_is_honoured(line):
    line.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY)
    assert 200 == read_answer(line)[0]
    assert b"" == line.recv(1)


def test_what_is_not_http_is_hung_up_on(line):
    line.sendall(b"\x16\x03\x01 hello\r\n\r\n")
    assert b"" == line.recv(1)


def test_too_long_a_body_is_a_413(asker, fake, monkeypatch):
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 1000)
    assert 200 == asker.chat().status
    assert 413 == asker.chat(text="x" * 1000).status
    assert [200, 413] == [row["status"] for row in fake.calls()]


def test_large_answer_to_a_slow_reader_arrives_whole(asker):
    """
    More than the socket's buffers hold: the writer waits for the reader.
    """
    assert 30_000 == asker.stream("tokens=30000").raw.count(b'"content":" ') + 1


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=8), st.integers(1, 60))
def test_pieces_hold_the_same_bytes_and_count_finished_frames(datas, size):
    """
    A piece counts a frame's token once it has brought that frame's last byte.
    """
    frames = [Frame(data, i) for i, data in enumerate(datas, 1)]
    sent, ends = b"", list(itertools.accumulate(map(len, datas)))
    for data, tokens in wire._pieces(frames, size):
        sent += data
        assert 0 < len(data) <= size
        assert sum(end <= len(sent) for end in ends) == tokens
    assert b"".join(datas) == sent


def test_port_taken_is_told_where_it_was_asked_for(fake):
    with pytest.raises(OSError, match="in use"):
        FakeOpenRouter(port=fake.port).start()


def test_books_that_cannot_be_written_are_told_at_the_start(tmp_path):
    with pytest.raises(OSError, match="missing"):
        FakeOpenRouter(books=tmp_path / "missing" / "books.jsonl").start()


def test_closing_twice_and_reading_the_books_afterwards(fake):
    Asker(fake).chat()
    fake.close()
    fake.close()
    assert 1 == len(fake.calls())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_url_and_ends_on_a_signal(tmp_path, number):
    """
    As `openrouter-audit emulator` runs it: the URL first, the books on disk, exit 0.
    """
    code = f"from openrouter_audit.testing.emulator import serve; serve(seed=1, books={str(tmp_path / 'b.jsonl')!r})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            assert 200 == Asker(type("Remote", (), {"url": url})).chat().status
            process.send_signal(number)
            assert 0 == process.wait(timeout=10)
        finally:
            process.kill()
    assert 1 == len((tmp_path / "b.jsonl").read_text().splitlines())


def test_missing_extra_says_what_to_install():
    """
    Importing is free of it; starting without httptools names the extra.
    """
    code = (
        "import sys; sys.modules['httptools'] = None\n"
        "from openrouter_audit.testing import FakeOpenRouter\n"
        "FakeOpenRouter().start()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert "pip install 'openrouter-audit[testing]'" in done.stderr


def test_without_uvloop_asyncio_serves():
    code = (
        "import sys; sys.modules['uvloop'] = None\n"
        "from openrouter_audit.testing import FakeOpenRouter\n"
        "import urllib.request\n"
        "with FakeOpenRouter() as fake: print(urllib.request.urlopen(fake.url + '/models').status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert "200" == done.stdout.strip()
