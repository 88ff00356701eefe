"""Sessions of requests: every way to read and every way to end, beside a twin that nobody watches."""

import contextlib
import gc
import gzip
import json
import logging
import pickle
import re
import socket
import subprocess
import sys
import threading

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import HTTPDigestAuth
from tests.capture.recording import EXAMPLES, HOSTS, KEY, MESSAGES, MODEL, FakeRecorder, answers, installed
from urllib3.util import Retry

from openrouter_audit.capture.explicit import wrap
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.recorded_call import faults
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.errors import AuditUnavailable

STREAM = (EXAMPLES / "chat/stream.sse").read_bytes()
ANSWER = (EXAMPLES / "chat/nonstream.json").read_bytes()
SSE = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]
CHUNKED = [*SSE, (b"transfer-encoding", b"chunked")]
BODY = {"model": MODEL, "messages": MESSAGES}
NOWHERE = "http://127.0.0.1:1/api/v1/chat/completions"


def sized(body):
    return [*JSON, (b"content-length", str(len(body)).encode())]


def in_chunks(pieces):
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]


def run(action, server):
    """What an action on a session comes to: its result, or type, arguments and cause of what it raises."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        session.trust_env = False
        try:
            return action(session, server.url + "/chat/completions")
        except BaseException as error:
            return type(error), plain(error.args), type(error.__cause__), type(error.__context__)


def plain(args):
    """Arguments as text, without the addresses of objects and the ports in them."""
    return tuple(re.sub(r"0x[0-9a-f]+|port=\d+", "", repr(arg)) for arg in args)


def twins(action, server, recorder):
    """Run an action unwatched and watched; both must come to the same, and send the same bytes."""
    before = len(server.received)
    bare = run(action, server)
    half = len(server.received)
    with installed(recorder):
        watched = run(action, server)
    assert bare == watched
    assert server.received[before:half] == server.received[half:]
    return watched


READERS = {
    "content": lambda response: [response.content],
    "iter_content(1)": lambda response: list(response.iter_content()),
    "iter_content(100)": lambda response: list(response.iter_content(100)),
    "iter_content(None)": lambda response: list(response.iter_content(None)),
    "iter_lines": lambda response: list(response.iter_lines()),
    "iter": list,
    "raw.read()": lambda response: [response.raw.read()],
    "raw.read(n)": lambda response: list(iter(lambda: response.raw.read(100), b"")),
    "raw.read1": lambda response: [b"".join(iter(response.raw.read1, b""))],
    "raw.stream": lambda response: list(response.raw.stream(100)),
    "raw.data": lambda response: [response.raw.data],
    "raw lines": lambda response: list(response.raw),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("framing", ["chunked", "length", "eof"])
def test_every_way_of_reading_gives_the_very_same_pieces_and_is_recorded(server, read, framing):
    """
    A stream that comes in chunks, by length or until the end of the connection.
    """
    pieces = [STREAM[:700], STREAM[700:701], STREAM[701:]]
    headers = {
        "chunked": CHUNKED,
        "length": [*SSE, (b"content-length", str(len(STREAM)).encode())],
        "eof": SSE,
    }[framing]
    server.answer(200, headers, in_chunks(pieces) if framing == "chunked" else pieces)

    def action(session, url):
        with session.post(url, json=BODY, stream=True) as response:
            return read(response)

    recorder = FakeRecorder()
    twins(action, server, recorder)
    outcome = recorder.outcomes[0]
    assert ("success", True) == (outcome.status, outcome.complete)
    assert 0 <= len(STREAM) - outcome.response_bytes <= 1  # byte by byte the empty line comes after the terminal one
    assert outcome.cost is not None
    assert outcome.response_commitment is not None
    assert {} == faults.counts
    recorder.check()


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_both_ways_are_the_same_with_and_without_us(server, stream):
    """
    Every example answer, and every example request (P5).
    """
    bodies = [path.read_bytes() for path in sorted((EXAMPLES / "requests").iterdir())]
    recorder = FakeRecorder()
    for number, (name, _, _, status, headers) in enumerate(answers()):
        answer = (EXAMPLES / name).read_bytes()
        if status in {204, 304}:
            continue
        server.answer(status, headers, [answer[at : at + 61] for at in range(0, len(answer), 61)] or [b""])
        sent = bodies[number % len(bodies)]

        def action(session, url, body=sent):
            response = session.post(url, data=body, stream=stream)
            return response.status_code, response.reason, response.content, dict(response.headers)

        assert answer == twins(action, server, recorder)[2], name
    assert len(recorder.outcomes) == len(recorder.intents) > 60
    assert {} == faults.counts
    recorder.check()


@pytest.mark.parametrize("mode", ["buffer", "strict"])
@pytest.mark.parametrize("framing", ["chunked", "eof"])
def test_the_intent_is_written_before_the_first_byte_and_the_outcome_before_the_last_piece(server, mode, framing):
    """
    And in strict mode both are on the disk by then (P1, C10, C24).
    """
    events, recorder = [], FakeRecorder(mode=mode)
    recorder.on_write = lambda facts: events.append(type(facts).__name__)
    server.on_request = lambda: events.append("request")
    cut = STREAM.index(b"data: [DONE]")
    pieces = [STREAM[:cut], STREAM[cut:]]
    server.answer(200, *((CHUNKED, in_chunks(pieces)) if framing == "chunked" else (SSE, pieces)), pause=0.05)

    def action(session, url):
        for piece in session.post(url, json=BODY, stream=True).iter_content(64):
            if b"[DONE]" in piece:
                events.append(("done", len(recorder.synced)))

    with installed(recorder):
        assert None is run(action, server)
    assert ["CallIntent", "request", "CallOutcome", ("done", 2 if mode == "strict" else 0)] == events
    assert {} == faults.counts


@pytest.mark.parametrize("how", ["refuses", "unsyncable"])
def test_a_refused_call_is_not_sent(server, how):
    recorder = FakeRecorder(mode="strict", **{how: True})
    server.answer(200, JSON, [ANSWER])
    with installed(recorder):
        assert AuditUnavailable is run(whole, server)[0]
    assert [] == server.received
    assert (["refused"] if how == "unsyncable" else []) == [outcome.status for outcome in recorder.outcomes]


# -- requests --------------------------------------------------------------------------------------------------------


def test_the_request_is_described_as_it_is_sent(server, tmp_path):
    """
    Key, size, model and commitment, whichever way the body was given; nothing where it is not known beforehand.
    """
    server.answer(200, sized(ANSWER), [ANSWER])
    text = json.dumps(BODY)
    (tmp_path / "body").write_text(text)

    def action(session, url):
        session.post(url, json=BODY)
        session.post(url, data=text.encode())
        session.post(url, data=text)
        session.post(url, data={"model": "m"})
        session.post(url, data="ä")
        session.post(url)
        with (tmp_path / "body").open("rb") as file:
            session.post(url, data=file)
        session.post(url, data=iter([text.encode()]))

    recorder = FakeRecorder()
    with installed(recorder):
        assert None is run(action, server)
    known, unknown = recorder.intents[:6], recorder.intents[6:]
    assert [MODEL] * 3 == [intent.model for intent in known[:3]]
    assert 0 == known[5].request_bytes
    assert [None] * 2 == [intent.request_bytes for intent in unknown] == [i.request_commitment for i in unknown]
    assert 1 == len({intent.key_hash for intent in recorder.intents})
    assert recorder.intents[0].key_hash is not None
    assert recorder.intents[0].sdk.startswith("python-requests/")
    for intent, sent in zip(known, server.received, strict=False):
        assert intent.request_bytes == len(sent.partition(b"\r\n\r\n")[2])
    assert {} == faults.counts
    recorder.check()


def test_what_neither_costs_nor_carries_content_is_no_call_and_other_hosts_are_noticed(server):
    hosts, recorder = HostSet(["127.0.0.1"]), FakeRecorder()
    server.answer(200, JSON, [b"{}"])

    def action(session, url):
        session.get(url.replace("chat/completions", "models"))
        session.post(url.replace("127.0.0.1", "localhost"), json=BODY)

    with installed(recorder, hosts):
        assert None is run(action, server)
    assert [] == recorder.frames
    assert (f"localhost:{server.port}",) == hosts.strangers


@pytest.mark.parametrize("stream", [False, True])
def test_redirects_are_one_call_with_its_hops(server, stream):
    """
    Each hop is a `send` inside the caller's; only the last answer is the call's.
    """
    recorder = FakeRecorder()

    def action(session, url):
        server.answers(
            [
                (307, [(b"location", b"/api/v1/chat/completions?a=1"), (b"content-length", b"2")], [b"no"]),
                (302, [(b"location", b"/api/v1/elsewhere"), (b"content-length", b"0")], []),
                (200, sized(ANSWER), [ANSWER]),
            ]
        )
        response = session.post(url, json=BODY, stream=stream)
        return response.content, [hop.status_code for hop in response.history]

    assert (ANSWER, [307, 302]) == twins(action, server, recorder)
    host = f"127.0.0.1:{server.port}"
    assert [("success", len(ANSWER))] == [(outcome.status, outcome.response_bytes) for outcome in recorder.outcomes]
    assert [(307, host), (302, host)] == [(hop.status, hop.host) for hop in recorder.outcomes[0].redirects]
    recorder.check()


def test_a_redirect_that_is_not_followed_is_the_answer(server):
    server.answer(307, [(b"location", b"/api/v1/models"), (b"content-length", b"2")], [b"no"])
    recorder = FakeRecorder()

    def action(session, url):
        response = session.post(url, json=BODY, allow_redirects=False)
        return response.content, response.next.url.partition("/api")[2]

    assert (b"no", "/v1/models") == twins(action, server, recorder)
    assert [("success", 307)] == [(outcome.status, outcome.http_status) for outcome in recorder.outcomes]


def test_retries_of_the_adapter_and_of_an_auth_flow_are_inside_one_call(server):
    """
    A 503 that urllib3 tries again, and a 401 that the digest flow answers.
    """
    recorder = FakeRecorder()
    digest = b'Digest realm="r", nonce="n", qop="auth"'

    def action(session, url):
        retry = Retry(total=2, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
        session.mount("http://", HTTPAdapter(max_retries=retry))
        server.answers([(503, sized(b""), []), (200, sized(ANSWER), [ANSWER])])
        first = session.post(url, json=BODY).content
        server.answers([(401, [(b"www-authenticate", digest), *sized(b"no")], [b"no"]), (200, sized(ANSWER), [ANSWER])])
        return first, session.post(url, json=BODY, auth=HTTPDigestAuth("u", "p")).content

    with installed(recorder):
        assert (ANSWER, ANSWER) == run(action, server)
    assert 4 == len(server.received)
    assert [("success", True, len(ANSWER))] * 2 == [(o.status, o.complete, o.response_bytes) for o in recorder.outcomes]
    recorder.check()


def test_what_a_hook_of_the_caller_sends_elsewhere_is_a_call_of_its_own(server):
    """
    By the same session, to the same address, with another body.
    """
    recorder = FakeRecorder()
    server.answer(200, sized(ANSWER), [ANSWER])

    def action(session, url):
        def hook(response, **_):
            session.post(url, json={"model": "other"})

        return session.post(url, json=BODY, hooks={"response": hook}).content

    assert ANSWER == twins(action, server, recorder)
    assert [MODEL, "other"] == [intent.model for intent in recorder.intents]
    recorder.check()


def test_an_answer_that_a_hook_has_read_is_recorded_whole_and_of_one_it_began_nothing_is_claimed(server):
    recorder = FakeRecorder()
    server.answer(200, sized(ANSWER), [ANSWER])

    def reads(response, **_):
        assert response.content

    def begins(response, **_):
        response.raw.read(10)

    def action(session, url):
        first = session.post(url, json=BODY, hooks={"response": reads}).content
        return first, session.post(url, json=BODY, hooks={"response": begins}).content

    assert (ANSWER, ANSWER[10:]) == twins(action, server, recorder)
    whole, part = recorder.outcomes
    assert [("success", len(ANSWER))] * 2 == [(outcome.status, outcome.response_bytes) for outcome in recorder.outcomes]
    assert whole.response_commitment is not None is part.response_commitment


# -- endings ---------------------------------------------------------------------------------------------------------


def whole(session, url):
    return session.post(url, json=BODY).content


def streamed(session, url):
    return b"".join(session.post(url, json=BODY, stream=True).iter_content(512))


def head(session, url):
    return session.head(url).content


def one_line(session, url):
    with session.post(url, json=BODY, stream=True) as response:
        for line in response.iter_lines(chunk_size=8):
            return line


def closed(session, url):
    response = session.post(url, json=BODY, stream=True)
    piece = response.raw.read(8)
    response.close()
    return piece


def lost(session, url):
    session.post(url, json=BODY, stream=True)
    gc.collect()


def lost_while_read(session, url):
    return next(session.post(url, json=BODY, stream=True).iter_content(8))


def left_by_exception(session, url):
    with session.post(url, json=BODY, stream=True) as response:
        response.raw.read(8)
        raise LookupError("of the caller")


def left_by_interrupt(session, url):
    with session.post(url, json=BODY, stream=True) as response:
        response.raw.read(8)
        raise KeyboardInterrupt


def impatient(session, url):
    return session.post(url, json=BODY, timeout=0.3).content


def impatient_stream(session, url):
    return list(session.post(url, json=BODY, timeout=0.3, stream=True).iter_lines())


def impatient_connect(session, url):
    class Slow(HTTPAdapter):
        def send(self, *args, **kwargs):
            raise requests.exceptions.ConnectTimeout("too slow")

    session.mount("http://", Slow())
    return session.post(url, json=BODY)


def refused(session, url):
    session.post(NOWHERE, json=BODY)


def no_tls(session, url):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            for _ in range(2):
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 no TLS here\r\n\r\n")

        threading.Thread(target=greet, daemon=True).start()
        session.post(f"https://127.0.0.1:{listener.getsockname()[1]}/api/v1/chat/completions", json=BODY)


def no_name(session, url):
    session.post("http://nowhere.invalid/api/v1/chat/completions", json=BODY)


def raises_for_status(session, url):
    session.post(url, json=BODY).raise_for_status()


def zipped(framing):
    body = gzip.compress(ANSWER)
    if framing == "chunked":
        return 200, [*JSON, (b"content-encoding", b"gzip"), (b"transfer-encoding", b"chunked")], in_chunks([body])
    return 200, [*sized(body), (b"content-encoding", b"gzip")], [body]


HALF = STREAM[: STREAM.index(b"\n\n") + 2]
SILENT = [b""] * 8
OPEN = (200, SSE, [HALF, *SILENT])
ENDINGS = [
    ("whole", whole, (200, sized(ANSWER), [ANSWER]), ("success", True, None)),
    ("whole until the end of the connection", whole, (200, JSON, [ANSWER]), ("success", True, None)),
    ("empty", whole, (200, sized(b""), []), ("success", True, None)),
    ("empty chunks", whole, (200, [*JSON, (b"transfer-encoding", b"chunked")], [b"0\r\n\r\n"]), ("success", True, None)),
    ("no content", whole, (204, [], []), ("success", True, None)),
    ("head", head, (200, sized(ANSWER), []), ("success", True, None)),
    ("429", whole, (429, sized(b"{}"), [b"{}"]), ("error", True, None)),
    ("500 without length", whole, (500, JSON, [b"{}"]), ("error", True, None)),
    ("raise_for_status", raises_for_status, (402, sized(b"{}"), [b"{}"]), ("error", True, None)),
    ("gzip", whole, zipped("length"), ("success", True, None)),
    ("gzip in chunks", whole, zipped("chunked"), ("success", True, None)),
    ("gzip streamed", streamed, zipped("chunked"), ("success", True, None)),
    ("no gzip", whole, (200, [*sized(b"no gzip"), (b"content-encoding", b"gzip")], [b"no gzip"]), ("error", None, "decode")),
    ("cut by length", whole, (200, [*JSON, (b"content-length", b"99")], [b"{"]), ("error", False, "truncated")),
    ("cut chunk", whole, (200, CHUNKED, [b"5\r\nab"]), ("error", False, "truncated")),
    ("cut before a chunk", streamed, (200, CHUNKED, [b"2\r\nab\r\n"]), ("error", False, "truncated")),
    ("no chunk at all", streamed, (200, CHUNKED, [b"zz\r\n"]), ("error", False, "truncated")),
    ("cut between events", streamed, (200, SSE, [HALF]), ("error", False, "truncated")),
    ("cut inside an event", streamed, (200, SSE, [HALF[:-5]]), ("error", False, "truncated")),
    ("stream read to its end", streamed, (200, SSE, [STREAM]), ("success", True, None)),
    ("stream read at once", whole, (200, CHUNKED, in_chunks([STREAM])), ("success", True, None)),
    ("break", one_line, OPEN, ("abandoned", False, None)),
    ("close", closed, OPEN, ("abandoned", False, None)),
    ("lost", lost, OPEN, ("abandoned", False, None)),
    ("lost while it was read", lost_while_read, OPEN, ("abandoned", False, None)),
    ("exception in with", left_by_exception, OPEN, ("abandoned", False, None)),
    ("KeyboardInterrupt", left_by_interrupt, OPEN, ("cancelled", False, None)),
    ("time-out", impatient, (200, SSE, [b"", HALF, b"", b"", b"", b"", b"", b""]), ("timeout", False, None)),
    ("time-out of a stream", impatient_stream, (200, CHUNKED, [b"2\r\nab\r\n", *SILENT]), ("timeout", False, None)),
    ("time-out of connecting", impatient_connect, OPEN, ("timeout", False, None)),
    ("refused connection", refused, OPEN, ("error", False, "connect")),
    ("no TLS", no_tls, OPEN, ("error", False, "tls")),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["buffer", "strict"])
@pytest.mark.parametrize(("action", "answer", "expected"), [case[1:] for case in ENDINGS], ids=[c[0] for c in ENDINGS])
def test_every_ending_gives_one_outcome_and_the_caller_its_own(server, action, answer, expected, mode):
    """
    Result or exception as without us, and one outcome that says how it ended.
    """
    status, headers, pieces = answer
    server.answer(status, headers, pieces, pause=0.1 if b"" in pieces else 0.0)
    recorder = FakeRecorder(mode=mode)
    twins(action, server, recorder)
    gc.collect()
    assert 1 == len(recorder.outcomes)
    outcome = recorder.outcomes[0]
    status, complete, error_type = expected
    assert status == outcome.status
    assert complete is None or complete == outcome.complete
    assert error_type == outcome.error_type
    assert {} == faults.counts
    recorder.check()


def test_a_name_that_nobody_knows_is_a_failure_to_connect():
    recorder = FakeRecorder()
    with installed(recorder, HostSet(["nowhere.invalid"])), requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.exceptions.ConnectionError):
            no_name(session, "")
    assert [("error", "connect")] == [(outcome.status, outcome.error_type) for outcome in recorder.outcomes]


def test_what_the_caller_was_handling_says_nothing_of_the_call(server):
    """
    A second try in the handler of a time-out, or of a connection that was cut, is a failure of its own kind.
    """
    recorder = FakeRecorder()
    server.answer(302, [(b"location", b"/api/v1/elsewhere"), (b"content-length", b"0")], [])

    def action(session, url):
        try:
            raise TimeoutError
        except TimeoutError:
            try:
                refused(session, url)
            except requests.exceptions.ConnectionError:
                session.post(url, json=BODY)

    assert requests.exceptions.TooManyRedirects is twins(action, server, recorder)[0]
    assert ["connect", None] == [outcome.error_type for outcome in recorder.outcomes]
    assert ["error", "error"] == [outcome.status for outcome in recorder.outcomes]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_commitment_is_over_the_raw_bytes(server, framing):
    """
    Compressed or not, in chunks or not, what is committed to is what came after the transfer coding (C8).
    """
    status, headers, pieces = zipped(framing)
    server.answer(status, headers, pieces)
    recorder = FakeRecorder()
    assert ANSWER == twins(whole, server, recorder)
    outcome = recorder.outcomes[0]
    assert len(gzip.compress(ANSWER)) == outcome.response_bytes
    assert outcome.response_commitment is not None
    assert outcome.cost is not None


def test_a_raw_answer_of_another_kind_is_recorded_where_it_is_read_at_once(server):
    """
    An adapter that makes its answers up; streamed, all that is known is its head.
    """

    class Made(BaseAdapter):
        def send(self, request, **_):
            import io

            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            response.headers["content-type"] = "application/json"
            response.raw = io.BytesIO(ANSWER)
            return response

        def close(self):
            pass

    def action(session, url):
        session.mount("http://", Made())
        return session.post(url, json=BODY).content, session.post(url, json=BODY, stream=True).content

    recorder = FakeRecorder()
    assert (ANSWER, ANSWER) == twins(action, server, recorder)
    assert ["success", "abandoned"] == [outcome.status for outcome in recorder.outcomes]
    assert {} == faults.counts


def test_responses_can_be_pickled_as_before(server):
    server.answer(200, sized(ANSWER), [ANSWER])

    def action(session, url):
        return pickle.loads(pickle.dumps(session.post(url, json=BODY))).content

    assert ANSWER == twins(action, server, FakeRecorder())


def test_a_fault_of_ours_breaks_no_call(server, caplog):
    server.answer(200, SSE, [STREAM])
    with caplog.at_level(logging.WARNING, "openrouter_audit"), installed(FakeRecorder(fails=True)):
        for _ in range(2):
            assert STREAM == run(whole, server)
    assert {"begin": 2, "loss": 2} == faults.counts
    assert "fault of ours" not in caplog.text


# -- in and out ------------------------------------------------------------------------------------------------------


def test_uninstalling_puts_the_very_same_function_back():
    before = requests.Session.__dict__["send"]
    for _ in range(2):
        instrument(FakeRecorder(), HOSTS)
        assert requests.Session.__dict__["send"] is not before
        uninstrument()
        assert requests.Session.__dict__["send"] is before


def test_a_foreign_wrapper_on_top_of_ours_stays_and_ours_goes_quiet(server):
    server.answer(200, JSON, [ANSWER])
    recorder, original = FakeRecorder(), requests.Session.__dict__["send"]
    instrument(recorder, HOSTS)
    ours = requests.Session.send

    def foreign(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    requests.Session.send = foreign
    uninstrument()
    try:
        assert requests.Session.__dict__["send"] is foreign
        run(whole, server)
        assert [] == recorder.frames
        instrument(recorder, HOSTS)
        run(whole, server)
        assert 1 == len(recorder.intents)
    finally:
        requests.Session.send = ours
        uninstrument()
        requests.Session.send = original


def test_one_session_alone_is_watched_where_somebody_asks_for_it(server):
    server.answer(200, sized(ANSWER), [ANSWER])
    explicit, everywhere = FakeRecorder(), FakeRecorder()

    def action(session, url):
        assert session is wrap(session, explicit, HOSTS) is wrap(session, explicit, HOSTS)
        return whole(session, url)

    assert ANSWER == run(action, server)
    assert ANSWER == run(whole, server)
    with installed(everywhere):
        assert ANSWER == run(action, server)
    assert (2, 0) == (len(explicit.intents), len(everywhere.intents))
    explicit.check()


def test_a_library_imported_later_is_watched():
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from openrouter_audit.capture.transports import instrument
from openrouter_audit.capture.hosts import HostSet
from tests.capture.recording import FakeRecorder
recorder = FakeRecorder()
instrument(recorder, HostSet(["127.0.0.1"]))
assert "requests" not in sys.modules
import requests
try:
    requests.post({NOWHERE!r}, json={{}})
except requests.ConnectionError:
    pass
assert ["error"] == [outcome.status for outcome in recorder.outcomes], recorder.frames
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
