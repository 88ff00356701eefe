"""
The setting `capture.router_metadata`: the one header that is ever added, said in the intent; off, and nothing is.
"""

import pytest
from tests.endings.answers import KEY, SHAPES, example, sized
from tests.endings.hands import ASYNC, LIBRARIES, SYNC, Hand, run
from tests.journal.homes import drain, of_kind

from openrouter_audit import AuditLog

ADDED = b"X-OpenRouter-Metadata: enabled\r\n"
ANSWER = sized(example("chat/nonstream_router_metadata.json"))


async def send(hand: Hand, *, times: int = 1, headers: dict[str, str] | None = None) -> None:
    async with hand.opened_client() as client:
        request = hand.request()
        request.headers.update(headers or {})
        for _ in range(times):
            await hand.settle(client.send, request)


@pytest.fixture
def audit(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENROUTER_AUDIT_CAPTURE_ROUTER_METADATA", "true")
    with AuditLog.open(tmp_path / "home", hosts=["127.0.0.1"], sequencer=False, enrich=False) as opened:
        yield opened


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_where_it_is_asked_for_one_header_is_added_and_the_intent_says_so(shape, library, kind, server, audit):
    """
    The request is otherwise the same, byte for byte; sent again it is still one that was altered.
    """
    bare = Hand(LIBRARIES[library], kind, server, SHAPES[shape], stream=False)
    server.play((ANSWER,))
    run(kind, send(bare))
    (sent,) = server.received
    hand = Hand(LIBRARIES[library], kind, server, SHAPES[shape], stream=False)
    hand.watch = audit
    server.play((ANSWER,), (ANSWER,))
    run(kind, send(hand, times=2))
    for received in server.received:
        assert 1 == received.lower().count(ADDED.lower())
        at = received.lower().index(ADDED.lower())
        assert sent == received[:at] + received[at + len(ADDED) :]
    entries = drain(audit.home)
    assert [True, True] == [intent.get("router_metadata") for intent in of_kind(entries, "call.intent")]
    if shape == "chat":
        assert all(outcome["attempts"] for outcome in of_kind(entries, "call.outcome"))
    (config,) = of_kind(entries, "log.config")
    assert config["router_metadata"] is True


@pytest.mark.parametrize("name", ["X-OpenRouter-Metadata", "x-openrouter-experimental-metadata"])
def test_a_caller_who_says_something_about_it_is_left_alone(name, server, audit):
    hand = Hand(LIBRARIES["httpx2"], SYNC, server, SHAPES["chat"], stream=False)
    hand.watch = audit
    server.play((ANSWER,))
    run(SYNC, send(hand, headers={name: "disabled"}))
    assert ADDED.lower() not in server.received[0].lower()
    (intent,) = of_kind(drain(audit.home), "call.intent")
    assert "router_metadata" not in intent


def test_other_endpoints_are_not_asked(server, audit):
    hand = Hand(LIBRARIES["httpx2"], SYNC, server, SHAPES["chat"], stream=False)
    hand.watch, hand.url = audit, server.origin + "/api/v1/embeddings"
    server.play((ANSWER,))
    run(SYNC, send(hand, headers={"Authorization": f"Bearer {KEY}"}))
    assert ADDED.lower() not in server.received[0].lower()
