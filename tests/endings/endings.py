"""
The table: the ways in which an answer can come to its end by itself, each with what the log has to say of it.

Every row holds for both forms of a call unless it says which; the form is how the answer is given and read: whole, or as a
stream of events. What the *caller* can do to a call stands in `test_callers.py`.
"""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.endings.answers import (
    CHAT,
    EMPTY_COMMENT,
    HEADER_ID,
    KEEPALIVE,
    MESSAGES,
    RESPONSES,
    SHAPES,
    STATUSES,
    Shape,
    chunk,
    event_head,
    example,
    frames_of,
    head,
    refusal,
    sized,
    stated_type,
)
from tests.endings.hands import Hand
from tests.endings.seen import NOWHERE
from tests.endings.server import HANG, HEARD, RESET, Script

PLAIN, STREAM = "plain", "stream"
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a server does, and what must come of it."""

    scripts: tuple[Script, ...]
    facts: Facts
    pieces: list[bytes] | None = None
    """What a caller who reads raw bytes gets, piece by piece; None where it is a matter of the client library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    name: str
    form: str
    shape: Shape
    answered: Answered
    prepare: Callable[[Hand], None]

    def __str__(self) -> str:
        return f"{self.shape.name}-{self.form}-{self.name}"


def join(frames: Iterable[bytes]) -> bytes:
    return b"".join(frames)


def steps(first: bytes, pieces: Sequence[bytes], *last: Any) -> Script:
    """The head with the first piece, and each further piece when the caller has the one before."""
    script: list[Any] = [first + (pieces[0] if pieces else b"")]
    for piece in pieces[1:]:
        script += [HEARD, piece]
    return (*script, *last)


def stream_pieces(shape: Shape) -> list[bytes]:
    """Beginning, middle, end, and what OpenRouter says after the end."""
    frames, last = shape.stream, shape.priced or shape.ended - 1
    parts = frames[: shape.opened], frames[shape.opened : last], frames[last : shape.ended], frames[shape.ended :]
    return [join(part) for part in parts if part]


def opening(shape: Shape) -> bytes:
    return join(shape.stream[: shape.opened])


def nothing_of(shape: Shape, **changes: Any) -> Facts:
    """An answer of which nothing but the header was understood."""
    return {
        "generation_id": HEADER_ID, "generation_source": "header", "cost": None, "prompt_tokens": None,
        "completion_tokens": None, "finish_reason": None, "http_status": 200, **changes,
    }  # fmt: skip


def begun(shape: Shape, **changes: Any) -> Facts:
    """A stream of which the first events were seen: whose it is, not yet what it costs."""
    facts = dict.fromkeys(("cost", "prompt_tokens", "completion_tokens", "finish_reason"))
    return {**shape.stream_facts, **facts, "http_status": 200, **changes}


def good(facts: Facts, body: bytes | Sequence[bytes], *, complete: bool = True, **changes: Any) -> Facts:
    pieces = [body] if isinstance(body, bytes) else body
    return {
        **facts, "http_status": 200, "status": "success", "complete": complete, "error_code": None, "error_type": None,
        "error_source": None, "response_bytes": len(join(pieces)), **changes,
    }  # fmt: skip


def bad(
    facts: Facts, code: str, kind: str | None, source: str, body: bytes, *, complete: bool, **changes: Any
) -> Facts:
    return {
        **facts, "status": "error", "complete": complete, "error_code": code, "error_type": kind, "error_source": source,
        "response_bytes": len(body), **changes,
    }  # fmt: skip


def truncated(facts: Facts, body: bytes, **changes: Any) -> Facts:
    return bad(facts, "truncated", "truncated", "stream", body, complete=False, **changes)


NOTHING_CAME = {"http_status": None, "generation_id": None, "cost": None, "response_bytes": None, "complete": False}


# Rows: each yields (name, form, what is done, what must come of it) ------------------------------------------------


def whole_answers(shape: Shape) -> Iterable[tuple[str, str, Answered]]:
    body, facts = shape.whole, good(shape.whole_facts, shape.whole)
    half = body[: len(body) // 2]
    empty = nothing_of(shape)
    packed = gzip.compress(body)
    yield "complete", PLAIN, Answered(scripts=((sized(body),),), facts=facts)
    yield "complete-without-length", PLAIN, Answered(scripts=((head() + body,),), facts=facts)
    yield "complete-chunked", PLAIN, Answered(
        scripts=((head(200, ("transfer-encoding", "chunked")) + chunk(half) + chunk(body[len(half) :]) + chunk(b""),),),
        facts=facts,
    )  # fmt: skip
    yield "leading-white-space", PLAIN, Answered(scripts=((sized(b" \n" + body),),), facts=good(facts, b" \n" + body))
    yield "empty", PLAIN, Answered(scripts=((sized(b""),),), facts=good(empty, b""))
    yield "empty-without-length", PLAIN, Answered(scripts=((head(),),), facts=good(empty, b""))
    yield "no-content", PLAIN, Answered(
        scripts=((head(204),),), facts=good(empty, b"", http_status=204)
    )  # fmt: skip
    yield "gzip", PLAIN, Answered(
        scripts=((sized(packed, 200, ("content-encoding", "gzip")),),), facts=good(facts, packed)
    )  # fmt: skip
    yield "garbled-gzip", PLAIN, Answered(
        scripts=((sized(body, 200, ("content-encoding", "gzip")),),),
        facts=bad(empty, "decode", "decode", "client", body, complete=True),
    )  # fmt: skip
    yield "cut-in-the-body", PLAIN, Answered(
        scripts=((sized(body)[: -len(body) + len(half)],),),
        facts=bad(empty, "RemoteProtocolError", "truncated", "client", half, complete=False),
    )  # fmt: skip
    yield "cut-in-a-chunk", PLAIN, Answered(
        scripts=((head(200, ("transfer-encoding", "chunked")) + chunk(body)[:-7],),),
        facts=bad(empty, "RemoteProtocolError", "truncated", "client", body[:-5], complete=False),
    )  # fmt: skip
    yield "silence-in-the-body", PLAIN, Answered(
        scripts=((sized(body)[: -len(body) + len(half)], HANG),),
        facts={
            **empty, "status": "timeout", "complete": False, "error_code": "ReadTimeout", "error_type": None,
            "response_bytes": len(half),
        },
    )  # fmt: skip
    error = example("chat/nonstream_error_in_200.json")
    yield "error-in-200", PLAIN, Answered(
        scripts=((sized(error),),),
        facts=bad(empty, "504", stated_type(error), "body", error, complete=True),
    )  # fmt: skip
    if shape is CHAT:
        choice = example("chat/nonstream_choice_error.json")
        yield "choice-error", PLAIN, Answered(
            scripts=((sized(choice),),),
            facts={"status": "error", "complete": True, "error_source": "choice", "response_bytes": len(choice)},
        )  # fmt: skip


def event_streams(shape: Shape) -> Iterable[tuple[str, str, Answered]]:
    pieces, facts = stream_pieces(shape), shape.stream_facts
    counted = pieces[:3]
    first = opening(shape)
    yield "complete", STREAM, Answered(
        scripts=(steps(event_head(), pieces),), facts=good(facts, counted, chunks=3), pieces=pieces
    )  # fmt: skip
    together = join(pieces)
    yield "complete-in-one-piece", STREAM, Answered(
        scripts=((event_head() + together,),), facts=good(facts, together, chunks=1), pieces=[together]
    )  # fmt: skip
    frames = [frame for frame in shape.stream if not frame.startswith(b":")]
    ended = shape.ended - (len(shape.stream) - len(frames))
    waits = [KEEPALIVE, KEEPALIVE, EMPTY_COMMENT]
    kept = [*waits, join(frames[:2]), *waits, join(frames[2:ended])]
    yield "keep-alives", STREAM, Answered(
        scripts=(steps(event_head(), kept),), facts=good(facts, kept, chunks=8), pieces=kept
    )  # fmt: skip
    yield "empty", STREAM, Answered(
        scripts=((event_head(),),), facts=truncated(nothing_of(shape), b"", chunks=0), pieces=[]
    )  # fmt: skip
    yield "empty-with-length", STREAM, Answered(
        scripts=((event_head(("content-length", 0)),),), facts=truncated(nothing_of(shape), b""), pieces=[]
    )  # fmt: skip
    yield "keep-alives-and-nothing-else", STREAM, Answered(
        scripts=(steps(event_head(), waits),), facts=truncated(nothing_of(shape), join(waits)), pieces=waits
    )  # fmt: skip
    yield "cut-between-frames", STREAM, Answered(
        scripts=(steps(event_head(), [first]),), facts=truncated(begun(shape), first), pieces=[first]
    )  # fmt: skip
    torn = shape.stream[shape.opened][:-40]
    yield "cut-inside-a-frame", STREAM, Answered(
        scripts=(steps(event_head(), [first, torn]),), facts=truncated(begun(shape), first + torn), pieces=[first, torn]
    )  # fmt: skip
    yield "cut-inside-a-chunk", STREAM, Answered(
        scripts=(
            steps(event_head(("transfer-encoding", "chunked")), [chunk(first), chunk(pieces[1])[:9]], HEARD),
        ),
        facts=bad(begun(shape), "RemoteProtocolError", "truncated", "client", first + pieces[1][:4], complete=False)
        if len(pieces[1]) >= 4096
        else {**bad(begun(shape), "RemoteProtocolError", "truncated", "client", first, complete=False),
              "response_bytes": len(first) + 9 - len(b"%x\r\n" % len(pieces[1]))},
        pieces=[first, pieces[1][: 9 - len(b"%x\r\n" % len(pieces[1]))]],
    )  # fmt: skip
    yield "reset", STREAM, Answered(
        scripts=(steps(event_head(), [first], HEARD, RESET),),
        facts=bad(begun(shape), "ReadError", "truncated", "client", first, complete=False), pieces=[first],
    )  # fmt: skip
    yield "silence-midway", STREAM, Answered(
        scripts=((event_head() + first, HANG),),
        facts={
            **begun(shape), "status": "timeout", "complete": False, "error_code": "ReadTimeout", "error_type": None,
            "response_bytes": len(first),
        },
        pieces=[first],
    )  # fmt: skip
    packed = list(_deflated(pieces))
    yield "gzip", STREAM, Answered(
        scripts=(steps(event_head(("content-encoding", "gzip")), packed),),
        facts=good(facts, packed[:3], chunks=3), pieces=packed,
    )  # fmt: skip
    yield "garbled-gzip", STREAM, Answered(
        scripts=(steps(event_head(("content-encoding", "gzip")), pieces[:2]),),
        facts=bad(nothing_of(shape), "decode", "decode", "client", join(pieces[:2]), complete=True), pieces=pieces[:2],
    )  # fmt: skip
    error = example("chat/nonstream_error_in_200.json")
    yield "error-in-200", STREAM, Answered(
        scripts=((sized(error),),),
        facts=bad(nothing_of(shape), "504", stated_type(error), "body", error, complete=True), pieces=[error],
    )  # fmt: skip
    failing = shape.failing
    broken = next(at for at, frame in enumerate(failing) if b'"error":{"' in frame or b'"type":"error"' in frame) + 1
    told = [join(failing[: broken - 1]), failing[broken - 1]]
    ends_it = shape is not CHAT
    # Chat's stream is over at [DONE] or its end, Messages' and Responses' with the event itself.
    yield "error-midway", STREAM, Answered(
        scripts=(steps(event_head(), told),),
        facts=bad(shape.failing_facts, shape.failing_facts["error_code"], shape.failing_facts["error_type"], "stream",
                  join(told), complete=ends_it),
        pieces=told,
    )  # fmt: skip
    yield "error-midway-then-done", STREAM, Answered(
        scripts=(steps(event_head(), [*told, b"data: [DONE]\n\n"]),),
        facts=bad(shape.failing_facts, shape.failing_facts["error_code"], shape.failing_facts["error_type"], "stream",
                  join(told) + (b"" if ends_it else b"data: [DONE]\n\n"), complete=True),
        pieces=[*told, b"data: [DONE]\n\n"],
    )  # fmt: skip
    if shape is CHAT:
        yield from chat_streams()
    elif shape is RESPONSES:
        yield from responses_streams()
    else:
        yield from messages_streams()


def _chat(name: str, **facts: Any) -> Answered:
    """An example stream, event by event, ended by the server."""
    frames = list(frames_of(f"chat/{name}.sse"))
    return Answered(
        scripts=(steps(event_head(), frames),), facts={"response_bytes": len(join(frames)), **facts}, pieces=frames
    )


def chat_streams() -> Iterable[tuple[str, str, Answered]]:
    yield "error-first", STREAM, _chat(
        "stream_error_first", status="error", complete=True, error_code="429", error_type="rate_limit_exceeded",
        error_source="stream", generation_id="gen-1795425180-FqxtpuPzNP3MzTtpcqpy", cost=None, finish_reason="error",
    )  # fmt: skip
    yield "error-with-usage", STREAM, _chat(
        "stream_error_with_usage", status="error", complete=True, error_code="400", error_type=None,
        error_source="stream", finish_reason="length", prompt_tokens=57, completion_tokens=12,
    )  # fmt: skip
    yield "error-with-a-string-code", STREAM, _chat(
        "stream_error_string_code", status="error", complete=False, error_code="server_error", error_type=None,
        error_source="stream", finish_reason="error",
    )  # fmt: skip
    usage = {"status": "success", "complete": True, "cost": "0.000008", "finish_reason": "stop", "completion_tokens": 3}
    yield "usage-b", STREAM, _chat("stream_usage_empty_choices", **usage)
    yield "usage-c", STREAM, _chat("stream_usage_null_finish", **usage)
    yield "cut-off", STREAM, _chat(
        "stream_cut_off", status="error", complete=False, error_code="truncated", error_type="truncated", cost=None
    )  # fmt: skip
    pieces = stream_pieces(CHAT)
    yield "cut-before-the-terminal-event", STREAM, Answered(
        scripts=(steps(event_head(), pieces[:2]),),
        facts=good(CHAT.stream_facts, pieces[:2], complete=False), pieces=pieces[:2],
    )  # fmt: skip
    torn = pieces[2].rstrip()
    yield "terminal-event-without-line-end", STREAM, Answered(
        scripts=(steps(event_head(), [*pieces[:2], torn]),),
        facts=good(CHAT.stream_facts, [*pieces[:2], torn]), pieces=[*pieces[:2], torn],
    )  # fmt: skip
    without_choices = b'data: {"id":"gen-9","choices":[],"error":{"code":503,"message":"no"}}\n\n'
    yield "error-without-choices", STREAM, Answered(
        scripts=(steps(event_head(), [without_choices]),),
        facts={"status": "error", "complete": False, "error_code": "503", "generation_id": "gen-9"},
        pieces=[without_choices],
    )  # fmt: skip
    for word in ("error", "network_error"):
        native = [
            b'data: {"id":"gen-9","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
            b'data: {"id":"gen-9","choices":[{"index":0,"delta":{},"finish_reason":"stop","native_finish_reason":"%s"}]}\n\n'
            % word.encode(),
            b"data: [DONE]\n\n",
        ]
        yield f"native-{word.replace('_', '-')}", STREAM, Answered(
            scripts=(steps(event_head(), native),), pieces=native,
            facts={
                "status": "error", "complete": True, "error_code": word, "error_source": "choice", "finish_reason": "stop",
            },
        )  # fmt: skip


def responses_streams() -> Iterable[tuple[str, str, Answered]]:
    for name, facts in (
        ("failed", {"status": "error", "complete": True, "error_code": "server_error", "error_source": "stream"}),
        ("incomplete", {"status": "success", "complete": True, "finish_reason": "length"}),
    ):
        frames = frames_of(f"responses/stream_{name}.sse")
        told = [join(frames[:6]), join(frames[6:-1]), frames[-1]]
        yield name, STREAM, Answered(
            scripts=(steps(event_head(), told),), pieces=told, facts={**facts, "response_bytes": len(join(told[:2]))}
        )  # fmt: skip
    frames = frames_of("responses/stream_no_terminal_event.sse")
    told = [join(frames[:6]), join(frames[6:])]
    yield "all-items-and-no-terminal-event", STREAM, Answered(
        scripts=(steps(event_head(), told),), pieces=told,
        facts={
            "status": "success", "complete": False, "cost": None, "prompt_tokens": None, "error_code": None,
            "response_bytes": len(join(told)), "generation_id": "gen-1795426455-nRe5yXh5G1NUVgLzE01P",
        },
    )  # fmt: skip
    first = b'data: {"type":"error","code":"server_error","message":"no","param":null,"sequence_number":0}\n\n'
    yield "error-first", STREAM, Answered(
        scripts=(steps(event_head(), [first]),), pieces=[first],
        facts=bad(nothing_of(RESPONSES), "server_error", None, "stream", first, complete=True),
    )  # fmt: skip


def messages_streams() -> Iterable[tuple[str, str, Answered]]:
    pieces = stream_pieces(MESSAGES)
    yield "cut-before-the-terminal-event", STREAM, Answered(
        scripts=(steps(event_head(), pieces[:2]),),
        facts=good(MESSAGES.stream_facts, pieces[:2], complete=False), pieces=pieces[:2],
    )  # fmt: skip
    yield "without-done", STREAM, Answered(
        scripts=(steps(event_head(), pieces[:3]),), facts=good(MESSAGES.stream_facts, pieces[:3]), pieces=pieces[:3]
    )  # fmt: skip
    first = MESSAGES.failing[-1] + b"\n\n" if not MESSAGES.failing[-1].endswith(b"\n\n") else MESSAGES.failing[-1]
    yield "error-first", STREAM, Answered(
        scripts=(steps(event_head(), [first]),), pieces=[first],
        facts=bad(nothing_of(MESSAGES), "overloaded_error", "provider_overloaded", "stream", first, complete=True),
    )  # fmt: skip


def refusals(shape: Shape) -> Iterable[tuple[str, str, Answered]]:
    for status in STATUSES:
        body = refusal(shape, status)
        facts = bad(
            nothing_of(shape, http_status=status), str(status), stated_type(body), "http", body, complete=True,
            retry_after_ms=7000,
        )  # fmt: skip
        del facts["prompt_tokens"], facts["generation_id"], facts["generation_source"]
        answered = Answered(scripts=((sized(body, status, ("retry-after", 7)),),), facts=facts, pieces=[body])
        yield f"status-{status}", PLAIN, answered
        yield f"status-{status}", STREAM, answered


def nothing_comes(shape: Shape) -> Iterable[tuple[str, str, Answered]]:
    """No answer, or none that is HTTP."""
    for form in (PLAIN, STREAM):
        for name, script, status, code, kind in (
            ("closed-without-a-word", (), "error", "RemoteProtocolError", "truncated"),
            ("cut-in-the-head", (head()[:30],), "error", "RemoteProtocolError", "truncated"),
            ("not-http", (b"220 mail.example ESMTP\r\n",), "error", "RemoteProtocolError", "truncated"),
            ("silence", (HANG,), "timeout", "ReadTimeout", None),
            ("refused-connection", (), "error", "ConnectError", "connect"),
            ("unknown-host", (), "error", "ConnectError", "connect"),
            ("no-tls", (), "error", "ConnectError", "tls"),
        ):
            facts = {**NOTHING_CAME, "status": status, "error_code": code, "error_type": kind, "error_source": "client"}
            yield name, form, Answered(scripts=(script,), facts=facts, pieces=[])


def redirects(shape: Shape) -> Iterable[tuple[str, str, Answered]]:
    hop = head(307, ("location", "/api/v1/elsewhere"), ("content-length", 0))
    facts = good(shape.whole_facts, shape.whole)
    pieces = stream_pieces(shape)
    yield "redirect-followed", PLAIN, Answered(scripts=((hop,), (sized(shape.whole),)), facts=facts)
    yield "redirect-followed", STREAM, Answered(
        scripts=((hop,), steps(event_head(), pieces)), facts=good(shape.stream_facts, pieces[:3]), pieces=pieces
    )  # fmt: skip
    moved = good(nothing_of(shape), b"", http_status=307)
    yield "redirect", PLAIN, Answered(scripts=((hop,),), facts=moved)
    yield "redirect", STREAM, Answered(scripts=((hop,),), facts=moved, pieces=[])
    round_trip = {**NOTHING_CAME, "status": "error", "error_code": "TooManyRedirects", "error_source": "client"}
    yield "redirect-for-ever", PLAIN, Answered(scripts=((hop,),) * 3, facts=round_trip)


def _deflated(pieces: Iterable[bytes]) -> Iterable[bytes]:
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)


# What the client has to do for a row ---------------------------------------------------------------------------------


def _impatient(hand: Hand) -> None:
    """The client waits a moment for what comes after the head: by then the server has fallen silent."""

    def shorten(response: Any) -> None:
        response.request.extensions["timeout"]["read"] = 0.05

    async def shorten_async(response: Any) -> None:
        shorten(response)

    hand.options["event_hooks"] = {"response": [shorten_async if hand.is_async else shorten]}


def _hasty(hand: Hand) -> None:
    hand.options["timeout"] = hand.library.Timeout(60, read=0.05)


_closed = socket.socket()
_closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and whoever connects is refused


def _refused(hand: Hand) -> None:
    hand.url = f"http://127.0.0.1:{_closed.getsockname()[1]}{hand.shape.path}"


def _unknown(hand: Hand) -> None:
    hand.url = f"https://{NOWHERE}{hand.shape.path}"


def _no_tls(hand: Hand) -> None:
    hand.url = hand.url.replace("http:", "https:")


def _follow(hand: Hand) -> None:
    hand.options.update(follow_redirects=True, max_redirects=2)


_PREPARATIONS = {
    "silence-in-the-body": _impatient,
    "silence-midway": _impatient,
    "silence": _hasty,
    "refused-connection": _refused,
    "unknown-host": _unknown,
    "no-tls": _no_tls,
    "redirect-followed": _follow,
    "redirect-for-ever": _follow,
}


def endings() -> list[Ending]:
    found = []
    for shape in SHAPES.values():
        for rows in (whole_answers, event_streams, refusals, nothing_comes, redirects):
            for name, form, answered in rows(shape):
                prepare = _PREPARATIONS.get(name, lambda hand: None)
                found.append(Ending(name=name, form=form, shape=shape, answered=answered, prepare=prepare))
    return found
