"""
Every way in which an answer can end, with all four clients: the log is right about it, and the caller sees no difference.

Each case is played twice against the same script, first with the bare client and then recorded. What the caller can tell
apart is compared: result or exception with all behind it, pieces, warnings, and what the server received. The server sends
the second piece when the first has reached the caller, so a piece that is withheld would never be followed by another.
"""

from __future__ import annotations

import socket

import pytest
from tests.endings.endings import PLAIN, STREAM, Ending, endings
from tests.endings.hands import ASYNC, LIBRARIES, SYNC, Hand, run
from tests.endings.seen import NOWHERE, Seen, assert_same, assert_says, look

TABLE = endings()


@pytest.fixture(autouse=True)
def resolver(monkeypatch):
    """The machine's own, but that it says at once what it says of a name that does not exist."""
    real = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        if host in {NOWHERE, NOWHERE.encode()}:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def ask(hand: Hand):
    """The whole call: as one answer, or read to the end piece by piece."""
    async with hand.opened_client():
        if not hand.stream:
            response = await hand.send(stream=False)
            return shown(response), response.content
        async with hand.streamed() as response:
            async for _ in hand.reading(response):
                pass
        return shown(response)


def shown(response):
    hops = [(hop.status_code, hop.headers.raw) for hop in response.history]
    return response.status_code, response.headers.raw, response.num_bytes_downloaded, response.is_closed, hops


def play(ending: Ending, library: str, kind: str, server, *, reader: str = "raw") -> Seen:
    server.play(*ending.answered.scripts)
    hand = Hand(LIBRARIES[library], kind, server, ending.shape, stream=ending.form == STREAM)
    hand.reader = reader
    ending.prepare(hand)
    seen = look(lambda: run(kind, ask(hand)))
    seen.pieces, seen.sent = hand.pieces, list(server.received)
    server.dismiss()
    return seen


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("ending", TABLE, ids=str)
def test_an_answer_ends(ending, library, kind, server, ledger):
    """
    One intent, one outcome, and the right one; and nothing that the caller could have noticed.
    """
    bare = play(ending, library, kind, server)
    with ledger.recording():
        recorded = play(ending, library, kind, server)
    assert_same(bare, recorded)
    if ending.answered.pieces is not None and ending.form == STREAM:
        assert ending.answered.pieces == recorded.pieces
    assert_says(ledger.only(), ending.answered.facts)


def test_the_table_has_every_row_for_every_endpoint():
    """
    The measuring stick: no endpoint and no form lost a row, and none stands twice.
    """
    names = [str(ending) for ending in TABLE]
    assert len(set(names)) == len(names)
    for form, least in ((PLAIN, 38), (STREAM, 42)):
        for shape in ("chat", "responses", "messages"):
            assert least <= sum(name.startswith(f"{shape}-{form}") for name in names), (form, shape)
