"""
Wherever the network cuts a stream, the caller gets the very pieces, and the log says the same of them.

Every position of short streams, random positions of long ones, characters of several bytes torn in two: here from a
transport in memory, so that each cut is exact and thousands are cheap. The order in which pieces arrive is told by a
server that counts events, not time.
"""

from __future__ import annotations

import json
import os
import random

import pytest
from tests.capture.recording import FakeRecorder
from tests.capture.recording import facts_of as unchanging_facts_of
from tests.endings.answers import CHAT, MESSAGES, RESPONSES, SHAPES, Shape, event_head
from tests.endings.endings import STREAM, bad, endings, join, nothing_of, steps, stream_pieces
from tests.endings.hands import ASYNC, LIBRARIES, SYNC, Hand, run
from tests.endings.seen import assert_same, assert_says, look
from tests.endings.test_answers import ask, play

from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument

TEXT = "Überfällig: 発票 🧾 — “twelve days”"
SHORT = {
    "chat": join((CHAT.stream[0], *CHAT.stream[2:4], *CHAT.stream[-2:])),
    "responses": join((RESPONSES.stream[1], RESPONSES.stream[3], RESPONSES.stream[10], *RESPONSES.stream[-2:])),
    "messages": join((*MESSAGES.stream[1:3], MESSAGES.stream[4], *MESSAGES.stream[7:])),
}
READERS = ("raw", "bytes", "lines")


@pytest.fixture(scope="module")
def clients():
    """One synchronous client of each library whose network is a list."""
    found = {name: _Listed(library) for name, library in LIBRARIES.items()}
    yield found
    for listed in found.values():
        listed.client.close()


class _Listed:
    """Answers every request with the same pieces, as they are."""

    def __init__(self, library) -> None:
        outer = self

        class Body(library.SyncByteStream):
            def __iter__(self):
                yield from outer.given

        class Wire(library.BaseTransport):
            def handle_request(self, request):
                return library.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

        self.given: list[bytes] = []
        self.client = library.Client(transport=Wire())

    def read(self, shape: Shape, pieces: list[bytes], reader: str) -> list[object]:
        self.given = pieces
        with self.client.stream("POST", f"https://openrouter.ai{shape.path}", content=b"{}") as response:
            return list(getattr(response, f"iter_{reader}")())


def recorded(listed: _Listed, shape: Shape, pieces: list[bytes], reader: str) -> tuple[list[object], dict]:
    recorder = FakeRecorder()
    instrument(recorder, HostSet())
    try:
        got = listed.read(shape, pieces, reader)
    finally:
        uninstrument()
    recorder.check()
    (outcome,) = recorder.outcomes
    assert outcome.response_bytes <= len(join(pieces))
    return got, unchanging_facts_of(outcome) | {"id": None}


def check_cut(clients, number: int, shape: Shape, pieces: list[bytes], facts: dict) -> None:
    listed = list(clients.values())[number % 2]
    reader = READERS[number // 2 % 3]
    bare = listed.read(shape, pieces, reader)
    got, said = recorded(listed, shape, pieces, reader)
    assert bare == got
    if reader == "raw":
        assert list(map(id, pieces)) == list(map(id, got))
    assert facts == said, (number, [len(piece) for piece in pieces])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_short_stream_cut_at_every_position_is_the_same_stream(shape, clients):
    """
    In two pieces, wherever: inside a line, a word, a line end, before and after the terminal event.
    """
    faults.counts.clear()
    stream, kind = SHORT[shape], SHAPES[shape]
    _, facts = recorded(clients["httpx2"], kind, [stream], "raw")
    assert ("success", True) == (facts["status"], facts["complete"])
    for at in range(1, len(stream)):
        check_cut(clients, at, kind, [stream[:at], stream[at:]], facts)
    assert {} == faults.counts


def long_stream(shape: Shape, chance: random.Random) -> bytes:
    """The example, with hundreds of events of text in its middle that no encoding of one byte can hold."""
    if shape is CHAT:
        event = {"id": CHAT.stream_facts["generation_id"], "choices": [{"index": 0, "delta": {"content": TEXT}}]}
        name = b""
    elif shape is RESPONSES:
        event, name = {"type": "response.output_text.delta", "delta": TEXT, "output_index": 1}, b""
    else:
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
        name = b"event: content_block_delta\n"
    text = json.dumps(event, ensure_ascii=False).encode()
    middle = (name + b"data: " + text + b"\n\n") * chance.randrange(50, 300)
    return join((*shape.stream[: shape.opened], middle, *shape.stream[shape.opened :]))


def cut_anywhere(stream: bytes, chance: random.Random) -> list[bytes]:
    """From a handful of pieces to one for every few bytes."""
    count = min(len(stream) - 1, chance.choice([1, 3, 20, 200, 2000]))
    cuts = sorted(chance.sample(range(1, len(stream)), count))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def cut_at_random(clients, rounds: int) -> None:
    seed = int(os.environ.get("OPENROUTER_AUDIT_TEST_SEED") or random.randrange(2**32))
    print(f"OPENROUTER_AUDIT_TEST_SEED={seed}")
    faults.counts.clear()
    for number in range(rounds):
        chance = random.Random(f"{seed}-{number}")
        shape = list(SHAPES.values())[number % 3]
        stream = long_stream(shape, chance)
        _, facts = recorded(clients["httpx2"], shape, [stream], "raw")
        assert ("success", True, shape.stream_facts["cost"]) == (facts["status"], facts["complete"], facts["cost"])
        check_cut(clients, number // 3, shape, cut_anywhere(stream, chance), facts)
    assert {} == faults.counts


def test_long_streams_cut_at_random_positions_are_the_same_streams(clients):
    """
    Hundreds of events of several bytes a character, in up to two thousand pieces; the seed is printed.
    """
    cut_at_random(clients, 36)


@pytest.mark.long
def test_many_long_streams_cut_at_random_positions_are_the_same_streams(clients):
    cut_at_random(clients, 3000)


# Over a socket ------------------------------------------------------------------------------------------------------

OTHERWISE_READ = [
    ending
    for ending in endings()
    if ending.form == STREAM
    and ending.name in {"complete", "keep-alives", "gzip", "cut-between-frames", "cut-inside-a-frame", "error-midway"}
]


@pytest.mark.parametrize("reader", ["bytes", "lines"])
@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ending", OTHERWISE_READ, ids=str)
def test_decoded_pieces_and_lines_are_those_of_the_bare_client(ending, library, kind, reader, server, ledger):
    """
    The same rows, read as an SDK reads them: in decoded pieces, or line by line.
    """
    bare = play(ending, library, kind, server, reader=reader)
    with ledger.recording():
        got = play(ending, library, kind, server, reader=reader)
    assert bare.pieces
    assert_same(bare, got)
    # The server goes on at each line that was read, so several pieces may arrive as one.
    uncertain = {"chunks", "response_bytes"} if reader == "lines" else set()
    assert_says(ledger.only(), {k: v for k, v in ending.answered.facts.items() if k not in uncertain})


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_that_cannot_be_decoded_raises_what_it_would_have(shape, library, kind, server, ledger):
    """
    The client library gives up at the first piece, with its own exception; the call is an error of decoding.
    """
    pieces = stream_pieces(SHAPES[shape])

    def ask_decoded():
        server.play(steps(event_head(("content-encoding", "gzip")), pieces))
        hand = Hand(LIBRARIES[library], kind, server, SHAPES[shape], stream=True)
        hand.reader = "bytes"
        seen = look(lambda: run(kind, ask(hand)))
        server.dismiss()
        return seen

    bare = ask_decoded()
    with ledger.recording():
        got = ask_decoded()
    assert "DecodingError" == got.error[0][1]
    assert_same(bare, got)
    facts = bad(nothing_of(SHAPES[shape]), "decode", "decode", "client", pieces[0], complete=False)
    assert_says(ledger.only(), facts)


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_piece_is_with_the_caller_before_the_second_is_sent(shape, library, kind, server, ledger):
    """
    Told by the order of events alone: the server asks what the caller has whenever it is about to send.
    """
    pieces, had = stream_pieces(SHAPES[shape]), []
    hand = Hand(LIBRARIES[library], kind, server, SHAPES[shape], stream=True)

    def note():
        had.append(list(hand.pieces))

    script = [event_head() + pieces[0]]
    for piece in pieces[1:]:
        script += ["heard", note, piece]
    server.play(script)
    with ledger.recording():
        run(kind, ask(hand))
    assert [pieces[: number + 1] for number in range(len(pieces) - 1)] == had
