"""A recorder in memory with switches that break it, and the parts of a call that tests need."""

import contextlib
import itertools
import json
from pathlib import Path

from openrouter_audit.capture.exchange import CallExchange, SentRequest
from openrouter_audit.capture.failures import failure_of
from openrouter_audit.capture.grouping import Place
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.identities import identity_from
from openrouter_audit.capture.openrouter import headers_of, target_of
from openrouter_audit.capture.transports import instrument, uninstrument
from openrouter_audit.core.entries import CallIntent
from openrouter_audit.errors import AuditUnavailable

KEY = "sk-or-v1-" + "0123456789abcdef" * 4
EXAMPLES = Path(__file__).parents[1] / "data" / "openrouter"
MANIFEST = json.loads((EXAMPLES / "manifest.json").read_bytes())["examples"]
MESSAGES = [{"role": "user", "content": "Which invoice is overdue?"}]
MODEL = "openai/gpt-4.1-mini"
HOSTS = HostSet(["127.0.0.1"])


@contextlib.contextmanager
def installed(recorder, hosts=HOSTS):
    """All clients of this process are watched inside."""
    instrument(recorder, hosts)
    try:
        yield recorder
    finally:
        uninstrument()


class FakeRecorder:
    """Keeps what it is given, in order: `frames` of (facts, private, follows), `finished_calls`, `synced` tokens."""

    def __init__(self, *, mode="buffer", refuses=False, fails=False, unsyncable=False):
        self.mode, self.policy = mode, None
        self.refuses, self.fails, self.unsyncable = refuses, fails, unsyncable
        self.frames, self.finished_calls, self.synced = [], [], []
        self.on_write = lambda facts: None

    def write(self, facts, private=None, *, follows=None):
        if follows is None and self.refuses:
            raise AuditUnavailable("the spool is full", reason="full")
        if self.fails:
            raise OSError("a fault of ours")
        self.on_write(facts)
        token = object()
        self.frames.append((facts, private, follows))
        return token

    def sync(self, token):
        if self.unsyncable:
            raise AuditUnavailable("the disk does not answer", reason="sync")
        self.synced.append(len(self.frames))

    def finished(self, call):
        self.finished_calls.append(call)

    @property
    def intents(self):
        return [facts for facts, _, _ in self.frames if isinstance(facts, CallIntent)]

    @property
    def outcomes(self):
        return [facts for facts, _, _ in self.frames if not isinstance(facts, CallIntent)]

    def check(self):
        """Each intent has exactly one outcome, after it."""
        ids = [facts.id for facts in self.intents]
        assert len(set(ids)) == len(ids)
        assert sorted(ids) == sorted(facts.id for facts in self.outcomes)
        seen = set()
        for facts, _, follows in self.frames:
            if isinstance(facts, CallIntent):
                seen.add(facts.id)
            else:
                assert facts.id in seen
                assert follows is not None


class FakeClock:
    """Moves one millisecond at each look at its monotonic side."""

    def __init__(self):
        self.ticks = itertools.count(0, 1_000_000)

    def wall_ns(self):
        return 1_795_424_400_000_000_000

    def monotonic_ns(self):
        return next(self.ticks)


def a_request(
    path="/api/v1/chat/completions", *, method="POST", body=b'{"model":"a/b"}', headers=(), host="openrouter.ai"
):
    fields = [(b"Authorization", b"Bearer " + KEY.encode()), *headers]
    return SentRequest(
        request=object(), url=f"https://{host}{path}", method=method, target=target_of(method, "https", host, None, path),
        headers=headers_of(fields), body=body,
    )  # fmt: skip


def begun(request=None, *, scope=None, call_key=bytes(32)):
    """An exchange whose intent is made: (exchange, intent, private)."""
    request = request or a_request()
    identity = identity_from(bytes.fromhex("ab" * 16 + "cd" * 16) + call_key)
    return CallExchange.begin(
        request, identity, place=Place("cd" * 16, 1), scope=scope, mode="buffer", policy=None, clock=FakeClock()
    )


def answered(pieces, *, path="/api/v1/chat/completions", method="POST", status=200, headers=(), ending="eof"):
    """The outcome of an answer in these pieces, and how many of them were told when it was there."""
    exchange, _, _ = begun(a_request(path, method=method))
    exchange.head(status, headers_of(list(headers)))
    for told, piece in enumerate(pieces, 1):
        if outcome := exchange.body(piece):
            return outcome, told
    if ending == "eof":
        return exchange.end_of_body(), len(pieces)
    if ending == "close":
        return exchange.closed(), len(pieces)
    return exchange.failed(failure_of(ending)), len(pieces)


def facts_of(outcome):
    """What does not depend on when and in how many pieces the answer came."""
    import msgspec

    changing = {
        "first_byte_us",
        "first_token_us",
        "last_byte_us",
        "chunks",
        "response_bytes",
        "response_commitment",
        "at_us",
    }
    return {name: value for name, value in msgspec.structs.asdict(outcome).items() if name not in changing}


def example(name):
    return (EXAMPLES / name).read_bytes()


def answers():
    """Every example that is an answer, as (file, method, path, status, headers)."""
    found = []
    for entry in MANIFEST:
        file = EXAMPLES / entry["file"]
        if entry["direction"] != "response" or not entry.get("path") or file.name == "speech_headers.json":
            continue
        headers = [(k.lower().encode(), v.encode()) for k, v in (entry["headers"] or {}).items()]
        if not any(name == b"content-type" for name, _ in headers):
            kind = b"text/event-stream" if file.suffix == ".sse" else b"application/json"
            headers.append((b"content-type", kind))
        found.append((entry["file"], entry["method"], entry["path"], entry["status"] or 200, headers))
    return found
